//! Cilium's maps as this kernel has them: which are found, how they are read, and what growth of them counts.
//!
//! These tests need root: each mounts a BPF file system of its own, for its thread alone, and makes real maps there.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod growth;
mod reading;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use egressd_conntrack::cilium::{Agent, Choice, Layout, Maps, Places, ReadError};
use egressd_flow::{Completeness, Snapshot, UnixNanos};

const DIRECTIONAL: Choice = Choice::Is(Layout::Directional);
const OUT: u8 = 0;
const IN: u8 = 1;
const SERVICE: u8 = 4;

/// Nobody to ask.
fn nobody() -> Places {
    Places { socket: PathBuf::new(), state_dir: PathBuf::new() }
}

fn maps(directory: &Path, choice: Choice) -> Maps {
    Maps::new(directory.to_owned(), choice, Agent::new(nobody()))
}

/// A connection from `opener` to `peer`, as the key of the row that `flags` say.
fn key(opener: (&str, u16), peer: (&str, u16), flags: u8) -> Vec<u8> {
    let mut key = Vec::new();
    for (address, _) in [opener, peer] {
        match address.parse().unwrap() {
            IpAddr::V4(address) => key.extend(address.octets()),
            IpAddr::V6(address) => key.extend(address.octets()),
        }
    }
    key.extend(peer.1.to_be_bytes());
    key.extend(opener.1.to_be_bytes());
    key.extend([6, flags]);
    key
}

/// Counters at 0, 8, 16 and 24 of a TCP connection that goes on.
fn value([first_packets, first_bytes, packets, bytes]: [u64; 4]) -> Vec<u8> {
    let mut value = vec![0; 56];
    for (at, counter) in [first_packets, first_bytes, packets, bytes].iter().enumerate() {
        value[at * 8..][..8].copy_from_slice(&counter.to_ne_bytes());
    }
    value[32..36].copy_from_slice(&30_000u32.to_ne_bytes());
    value[36] = 1 << 4;
    value
}

/// The rows of a read as text without their map's id, sorted, and what it came to.
fn read(maps: &mut Maps) -> Result<(Vec<String>, Snapshot), ReadError> {
    let mut rows = Vec::new();
    let snapshot = maps.read(UnixNanos(1), &mut |entry| {
        let mut entry = *entry;
        entry.id.kernel_id = None;
        rows.push(entry.to_string());
    })?;
    rows.sort();
    Ok((rows, snapshot))
}

fn rows(maps: &mut Maps) -> Vec<String> {
    let (rows, snapshot) = read(maps).unwrap();
    assert_eq!(snapshot.completeness, Completeness::Complete);
    rows
}
