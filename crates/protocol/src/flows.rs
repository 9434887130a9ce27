//! The flow subscription: what is asked, as nouns that hold together, and what is told.

use std::net::IpAddr;
use std::ops::AddAssign;
use std::sync::Arc;

use egressd_flow::{
    Attributed, AttributedBatch, Identity, IpProtocol, NodeName, PodName, Position, Span, TopologyZone,
    Traffic, Unattributed, Workload,
};
use ipnet::IpNet;

use crate::error::WireError;
use crate::limits::{
    FILTER_TEXT_BYTES_MAX, FILTER_VALUES_MAX, MESSAGE_FLOWS_MAX, SUMMARY_MINUTES_MAX, SUMMARY_ROWS_MAX,
};
use crate::scope::at_most;
use crate::v1;
use crate::v1::subscribe_response::Event;

/// `flows.proto` and all that it is made of, as reflection shows it: an encoded `google.protobuf.FileDescriptorSet`.
pub const FLOWS_DESCRIPTOR: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/flows.binpb"));

/// Minutes of a summary that does not say.
const WINDOW_MINUTES: u32 = 5;
/// Rows of a summary that does not say.
const ROWS: usize = 10;

/// What a record has to be. All that is set holds; of several values one is enough; an empty list says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Namespace of the local pod.
    pub namespaces: Vec<String>,
    /// Local pod.
    pub pods: Vec<NamePattern>,
    /// Node of the local end.
    pub nodes: Vec<String>,
    /// Failure domain of the local end.
    pub topology_zones: Vec<String>,
    /// What the remote address is in.
    pub remote_ranges: Vec<IpNet>,
    /// Remote pod or workload; without a namespace, node and DNS name too.
    pub remote_names: Vec<NamePattern>,
    /// IP protocol.
    pub protocols: Vec<IpProtocol>,
    /// Bytes in all directions at least; 0 is any.
    pub least_bytes: u64,
}

/// A name, in any namespace or in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    /// `None`: any, or none.
    pub namespace: Option<String>,
    /// Never empty.
    pub name: String,
}

impl FlowFilter {
    /// The filter of a subscription; one that is absent matches everything.
    ///
    /// # Errors
    /// It is over a limit, or a value cannot be what its field holds.
    pub fn from_wire(request: v1::SubscribeRequest) -> Result<Self, WireError> {
        let filter = request.filter.unwrap_or_default();
        at_most("filter.protocols", filter.protocols.len(), FILTER_VALUES_MAX)?;
        let protocol = |&number: &u32| {
            let found = number.into();
            let number =
                u8::try_from(number).map_err(|_| WireError::Range { field: "filter.protocols", found })?;
            Ok(IpProtocol(number))
        };
        Ok(Self {
            namespaces: texts("filter.namespaces", filter.namespaces)?,
            pods: patterns("filter.pods", filter.pods)?,
            nodes: texts("filter.nodes", filter.nodes)?,
            topology_zones: texts("filter.topology_zones", filter.topology_zones)?,
            remote_ranges: ranges("filter.remote_ranges", filter.remote_ranges)?,
            remote_names: patterns("filter.remote_names", filter.remote_names)?,
            protocols: filter.protocols.iter().map(protocol).collect::<Result<_, _>>()?,
            least_bytes: filter.least_bytes,
        })
    }
}

fn texts(field: &'static str, values: Vec<String>) -> Result<Vec<String>, WireError> {
    at_most(field, values.len(), FILTER_VALUES_MAX)?;
    for value in &values {
        at_most(field, value.len(), FILTER_TEXT_BYTES_MAX)?;
        if value.is_empty() {
            return Err(WireError::Malformed { field, expected: "a name: it is empty" });
        }
    }
    Ok(values)
}

fn patterns(field: &'static str, values: Vec<String>) -> Result<Vec<NamePattern>, WireError> {
    let pattern = |value: String| match value.split_once('/') {
        None => Ok(NamePattern { namespace: None, name: value }),
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(NamePattern { namespace: Some(namespace.to_owned()), name: name.to_owned() })
        }
        Some(_) => Err(WireError::Malformed { field, expected: "a name or namespace/name" }),
    };
    texts(field, values)?.into_iter().map(pattern).collect()
}

