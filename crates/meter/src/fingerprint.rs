//! What stands for an entry's identity in the table: 128 bits under a secret key.
//!
//! SipHash-1-3 of the identity's packed form. The packing is injective, so two identities share a fingerprint only
//! by chance: of n live entries, some two with a probability of at most n² / 2^129 (1.5 · 10^−27 for a million), and
//! a new one with any of them of n / 2^128 (a year of 100,000 new entries a second beside a million: 10^−20).
//! Nobody who does not know the key can do better. Bound: 56 bytes on the stack.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};

use egressd_flow::{EntryId, L4};
use foldhash::fast::FixedState;
use siphasher::sip128::SipHasher13;

/// Two IPv6 addresses, a kernel id and a start.
const PACKED_WORDS_MAX: usize = 1 + 2 + 2 + 1 + 1;

/// Stands for an [`EntryId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fingerprint(pub(crate) u128);

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0);
    }
}

/// For hash tables keyed by fingerprints, whose own bits are as good as random.
pub(crate) type Keyed = BuildHasherDefault<Passthrough>;

/// Takes a fingerprint's low half for its hash.
#[derive(Default)]
pub(crate) struct Passthrough(u64);

impl Hasher for Passthrough {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("a fingerprint is written as one u128");
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half of a uniform hash is a uniform hash")]
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

/// Makes fingerprints under one key.
pub(crate) struct Fingerprints {
    key: [u8; 16],
    keyed: SipHasher13,
}

impl Fingerprints {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self { key, keyed: SipHasher13::new_with_key(&key) }
    }

    /// For tables whose keys peers choose. Seeded by the secret key and by nothing else: the same key and the same input
    /// give the same batches, record for record.
    pub(crate) fn seeded(&self) -> FixedState {
        FixedState::with_seed(self.keyed.hash(b"tables").h1)
    }

    /// The key, without which fingerprints that were kept mean nothing.
    pub(crate) fn key(&self) -> [u8; 16] {
        self.key
    }

    pub(crate) fn of(&self, id: &EntryId) -> Fingerprint {
        let packed = Packed::new(id);
        Fingerprint(self.keyed.hash(packed.bytes()).as_u128())
    }
}

/// An identity as words. The first says which fields follow, and so the length and meaning of the rest.
///
/// Words, since what is stored as a word can be loaded as one at once.
struct Packed {
    words: [[u8; 8]; PACKED_WORDS_MAX],
    length: usize,
}

impl Packed {
    #[inline]
    fn new(id: &EntryId) -> Self {
        let EntryId { original, kernel_id, start } = id;
        let (l4_kind, l4) = layer4(original.l4);
        let shape = u8::from(original.src.is_ipv6())
            | u8::from(original.dst.is_ipv6()) << 1
            | u8::from(kernel_id.is_some()) << 2
            | u8::from(start.is_some()) << 3
            | l4_kind << 4;
        let [ct_zone_low, ct_zone_high] = original.ct_zone.0.to_le_bytes();
        let head = u32::from_le_bytes([shape, original.protocol.0, ct_zone_low, ct_zone_high]);
        let mut packed = Self { words: [[0; 8]; PACKED_WORDS_MAX], length: 0 };
        packed.push(pair(head, l4));
        match (original.src, original.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => packed.push(pair(number(src), number(dst))),
            (src, dst) => [src, dst].into_iter().for_each(|address| packed.push_wide(address)),
        }
        if let Some(kernel_id) = *kernel_id {
            packed.push(kernel_id);
        }
        if let Some(start) = *start {
            packed.push(start.0);
        }
        packed
    }

    #[inline]
    fn push(&mut self, word: u64) {
        self.words[self.length] = word.to_le_bytes();
        self.length += 1;
    }

    #[inline]
    fn push_wide(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => [u64::from(number(address)), 0].map(|word| self.push(word)),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
                [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]]
                    .map(|word| self.push(u64::from_le_bytes(word)))
            }
        };
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.words[..self.length].as_flattened()
    }
}

