//! A cluster with both daemons, on which one scenario after the other is measured.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use egressd_testbed::topology::NODES;
use egressd_testbed::{
    CONFIG_WITHOUT_SINKS, Cluster, Comparison, Daemon, Daemons, Error, Flows, Load, Programs, Volume,
    init_nodes, now, wait_for,
};

use crate::accuracy::matrix::{Group, Reads, Scenario, plans};
use crate::accuracy::report::{Figures, Row};
use crate::accuracy::stream::Stream;
use crate::accuracy::witness::Witness;
use crate::accuracy::{disturbance, say};

const READY_WITHIN: Duration = Duration::from_secs(30);
/// From the end of the traffic until every byte must be exported, beside one read interval.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// The same where a difference may stay.
const SETTLED_WITHIN_BOUND: Duration = Duration::from_secs(6);
/// What a collector handed over when it ended is on the page within this.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks whether everything still runs.
const WATCH: Duration = Duration::from_millis(250);

/// The cluster, its daemons, and how far truth and claim had come when the last scenario was over.
pub(crate) struct Stand<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) group: &'c Group,
    pub(crate) daemons: Daemons<'c>,
    programs: &'c Programs,
    truth: Flows,
    exported: Flows,
}

impl<'c> Stand<'c> {
    /// Starts the daemons as they run on a node: `init`, the exporter, then the collectors.
    pub(crate) fn start(
        cluster: &'c Cluster,
        programs: &'c Programs,
        group: &'c Group,
    ) -> Result<Self, Error> {
        for (node, (name, value)) in
            NODES.iter().flat_map(|node| group.timeouts.sysctls().iter().map(move |sysctl| (node, sysctl)))
        {
            cluster.set_sysctl(node.name, name, value)?;
        }
        init_nodes(cluster, &programs.collector)?;
        let exporter = Daemon::exporter(cluster, &programs.exporter, CONFIG_WITHOUT_SINKS, &[])?;
        let daemons = Daemons { exporter, collectors: Vec::new() };
        let (truth, exported) = (Flows::default(), Flows::default());
        let mut stand = Self { cluster, group, daemons, programs, truth, exported };
        for node in const { &NODES } {
            let collector = stand.start_collector(node.name)?;
            stand.daemons.collectors.push(collector);
        }
        stand.daemons.all_mut().try_for_each(|daemon| daemon.wait_ready(READY_WITHIN))?;
        Ok(stand)
    }