fn ranges(field: &'static str, values: Vec<String>) -> Result<Vec<IpNet>, WireError> {
    let range = |value: String| {
        let whole = value.parse::<IpAddr>().map(IpNet::from);
        whole
            .or_else(|_| value.parse())
            .map_err(|_| WireError::Malformed { field, expected: "an address or a range" })
    };
    texts(field, values)?.into_iter().map(range).collect()
}

/// What the rows of a summary are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// The local pod.
    Pod,
    /// What runs the local pod; the pod where nothing does.
    Workload,
    /// The local pod's namespace.
    Namespace,
    /// The local end's node.
    Node,
    /// The failure domains of both ends.
    TopologyZones,
    /// The remote workload, else pod, else node, else DNS name, else address.
    Remote,
}

/// Which rows of a summary come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SummaryOrder {
    /// Those that sent most bytes.
    Sent,
    /// Those that received most bytes.
    Received,
    /// Those with most bytes in all directions.
    All,
}

/// What a summary is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryQuery {
    /// 1 to [`SUMMARY_MINUTES_MAX`].
    pub window_minutes: u32,
    /// One at least, each once.
    pub dimensions: Vec<Dimension>,
    /// Largest first, by this.
    pub order: SummaryOrder,
    /// 1 to [`SUMMARY_ROWS_MAX`].
    pub rows_max: usize,
}

impl SummaryQuery {
    /// The query of a request, its defaults filled in.
    ///
    /// # Errors
    /// A figure is out of its range, or the dimensions are none, unknown or repeated.
    pub fn from_wire(request: &v1::SummaryRequest) -> Result<Self, WireError> {
        let window_minutes =
            if request.window_minutes == 0 { WINDOW_MINUTES } else { request.window_minutes };
        if window_minutes > SUMMARY_MINUTES_MAX {
            return Err(WireError::Range { field: "window_minutes", found: window_minutes.into() });
        }
        let rows_max = usize::try_from(request.rows_max).unwrap_or(usize::MAX);
        if rows_max > SUMMARY_ROWS_MAX {
            return Err(WireError::Range { field: "rows_max", found: request.rows_max.into() });
        }
        let order = match v1::Order::try_from(request.order) {
            Ok(v1::Order::Unspecified | v1::Order::TxBytes) => SummaryOrder::Sent,
            Ok(v1::Order::RxBytes) => SummaryOrder::Received,
            Ok(v1::Order::AllBytes) => SummaryOrder::All,
            Err(_) => return Err(unknown("order", request.order)),
        };
        let rows_max = if rows_max == 0 { ROWS } else { rows_max };
        Ok(Self { window_minutes, dimensions: dimensions(&request.dimensions)?, order, rows_max })
    }
}

fn dimensions(numbers: &[i32]) -> Result<Vec<Dimension>, WireError> {
    const FIELD: &str = "dimensions";
    let mut dimensions = Vec::new();
    for &number in numbers {
        let dimension = match v1::Dimension::try_from(number) {
            Ok(v1::Dimension::Pod) => Dimension::Pod,
            Ok(v1::Dimension::Workload) => Dimension::Workload,
            Ok(v1::Dimension::Namespace) => Dimension::Namespace,
            Ok(v1::Dimension::Node) => Dimension::Node,
            Ok(v1::Dimension::TopologyZones) => Dimension::TopologyZones,
            Ok(v1::Dimension::Remote) => Dimension::Remote,
            Ok(v1::Dimension::Unspecified) | Err(_) => return Err(unknown(FIELD, number)),
        };
        if dimensions.contains(&dimension) {
            return Err(WireError::Repeated { field: FIELD });
        }
        dimensions.push(dimension);
    }
    if dimensions.is_empty() { Err(WireError::Missing { field: FIELD }) } else { Ok(dimensions) }
}

fn unknown(field: &'static str, number: i32) -> WireError {
    WireError::Range { field, found: number.unsigned_abs().into() }
}

