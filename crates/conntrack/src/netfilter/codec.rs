//! One ctnetlink message body (`struct nfgenmsg` and attributes) into an [`Entry`] or an [`Ended`].
//!
//! Pure, and allocates nothing. Layout: `linux/netfilter/nfnetlink_conntrack.h`; the kernel writes it in
//! `ctnetlink_fill_info` and `ctnetlink_conntrack_event` (`net/netfilter/nf_conntrack_netlink.c`). Values are in
//! network byte order, headers in the host's.
//!
//! In two steps: `shape` finds where the fields stand and that they are whole, and reads them there; `known` keeps
//! the shapes of rows, since a table of 100,000 has a handful.

mod known;
mod shape;

use std::net::{IpAddr, Ipv4Addr};

use egressd_flow::{CtZone, Defects, Ended, Entry, EntryId, IpProtocol, L4, Tuple, View};

use self::known::Shapes;
use self::shape::Shape;
use super::ct_zones::CtZones;
use super::message::{Messages, Unframed};
use super::uapi;

/// Why a row was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The bytes contradict themselves, or something that every entry has is missing.
    #[error("malformed conntrack message")]
    Malformed,
    /// Neither IPv4 nor IPv6, another version of nfnetlink, or a message that is not about an entry.
    #[error("conntrack message of an unknown kind")]
    Unsupported,
    /// The original direction stands in a conntrack zone that was not asked for: nothing is wrong with it.
    #[error("entry of another conntrack zone")]
    OtherCtZone,
}

impl Defect {
    /// Adds this one.
    pub fn count(self, defects: &mut Defects) {
        match self {
            Self::Malformed => defects.malformed += 1,
            Self::Unsupported => defects.unsupported += 1,
            Self::OtherCtZone => defects.other_ct_zones += 1,
        }
    }
}

impl From<Unframed> for Defect {
    fn from(_: Unframed) -> Self {
        Self::Malformed
    }
}

const BLANK_TUPLE: Tuple = Tuple {
    protocol: IpProtocol::ANY,
    src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    l4: L4::None,
    ct_zone: CtZone(0),
};

/// What is written over.
const BLANK: Entry = Entry {
    id: EntryId { original: BLANK_TUPLE, kernel_id: None, start: None },
    reply: BLANK_TUPLE,
    view: View::Both,
    counters: None,
    status: None,
    timeout_seconds: None,
};

/// Decodes an entry as a dump shows it.
///
/// # Errors
/// [`Defect`] when the row has to be skipped.
pub fn entry(body: &[u8], ct_zones: &CtZones) -> Result<Entry, Defect> {
    Ok(ended(body, ct_zones)?.entry)
}

/// Decodes an entry's end: the body of a DESTROY event.
///
/// # Errors
/// [`Defect`] when the event has to be skipped.
pub fn ended(body: &[u8], ct_zones: &CtZones) -> Result<Ended, Defect> {
    let mut entry = BLANK;
    let stop = Shape::of(body, &mut |_| ())?.read(body, ct_zones, &mut entry)?;
    Ok(Ended { entry, stop })
}

/// Decodes the DESTROY events of one datagram, skipping and counting what is not one or not of `ct_zones`.
pub fn ends(datagram: &[u8], ct_zones: &CtZones, defects: &mut Defects, each: &mut dyn FnMut(Ended)) {
    for message in Messages::new(datagram) {
        let decoded = match message {
            Ok(message) if message.kind == uapi::CT_DELETE => ended(message.body, ct_zones),
            Ok(message) if message.kind == uapi::control::NOOP => continue,
            Ok(_) => Err(Defect::Unsupported),
            Err(unframed) => Err(unframed.into()),
        };
        match decoded {
            Ok(ended) => {
                defects.without_counters += u64::from(ended.entry.counters.is_none());
                each(ended);
            }
            Err(defect) => defect.count(defects),
        }
    }
}

/// Decodes the rows of dumps, most of which are of a shape that it knows from a row before.
///
/// Bound: 16 shapes of some 2 KiB, learnt from the first rows; it allocates for these alone.
#[derive(Debug)]
pub struct Decoder {
    ct_zones: CtZones,
    shapes: Shapes,
    /// The row that was read last.
    entry: Entry,
}

impl Decoder {
    /// Reads the entries of `ct_zones`.
    #[must_use]
    pub fn new(ct_zones: CtZones) -> Self {
        Self { ct_zones, shapes: Shapes::default(), entry: BLANK }
    }

    /// Decodes an entry as a dump shows it. It stays where it is: an entry that is moved from one function to the next
    /// costs about as much as its attributes.
    ///
    /// # Errors
    /// [`Defect`] when the row has to be skipped.
    pub fn entry(&mut self, body: &[u8]) -> Result<&Entry, Defect> {
        self.shapes.read(body, &self.ct_zones, &mut self.entry)?;
        Ok(&self.entry)
    }
}

#[cfg(test)]
mod tests;
