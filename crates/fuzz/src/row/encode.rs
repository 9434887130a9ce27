//! A row's bytes.
//!
//! The order of attributes, their flag bits, attributes that are said twice and those that nobody knows are chosen by
//! dice, whose number is part of the row: a row is always written alike.

use std::net::IpAddr;

use super::{Addresses, Direction, Fault, Instant, Layer4, Place, Row, Scalar, Tally};
use crate::wire::{addresses, attribute, outer};

/// Numbers that follow from one number.
struct Dice(u64);

impl Dice {
    /// Below `sides`, which is not 0.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % sides
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.roll(last + 1));
        }
    }
}

impl Row {
    /// The message's body.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let dice = &mut Dice(self.dice);
        let mut parts = self.tuples(dice);
        parts.extend(self.scalars(dice));
        parts.extend(self.tallies(dice));
        if let Some(timestamps) = self.timestamps {
            parts.push(self.instants(timestamps, dice));
        }
        let attributes = self.join(Place::Outer, parts, dice);
        self.finish(attributes)
    }

    /// Puts `struct nfgenmsg` before the attributes, and what is wrong with all of it where it belongs.
    fn finish(&self, attributes: Vec<u8>) -> Vec<u8> {
        let family = match self.addresses {
            Addresses::V4(_) => 2,
            Addresses::V6(_) => 10,
        };
        let mut body = [&[family, 0, 0, 0], &attributes[..]].concat();
        match &self.fault {
            Some(Fault::Version(version)) => body[1] = (*version).max(1),
            Some(Fault::Family(2 | 10)) => body[0] = 0,
            Some(Fault::Family(other)) => body[0] = *other,
            Some(Fault::Short(bytes)) => body.truncate(usize::from(bytes % 4)),
            Some(Fault::LyingTail { length }) => {
                body.extend((*length).max(5).to_ne_bytes());
                body.extend(outer::MARK.to_ne_bytes());
            }
            Some(Fault::Stub(bytes)) => body.resize(body.len() + usize::from(bytes % 3) + 1, 0),
            _ => {}
        }
        body
    }

    fn tuples(&self, dice: &mut Dice) -> Vec<Vec<u8>> {
        let [src, dst, reply_src, reply_dst] = self.addresses.all();
        [
            (outer::TUPLE_ORIG, &self.original, [src, dst]),
            (outer::TUPLE_REPLY, &self.reply, [reply_src, reply_dst]),
        ]
        .into_iter()
        .filter(|(kind, ..)| match self.fault {
            Some(Fault::NoTuple { reply }) => reply != (*kind == outer::TUPLE_REPLY),
            _ => true,
        })
        .map(|(kind, direction, ends)| self.tuple(kind, direction, ends, dice))
        .collect()
    }

    /// `enum ctattr_tuple`.
    fn tuple(&self, kind: u16, direction: &Direction, [src, dst]: [IpAddr; 2], dice: &mut Dice) -> Vec<u8> {
        let mut ends = addresses(src, dst).to_vec();
        if matches!(self.fault, Some(Fault::OneAddress)) {
            ends.remove(dice.roll(2));
        }
        let layer4 = direction.parts(self.fault.as_ref(), dice);
        let mut parts = vec![
            attribute(1, &self.join(Place::Addresses, ends, dice)),
            attribute(2, &self.join(Place::Layer4, layer4, dice)),
        ];
        parts.extend(direction.ct_zone.map(|ct_zone| attribute(3, &ct_zone.to_be_bytes())));
        attribute(kind, &self.join(Place::Tuple, parts, dice))
    }

    /// The attributes that are one number, the same kinds perhaps also before with another number: the last one counts.
    fn scalars(&self, dice: &mut Dice) -> Vec<Vec<u8>> {
        let bytes = |number: Option<u32>| number.map(|number| number.to_be_bytes().to_vec());
        let ct_zone = self.ct_zone.map(|ct_zone| ct_zone.to_be_bytes().to_vec());
        let faulty = |of: Scalar| match self.fault {
            Some(Fault::Width { of: at_fault, bytes }) if at_fault as u8 == of as u8 => {
                let right = if matches!(of, Scalar::CtZone) { 2 } else { 4 };
                let wrong = usize::from(bytes % 9);
                Some(vec![0; if wrong == right { right + 1 } else { wrong }])
            }
            _ => None,
        };
        let all = [
            (outer::STATUS, faulty(Scalar::Status).or(bytes(self.status))),
            (outer::TIMEOUT, faulty(Scalar::Timeout).or(bytes(self.timeout_seconds))),
            (outer::ID, faulty(Scalar::Id).or(bytes(self.kernel_id))),
            (outer::ZONE, faulty(Scalar::CtZone).or(ct_zone)),
            (outer::MARK, Some(vec![0, 0, 0, 7])),
            (outer::USE, Some(vec![0, 0, 0, 1])),
        ];
        let said = all.into_iter().filter_map(|(kind, value)| Some((kind, value?)));
        said.map(|(kind, value)| {
            let other: Vec<u8> = value.iter().map(|byte| !byte).collect();
            let twice = dice.roll(4) == 0;
            let before = if twice { attribute(kind, &other) } else { Vec::new() };
            [before, attribute(kind, &value)].concat()
        })
        .collect()
    }

    /// `enum ctattr_counters`, a nest for each direction.
    fn tallies(&self, dice: &mut Dice) -> Vec<Vec<u8>> {
        let half = matches!(self.fault, Some(Fault::BytesWithoutPackets));
        let needed = half || matches!(self.fault, Some(Fault::OneCounter));
        let none = Tally::Wide { bytes: 0, packets: 0 };
        let Some(tallies) = self.counters.or(needed.then_some([none; 2])) else { return Vec::new() };
        let mut nests = Vec::new();
        for (kind, tally) in [outer::COUNTERS_ORIG, outer::COUNTERS_REPLY].into_iter().zip(tallies) {
            let mut parts = tally.parts().to_vec();
            if half {
                parts.truncate(1);
            }
            nests.push(attribute(kind, &self.join(Place::Counters, parts, dice)));
        }
        if matches!(self.fault, Some(Fault::OneCounter)) {
            nests.remove(dice.roll(2));
        }
        nests
    }

    /// `enum ctattr_tstamp`.
    fn instants(&self, [start, stop]: [Instant; 2], dice: &mut Dice) -> Vec<u8> {
        let parts = [(1, start.nanos()), (2, stop.nanos())];
        let said = parts.iter().filter_map(|(kind, at)| Some(attribute(*kind, &(*at)?.to_be_bytes())));
        attribute(outer::TIMESTAMP, &self.join(Place::Timestamps, said.collect(), dice))
    }

    /// Attributes of one level in any order, among those that nobody knows, with any of the bits that mean nothing
    /// here. A part that is two attributes of a kind stays together.
    fn join(&self, place: Place, mut parts: Vec<Vec<u8>>, dice: &mut Dice) -> Vec<u8> {
        let unknown = self.unknown.iter().filter(|unknown| unknown.place == place);
        // Below 0x100 kernels have kinds of their own.
        parts.extend(unknown.map(|unknown| attribute(0x100 | unknown.kind, &unknown.value)));
        dice.shuffle(&mut parts);
        for part in &mut parts {
            // `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`, the upper two bits of the kind, which is in the host's order.
            let kind = u16::from_ne_bytes([part[2], part[3]]);
            let flags = [0, 0x4000, 0x8000, 0xc000][dice.roll(4)];
            part[2..4].copy_from_slice(&(kind & 0x3fff | flags).to_ne_bytes());
        }
        parts.concat()
    }
}

