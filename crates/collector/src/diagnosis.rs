//! Why the figures would fall short or be zero, in plain words with the remedy.
//!
//! Each finding has a code, which is a metric's label and stays, and words, which may change.

use std::fmt;
use std::fs;
use std::time::Duration;

use egressd_conntrack::netfilter::{Losses, sysctl};
use egressd_flow::{Counter, Defects, Snapshot};
use egressd_meter::Books;
use egressd_protocol::{Loss, Source, Status};
use egressd_service::lifecycle::chain;

use crate::source::Plan;
use crate::twins::{TUPLES_MAX, Twin, Verdict};

/// Something that keeps bytes from being counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// A switch of the kernel that is not 1: new entries lack what it gives.
    Switch { name: &'static str, value: u32 },
    /// The switches cannot be read.
    NoSwitches { error: String },
    /// Nothing is tracked.
    EmptyTable,
    /// Entries that will never have counters.
    WithoutCounters { entries: u64 },
    /// The table cannot be read.
    Unreadable { error: String },
    /// Nobody can listen for ends.
    Deaf { error: String },
    /// Not the host's network namespace.
    OtherNamespace,
    /// Rows of a kind that this version does not know.
    UnsupportedRows { rows: u64 },
    /// Entries that a flowtable forwards.
    Offloaded { entries: u64 },
    /// Nothing stands in the conntrack zones that are read, and something does elsewhere.
    OtherCtZones { rows: u64 },
    /// Public addresses go without names.
    Untraced { error: String },
    /// Reads are further apart than the source keeps what ended.
    SlowReads { interval: Duration, longest: Duration },
    /// Cilium's maps hold no connection.
    EmptyMaps { passed_over: u64 },
    /// Cilium counts nothing.
    CiliumAccountingOff,
    /// Cilium counts both directions in one.
    Undirected,
    /// Nobody says how Cilium counts.
    UnknownLayout { has_directional_entries: bool },
    /// Cilium tells directions again, and entries of a release that did not are left.
    RolledBack,
    /// Maps of Cilium that this process must not open.
    UnopenedMaps { maps: u64, error: String },
    /// Maps of Cilium that came while netfilter was read, and cannot be.
    UnreadMaps { error: String },
    /// Maps of Cilium that this version does not know.
    ForeignMaps { maps: u64 },
    /// A table of our own programs had no room.
    TableFull { packets: u64, bytes: u64 },
    /// Connections that are counted more than once. Found by `check` alone.
    TwoCtZones { connections: u64, example: Twin },
    /// Rows in which [`Finding::TwoCtZones`] was not looked for. Found by `check` alone.
    UncomparedRows { rows: u64 },
    /// A file of the stream's that is of no use. Found by `check` alone: a running collector reads it at each dial.
    Stream { fault: String },
}

impl Finding {
    /// Every code of what a running collector can find, and of what keeps it from running.
    pub(crate) const CODES: [&'static str; 23] = [
        "acct_off",
        "timestamp_off",
        "events_off",
        "no_switches",
        "empty_table",
        "without_counters",
        "unreadable",
        "deaf",
        "other_namespace",
        "unsupported_rows",
        "offloaded",
        "other_ct_zones",
        "untraced",
        "slow_reads",
        "empty_maps",
        "cilium_accounting_off",
        "undirected",
        "unknown_layout",
        "rolled_back",
        "unopened_maps",
        "unread_maps",
        "foreign_maps",
        "table_full",
    ];

    /// Connections are counted all the same, and rightly: something of them is not told, or some are in no figure, which is said.
    pub(crate) fn is_warning(&self) -> bool {
        match self {
            Self::WithoutCounters { .. }
            | Self::UnsupportedRows { .. }
            | Self::Offloaded { .. }
            | Self::Untraced { .. }
            | Self::SlowReads { .. }
            | Self::EmptyMaps { .. }
            | Self::Undirected
            | Self::UnknownLayout { .. }
            | Self::RolledBack
            | Self::UnopenedMaps { .. }
            | Self::UnreadMaps { .. }
            | Self::ForeignMaps { .. }
            | Self::TableFull { .. }
            | Self::UncomparedRows { .. } => true,
            Self::Switch { .. }
            | Self::NoSwitches { .. }
            | Self::EmptyTable
            | Self::Unreadable { .. }
            | Self::Deaf { .. }
            | Self::OtherNamespace
            | Self::OtherCtZones { .. }
            | Self::CiliumAccountingOff
            | Self::TwoCtZones { .. }
            | Self::Stream { .. } => false,
        }
    }

