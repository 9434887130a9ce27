//! Entries of protocols that have no sockets here, made by real packets: each with the bytes that were sent.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::*;

const ICMP: u8 = 1;
const GRE: u8 = 47;
const ESP: u8 = 50;
const SCTP: u8 = 132;

/// Sends packets with an IPv4 header of its own making, of any protocol (`raw(7)`).
struct Raw(OwnedFd);

impl Raw {
    fn open() -> Self {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw);
        Self(raw.expect("root may send raw packets"))
    }

    /// The kernel fills in length, id and checksum.
    fn send(&self, protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend(from);
        packet.extend(to);
        packet.extend(payload);
        let [a, b, c, d] = to;
        let sent = sendto(self.0.as_raw_fd(), &packet, &SockaddrIn::new(a, b, c, d, 0), MsgFlags::empty());
        assert_eq!(sent, Ok(packet.len()));
    }
}

/// An SCTP packet with one chunk that begins an association (`INIT`, RFC 9260, 3.3.2).
fn init(src: u16, dst: u16) -> Vec<u8> {
    const VERIFICATION_TAG_AND_CHECKSUM: [u8; 8] = [0; 8];
    let mut packet = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    packet.extend(VERIFICATION_TAG_AND_CHECKSUM);
    packet.extend([1, 0, 0, 20]);
    packet.extend([0, 0, 0, 7, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    packet
}

fn echo(kind: u8, payload: usize) -> Vec<u8> {
    let mut packet = vec![kind, 0, 0, 0, 0, 77, 0, 1];
    // The kernel answers nothing whose checksum is wrong: the test sends both ways itself.
    packet.resize(packet.len() + payload, 0);
    packet
}

/// Goal: ping, GRE, ESP and SCTP stand in the table with their own fields, SCTP with its ports, and with the bytes and
/// packets that were sent each way; and so they end.
#[test]
fn every_protocol_is_counted_to_the_byte() {
    in_namespace(|| {
        let mut ends = listen(1 << 20, 16);
        let (client, server) = ([127, 0, 0, 1], [127, 0, 0, 2]);
        let raw = Raw::open();
        for (protocol, there, back) in [
            (ICMP, echo(8, 56), echo(0, 56)),
            (GRE, vec![0, 0, 8, 0, 1, 2, 3, 4], vec![0, 0, 8, 0, 1, 2]),
            (ESP, vec![9; 40], vec![9; 30]),
            (SCTP, init(4000, 5000), vec![]),
        ] {
            raw.send(protocol, client, server, &there);
            if !back.is_empty() {
                raw.send(protocol, server, client, &back);
            }
        }
        let expected = [
            "132 127.0.0.1:4000>127.0.0.2:5000 tx=52/1 rx=0/0",
            "47 127.0.0.1:0>127.0.0.2:0 tx=28/1 rx=26/1",
            "50 127.0.0.1>127.0.0.2 tx=60/1 rx=50/1",
            "icmp 127.0.0.1>127.0.0.2 reply=127.0.0.2>127.0.0.1 tx=84/1 rx=84/1",
        ];
        let (entries, snapshot) = read(&mut Table::open(CtZones::ALL).unwrap());
        let mut found: Vec<_> = entries.iter().map(plain).collect();
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(snapshot, complete(4));
        let ping = entries.iter().find(|entry| entry.id.original.protocol == IpProtocol::ICMP).unwrap();
        assert_eq!(ping.id.original.l4, L4::Icmp { id: 77, kind: 8, code: 0 });

        run("conntrack", &["-D"]);
        let mut ended: Vec<_> = drain_all(&mut ends).iter().map(|ended| plain(&ended.entry)).collect();
        ended.sort();
        assert_eq!(ended, expected);
    });
}
