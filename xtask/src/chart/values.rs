//! The chart's list of values: each key of `values.yaml` that a comment tells of, with its default.
//!
//! A comment that begins with `# -- ` tells of the next key and all below it. Every key must be told of.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::chart::CHART;
use crate::chart::engine::Answer;

/// Between these lines of the chart's page stands the list.
const BEGIN: &str = "<!-- The list of values, written by `cargo xtask chart` -->";
const END: &str = "<!-- End of the list -->";
/// A default longer than this is looked up in the file.
const DEFAULT_MAX: usize = 80;

/// The chart's page with the list as it is to be, and keys that nothing tells of.
///
/// # Errors
///
/// When the page or the values cannot be read, or the page has no place for the list.
pub(super) fn list(root: &Path, answer: &Answer) -> Result<(String, Vec<String>)> {
    let read = |name: &str| {
        let path = root.join(CHART).join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (page, values) = (read("README.md")?, read("values.yaml")?);
    let (keys, untold) = keys(&values);
    let before = page.split_once(BEGIN).with_context(|| format!("no line {BEGIN:?} in {CHART}/README.md"))?.0;
    let after = page.split_once(END).with_context(|| format!("no line {END:?} in {CHART}/README.md"))?.1;
    let mut text = format!("{before}{BEGIN}\n\n| key | default | meaning |\n|---|---|---|\n");
    for Key { path, told } in &keys {
        text.push_str(&format!("| `{path}` | {} | {told} |\n", default(answer.defaults(), path)));
    }
    text.push_str(&format!("\n{END}{after}"));
    let findings = untold.into_iter().map(|path| {
        format!("{CHART}/values.yaml: nothing tells of {path}; a comment `# -- …` above it does")
    });
    Ok((text, findings.collect()))
}

/// A key that a comment tells of.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    path: String,
    told: String,
}

/// The keys that comments tell of, and those without children that none does.
fn keys(values: &str) -> (Vec<Key>, Vec<String>) {
    let (mut told, mut untold) = (Vec::new(), Vec::new());
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<String> = None;
    // Everything indented deeper than this belongs to a key that is told of already.
    let mut below: Option<usize> = None;
    for line in values.lines() {
        let indent = line.len() - line.trim_start().len();
        let content = line.trim();
        if content.is_empty() || below.is_some_and(|told_at| indent > told_at) {
            continue;
        }
        below = None;
        if let Some(text) = content.strip_prefix('#') {
            let text = text.trim_start();
            match (text.strip_prefix("-- "), &mut comment) {
                (Some(begun), _) => comment = Some(begun.to_owned()),
                (None, Some(so_far)) => *so_far = format!("{so_far} {text}"),
                (None, None) => {}
            }
            continue;
        }
        let Some((name, value)) = content.split_once(':') else { continue };
        parents.retain(|(at, _)| *at < indent);
        let path = parents.iter().map(|(_, parent)| &**parent).chain([name]).collect::<Vec<_>>().join(".");
        match comment.take() {
            Some(text) => {
                told.push(Key { path, told: text });
                below = Some(indent);
            }
            None if value.trim().is_empty() => parents.push((indent, name.to_owned())),
            None => untold.push(path),
        }
    }
    (told, untold)
}

/// A default as a cell of the table.
fn default(defaults: &Value, path: &str) -> String {
    let value = path.split('.').fold(defaults, |value, key| &value[key]);
    let text = match value {
        Value::Null => return "null".to_owned(),
        Value::String(text) if text.is_empty() => return "empty".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.len() > DEFAULT_MAX || text.contains('\n') {
        return "see `values.yaml`".to_owned();
    }
    format!("`{text}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a comment tells of the key below it and of all that is under that, and a key without one is named.
    #[test]
    fn comments_tell_of_keys() {
        let values = "\
# A remark about all.

one:
  # -- The first,
  # on two lines.
  a: 1
  b: 2
  # -- A map.
  c:
    d: 3
    # not told of
    e: [4]
# -- Text.
two: |
  three: 5
";
        let (told, untold) = keys(values);
        let key = |path: &str, told: &str| Key { path: path.into(), told: told.into() };
        assert_eq!(
            told,
            [key("one.a", "The first, on two lines."), key("one.c", "A map."), key("two", "Text.")]
        );
        assert_eq!(untold, ["one.b"]);
    }

    /// Goal: defaults are shown as they stand, short.
    #[test]
    fn defaults_are_cells() {
        let defaults = serde_json::json!({"a": {"b": "x", "c": ""}, "d": [1], "e": "y\nz", "f": null});
        let cells = ["a.b", "a.c", "d", "e", "f"].map(|path| default(&defaults, path));
        assert_eq!(cells, ["`x`", "empty", "`[1]`", "see `values.yaml`", "null"]);
    }
}