    /// The value of the metric label `finding`.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Switch { name: sysctl::ACCT, .. } => "acct_off",
            Self::Switch { name: sysctl::TIMESTAMP, .. } => "timestamp_off",
            Self::Switch { .. } => "events_off",
            Self::NoSwitches { .. } => "no_switches",
            Self::EmptyTable => "empty_table",
            Self::WithoutCounters { .. } => "without_counters",
            Self::Unreadable { .. } => "unreadable",
            Self::Deaf { .. } => "deaf",
            Self::OtherNamespace => "other_namespace",
            Self::UnsupportedRows { .. } => "unsupported_rows",
            Self::Offloaded { .. } => "offloaded",
            Self::OtherCtZones { .. } => "other_ct_zones",
            Self::Untraced { .. } => "untraced",
            Self::SlowReads { .. } => "slow_reads",
            Self::EmptyMaps { .. } => "empty_maps",
            Self::CiliumAccountingOff => "cilium_accounting_off",
            Self::Undirected => "undirected",
            Self::UnknownLayout { .. } => "unknown_layout",
            Self::RolledBack => "rolled_back",
            Self::UnopenedMaps { .. } => "unopened_maps",
            Self::UnreadMaps { .. } => "unread_maps",
            Self::ForeignMaps { .. } => "foreign_maps",
            Self::TableFull { .. } => "table_full",
            Self::TwoCtZones { .. } => "two_ct_zones",
            Self::UncomparedRows { .. } => "uncompared_rows",
            Self::Stream { .. } => "stream",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch { name: name @ sysctl::ACCT, value } => write!(
                f,
                "{name} is {value}: connections are not counted; run egressd-collector init on the node, connections \
                 made after it count"
            ),
            Self::Switch { name: name @ sysctl::TIMESTAMP, value } => write!(
                f,
                "{name} is {value}: connections without a start time are taken for as old as the first look at them; \
                 run egressd-collector init on the node"
            ),
            Self::Switch { name, value } => write!(
                f,
                "{name} is {value}: connections made before the collector listens end unheard; run egressd-collector \
                 init on the node"
            ),
            Self::NoSwitches { error } => write!(f, "{error}: this kernel does not track connections"),
            Self::EmptyTable => f.write_str(
                "the conntrack table is empty: no nft or iptables rule of this network namespace tracks connections, \
                 or it is not the one that pods' traffic passes; run on the host's network",
            ),
            Self::WithoutCounters { entries } => write!(
                f,
                "{entries} entries have no counters: they are older than nf_conntrack_acct=1 and count only once \
                 they are made anew"
            ),
            Self::Unreadable { error } => write!(f, "the conntrack table cannot be read: {error}"),
            Self::Deaf { error } => {
                write!(f, "ends of connections cannot be heard, so short ones are lost: {error}")
            }
            Self::OtherNamespace => f.write_str(
                "this is not the host's network namespace: run with hostNetwork, or with hostPID and --host-pid",
            ),
            Self::UnsupportedRows { rows } => {
                write!(f, "{rows} rows of the table are of a kind that this version does not know")
            }
            Self::Offloaded { entries } => write!(
                f,
                "{entries} entries are offloaded to a flowtable: unless that has the counter flag, what it forwards \
                 is counted by nobody; write counter in its definition, connections offloaded after it count"
            ),
            Self::OtherCtZones { rows } => write!(
                f,
                "none of the table's {rows} rows stands in a conntrack zone of --ct-zones: name those that pods' \
                 traffic passes (README, conntrack zones)"
            ),
            Self::Untraced { error } => {
                write!(f, "DNS answers are not traced, so public addresses have no names; bytes are right: {error}")
            }
            Self::SlowReads { interval, longest } => write!(
                f,
                "reads are {} s apart, and what is closed may be gone after {} s: last bytes of connections are missing; \
                 raise --cpu-percent-max, or lower --read-interval",
                interval.as_secs(),
                longest.as_secs()
            ),
            Self::EmptyMaps { passed_over } => write!(
                f,
                "Cilium's conntrack maps hold no connection ({passed_over} rows of services and the like): no pod of \
                 this node has traffic that Cilium sees, or these maps are not in use any more"
            ),
            Self::CiliumAccountingOff => f.write_str(
                "Cilium's conntrack accounting is off: connections are not counted, which does not mean that there is \
                 no traffic; switch it on with bpf.ctAccounting=true in Cilium's Helm values (before 1.17: cilium config \
                 ConntrackAccounting=Enabled at each agent)",
            ),
            Self::Undirected => f.write_str(
                "this Cilium counts what is sent and received in one (1.16 and later): bytes are exported as \
                 egressd_undirected_bytes_total, not as transmitted, and not to CAST AI",
            ),
            Self::UnknownLayout { has_directional_entries } => write!(
                f,
                "nobody says how this Cilium counts{}, so bytes are exported as egressd_undirected_bytes_total until \
                 somebody does: mount its agent's /var/run/cilium, or pass --cilium-layout",
                if *has_directional_entries { ", though a release up to 1.15 did" } else { "" }
            ),
            Self::RolledBack => f.write_str(
                "this Cilium was rolled back from a release that counts what is sent and received in one, so bytes are \
                 exported as egressd_undirected_bytes_total: restart the collector once the agent has regenerated all \
                 endpoints",
            ),
            Self::UnopenedMaps { maps, error } => write!(
                f,
                "what {maps} of Cilium's conntrack maps count is in no figure, since they must not be opened; the others \
                 are complete: {error}; maps of other clusters that are not pinned by themselves need CAP_SYS_ADMIN"
            ),
            Self::UnreadMaps { error } => write!(
                f,
                "maps of Cilium's are there by now, and what Cilium moves is in no figure as long as netfilter is read: \
                 {error}; pass --ct-mode to end the search"
            ),
            Self::ForeignMaps { maps } => write!(
                f,
                "{maps} pinned maps are named like Cilium's conntrack maps and have keys or values of other sizes: this \
                 version does not read them"
            ),
            Self::TableFull { packets, bytes } => write!(
                f,
                "{packets} packets of {bytes} bytes found no room in the counting programs' table and are in no figure: \
                 raise --ebpf-entries-max"
            ),
            Self::TwoCtZones { connections, example: Twin { original, other } } => write!(
                f,
                "{connections} connections stand in more than one conntrack zone and are counted once for each, such \
                 as {} {original} in {} and in {}: pass --ct-zones with the one that pods' traffic passes (README, \
                 conntrack zones)",
                original.protocol, original.ct_zone.0, other.0
            ),
            Self::Stream { fault } => write!(f, "no stream to the exporter can be opened: {fault}"),
            Self::UncomparedRows { rows } => write!(
                f,
                "{rows} rows were not looked at for connections in more than one conntrack zone: the look ends at \
                 {TUPLES_MAX} tuples; pass --ct-zones with one conntrack zone, or look when the table is smaller"
            ),
        }
    }
}

