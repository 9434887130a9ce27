//! The strings of one request of remote write 2.0, each once, by their number.
//!
//! Invariant: 0 is the empty string, and no two are the same.
//! Bound: the strings of one request; the buffers are kept for the next.

use std::hash::BuildHasher;

use hashbrown::HashTable;
use prost::encoding::encoded_len_varint;

/// Strings, numbered from 0.
#[derive(Debug)]
pub(super) struct Symbols {
    /// All of them, one after the other.
    text: String,
    /// Where each ends in the text.
    ends: Vec<usize>,
    index: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    /// Of all of them in a message: a tag of one byte, the length, the text.
    bytes: usize,
}

impl Symbols {
    /// Only the empty one.
    pub(super) fn new() -> Self {
        let mut symbols = Self {
            text: String::new(),
            ends: Vec::new(),
            index: HashTable::new(),
            hasher: foldhash::fast::RandomState::default(),
            bytes: 0,
        };
        symbols.of("");
        symbols
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Of all of them in a message.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// In the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.ends.len()).map(|at| symbol(&self.text, &self.ends, at))
    }

    /// The number of a string.
    pub(super) fn of(&mut self, text: &str) -> u32 {
        let from = self.text.len();
        self.text.push_str(text);
        self.number(from)
    }

    /// The number of the string that `write` appends, where it says that it did.
    pub(super) fn write(&mut self, write: impl FnOnce(&mut String) -> bool) -> Option<u32> {
        let from = self.text.len();
        write(&mut self.text).then(|| self.number(from))
    }

    /// Of what was appended from there on, which stays only if it is new.
    fn number(&mut self, from: usize) -> u32 {
        let Self { text, ends, index, hasher, bytes } = self;
        let new = text.get(from..).unwrap_or_default();
        let hash = hasher.hash_one(new);
        if let Some(known) = index.find(hash, |at| symbol(text, ends, *at as usize) == new) {
            let known = *known;
            text.truncate(from);
            return known;
        }
        let number = u32::try_from(ends.len()).expect("a request has fewer strings than bytes");
        *bytes += size(new);
        ends.push(text.len());
        index.insert_unique(hash, number, |at| hasher.hash_one(symbol(text, ends, *at as usize)));
        number
    }

    /// Forgets those from a number on.
    pub(super) fn truncate(&mut self, len: usize) {
        for at in len..self.ends.len() {
            let gone = symbol(&self.text, &self.ends, at);
            self.bytes -= size(gone);
            let is_it = |held: &u32| *held as usize == at;
            if let Ok(entry) = self.index.find_entry(self.hasher.hash_one(gone), is_it) {
                entry.remove();
            }
        }
        self.ends.truncate(len);
        self.text.truncate(self.ends.last().copied().unwrap_or_default());
    }
}

fn symbol<'a>(text: &'a str, ends: &[usize], at: usize) -> &'a str {
    let end = ends.get(at).copied().unwrap_or_default();
    let begin = at.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or_default();
    text.get(begin..end).unwrap_or_default()
}

fn size(text: &str) -> usize {
    1 + encoded_len_varint(text.len() as u64) + text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each string has one number, what is forgotten can be numbered again, and the size is that of a message.
    #[test]
    fn each_string_has_one_number() {
        let mut symbols = Symbols::new();
        let long = "x".repeat(200);
        let numbers = ["a", "", "b", "a", &long].map(|text| symbols.of(text));
        assert_eq!(numbers, [1, 0, 2, 1, 3]);
        assert_eq!(symbols.iter().collect::<Vec<_>>(), ["", "a", "b", &long]);
        assert_eq!(symbols.bytes(), 2 + 3 + 3 + 203);
        symbols.truncate(2);
        assert_eq!((symbols.len(), symbols.bytes()), (2, 5));
        assert_eq!(symbols.write(|_| false), None);
        assert_eq!(symbols.of("b"), 2);
        assert_eq!(symbols.iter().collect::<Vec<_>>(), ["", "a", "b"]);
    }
}
