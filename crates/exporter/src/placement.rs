//! Which nodes have a collector to wait for: those that the DaemonSet's own rules let its pods onto. Pure.
//!
//! The rules are the pod's, as its spec has them, and are followed as Kubernetes does for a DaemonSet: node selector,
//! required node affinity, and tolerations of the taints that keep pods off. What only prefers one node is passed over.
//! Source: `core/v1` NodeSelectorRequirement and Toleration; which taints each DaemonSet tolerates, Kubernetes 1.36.
//! Bound: the names of nodes that are left out.

use std::collections::{BTreeMap, BTreeSet};

use egressd_enrich::{Change, Node, Taint};
use egressd_flow::NodeName;
use serde::{Deserialize, Deserializer};

/// Every DaemonSet's pods tolerate these, the last where they are on the host's network.
const TOLERATED: [&str; 7] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/network-unavailable",
];
/// Other effects only advise.
const KEEPS_OFF: [&str; 2] = ["NoSchedule", "NoExecute"];

/// The part of a pod's spec that says where it may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Placement {
    node_selector: Option<BTreeMap<String, String>>,
    affinity: Option<Affinity>,
    tolerations: Option<Vec<Toleration>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Affinity {
    node_affinity: Option<NodeAffinity>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeSelector {
    /// One that matches is enough.
    node_selector_terms: Vec<Term>,
}

/// One that says nothing matches no node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Term {
    #[serde(deserialize_with = "null_is_nothing")]
    match_expressions: Vec<Requirement>,
    #[serde(deserialize_with = "null_is_nothing")]
    match_fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Requirement {
    key: String,
    operator: Operator,
    #[serde(default, deserialize_with = "null_is_nothing")]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// An empty key or effect is any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Toleration {
    #[serde(deserialize_with = "null_is_nothing")]
    key: String,
    #[serde(deserialize_with = "null_is_nothing")]
    operator: String,
    #[serde(deserialize_with = "null_is_nothing")]
    value: String,
    #[serde(deserialize_with = "null_is_nothing")]
    effect: String,
}

/// As the API takes it: YAML has a null where a value is left empty.
fn null_is_nothing<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// As a flag takes it.
///
/// # Errors
/// It is not JSON of that shape.
pub(crate) fn parse_placement(text: &str) -> Result<Placement, serde_json::Error> {
    serde_json::from_str(text)
}

impl Placement {
    /// Whether the DaemonSet has a pod for this node.
    fn takes(&self, node: &Node) -> bool {
        let selected =
            self.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
        selected && self.is_required(node) && node.taints.iter().all(|taint| self.tolerates(taint))
    }

    fn is_required(&self, node: &Node) -> bool {
        let affinity = self.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref());
        required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term.matches(node)))
    }

    fn tolerates(&self, taint: &Taint) -> bool {
        !KEEPS_OFF.contains(&taint.effect.as_str())
            || TOLERATED.contains(&taint.key.as_str())
            || self.tolerations.iter().flatten().any(|toleration| toleration.covers(taint))
    }
}

impl Term {
    fn matches(&self, node: &Node) -> bool {
        let says_something = !(self.match_expressions.is_empty() && self.match_fields.is_empty());
        let name = |field: &str| (field == "metadata.name").then_some(&*node.name.0);
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        says_something
            && self.match_expressions.iter().all(|wanted| wanted.is_met(label(&wanted.key)))
            && self.match_fields.iter().all(|wanted| wanted.is_met(name(&wanted.key)))
    }
}

impl Requirement {
    fn is_met(&self, found: Option<&str>) -> bool {
        let is_listed = found.is_some_and(|found| self.values.iter().any(|value| value == found));
        let compared = || Some((found?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => is_listed,
            Operator::NotIn => !is_listed,
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::Gt => compared().is_some_and(|(found, bound)| found > bound),
            Operator::Lt => compared().is_some_and(|(found, bound)| found < bound),
        }
    }
}

impl Toleration {
    fn covers(&self, taint: &Taint) -> bool {
        let is_any_or = |ours: &str, theirs: &str| ours.is_empty() || ours == theirs;
        let by_value = match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => !self.key.is_empty() && self.value == taint.value,
            _ => false,
        };
        by_value && is_any_or(&self.key, &taint.key) && is_any_or(&self.effect, &taint.effect)
    }
}

/// Which nodes of the cluster no collector is for, as the watch tells of nodes.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    /// `None`: collectors are for every node.
    placement: Option<Placement>,
    nodes: BTreeSet<NodeName>,
}

impl LeftOut {
    pub(crate) fn by(placement: Option<Placement>) -> Self {
        Self { placement, nodes: BTreeSet::new() }
    }

    /// Takes labels and taints out of what is told, which nobody after this needs.
    pub(crate) fn hear(&mut self, change: &mut Change) {
        match change {
            Change::Nodes(nodes) => {
                self.nodes.clear();
                nodes.iter_mut().for_each(|node| self.judge(node));
            }
            Change::Node(node) => self.judge(node),
            Change::NodeGone(name) => {
                self.nodes.remove(name);
            }
            Change::Pods(_) | Change::Pod(_) | Change::PodGone(_) => {}
        }
    }

    pub(crate) fn has(&self, node: &NodeName) -> bool {
        self.nodes.contains(node)
    }

