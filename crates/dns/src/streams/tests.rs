//! Segments cut anywhere, sent again, lost and out of order.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;

const FIRST: u32 = u32::MAX - 3;

fn part(port: u16, sequence: u32, data: &[u8]) -> Part<'_> {
    Part {
        at: Duration::ZERO,
        local: Ipv4Addr::new(10, 0, 0, 1).into(),
        local_port: port,
        remote: Ipv4Addr::new(10, 0, 0, 53).into(),
        transport: Transport::Tcp { sequence, syn: false, end: false },
        data,
    }
}

fn begin(streams: &mut Streams, port: u16) {
    let transport = Transport::Tcp { sequence: FIRST.wrapping_sub(1), syn: true, end: false };
    streams.hear(&Part { transport, ..part(port, 0, &[]) }, &mut |_| panic!("no message yet"));
}

fn hear(streams: &mut Streams, part: &Part<'_>) -> Vec<String> {
    let mut heard = Vec::new();
    streams.hear(part, &mut |message| heard.push(String::from_utf8_lossy(message).into_owned()));
    heard
}

fn framed(messages: &[&str]) -> Vec<u8> {
    let frame =
        |text: &&str| [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    messages.iter().flat_map(frame).collect()
}

/// Goal: messages come out whole and in order wherever the segments are cut, over the end of all numbers, and whatever is
/// sent again.
#[test]
fn messages_come_out_whole_wherever_segments_are_cut() {
    let bytes = framed(&["one", "", "three and more"]);
    for one in 0..bytes.len() {
        for other in one..bytes.len() {
            let mut streams = Streams::default();
            begin(&mut streams, 1);
            let mut heard = Vec::new();
            for (from, to) in [(0, one), (one, other), (0, other), (one / 2, bytes.len()), (0, bytes.len())] {
                let sequence = FIRST.wrapping_add(u32::try_from(from).unwrap());
                heard.extend(hear(&mut streams, &part(1, sequence, &bytes[from..to])));
            }
            assert_eq!(heard, ["one", "", "three and more"], "{one} {other}");
            assert_eq!((streams.leftovers(), streams.bytes), (Leftovers::default(), 0));
        }
    }
}

/// Goal: a connection of which something is missing, or that was there before, gives nothing and is counted.
#[test]
fn what_is_not_whole_is_left_out() {
    let bytes = framed(&["one", "two"]);
    let mut streams = Streams::default();
    assert_eq!(hear(&mut streams, &part(1, FIRST, &bytes)), [""; 0]);
    begin(&mut streams, 2);
    assert_eq!(hear(&mut streams, &part(2, FIRST.wrapping_add(5), &bytes[5..])), [""; 0]);
    assert_eq!(hear(&mut streams, &part(2, FIRST, &bytes[..5])), [""; 0]);
    let leftovers = Leftovers { unfollowed: 2, gaps: 1, crowded: 0 };
    assert_eq!(streams.leftovers(), leftovers);
    // The same ends begin anew.
    begin(&mut streams, 2);
    assert_eq!(hear(&mut streams, &part(2, FIRST, &bytes)), ["one", "two"]);
    let end = Part { transport: Transport::Tcp { sequence: 0, syn: false, end: true }, ..part(2, 0, &[]) };
    assert_eq!((hear(&mut streams, &end), streams.streams.len()), (vec![], 0));
}

/// Goal: connections and their bytes are bounded; who was heard of longest ago gives way, counted.
#[test]
fn connections_and_bytes_are_bounded() {
    let mut streams = Streams::default();
    for port in 0..=u16::try_from(STREAMS_MAX).unwrap() {
        begin(&mut streams, port);
    }
    assert_eq!((streams.streams.len(), streams.leftovers().crowded), (STREAMS_MAX, 1));
    assert!(hear(&mut streams, &part(0, FIRST, &framed(&["one"]))).is_empty(), "the first gave way");
    let half = [&0xffff_u16.to_be_bytes()[..], &[0; 60_000]].concat();
    for port in 1..=u16::try_from(STREAMS_MAX).unwrap() {
        hear(&mut streams, &part(port, FIRST, &half));
        assert!(streams.bytes <= BYTES_MAX);
    }
    assert_eq!(streams.streams.len(), BYTES_MAX / half.len());
}
