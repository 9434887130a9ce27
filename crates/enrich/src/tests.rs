//! From an inventory to scopes and to names at both ends.

use std::collections::HashMap;
use std::sync::Arc;

use egressd_flow::{
    AddressClass, Batch, Counter, End, Epoch, Identity, IpProtocol, NodeName, Owner, PodName, Position,
    Record, Sequence, Span, TopologyZone, Traffic, Unattributed, UnixNanos, Workload,
};

use crate::inventory::{InventoryError, parse};
use crate::{Grouping, Index, NodeFacts, Ranges, attribute};

const INVENTORY: &str = "
nodes:
  - { name: node-a, zone: zone-1, region: region-1, addresses: [172.18.0.2] }
  - { name: node-b, addresses: [172.18.0.3] }
pods:
  - name: web-0
    namespace: shop
    uid: uid-web
    node: node-a
    addresses: [10.244.1.2, 'fd00::2']
    workload: { kind: StatefulSet, name: web }
  - { name: dns-0, namespace: kube-system, node: node-b, addresses: [10.244.2.2] }
ranges: [198.51.100.0/24]
";

fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

fn web() -> Identity {
    Identity {
        pod: Some(PodName { namespace: "shop".into(), name: "web-0".into() }),
        workload: Some(Workload { kind: "StatefulSet".into(), name: "web".into() }),
        node: Some(node("node-a")),
        topology_zone: Some(TopologyZone("zone-1".into())),
        region: Some("region-1".into()),
    }
}

fn owner(address: &str, uid: &str, since: u64, until: Option<u64>) -> Arc<Owner> {
    Arc::new(Owner {
        address: address.parse().unwrap(),
        pod_uid: uid.into(),
        namespace: "shop".into(),
        name: uid.into(),
        labels: [].into(),
        since: UnixNanos(since),
        until: until.map(UnixNanos),
        measure: true,
    })
}

fn span(from: u64, to: u64) -> Span {
    Span { from: UnixNanos(from), to: UnixNanos(to) }
}

fn batch(owners: Vec<Arc<Owner>>, remotes: &[Option<&str>]) -> Batch {
    let record = |remote: &Option<&str>| Record {
        owner: 0,
        remote: remote.map(|address| address.parse().unwrap()),
        protocol: IpProtocol::UDP,
        traffic: Traffic { tx: Counter { bytes: 5, packets: 1 }, ..Traffic::default() },
    };
    Batch {
        epoch: Epoch(1),
        sequence: Sequence(1),
        span: span(1, 2),
        owners,
        records: remotes.iter().map(record).collect(),
    }
}

/// Goal: both ends are named, a node by its address is a node, and what nobody knows stays with its bytes.
#[test]
fn both_ends_are_named() {
    let index = parse(INVENTORY).unwrap();
    let remotes = [Some("10.244.2.2"), Some("172.18.0.3"), Some("203.0.113.1"), Some("198.51.100.1"), None];
    let batch = batch(vec![owner("10.244.1.2", "uid-web", 0, None)], &remotes);
    let attributed = attribute(&index, &node("node-a"), &batch, Grouping::None, Position(3));
    assert_eq!(attributed.sum(), batch.sum());
    let local = Identity { pod: Some(PodName { namespace: "shop".into(), name: "uid-web".into() }), ..web() };
    assert!(attributed.records.iter().all(|record| *record.local == local));
    let on_node_b = Identity { node: Some(node("node-b")), ..Identity::default() };
    let dns = PodName { namespace: "kube-system".into(), name: "dns-0".into() };
    let end = |address: &str, class, identity: Result<Identity, Unattributed>| End {
        address: Some(address.parse().unwrap()),
        class: Some(class),
        identity: identity.map(Arc::new),
    };
    let ends: Vec<End> = attributed.records.into_iter().map(|record| record.remote).collect();
    assert_eq!(
        ends,
        [
            end("10.244.2.2", AddressClass::Private, Ok(Identity { pod: Some(dns), ..on_node_b.clone() })),
            end("172.18.0.3", AddressClass::Private, Ok(on_node_b)),
            end("203.0.113.1", AddressClass::Public, Err(Unattributed::Unknown)),
            end("198.51.100.1", AddressClass::Private, Err(Unattributed::Unknown)),
            End { address: None, class: None, identity: Err(Unattributed::Folded) },
        ]
    );
}

