//! Every flag that a manifest passes is one that the daemon knows.
//!
//! What a daemon knows stands in its `REFERENCE.md`, which a test of that daemon holds against the binary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::chart::engine::Answer;

/// Flags of the original that the collector accepts, which mean nothing there and are not in its reference.
const ACCEPTED: [&str; 6] = [
    "cilium-clock-source",
    "cleanup-interval",
    "init-cgroupv2",
    "kubeconfig",
    "log-entries",
    "send-traffic-delta",
];

/// Holds every container of every case against the references.
///
/// # Errors
///
/// When a reference cannot be read.
pub(super) fn check(root: &Path, answer: &Answer) -> Result<Vec<String>> {
    let reference = |daemon: &str| {
        let path = root.join("crates").join(daemon).join("REFERENCE.md");
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (collector, exporter) = (reference("collector")?, reference("exporter")?);
    let mut run = flags(&collector, "egressd-collector run");
    run.extend(ACCEPTED.map(str::to_owned));
    let known = [
        ("egressd", run),
        ("egressd-init", flags(&collector, "egressd-collector init")),
        ("exporter", flags(&exporter, "egressd-exporter run")),
    ];
    let mut unknown: BTreeMap<(&str, String), &str> = BTreeMap::new();
    for (case, _) in answer.renders() {
        for container in answer.objects(case).flat_map(containers) {
            let name = container["name"].as_str().unwrap_or_default();
            let Some((_, known)) = known.iter().find(|(of, _)| *of == name) else { continue };
            for flag in passed(container).filter(|flag| !known.contains(flag)) {
                unknown.entry((name, flag)).or_insert(case);
            }
        }
    }
    let findings = unknown.into_iter().map(|((container, flag), case)| {
        format!(
            "{case}, and maybe more: the container {container} is passed --{flag}, which it does not know"
        )
    });
    Ok(findings.collect())
}

/// All containers of a workload, those that run first among them.
pub(super) fn containers(object: &Value) -> impl Iterator<Item = &Value> {
    let pod = &object["spec"]["template"]["spec"];
    ["initContainers", "containers"].into_iter().flat_map(|key| pod[key].as_array().into_iter().flatten())
}

/// The value of the first flag of this name that a container is passed.
pub(super) fn value_of<'c>(container: &'c Value, flag: &str) -> Option<&'c str> {
    let mut arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    arguments.find_map(|argument| argument.strip_prefix("--")?.strip_prefix(flag)?.strip_prefix('='))
}

/// The names of the flags that a container is passed.
fn passed(container: &Value) -> impl Iterator<Item = String> {
    let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    arguments.filter_map(|argument| {
        let flag = argument.strip_prefix("--")?;
        Some(flag.split_once('=').map_or(flag, |(name, _)| name).to_owned())
    })
}

/// The flags in the table below a heading.
fn flags(reference: &str, heading: &str) -> BTreeSet<String> {
    reference
        .lines()
        .skip_while(|line| line.strip_prefix("## ") != Some(heading))
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| line.strip_prefix("| `--")?.split_once('`'))
        .map(|(flag, _)| flag.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Goal: flags are read from the table of their verb alone, and from a container's arguments without their values.
    #[test]
    fn flags_are_found_where_they_stand() {
        let reference =
            "# x\n## x run\n| flag |\n|---|\n| `--a-b` | 1 |\n| `--c` | |\n## x init\n| `--d` | |\n";
        assert_eq!(flags(reference, "x run"), BTreeSet::from(["a-b".to_owned(), "c".to_owned()]));
        let pod = json!({"containers": [{"args": ["init", "--a-b=1", "--c"]}]});
        let object = json!({"spec": {"template": {"spec": pod}}});
        assert_eq!(containers(&object).flat_map(passed).collect::<Vec<_>>(), ["a-b", "c"]);
    }
}
