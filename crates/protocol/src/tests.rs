//! Every message survives the wire; what a hostile peer may send is refused by name.

use std::sync::Arc;
use std::time::Duration;

use egressd_flow::{Epoch, IpProtocol, Name, NodeName, Owner, Scope, Sequence, UnixNanos};
use proptest::prelude::*;
use prost::Message as _;

use crate::limits::OWNERS_MAX;
use crate::{
    Ack, CollectorFlags, Dimension, Down, FlowFilter, HeldEpoch, Hello, Loss, NamePattern, Settings, Source,
    SpoolId, Status, SummaryOrder, SummaryQuery, Up, Welcome, v1,
};

fn hello() -> Hello {
    Hello {
        node: NodeName("node-a".into()),
        version: "1.2.3".to_owned(),
        source: Source::Netfilter,
        last_spool: Some(SpoolId(5)),
        epochs: vec![HeldEpoch { epoch: Epoch(1), first: Sequence(7) }],
        clock: UnixNanos(9),
        flags: CollectorFlags { exclude_namespaces: vec!["kube-system".to_owned()], group_public_ips: true },
    }
}

fn owner(name: String) -> Arc<Owner> {
    Arc::new(Owner {
        address: "fd00::1".parse().unwrap(),
        pod_uid: name.as_str().into(),
        namespace: "shop".into(),
        name: name.into(),
        labels: [].into(),
        since: UnixNanos(1),
        until: Some(UnixNanos(2)),
        measure: false,
    })
}

/// Goal: what a collector says is what the exporter hears.
#[test]
fn messages_up_survive_the_wire() {
    let name = Name {
        address: "198.51.100.7".parse().unwrap(),
        name: "example.org".into(),
        time_to_live: Duration::from_secs(90),
        seen: UnixNanos(4),
        asker: Some("10.244.1.7".parse().unwrap()),
    };
    let status = Status {
        source: Source::Netfilter,
        reason: "--ct-mode".to_owned(),
        diagnosis: "acct is off".to_owned(),
        losses: vec![Loss { reason: "events".to_owned(), count: 3, bytes: 0 }],
    };
    for up in [Up::Hello(hello()), Up::Names(vec![name]), Up::Status(status)] {
        let bytes = up.to_wire().encode_to_vec();
        assert_eq!(Up::from_wire(v1::Up::decode(bytes.as_slice()).unwrap()), Ok(Some(up)));
    }
}

/// Goal: what the exporter says is what a collector hears.
#[test]
fn messages_down_survive_the_wire() {
    let welcome =
        Welcome { spool: SpoolId(3), durable: true, version: "1.2.3".to_owned(), clock: UnixNanos(8) };
    let settings = Settings {
        read_interval: Some(Duration::from_secs(15)),
        fold: vec![("198.51.100.0".parse().unwrap(), 24), ("::".parse().unwrap(), 0)],
    };
    for down in [
        Down::Welcome(welcome),
        Down::Ack(Ack { epoch: Epoch(1), taken: Sequence(2), delivered: Sequence(1) }),
        Down::Settings(settings),
        Down::Redirect(None),
        Down::Redirect(Some("exporter-1:6062".to_owned())),
    ] {
        let [message] = down.to_wire().try_into().unwrap();
        assert_eq!(Down::from_wire(message), Ok(Some(down)));
    }
}

/// Goal: a scope of any size is told whole, and only its last message says as of when.
#[test]
fn a_large_scope_is_told_in_parts() {
    let scope = Scope {
        as_of: UnixNanos(77),
        whole: true,
        owners: (0..OWNERS_MAX + 1).map(|number| owner(format!("pod-{number}"))).collect(),
        node_addresses: vec!["172.18.0.2".parse().unwrap()],
    };
    let parts: Vec<Scope> = Down::Scope { scope: scope.clone(), clock: UnixNanos(78) }
        .to_wire()
        .into_iter()
        .map(|message| match Down::from_wire(message) {
            Ok(Some(Down::Scope { scope, clock: UnixNanos(78) })) => scope,
            other => panic!("{other:?}"),
        })
        .collect();
    let [first, last] = parts.try_into().unwrap();
    assert_eq!((first.whole, first.as_of, first.owners.len()), (true, UnixNanos(0), OWNERS_MAX));
    assert_eq!(first.node_addresses, scope.node_addresses);
    assert_eq!(
        last,
        Scope {
            as_of: UnixNanos(77),
            whole: false,
            owners: vec![owner(format!("pod-{OWNERS_MAX}"))],
            node_addresses: vec![],
        }
    );
}