    /// Starts a collector on a node, with the state that the one before it left there.
    pub(crate) fn start_collector(&self, node: &'static str) -> Result<Daemon<'c>, Error> {
        let state: PathBuf = self.cluster.directory().join(format!("state-{node}"));
        let state = state.to_string_lossy();
        let more = &["--state-dir", &*state];
        match self.group.reads {
            Reads::EverySecond => Daemon::collector(self.cluster, &self.programs.collector, node, more),
            Reads::ByDefault => {
                Daemon::collector_of_default_interval(self.cluster, &self.programs.collector, node, more)
            }
        }
    }

    /// Runs a scenario and waits until what it sent is exported, or must have been.
    pub(crate) fn measure(&mut self, scenario: Scenario) -> Result<Row, Error> {
        let name = format!("{scenario:?}");
        let witness =
            scenario.ends_amid_traffic().then(|| Witness::start(self.cluster, &name)).transpose()?;
        let stream = scenario.restarts().then(|| Stream::of(self)).transpose()?;
        let mut load = self.start_load(scenario)?;
        let began = now();
        let disturbed = disturbance::disturb(self, &mut load, scenario)?;
        let took = began.elapsed();
        let reports = if scenario.may_fail() { load.finish_with_failures() } else { load.finish() }?;
        let conversations = reports.iter().flat_map(|(_, items)| items).map(|item| item.conversations).sum();

        let comparison = self.settle(disturbed.bound_bytes)?;
        let figures = Figures::of(&comparison, disturbed.bound_bytes, conversations);
        let figures = match witness {
            Some(mut witness) => figures.within_what_was_told(witness.told_bytes()?),
            None => figures,
        };
        let figures = match stream {
            Some(before) => {
                let (note, faults) = Stream::of(self)?.since(&before);
                figures.noted(note, faults)
            }
            None => figures,
        };
        let note = match scenario {
            Scenario::Churn => format!("{} opened a second", conversations / took.as_secs().max(1)),
            _ => disturbed.note,
        };
        Ok(Row::measured(self.group, scenario, figures.noted(note, disturbed.fault)))
    }

    fn start_load(&self, scenario: Scenario) -> Result<Load, Error> {
        Load::start(self.cluster, &self.programs.testbed, &plans(scenario, self.group.timeouts))
    }

    /// Lets time pass in which everything must run.
    pub(crate) fn pass(&mut self, time: Duration, load: &mut Load) -> Result<(), Error> {
        let end = now() + time;
        while now() < end {
            self.daemons.check_running()?;
            load.check_running()?;
            thread::sleep(WATCH.min(end.saturating_duration_since(now())));
        }
        Ok(())
    }

    /// How far truth and claim grew since the last scenario: without a difference, or at the deadline.
    fn settle(&mut self, bound_bytes: u64) -> Result<Comparison, Error> {
        let settled_within = if bound_bytes > 0 { SETTLED_WITHIN_BOUND } else { SETTLED_WITHIN };
        let mut last = (Flows::default(), Flows::default(), Comparison::default());
        let settled = wait_for("the last byte", self.group.reads.interval() + settled_within, || {
            self.daemons.check_running()?;
            let (truth, exported) = (self.cluster.truth()?, self.daemons.exporter.flows()?);
            let comparison = Comparison::of(&grown(&truth, &self.truth)?, &grown(&exported, &self.exported)?);
            let difference = comparison.difference_bytes();
            last = (truth, exported, comparison);
            Ok(if difference == 0 { Ok(()) } else { Err(format!("{difference} bytes differ")) })
        });
        let (truth, exported, comparison) = last;
        (self.truth, self.exported) = (truth, exported);
        match settled {
            Ok(()) => Ok(comparison),
            Err(Error::Timeout { .. }) => {
                if comparison.difference_bytes() > bound_bytes {
                    say(&self.daemons.log_tails());
                }
                Ok(comparison)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the daemons. What came after the last scenario was settled, the collectors' last words included, must say
    /// nothing more.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        self.daemons.collectors.iter_mut().try_for_each(Daemon::end)?;
        thread::sleep(LAST_WORDS);
        let (truth, exported) = (self.cluster.truth()?, self.daemons.exporter.flows()?);
        let comparison = Comparison::of(&grown(&truth, &self.truth)?, &grown(&exported, &self.exported)?);
        let difference = comparison.difference_bytes();
        if difference > 0 {
            let what = "totals that are over when the traffic is";
            return Err(Error::Malformed {
                what,
                found: format!("{difference} bytes more after the last scenario"),
            });
        }
        self.daemons.end()
    }
}

/// What each flow has beyond `before`; a total that fell or went is no total.
fn grown(flows: &Flows, before: &Flows) -> Result<Flows, Error> {
    let mut grown = flows.clone();
    for (key, earlier) in &before.0 {
        let fell = || Error::Malformed { what: "a total that only grows", found: key.to_string() };
        let volume = grown.0.get_mut(key).ok_or_else(fell)?;
        let less = |now: u64, then| now.checked_sub(then).ok_or_else(fell);
        *volume = Volume {
            tx_bytes: less(volume.tx_bytes, earlier.tx_bytes)?,
            tx_packets: less(volume.tx_packets, earlier.tx_packets)?,
            rx_bytes: less(volume.rx_bytes, earlier.rx_bytes)?,
            rx_packets: less(volume.rx_packets, earlier.rx_packets)?,
        };
    }
    Ok(grown)
}
