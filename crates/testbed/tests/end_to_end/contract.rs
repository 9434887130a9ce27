//! The published form of what is exported: the labels of series and the headers of requests, spelt out.
//!
//! Source: the contract of the tool that egressd replaces. Everything here is literal, for proofreading.

use std::collections::BTreeMap;

use egressd_testbed::topology::{SERVICE_ADDRESSES, node_at};
use egressd_testbed::{
    Comparison, FlowKey, Flows, HttpSink, RECEIVED, Request, Series, TRANSMITTED, Volume, flows_by,
};

use crate::harness::{API_KEY, CLUSTER_ID, TENANT};

/// To a pod. `team` is the configuration's own label.
const POD_LABELS: &str = "cross_zone dst_ip dst_ip_type dst_namespace dst_node dst_pod dst_zone proto src_ip \
                          src_namespace src_node src_pod src_zone team";
/// To a node's own address.
const NODE_LABELS: &str = "cross_zone dst_ip dst_ip_type dst_node dst_zone proto src_ip src_namespace src_node \
                           src_pod src_zone team";
/// To the internet: its failure domain is unknown, so nothing is said of crossing it.
const PUBLIC_LABELS: &str = "dst_ip dst_ip_type proto src_ip src_namespace src_node src_pod src_zone team";

/// Some flows, whole.
const SERIES: [&str; 8] = [
    // Pod to pod on one node.
    "cross_zone=false dst_ip=10.244.1.4 dst_ip_type=private dst_namespace=data dst_node=node-a dst_pod=store-0 \
     dst_zone=zone-1 proto=TCP src_ip=10.244.1.3 src_namespace=shop src_node=node-a src_pod=client-0 \
     src_zone=zone-1 team=core",
    // Across failure domains, from both ends.
    "cross_zone=true dst_ip=10.244.2.4 dst_ip_type=private dst_namespace=data dst_node=node-b dst_pod=store-1 \
     dst_zone=zone-2 proto=UDP src_ip=10.244.1.3 src_namespace=shop src_node=node-a src_pod=client-0 \
     src_zone=zone-1 team=core",
    "cross_zone=true dst_ip=fd00:10:244:1::3 dst_ip_type=private dst_namespace=shop dst_node=node-a \
     dst_pod=client-0 dst_zone=zone-1 proto=TCP src_ip=fd00:10:244:2::4 src_namespace=data src_node=node-b \
     src_pod=store-1 src_zone=zone-2 team=core",
    // By the service's address: the backend.
    "cross_zone=true dst_ip=10.244.1.2 dst_ip_type=private dst_namespace=shop dst_node=node-a dst_pod=web-0 \
     dst_zone=zone-1 proto=TCP src_ip=10.244.2.3 src_namespace=shop src_node=node-b src_pod=client-1 \
     src_zone=zone-2 team=core",
    "cross_zone=false dst_ip=fd00:10:244:1::2 dst_ip_type=private dst_namespace=shop dst_node=node-a \
     dst_pod=web-0 dst_zone=zone-1 proto=UDP src_ip=fd00:10:244:1::2 src_namespace=shop src_node=node-a \
     src_pod=web-0 src_zone=zone-1 team=core",
    // To the other node itself.
    "cross_zone=true dst_ip=172.18.0.3 dst_ip_type=private dst_node=node-b dst_zone=zone-2 proto=TCP \
     src_ip=10.244.1.3 src_namespace=shop src_node=node-a src_pod=client-0 src_zone=zone-1 team=core",
    // To the internet.
    "dst_ip=203.0.113.10 dst_ip_type=public proto=TCP src_ip=10.244.1.3 src_namespace=shop src_node=node-a \
     src_pod=client-0 src_zone=zone-1 team=core",
    "dst_ip=2001:db8:1::10 dst_ip_type=public proto=UDP src_ip=fd00:10:244:2::3 src_namespace=shop \
     src_node=node-b src_pod=client-1 src_zone=zone-2 team=core",
];

