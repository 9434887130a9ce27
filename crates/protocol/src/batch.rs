//! Batches, to columns and back.

use std::collections::HashMap;
use std::net::IpAddr;

use egressd_flow::{Batch, Counter, Epoch, IpProtocol, Record, Sequence, Span, Traffic, UnixNanos};
use prost::Message as _;

use crate::error::WireError;
use crate::limits::{BATCH_RECORDS_MAX, OWNERS_MAX};
use crate::scope::{address_from_wire, address_to_wire, at_most, owner_from_wire, owner_to_wire};
use crate::v1;

/// A batch by column; each remote address is said once.
///
/// # Panics
/// When the batch holds more than [`BATCH_RECORDS_MAX`] records: whoever cut it broke the contract.
#[must_use]
pub(crate) fn batch_to_wire(batch: &Batch) -> v1::Batch {
    assert!(batch.records.len() <= BATCH_RECORDS_MAX, "a batch is cut within its limit");
    let mut remotes = Vec::new();
    let mut index = HashMap::<IpAddr, u32>::new();
    let mut message = v1::Batch {
        epoch: batch.epoch.0,
        sequence: batch.sequence.0,
        from_unix_ns: batch.span.from.0,
        to_unix_ns: batch.span.to.0,
        owners: batch.owners.iter().map(|owner| owner_to_wire(owner)).collect(),
        ..v1::Batch::default()
    };
    for record in &batch.records {
        let remote = record.remote.map_or(0, |address| {
            *index.entry(address).or_insert_with(|| {
                remotes.push(address_to_wire(address));
                u32::try_from(remotes.len()).expect("no more remotes than records")
            })
        });
        message.owner.push(record.owner);
        message.remote.push(remote);
        message.protocol.push(record.protocol.0.into());
        let Traffic { tx, rx, undirected } = record.traffic;
        message.tx_bytes.push(tx.bytes);
        message.tx_packets.push(tx.packets);
        message.rx_bytes.push(rx.bytes);
        message.rx_packets.push(rx.packets);
        message.undirected_bytes.push(undirected.bytes);
        message.undirected_packets.push(undirected.packets);
    }
    message.remotes = remotes;
    for column in [
        &mut message.tx_bytes,
        &mut message.tx_packets,
        &mut message.rx_bytes,
        &mut message.rx_packets,
        &mut message.undirected_bytes,
        &mut message.undirected_packets,
    ] {
        if column.iter().all(|value| *value == 0) {
            column.clear();
        }
    }
    message
}

/// A batch as it would be sent, for whoever keeps it until it is.
///
/// # Panics
/// As [`Up::to_wire`](crate::Up::to_wire).
#[must_use]
pub fn batch_to_bytes(batch: &Batch) -> Vec<u8> {
    batch_to_wire(batch).encode_to_vec()
}

/// The batch behind the bytes.
///
/// # Errors
/// They are no batch, or one that a peer would refuse.
pub fn batch_from_bytes(bytes: &[u8]) -> Result<Batch, WireError> {
    let message = v1::Batch::decode(bytes).map_err(|_| WireError::Missing { field: "batch" })?;
    batch_from_wire(message)
}

