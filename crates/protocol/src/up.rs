//! What a collector says, as nouns.

use std::time::Duration;

use egressd_flow::{
    Batch, Epoch, NAME_BYTES_MAX, Name, NodeName, Sequence, TIME_TO_LIVE_MAX, TIME_TO_LIVE_MIN, UnixNanos,
};

use crate::batch::{batch_from_wire, batch_to_wire};
use crate::error::WireError;
use crate::limits::{
    EPOCHS_MAX, EXCLUDED_NAMESPACES_MAX, FIRST_SEQUENCE_MAX, LOSSES_MAX, NAMES_MAX, NODE_NAME_BYTES_MAX,
    TEXT_BYTES_MAX,
};
use crate::scope::{address_from_wire, address_to_wire, at_most};
use crate::v1;

/// A message from collector to exporter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Up {
    /// First and once.
    Hello(Hello),
    /// Growth.
    Batch(Batch),
    /// DNS answers seen on the node.
    Names(Vec<Name>),
    /// How the collector is.
    Status(Status),
}

/// Where a collector reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The kernel's connection tracking over netlink.
    Netfilter,
    /// Cilium's pinned maps.
    Cilium,
    /// Own eBPF counters.
    Ebpf,
    /// A source that this version does not know.
    Unknown,
}

/// One life of an exporter's spool: 64 random bits, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpoolId(pub u64);

/// Who dials, and what it still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The node.
    pub node: NodeName,
    /// The collector's version.
    pub version: String,
    /// Where it reads.
    pub source: Source,
    /// The spool that its acknowledgements came from; `None` before the first Welcome.
    pub last_spool: Option<SpoolId>,
    /// Every epoch of which batches are held, the running one included, oldest first.
    pub epochs: Vec<HeldEpoch>,
    /// The collector's clock when this was sent.
    pub clock: UnixNanos,
    /// What it was told about things that the exporter decides.
    pub flags: CollectorFlags,
}

/// An epoch of which batches are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldEpoch {
    /// Which.
    pub epoch: Epoch,
    /// The oldest batch held; the next one to come when none is.
    pub first: Sequence,
}

/// Flags of the collector that take effect in the exporter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectorFlags {
    /// Namespaces whose pods are known and not measured.
    pub exclude_namespaces: Vec<String>,
    /// All public destinations become the unspecified address of their family.
    pub group_public_ips: bool,
}

/// How a collector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where it reads.
    pub source: Source,
    /// Why there, and how it is read.
    pub reason: String,
    /// What is wrong with it; empty when nothing is.
    pub diagnosis: String,
    /// What was lost since it started.
    pub losses: Vec<Loss>,
}

/// Things lost for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// How much, where it is known.
    pub bytes: u64,
}

impl Up {
    /// The message on the wire.
    #[must_use]
    pub fn to_wire(&self) -> v1::Up {
        let message = match self {
            Self::Hello(hello) => v1::up::Message::Hello(hello_to_wire(hello)),
            Self::Batch(batch) => v1::up::Message::Batch(batch_to_wire(batch)),
            Self::Names(names) => {
                v1::up::Message::Names(v1::Names { names: names.iter().map(name_to_wire).collect() })
            }
            Self::Status(status) => v1::up::Message::Status(status_to_wire(status)),
        };
        v1::Up { message: Some(message) }
    }

    /// The message behind the bytes; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// The message does not hold together or is over a limit.
    pub fn from_wire(message: v1::Up) -> Result<Option<Self>, WireError> {
        Ok(Some(match message.message {
            None => return Ok(None),
            Some(v1::up::Message::Hello(hello)) => Self::Hello(hello_from_wire(hello)?),
            Some(v1::up::Message::Batch(batch)) => Self::Batch(batch_from_wire(batch)?),
            Some(v1::up::Message::Names(names)) => {
                at_most("names", names.names.len(), NAMES_MAX)?;
                Self::Names(names.names.into_iter().map(name_from_wire).collect::<Result<_, _>>()?)
            }
            Some(v1::up::Message::Status(status)) => Self::Status(status_from_wire(status)?),
        }))
    }
}

fn hello_to_wire(hello: &Hello) -> v1::Hello {
    v1::Hello {
        node: hello.node.to_string(),
        version: hello.version.clone(),
        source: source_to_wire(hello.source).into(),
        last_spool_id: hello.last_spool.map_or(0, |spool| spool.0),
        epochs: hello
            .epochs
            .iter()
            .map(|held| v1::HeldEpoch { epoch: held.epoch.0, first_sequence: held.first.0 })
            .collect(),
        clock_unix_ns: hello.clock.0,
        flags: Some(v1::CollectorFlags {
            exclude_namespaces: hello.flags.exclude_namespaces.clone(),
            group_public_ips: hello.flags.group_public_ips,
        }),
    }
}

