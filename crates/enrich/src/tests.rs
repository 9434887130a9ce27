//! From an inventory to scopes and to names at both ends.

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{
    AddressClass, Batch, Counter, End, Epoch, Identity, IpProtocol, Name, NodeName, Owner, PodName, Position,
    Record, Sequence, Span, TopologyZone, Traffic, Unattributed, UnixNanos, Workload,
};

use crate::inventory::{InventoryError, parse};
use crate::{Change, Grouping, Index, NAMES_OF_POD_MAX, Names, Node, Pod, PodUid, ScopeChange, attribute};

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
        dns_name: None,
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
    let index = parse(INVENTORY).unwrap().into_index();
    let remotes = [Some("10.244.2.2"), Some("172.18.0.3"), Some("203.0.113.1"), Some("198.51.100.1"), None];
    let batch = batch(vec![owner("10.244.1.2", "uid-web", 0, None)], &remotes);
    let attributed =
        attribute(&index, &mut Names::new(0), &node("node-a"), &batch, Grouping::None, Position(3));
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
    let index = parse(INVENTORY).unwrap().into_index();
    let remotes = [Some("203.0.113.1"), Some("2001:db8::1"), Some("10.244.2.2"), Some("198.51.100.1")];
    let batch = batch(vec![owner("10.244.1.2", "uid-web", 0, None)], &remotes);
    let attributed =
        attribute(&index, &mut Names::new(0), &node("node-a"), &batch, Grouping::Public, Position(1));
    let addresses: Vec<String> =
        attributed.records.iter().map(|record| record.remote.address.unwrap().to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0", "::", "10.244.2.2", "198.51.100.1"]);
}

/// An answer for `web-0`, seen at the beginning.
fn answer(address: &str, name: &str) -> Name {
    Name {
        address: address.parse().unwrap(),
        name: name.into(),
        time_to_live: Duration::from_secs(60),
        seen: UnixNanos(0),
        asker: Some("10.244.1.2".parse().unwrap()),
    }
}

/// Goal: a public address is named before it is grouped; what the cluster knows, or calls its own, is not.
#[test]
fn public_addresses_are_named_before_they_are_grouped() {
    let index = parse(INVENTORY).unwrap().into_index();
    let remotes = ["203.0.113.1", "2001:db8::1", "203.0.113.2", "10.244.2.2", "198.51.100.1"];
    let batch = batch(vec![owner("10.244.1.2", "uid-web", 0, None)], &remotes.map(Some));
    let names = ["a.com", "b.com", "a.com", "c.com", "d.com"];
    let mut heard = Names::new(1 << 20);
    heard.hear(&node("node-a"), remotes.iter().zip(names).map(|(at, name)| answer(at, name)).collect());
    let addresses = ["0.0.0.0", "::", "0.0.0.0", "10.244.2.2", "198.51.100.1"];
    for (grouping, addresses) in [(Grouping::None, remotes), (Grouping::Public, addresses)] {
        let attributed = attribute(&index, &mut heard, &node("node-a"), &batch, grouping, Position(1));
        let ends = attributed.records.iter().map(|record| &record.remote);
        let ends: Vec<_> = ends.map(|end| (end.address.unwrap().to_string(), dns_name(end))).collect();
        let named = [Some("a.com"), Some("b.com"), Some("a.com"), None, None];
        let expected =
            addresses.iter().zip(named).map(|(at, name)| ((*at).to_owned(), name.map(str::to_owned)));
        assert_eq!(ends, expected.collect::<Vec<_>>(), "{grouping:?}");
    }
}

fn dns_name(end: &End) -> Option<String> {
    end.identity.as_ref().ok()?.dns_name.as_ref().map(ToString::to_string)
}

