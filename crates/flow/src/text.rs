//! Entries as one line of text, for tests and logs:
//! `tcp 10.0.0.1:4000>10.0.1.2:80 reply=10.0.1.9:8080>10.0.0.1:4000 id=7 start=5 tx=10/1 rx=20/2`.
//!
//! Counters are bytes/packets, `start` is in seconds; `reply` stands only where it is not the inverse,
//! `total=` in place of `tx=` and `rx=` where the direction is unknown, with `beside=` where part of it is counted apart
//! (`beside=?` where that part cannot be read), `ctzone=` where it is not 0,
//! `view=source` or `view=destination` where the row speaks for one side.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::counters::{Counter, Counters};
use crate::entry::{Entry, EntryId, View};
use crate::time::UnixNanos;
use crate::tuple::{CtZone, IpProtocol, L4, Tuple};

/// A line that is not an entry; the part that was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not understood in an entry: {0:?}")]
pub struct ParseEntryError(pub String);

impl FromStr for Entry {
    type Err = ParseEntryError;

    fn from_str(line: &str) -> Result<Self, ParseEntryError> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().ok_or_else(|| ParseEntryError(line.to_owned()));
        let protocol = parse_protocol(next()?)?;
        let original = parse_direction(protocol, next()?)?;
        let mut entry = Self {
            id: EntryId { original, kernel_id: None, start: None },
            reply: original.inverted(),
            view: View::Both,
            counters: None,
            status: None,
            timeout_seconds: None,
        };
        let (mut tx, mut rx, mut total, mut beside) = (None, None, None, None);
        for word in words {
            let unknown = || ParseEntryError(word.to_owned());
            let (key, value) = word.split_once('=').ok_or_else(unknown)?;
            match key {
                "reply" => entry.reply = parse_direction(protocol, value)?,
                "id" => entry.id.kernel_id = Some(value.parse().map_err(|_| unknown())?),
                "start" => {
                    let seconds: u64 = value.parse().map_err(|_| unknown())?;
                    entry.id.start = Some(UnixNanos(seconds * 1_000_000_000));
                }
                "ctzone" => entry.id.original.ct_zone = CtZone(value.parse().map_err(|_| unknown())?),
                "view" => entry.view = parse_view(value).ok_or_else(unknown)?,
                "tx" => tx = Some(parse_counter(value)?),
                "rx" => rx = Some(parse_counter(value)?),
                "total" => total = Some(parse_counter(value)?),
                "beside" if value == "?" => beside = Some(None),
                "beside" => beside = Some(Some(parse_counter(value)?)),
                _ => return Err(unknown()),
            }
        }
        entry.reply.ct_zone = entry.id.original.ct_zone;
        entry.counters = match (tx, rx, total, beside) {
            (None, None, None, None) => None,
            (tx, rx, None, None) => {
                Some(Counters::Directed { tx: tx.unwrap_or_default(), rx: rx.unwrap_or_default() })
            }
            (None, None, Some(total), None) => Some(Counters::total(total)),
            (None, None, Some(main), Some(beside)) => Some(Counters::Total { main, beside }),
            _ => return Err(ParseEntryError(line.to_owned())),
        };
        Ok(entry)
    }
}

fn parse_protocol(word: &str) -> Result<IpProtocol, ParseEntryError> {
    match word {
        "tcp" => Ok(IpProtocol::TCP),
        "udp" => Ok(IpProtocol::UDP),
        "icmp" => Ok(IpProtocol::ICMP),
        "icmpv6" => Ok(IpProtocol::ICMPV6),
        number => number.parse().map(IpProtocol).map_err(|_| ParseEntryError(word.to_owned())),
    }
}

fn parse_view(word: &str) -> Option<View> {
    match word {
        "both" => Some(View::Both),
        "source" => Some(View::Source),
        "destination" => Some(View::Destination),
        _ => None,
    }
}