/// What the kernel's switches say.
pub(crate) fn of_switches() -> Vec<Finding> {
    match sysctl::state() {
        Ok(state) => state.wanting().map(|(name, value)| Finding::Switch { name, value }).collect(),
        Err(error) => vec![Finding::NoSwitches { error: chain(&error) }],
    }
}

/// Whether the host's network namespace is another one. Known only where the host's processes are visible; elsewhere
/// process 1 is our own container's.
fn is_other_namespace() -> bool {
    match (fs::read_link("/proc/self/ns/net"), fs::read_link("/proc/1/ns/net")) {
        (Ok(ours), Ok(hosts)) => ours != hosts,
        _ => false,
    }
}

/// What a snapshot says.
pub(crate) fn of_snapshot(snapshot: &Snapshot) -> Vec<Finding> {
    let Defects { without_counters, unsupported, other_ct_zones, .. } = snapshot.defects;
    let mut findings = Vec::new();
    if snapshot.entries == 0 && other_ct_zones > 0 {
        findings.push(Finding::OtherCtZones { rows: other_ct_zones });
    } else if snapshot.entries == 0 {
        findings.push(Finding::EmptyTable);
        if is_other_namespace() {
            findings.push(Finding::OtherNamespace);
        }
    }
    if without_counters > 0 {
        findings.push(Finding::WithoutCounters { entries: without_counters });
    }
    if unsupported > 0 {
        findings.push(Finding::UnsupportedRows { rows: unsupported });
    }
    if snapshot.offloaded > 0 {
        findings.push(Finding::Offloaded { entries: snapshot.offloaded });
    }
    findings
}

