//! A small DNS: messages as bytes, a server of a few names, and a client that asks one.
//!
//! The server answers A and AAAA over UDP and TCP on every address, follows aliases as a resolver does, and says "no such
//! name" of others. Names that begin with `truncated.` or `malformed.` are answered that way over UDP, on purpose.
//! Names are compressed in answers where they came before, as servers do (RFC 1035, 4.1.4).
//!
//! Bounds: messages of 64 KiB, 64 connections, 5 s for an answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use crate::acceptor::Acceptor;

/// The type of an IPv4 address.
pub const A: u16 = 1;
/// The type of an alias.
pub const CNAME: u16 = 5;
/// The type of an IPv6 address.
pub const AAAA: u16 = 28;

/// Flags of an answer: response, recursion desired and available.
pub const ANSWER: u16 = 0x8180;
/// Bit of a message that says that a part of it was left out.
pub const TRUNCATED: u16 = 0x0200;
/// Response code of a name that there is not.
const NO_SUCH_NAME: u16 = 3;

const CONNECTIONS_MAX: usize = 64;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const ALIASES_MAX: usize = 8;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An address.
    Address(IpAddr),
    /// The name is another one's alias.
    Alias(String),
}

/// A record: `api.example.com 60 A 203.0.113.10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub name: String,
    /// For how long, in seconds.
    pub ttl: u32,
    /// What.
    pub data: Data,
}

impl Record {
    fn kind(&self) -> u16 {
        match self.data {
            Data::Address(IpAddr::V4(_)) => A,
            Data::Address(IpAddr::V6(_)) => AAAA,
            Data::Alias(_) => CNAME,
        }
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, ttl, kind, value] = words[..] else { return Err(format!("{line:?} has not four words")) };
        let data = match kind {
            "A" | "AAAA" => Data::Address(value.parse().map_err(|error| format!("{value:?}: {error}"))?),
            "CNAME" => Data::Alias(value.to_owned()),
            _ => return Err(format!("{kind:?} is not A, AAAA or CNAME")),
        };
        let ttl = ttl.parse().map_err(|error| format!("{ttl:?}: {error}"))?;
        Ok(Self { name: name.to_owned(), ttl, data })
    }
}

/// A message with one question and the records of its answer; a query when there are none and `flags` say so.
#[must_use]
pub fn message(id: u16, flags: u16, question: (&str, u16), records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::default();
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    for word in [id, flags, 1, count, 0, 0] {
        writer.word(word);
    }
    writer.name(question.0);
    writer.word(question.1);
    writer.word(1);
    for record in records {
        writer.record(record);
    }
    writer.bytes
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Where each name stands.
    places: HashMap<String, u16>,
}

impl Writer {
    fn word(&mut self, word: u16) {
        self.bytes.extend_from_slice(&word.to_be_bytes());
    }

    fn name(&mut self, name: &str) {
        if let Some(place) = self.places.get(name) {
            return self.word(0xc000 | place);
        }
        if let Some(place) = u16::try_from(self.bytes.len()).ok().filter(|place| *place < 0x4000) {
            self.places.insert(name.to_owned(), place);
        }
        for label in name.split('.').filter(|label| !label.is_empty()) {
            self.bytes.push(u8::try_from(label.len()).unwrap_or(63).min(63));
            self.bytes.extend(label.bytes().take(63));
        }
        self.bytes.push(0);
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name);
        self.word(record.kind());
        self.word(1);
        self.bytes.extend_from_slice(&record.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.word(0);
        match &record.data {
            Data::Address(IpAddr::V4(v4)) => self.bytes.extend_from_slice(&v4.octets()),
            Data::Address(IpAddr::V6(v6)) => self.bytes.extend_from_slice(&v6.octets()),
            Data::Alias(name) => self.name(name),
        }
        let length = u16::try_from(self.bytes.len() - length_at - 2).unwrap_or(u16::MAX);
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }
}

/// Its name, type and id; `None` for what is no query with one plain question.
fn read_query(message: &[u8]) -> Option<(u16, String, u16)> {
    let id = u16::from_be_bytes(*message.first_chunk()?);
    let mut rest = message.get(12..)?;
    let mut labels = Vec::new();
    loop {
        let (length, behind) = rest.split_first()?;
        let (label, behind) = behind.split_at_checked((*length).into())?;
        rest = behind;
        if label.is_empty() {
            break;
        }
        labels.push(std::str::from_utf8(label).ok()?);
    }
    Some((id, labels.join(".").to_lowercase(), u16::from_be_bytes(*rest.first_chunk()?)))
}

