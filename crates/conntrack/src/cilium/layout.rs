//! What counters mean, by who writes them now and who wrote them before.
//!
//! Up to 1.15 ("directional") Cilium counts what an endpoint receives at offset 0 of a value and what it sends at 16.
//! From 1.16 on ("combined") it counts both at 16, and offset 0 stays 0, until 1.19 puts an address there. Entries outlive
//! the release that made them, so one of an older release has a part at offset 0 that no longer grows. A rule for each
//! case, chosen for each read by [`Reading::choose`]:
//!
//! | who writes | entry | is |
//! |---|---|---|
//! | ≤ 1.15 | any | sent and received |
//! | 1.16 – 1.18 | any | a total, at 16 and at 0 |
//! | ≥ 1.19 | with room for an address | a total, at 16 |
//! | ≥ 1.19 | other | a total, at 16 and at 0 |
//! | unknown | any | a total, at 16 and at 0; at 16 alone where an address stands |
//!
//! Who writes is said by the operator, else by the agent, else by its configuration on disk, else by counters at offset 0
//! that grow while we look, where no agent was ever heard of. Nothing is guessed: what nobody says is a total. Nor does
//! what is said hold for every row:
//!
//! - A roll-back leaves entries behind that hold sums, and programs that go on adding to them until each endpoint has
//!   its own anew. Where a later release was heard of before, no direction is told any more.
//! - An agent up to 1.15 may have followed a later release before we looked. A row that such an agent's programs cannot
//!   have written is a total.
//! - Counters that grow say who writes for one endpoint, since an upgrade moves one after another. Rows of others are totals.

use std::fmt;

use egressd_flow::Counter;

/// How counters lie in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Sent and received, apart.
    Directional,
    /// Both in one.
    Combined,
    /// Either.
    Unknown,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directional => "directional",
            Self::Combined => "combined",
            Self::Unknown => "unknown",
        })
    }
}

/// A release of Cilium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// 1.
    pub major: u32,
    /// What layouts change by.
    pub minor: u32,
}

impl Release {
    const FIRST_COMBINED: Self = Self { major: 1, minor: 16 };
    /// By whose configuration on disk the layout is known.
    pub(super) const FIRST_CONFIGURED: Self = Self { major: 1, minor: 17 };
    const FIRST_WITH_ADDRESSES: Self = Self { major: 1, minor: 19 };

    fn layout(self) -> Layout {
        if self < Self::FIRST_COMBINED { Layout::Directional } else { Layout::Combined }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the operator says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Whoever else knows decides.
    Auto,
    /// This layout.
    Is(Layout),
}

/// Whether Cilium counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// It does.
    On,
    /// It does not: counters stand still, or keep one packet.
    Off,
}

/// Which clock lifetimes are by. Reading needs neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Seconds of the monotonic clock.
    Ktime,
    /// The kernel's ticks, in 256s.
    Jiffies,
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ktime => "ktime",
            Self::Jiffies => "jiffies",
        })
    }
}

/// What was heard of Cilium before a read, from whoever knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tells {
    /// By the agent.
    pub release: Option<Release>,
    /// The configuration on disk has a key that came with 1.17.
    pub since_1_17: bool,
    /// Counters at offset 0 grew since the last read.
    pub first_grew: bool,
    /// By the agent, or by its configuration on disk.
    pub accounting: Option<Accounting>,
    /// By the agent, or by its configuration on disk.
    pub clock: Option<Clock>,
}

/// The rules of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Of the one that writes now.
    pub layout: Layout,
    /// Accounting is known to be off.
    pub(super) counts_nothing: bool,
    /// What may be an address is one: a release that puts them before counters has written here.
    has_addresses: bool,
    /// Who said so.
    pub(super) said_by: SaidBy,
}

/// Where a layout is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SaidBy {
    Operator,
    Agent(Release),
    /// By an agent of this release, after a later one that counts in another way.
    RolledBack(Release),
    Configuration,
    Growth,
    Nobody,
}

impl fmt::Display for SaidBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("by --cilium-layout"),
            Self::Agent(release) => write!(f, "by its agent, which is {release}"),
            Self::RolledBack(release) => write!(
                f,
                "since its agent is {release}, and a release that counts both directions in one wrote here before"
            ),
            Self::Configuration => f.write_str("by its configuration on disk, which is of 1.17 or later"),
            Self::Growth => f.write_str("by counters that grow"),
            Self::Nobody => f.write_str("since neither its agent nor its configuration can be asked"),
        }
    }
}