/// What the rows of a snapshot say beside each other.
pub(crate) fn of_twins(verdict: &Verdict) -> Vec<Finding> {
    let &Verdict { connections, example, uncompared } = verdict;
    let twins = example.map(|example| Finding::TwoCtZones { connections, example });
    let unknown = (uncompared > 0).then_some(Finding::UncomparedRows { rows: uncompared });
    twins.into_iter().chain(unknown).collect()
}

/// What is known before the first snapshot.
pub(crate) fn starting(plan: &Plan) -> Status {
    let (source, reason) = (plan.mode.source(), plan.reason.clone());
    Status { source, reason, diagnosis: String::new(), losses: Vec::new() }
}

/// How the collector is, for the exporter.
pub(crate) fn status(
    (source, reason): (Source, String),
    findings: &[Finding],
    books: &Books,
    losses: Losses,
    defects: Defects,
) -> Status {
    let words: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let loss = |reason: &str, count: u64| Loss { reason: reason.to_owned(), count, bytes: 0 };
    let losses = [
        loss("lost_ends", losses.events),
        loss("malformed_ends", defects.malformed + defects.unsupported),
        loss("not_admitted", books.not_admitted),
    ];
    Status {
        source,
        reason,
        diagnosis: words.join("; "),
        losses: losses.into_iter().filter(|loss| loss.count > 0).collect(),
    }
}