impl Direction {
    /// `enum ctattr_l4proto`.
    fn parts(&self, fault: Option<&Fault>, dice: &mut Dice) -> Vec<Vec<u8>> {
        let icmp = |first: u16, (id, kind, code): (u16, u8, u8)| {
            vec![
                attribute(first, &id.to_be_bytes()),
                attribute(first + 1, &[kind]),
                attribute(first + 2, &[code]),
            ]
        };
        let l4 = match (fault, self.l4) {
            (Some(Fault::OnePort), _) => Layer4::Ports { src: 1, dst: 2 },
            (Some(Fault::HalfAnIcmp), _) => Layer4::Icmp { id: 1, kind: 8, code: 0 },
            (_, l4) => l4,
        };
        let mut parts = match l4 {
            Layer4::None => Vec::new(),
            Layer4::Ports { src, dst } => {
                vec![attribute(2, &src.to_be_bytes()), attribute(3, &dst.to_be_bytes())]
            }
            Layer4::Icmp { id, kind, code } => icmp(4, (id, kind, code)),
            Layer4::IcmpV6 { id, kind, code } => icmp(7, (id, kind, code)),
        };
        if matches!(fault, Some(Fault::OnePort | Fault::HalfAnIcmp)) {
            parts.remove(dice.roll(parts.len()));
        }
        if !matches!(fault, Some(Fault::NoProtocol)) {
            parts.push(attribute(1, &[self.protocol]));
        }
        parts
    }
}

impl Tally {
    /// Bytes, then packets.
    fn parts(self) -> [Vec<u8>; 2] {
        match self {
            Self::Wide { bytes, packets } => {
                [attribute(2, &bytes.to_be_bytes()), attribute(1, &packets.to_be_bytes())]
            }
            Self::Narrow { bytes, packets } => {
                [attribute(4, &bytes.to_be_bytes()), attribute(3, &packets.to_be_bytes())]
            }
        }
    }
}