/// Goal: where addresses are grouped, a pod keeps the names with most bytes, and the others' bytes stay in the group.
#[test]
fn grouped_names_of_a_pod_are_bounded() {
    let index = parse(INVENTORY).unwrap().into_index();
    let host = |host: usize| format!("203.0.113.{host}");
    let hosts: Vec<String> = (0..NAMES_OF_POD_MAX + 20).map(host).collect();
    let remotes: Vec<Option<&str>> = hosts.iter().map(|host| Some(host.as_str())).collect();
    let mut batch = batch(vec![owner("10.244.1.2", "uid-web", 0, None)], &remotes);
    for (bytes, record) in (1..).zip(&mut batch.records) {
        record.traffic.tx.bytes = bytes;
    }
    let mut heard = Names::new(1 << 20);
    heard.hear(&node("node-a"), hosts.iter().map(|host| answer(host, &format!("{host}.com"))).collect());
    for (grouping, over) in [(Grouping::None, 0), (Grouping::Public, 20)] {
        let attributed = attribute(&index, &mut heard, &node("node-a"), &batch, grouping, Position(1));
        let unnamed =
            attributed.records.iter().take_while(|record| dns_name(&record.remote).is_none()).count();
        let named = attributed.records.iter().filter(|record| dns_name(&record.remote).is_some()).count();
        assert_eq!((unnamed, named), (over, hosts.len() - over), "{grouping:?}");
        assert_eq!(attributed.sum(), batch.sum());
    }
    assert_eq!(heard.books().over, 20);
}

const SECOND: u64 = 1_000_000_000;

fn seconds(at: u64) -> UnixNanos {
    UnixNanos(at * SECOND)
}

fn pod(name: &str, address: &str, since: u64, until: Option<u64>) -> Pod {
    Pod {
        uid: PodUid(name.into()),
        namespace: "shop".into(),
        name: name.into(),
        node: Some(node("node-a")),
        addresses: vec![address.parse().unwrap()],
        labels: [].into(),
        workload: None,
        since: seconds(since),
        until: until.map(seconds),
    }
}

fn cluster_node(name: &str, zone_name: &str) -> Node {
    Node {
        name: node(name),
        topology_zone: Some(TopologyZone(zone_name.into())),
        region: None,
        addresses: vec!["172.18.0.2".parse().unwrap()],
        pod_ranges: vec!["198.51.100.0/24".parse().unwrap()],
        labels: [].into(),
        taints: Vec::new(),
    }
}

/// Who had 10.0.0.1 from `from` to `to`.
fn holder(index: &Index, from: u64, to: u64) -> Result<String, Unattributed> {
    let span = Span { from: seconds(from), to: seconds(to) };
    let identity = index.lookup("10.0.0.1".parse().unwrap(), span)?;
    Ok(identity.pod.as_ref().unwrap().name.to_string())
}

/// What a collector is told, as `node: pod since..until`.
fn told(changes: &[ScopeChange]) -> Vec<String> {
    let of_change = |change: &ScopeChange| {
        let (name, owners) = (change.node.clone(), change.owners.clone());
        owners.into_iter().map(move |owner| {
            let until = owner.until.map_or(String::new(), |until| (until.0 / SECOND).to_string());
            format!("{name}: {} {}..{until}", owner.name, owner.since.0 / SECOND)
        })
    };
    changes.iter().flat_map(of_change).collect()
}

/// Goal: an address that changed hands is named by the time of the traffic, and by nobody when both had it.
#[test]
fn names_follow_the_time_of_the_traffic() {
    let mut index = Index::default();
    index.apply(Change::Pod(pod("old", "10.0.0.1", 10, Some(20))), seconds(31));
    index.apply(Change::Pod(pod("new", "10.0.0.1", 30, None)), seconds(31));
    assert_eq!(holder(&index, 1, 9), Err(Unattributed::Unknown));
    assert_eq!(holder(&index, 5, 15), Ok("old".to_owned()));
    assert_eq!(holder(&index, 20, 29), Err(Unattributed::Unknown));
    assert_eq!(holder(&index, 20, 30), Ok("new".to_owned()));
    assert_eq!(holder(&index, 19, 30), Err(Unattributed::Ambiguous));
}

