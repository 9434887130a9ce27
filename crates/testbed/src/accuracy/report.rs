//! What was measured, as a table and as JSON, and what of it does not pass.

use std::fmt;

use egressd_testbed::{Comparison, Error, Volume};
use serde::Serialize;

use crate::accuracy::matrix::{Group, Scenario};

/// One scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    scenario: String,
    timeouts: String,
    read_interval_seconds: u64,
    #[serde(flatten)]
    figures: Figures,
}

/// Bytes sent and received, headers included, summed over the pods of both nodes.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// What nft counted.
    truth_bytes: u64,
    /// What the exporter says.
    measured_bytes: u64,
    /// Summed over flows, sent and received each, so that errors cannot cancel out.
    difference_bytes: u64,
    /// What the difference may be: 0 where the kernel makes all of it knowable.
    bound_bytes: u64,
    /// Connections and UDP sockets that the senders opened.
    conversations: u64,
    /// What happened to the traffic, in figures; empty when nothing did.
    note: String,
    /// The flows that differ.
    #[serde(skip)]
    differing: Vec<String>,
    /// What the scenario had to bring about and did not.
    #[serde(skip)]
    faults: Vec<String>,
}

impl Figures {
    /// Of truth against claim. Traffic over one family alone is a fault, and so is a byte too many, whatever the bound:
    /// it is there for what is missing.
    pub(crate) fn of(comparison: &Comparison, bound_bytes: u64, conversations: u64) -> Self {
        let sum = |volume: fn(&egressd_testbed::Row) -> Volume, v6: Option<bool>| -> u64 {
            let rows = comparison.rows.iter();
            let rows = rows.filter(|row| v6.is_none_or(|v6| row.key.local.is_ipv6() == v6));
            rows.map(volume).map(|volume| volume.tx_bytes + volume.rx_bytes).sum()
        };
        let families = [("IPv4", false), ("IPv6", true)].into_iter();
        let missing = families.filter(|(_, v6)| sum(|row| row.truth, Some(*v6)) == 0);
        let missing = missing.map(|(family, _)| format!("no traffic over {family}"));
        let is_more = |row: &&egressd_testbed::Row| {
            row.exported.tx_bytes > row.truth.tx_bytes || row.exported.rx_bytes > row.truth.rx_bytes
        };
        let doubled = comparison.rows.iter().filter(is_more);
        let doubled = doubled.map(|row| {
            format!("{}: more than there was: truth {:?}, measured {:?}", row.key, row.truth, row.exported)
        });
        let differing = comparison.rows.iter().filter(|row| row.difference_bytes() > 0);
        let differing =
            differing.map(|row| format!("{}: truth {:?}, measured {:?}", row.key, row.truth, row.exported));
        Self {
            truth_bytes: sum(|row| row.truth, None),
            measured_bytes: sum(|row| row.exported, None),
            difference_bytes: comparison.difference_bytes(),
            bound_bytes,
            conversations,
            note: String::new(),
            faults: missing.chain(doubled).collect(),
            differing: differing.collect(),
        }
    }

    /// Where the kernel itself told less than nft counted, no reader of it can say more.
    pub(crate) fn within_what_was_told(mut self, told_bytes: u64) -> Self {
        let untold = self.truth_bytes.saturating_sub(told_bytes);
        if untold > 0 {
            self.note = format!("the kernel told {untold} B less than nft counted");
            self.bound_bytes += untold;
        }
        self
    }

    /// With what happened to the traffic, before what is noted already.
    pub(crate) fn noted(mut self, note: String, faults: impl IntoIterator<Item = String>) -> Self {
        self.note =
            [note, self.note].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        self.faults.extend(faults);
        self
    }
}

impl Row {
    /// Of a scenario that ran.
    pub(crate) fn measured(group: &Group, scenario: Scenario, figures: Figures) -> Self {
        let read_interval_seconds = group.reads.interval().as_secs();
        let (scenario, timeouts) = (scenario.to_string(), group.timeouts.to_string());
        Self { scenario, timeouts, read_interval_seconds, figures }
    }

