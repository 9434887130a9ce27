//! Rules and dashboards, by promtool: rules that Prometheus takes and that fire when they should, and queries of
//! dashboards that it understands.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::chart::{CHART, written};
use crate::process;

/// What is to fire on which series.
const TESTS: &str = "deploy/rules/tests.yaml";
/// What Grafana fills in, and what a query is tried with in its place.
const VARIABLES: [(&str, &str); 4] =
    [("$__rate_interval", "5m"), ("$__range", "3h"), ("$namespace", "shop"), ("$pod", "web-0")];

/// Runs promtool on all of them.
///
/// # Errors
///
/// When promtool finds something, which it has then said, or a dashboard cannot be read.
pub(super) fn check(root: &Path, target: &Path) -> Result<Vec<String>> {
    promtool(root, &["check", "rules", written::RULES])?;
    promtool(root, &["test", "rules", TESTS])?;
    let queries = target.join("chart/queries.json");
    // Every JSON is YAML.
    let rules: Vec<Value> = dashboards(root)?
        .iter()
        .flat_map(|(_, dashboard)| expressions(dashboard))
        .zip(1..)
        .map(|(expression, number)| json!({"record": format!("query:{number}"), "expr": expression}))
        .collect();
    let text = json!({"groups": [{"name": "dashboards", "rules": rules}]}).to_string();
    fs::write(&queries, text).with_context(|| format!("write {}", queries.display()))?;
    promtool(root, &["check", "rules", &queries.to_string_lossy()])?;
    Ok(Vec::new())
}

fn promtool(root: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = process::clean("promtool");
    process::run(process::chatter(command.args(arguments).current_dir(root)))
}

/// Each dashboard by its path.
fn dashboards(root: &Path) -> Result<Vec<(String, Value)>> {
    let folder = root.join(CHART).join("files/dashboards");
    let mut dashboards = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let dashboard =
            serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
        dashboards.push((path.to_string_lossy().into_owned(), dashboard));
    }
    anyhow::ensure!(!dashboards.is_empty(), "no dashboards in {}", folder.display());
    Ok(dashboards)
}

/// The queries of a dashboard's panels, with what Grafana fills in filled in.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let filled = |query: &str| {
        VARIABLES.iter().fold(query.to_owned(), |query, (variable, value)| query.replace(variable, value))
    };
    targets.filter_map(|target| target["expr"].as_str()).map(filled).collect()
}
