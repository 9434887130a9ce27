//! The kernel's own connection tracking as a source.

use egressd_conntrack::netfilter::{CtZones, OpenError, ReadError, Table};
use egressd_flow::{Entry, Snapshot, UnixNanos};

use super::{Rows, Unread};
use crate::diagnosis::{self, Finding};

/// One network namespace's table.
pub(super) struct Netfilter(Table);

impl Netfilter {
    pub(super) fn open(ct_zones: &CtZones) -> Result<Self, OpenError> {
        Table::open(ct_zones.clone()).map(Self)
    }
}

impl Rows for Netfilter {
    fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, Unread> {
        self.0.read(now, each).map_err(Unread::from)
    }

    fn interruption(&self) -> Option<String> {
        self.0.interruption().map(ToString::to_string)
    }

    fn findings(&self, snapshot: &Snapshot) -> Vec<Finding> {
        diagnosis::of_switches().into_iter().chain(diagnosis::of_snapshot(snapshot)).collect()
    }
}

impl From<ReadError> for Unread {
    fn from(error: ReadError) -> Self {
        Self { is_transient: error.is_transient(), error: error.into() }
    }
}
