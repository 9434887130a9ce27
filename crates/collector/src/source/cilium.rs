//! Cilium's conntrack maps as a source.

use egressd_conntrack::cilium::{Accounting, Agent, Choice, Layout, Maps, Places, ReadError};
use egressd_flow::{Entry, Snapshot, UnixNanos};

use super::{Rows, Unread};
use crate::config::CiliumOptions;
use crate::diagnosis::Finding;

/// One node's maps.
pub(super) struct Cilium {
    maps: Maps,
    /// Nobody said on the command line how they count.
    is_detected: bool,
}

impl Cilium {
    pub(super) fn new(options: &CiliumOptions) -> Self {
        let CiliumOptions { cilium_map_dir, cilium_socket, cilium_state_dir, cilium_layout } =
            options.clone();
        let places = Places { socket: cilium_socket, state_dir: cilium_state_dir };
        let is_detected = matches!(cilium_layout, Choice::Auto);
        let maps = Maps::new(cilium_map_dir, cilium_layout, Agent::new(places));
        Self { maps, is_detected }
    }

    /// Whether there is a map here that can be read.
    pub(super) fn look(&mut self) -> Result<(), ReadError> {
        self.maps.read(UnixNanos(0), &mut |_| {}).map(drop)
    }

    /// What these maps cannot say, in words that go on after "they"; `None` when each direction is known, when nobody knows, and
    /// when somebody has said what to take them for.
    pub(super) fn lack(&self) -> Option<&'static str> {
        if self.is_off() {
            return Some("count nothing (bpf.ctAccounting is off)");
        }
        let is_combined = self.maps.layout() == Layout::Combined;
        (is_combined && self.is_detected).then_some("count both directions in one (1.16 and later)")
    }

    fn is_off(&self) -> bool {
        self.maps.counts_nothing() || self.maps.tells().accounting == Some(Accounting::Off)
    }
}

impl Rows for Cilium {
    fn prepare(&mut self) {
        // What it says, the read that follows says too.
        let _said_later = self.maps.read(UnixNanos(0), &mut |_| {});
    }

    fn read(&mut self, now: UnixNanos, each: &mut dyn FnMut(&Entry)) -> Result<Snapshot, Unread> {
        self.maps.read(now, each).map_err(Unread::from)
    }

    fn interruption(&self) -> Option<String> {
        self.maps.interruption()
    }

    fn findings(&self, snapshot: &Snapshot) -> Vec<Finding> {
        let mut findings = Vec::new();
        if snapshot.entries == 0 {
            findings.push(Finding::EmptyMaps { passed_over: snapshot.defects.passed_over });
        }
        if self.is_off() {
            findings.push(Finding::CiliumAccountingOff);
        } else {
            match self.maps.layout() {
                Layout::Directional => {}
                Layout::Combined => findings.push(Finding::Undirected),
                Layout::Unknown if self.maps.is_rolled_back() => findings.push(Finding::RolledBack),
                Layout::Unknown => findings.push(Finding::UnknownLayout {
                    has_directional_entries: self.maps.has_directional_entries(),
                }),
            }
        }
        if self.maps.foreign() > 0 {
            findings.push(Finding::ForeignMaps { maps: self.maps.foreign() });
        }
        if let Some((maps, error)) = self.maps.unopened() {
            findings.push(Finding::UnopenedMaps { maps, error });
        }
        if let Some(error) = self.maps.interruption() {
            findings.push(Finding::Unreadable { error });
        }
        findings
    }

    fn description(&self) -> Option<String> {
        self.maps.description()
    }
}

impl From<ReadError> for Unread {
    fn from(error: ReadError) -> Self {
        Self { is_transient: error.is_transient(), error: error.into() }
    }
}

/// As `--cilium-layout` has it.
pub(crate) fn layout(text: &str) -> Result<Choice, String> {
    match text {
        "auto" => Ok(Choice::Auto),
        "directional" => Ok(Choice::Is(Layout::Directional)),
        "combined" => Ok(Choice::Is(Layout::Combined)),
        _ => Err("write auto, directional or combined".to_owned()),
    }
}
