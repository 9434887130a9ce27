//! Peers that do harm, on purpose or not: each is told why, and nobody else notices.

use std::time::Duration;

use bytes::Bytes;
use egressd_delivery::ledger::NODES_MAX;
use egressd_delivery::serve::Patience;
use egressd_flow::{Batch, Counter, Epoch, NodeName, Record, Sequence, Span, Traffic, UnixNanos};
use egressd_protocol::limits::MESSAGE_BYTES_MAX;
use egressd_protocol::{Ack, Down, Hello, SpoolId, Up, Welcome, v1};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Streaming};

use crate::halves::{Collector, EPOCH, Exporter, PATIENCE, Peer, batch, hello};
use crate::raw::{self, Call};

/// How long a collector that has handed everything over waits for the exporter to hang up.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// A node that behaves, while others do not.
struct Witness {
    peer: Peer,
    newest: u64,
}

impl Witness {
    async fn greet(exporter: &Exporter) -> Self {
        Self { peer: Peer::greet_from(exporter, "node-b").await, newest: 0 }
    }

    /// Its next batch is taken and acknowledged as ever, and nothing else was taken.
    async fn is_unharmed(&mut self, exporter: &mut Exporter) {
        self.newest += 1;
        self.peer.say(&Up::Batch(batch(self.newest))).await;
        let (from, taken) = exporter.take_whole().await;
        assert_eq!((&*from.node.0, taken.sequence), ("node-b", Sequence(self.newest)));
        assert_eq!(self.peer.hear_ack().await, (self.newest, 0));
    }
}

/// How a stream ended, as its peer sees it.
async fn end_of(down: &mut Streaming<Bytes>) -> (Code, String) {
    loop {
        match timeout(PATIENCE, down.message()).await.expect("the stream ends") {
            Ok(Some(_)) => {}
            Ok(None) => return (Code::Ok, String::new()),
            Err(status) => return (status.code(), status.message().to_owned()),
        }
    }
}

/// What an exporter says, as it travels.
fn bytes(down: &Down) -> Bytes {
    Bytes::from(down.to_wire().remove(0).encode_to_vec())
}

/// The next batch of a collector.
async fn next_batch(call: &mut Call) -> Batch {
    loop {
        let message = timeout(PATIENCE, call.up.message()).await.expect("batches come").unwrap().unwrap();
        if let Some(Up::Batch(batch)) = Up::from_wire(v1::Up::decode(message).unwrap()).unwrap() {
            return batch;
        }
    }
}

/// A batch message, spoilt.
fn spoilt(spoil: fn(&mut v1::Batch)) -> v1::Up {
    let mut message = Up::Batch(batch(1)).to_wire();
    if let Some(v1::up::Message::Batch(batch)) = &mut message.message {
        spoil(batch);
    }
    message
}

/// Goal: a peer that breaks the contract is told how, is counted, and nothing of it is taken.
#[tokio::test]
async fn a_peer_that_breaks_the_contract_is_told_how() {
    let mut exporter = Exporter::start(1).await;
    let mut witness = Witness::greet(&exporter).await;
    let unnamed_epoch = Batch { epoch: Epoch(8), ..batch(1) };
    let huge = v1::Up {
        message: Some(v1::up::Message::Status(v1::Status {
            diagnosis: "x".repeat(MESSAGE_BYTES_MAX - 8),
            ..v1::Status::default()
        })),
    };
    let cases = [
        (Up::Batch(batch(2)).to_wire(), Code::OutOfRange, "batch 2 came where 1 was expected"),
        (
            Up::Batch(unnamed_epoch).to_wire(),
            Code::InvalidArgument,
            "a batch of an epoch that the Hello did not name",
        ),
        (
            spoilt(|batch| batch.tx_bytes.push(1)),
            Code::InvalidArgument,
            "the message cannot be: column batch.tx_bytes holds 2 rows, the batch has 1",
        ),
        (
            spoilt(|batch| batch.tx_bytes[0] = u64::MAX),
            Code::InvalidArgument,
            "the message cannot be: the batch says 18446744073709551615 bytes in 1 packets, more than a node can have",
        ),
        (
            spoilt(|batch| {
                batch.tx_bytes[0] = 1 << 63;
                batch.rx_bytes = vec![1 << 63];
            }),
            Code::InvalidArgument,
            "the message cannot be: the batch says 18446744073709551615 bytes in 1 packets, more than a node can have",
        ),
        (
            spoilt(|batch| batch.to_unix_ns = 0),
            Code::InvalidArgument,
            "the message cannot be: batch.from_unix_ns is 1, out of its range",
        ),
        (
            spoilt(|batch| batch.owners = vec![batch.owners[0].clone(); 10_000]),
            Code::InvalidArgument,
            "the message cannot be: batch.owners holds 10000, at most 1000 are allowed",
        ),
        (
            spoilt(|batch| batch.remotes = vec![batch.remotes[0].clone(); 10_001]),
            Code::InvalidArgument,
            "the message cannot be: batch.remotes holds 10001, at most 10000 are allowed",
        ),
        (
            huge,
            Code::OutOfRange,
            "Error, decoded message length too large: found 4194306 bytes, the limit is: 4194304 bytes",
        ),
    ];
    let count = cases.len() as u64;
    for (message, code, words) in cases {
        let mut peer = Peer::greet(&exporter).await;
        peer.say_wire(message).await;
        assert_eq!(peer.hear_end().await, (code, words.to_owned()));
    }
    let mut hasty = Peer::dial(&exporter).await;
    hasty.say(&Up::Batch(batch(1))).await;
    assert_eq!(hasty.hear_end().await, (Code::InvalidArgument, "it speaks before Hello".to_owned()));
    exporter.until("egressd_exporter_ledger_refused_streams_total", count + 1).await;
    witness.is_unharmed(&mut exporter).await;
}

