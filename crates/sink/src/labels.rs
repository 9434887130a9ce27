//! The labels of the product's series: the one place where they are chosen.
//!
//! A series is a metric name and the labels of one [`FlowKey`]: at most [`FLOWS_MAX`](crate::FLOWS_MAX) keys are
//! alive in a sink, so at most three times as many series (transmit, received, undirected).
//! A key is the final label set: two identities that differ only in what no label shows are one flow here, because
//! a destination refuses a request that says a series twice.
//!
//! What has no value has no label. In particular:
//!
//! | remote end | `dst_ip`, `dst_ip_type` | `dst_pod` … `dst_zone` | `cross_zone` |
//! |---|---|---|---|
//! | named | yes | those that are known | when both failure domains are known |
//! | `Unknown` | yes | none | none |
//! | `Ambiguous` | yes | none: half of the bytes under a wrong name is worse than all under none | none |
//! | `Folded` | none, as there is no address | none | none |
//!
//! A DNS name is no label: the original's series have none, and one more label would make other series of them. It is part
//! of a key for the destination that is told it ([`FlowView::with_dns_name`]), and of no other.
//!
//! Ambiguous and unknown ends of one address are therefore one series; how much was ambiguous is told by the
//! metrics of the stage that decided it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use egressd_flow::{AddressClass, Attributed, Identity, IpProtocol, NodeName, PodName, TopologyZone};

/// A label of our own, in the order of its name: the order on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    CrossZone,
    DstIp,
    DstIpType,
    DstNamespace,
    DstNode,
    DstPod,
    DstZone,
    Proto,
    SrcIp,
    SrcNamespace,
    SrcNode,
    SrcPod,
    SrcZone,
}

impl Label {
    /// All of them, sorted by name.
    pub(crate) const ALL: [Self; 13] = [
        Self::CrossZone,
        Self::DstIp,
        Self::DstIpType,
        Self::DstNamespace,
        Self::DstNode,
        Self::DstPod,
        Self::DstZone,
        Self::Proto,
        Self::SrcIp,
        Self::SrcNamespace,
        Self::SrcNode,
        Self::SrcPod,
        Self::SrcZone,
    ];

    /// As dashboards spell it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CrossZone => "cross_zone",
            Self::DstIp => "dst_ip",
            Self::DstIpType => "dst_ip_type",
            Self::DstNamespace => "dst_namespace",
            Self::DstNode => "dst_node",
            Self::DstPod => "dst_pod",
            Self::DstZone => "dst_zone",
            Self::Proto => "proto",
            Self::SrcIp => "src_ip",
            Self::SrcNamespace => "src_namespace",
            Self::SrcNode => "src_node",
            Self::SrcPod => "src_pod",
            Self::SrcZone => "src_zone",
        }
    }
}

/// The value of a label, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Address(IpAddr),
    Class(AddressClass),
    Protocol(IpProtocol),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Address(address) => address.fmt(f),
            Self::Class(class) => class.fmt(f),
            Self::Protocol(protocol) => protocol.fmt(f),
        }
    }
}

/// The names at one end as labels show them; empty where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Names<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
    pub(crate) node: &'a str,
    pub(crate) topology_zone: &'a str,
}

impl<'a> Names<'a> {
    fn of(identity: Option<&'a Arc<Identity>>) -> Self {
        let Some(identity) = identity else {
            return Self::default();
        };
        let (namespace, pod) =
            identity.pod.as_ref().map_or(("", ""), |pod| (pod.namespace.as_ref(), pod.name.as_ref()));
        Self {
            namespace,
            pod,
            node: identity.node.as_ref().map_or("", |node| &node.0),
            topology_zone: identity.topology_zone.as_ref().map_or("", |domain| &domain.0),
        }
    }
}

impl From<Names<'_>> for Identity {
    /// An identity that shows the same labels, and knows no more than that.
    fn from(names: Names<'_>) -> Self {
        let text = |name: &str| (!name.is_empty()).then(|| Arc::from(name));
        let has_pod = !(names.namespace.is_empty() && names.pod.is_empty());
        let pod = || PodName { namespace: names.namespace.into(), name: names.pod.into() };
        Self {
            pod: has_pod.then(pod),
            node: text(names.node).map(NodeName),
            topology_zone: text(names.topology_zone).map(TopologyZone),
            ..Self::default()
        }
    }
}