/// Who is at an end, as far as it is told: a field is `None` where it is not, does not apply or is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowEnd {
    /// Its address.
    pub address: Option<IpAddr>,
    /// The pod's namespace.
    pub namespace: Option<Arc<str>>,
    /// The pod's name.
    pub pod: Option<Arc<str>>,
    /// What runs the pod.
    pub workload: Option<Workload>,
    /// The node that it is on.
    pub node: Option<NodeName>,
    /// That node's failure domain.
    pub topology_zone: Option<TopologyZone>,
    /// That node's region.
    pub region: Option<Arc<str>>,
    /// The name that its address was asked for by.
    pub dns_name: Option<Arc<str>>,
    /// Why there is no name.
    pub unattributed: Option<Unattributed>,
}

impl FlowEnd {
    /// All that is known of an end.
    #[must_use]
    pub fn new(address: Option<IpAddr>, identity: Result<&Arc<Identity>, Unattributed>) -> Self {
        let Identity { pod, workload, node, topology_zone, region, dns_name } = match identity {
            Ok(identity) => identity.as_ref().clone(),
            Err(reason) => return Self { address, unattributed: Some(reason), ..Self::default() },
        };
        let (namespace, pod) = pod.map(|PodName { namespace, name }| (namespace, name)).unzip();
        Self { address, namespace, pod, workload, node, topology_zone, region, dns_name, unattributed: None }
    }

    fn to_wire(&self) -> v1::FlowEnd {
        let text = |value: Option<&Arc<str>>| value.map(ToString::to_string).unwrap_or_default();
        let unnamed = match self.unattributed {
            None => v1::Unnamed::Unspecified,
            Some(Unattributed::Unknown) => v1::Unnamed::Unknown,
            Some(Unattributed::Ambiguous) => v1::Unnamed::Ambiguous,
            Some(Unattributed::Folded) => v1::Unnamed::Folded,
        };
        v1::FlowEnd {
            address: self.address.map(|address| address.to_string()).unwrap_or_default(),
            namespace: text(self.namespace.as_ref()),
            pod: text(self.pod.as_ref()),
            workload_kind: text(self.workload.as_ref().map(|workload| &workload.kind)),
            workload: text(self.workload.as_ref().map(|workload| &workload.name)),
            node: text(self.node.as_ref().map(|node| &node.0)),
            topology_zone: text(self.topology_zone.as_ref().map(|domain| &domain.0)),
            region: text(self.region.as_ref()),
            dns_name: text(self.dns_name.as_ref()),
            unnamed: unnamed.into(),
        }
    }
}

/// What a subscriber is told, in this order: parts of the snapshot, its end, then batches and what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// Flows with their sums over the window.
    Snapshot(Vec<Attributed>),
    /// Nothing more of it comes.
    SnapshotEnd(SnapshotEnd),
    /// The matching records of a batch, which are in its order and one at least.
    Batch(Arc<AttributedBatch>),
    /// What is missing here.
    Missed(Missed),
}

/// What the flows of a snapshot do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// The window, by our clock.
    pub span: Span,
    /// Matching flows that it had no room for.
    pub rest_flows: u64,
    /// Their traffic.
    pub rest: Traffic,
    /// What was not kept by flow.
    pub folded: Traffic,
    /// The last batch in it.
    pub position: Position,
}

/// What a subscriber missed. Bytes are those of all directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// Matching records that it left unread.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that were not looked at.
    pub unseen_records: u64,
    /// Their bytes.
    pub unseen_bytes: u64,
}

/// Saturates.
impl AddAssign for Missed {
    fn add_assign(&mut self, more: Self) {
        self.records = self.records.saturating_add(more.records);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.unseen_records = self.unseen_records.saturating_add(more.unseen_records);
        self.unseen_bytes = self.unseen_bytes.saturating_add(more.unseen_bytes);
    }
}

