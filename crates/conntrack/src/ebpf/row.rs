//! One element of a table into an [`Entry`].
//!
//! Pure, and allocates nothing. Layout: `struct pair` and `struct sums` of `count.bpf.c`, whose programs write them.
//!
//! No outside byte gets here, so a property test is enough. What the kernel guarantees: keys and values have the sizes that
//! the table was made with, which are checked when it is opened, pinned ones too; none but programs of ours and this process
//! write to it; the bytes of a key that no program set are those it cleared; each counter is added to in one step
//! (`BPF_ATOMIC`), so none is torn; and a table that was taken out of `active` stands still, since the update of a map of
//! maps waits for every program that may have seen the old one (`maybe_wait_bpf_programs`, `kernel/bpf/syscall.c`). A
//! family that is neither 4 nor 6 is then another version's, and is skipped and counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use egressd_flow::{Counter, Counters, CtZone, Entry, EntryId, IpProtocol, L4, Tuple, UnixNanos, View};

/// `struct pair`: two addresses of 16 bytes, the family, the protocol and two bytes of nothing.
pub type Pair = [u8; 36];

/// `struct sums`: begin, and bytes and packets sent and received.
pub type Sums = [u64; 5];

/// The family is neither 4 nor 6: another version's programs wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address family {0} is neither 4 nor 6")]
pub struct UnknownFamily(pub u8);

/// Decodes a pair of addresses and what was counted for it. `booted` is what the real-time clock has to be told apart
/// from the time since boot by: the former less the latter, in nanoseconds.
///
/// # Errors
/// [`UnknownFamily`] when the row has to be skipped.
pub fn entry(pair: &Pair, sums: &Sums, booted: UnixNanos) -> Result<Entry, UnknownFamily> {
    let (local, rest) = pair.split_first_chunk().unwrap_or((&[0; 16], &[]));
    let (remote, rest) = rest.split_first_chunk().unwrap_or((&[0; 16], &[]));
    let (family, protocol) = (rest.first().copied().unwrap_or(0), rest.get(1).copied().unwrap_or(0));
    let original = Tuple {
        protocol: IpProtocol(protocol),
        src: address(family, *local)?,
        dst: address(family, *remote)?,
        l4: L4::None,
        ct_zone: CtZone(0),
    };
    let &[begun, tx_bytes, tx_packets, rx_bytes, rx_packets] = sums;
    Ok(Entry {
        id: EntryId { original, kernel_id: None, start: Some(UnixNanos(booted.0.saturating_add(begun))) },
        reply: original.inverted(),
        view: View::Source,
        counters: Some(Counters::Directed {
            tx: Counter { bytes: tx_bytes, packets: tx_packets },
            rx: Counter { bytes: rx_bytes, packets: rx_packets },
        }),
        status: None,
        timeout_seconds: None,
    })
}

fn address(family: u8, bytes: [u8; 16]) -> Result<IpAddr, UnknownFamily> {
    match family {
        4 => {
            let [a, b, c, d, ..] = bytes;
            Ok(Ipv4Addr::new(a, b, c, d).into())
        }
        6 => Ok(Ipv6Addr::from(bytes).into()),
        other => Err(UnknownFamily(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(local: &[u8], remote: &[u8], family: u8, protocol: u8) -> Pair {
        let mut pair = [0; 36];
        pair[..local.len()].copy_from_slice(local);
        pair[16..16 + remote.len()].copy_from_slice(remote);
        (pair[32], pair[33]) = (family, protocol);
        pair
    }

    /// Goal: each field of a row stands where the program put it.
    #[test]
    fn a_row_is_decoded() {
        let six = |last| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets();
        for (pair, text) in [
            (
                pair(&[10, 0, 0, 1], &[10, 0, 1, 2], 4, 6),
                "tcp 10.0.0.1>10.0.1.2 view=source start=1005 tx=10/1 rx=20/2",
            ),
            (pair(&six(1), &six(2), 6, 17), "udp fd00::1>fd00::2 view=source start=1005 tx=10/1 rx=20/2"),
        ] {
            let entry = entry(&pair, &[5_000_000_000, 10, 1, 20, 2], UnixNanos(1_000_000_000_000)).unwrap();
            assert_eq!(entry.to_string(), text);
        }
    }

    proptest! {
        /// Goal: whatever stands in a table, a row is decoded or refused by its family, and clocks do not overflow.
        #[test]
        fn any_bytes_are_a_row_or_refused(pair: [[u8; 12]; 3], sums: Sums, booted: u64) {
            let pair: Pair = pair.concat().try_into().unwrap();
            let decoded = entry(&pair, &sums, UnixNanos(booted));
            match pair[32] {
                4 | 6 => prop_assert!(decoded.is_ok()),
                family => prop_assert_eq!(decoded, Err(UnknownFamily(family))),
            }
        }
    }
}
