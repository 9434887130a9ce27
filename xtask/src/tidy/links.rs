//! Links in Markdown lead to something inside the workspace: files, folders, headings.
//!
//! Links to other hosts are not followed: tidy gives the same answer without a network.

use std::collections::BTreeSet;

use super::Finding;
use super::tree::Tree;

/// Checks every Markdown file of the tree.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".md") {
        for (line, target) in links(text) {
            if let Some((wrong, remedy)) = fault(tree, path, target) {
                findings.push(Finding::new(path, line, wrong, remedy));
            }
        }
    }
    findings
}

fn fault(tree: &Tree, from: &str, target: &str) -> Option<(String, &'static str)> {
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let Some(path) = resolve(from, path) else {
        return Some((
            format!("link to `{target}` leaves the repository"),
            "a clone has nothing there: say it here",
        ));
    };
    if !path.is_empty() && !tree.paths.contains(path.as_str()) {
        return Some((
            format!("link to `{target}`, where nothing is"),
            "point it at a file or folder that exists",
        ));
    }
    let is_missing =
        !heading.is_empty() && tree.text(&path).is_some_and(|text| !headings(text).contains(heading));
    is_missing
        .then(|| (format!("link to `{target}`, a heading that does not exist"), "point it at one that does"))
}

/// The path that a link leads to, from the root; empty is the root itself. `None` when that is outside of it.
fn resolve(from: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => from.split('/').take(from.matches('/').count()).collect(),
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The targets of `[text](target)` and `[name]: target` that are not on other hosts, with their lines from 1.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut links = Vec::new();
    for (line, number) in prose(text) {
        let reference =
            line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
        for target in inline_links(line).into_iter().chain(reference) {
            let target = target.split_whitespace().next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !is_elsewhere {
                links.push((number, target));
            }
        }
    }
    links
}

fn inline_links(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    // Every second piece between backticks is code; a link's text may be code, its target never is.
    for piece in line.split('`').step_by(2) {
        targets.extend(piece.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
    }
    targets
}

/// The lines outside of fenced code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let mut is_fenced = false;
    text.lines().zip(1..).filter(move |(line, _)| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fenced && !is_fence
    })
}

/// The anchors of a file's headings, as the usual hosts of repositories make them.
fn headings(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|(line, _)| line.starts_with('#'));
    headings.map(|(line, _)| anchor(line.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a link is judged by where it leads from its own folder, and text that is no link is left alone.
    #[test]
    fn links_that_lead_nowhere_are_found() {
        let files =
            [("README.md", "# The first steps!\n"), ("crates/flow/src/lib.rs", ""), ("LICENSE.md", "")];
        for (line, expected) in [
            ("[a](flow/src/lib.rs) and [b](../README.md)", vec![]),
            ("[a](flow/)", vec![]),
            ("[a](flow/lib.rs)", vec!["link to `flow/lib.rs`, where nothing is"]),
            ("[`lib.rs`](flow/lib.rs)", vec!["link to `flow/lib.rs`, where nothing is"]),
            ("[a](../../shared/design.md)", vec!["link to `../../shared/design.md` leaves the repository"]),
            ("[a](/LICENSE.md \"title\")", vec![]),
            ("[a](https://example.org/x) [b](mailto:a@example.org)", vec![]),
            ("[a]: ../nowhere.md", vec!["link to `../nowhere.md`, where nothing is"]),
            ("`[a](nowhere.md)`", vec![]),
            ("```\n[a](nowhere.md)\n```", vec![]),
            ("[a](../README.md#the-first-steps)", vec![]),
            ("[a](../README.md#steps)", vec!["link to `../README.md#steps`, a heading that does not exist"]),
            ("# Here\n[a](#here) [b](#there)", vec!["link to `#there`, a heading that does not exist"]),
        ] {
            let tree = Tree::of(&[&files[..], &[("crates/README.md", line)]].concat());
            let found: Vec<_> = check(&tree).into_iter().map(|finding| finding.wrong).collect();
            assert_eq!(found, expected, "{line}");
        }
    }

    /// Goal: a finding stands on the link's line.
    #[test]
    fn a_link_is_found_on_its_line() {
        assert_eq!(links("one\n```\n[x](y)\n```\n[a](b) [c](d)\n"), [(5, "b"), (5, "d")]);
    }
}
