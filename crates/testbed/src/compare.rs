//! Truth against claim, flow by flow.
//!
//! Invariant: a flow that stands on one side only counts in full, so errors that cancel out are seen.

use std::collections::BTreeSet;

use crate::flows::{FlowKey, Flows, Volume};

/// One flow on both sides; zero where it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub key: FlowKey,
    /// What nft counted.
    pub truth: Volume,
    /// What the daemons say.
    pub exported: Volume,
}

impl Row {
    /// |truth − exported| of sent plus of received bytes.
    #[must_use]
    pub fn difference_bytes(&self) -> u64 {
        self.truth.difference_bytes(self.exported)
    }

    /// |truth − exported| of sent plus of received packets.
    #[must_use]
    pub fn difference_packets(&self) -> u64 {
        self.truth.difference_packets(self.exported)
    }
}

/// Every flow of either side, in the order of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The flows.
    pub rows: Vec<Row>,
}

impl Comparison {
    /// Joins both sides by key.
    #[must_use]
    pub fn of(truth: &Flows, exported: &Flows) -> Self {
        let keys: BTreeSet<_> = truth.0.keys().chain(exported.0.keys()).collect();
        let row = |key: &FlowKey| Row {
            key: key.clone(),
            truth: truth.0.get(key).copied().unwrap_or_default(),
            exported: exported.0.get(key).copied().unwrap_or_default(),
        };
        Self { rows: keys.into_iter().map(row).collect() }
    }

    /// The sum over all rows.
    #[must_use]
    pub fn difference_bytes(&self) -> u64 {
        self.rows.iter().map(Row::difference_bytes).sum()
    }

    /// The sum over all rows; for claims that say packets.
    #[must_use]
    pub fn difference_packets(&self) -> u64 {
        self.rows.iter().map(Row::difference_packets).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::PODS;

    fn flows(entries: &[(&str, u64, u64)]) -> Flows {
        let mut flows = Flows::default();
        for (remote, tx_bytes, rx_bytes) in entries {
            let key = FlowKey::of(&PODS[0], PODS[0].addresses.v4.into(), remote.parse().unwrap(), 6);
            flows.add(key, Volume { tx_bytes: *tx_bytes, rx_bytes: *rx_bytes, ..Volume::default() });
        }
        flows
    }

    /// Goal: neither opposite errors nor a missing flow can hide.
    #[test]
    fn errors_do_not_cancel_out() {
        let truth = &[("10.244.1.3", 10, 20), ("10.244.1.4", 5, 5)][..];
        for (name, exported, difference) in [
            ("equal", truth, 0),
            ("tx for rx", &[("10.244.1.3", 20, 10), ("10.244.1.4", 5, 5)], 20),
            ("one flow's bytes on another", &[("10.244.1.3", 15, 20), ("10.244.1.4", 0, 5)], 10),
            ("missing", &[("10.244.1.3", 10, 20)], 10),
            ("invented", &[("10.244.1.3", 10, 20), ("10.244.1.4", 5, 5), ("10.244.2.4", 1, 2)], 3),
        ] {
            let comparison = Comparison::of(&flows(truth), &flows(exported));
            assert_eq!(comparison.difference_bytes(), difference, "{name}");
        }
    }

    /// Goal: the right bytes under a wrong name are an error.
    #[test]
    fn a_wrong_name_is_another_flow() {
        let truth = flows(&[("10.244.1.3", 10, 20)]);
        let mut exported = Flows::default();
        for (key, volume) in &truth.0 {
            exported.add(FlowKey { remote_pod: None, ..key.clone() }, *volume);
        }
        assert_eq!(Comparison::of(&truth, &exported).difference_bytes(), 60);
    }
}
