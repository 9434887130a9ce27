//! What is answered from a view of the window: the snapshot of a subscription, and a summary.
//!
//! Invariant: every byte of the view is in the answer once, but for a snapshot's those that were not asked for.
//! Bound: the answers' own; each works in memory for one row of the view a time over.

use std::collections::HashMap;

use egressd_flow::{Attributed, Identity, Position, Span, Traffic, UnixNanos};
use egressd_protocol::{
    Dimension, FlowEnd, FlowEvent, FlowFilter, SnapshotEnd, Summary, SummaryOrder, SummaryQuery, SummaryRow,
};

use crate::filter::{has_bytes, is_between};
use crate::table::FlowTable;
use crate::window::View;

/// Minutes before the running one that a subscription begins with.
pub const SNAPSHOT_MINUTES: u32 = 5;
/// Flows that it begins with; the smaller ones are summed.
pub const SNAPSHOT_FLOWS_MAX: usize = 10_000;

/// The matching flows of a view, largest first, and how the snapshot ends.
pub(crate) fn snapshot(
    view: &View,
    filter: &FlowFilter,
    flows_max: usize,
    position: Position,
    now: UnixNanos,
) -> [FlowEvent; 2] {
    let mut table = FlowTable::default();
    for flow in view.flows().filter(|flow| is_between(filter, flow)) {
        table.add(flow, true);
    }
    let mut flows: Vec<Attributed> = table.into_rows().filter(|flow| has_bytes(filter, flow)).collect();
    flows.sort_by_cached_key(|flow| std::cmp::Reverse(flow.traffic.sum().bytes));
    let rest = flows.split_off(flows.len().min(flows_max));
    let end = SnapshotEnd {
        span: span(view, now),
        rest_flows: rest.len() as u64,
        rest: sum(rest.iter().map(|flow| flow.traffic)),
        folded: view.folded(),
        position,
    };
    flows.shrink_to_fit();
    [FlowEvent::Snapshot(flows), FlowEvent::SnapshotEnd(end)]
}

/// The rows of a view by the query's dimensions.
pub(crate) fn summarise(view: &View, query: &SummaryQuery, now: UnixNanos) -> Summary {
    let mut groups: HashMap<(FlowEnd, FlowEnd), Traffic> = HashMap::new();
    for flow in view.flows() {
        *groups.entry(ends(&query.dimensions, flow)).or_default() += flow.traffic;
    }
    let mut rows: Vec<SummaryRow> =
        groups.into_iter().map(|((local, remote), traffic)| SummaryRow { local, remote, traffic }).collect();
    rows.sort_unstable_by(|one, other| {
        let larger_first = figure(query.order, other).cmp(&figure(query.order, one));
        larger_first.then_with(|| (&one.local, &one.remote).cmp(&(&other.local, &other.remote)))
    });
    let rest = rows.split_off(rows.len().min(query.rows_max));
    Summary {
        rows,
        rest_rows: rest.len() as u64,
        rest: sum(rest.iter().map(|row| row.traffic)),
        folded: view.folded(),
        total: view.total(),
        span: span(view, now),
    }
}

fn figure(order: SummaryOrder, row: &SummaryRow) -> u64 {
    match order {
        SummaryOrder::Sent => row.traffic.tx.bytes,
        SummaryOrder::Received => row.traffic.rx.bytes,
        SummaryOrder::All => row.traffic.sum().bytes,
    }
}

/// Both ends of a flow, as far as the dimensions say.
fn ends(dimensions: &[Dimension], flow: &Attributed) -> (FlowEnd, FlowEnd) {
    let (mut local, mut remote) = (FlowEnd::default(), FlowEnd::default());
    for dimension in dimensions {
        match dimension {
            Dimension::Pod => name_pod(&mut local, &flow.local),
            Dimension::Workload => name_workload(&mut local, &flow.local),
            Dimension::Namespace => {
                local.namespace = flow.local.pod.as_ref().map(|pod| pod.namespace.clone());
            }
            Dimension::Node => local.node = flow.local.node.clone(),
            Dimension::TopologyZones => {
                local.topology_zone = flow.local.topology_zone.clone();
                match &flow.remote.identity {
                    Ok(identity) => remote.topology_zone = identity.topology_zone.clone(),
                    Err(reason) => remote.unattributed = Some(*reason),
                }
            }
            Dimension::Remote => match &flow.remote.identity {
                Ok(identity) => name_workload(&mut remote, identity),
                Err(reason) => {
                    remote.address = flow.remote.address;
                    remote.unattributed = Some(*reason);
                }
            },
        }
    }
    (local, remote)
}

fn name_pod(end: &mut FlowEnd, identity: &Identity) {
    match &identity.pod {
        Some(pod) => {
            end.namespace = Some(pod.namespace.clone());
            end.pod = Some(pod.name.clone());
        }
        // What is on the node's own network is the node's; what the cluster does not know has no node.
        None => {
            end.node = identity.node.clone();
            end.dns_name = identity.dns_name.clone();
        }
    }
}

fn name_workload(end: &mut FlowEnd, identity: &Identity) {
    match (&identity.workload, &identity.pod) {
        (Some(workload), Some(pod)) => {
            end.namespace = Some(pod.namespace.clone());
            end.workload = Some(workload.clone());
        }
        _ => name_pod(end, identity),
    }
}

fn sum(traffic: impl Iterator<Item = Traffic>) -> Traffic {
    traffic.fold(Traffic::default(), |mut sum, one| {
        sum += one;
        sum
    })
}

fn span(view: &View, now: UnixNanos) -> Span {
    Span { from: now.saturating_sub(view.reaches_back), to: now }
}
