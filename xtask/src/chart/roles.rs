//! What the chart's roles allow is what the exporter asks for with the flags that it is passed, and nothing else.
//!
//! What it asks for stands in a table of its `REFERENCE.md`, which a test of the testbed holds against what an API server was
//! asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::chart::arguments::{containers, value_of};
use crate::chart::engine::Answer;

/// The page with the table, from the workspace's root.
const REFERENCE: &str = "crates/exporter/REFERENCE.md";
/// The table stands below it.
const HEADING: &str = "## What it asks of the API";

/// One kind of request, as a row of the table has it.
#[derive(Debug, PartialEq, Eq)]
struct Request<'t> {
    verb: &'t str,
    group: &'t str,
    resource: &'t str,
    /// In the exporter's own namespace, so that a Role is enough.
    own: bool,
    /// The flag that names the object; empty where none is named.
    name: &'t str,
    /// The flag that brings it about; empty for always.
    flag: &'t str,
}

/// Holds the roles of every case against the flags of its exporter.
///
/// # Errors
///
/// When the page cannot be read or has no table.
pub(super) fn check(root: &Path, answer: &Answer) -> Result<Vec<String>> {
    let path = root.join(REFERENCE);
    let page = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let requests = requests(&page);
    ensure!(!requests.is_empty(), "no table below {HEADING:?} in {REFERENCE}");
    let mut findings = BTreeMap::new();
    for (case, _) in answer.renders().filter(|(case, _)| answer.error(case).is_none()) {
        let objects: Vec<&Value> = answer.objects(case).collect();
        let (allowed, needed) = (allowed(&objects), needed(&objects, &requests));
        for right in needed.difference(&allowed) {
            findings.entry(format!("no role allows to {right}, which the exporter asks for")).or_insert(case);
        }
        for right in allowed.difference(&needed) {
            findings
                .entry(format!("a role allows to {right}, which the exporter never does"))
                .or_insert(case);
        }
    }
    Ok(findings.into_iter().map(|(finding, case)| format!("{case}, and maybe more: {finding}")).collect())
}

/// The rows of the table.
fn requests(page: &str) -> Vec<Request<'_>> {
    let below = page.lines().skip_while(|line| *line != HEADING).skip_while(|line| !line.starts_with("|---"));
    below
        .skip(1)
        .map_while(|line| line.strip_prefix('|'))
        .filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [verb, group, resource, namespace, name, when, ..] = cells[..] else { return None };
            let [verb, group, resource, name] =
                [verb, group, resource, name].map(|cell| cell.trim_matches('`'));
            let flag = when.strip_prefix("`--").and_then(|flag| flag.split('`').next()).unwrap_or_default();
            Some(Request {
                verb,
                group,
                resource,
                own: namespace == "own",
                name: name.trim_start_matches("--"),
                flag,
            })
        })
        .collect()
}

fn right(kind: &str, verb: &str, resource: &str, group: &str, name: &str) -> String {
    format!("{verb} {resource}.{group} {name} ({kind})")
}

/// What the exporter asks for with the flags that it is passed.
fn needed(objects: &[&Value], requests: &[Request<'_>]) -> BTreeSet<String> {
    let exporter = objects
        .iter()
        .flat_map(|object| containers(object))
        .find(|container| container["name"] == "exporter");
    let flag = |name: &str| exporter.and_then(|container| value_of(container, name));
    let asked = requests.iter().filter(|request| request.flag.is_empty() || flag(request.flag).is_some());
    asked
        .map(|Request { verb, group, resource, own, name, .. }| {
            let kind = if *own { "Role" } else { "ClusterRole" };
            right(kind, verb, resource, group, flag(name).unwrap_or_default())
        })
        .collect()
}

/// What the roles allow on resources.
fn allowed(objects: &[&Value]) -> BTreeSet<String> {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let words = rule[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        words.map(str::to_owned).collect()
    };
    let mut rights = BTreeSet::new();
    for role in objects.iter().filter(|object| object["rules"].is_array()) {
        let kind = role["kind"].as_str().unwrap_or_default();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let mut names = words(rule, "resourceNames");
            if names.is_empty() {
                names.push(String::new());
            }
            for resource in words(rule, "resources") {
                for (group, verb) in words(rule, "apiGroups")
                    .iter()
                    .flat_map(|group| words(rule, "verbs").into_iter().map(move |verb| (group.clone(), verb)))
                {
                    rights.extend(names.iter().map(|name| right(kind, &verb, &resource, &group, name)));
                }
            }
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PAGE: &str = "\
## What it asks of the API

| verb | group | resource | namespace | name | when |
|---|---|---|---|---|---|
| `watch` |  | `pods` | all |  | always |
| `update` | `coordination.k8s.io` | `leases` | own | `--lease-name` | `--leader-elect`, now and then |

| `not` | `a` | `row` | own |  | always |
";

    fn deployment(arguments: &[&str]) -> Value {
        json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "exporter", "args": arguments}]}}}})
    }

    /// Goal: what a flag brings about is asked for where the flag is passed, under the name that another says.
    #[test]
    fn flags_decide_what_is_asked_for() {
        let requests = requests(PAGE);
        let without = deployment(&["--lease-name=one"]);
        let pods = "watch pods.  (ClusterRole)".to_owned();
        assert_eq!(needed(&[&without], &requests), BTreeSet::from([pods.clone()]));
        let with = deployment(&["--lease-name=one", "--leader-elect=true"]);
        let lease = "update leases.coordination.k8s.io one (Role)".to_owned();
        assert_eq!(needed(&[&with], &requests), BTreeSet::from([pods, lease]));
    }

    /// Goal: a role's rules are taken apart by verb, resource and name.
    #[test]
    fn rules_are_taken_apart() {
        let role = json!({"kind": "Role", "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get", "update"]},
            {"nonResourceURLs": ["/version"], "verbs": ["get"]},
        ]});
        let rights = ["get secrets. a (Role)", "update secrets. a (Role)"].map(str::to_owned);
        assert_eq!(allowed(&[&role]), BTreeSet::from(rights));
    }
}