/// Goal: a batch that is strange and possible is taken as it is, but never seen later than it came.
#[tokio::test]
async fn a_strange_batch_is_taken_and_never_from_the_future() {
    let mut exporter = Exporter::start(1).await;
    let peer = Peer::greet(&exporter).await;
    let packets_alone = Traffic { rx: Counter { bytes: 0, packets: 9 }, ..Traffic::default() };
    let strange = |sequence, from, to| {
        let mut strange = batch(sequence);
        strange.records.push(Record { traffic: packets_alone, remote: None, ..strange.records[0] });
        Batch { span: Span { from: UnixNanos(from), to: UnixNanos(to) }, ..strange }
    };
    for (sequence, from, to) in [(1, 0, u64::MAX), (2, u64::MAX, u64::MAX), (3, 0, 0)] {
        peer.say(&Up::Batch(strange(sequence, from, to))).await;
        let (_, taken) = exporter.take_whole().await;
        assert_eq!(taken.records, strange(sequence, from, to).records);
        let Span { from, to } = taken.span;
        assert!(from <= to && to <= UnixNanos(egressd_service::clock::unix_nanos()), "{from} to {to}");
    }
}

/// Goal: bytes that are no message, in frames that are whole or not, end their own stream with a reason.
#[tokio::test]
async fn garbage_ends_its_own_stream() {
    let mut exporter = Exporter::start(1).await;
    let mut witness = Witness::greet(&exporter).await;
    let hello = Bytes::from(Up::Hello(hello()).to_wire().encode_to_vec());
    for (garbage, words) in [
        (&[0xff; 16][..], "failed to decode Protobuf message: invalid varint"),
        (&[0x0a, 0xff, 0x01, 0x00], "failed to decode Protobuf message: Up.message: buffer underflow"),
        (
            &[0x0b; 300],
            "failed to decode Protobuf message: Up.message: invalid wire type: StartGroup (expected LengthDelimited)",
        ),
        (
            &[0x12, 0x02, 0x10, 0x80],
            "failed to decode Protobuf message: Batch.sequence: Up.message: invalid varint",
        ),
    ] {
        for greeted in [false, true] {
            let (up, mut down) = raw::open(raw::connect(exporter.address).await).await;
            if greeted {
                up.send(hello.clone()).await.unwrap();
            }
            up.send(Bytes::copy_from_slice(garbage)).await.unwrap();
            assert_eq!(end_of(&mut down).await, (Code::Internal, words.to_owned()), "{garbage:x?}");
        }
    }
    for (body, code, words) in [
        (
            "\0\x7f\x7f\x7f\x7f",
            Code::OutOfRange,
            "Error, decoded message length too large: found 2139062143 bytes, the limit is: 4194304 bytes",
        ),
        (
            "\x01\0\0\0\0",
            Code::Internal,
            "protocol error: received message with compressed-flag but no grpc-encoding was specified",
        ),
        ("\0\0\0\0\x05abc", Code::Internal, "Unexpected EOF decoding stream."),
        ("", Code::Ok, ""),
    ] {
        let mut down = raw::call(raw::connect(exporter.address).await, body).await;
        assert_eq!(end_of(&mut down).await, (code, words.to_owned()), "{body:?}");
    }
    witness.is_unharmed(&mut exporter).await;
}

/// HTTP/2's first words (RFC 9113, 3.4), with empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Writes `bytes` to the exporter, and then hears it hang up.
async fn is_cut_off(exporter: &Exporter, bytes: &[u8]) {
    let mut connection = TcpStream::connect(exporter.address).await.unwrap();
    connection.write_all(bytes).await.unwrap();
    let hung_up = async { while connection.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {} };
    timeout(PATIENCE, hung_up)
        .await
        .unwrap_or_else(|_| panic!("{:?} holds", bytes.escape_ascii().to_string()));
}