/// What a flow is told by, borrowed: looking one up allocates nothing and touches no reference count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowView<'a> {
    local_address: IpAddr,
    local: &'a Arc<Identity>,
    /// `None` for the rest of a fold.
    remote_address: Option<IpAddr>,
    class: Option<AddressClass>,
    /// `None` for an end that carries no identity, whatever the reason.
    remote: Option<&'a Arc<Identity>>,
    protocol: IpProtocol,
    tells_dns_name: bool,
}

impl<'a> FlowView<'a> {
    /// The key's fields of a record.
    pub(crate) fn of(record: &'a Attributed) -> Self {
        Self {
            local_address: record.local_address,
            local: &record.local,
            remote_address: record.remote.address,
            class: record.remote.class,
            remote: record.remote.identity.as_ref().ok(),
            protocol: record.protocol,
            tells_dns_name: false,
        }
    }

    /// The same, told by its DNS name too.
    pub(crate) fn with_dns_name(self) -> Self {
        Self { tells_dns_name: true, ..self }
    }

    /// A flow from its parts: each end's address and what is known of it, the remote end's class, the protocol.
    pub(crate) fn between(
        (local_address, local): (IpAddr, &'a Arc<Identity>),
        (remote_address, remote): (Option<IpAddr>, Option<&'a Arc<Identity>>),
        class: Option<AddressClass>,
        protocol: IpProtocol,
    ) -> Self {
        Self { local_address, local, remote_address, class, remote, protocol, tells_dns_name: false }
    }

    /// The same local end and protocol, its remote end folded into the rest.
    pub(crate) fn rest(self) -> Self {
        Self { remote_address: None, class: None, remote: None, ..self }
    }

    /// True for the rest of a fold.
    pub(crate) fn is_rest(&self) -> bool {
        self.remote_address.is_none()
    }

    /// The names of the local pod.
    pub(crate) fn source(&self) -> Names<'a> {
        Names::of(Some(self.local))
    }

    /// The names of the remote end; all empty for one without identity.
    pub(crate) fn destination(&self) -> Names<'a> {
        Names::of(self.remote)
    }

    /// The local pod's address.
    pub(crate) fn source_address(&self) -> IpAddr {
        self.local_address
    }

    /// The remote address; `None` for the rest of a fold.
    pub(crate) fn destination_address(&self) -> Option<IpAddr> {
        self.remote_address
    }

    /// On which side of the border the remote address lies; `None` for the rest of a fold.
    pub(crate) fn class(&self) -> Option<AddressClass> {
        self.class
    }

    /// The name that the remote address was asked for by, where that is told; empty where there is none.
    pub(crate) fn dns_name(&self) -> &'a str {
        let identity = self.remote.filter(|_| self.tells_dns_name);
        identity.and_then(|identity| identity.dns_name.as_deref()).unwrap_or_default()
    }

    /// Whether the remote end carries an identity.
    pub(crate) fn has_destination(&self) -> bool {
        self.remote.is_some()
    }

    /// IP protocol.
    pub(crate) fn protocol(&self) -> IpProtocol {
        self.protocol
    }

    /// The value of a label, `None` where the flow has none.
    pub(crate) fn value(&self, label: Label) -> Option<Value<'a>> {
        let (source, destination) = (self.source(), self.destination());
        match label {
            Label::CrossZone => cross_zone(source.topology_zone, destination.topology_zone),
            Label::DstIp => self.remote_address.map(Value::Address),
            Label::DstIpType => self.class.map(Value::Class),
            Label::DstNamespace => text(destination.namespace),
            Label::DstNode => text(destination.node),
            Label::DstPod => text(destination.pod),
            Label::DstZone => text(destination.topology_zone),
            Label::Proto => Some(Value::Protocol(self.protocol)),
            Label::SrcIp => Some(Value::Address(self.local_address)),
            Label::SrcNamespace => text(source.namespace),
            Label::SrcNode => text(source.node),
            Label::SrcPod => text(source.pod),
            Label::SrcZone => text(source.topology_zone),
        }
    }

    /// The labels that it has, sorted by name.
    pub(crate) fn labels(self) -> impl Iterator<Item = (&'static str, Value<'a>)> {
        Label::ALL.into_iter().filter_map(move |label| Some((label.name(), self.value(label)?)))
    }
}