fn hello_from_wire(hello: v1::Hello) -> Result<Hello, WireError> {
    if hello.node.is_empty() {
        return Err(WireError::Missing { field: "hello.node" });
    }
    let source = source_from_wire(hello.source());
    let flags = hello.flags.unwrap_or_default();
    at_most("hello.node", hello.node.len(), NODE_NAME_BYTES_MAX)?;
    at_most("hello.version", hello.version.len(), TEXT_BYTES_MAX)?;
    at_most("hello.epochs", hello.epochs.len(), EPOCHS_MAX)?;
    at_most("hello.flags.exclude_namespaces", flags.exclude_namespaces.len(), EXCLUDED_NAMESPACES_MAX)?;
    let epochs = hello
        .epochs
        .iter()
        .map(|held| match held.first_sequence {
            0 => Err(WireError::Missing { field: "hello.epochs.first_sequence" }),
            found if found > FIRST_SEQUENCE_MAX => {
                Err(WireError::Range { field: "hello.epochs.first_sequence", found })
            }
            first => Ok(HeldEpoch { epoch: Epoch(held.epoch), first: Sequence(first) }),
        })
        .collect::<Result<_, _>>()?;
    Ok(Hello {
        node: NodeName(hello.node.into()),
        version: hello.version,
        source,
        last_spool: (hello.last_spool_id != 0).then_some(SpoolId(hello.last_spool_id)),
        epochs,
        clock: UnixNanos(hello.clock_unix_ns),
        flags: CollectorFlags {
            exclude_namespaces: flags.exclude_namespaces,
            group_public_ips: flags.group_public_ips,
        },
    })
}

fn source_to_wire(source: Source) -> v1::Source {
    match source {
        Source::Netfilter => v1::Source::Netfilter,
        Source::Cilium => v1::Source::Cilium,
        Source::Ebpf => v1::Source::Ebpf,
        Source::Unknown => v1::Source::Unspecified,
    }
}

fn source_from_wire(source: v1::Source) -> Source {
    match source {
        v1::Source::Netfilter => Source::Netfilter,
        v1::Source::Cilium => Source::Cilium,
        v1::Source::Ebpf => Source::Ebpf,
        v1::Source::Unspecified => Source::Unknown,
    }
}

fn name_to_wire(name: &Name) -> v1::Name {
    v1::Name {
        address: address_to_wire(name.address),
        name: name.name.to_string(),
        ttl_seconds: u32::try_from(name.time_to_live.as_secs()).unwrap_or(u32::MAX),
        seen_unix_ns: name.seen.0,
        asker: name.asker.map(address_to_wire).unwrap_or_default(),
        ..v1::Name::default()
    }
}

fn name_from_wire(name: v1::Name) -> Result<Name, WireError> {
    if name.name.is_empty() {
        return Err(WireError::Missing { field: "name.name" });
    }
    at_most("name.name", name.name.len(), NAME_BYTES_MAX)?;
    let time_to_live = Duration::from_secs(name.ttl_seconds.into());
    let asker = match name.asker.as_ref() {
        [] => None,
        address => Some(address_from_wire("name.asker", address)?),
    };
    Ok(Name {
        address: address_from_wire("name.address", &name.address)?,
        name: name.name.into(),
        time_to_live: time_to_live.clamp(TIME_TO_LIVE_MIN, TIME_TO_LIVE_MAX),
        seen: UnixNanos(name.seen_unix_ns),
        asker,
    })
}

fn status_to_wire(status: &Status) -> v1::Status {
    v1::Status {
        source: source_to_wire(status.source).into(),
        reason: status.reason.clone(),
        diagnosis: status.diagnosis.clone(),
        losses: status
            .losses
            .iter()
            .map(|loss| v1::Loss { reason: loss.reason.clone(), count: loss.count, bytes: loss.bytes })
            .collect(),
    }
}

fn status_from_wire(status: v1::Status) -> Result<Status, WireError> {
    at_most("status.reason", status.reason.len(), TEXT_BYTES_MAX)?;
    at_most("status.diagnosis", status.diagnosis.len(), TEXT_BYTES_MAX)?;
    at_most("status.losses", status.losses.len(), LOSSES_MAX)?;
    let source = source_from_wire(status.source());
    let losses = status
        .losses
        .into_iter()
        .map(|loss| {
            at_most("status.losses.reason", loss.reason.len(), TEXT_BYTES_MAX)?;
            Ok(Loss { reason: loss.reason, count: loss.count, bytes: loss.bytes })
        })
        .collect::<Result<_, _>>()?;
    Ok(Status { source, reason: status.reason, diagnosis: status.diagnosis, losses })
}