/// Goal: collectors hear of a pod when it has an address, when it ends, and not when nothing changed for them.
#[test]
fn collectors_hear_what_changes() {
    let mut index = Index::default();
    let unscheduled = Pod { node: None, addresses: vec![], ..pod("web", "10.0.0.1", 10, None) };
    let scheduled = Pod { addresses: vec![], ..pod("web", "10.0.0.1", 10, None) };
    let mut apply = |change, now| told(&index.apply(change, seconds(now)));
    assert!(apply(Change::Pod(unscheduled), 9).is_empty());
    assert!(apply(Change::Pod(scheduled), 10).is_empty());
    assert_eq!(apply(Change::Pod(pod("web", "10.0.0.1", 10, None)), 11), ["node-a: web 10.."]);
    assert!(apply(Change::Pod(pod("web", "10.0.0.1", 10, None)), 12).is_empty());
    let ended = pod("web", "10.0.0.1", 10, Some(20));
    assert_eq!(apply(Change::Pod(ended.clone()), 20), ["node-a: web 10..20"]);
    assert!(apply(Change::PodGone(ended), 21).is_empty(), "its end is known already");
}

/// Goal: a pod that is gone without a word of when it ended has ended by now; a known end stands.
#[test]
fn a_pod_that_is_gone_has_ended() {
    let mut index = Index::default();
    index.apply(Change::Pod(pod("web", "10.0.0.1", 10, None)), seconds(11));
    let gone = index.apply(Change::PodGone(pod("web", "10.0.0.1", 10, None)), seconds(25));
    assert_eq!(told(&gone), ["node-a: web 10..25"]);
    assert_eq!(holder(&index, 20, 24), Ok("web".to_owned()));
    assert_eq!(holder(&index, 25, 26), Err(Unattributed::Unknown));
}

/// Goal: after a gap the list replaces everything at once: who is not in it has ended, before whoever has its address
/// now began, and who came meanwhile is new.
#[test]
fn a_list_replaces_everything_at_once() {
    let mut index = Index::default();
    let stays = pod("stays", "10.0.0.2", 10, None);
    let listed = vec![pod("old", "10.0.0.1", 10, None), pod("lost", "10.0.0.3", 10, None), stays.clone()];
    index.apply(Change::Pods(listed), seconds(11));
    let changes = index.apply(Change::Pods(vec![pod("new", "10.0.0.1", 30, None), stays]), seconds(40));
    let mut told = told(&changes);
    told.sort();
    assert_eq!(told, ["node-a: lost 10..40", "node-a: new 30..", "node-a: old 10..30"]);
    assert_eq!(index.scope(&node("node-a"), seconds(40)).owners.len(), 4);
    assert_eq!(holder(&index, 29, 29), Ok("old".to_owned()));
    assert_eq!(holder(&index, 30, 31), Ok("new".to_owned()));
}

/// Goal: what a collector took for the traffic of a pod that had ended before is that of the one pod that had the
/// address on its node then; where that is not sure the batch's word stands.
#[test]
fn an_address_that_changed_hands_unseen_is_its_new_holders() {
    let mut index = Index::default();
    index.apply(Change::Pod(pod("old", "10.0.0.1", 10, Some(20))), seconds(31));
    index.apply(Change::Pod(pod("new", "10.0.0.1", 30, None)), seconds(31));
    let alive = owner("10.0.0.1", "old", 10, None);
    let ended = owner("10.0.0.1", "old", 10, Some(20));
    for (name, of, on, (from, to), expected) in [
        ("in its life", &alive, "node-a", (15, 16), "old"),
        ("in both lives", &alive, "node-a", (19, 31), "old"),
        ("in nobody's", &alive, "node-a", (21, 22), "old"),
        ("after its life", &alive, "node-a", (28, 31), "new"),
        ("claimed late, of its time", &ended, "node-a", (15, 31), "old"),
        ("told of its end after the claim", &ended, "node-a", (30, 31), "new"),
        ("another node's address", &alive, "node-b", (30, 31), "old"),
    ] {
        let span = Span { from: seconds(from), to: seconds(to) };
        let batch = Batch { span, ..batch(vec![Arc::clone(of)], &[None]) };
        let attributed =
            attribute(&index, &mut Names::new(0), &node(on), &batch, Grouping::None, Position(1));
        assert_eq!(&*attributed.records[0].local.pod.as_ref().unwrap().name, expected, "{name}");
    }
}