/// Goal: grouping erases public addresses only, each to its own family's unspecified address.
#[test]
fn grouping_erases_public_addresses_only() {
    let index = parse(INVENTORY).unwrap();
    let remotes = [Some("203.0.113.1"), Some("2001:db8::1"), Some("10.244.2.2"), Some("198.51.100.1")];
    let batch = batch(vec![owner("10.244.1.2", "uid-web", 0, None)], &remotes);
    let attributed = attribute(&index, &node("node-a"), &batch, Grouping::Public, Position(1));
    let addresses: Vec<String> =
        attributed.records.iter().map(|record| record.remote.address.unwrap().to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0", "::", "10.244.2.2", "198.51.100.1"]);
}

/// Goal: an address that changed hands is named by the time of the traffic, and by nobody when both had it.
#[test]
fn names_follow_the_time_of_the_traffic() {
    let owners = vec![owner("10.0.0.1", "old", 10, Some(20)), owner("10.0.0.1", "new", 30, None)];
    let facts = NodeFacts { owners, ..NodeFacts::default() };
    let index = Index::new([(node("node-a"), facts)].into(), HashMap::new(), Ranges::default());
    let name = |from, to| {
        let identity = index.lookup("10.0.0.1".parse().unwrap(), span(from, to))?;
        Ok(identity.pod.as_ref().unwrap().name.to_string())
    };
    assert_eq!(name(1, 9), Err(Unattributed::Unknown));
    assert_eq!(name(5, 15), Ok("old".to_owned()));
    assert_eq!(name(20, 29), Err(Unattributed::Unknown));
    assert_eq!(name(20, 30), Ok("new".to_owned()));
    assert_eq!(name(19, 30), Err(Unattributed::Ambiguous));
}

/// Goal: a node's scope holds its own pods only, and says which are not measured.
#[test]
fn a_scope_is_one_nodes() {
    let index = parse(INVENTORY).unwrap();
    let scope = index.scope(&node("node-b"), &["kube-system".to_owned()], UnixNanos(7));
    assert_eq!(scope.as_of, UnixNanos(7));
    assert_eq!(scope.node_addresses, ["172.18.0.3".parse::<std::net::IpAddr>().unwrap()]);
    let owners: Vec<_> = scope.owners.iter().map(|owner| (&*owner.pod_uid, owner.measure)).collect();
    assert_eq!(owners, [("kube-system/dns-0", false)]);
    assert_eq!(index.scope(&node("node-a"), &[], UnixNanos(7)).owners.len(), 2);
    assert!(index.scope(&node("node-c"), &[], UnixNanos(7)).owners.is_empty());
}

/// Goal: an inventory that contradicts itself is refused, with everything that is wrong at once.
#[test]
fn a_contradictory_inventory_is_refused() {
    let text = "
nodes:
  - { name: node-a, addresses: [10.0.0.1] }
  - { name: node-a }
pods:
  - { name: a, namespace: shop, node: node-x, addresses: [10.0.0.1] }
  - { name: a, namespace: shop, node: node-a }
";
    let error = parse(text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the inventory contradicts itself: node \"node-a\" stands twice; \
         pod \"shop/a\" is on node \"node-x\", which is not listed; \
         pod UID \"shop/a\" stands twice; \
         address 10.0.0.1 belongs to node node-a and to pod shop/a"
    );
}

/// Goal: a wrong key is named with its place.
#[test]
fn a_misspelt_key_is_named() {
    let error = parse("nodes: []\npod: []\n").unwrap_err();
    let InventoryError::Shape(shape) = error else { panic!("{error:?}") };
    let text = shape.to_string();
    assert!(text.contains("pod") && text.contains("line 2"), "{text}");
}
