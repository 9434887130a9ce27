//! What is written reads back equal, and nothing else makes it panic.

use proptest::prelude::*;

use super::taken;
use crate::batch::{self, Encoder};
use crate::code::{In, Out};
use crate::frame::Pieces;
use crate::watermarks::Watermarks;

fn encoded(records: usize) -> Vec<u8> {
    let (taken, mut bytes) = (taken(1, "node", 2, 3, records), Vec::new());
    Encoder::default().encode(taken.epoch, taken.sequence, &taken.batch, &mut bytes);
    bytes
}

/// Goal: batches of every shape of record read back equal, also when one encoder writes several.
#[test]
fn batches_read_back_equal() {
    let (mut encoder, mut bytes) = (Encoder::default(), Vec::new());
    let written: Vec<_> =
        (1..).zip([0, 1, 5, 300]).map(|(position, records)| taken(position, "n", 9, 8, records)).collect();
    for taken in &written {
        encoder.encode(taken.epoch, taken.sequence, &taken.batch, &mut bytes);
    }
    let mut input = In(&bytes);
    for taken in &written {
        let (label, rest) = batch::split(&mut input).unwrap();
        assert_eq!((label.epoch, label.sequence), (taken.epoch, taken.sequence));
        assert_eq!(batch::decode(label, rest).as_ref(), Some(&*taken.batch));
    }
    assert!(input.0.is_empty());
}

/// Goal: a varint of any length reads back, and one of more than 64 bits does not.
#[test]
fn varints_have_64_bits() {
    for value in (0..64).map(|bits| u64::MAX >> bits).chain([0]) {
        let mut bytes = Vec::new();
        Out(&mut bytes).varint(value);
        assert_eq!(In(&bytes).varint(), Some(value));
        assert_eq!(In(&bytes[1..]).varint().filter(|_| bytes.len() == 1), None);
    }
    assert_eq!(In(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]).varint(), None);
}

proptest! {
    /// Goal: no bytes make reading panic, be they far from what is written or near.
    #[test]
    fn no_bytes_make_reading_panic(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let mut near = encoded(12);
        let place = at.index(near.len());
        near[place] ^= flip;
        for bytes in [noise, near] {
            let mut input = In(&bytes);
            while let Some((label, rest)) = batch::split(&mut input) {
                drop(batch::decode(label, rest));
            }
            drop(Watermarks::read(&mut In(&bytes)));
            let pieces = Pieces::of(&bytes).count();
            prop_assert!(pieces <= 1, "there is no frame in it");
        }
    }
}