fn parse_direction(protocol: IpProtocol, word: &str) -> Result<Tuple, ParseEntryError> {
    let wrong = || ParseEntryError(word.to_owned());
    let (src, dst) = word.split_once('>').ok_or_else(wrong)?;
    let ((src, src_port), (dst, dst_port)) =
        (parse_end(src).ok_or_else(wrong)?, parse_end(dst).ok_or_else(wrong)?);
    let l4 = match (src_port, dst_port) {
        (Some(src), Some(dst)) => L4::Ports { src, dst },
        (None, None) => L4::None,
        _ => return Err(wrong()),
    };
    Ok(Tuple { protocol, src, dst, l4, ct_zone: CtZone::default() })
}

fn parse_end(word: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(socket) = word.parse::<SocketAddr>() {
        return Some((socket.ip(), Some(socket.port())));
    }
    word.parse().ok().map(|address| (address, None))
}

fn parse_counter(word: &str) -> Result<Counter, ParseEntryError> {
    let parse = || {
        let (bytes, packets) = word.split_once('/')?;
        Some(Counter { bytes: bytes.parse().ok()?, packets: packets.parse().ok()? })
    };
    parse().ok_or_else(|| ParseEntryError(word.to_owned()))
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports() {
            Some((src, dst)) => {
                write!(f, "{}>{}", SocketAddr::new(self.src, src), SocketAddr::new(self.dst, dst))
            }
            None => write!(f, "{}>{}", self.src, self.dst),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let original = &self.id.original;
        write!(f, "{} {original}", original.protocol.to_string().to_lowercase())?;
        if self.reply != original.inverted() {
            write!(f, " reply={}", self.reply)?;
        }
        if original.ct_zone != CtZone::default() {
            write!(f, " ctzone={}", original.ct_zone.0)?;
        }
        match self.view {
            View::Both => {}
            View::Source => f.write_str(" view=source")?,
            View::Destination => f.write_str(" view=destination")?,
        }
        if let Some(id) = self.id.kernel_id {
            write!(f, " id={id}")?;
        }
        if let Some(start) = self.id.start {
            write!(f, " start={}", start.0 / 1_000_000_000)?;
        }
        match self.counters {
            None => Ok(()),
            Some(Counters::Total { main, beside }) => {
                write!(f, " total={}/{}", main.bytes, main.packets)?;
                match beside {
                    Some(beside) if beside.is_zero() => Ok(()),
                    Some(beside) => write!(f, " beside={}/{}", beside.bytes, beside.packets),
                    None => f.write_str(" beside=?"),
                }
            }
            Some(Counters::Directed { tx, rx }) => {
                write!(f, " tx={}/{} rx={}/{}", tx.bytes, tx.packets, rx.bytes, rx.packets)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a test writes is what it reads back.
    #[test]
    fn entries_survive_a_round_trip_through_text() {
        for line in [
            "tcp 10.0.0.1:4000>10.0.1.2:80 tx=10/1 rx=20/2",
            "udp [fd00::1]:4000>[fd00::2]:53 ctzone=3 id=7 start=5 tx=10/1 rx=0/0",
            "tcp 10.0.0.1:4000>10.96.0.1:80 reply=10.0.1.9:8080>10.0.0.1:4000 id=7 tx=10/1 rx=0/0",
            "50 10.0.0.1>10.0.1.2 view=source total=10/1",
            "50 10.0.0.1>10.0.1.2 view=source total=10/1 beside=5/1",
            "50 10.0.0.1>10.0.1.2 view=destination total=10/1 beside=?",
            "icmp 10.0.0.1>10.0.1.2",
        ] {
            assert_eq!(line.parse::<Entry>().unwrap().to_string(), line);
        }
    }

    /// Goal: an error names the word at fault.
    #[test]
    fn errors_name_the_word() {
        for (line, word) in [
            ("tcp 10.0.0.1:4000>10.0.1.2:80 tx=10", "10"),
            ("tcp 10.0.0.1:4000>10.0.1.2", "10.0.0.1:4000>10.0.1.2"),
            ("tcp 10.0.0.1:4000>10.0.1.2:80 rtx=10/1", "rtx=10/1"),
            ("carrier 10.0.0.1>10.0.1.2", "carrier"),
        ] {
            assert_eq!(line.parse::<Entry>(), Err(ParseEntryError(word.to_owned())));
        }
    }
}