impl FlowEvent {
    /// The messages that say it, one after the other, of [`MESSAGE_FLOWS_MAX`] flows at most.
    pub fn messages(&self) -> impl Iterator<Item = v1::SubscribeResponse> {
        let (flows, single) = match self {
            Self::Snapshot(flows) => (flows.as_slice(), None),
            Self::Batch(batch) => (batch.records.as_slice(), None),
            Self::SnapshotEnd(end) => (&[][..], Some(Event::SnapshotEnd(end_to_wire(end)))),
            Self::Missed(missed) => (&[][..], Some(Event::Missed(missed_to_wire(*missed)))),
        };
        let parts = flows.chunks(MESSAGE_FLOWS_MAX).map(|part| {
            let flows = part.iter().map(flow_to_wire).collect();
            match self {
                Self::Batch(batch) => Event::Batch(batch_to_wire(batch, flows)),
                _ => Event::SnapshotPart(v1::SnapshotPart { flows }),
            }
        });
        parts.chain(single).map(|event| v1::SubscribeResponse { event: Some(event) })
    }
}

fn batch_to_wire(batch: &AttributedBatch, flows: Vec<v1::Flow>) -> v1::FlowBatch {
    v1::FlowBatch {
        node: batch.node.to_string(),
        position: batch.position.0,
        from_unix_ns: batch.span.from.0,
        to_unix_ns: batch.span.to.0,
        flows,
    }
}

fn flow_to_wire(record: &Attributed) -> v1::Flow {
    let remote =
        FlowEnd::new(record.remote.address, record.remote.identity.as_ref().map_err(|&reason| reason));
    v1::Flow {
        local: Some(FlowEnd::new(Some(record.local_address), Ok(&record.local)).to_wire()),
        remote: Some(remote.to_wire()),
        protocol: record.protocol.0.into(),
        traffic: Some(traffic_to_wire(record.traffic)),
    }
}

fn end_to_wire(end: &SnapshotEnd) -> v1::SnapshotEnd {
    v1::SnapshotEnd {
        from_unix_ns: end.span.from.0,
        to_unix_ns: end.span.to.0,
        rest_flows: end.rest_flows,
        rest: Some(traffic_to_wire(end.rest)),
        folded: Some(traffic_to_wire(end.folded)),
        position: end.position.0,
    }
}

fn missed_to_wire(missed: Missed) -> v1::Missed {
    v1::Missed {
        records: missed.records,
        bytes: missed.bytes,
        unseen_records: missed.unseen_records,
        unseen_bytes: missed.unseen_bytes,
    }
}

fn traffic_to_wire(traffic: Traffic) -> v1::FlowTraffic {
    v1::FlowTraffic {
        tx_bytes: traffic.tx.bytes,
        tx_packets: traffic.tx.packets,
        rx_bytes: traffic.rx.bytes,
        rx_packets: traffic.rx.packets,
        undirected_bytes: traffic.undirected.bytes,
        undirected_packets: traffic.undirected.packets,
    }
}

/// Who has most of a window. Rows, rest and folded together are the total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Largest first.
    pub rows: Vec<SummaryRow>,
    /// Rows that there was no room for.
    pub rest_rows: u64,
    /// Their traffic.
    pub rest: Traffic,
    /// What was not kept by flow.
    pub folded: Traffic,
    /// Everything.
    pub total: Traffic,
    /// The window, by our clock.
    pub span: Span,
}

/// A row of a summary: only what its dimensions say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SummaryRow {
    /// The local end.
    pub local: FlowEnd,
    /// The remote end.
    pub remote: FlowEnd,
    /// Of all flows between the two.
    pub traffic: Traffic,
}

impl Summary {
    /// The message that says it.
    #[must_use]
    pub fn to_wire(&self) -> v1::SummaryResponse {
        let end = |end: &FlowEnd| (*end != FlowEnd::default()).then(|| end.to_wire());
        let row = |row: &SummaryRow| v1::SummaryRow {
            local: end(&row.local),
            remote: end(&row.remote),
            traffic: Some(traffic_to_wire(row.traffic)),
        };
        v1::SummaryResponse {
            rows: self.rows.iter().map(row).collect(),
            rest_rows: self.rest_rows,
            rest: Some(traffic_to_wire(self.rest)),
            folded: Some(traffic_to_wire(self.folded)),
            total: Some(traffic_to_wire(self.total)),
            from_unix_ns: self.span.from.0,
            to_unix_ns: self.span.to.0,
        }
    }
}
