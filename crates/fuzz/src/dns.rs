//! DNS: what must hold whatever the bytes are.
//!
//! The first byte of an input says what follows: a message, cut into two segments at the second byte's place, or parts as
//! the ring holds them, each behind its length (two bytes, little-endian).
//!
//! - Nothing panics.
//! - A message means the same alone, in a datagram, and over TCP wherever it is cut.
//! - A name is a host's in text, of 253 bytes at most, and holds from a minute to a day; an answer has 64 of them at most.
//! - Each message is an answer, nameless, or counted by what is wrong with it; what waits is bounded.

use std::net::IpAddr;
use std::time::Duration;

use egressd_dns::message::{Answer, answer};
use egressd_dns::{Books, Decoder};
use egressd_flow::{Name, UnixNanos};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn check(input: &[u8]) {
    match input {
        [mode, cut, message @ ..] if mode % 2 == 0 => check_message(message, (*cut).into()),
        [_, parts @ ..] => check_parts(parts),
        [] => {}
    }
}

fn check_message(message: &[u8], cut: usize) {
    let said = answer(message);
    if let Ok(said) = &said {
        check_answer(said);
    }
    let expected: Vec<(IpAddr, Duration)> =
        said.as_ref().map(|said| said.addresses.clone()).unwrap_or_default();
    let by_datagram = heard(&[part(17, 0, 0, message)]);
    let mut ways = vec![by_datagram];
    if let Ok(length) = u16::try_from(message.len()) {
        let stream = [&length.to_be_bytes()[..], message].concat();
        let (one, other) = stream.split_at(cut.min(stream.len()));
        let next = 1_u32.wrapping_add(u32::try_from(one.len()).unwrap_or_default());
        ways.push(heard(&[part(6, 2, 0, &[]), part(6, 0, 1, one), part(6, 0, next, other)]));
    }
    for (names, books) in ways {
        let found: Vec<_> = names.iter().map(|name| (name.address, name.time_to_live)).collect();
        assert_eq!(found, expected, "the same on every way");
        if let Ok(said) = &said {
            assert!(names.iter().all(|name| name.name == said.name), "one name");
        }
        assert_eq!(books.messages, 1, "one message");
    }
}

fn check_answer(said: &Answer) {
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    assert!((1..=253).contains(&said.name.len()) && said.name.bytes().all(is_fit), "{:?}", said.name);
    assert!((1..=64).contains(&said.addresses.len()), "{}", said.addresses.len());
    assert!(said.addresses.iter().all(|(_, holds)| (MINUTE..=DAY).contains(holds)), "{said:?}");
}

fn check_parts(mut rest: &[u8]) {
    let mut parts = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (part, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
        parts.push(part.to_vec());
        rest = behind;
    }
    let (names, books) = heard(&parts);
    let Books { messages, answers, nameless, truncated, malformed, unfit, cut, .. } = books;
    assert_eq!(messages, answers + nameless + truncated + malformed + unfit + cut, "{books:?}");
    assert_eq!(books.names, names.len() as u64);
}

fn heard(parts: &[Vec<u8>]) -> (Vec<Name>, Books) {
    let (mut decoder, mut names) = (Decoder::default(), Vec::new());
    for part in parts {
        decoder.take(part, UnixNanos(1), &mut |name| names.push(name));
    }
    (names, decoder.books())
}

/// As `struct head` of `trace.bpf.c` has it, for 10.0.0.1 from 10.0.0.53.
fn part(protocol: u8, tcp_flags: u8, sequence: u32, data: &[u8]) -> Vec<u8> {
    let mut part = Vec::new();
    part.extend_from_slice(&7_u64.to_ne_bytes());
    part.extend_from_slice(&sequence.to_ne_bytes());
    part.extend_from_slice(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_ne_bytes());
    part.extend_from_slice(&40_000_u16.to_ne_bytes());
    part.extend_from_slice(&[4, protocol, tcp_flags, 0, 0, 0]);
    for host in [1, 53] {
        part.extend_from_slice(&[10, 0, 0, host, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    part.extend_from_slice(data);
    part
}

/// Messages by RFC 1035's rules: an alias with an address, an IPv6 address, no such name, one that is truncated.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let alias = b"\x00\x07\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01\
        \xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x08\x01b\x04test\x00\
        \xc0\x24\x00\x01\x00\x01\x00\x00\x00\x1e\x00\x04\xc0\x00\x02\x01";
    let v6 = b"\x00\x07\x81\x80\x00\x01\x00\x01\x00\x00\x00\x01\x01A\x04Test\x00\x00\x1c\x00\x01\
        \xc0\x0c\x00\x1c\x00\x01\x00\x01\x51\x80\x00\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
        \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    let nobody = b"\x00\x07\x81\x83\x00\x01\x00\x00\x00\x00\x00\x00\x01c\x04test\x00\x00\x01\x00\x01";
    let truncated = b"\x00\x07\x83\x80\x00\x01\x00\x00\x00\x00\x00\x00\x01c\x04test\x00\x00\x01\x00\x01";
    let messages = [&alias[..], v6, nobody, truncated];
    let alone = messages.iter().map(|message| [&[0, 9], *message].concat());
    let stream = [&u16::try_from(alias.len()).unwrap_or_default().to_be_bytes()[..], alias].concat();
    let parts =
        [part(17, 0, 0, v6), part(6, 2, 9, &[]), part(6, 0, 10, &stream), part(6, 1, 66, &[])].map(|part| {
            let length = u16::try_from(part.len()).unwrap_or_default().to_le_bytes();
            [&length[..], &part].concat()
        });
    alone.chain([[&[1][..], &parts.concat()].concat()]).collect()
}