/// As logs name a flow: its labels, and its DNS name where that is told.
impl fmt::Display for FlowView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.labels().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        match self.dns_name() {
            "" => Ok(()),
            name => write!(f, " dst_dns_name={name}"),
        }
    }
}

fn text(value: &str) -> Option<Value<'_>> {
    (!value.is_empty()).then_some(Value::Text(value))
}

fn cross_zone(source: &str, destination: &str) -> Option<Value<'static>> {
    if source.is_empty() || destination.is_empty() {
        return None;
    }
    Some(Value::Text(if source == destination { "false" } else { "true" }))
}

/// Only what changes most often is hashed; equality looks at everything that a label shows.
impl Hash for FlowView<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.local_address.hash(state);
        self.remote_address.hash(state);
        self.protocol.hash(state);
        self.source().pod.hash(state);
        self.destination().pod.hash(state);
        // Of grouped addresses it is all that tells them apart.
        self.dns_name().hash(state);
    }
}

impl PartialEq for FlowView<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.local_address == other.local_address
            && self.remote_address == other.remote_address
            && self.protocol == other.protocol
            && self.class == other.class
            && same_names(Some(self.local), Some(other.local))
            && same_names(self.remote, other.remote)
            && self.dns_name() == other.dns_name()
    }
}

/// Most often both are the same allocation, since the index hands out one identity for an address.
/// No identity and one without names show the same labels.
fn same_names(one: Option<&Arc<Identity>>, other: Option<&Arc<Identity>>) -> bool {
    if let (Some(one), Some(other)) = (one, other)
        && Arc::ptr_eq(one, other)
    {
        return true;
    }
    Names::of(one) == Names::of(other)
}

/// A flow's key, owned: 64 bytes, its names shared with the index that gave them.
#[derive(Clone, Debug)]
pub(crate) struct FlowKey {
    local_address: IpAddr,
    remote_address: Option<IpAddr>,
    class: Option<AddressClass>,
    protocol: IpProtocol,
    tells_dns_name: bool,
    local: Arc<Identity>,
    remote: Option<Arc<Identity>>,
}

impl FlowKey {
    /// Borrowed.
    pub(crate) fn view(&self) -> FlowView<'_> {
        FlowView {
            local_address: self.local_address,
            local: &self.local,
            remote_address: self.remote_address,
            class: self.class,
            remote: self.remote.as_ref(),
            protocol: self.protocol,
            tells_dns_name: self.tells_dns_name,
        }
    }
}

impl From<FlowView<'_>> for FlowKey {
    fn from(view: FlowView<'_>) -> Self {
        Self {
            local_address: view.local_address,
            remote_address: view.remote_address,
            class: view.class,
            protocol: view.protocol,
            tells_dns_name: view.tells_dns_name,
            local: Arc::clone(view.local),
            remote: view.remote.map(Arc::clone),
        }
    }
}