/// Goal: a message of a later version is nothing, not an error.
#[test]
fn an_unknown_message_is_nothing() {
    assert_eq!(Up::from_wire(v1::Up { message: None }), Ok(None));
    assert_eq!(Down::from_wire(v1::Down { message: None }), Ok(None));
}

/// Goal: a Hello that cannot be is refused by name.
#[test]
fn a_hello_that_cannot_be_is_refused() {
    let broken = |change: fn(&mut Hello)| {
        let mut hello = hello();
        change(&mut hello);
        Up::from_wire(Up::Hello(hello).to_wire()).unwrap_err().to_string()
    };
    assert_eq!(broken(|hello| hello.node = NodeName("".into())), "hello.node is missing");
    assert_eq!(broken(|hello| hello.epochs[0].first = Sequence(0)), "hello.epochs.first_sequence is missing");
    assert_eq!(
        broken(|hello| hello.epochs[0].first = Sequence(u64::MAX)),
        "hello.epochs.first_sequence is 18446744073709551615, out of its range"
    );
    assert_eq!(
        broken(|hello| hello.epochs = vec![hello.epochs[0]; 5]),
        "hello.epochs holds 5, at most 4 are allowed"
    );
}

/// Goal: what a subscriber asks is what is looked for, and a summary that says little gets the defaults.
#[test]
fn questions_are_understood() {
    let text = |text: &str| vec![text.to_owned()];
    let filter = v1::FlowFilter {
        namespaces: text("shop"),
        pods: vec!["web-0".to_owned(), "shop/web-1".to_owned()],
        nodes: text("node-a"),
        topology_zones: text("zone-1"),
        remote_ranges: vec!["10.1.2.3".to_owned(), "fd00::/8".to_owned()],
        remote_names: text("db"),
        protocols: vec![6, 255],
        least_bytes: 9,
    };
    let pattern = |namespace: Option<&str>, name: &str| NamePattern {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    let expected = FlowFilter {
        namespaces: text("shop"),
        pods: vec![pattern(None, "web-0"), pattern(Some("shop"), "web-1")],
        nodes: text("node-a"),
        topology_zones: text("zone-1"),
        remote_ranges: vec!["10.1.2.3/32".parse().unwrap(), "fd00::/8".parse().unwrap()],
        remote_names: vec![pattern(None, "db")],
        protocols: vec![IpProtocol::TCP, IpProtocol(255)],
        least_bytes: 9,
    };
    assert_eq!(FlowFilter::from_wire(v1::SubscribeRequest { filter: Some(filter) }), Ok(expected));
    assert_eq!(FlowFilter::from_wire(v1::SubscribeRequest::default()), Ok(FlowFilter::default()));

    let request = v1::SummaryRequest { dimensions: vec![6, 1], ..Default::default() };
    let dimensions = vec![Dimension::Remote, Dimension::Pod];
    let query = SummaryQuery { window_minutes: 5, dimensions, order: SummaryOrder::Sent, rows_max: 10 };
    assert_eq!(SummaryQuery::from_wire(&request), Ok(query));
}

proptest! {
    /// Goal: no bytes whatsoever make a decoder panic.
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(message) = v1::Up::decode(bytes.as_slice()) {
            let _either = Up::from_wire(message);
        }
        if let Ok(message) = v1::Down::decode(bytes.as_slice()) {
            let _either = Down::from_wire(message);
        }
        if let Ok(message) = v1::SubscribeRequest::decode(bytes.as_slice()) {
            let _either = FlowFilter::from_wire(message);
        }
        if let Ok(message) = v1::SummaryRequest::decode(bytes.as_slice()) {
            let _either = SummaryQuery::from_wire(&message);
        }
    }
}