impl Reading {
    /// The rules for a read. `newest` is the newest release that was heard of so far: what it wrote is still there.
    #[must_use]
    pub fn choose(choice: Choice, tells: &Tells, newest: Option<Release>) -> Self {
        let combined_before = newest.is_some_and(|newest| newest.layout() == Layout::Combined);
        let (layout, said_by) = match (choice, tells) {
            (Choice::Is(layout), _) => (layout, SaidBy::Operator),
            (_, Tells { release: Some(release), .. })
                if combined_before && release.layout() == Layout::Directional =>
            {
                (Layout::Unknown, SaidBy::RolledBack(*release))
            }
            (_, Tells { release: Some(release), .. }) => (release.layout(), SaidBy::Agent(*release)),
            (_, Tells { since_1_17: true, .. }) => (Layout::Combined, SaidBy::Configuration),
            // An agent that went away may be one that is replaced, and its successor counts for one endpoint after another.
            (_, Tells { first_grew: true, .. }) if newest.is_none() => (Layout::Directional, SaidBy::Growth),
            _ => (Layout::Unknown, SaidBy::Nobody),
        };
        let has_addresses = newest.max(tells.release) >= Some(Release::FIRST_WITH_ADDRESSES);
        let counts_nothing = tells.accounting == Some(Accounting::Off);
        Self { layout, counts_nothing, has_addresses, said_by }
    }

    /// For a row of which nobody knows who writes it.
    pub(super) fn without_direction(self) -> Self {
        Self { layout: Layout::Unknown, ..self }
    }

    /// Whether every row is what the layout makes of it, whatever it looks like.
    pub(super) fn is_by_operator(self) -> bool {
        self.said_by == SaidBy::Operator
    }

    /// Whether `first`, which is not zero, is counters in a row that may hold an address there. What the release says is not
    /// enough: one of 1.19 or later may have been rolled back before anybody looked.
    ///
    /// Read as counters, an IPv6 address is 2^40 packets or more unless the bytes 5 to 7 are 0, and 2^50 bytes or more
    /// unless 14 and 15 are: so one whose fourth and eighth group are 0 passes for counters, and no other.
    pub(super) fn counts_where_addresses_may_be(self, first: Counter) -> bool {
        !self.has_addresses && first.packets < 1 << 40 && first.bytes < 1 << 50
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(minor: u32) -> Option<Release> {
        Some(Release { major: 1, minor })
    }

    /// Goal: the operator is believed before the agent, the agent before its files, these before what grows, and nobody's
    /// word is an unknown layout.
    #[test]
    fn who_writes_is_said_in_order() {
        let nothing = Tells::default();
        for (choice, tells, layout) in [
            (Choice::Auto, nothing, Layout::Unknown),
            (Choice::Auto, Tells { first_grew: true, ..nothing }, Layout::Directional),
            (Choice::Auto, Tells { since_1_17: true, first_grew: true, ..nothing }, Layout::Combined),
            (Choice::Auto, Tells { release: release(11), since_1_17: true, ..nothing }, Layout::Directional),
            (Choice::Auto, Tells { release: release(15), ..nothing }, Layout::Directional),
            (Choice::Auto, Tells { release: release(16), first_grew: true, ..nothing }, Layout::Combined),
            (Choice::Auto, Tells { release: release(20), ..nothing }, Layout::Combined),
            (
                Choice::Auto,
                Tells { release: Some(Release { major: 2, minor: 0 }), ..nothing },
                Layout::Combined,
            ),
            (Choice::Is(Layout::Directional), Tells { release: release(18), ..nothing }, Layout::Directional),
            (Choice::Is(Layout::Combined), Tells { first_grew: true, ..nothing }, Layout::Combined),
        ] {
            assert_eq!(Reading::choose(choice, &tells, tells.release).layout, layout, "{choice:?} {tells:?}");
        }
    }

    /// Goal: an agent that came after a release which counts in another way says nothing of who writes; the operator does.
    #[test]
    fn a_roll_back_says_no_direction() {
        for (told, newest, layout) in [
            (release(15), release(15), Layout::Directional),
            (release(15), release(16), Layout::Unknown),
            (release(14), release(20), Layout::Unknown),
            (release(16), release(18), Layout::Combined),
        ] {
            let tells = Tells { release: told, ..Tells::default() };
            assert_eq!(Reading::choose(Choice::Auto, &tells, newest).layout, layout, "{told:?} {newest:?}");
            let by_operator = Reading::choose(Choice::Is(Layout::Directional), &tells, newest);
            assert_eq!(by_operator.layout, Layout::Directional);
        }
    }

    /// Goal: an address is told from counters by the release, also when that is gone, and else by what no counter can be.
    #[test]
    fn an_address_is_not_taken_for_counters() {
        let counter = |packets, bytes| Counter { packets, bytes };
        let (few, many) = (counter(7, 9178), counter(0x0100_0000_1000_00fd, 11 << 56));
        for (told, newest, first, counts) in [
            (release(18), release(18), few, true),
            (release(18), release(18), many, false),
            (release(19), release(19), few, false),
            (release(18), release(19), few, false),
            (None, release(19), few, false),
            (None, release(18), few, true),
            (None, None, few, true),
            (None, None, many, false),
            (None, None, counter(7, 1 << 50), false),
        ] {
            let tells = Tells { release: told, ..Tells::default() };
            let reading = Reading::choose(Choice::Auto, &tells, newest);
            assert_eq!(reading.counts_where_addresses_may_be(first), counts, "{told:?} {newest:?} {first:?}");
        }
    }
}
