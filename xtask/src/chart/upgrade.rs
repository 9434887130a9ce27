//! An upgrade in place: values of the original's chart give objects of the names and selectors that its own had, since
//! selectors cannot be changed and an object of another name would be a second one.

use serde_json::{Value, json};

use crate::chart::cases::Cases;
use crate::chart::engine::Answer;

/// What the original's chart renders for the release `castai-egressd`, by kind, name and selector. Its collector's
/// ClusterRole and binding are not among them: ours has no access to the API.
fn expected() -> [(&'static str, &'static str, Value); 6] {
    let labels = |name: &str| json!({"matchLabels": {"app.kubernetes.io/name": name, "app.kubernetes.io/instance": "castai-egressd"}});
    [
        ("DaemonSet", "castai-egressd", labels("egressd")),
        ("Deployment", "castai-egressd-exporter", labels("egressd-exporter")),
        ("ConfigMap", "castai-egressd-exporter", Value::Null),
        ("ClusterRole", "castai-egressd-exporter", Value::Null),
        ("ClusterRoleBinding", "castai-egressd-exporter", Value::Null),
        ("Service", "castai-egressd-exporter", Value::Null),
    ]
}

/// What an upgrade takes away, and why nobody misses it.
const GONE: [(&str, &str); 2] = [("ClusterRole", "castai-egressd"), ("ClusterRoleBinding", "castai-egressd")];

/// Holds each case of the original's values against what an upgrade in place needs, and, where they are at hand, the
/// original's own renders against ours.
pub(super) fn check(cases: &Cases, answer: &Answer) -> Vec<String> {
    let mut findings = Vec::new();
    for case in cases.original.keys() {
        for (kind, name, selector) in expected() {
            match object(answer.objects(case), kind, name) {
                None => findings.push(format!("{case}: no {kind} {name}")),
                Some(found) if !selector.is_null() && found["spec"]["selector"] != selector => {
                    findings.push(format!("{case}: the selector of {kind} {name} is another"));
                }
                Some(_) => {}
            }
        }
    }
    for (render, case) in [("castai", "captured-castai"), ("demo-with-cluster-id", "captured-demo")] {
        if cases.captures.contains_key(render) {
            findings.extend(compare(answer, render, case));
        }
    }
    findings
}

/// What the original rendered, and ours does not have or has otherwise where that matters to an upgrade.
fn compare(answer: &Answer, render: &str, case: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for theirs in answer.capture(render) {
        let (kind, name) = (text(&theirs["kind"]), text(&theirs["metadata"]["name"]));
        let Some(ours) = object(answer.objects(case), kind, name) else {
            if !GONE.contains(&(kind, name)) {
                findings.push(format!("{case}: the original has {kind} {name}, and ours has not"));
            }
            continue;
        };
        for (what, theirs, ours) in [
            ("selector", &theirs["spec"]["selector"], &ours["spec"]["selector"]),
            ("data", &theirs["data"], &ours["data"]),
            ("role", &theirs["roleRef"], &ours["roleRef"]),
            ("subjects", &theirs["subjects"], &ours["subjects"]),
            (
                "pod labels",
                &theirs["spec"]["template"]["metadata"]["labels"],
                &ours["spec"]["template"]["metadata"]["labels"],
            ),
        ] {
            if !theirs.is_null() && theirs != ours {
                findings.push(format!("{case}: {what} of {kind} {name}: theirs {theirs}, ours {ours}"));
            }
        }
    }
    findings
}

fn object<'o>(mut objects: impl Iterator<Item = &'o Value>, kind: &str, name: &str) -> Option<&'o Value> {
    objects.find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
