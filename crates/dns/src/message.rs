//! One DNS message: the name that was asked and the addresses that stand behind it.
//!
//! An answer names an address by the name that was asked, whatever names lie between: aliases (CNAME) are followed from
//! that name on, in whatever order the records stand, and an address is taken only from where they lead. It holds as long
//! as the shortest of the records on its way.
//! Invariant: a message that is truncated or does not hold together gives nothing, and no bytes make this panic.
//! Bound: [`RECORDS_MAX`] records, [`ALIASES_MAX`] aliases, [`ADDRESSES_MAX`] addresses.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{NAME_BYTES_MAX, TIME_TO_LIVE_MAX, TIME_TO_LIVE_MIN};
use hickory_proto::op::{Header, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder};

/// Aliases between a name and its addresses. Resolvers give up at about as many: unbound at 11, glibc's at 10 to 15.
pub const ALIASES_MAX: usize = 16;

/// Records of one message that are read: a chain and its addresses, with a signature for each.
pub const RECORDS_MAX: usize = 256;

/// Addresses of one answer; the first are used, as by who asked.
pub const ADDRESSES_MAX: usize = 64;

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked, in lower case and without the final dot.
    pub name: Arc<str>,
    /// What stands behind it, and how long that holds.
    pub addresses: Vec<(IpAddr, Duration)>,
    /// Addresses beyond [`ADDRESSES_MAX`], and records beyond [`RECORDS_MAX`], which may be some.
    pub surplus: usize,
}

/// Why a message names no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// A query, an error such as "no such name", or an answer to another question: nothing is missing.
    Nameless,
    /// Its sender left a part of it out, and says so; who asked asks again over TCP.
    Truncated,
    /// It does not hold together.
    Malformed,
    /// The name is none that hosts have (RFC 1123, and `_`), or too long.
    Unfit,
}

/// Reads a message.
///
/// # Errors
/// It names no address.
pub fn answer(message: &[u8]) -> Result<Answer, Nothing> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).map_err(|_| Nothing::Malformed)?;
    let is_answer = header.message_type == MessageType::Response && header.op_code == OpCode::Query;
    if !is_answer {
        return Err(Nothing::Nameless);
    }
    if header.truncation {
        return Err(Nothing::Truncated);
    }
    let queries = usize::from(header.counts.queries);
    let queries = Message::read_queries(&mut decoder, queries).map_err(|_| Nothing::Malformed)?;
    if header.response_code != ResponseCode::NoError || header.counts.answers == 0 {
        return Err(Nothing::Nameless);
    }
    let [query] = &queries[..] else { return Err(Nothing::Nameless) };
    if !asks_for_addresses(query) {
        return Err(Nothing::Nameless);
    }
    let answers = usize::from(header.counts.answers);
    let records = Message::read_records(&mut decoder, answers.min(RECORDS_MAX), false, OpCode::Query);
    let (records, _, _) = records.map_err(|_| Nothing::Malformed)?;
    let (addresses, surplus) = addresses(&query.name, &records);
    if addresses.is_empty() {
        return Err(Nothing::Nameless);
    }
    let name = text(&query.name).ok_or(Nothing::Unfit)?;
    Ok(Answer { name, addresses, surplus: surplus + answers.saturating_sub(RECORDS_MAX) })
}

fn asks_for_addresses(query: &Query) -> bool {
    query.query_class == DNSClass::IN
        && matches!(query.query_type, RecordType::A | RecordType::AAAA | RecordType::ANY)
}

/// The addresses that `asked` leads to, and how many more there are. Names are compared as DNS does, whatever their case.
fn addresses(asked: &Name, records: &[Record]) -> (Vec<(IpAddr, Duration)>, usize) {
    let (mut found, mut surplus) = (Vec::new(), 0);
    let mut owner = asked;
    let mut holds = u32::MAX;
    for _ in 0..=ALIASES_MAX {
        let of_owner = || {
            let is_of = |record: &&Record| record.dns_class == DNSClass::IN && record.name == *owner;
            records.iter().filter(is_of)
        };
        for record in of_owner() {
            let address = match &record.data {
                RData::A(address) => IpAddr::V4(address.0),
                RData::AAAA(address) => IpAddr::V6(address.0),
                _ => continue,
            };
            if found.len() < ADDRESSES_MAX {
                found.push((address, time_to_live(holds.min(record.ttl))));
            } else {
                surplus += 1;
            }
        }
        let alias = of_owner().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        match alias {
            // A name with addresses of its own has no alias (RFC 1034, 3.6.2).
            Some((target, ttl)) if found.is_empty() => (owner, holds) = (target, holds.min(ttl)),
            _ => break,
        }
    }
    (found, surplus)
}

/// RFC 2181, 8: a number with the highest bit set is zero.
fn time_to_live(seconds: u32) -> Duration {
    let seconds = if seconds > i32::MAX.unsigned_abs() { 0 } else { seconds };
    Duration::from_secs(seconds.into()).clamp(TIME_TO_LIVE_MIN, TIME_TO_LIVE_MAX)
}

/// A name as text; `None` for one that is no host's: it becomes part of what others read.
fn text(name: &Name) -> Option<Arc<str>> {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    let text = text.strip_suffix('.').unwrap_or(&text);
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_name = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_fit);
    is_name.then(|| text.into())
}

#[cfg(test)]
mod tests;
