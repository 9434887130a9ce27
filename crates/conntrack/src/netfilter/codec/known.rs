//! The shapes of rows that were met before, found again by comparing headers.
//!
//! Looking into every attribute of a row costs some 140 ns, comparing it with a known shape and reading the fields at
//! their places a third of that (Linux 6.18, rows of 300 bytes).

use std::iter::zip;

use egressd_flow::Entry;

use super::super::ct_zones::CtZones;
use super::Defect;
use super::shape::Shape;

/// Shapes that are kept, each of one family, protocol and set of optional attributes; a row of yet another is looked into.
pub(super) const SHAPES_MAX: usize = 16;
/// A longer row is looked into: with a helper, labels and a security context the kernel writes less.
const BODY_BYTES_MAX: usize = 1024;

const WORD_BYTES: usize = size_of::<u32>();

/// The first rows decide which.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    known: Vec<Known>,
}

impl Shapes {
    /// Reads a row into `entry`, which means nothing where that fails.
    pub(super) fn read(&mut self, body: &[u8], ct_zones: &CtZones, entry: &mut Entry) -> Result<(), Defect> {
        match self.known.iter().find(|known| known.fits(body)) {
            Some(known) => known.shape.read(body, ct_zones, entry)?,
            None => self.learn(body)?.read(body, ct_zones, entry)?,
        };
        Ok(())
    }

    fn learn(&mut self, body: &[u8]) -> Result<Shape, Defect> {
        if self.known.len() == SHAPES_MAX || body.len() > BODY_BYTES_MAX {
            return Shape::of(body, &mut |_| ());
        }
        let known = Known::of(body)?;
        let shape = known.shape;
        self.known.push(known);
        Ok(shape)
    }
}

/// A shape and the headers by which it is known.
#[derive(Debug)]
struct Known {
    shape: Shape,
    body_bytes: usize,
    /// The body that showed it, by words: headers stand at multiples of a word's size (`NLA_ALIGNTO`).
    words: Vec<u32>,
    /// The bits of each word that are of a header.
    header_bits: Vec<u32>,
}

impl Known {
    fn of(body: &[u8]) -> Result<Self, Defect> {
        let words: Vec<u32> = words(body).collect();
        let mut header_bits = vec![0; words.len()];
        let shape = Shape::of(body, &mut |header| header_bits[header / WORD_BYTES] = u32::MAX)?;
        // Family and version, which a body that has a shape has.
        header_bits[0] = u32::from_ne_bytes([0xff, 0xff, 0, 0]);
        Ok(Self { shape, body_bytes: body.len(), words, header_bits })
    }

    fn fits(&self, body: &[u8]) -> bool {
        let known = zip(&self.words, &self.header_bits);
        let differing = zip(words(body), known).map(|(word, (known, bits))| (word ^ known) & bits);
        body.len() == self.body_bytes && differing.fold(0, |all, bits| all | bits) == 0
    }
}

fn words(body: &[u8]) -> impl Iterator<Item = u32> {
    body.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word))
}