/// Every series has the names of its kind of flow, and those that are spelt out exist with the true values.
pub(crate) fn check_labels(series: &[Series], truth: &Flows) {
    let mut values = BTreeMap::new();
    for one in series {
        let key = one.key().unwrap();
        let names = one.labels.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
        assert_eq!(names, label_names(&key), "{key}");
        assert!(!one.labels.values().any(String::is_empty), "{one:?}");
        assert!(!SERVICE_ADDRESSES.contains(key.remote), "{one:?}");
        let labels = one.labels.iter().map(|(name, value)| format!("{name}={value}"));
        let text = labels.collect::<Vec<_>>().join(" ");
        values.insert((one.name.clone(), text), (key, one.last_value()));
    }
    for labels in SERIES {
        for (metric, of) in [
            (TRANSMITTED, (|truth| truth.tx_bytes) as fn(&Volume) -> u64),
            (RECEIVED, |truth| truth.rx_bytes),
        ] {
            let (key, value) = values.get(&(metric.to_owned(), labels.to_owned())).unwrap_or_else(|| {
                panic!("no {metric} with {labels}, but {:#?}", values.keys().collect::<Vec<_>>())
            });
            let expected = truth.0.get(key).map(of);
            assert!(*value > 0 && Some(*value) == expected, "{metric} {labels}: {value}, truth {expected:?}");
        }
    }
}

fn label_names(key: &FlowKey) -> &'static str {
    match (&key.remote_pod, node_at(key.remote)) {
        (Some(_), _) => POD_LABELS,
        (None, Some(_)) => NODE_LABELS,
        (None, None) => PUBLIC_LABELS,
    }
}

/// A sink that does not ask for received bytes is told none, and its own labels are on every series of it.
pub(crate) fn check_own_labels(series: &[Series]) {
    assert!(!series.is_empty());
    for one in series {
        assert_eq!(one.name, TRANSMITTED);
        let own = ["Site", "team"].map(|label| one.labels.get(label).map(String::as_str));
        assert_eq!(own, [Some("lab"), Some("other")], "{one:?}");
    }
}

/// Every request to a receiver of remote write has the protocol's headers and the configuration's, and what is in
/// them is zero first, later at each sample, without labels of another sink, and the truth.
pub(crate) fn check_recorded(requests: &[Request], series: &[Series], truth: &Flows) {
    assert!(!requests.is_empty());
    for request in requests {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/api/v1/push"));
        for (name, value) in [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-write-version", "0.1.0"),
            ("x-scope-orgid", TENANT),
            ("authorization", &format!("Bearer {API_KEY}")),
        ] {
            assert_eq!(request.header(name), Some(value), "{name}");
        }
    }
    for one in series {
        assert_eq!(one.points[0].value, 0, "{one:?}");
        assert!(one.points.is_sorted_by(|before, point| before.at < point.at), "{one:?}");
        assert!(!one.labels.contains_key("team") && !one.labels.contains_key("Site"), "{one:?}");
    }
    let recorded = flows_by(Series::last_value, series).unwrap();
    assert_eq!(Comparison::of(truth, &recorded).difference_bytes(), 0, "{truth:#?} {recorded:#?}");
}

/// Every request to the cost API is what its contract says.
pub(crate) fn check_requests(cost_api: &HttpSink) {
    let requests = cost_api.requests();
    assert!(!requests.is_empty());
    for request in requests {
        let path = format!("/v1/kubernetes/clusters/{CLUSTER_ID}/egressd-metrics");
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", path.as_str()));
        for (name, value) in
            [("content-type", "application/protobuf"), ("content-encoding", "gzip"), ("x-api-key", API_KEY)]
        {
            assert_eq!(request.header(name), Some(value), "{name}");
        }
        let agent = request.header("user-agent").unwrap();
        let version = agent.strip_prefix("castai-egressd/v").unwrap();
        assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{agent}");
    }
}