    fn judge(&mut self, node: &mut Node) {
        if self.placement.as_ref().is_none_or(|placement| placement.takes(node)) {
            self.nodes.remove(&node.name);
        } else {
            self.nodes.insert(node.name.clone());
        }
        node.labels = BTreeMap::new();
        node.taints = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, labels: &[(&str, &str)], taints: &[(&str, &str, &str)]) -> Node {
        let taint = |&(key, value, effect): &(&str, &str, &str)| Taint {
            key: key.to_owned(),
            value: value.to_owned(),
            effect: effect.to_owned(),
        };
        Node {
            name: NodeName(name.into()),
            topology_zone: None,
            region: None,
            addresses: vec![],
            pod_ranges: vec![],
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            taints: taints.iter().map(taint).collect(),
        }
    }

    fn takes(placement: &Value, node: &Node) -> bool {
        parse_placement(&placement.to_string()).unwrap().takes(node)
    }

    fn required(terms: &Value) -> Value {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
    }

    /// Goal: labels are asked for as a node selector and each operator of an affinity ask for them; one term of several is
    /// enough, and an empty one is none.
    #[test]
    fn labels_say_where_a_collector_is_expected() {
        let linux = node("a", &[("os", "linux"), ("cpus", "8")], &[]);
        for (placement, expected) in [
            (json!({}), true),
            (json!({"nodeSelector": null, "affinity": {}, "tolerations": []}), true),
            (json!({"nodeSelector": {"os": "linux"}}), true),
            (json!({"nodeSelector": {"os": "linux", "pool": "apps"}}), false),
        ] {
            assert_eq!(takes(&placement, &linux), expected, "{placement}");
        }
        for (key, operator, values, expected) in [
            ("os", "In", json!(["windows", "linux"]), true),
            ("os", "In", json!(["windows"]), false),
            ("os", "NotIn", json!(["linux"]), false),
            ("compute-type", "NotIn", json!(["fargate"]), true),
            ("os", "Exists", json!([]), true),
            ("gpu", "Exists", json!([]), false),
            ("os", "DoesNotExist", json!([]), false),
            ("gpu", "DoesNotExist", json!([]), true),
            ("cpus", "Gt", json!(["4"]), true),
            ("cpus", "Gt", json!(["8"]), false),
            ("cpus", "Lt", json!(["16"]), true),
            ("os", "Lt", json!(["16"]), false),
        ] {
            let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            assert_eq!(takes(&required(&json!([term])), &linux), expected, "{term}");
            assert_eq!(takes(&required(&json!([{}, term])), &linux), expected, "an empty term: {term}");
        }
        let by_name = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]);
        assert!(takes(&required(&by_name), &linux));
        assert!(!takes(&required(&by_name), &node("b", &[], &[])));
        assert!(parse_placement(r#"{"nodeSelector": 3}"#).is_err());
    }

    /// Goal: a taint that keeps pods off keeps collectors off unless they tolerate it, as they do what every DaemonSet does.
    #[test]
    fn taints_keep_collectors_off_unless_tolerated() {
        let tainted = |taint| node("a", &[], &[taint]);
        let gpu = ("gpu", "yes", "NoSchedule");
        for (toleration, taint, expected) in [
            (json!({"operator": "Exists"}), gpu, true),
            (json!({"key": "gpu", "operator": "Exists"}), gpu, true),
            (json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}), gpu, false),
            (json!({"key": "gpu", "value": "yes"}), gpu, true),
            (json!({"key": "gpu", "operator": "Equal", "value": "no"}), gpu, false),
            (json!({"key": "other", "operator": "Exists"}), gpu, false),
            (json!({"key": "other"}), ("gpu", "yes", "PreferNoSchedule"), true),
            (json!({"key": "other"}), ("node.kubernetes.io/not-ready", "", "NoExecute"), true),
        ] {
            let placement = json!({"tolerations": [toleration]});
            assert_eq!(takes(&placement, &tainted(taint)), expected, "{placement} {taint:?}");
        }
        assert!(!takes(&json!({}), &tainted(gpu)));
    }

    /// Goal: who is left out follows the nodes, and nothing of what decides it is kept.
    #[test]
    fn who_is_left_out_follows_the_nodes() {
        let mut left_out =
            LeftOut::by(Some(parse_placement(r#"{"nodeSelector": {"os": "linux"}}"#).unwrap()));
        let windows = || node("w", &[("os", "windows")], &[]);
        let mut all = Change::Nodes(vec![node("l", &[("os", "linux")], &[]), windows()]);
        left_out.hear(&mut all);
        assert_eq!(all, Change::Nodes(vec![node("l", &[], &[]), node("w", &[], &[])]));
        let name = |text: &str| NodeName(text.into());
        assert!(left_out.has(&name("w")) && !left_out.has(&name("l")));
        left_out.hear(&mut Change::Node(node("l", &[], &[])));
        left_out.hear(&mut Change::NodeGone(name("w")));
        assert!(left_out.has(&name("l")) && !left_out.has(&name("w")));
        left_out.hear(&mut Change::Nodes(vec![]));
        assert!(!left_out.has(&name("l")));
        let mut every = LeftOut::by(None);
        every.hear(&mut Change::Node(windows()));
        assert!(!every.has(&name("w")));
    }

    /// Goal: what YAML leaves empty is as if it were not there.
    #[test]
    fn a_null_is_nothing() {
        let tainted = node("gpu", &[], &[("gpu", "", "NoSchedule")]);
        let empty = json!({"key": "gpu", "operator": "Exists", "value": null, "effect": null});
        assert!(takes(&json!({"nodeSelector": null, "affinity": null, "tolerations": [empty]}), &tainted));
        let exists =
            json!([{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist", "values": null}]}]);
        assert!(takes(&required(&exists), &node("plain", &[], &[])));
    }
}
