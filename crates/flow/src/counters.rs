//! Bytes and packets, cumulative or grown.

use std::ops::AddAssign;

/// Bytes and packets of one direction.
///
/// Netfilter counts the IP length with its header (`nf_ct_acct_update`), Cilium the frame. A "packet" is what the
/// kernel saw: with segmentation offload one may hold up to 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counter {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl Counter {
    /// Growth of one node between two cuts is never more: filling 1.6 Tb/s both ways takes 33 days to 2^60 bytes.
    ///
    /// The meter holds no more, and the exporter believes no batch that says more, so a figure that went wrong near
    /// 2^64 reaches no total. A bound by the batch's own span would be wrong: growth that nobody claimed, or that
    /// had no way out, comes late and all at once.
    pub const GROWTH_MAX: Self = Self { bytes: 1 << 60, packets: 1 << 60 };

    /// Whether growth of one node between two cuts can be this, in bytes and in packets.
    ///
    /// The two are not held against each other: the kernel adds a packet before its bytes (`nf_ct_acct_add`), and a
    /// read may fall between.
    #[must_use]
    pub fn can_be_growth(self) -> bool {
        self.bytes <= Self::GROWTH_MAX.bytes && self.packets <= Self::GROWTH_MAX.packets
    }

    /// Growth since `baseline`; `None` when either figure is lower than it was, which is a reset.
    #[must_use]
    pub fn growth(self, baseline: Self) -> Option<Self> {
        let bytes = self.bytes.checked_sub(baseline.bytes)?;
        let packets = self.packets.checked_sub(baseline.packets)?;
        Some(Self { bytes, packets })
    }

    /// True when nothing was counted.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::default()
    }
}

/// Bytes and packets, in this order.
impl From<Counter> for (u64, u64) {
    fn from(counter: Counter) -> Self {
        (counter.bytes, counter.packets)
    }
}

/// Saturates: a figure that has reached 2^64−1 stays there instead of starting again from zero.
impl AddAssign for Counter {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.packets = self.packets.saturating_add(other.packets);
    }
}

/// What a source knows about one entry's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counters {
    /// Each direction is known.
    Directed {
        /// The original direction, or, for a row that has a local end, what that end sent.
        tx: Counter,
        /// The reply direction, or, for a row that has a local end, what that end received.
        rx: Counter,
    },
    /// Only the sum of both directions is known (Cilium 1.16 and later). Never becomes transmit.
    Total {
        /// Where both directions are counted, or all but what is `beside`.
        main: Counter,
        /// The part of the sum that is counted apart: in Cilium's maps what an entry received under a release that
        /// still told the directions apart. `None`: what stands there is something else by now, and no part of it is
        /// growth.
        beside: Option<Counter>,
    },
}

impl Counters {
    /// A sum that is counted in one place.
    #[must_use]
    pub fn total(sum: Counter) -> Self {
        Self::Total { main: sum, beside: Some(Counter::default()) }
    }

    /// Both directions together.
    #[must_use]
    pub fn sum(&self) -> Counter {
        let (mut sum, other) = match *self {
            Self::Directed { tx, rx } => (tx, rx),
            Self::Total { main, beside } => (main, beside.unwrap_or_default()),
        };
        sum += other;
        sum
    }
}

/// Growth of one side, as seen from its local end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    /// Sent by the local end.
    pub tx: Counter,
    /// Received by the local end.
    pub rx: Counter,
    /// Sent or received, the source cannot say which.
    pub undirected: Counter,
}

impl Traffic {
    /// True when nothing was counted in any direction.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.tx.is_zero() && self.rx.is_zero() && self.undirected.is_zero()
    }

    /// The same traffic as the other end sees it.
    #[must_use]
    pub fn flipped(self) -> Self {
        Self { tx: self.rx, rx: self.tx, undirected: self.undirected }
    }

    /// All directions added: the figure in which the books balance.
    #[must_use]
    pub fn sum(&self) -> Counter {
        let mut sum = self.tx;
        sum += self.rx;
        sum += self.undirected;
        sum
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.tx += other.tx;
        self.rx += other.rx;
        self.undirected += other.undirected;
    }
}