/// # Errors
/// The message does not hold together: a column of another length, an index that points nowhere, a limit passed. Or
/// it says more traffic than a node can have ([`Counter::GROWTH_MAX`]).
pub(crate) fn batch_from_wire(message: v1::Batch) -> Result<Batch, WireError> {
    let rows = message.owner.len();
    at_most("batch.owner", rows, BATCH_RECORDS_MAX)?;
    at_most("batch.owners", message.owners.len(), OWNERS_MAX)?;
    at_most("batch.remotes", message.remotes.len(), BATCH_RECORDS_MAX)?;
    if message.sequence == 0 {
        return Err(WireError::Missing { field: "batch.sequence" });
    }
    if message.from_unix_ns > message.to_unix_ns {
        return Err(WireError::Range { field: "batch.from_unix_ns", found: message.from_unix_ns });
    }
    for (field, found) in [("batch.remote", message.remote.len()), ("batch.protocol", message.protocol.len())]
    {
        if found != rows {
            return Err(WireError::Column { field, found, expected: rows });
        }
    }
    let remotes = message
        .remotes
        .iter()
        .map(|bytes| address_from_wire("batch.remotes", bytes))
        .collect::<Result<Vec<_>, _>>()?;
    let traffic = TrafficColumns::of(&message, rows)?;
    let records = (0..rows)
        .map(|row| {
            Ok(Record {
                owner: index_within("batch.owner", message.owner[row], message.owners.len())?,
                remote: remote_of(message.remote[row], &remotes)?,
                protocol: protocol_of(message.protocol[row])?,
                traffic: traffic.row(row),
            })
        })
        .collect::<Result<_, _>>()?;
    let batch = Batch {
        epoch: Epoch(message.epoch),
        sequence: Sequence(message.sequence),
        span: Span { from: UnixNanos(message.from_unix_ns), to: UnixNanos(message.to_unix_ns) },
        owners: message.owners.into_iter().map(owner_from_wire).collect::<Result<_, _>>()?,
        records,
    };
    let sum = batch.sum();
    if !sum.can_be_growth() {
        return Err(WireError::Traffic { bytes: sum.bytes, packets: sum.packets });
    }
    Ok(batch)
}

/// A batch that is held elsewhere goes onto the wire without a copy of it.
impl From<&Batch> for v1::Up {
    fn from(batch: &Batch) -> Self {
        Self { message: Some(v1::up::Message::Batch(batch_to_wire(batch))) }
    }
}

fn index_within(field: &'static str, found: u32, len: usize) -> Result<u32, WireError> {
    if usize::try_from(found).is_ok_and(|index| index < len) {
        Ok(found)
    } else {
        Err(WireError::Index { field, found, len })
    }
}

fn remote_of(found: u32, remotes: &[IpAddr]) -> Result<Option<IpAddr>, WireError> {
    let Some(index) = found.checked_sub(1) else { return Ok(None) };
    let address = usize::try_from(index).ok().and_then(|index| remotes.get(index));
    address.copied().map(Some).ok_or(WireError::Index { field: "batch.remote", found, len: remotes.len() })
}

fn protocol_of(found: u32) -> Result<IpProtocol, WireError> {
    let number =
        u8::try_from(found).map_err(|_| WireError::Range { field: "batch.protocol", found: found.into() })?;
    Ok(IpProtocol(number))
}

/// The six counter columns, each as long as the batch or empty.
struct TrafficColumns<'a> {
    columns: [&'a [u64]; 6],
}

impl<'a> TrafficColumns<'a> {
    fn of(message: &'a v1::Batch, rows: usize) -> Result<Self, WireError> {
        let named: [(&'static str, &'a [u64]); 6] = [
            ("batch.tx_bytes", &message.tx_bytes),
            ("batch.tx_packets", &message.tx_packets),
            ("batch.rx_bytes", &message.rx_bytes),
            ("batch.rx_packets", &message.rx_packets),
            ("batch.undirected_bytes", &message.undirected_bytes),
            ("batch.undirected_packets", &message.undirected_packets),
        ];
        for (field, column) in named {
            if !column.is_empty() && column.len() != rows {
                return Err(WireError::Column { field, found: column.len(), expected: rows });
            }
        }
        Ok(Self { columns: named.map(|(_, column)| column) })
    }