/// Goal: a pod that ended stays known for ten minutes, and one that is listed for hours, as Jobs are, stays forgotten.
#[test]
fn ended_pods_are_forgotten() {
    let mut index = Index::default();
    let ended = pod("job", "10.0.0.1", 10, Some(20));
    index.apply(Change::Pod(ended.clone()), seconds(20));
    index.apply(Change::Pod(pod("other", "10.0.0.9", 10, None)), seconds(620));
    assert_eq!((index.pods(), index.addresses()), (2, 2));
    index.apply(Change::Pod(pod("other", "10.0.0.9", 11, None)), seconds(621));
    assert_eq!((index.pods(), index.addresses()), (1, 1));
    let again = index.apply(Change::Pod(ended), seconds(622));
    assert_eq!((told(&again), index.pods()), (vec![], 1));
}

/// Goal: a StatefulSet's pod that is made anew under its name is another pod, whatever order its end is told in.
#[test]
fn a_namesake_is_another_pod() {
    let mut index = Index::default();
    let with_uid =
        |uid: &str, since, until| Pod { uid: PodUid(uid.into()), ..pod("web-0", "10.0.0.1", since, until) };
    index.apply(Change::Pod(with_uid("first", 10, None)), seconds(11));
    index.apply(Change::Pod(with_uid("second", 30, None)), seconds(31));
    index.apply(Change::PodGone(with_uid("first", 10, Some(20))), seconds(32));
    assert_eq!(index.scope(&node("node-a"), seconds(32)).owners.len(), 2);
    assert_eq!(holder(&index, 30, 40), Ok("web-0".to_owned()));
}

/// Goal: a node that is moved to another zone takes its pods along, and one that is gone leaves its pods their names.
#[test]
fn pods_are_where_their_node_is() {
    let mut index = Index::default();
    index.apply(Change::Pod(pod("web", "10.0.0.1", 10, None)), seconds(11));
    let place = |index: &Index| {
        let identity = index.lookup("10.0.0.1".parse().unwrap(), span(20, 30 * SECOND)).unwrap();
        identity.topology_zone.as_ref().map(|name| name.0.to_string())
    };
    let class = |index: &Index| index.class("198.51.100.7".parse().unwrap());
    assert_eq!((place(&index), class(&index)), (None, AddressClass::Public));
    index.apply(Change::Node(cluster_node("node-a", "zone-1")), seconds(12));
    assert_eq!((place(&index), class(&index)), (Some("zone-1".to_owned()), AddressClass::Private));
    index.apply(Change::Nodes(vec![cluster_node("node-a", "zone-2")]), seconds(13));
    assert_eq!(place(&index), Some("zone-2".to_owned()));
    assert!(index.lookup("172.18.0.2".parse().unwrap(), span(1, 2)).is_ok());
    index.apply(Change::NodeGone(node("node-a")), seconds(14));
    assert!(index.lookup("172.18.0.2".parse().unwrap(), span(1, 2)).is_err());
    assert_eq!(class(&index), AddressClass::Public);
    assert!(index.lookup("10.0.0.1".parse().unwrap(), span(20, 30 * SECOND)).is_ok());
}

/// Goal: a node that is new or has other addresses is told as a whole; one that only moved is not.
#[test]
fn a_node_with_other_addresses_is_renewed() {
    let mut index = Index::default();
    let other_address =
        Node { addresses: vec!["172.18.0.9".parse().unwrap()], ..cluster_node("node-a", "zone-2") };
    let mut renewed = |node: Node| {
        index.apply(Change::Node(node), seconds(1)).iter().filter(|change| change.renewed).count()
    };
    assert_eq!(renewed(cluster_node("node-a", "zone-1")), 1);
    assert_eq!(renewed(cluster_node("node-a", "zone-2")), 0);
    assert_eq!(renewed(other_address), 1);
}

/// Goal: a node's scope holds its own pods only.
#[test]
fn a_scope_is_one_nodes() {
    let index = parse(INVENTORY).unwrap().into_index();
    let scope = index.scope(&node("node-b"), UnixNanos(7));
    assert_eq!(scope.as_of, UnixNanos(7));
    assert_eq!(scope.node_addresses, ["172.18.0.3".parse::<std::net::IpAddr>().unwrap()]);
    let owners: Vec<_> = scope.owners.iter().map(|owner| &*owner.pod_uid).collect();
    assert_eq!(owners, ["kube-system/dns-0"]);
    assert_eq!(index.scope(&node("node-a"), UnixNanos(7)).owners.len(), 2);
    assert!(index.scope(&node("node-c"), UnixNanos(7)).owners.is_empty());
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