/// The answer to a query, by the records of a zone; `None` for what is none.
fn answer_to(query: &[u8], zone: &[Record], is_datagram: bool) -> Option<Vec<u8>> {
    let (id, name, kind) = read_query(query)?;
    let mut asked = name.clone();
    let mut records = Vec::new();
    for _ in 0..ALIASES_MAX {
        let mut own = zone.iter().filter(|record| record.name == asked);
        let alias = own.clone().find(|record| record.kind() == CNAME);
        let Some(Record { data: Data::Alias(target), .. }) = alias else {
            records.extend(own.filter(|record| record.kind() == kind).cloned());
            break;
        };
        records.extend(own.find(|record| record.kind() == CNAME).cloned());
        asked.clone_from(target);
    }
    let flags = if records.is_empty() { ANSWER | NO_SUCH_NAME } else { ANSWER };
    let question = (name.as_str(), kind);
    Some(match name.split('.').next() {
        Some("truncated") if is_datagram => message(id, ANSWER | TRUNCATED, question, &[]),
        Some("malformed") if is_datagram => {
            let mut whole = message(id, flags, question, &records);
            whole.truncate(whole.len() - 3);
            whole
        }
        _ => message(id, flags, question, &records),
    })
}

/// Serves a zone until the process ends. TCP listens last, so who reaches TCP finds UDP open as well.
///
/// # Errors
/// When the port is taken or the UDP socket breaks.
pub fn serve(port: u16, zone: &[Record]) -> io::Result<Infallible> {
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let of_streams = zone.to_vec();
    // A connection that breaks is the client's to report.
    let serve = move |stream| drop(serve_stream(stream, &of_streams));
    let _acceptor = Acceptor::start(listener, CONNECTIONS_MAX, serve)?;
    let mut query = [0; 512];
    loop {
        let (length, from) = match datagrams.recv_from(&mut query) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        if let Some(answer) = answer_to(&query[..length], zone, true) {
            // The client waits with a bound of its own and reports the loss.
            drop(datagrams.send_to(&answer, from));
        }
    }
}

/// The length and the message leave apart, so that they are two segments.
fn serve_stream(mut stream: TcpStream, zone: &[Record]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut query)?;
        let Some(answer) = answer_to(&query, zone, false) else { return Ok(()) };
        stream.write_all(&u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes())?;
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// Asks for a name, by UDP or TCP; the answer as it came.
///
/// # Errors
/// When no answer comes within 5 s.
pub fn ask(server: SocketAddr, question: (&str, u16), tcp: bool) -> io::Result<Vec<u8>> {
    let query = message(7, 0x0100, question, &[]);
    let mut answer = vec![0; 65_535];
    if tcp {
        let mut stream = TcpStream::connect_timeout(&server, ANSWER_WITHIN)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let length = u16::try_from(query.len()).unwrap_or(u16::MAX).to_be_bytes();
        stream.write_all(&[&length[..], &query].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        answer.truncate(u16::from_be_bytes(length).into());
        stream.read_exact(&mut answer)?;
        return Ok(answer);
    }
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    socket.send(&query)?;
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Vec<Record> {
        ["a.test 60 CNAME b.test", "b.test 30 A 192.0.2.1", "b.test 30 AAAA 2001:db8::1"]
            .map(|line| line.parse().unwrap())
            .into()
    }

    /// Goal: an answer is what RFC 1035 says, byte for byte, with the name compressed where it came before.
    #[test]
    fn an_answer_is_as_the_rfc_says() {
        let query = message(7, 0x0100, ("a.test", A), &[]);
        assert_eq!(
            query,
            b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01"
        );
        let expected = b"\x00\x07\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01\
            \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x08\x01b\x04test\x00\
            \xc0\x24\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\xc0\x00\x02\x01";
        assert_eq!(answer_to(&query, &zone(), true).unwrap(), expected);
        let nobody = answer_to(&message(7, 0x0100, ("c.test", A), &[]), &zone(), true).unwrap();
        assert_eq!(nobody[2..4], [0x81, 0x83]);
        assert_eq!(answer_to(b"too short", &zone(), true), None);
    }

    /// Goal: what is not a record is refused.
    #[test]
    fn a_line_that_is_no_record_is_refused() {
        for line in
            ["a.test A 192.0.2.1", "a.test 60 MX b.test", "a.test 60 A b.test", "a.test x A 192.0.2.1"]
        {
            assert!(line.parse::<Record>().is_err(), "{line}");
        }
    }
}