    fn row(&self, row: usize) -> Traffic {
        let at = |column: usize| self.columns[column].get(row).copied().unwrap_or(0);
        Traffic {
            tx: Counter { bytes: at(0), packets: at(1) },
            rx: Counter { bytes: at(2), packets: at(3) },
            undirected: Counter { bytes: at(4), packets: at(5) },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use egressd_flow::Owner;
    use prost::Message as _;

    use super::*;

    fn batch() -> Batch {
        let owner = |address: &str, until| {
            Arc::new(Owner {
                address: address.parse().unwrap(),
                pod_uid: "uid-1".into(),
                namespace: "shop".into(),
                name: "web-0".into(),
                labels: [("app".to_owned(), "web".to_owned())].into(),
                since: UnixNanos(7),
                until,
                measure: true,
            })
        };
        let record = |owner, remote: Option<&str>, bytes| Record {
            owner,
            remote: remote.map(|address| address.parse().unwrap()),
            protocol: IpProtocol::TCP,
            traffic: Traffic { tx: Counter { bytes, packets: 1 }, ..Traffic::default() },
        };
        Batch {
            epoch: Epoch(9),
            sequence: Sequence(3),
            span: Span { from: UnixNanos(10), to: UnixNanos(20) },
            owners: vec![owner("10.0.0.1", None), owner("fd00::1", Some(UnixNanos(30)))],
            records: vec![
                record(0, Some("10.0.0.2"), Counter::GROWTH_MAX.bytes - 28),
                record(0, Some("198.51.100.7"), 5),
                record(1, Some("fd00::2"), 6),
                record(0, Some("10.0.0.2"), 8),
                record(0, None, 9),
            ],
        }
    }

    /// Goal: a batch is the same after the wire, and each remote is said once.
    #[test]
    fn a_batch_survives_the_wire() {
        let message = batch_to_wire(&batch());
        assert_eq!(message.remotes.len(), 3);
        assert_eq!(message.rx_bytes, [0; 0], "a column of zeros is not sent");
        let decoded = v1::Batch::decode(message.encode_to_vec().as_slice()).unwrap();
        assert_eq!(batch_from_wire(decoded), Ok(batch()));
    }

    /// Goal: every way in which a hostile batch can contradict itself is refused by name.
    #[test]
    fn a_batch_that_contradicts_itself_is_refused() {
        let broken = |change: fn(&mut v1::Batch)| {
            let mut message = batch_to_wire(&batch());
            change(&mut message);
            batch_from_wire(message).unwrap_err().to_string()
        };
        assert_eq!(broken(|m| m.sequence = 0), "batch.sequence is missing");
        assert_eq!(broken(|m| m.owner[1] = 2), "batch.owner is 2, there are 2");
        assert_eq!(broken(|m| m.remote[1] = 4), "batch.remote is 4, there are 3");
        assert_eq!(broken(|m| m.protocol[0] = 256), "batch.protocol is 256, out of its range");
        assert_eq!(broken(|m| m.from_unix_ns = 21), "batch.from_unix_ns is 21, out of its range");
        assert_eq!(
            broken(|m| m.remotes[0] = bytes::Bytes::from_static(&[1, 2, 3])),
            "batch.remotes is an address of 3 bytes, 4 or 16 are known"
        );
        for absurd in
            [|m: &mut v1::Batch| m.tx_bytes[0] += 1, |m: &mut v1::Batch| m.rx_bytes = vec![1, 0, 0, 0, 0]]
        {
            assert_eq!(
                broken(absurd),
                "the batch says 1152921504606846977 bytes in 5 packets, more than a node can have"
            );
        }
        assert_eq!(
            broken(|m| m.tx_packets = vec![u64::MAX; 5]),
            "the batch says 1152921504606846976 bytes in 18446744073709551615 packets, more than a node can have"
        );
        assert_eq!(
            broken(|m| m.owners = vec![m.owners[0].clone(); 10_000]),
            "batch.owners holds 10000, at most 1000 are allowed"
        );
        assert_eq!(
            broken(|m| m.remotes = vec![m.remotes[0].clone(); 10_001]),
            "batch.remotes holds 10001, at most 10000 are allowed"
        );
        assert_eq!(broken(|m| m.tx_bytes.truncate(2)), "column batch.tx_bytes holds 2 rows, the batch has 5");
        assert_eq!(broken(|m| m.protocol.push(6)), "column batch.protocol holds 6 rows, the batch has 5");
        assert_eq!(
            broken(|m| m.owner = vec![0; BATCH_RECORDS_MAX + 1]),
            "batch.owner holds 10001, at most 10000 are allowed"
        );
        assert_eq!(broken(|m| m.owners[0].pod_uid.clear()), "owner.pod_uid is missing");
        assert_eq!(
            broken(|m| m.owners[0].name = "x".repeat(3000)),
            "owner's text in bytes holds 3015, at most 2048 are allowed"
        );
    }
}
