//! Fuzzing of what decodes outside bytes: netlink messages of the kernel's, rows of Cilium's maps, a meter's kept state,
//! and DNS.
//!
//! **What enters**: bytes that a fuzzer, a test or a file of a former finding chose, for one [`Target`].
//! **What leaves**: nothing; a rule that does not hold is a panic, which is what fuzzers look for.
//!
//! `cargo xtask fuzz` builds this crate with `--cfg fuzzing`, instrumented, and lets libFuzzer choose. Anywhere else
//! it is an ordinary crate: its tests run the same targets on the seeds and on a few thousand inputs of their own, and
//! its binary runs them on files.
//!
//! Invariant: the encoder and the walker of frames that decoded values are held against share no line, and no constant,
//! with the decoders. Bound: an input makes a few times its own length of messages or state.

mod cilium;
mod datagram;
mod dns;
mod frames;
mod memory;
mod messages;
mod row;
mod state;
mod wire;

use std::str::FromStr;

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The input is a datagram, for both paths that read one: a dump's and that of ends.
    Datagram,
    /// The input is a recipe of netlink messages, which are encoded, perhaps damaged, and decoded. What was neither
    /// damaged nor wild must come out value for value.
    Messages,
    /// The input is a kept state of a meter. It is refused, or the meter works on with books that balance; the memory
    /// that it takes is bounded by its length.
    State,
    /// The input is who writes Cilium's maps, and one row of them: its key and value.
    Cilium,
    /// The input is a DNS message, or what the tracer's ring holds of some. What comes out keeps to its bounds, is the same on
    /// every way, and the books balance.
    Dns,
}

/// No target has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTarget;

impl Target {
    /// Every target.
    pub const ALL: [Self; 5] = [Self::Datagram, Self::Messages, Self::State, Self::Cilium, Self::Dns];

    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Datagram => "datagram",
            Self::Messages => "messages",
            Self::State => "state",
            Self::Cilium => "cilium",
            Self::Dns => "dns",
        }
    }

    /// Runs it on one input.
    ///
    /// # Panics
    /// When a rule does not hold: that is a finding.
    pub fn run(self, input: &[u8]) {
        match self {
            Self::Datagram => datagram::check(input),
            Self::Messages => messages::check(input),
            Self::State => state::check(input),
            Self::Cilium => cilium::check(input),
            Self::Dns => dns::check(input),
        }
    }

    /// Inputs to begin with: what a real kernel wrote, states that a meter wrote, and messages by
    /// RFC 1035.
    #[must_use]
    pub fn seeds(self) -> Vec<Vec<u8>> {
        match self {
            Self::Datagram => datagram::seeds(),
            Self::Messages => messages::seeds(),
            Self::State => state::seeds(),
            Self::Cilium => cilium::seeds(),
            Self::Dns => dns::seeds(),
        }
    }
}

impl FromStr for Target {
    type Err = UnknownTarget;

    fn from_str(name: &str) -> Result<Self, UnknownTarget> {
        Self::ALL.into_iter().find(|target| target.name() == name).ok_or(UnknownTarget)
    }
}