    fn faults(&self) -> impl Iterator<Item = String> {
        let Self { scenario, timeouts, read_interval_seconds, figures } = self;
        let is_beyond = figures.difference_bytes > figures.bound_bytes;
        let differing = if is_beyond { &figures.differing[..] } else { &[] };
        let faults = &figures.faults;
        faults.iter().chain(differing).map(move |fault| {
            format!("{scenario}, {timeouts} timeouts, read every {read_interval_seconds} s: {fault}")
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scenario, timeouts, read_interval_seconds, figures } = self;
        write!(f, "{scenario:<26} {timeouts:<8} {:>4}", format!("{read_interval_seconds} s"))?;
        let Figures { truth_bytes, measured_bytes, difference_bytes, conversations, note, .. } = figures;
        let share = share(*truth_bytes, *measured_bytes);
        let line = format!(
            " {conversations:>8} {truth_bytes:>12} {measured_bytes:>12} {difference_bytes:>10} {share:>9}  {note}"
        );
        writeln!(f, "{}", line.trim_end())
    }
}

/// In hundredths of a percent, rounded down, so that 100 % says that nothing is missing.
fn share(truth_bytes: u64, measured_bytes: u64) -> String {
    let hundredths = u128::from(measured_bytes) * 10_000 / u128::from(truth_bytes.max(1));
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    short: bool,
    rows: Vec<Row>,
    /// Over all rows.
    truth_bytes: u64,
    difference_bytes: u64,
}

impl Report {
    /// Of these rows, in this order.
    pub(crate) fn of(short: bool, rows: Vec<Row>) -> Self {
        let sum = |of: fn(&Figures) -> u64| rows.iter().map(|row| of(&row.figures)).sum();
        let (truth_bytes, difference_bytes) =
            (sum(|figures| figures.truth_bytes), sum(|figures| figures.difference_bytes));
        Self { short, rows, truth_bytes, difference_bytes }
    }

    /// Why it does not pass; empty when it does.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.rows.iter().flat_map(Row::faults).collect()
    }

    /// One JSON object on one line.
    pub(crate) fn json_line(&self) -> Result<String, Error> {
        let refused = |error: serde_json::Error| Error::Os {
            action: "write",
            subject: "the report".to_owned(),
            source: error.into(),
        };
        Ok(serde_json::to_string(self).map_err(refused)? + "\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<26} {:<8} {:>4} {:>8} {:>12} {:>12} {:>10} {:>9}",
            "SCENARIO", "TIMEOUTS", "READ", "OPENED", "TRUTH B", "MEASURED B", "DIFF B", "SHARE"
        )?;
        self.rows.iter().try_for_each(|row| row.fmt(f))?;
        let (count, truth, difference) = (self.rows.len(), self.truth_bytes, self.difference_bytes);
        writeln!(f, "\n{count} scenarios, {truth} B of truth, difference {difference} B")
    }
}

#[cfg(test)]
mod tests {
    use egressd_testbed::topology::pod_named;
    use egressd_testbed::{FlowKey, Flows};

    use super::*;
    use crate::accuracy::matrix::groups;

    /// What `store-0` sent over each family.
    fn sent(v4_bytes: u64, v6_bytes: u64) -> Flows {
        let pod = pod_named("store-0").unwrap();
        let mut flows = Flows::default();
        for (address, tx_bytes) in pod.addresses.both().into_iter().zip([v4_bytes, v6_bytes]) {
            flows.add(FlowKey::of(pod, address, address, 6), Volume { tx_bytes, ..Volume::default() });
        }
        flows
    }

    /// Goal: a byte too many fails the run always, one that is missing beyond a stated bound; errors of two flows do not
    /// cancel out.
    #[test]
    fn a_byte_beyond_the_bound_fails() {
        for (truth, measured, bound_bytes, difference_bytes, passes) in [
            (sent(10, 20), sent(10, 20), 0, 0, true),
            (sent(10, 20), sent(10, 19), 0, 1, false),
            (sent(10, 20), sent(11, 20), 0, 1, false),
            (sent(10, 20), sent(11, 19), 0, 2, false),
            (sent(10, 20), sent(10, 19), 1, 1, true),
            (sent(10, 20), sent(10, 18), 1, 2, false),
            (sent(10, 20), sent(11, 20), 9, 1, false),
            (sent(10, 20), sent(11, 17), 9, 4, false),
            (sent(10, 0), sent(10, 0), 0, 0, false),
        ] {
            let figures = Figures::of(&Comparison::of(&truth, &measured), bound_bytes, 1);
            let group = &groups(true)[0];
            let rows = vec![Row::measured(group, Scenario::Fin, figures)];
            let report = Report::of(true, rows);
            assert_eq!(report.difference_bytes, difference_bytes, "{report}");
            assert_eq!(report.faults().is_empty(), passes, "{report}");
        }
    }

    /// Goal: 100 % is said of everything only, and a scenario that brought nothing about fails.
    #[test]
    fn shares_round_down_and_idle_disturbances_fail() {
        assert_eq!(share(3, 3), "100.00 %");
        assert_eq!(share(1_000_000, 999_999), "99.99 %");
        assert_eq!(share(0, 0), "0.00 %");
        let both = sent(10, 20);
        let figures = Figures::of(&Comparison::of(&both, &both), 0, 1);
        let figures = figures.noted("0 deleted".to_owned(), Some("nothing was deleted".to_owned()));
        let row = Row::measured(&groups(true)[1], Scenario::Delete, figures);
        let expected = "UDP and conntrack -D, short timeouts, read every 1 s: nothing was deleted";
        assert_eq!(row.faults().collect::<Vec<_>>(), [expected]);
        assert_eq!(
            row.to_string(),
            "UDP and conntrack -D       short     1 s        1           30           30          0  100.00 %  0 deleted\n"
        );
    }
}
