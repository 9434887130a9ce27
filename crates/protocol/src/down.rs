//! What the exporter says, as nouns.

use std::net::IpAddr;
use std::time::Duration;

use egressd_flow::{Epoch, Scope, Sequence, UnixNanos};

use crate::error::WireError;
use crate::limits::{FOLD_RANGES_MAX, TEXT_BYTES_MAX};
use crate::scope::{address_from_wire, address_to_wire, at_most, scope_from_wire, scope_to_wire};
use crate::up::SpoolId;
use crate::v1;

/// A message from exporter to collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// First and once.
    Welcome(Welcome),
    /// How far an epoch got.
    Ack(Ack),
    /// The owners of the node.
    Scope {
        /// Who.
        scope: Scope,
        /// The exporter's clock when this was sent.
        clock: UnixNanos,
    },
    /// What the exporter decides for the collector.
    Settings(Settings),
    /// Nothing more is taken here; `None` is the same address, after the usual wait.
    Redirect(Option<String>),
}

/// The exporter's answer to Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Another one than last time: what was taken and not delivered is gone from there.
    pub spool: SpoolId,
    /// Taken survives a restart of the exporter.
    pub durable: bool,
    /// The exporter's version.
    pub version: String,
    /// The exporter's clock when this was sent.
    pub clock: UnixNanos,
}

/// Highest contiguous sequences of an epoch. Neither goes back within one spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which epoch.
    pub epoch: Epoch,
    /// In the spool.
    pub taken: Sequence,
    /// Accepted by every sink.
    pub delivered: Sequence,
}

/// What the exporter decides for the collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Time between snapshots; `None` leaves the collector's own.
    pub read_interval: Option<Duration>,
    /// Remote addresses inside one of these may be folded into its first address.
    pub fold: Vec<(IpAddr, u8)>,
}

impl Down {
    /// The message on the wire: several for a scope that does not fit one.
    #[must_use]
    pub fn to_wire(&self) -> Vec<v1::Down> {
        let one = |message| vec![v1::Down { message: Some(message) }];
        match self {
            Self::Welcome(welcome) => one(v1::down::Message::Welcome(v1::Welcome {
                spool_id: welcome.spool.0,
                durable: welcome.durable,
                version: welcome.version.clone(),
                clock_unix_ns: welcome.clock.0,
            })),
            Self::Ack(ack) => one(v1::down::Message::Ack(v1::Ack {
                epoch: ack.epoch.0,
                taken: ack.taken.0,
                delivered: ack.delivered.0,
            })),
            Self::Scope { scope, clock } => scope_to_wire(scope, *clock)
                .into_iter()
                .map(|scope| v1::Down { message: Some(v1::down::Message::Scope(scope)) })
                .collect(),
            Self::Settings(settings) => one(v1::down::Message::Settings(settings_to_wire(settings))),
            Self::Redirect(address) => one(v1::down::Message::Redirect(v1::Redirect {
                address: address.clone().unwrap_or_default(),
            })),
        }
    }

    /// The message behind the bytes; `None` for a kind that this version does not know.
    ///
    /// # Errors
    /// The message does not hold together or is over a limit.
    pub fn from_wire(message: v1::Down) -> Result<Option<Self>, WireError> {
        Ok(Some(match message.message {
            None => return Ok(None),
            Some(v1::down::Message::Welcome(welcome)) => Self::Welcome(welcome_from_wire(welcome)?),
            Some(v1::down::Message::Ack(ack)) => Self::Ack(Ack {
                epoch: Epoch(ack.epoch),
                taken: Sequence(ack.taken),
                delivered: Sequence(ack.delivered),
            }),
            Some(v1::down::Message::Scope(scope)) => {
                let (scope, clock) = scope_from_wire(scope)?;
                Self::Scope { scope, clock }
            }
            Some(v1::down::Message::Settings(settings)) => Self::Settings(settings_from_wire(&settings)?),
            Some(v1::down::Message::Redirect(redirect)) => {
                at_most("redirect.address", redirect.address.len(), TEXT_BYTES_MAX)?;
                Self::Redirect((!redirect.address.is_empty()).then_some(redirect.address))
            }
        }))
    }
}

fn welcome_from_wire(welcome: v1::Welcome) -> Result<Welcome, WireError> {
    at_most("welcome.version", welcome.version.len(), TEXT_BYTES_MAX)?;
    if welcome.spool_id == 0 {
        return Err(WireError::Missing { field: "welcome.spool_id" });
    }
    Ok(Welcome {
        spool: SpoolId(welcome.spool_id),
        durable: welcome.durable,
        version: welcome.version,
        clock: UnixNanos(welcome.clock_unix_ns),
    })
}

fn settings_to_wire(settings: &Settings) -> v1::Settings {
    let read_interval_ms =
        settings.read_interval.map_or(0, |interval| u32::try_from(interval.as_millis()).unwrap_or(u32::MAX));
    let range = |(address, prefix_length): &(IpAddr, u8)| v1::Range {
        address: address_to_wire(*address),
        prefix_length: (*prefix_length).into(),
    };
    v1::Settings { read_interval_ms, fold: settings.fold.iter().map(range).collect() }
}

fn settings_from_wire(settings: &v1::Settings) -> Result<Settings, WireError> {
    at_most("settings.fold", settings.fold.len(), FOLD_RANGES_MAX)?;
    let fold = settings
        .fold
        .iter()
        .map(|range| {
            let address = address_from_wire("settings.fold.address", &range.address)?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let prefix_length = u8::try_from(range.prefix_length).ok().filter(|&length| length <= bits);
            let found = range.prefix_length.into();
            let field = "settings.fold.prefix_length";
            Ok((address, prefix_length.ok_or(WireError::Range { field, found })?))
        })
        .collect::<Result<_, _>>()?;
    let interval = Duration::from_millis(settings.read_interval_ms.into());
    Ok(Settings { read_interval: (!interval.is_zero()).then_some(interval), fold })
}