/// What a source could not count, for the exporter.
pub(crate) fn uncounted(by_reason: &[(&'static str, Counter)]) -> impl Iterator<Item = Loss> {
    let lost = by_reason.iter().filter(|(_, counter)| !counter.is_zero());
    lost.map(|&(reason, Counter { bytes, packets })| Loss {
        reason: reason.to_owned(),
        count: packets,
        bytes,
    })
}

/// What of DNS answers was lost before it was read, for the exporter: names that traffic may be missing.
pub(crate) fn lost_answers(parts: u64) -> Option<Loss> {
    (parts > 0).then(|| Loss { reason: "lost_dns_answers".to_owned(), count: parts, bytes: 0 })
}

/// Whether something is to be said of it that was not said: numbers alone, which change with each read, are no news.
pub(crate) fn is_news(status: &Status, before: &Status) -> bool {
    let words = |status: &Status| status.diagnosis.replace(|letter: char| letter.is_ascii_digit(), "");
    !status.diagnosis.is_empty() && words(status) != words(before)
}

#[cfg(test)]
mod tests {
    use egressd_flow::{Completeness, CtZone, Entry, UnixNanos};

    use super::*;

    /// Goal: every finding's code is one of those that are counted, and each says what to do or what it means.
    #[test]
    fn every_finding_has_a_code_of_the_table() {
        let error = || "broken".to_owned();
        let findings = [
            Finding::Switch { name: sysctl::ACCT, value: 0 },
            Finding::Switch { name: sysctl::TIMESTAMP, value: 0 },
            Finding::Switch { name: sysctl::EVENTS, value: 2 },
            Finding::NoSwitches { error: error() },
            Finding::EmptyTable,
            Finding::WithoutCounters { entries: 3 },
            Finding::Unreadable { error: error() },
            Finding::Deaf { error: error() },
            Finding::OtherNamespace,
            Finding::UnsupportedRows { rows: 1 },
            Finding::Offloaded { entries: 1 },
            Finding::OtherCtZones { rows: 1 },
            Finding::Untraced { error: error() },
            Finding::SlowReads { interval: Duration::from_secs(30), longest: Duration::from_secs(10) },
            Finding::EmptyMaps { passed_over: 0 },
            Finding::CiliumAccountingOff,
            Finding::Undirected,
            Finding::UnknownLayout { has_directional_entries: true },
            Finding::RolledBack,
            Finding::UnopenedMaps { maps: 1, error: error() },
            Finding::UnreadMaps { error: error() },
            Finding::ForeignMaps { maps: 1 },
            Finding::TableFull { packets: 1, bytes: 60 },
        ];
        assert_eq!(findings.map(|finding| finding.code()), Finding::CODES);
    }

    /// Goal: what was lost of DNS answers is told to the exporter, once something was.
    #[test]
    fn lost_answers_are_a_loss() {
        assert_eq!(lost_answers(0), None);
        let loss = lost_answers(7).unwrap();
        assert_eq!((&*loss.reason, loss.count, loss.bytes), ("lost_dns_answers", 7, 0));
    }

    /// Goal: a finding is news when it comes, and not when only its number changes or when it goes.
    #[test]
    fn a_number_alone_is_no_news() {
        let status = |findings: &[Finding]| {
            let (books, losses) = (Books::default(), Losses::default());
            self::status((Source::Netfilter, String::new()), findings, &books, losses, Defects::default())
        };
        let offloaded = |entries| Finding::Offloaded { entries };
        let [none, one, many] = [&[][..], &[offloaded(1)], &[offloaded(1000)]].map(status);
        let other = status(&[offloaded(1), Finding::EmptyTable]);
        let pairs = [(&one, &none), (&many, &one), (&other, &many), (&none, &one), (&none, &none)];
        assert_eq!(pairs.map(|(now, before)| is_news(now, before)), [true, false, true, false, false]);
    }

    fn snapshot(entries: u64, offloaded: u64, other_ct_zones: u64) -> Snapshot {
        let defects = Defects { other_ct_zones, ..Defects::default() };
        let (completeness, begun) = (Completeness::Complete, UnixNanos(0));
        Snapshot { completeness, begun, entries, offloaded, defects }
    }

    /// Goal: a read with offloaded entries, or with none in the listed conntrack zones, says so; entries elsewhere beside
    /// those that are read are no finding.
    #[test]
    fn a_snapshot_tells_offloaded_entries_and_other_ct_zones() {
        for (snapshot, findings) in [
            (snapshot(3, 0, 0), vec![]),
            (snapshot(3, 0, 9), vec![]),
            (snapshot(3, 2, 0), vec![Finding::Offloaded { entries: 2 }]),
            (snapshot(0, 0, 9), vec![Finding::OtherCtZones { rows: 9 }]),
        ] {
            assert_eq!(of_snapshot(&snapshot), findings);
        }
        let words = Finding::Offloaded { entries: 2 }.to_string();
        assert!(words.contains("2 entries are offloaded") && words.contains("write counter"), "{words}");
    }

    /// Goal: what was found beside each other is told with its number, an example and what to do; so is what was not
    /// looked at.
    #[test]
    fn connections_in_two_ct_zones_are_told_with_an_example() {
        let entry: Entry = "tcp 10.0.0.1:4000>10.0.1.2:80 ctzone=64000".parse().unwrap();
        let example = Some(Twin { original: entry.id.original, other: CtZone(3) });
        assert_eq!(of_twins(&Verdict::default()), []);
        let findings = of_twins(&Verdict { connections: 7, example, uncompared: 5 });
        assert_eq!(
            findings.iter().map(Finding::code).collect::<Vec<_>>(),
            ["two_ct_zones", "uncompared_rows"]
        );
        let words = findings[0].to_string();
        for part in ["7 connections", "TCP 10.0.0.1:4000>10.0.1.2:80 in 64000 and in 3", "pass --ct-zones"] {
            assert!(words.contains(part), "{part}: {words}");
        }
        assert!(findings[1].to_string().starts_with("5 rows were not looked at"));
    }
}
