//! A few entries that are looked at again before the next read: whether offset 0 grows says who writes now, for the
//! endpoint whose entry it is.
//!
//! Of each endpoint those are chosen that were used last, since they are the likeliest to be used again, and of them only
//! such as can hold no address there. Bound: [`PROBES_MAX`] keys, one look-up each; more endpoints than have room go
//! without.

use std::collections::HashSet;
use std::net::IpAddr;

use egressd_flow::Counter;

use super::codec::{KEY_V6_BYTES, Row, VALUE_BYTES};
use super::edge::Map;

/// Enough for the endpoints of a node with 110 pods, kubelet's default.
const PROBES_MAX: usize = 512;
const PROBES_PER_ENDPOINT_MAX: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Probe {
    map: u32,
    endpoint: IpAddr,
    key: [u8; KEY_V6_BYTES],
    key_bytes: usize,
    first: Counter,
    second: Counter,
    lifetime: u32,
}

/// What the last read remembered.
#[derive(Debug, Default)]
pub(super) struct Probes(Vec<Probe>);

impl Probes {
    /// Forgets all, for a read that begins.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Remembers a row of a read, unless others were used later: of its endpoint, or of all.
    pub(super) fn see(&mut self, map: u32, row: &Row<'_>) {
        let lifetime = row.lifetime();
        let is_full = self.0.len() == PROBES_MAX;
        // The last is the one that goes first.
        if row.may_hold_address() || is_full && self.0.last().is_some_and(|last| lifetime <= last.lifetime) {
            return;
        }
        let endpoint = row.endpoint();
        let of_endpoint = |(_, probe): &(usize, &Probe)| probe.endpoint == endpoint;
        match self.0.iter().enumerate().filter(of_endpoint).nth(PROBES_PER_ENDPOINT_MAX - 1) {
            Some((_, last)) if lifetime <= last.lifetime => return,
            Some((at, _)) => drop(self.0.remove(at)),
            None if is_full => drop(self.0.pop()),
            None => {}
        }
        let (mut key, key_bytes) = ([0; KEY_V6_BYTES], row.key().len());
        key[..key_bytes].copy_from_slice(row.key());
        let at = self.0.partition_point(|probe| probe.lifetime >= lifetime);
        let (first, second) = (row.first(), row.second());
        self.0.insert(at, Probe { map, endpoint, key, key_bytes, first, second, lifetime });
    }

    /// The endpoints with an entry that grew at offset 0, and not for being another one by now.
    pub(super) fn first_grew<'a>(&self, map_of: impl Fn(u32) -> Option<&'a Map>) -> HashSet<IpAddr> {
        let mut value = [0; VALUE_BYTES];
        let grew = |probe: &&Probe| {
            let key = &probe.key[..probe.key_bytes];
            let found = map_of(probe.map).is_some_and(|map| map.look_up(key, &mut value).unwrap_or(false));
            let Some(row) = found.then(|| Row::new(key, &value).ok()).flatten() else { return false };
            let first = row.first().growth(probe.first);
            first.is_some_and(|grown| grown.packets > 0 && grown.bytes > 0)
                && row.second().growth(probe.second).is_some()
        };
        self.0.iter().filter(grew).map(|probe| probe.endpoint).collect()
    }
}