/// Goal: a connection that does not speak HTTP/2 is ended at once, and no other one with it.
#[tokio::test]
async fn what_is_not_http_is_hung_up_on() {
    let mut exporter = Exporter::start(1).await;
    let mut witness = Witness::greet(&exporter).await;
    let broken_frame = [PREFACE, &[0xff; 64]].concat();
    for bytes in [&b"GET / HTTP/1.1\r\nHost: exporter\r\n\r\n"[..], &[0xff; 4096], &broken_frame] {
        is_cut_off(&exporter, bytes).await;
    }
    witness.is_unharmed(&mut exporter).await;
}

const IMPATIENT: Patience = Patience {
    hello: Duration::from_millis(100),
    silence: Duration::from_millis(300),
    unread: Duration::from_millis(200),
};

/// Goal: whoever connects and keeps silent, at whatever stage, is told so or cut off, and leaves nothing behind.
#[tokio::test]
async fn silence_is_not_waited_for_without_end() {
    let mut exporter = Exporter::with_patience(IMPATIENT).await;
    let tls = [0x16, 0x03, 0x01];
    for said in [&b""[..], &tls, &PREFACE[..10], PREFACE] {
        is_cut_off(&exporter, said).await;
    }
    let mut dumb = Peer::dial(&exporter).await;
    assert_eq!(dumb.hear_end().await, (Code::DeadlineExceeded, "no Hello within 100ms".to_owned()));
    let mut lulled = Peer::greet(&exporter).await;
    assert_eq!(lulled.hear_end().await, (Code::DeadlineExceeded, "silent for 300ms".to_owned()));
    exporter.until("egressd_exporter_ledger_streams", 0).await;
    Witness::greet(&exporter).await.is_unharmed(&mut exporter).await;
}

/// Goal: connections that say nothing do not hold up a stop.
#[tokio::test]
async fn silence_does_not_hold_up_a_stop() {
    let exporter = Exporter::with_patience(IMPATIENT).await;
    let silent = TcpStream::connect(exporter.address).await.unwrap();
    Peer::greet(&exporter).await;
    exporter.stop().await;
    drop(silent);
}

/// Goal: a peer that ends its half of the stream hears the rest, and then a good end.
#[tokio::test]
async fn a_half_closed_stream_is_brought_to_its_end() {
    let mut exporter = Exporter::start(1).await;
    let mut witness = Witness::greet(&exporter).await;
    let (up, mut down) = raw::open(raw::connect(exporter.address).await).await;
    for message in [Up::Hello(hello()), Up::Batch(batch(1))] {
        up.send(Bytes::from(message.to_wire().encode_to_vec())).await.unwrap();
    }
    drop(up);
    assert_eq!(exporter.take().await, Sequence(1));
    let mut acked = Vec::new();
    while let Some(message) = timeout(PATIENCE, down.message()).await.expect("the stream ends").unwrap() {
        if let Some(Down::Ack(ack)) = Down::from_wire(v1::Down::decode(message).unwrap()).unwrap() {
            acked.push(ack.taken.0);
        }
    }
    assert_eq!(acked, [0, 1], "the batch on its way was acknowledged");
    exporter.until("egressd_exporter_ledger_streams", 1).await;
    witness.is_unharmed(&mut exporter).await;
}

/// Goal: a peer that never reads fills its own bounded queue and is cut off, and nobody else waits for it.
#[tokio::test]
async fn a_peer_that_never_reads_is_cut_off() {
    let patience = Patience { silence: PATIENCE, ..IMPATIENT };
    let mut exporter = Exporter::with_patience(patience).await;
    let mut witness = Witness::greet(&exporter).await;
    let (up, mut down) = raw::open(raw::connect(exporter.address).await).await;
    for message in [Up::Hello(hello()), Up::Batch(batch(1))] {
        up.send(Bytes::from(message.to_wire().encode_to_vec())).await.unwrap();
    }
    assert_eq!(exporter.take().await, Sequence(1));
    // Each repetition is answered, so the answers fill whatever lies between.
    let again = Bytes::from(Up::Batch(batch(1)).to_wire().encode_to_vec());
    let flood = async { while up.send(again.clone()).await.is_ok() {} };
    let ((), ()) = timeout(PATIENCE, async {
        tokio::join!(flood, exporter.until("egressd_exporter_ledger_streams", 1))
    })
    .await
    .expect("it is cut off");
    let (code, _) = end_of(&mut down).await;
    assert_ne!(code, Code::Ok);
    witness.is_unharmed(&mut exporter).await;
}

