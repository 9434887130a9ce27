//! Files that are made of the chart: manifests for those without Helm, rules for a Prometheus without its operator, and
//! the chart's list of values.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::chart::cases::Cases;
use crate::chart::engine::Answer;
use crate::chart::{CHART, values};

/// A manifest for each example.
const MANIFESTS: &str = "deploy/manifests";
/// The rules as a file that Prometheus and promtool read.
pub(super) const RULES: &str = "deploy/rules/egressd.yaml";
/// The example that has them.
const RULES_EXAMPLE: &str = "prometheus";
/// The template that has them.
const RULES_TEMPLATE: &str = "egressd/templates/prometheusrule.yaml";

/// Writes each file that is out of date, or names it where nothing is to be written. A manifest whose example is gone
/// is named in either case.
///
/// # Errors
///
/// When a file cannot be read or written, or values cannot be understood.
pub(super) fn bring_up_to_date(
    root: &Path,
    cases: &Cases,
    answer: &Answer,
    check: bool,
) -> Result<Vec<String>> {
    let (list, mut findings) = values::list(root, answer)?;
    let mut files = vec![(format!("{CHART}/README.md"), list), (RULES.to_owned(), rules(answer)?)];
    files.extend(
        cases.examples.keys().map(|name| (format!("{MANIFESTS}/{name}.yaml"), manifest(name, answer))),
    );
    for (name, content) in &files {
        let path = root.join(name);
        if fs::read_to_string(&path).is_ok_and(|old| old == *content) {
            continue;
        }
        if check {
            findings.push(format!("{name}: out of date; `cargo xtask chart` writes it"));
        } else {
            fs::write(&path, content).with_context(|| format!("write {name}"))?;
            eprintln!("wrote {name}");
        }
    }
    for entry in fs::read_dir(root.join(MANIFESTS)).with_context(|| format!("list {MANIFESTS}"))? {
        let name = format!("{MANIFESTS}/{}", entry?.file_name().to_string_lossy());
        if !files.iter().any(|(file, _)| *file == name) {
            findings.push(format!("{name}: its example is gone; remove it"));
        }
    }
    Ok(findings)
}

/// Every object of an example, but for the test that only Helm knows how to run.
fn manifest(example: &str, answer: &Answer) -> String {
    let mut text = format!(
        "# Rendered from {CHART} with deploy/values/{example}.yaml, as release egressd in the namespace egressd.\n\
         # Written by `cargo xtask chart`; change the chart or the values.\n"
    );
    for (path, content) in answer.files(example) {
        let is_for_helm = path.ends_with(".txt") || path.contains("/templates/tests/");
        if !is_for_helm {
            text.push_str(&format!(
                "---\n# Source: {path}\n{}\n",
                content.trim_matches('\n').trim_start_matches("---\n")
            ));
        }
    }
    text
}

/// What stands below `spec:` of the rules that the operator gets.
fn rules(answer: &Answer) -> Result<String> {
    let (_, rendered) = answer
        .files(RULES_EXAMPLE)
        .find(|(path, _)| *path == RULES_TEMPLATE)
        .with_context(|| format!("find {RULES_TEMPLATE} in the example {RULES_EXAMPLE}"))?;
    let mut text =
        format!("# Made of {CHART}/files/rules.yaml, with the chart's limits, by `cargo xtask chart`.\n");
    let below = rendered
        .lines()
        .skip_while(|line| *line != "spec:")
        .skip(1)
        .skip_while(|line| line.trim().is_empty());
    for line in below {
        text.push_str(line.strip_prefix("  ").unwrap_or(line).trim_end());
        text.push('\n');
    }
    Ok(text)
}