const _: () = assert!(size_of::<FlowKey>() <= 64, "the bound on memory is stated from this");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::tests::record;

    fn labels(line: &str) -> String {
        let record = record(line);
        let labels = FlowView::of(&record).labels().map(|(name, value)| format!("{name}={value}"));
        labels.collect::<Vec<_>>().join(" ")
    }

    /// Goal: each kind of remote end shows what is known of it, sorted by name, and nothing that is not.
    #[test]
    fn labels_say_what_is_known_and_no_more() {
        for (line, expected) in [
            (
                "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=1/1",
                "cross_zone=true dst_ip=10.0.1.2 dst_ip_type=private dst_namespace=pg dst_node=n2 dst_pod=db \
                 dst_zone=b proto=TCP src_ip=10.0.0.1 src_namespace=web src_node=n1 src_pod=app src_zone=a",
            ),
            (
                "web/app@n1/a fd00::1 > @n2/a fd00::2 udp tx=1/1",
                "cross_zone=false dst_ip=fd00::2 dst_ip_type=private dst_node=n2 dst_zone=a proto=UDP \
                 src_ip=fd00::1 src_namespace=web src_node=n1 src_pod=app src_zone=a",
            ),
            (
                "web/app@n1 10.0.0.1 > pg/db@n2/b 10.0.1.2 1 tx=1/1",
                "dst_ip=10.0.1.2 dst_ip_type=private dst_namespace=pg dst_node=n2 dst_pod=db dst_zone=b \
                 proto=ICMP src_ip=10.0.0.1 src_namespace=web src_node=n1 src_pod=app",
            ),
            (
                "web/app@n1/a 10.0.0.1 > unknown 0.0.0.0 58 tx=1/1",
                "dst_ip=0.0.0.0 dst_ip_type=public proto=ICMPv6 src_ip=10.0.0.1 src_namespace=web src_node=n1 \
                 src_pod=app src_zone=a",
            ),
            (
                "web/app@n1/a 10.0.0.1 > ambiguous 10.0.1.2 47 tx=1/1",
                "dst_ip=10.0.1.2 dst_ip_type=private proto=47 src_ip=10.0.0.1 src_namespace=web src_node=n1 \
                 src_pod=app src_zone=a",
            ),
            (
                "web/app@n1/a 10.0.0.1 > dns:api.example.com 192.0.2.7 tcp tx=1/1",
                "dst_ip=192.0.2.7 dst_ip_type=public proto=TCP src_ip=10.0.0.1 src_namespace=web src_node=n1 \
                 src_pod=app src_zone=a",
            ),
            (
                "web/app@n1/a 10.0.0.1 > folded - 0 tx=1/1",
                "proto=ANY src_ip=10.0.0.1 src_namespace=web src_node=n1 src_pod=app src_zone=a",
            ),
        ] {
            assert_eq!(labels(line), expected, "{line}");
        }
    }

    /// Goal: the table of labels is sorted by name, which is what the wire needs.
    #[test]
    fn built_in_names_are_sorted_and_unique() {
        assert!(Label::ALL.map(Label::name).is_sorted_by(|one, other| one < other));
    }

    /// Goal: two flows are one exactly when all their labels agree, whatever else differs.
    #[test]
    fn keys_are_equal_when_their_labels_are() {
        let base = "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=1/1";
        let mut moved = record(base);
        moved.local =
            Arc::new(Identity { region: Some("elsewhere".into()), ..Identity::clone(&moved.local) });
        assert_eq!(FlowView::of(&moved), FlowView::of(&record(base)));

        let lines = [
            base,
            "web/app@n1/a 10.0.0.2 > pg/db@n2/b 10.0.1.2 tcp tx=1/1",
            "web/two@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=1/1",
            "two/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=1/1",
            "web/app@n2/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=1/1",
            "web/app@n1/b 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=1/1",
            "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.3 tcp tx=1/1",
            "web/app@n1/a 10.0.0.1 > pg/db@n2/c 10.0.1.2 tcp tx=1/1",
            "web/app@n1/a 10.0.0.1 > @n2/b 10.0.1.2 tcp tx=1/1",
            "web/app@n1/a 10.0.0.1 > unknown 10.0.1.2 tcp tx=1/1",
            "web/app@n1/a 10.0.0.1 > folded - tcp tx=1/1",
            "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 udp tx=1/1",
        ];
        let keys: Vec<FlowKey> = lines.map(|line| FlowKey::from(FlowView::of(&record(line)))).into();
        for (one, line) in keys.iter().zip(lines) {
            let equal = keys.iter().filter(|other| other.view() == one.view()).count();
            assert_eq!(equal, 1, "{line}");
        }
        assert_eq!(lines.map(labels).into_iter().collect::<HashSet<_>>().len(), lines.len());
        let unnamed = record("web/app@n1/a 10.0.0.1 > unknown 10.0.1.2 tcp tx=1/1");
        let mut reclassified = unnamed.clone();
        reclassified.remote.class = Some(AddressClass::Public);
        assert_ne!(FlowView::of(&reclassified), FlowView::of(&unnamed));
        let [one, other] = ["a.example.com", "b.example.com"]
            .map(|name| record(&format!("web/app@n1/a 10.0.0.1 > dns:{name} 0.0.0.0 tcp tx=1/1")));
        assert_eq!(FlowView::of(&one), FlowView::of(&other), "no label tells them apart");
        assert_ne!(FlowView::of(&one).with_dns_name(), FlowView::of(&other).with_dns_name());
        let ambiguous = record("web/app@n1/a 10.0.0.1 > ambiguous 10.0.1.2 tcp tx=1/1");
        assert_eq!(FlowView::of(&ambiguous), FlowView::of(&unnamed));
    }
}