/// Two halves of a word, the first in front.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << u32::BITS
}

fn number(address: Ipv4Addr) -> u32 {
    u32::from_le_bytes(address.octets())
}

/// Which kind it is, and its fields.
fn layer4(l4: L4) -> (u8, u32) {
    match l4 {
        L4::None => (0, 0),
        L4::Ports { src, dst } => (1, u32::from(src) | u32::from(dst) << u16::BITS),
        L4::Icmp { id, kind, code } => {
            let [a, b] = id.to_le_bytes();
            (2, u32::from_le_bytes([a, b, kind, code]))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use egressd_flow::Entry;

    use super::*;

    /// Goal: identities that differ in any one field differ as bytes, and so all that is left is chance.
    #[test]
    fn the_packing_tells_identities_apart() {
        let entries = [
            "tcp 10.0.0.1:1>10.0.0.2:2",
            "udp 10.0.0.1:1>10.0.0.2:2",
            "tcp 10.0.0.3:1>10.0.0.2:2",
            "tcp 10.0.0.1:1>10.0.0.3:2",
            "tcp 10.0.0.1:2>10.0.0.2:2",
            "tcp 10.0.0.1:1>10.0.0.2:1",
            "tcp 10.0.0.1:1>10.0.0.2:2 id=1",
            "tcp 10.0.0.1:1>10.0.0.2:2 id=0",
            "tcp 10.0.0.1:1>10.0.0.2:2 start=1",
            "tcp 10.0.0.1:1>10.0.0.2:2 start=2",
            "tcp 10.0.0.1:1>10.0.0.2:2 id=1 start=1",
            "tcp [fd00::1]:1>[fd00::2]:2",
            "tcp [fd00::1]:1>[fd00::2]:2 id=1 start=1",
        ];
        let mut ids: Vec<EntryId> = entries
            .iter()
            .map(|text| text.parse::<Entry>().unwrap_or_else(|_| panic!("{text} is no entry")).id)
            .collect();
        for (l4, ct_zone) in
            [(L4::None, 0), (L4::Icmp { id: 1, kind: 2, code: 0 }, 0), (L4::Ports { src: 1, dst: 2 }, 9)]
        {
            let mut id = ids[0];
            (id.original.l4, id.original.ct_zone.0) = (l4, ct_zone);
            ids.push(id);
        }
        let packed: BTreeSet<Vec<u8>> = ids.iter().map(|id| Packed::new(id).bytes().to_vec()).collect();
        assert_eq!(packed.len(), ids.len());
        let lengths: BTreeSet<usize> = packed.iter().map(Vec::len).collect();
        assert_eq!(lengths, BTreeSet::from([16, 24, 32, 40, 56]));
    }

    /// Goal: the key decides, so that nobody outside can choose who collides.
    #[test]
    fn another_key_gives_another_fingerprint() {
        let id = "tcp 10.0.0.1:1>10.0.0.2:2 id=1 start=1".parse::<Entry>().unwrap().id;
        let of = |key| {
            let fingerprints = Fingerprints::new([key; 16]);
            assert_eq!(fingerprints.key(), [key; 16]);
            fingerprints.of(&id)
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    /// Goal: a kept state means what it meant: the fingerprint of an identity never changes under a key.
    #[test]
    fn fingerprints_are_what_they_were_in_states_that_were_kept() {
        let kept = [
            ("tcp 10.0.0.1:1>10.0.0.2:2 id=1 start=1", 0x552a_c3b3_14e5_b142_54a2_78f4_43b1_b278),
            ("tcp [fd00::1]:1>[fd00::2]:2 id=1 start=1", 0xcd8f_1f24_dbd5_1580_77a5_c8ba_3796_902a),
        ];
        for (entry, fingerprint) in kept {
            let id = entry.parse::<Entry>().unwrap().id;
            assert_eq!(Fingerprints::new([7; 16]).of(&id), Fingerprint(fingerprint), "{entry}");
        }
    }
}