/// Goal: one peer that says Hello under every name there is room for is turned away at the next, and nodes that
/// were there before go on.
#[tokio::test]
async fn ten_thousand_names_do_not_drive_out_a_node() {
    let mut exporter = Exporter::start(1).await;
    let mut witness = Witness::greet(&exporter).await;
    witness.is_unharmed(&mut exporter).await;
    let channel = raw::connect(exporter.address).await;
    let hello_of = |number: usize| {
        let node = NodeName(format!("node-{number}").into());
        Bytes::from(Up::Hello(Hello { node, ..hello() }).to_wire().encode_to_vec())
    };
    let one = Bytes::from(Up::Batch(batch(1)).to_wire().encode_to_vec());
    // Names that leave nothing behind take no room.
    for number in 0..10 {
        let (up, _down) = raw::open(channel.clone()).await;
        up.send(hello_of(number)).await.unwrap();
    }
    for number in 1..NODES_MAX {
        let (up, mut down) = raw::open(channel.clone()).await;
        up.send(hello_of(number)).await.unwrap();
        up.send(one.clone()).await.unwrap();
        exporter.take().await;
        drop(up);
        assert_eq!(end_of(&mut down).await.0, Code::Ok);
    }
    let (up, mut down) = raw::open(channel).await;
    up.send(hello_of(NODES_MAX)).await.unwrap();
    let (code, words) = end_of(&mut down).await;
    assert_eq!(
        (code, &*words),
        (Code::ResourceExhausted, "no account for this node: 10000 nodes are known already")
    );
    witness.is_unharmed(&mut exporter).await;
}

/// Goal: whatever an exporter says to a collector, the collector keeps its batches, dials again, and brings each to
/// an exporter that behaves.
#[tokio::test]
async fn an_exporter_that_breaks_the_contract_costs_no_batch() {
    let (address, mut calls) = raw::exporter().await;
    let collector = Collector::start(address);
    collector.cut(1..=2).await;
    let welcome = Welcome { spool: SpoolId(9), durable: false, version: String::new(), clock: UnixNanos(1) };
    let welcome = bytes(&Down::Welcome(welcome));
    let ack = |taken, delivered| {
        bytes(&Down::Ack(Ack { epoch: EPOCH, taken: Sequence(taken), delivered: Sequence(delivered) }))
    };
    let cases = [
        vec![Bytes::from_static(&[0xff; 16])],
        vec![ack(0, 0)],
        vec![Bytes::from_static(&[0x0a, 0x00])],
        vec![welcome.clone(), Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1])],
        vec![welcome.clone(), ack(99, 0)],
        vec![welcome.clone(), ack(1, 2)],
        vec![welcome.clone(), bytes(&Down::Redirect(None))],
        vec![],
    ];
    for said in cases {
        let call = timeout(PATIENCE, calls.recv()).await.expect("it dials again").unwrap();
        for bytes in said {
            call.down.send(Ok(bytes)).await.unwrap();
        }
    }
    assert_eq!(collector.metric("egressd_collector_window_held_batches"), 2);
    let mut call = timeout(PATIENCE, calls.recv()).await.expect("it dials again").unwrap();
    call.down.send(Ok(welcome)).await.unwrap();
    call.down.send(Ok(ack(0, 0))).await.unwrap();
    for sequence in 1..=2 {
        assert_eq!(next_batch(&mut call).await, batch(sequence));
    }
    call.down.send(Ok(ack(2, 2))).await.unwrap();
    collector.until("egressd_collector_window_held_batches", 0).await;
}

/// Goal: an exporter that has everything and does not hang up holds a stop no longer than whoever stops has time.
#[tokio::test]
async fn a_farewell_ends_when_there_is_no_more_time() {
    let (address, mut calls) = raw::exporter().await;
    let collector = Collector::start(address);
    collector.cut(1..=1).await;
    let mut call = timeout(PATIENCE, calls.recv()).await.expect("it dials").unwrap();
    let welcome = Welcome { spool: SpoolId(9), durable: false, version: String::new(), clock: UnixNanos(1) };
    let ack = |taken| Down::Ack(Ack { epoch: EPOCH, taken: Sequence(taken), delivered: Sequence(0) });
    for said in [Down::Welcome(welcome), ack(0)] {
        call.down.send(Ok(bytes(&said))).await.unwrap();
    }
    assert_eq!(next_batch(&mut call).await, batch(1));
    let abandon = collector.abandon.clone();
    let stopping = tokio::spawn(collector.finish());
    call.down.send(Ok(bytes(&ack(1)))).await.unwrap();
    while timeout(PATIENCE, call.up.message()).await.expect("its half is closed").unwrap().is_some() {}
    assert!(!stopping.is_finished());
    abandon.cancel();
    timeout(FAREWELL_MAX / 2, stopping).await.expect("it waits no longer").unwrap();
}
