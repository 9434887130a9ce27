//! Rust sources: module docs, unsafe code only at the kernel's edge, words that mean two things, unfinished work.

use std::path::Path;

use super::Finding;
use super::rust::{Parted, words};
use super::tree::Tree;

/// Files that may hold unsafe code, and why it cannot be elsewhere.
const UNSAFE: &[(&str, &str)] = &[
    ("crates/bench/src/allocations.rs", "an allocator is an unsafe trait"),
    ("crates/conntrack/src/cilium/edge.rs", "libbpf-rs has no batch look-up that tells how far it got"),
    ("crates/conntrack/src/ebpf/kernel.rs", "batches of a map and run times have no wrapper"),
    ("crates/conntrack/src/netfilter/socket.rs", "batched receives and socket memory have no safe wrapper"),
    ("crates/fuzz/src/memory.rs", "an allocator is an unsafe trait"),
    ("crates/testbed/src/exec.rs", "a namespace is entered between fork and exec"),
];

/// Files that may be longer than [`LINES_MAX`], and why they are one idea.
const LONG: &[(&str, &str)] = &[];

/// A file longer than this usually holds two ideas.
const LINES_MAX: usize = 600;

/// Crates in which a bare zone could be conntrack's or the cloud's.
const TWO_ZONES: [&str; 9] =
    ["flow", "conntrack", "meter", "delivery", "enrich", "spool", "sink", "serve", "protocol"];

/// Names that say nothing of what a module holds.
const EMPTY_NAMES: [&str; 5] = ["utils", "common", "helpers", "manager", "types"];

/// Checks every Rust file, and that the tables of exceptions hold nothing out of date.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings: Vec<Finding> = tree.texts(".rs").flat_map(|(path, text)| file(path, text)).collect();
    findings.extend(stale(tree, UNSAFE, "unsafe code", |text| has_unsafe(&Parted::new(text)).is_some()));
    findings.extend(stale(tree, LONG, "many lines", |text| text.lines().count() > LINES_MAX));
    findings
}

fn file(path: &str, text: &str) -> Vec<Finding> {
    let parted = Parted::new(text);
    let mut findings = Vec::new();
    let mut add = |line, wrong: String, remedy: &str| findings.push(Finding::new(path, line, wrong, remedy));

    if is_source(path) && !text.trim_start().starts_with("//!") {
        add(1, "no module documentation".into(), "begin with `//!`: place in the flow, invariant, bound");
    }
    if !is_listed(UNSAFE, path)
        && let Some(line) = has_unsafe(&parted)
    {
        add(
            line,
            "unsafe code away from the kernel's edge".into(),
            "move it to the module that UNSAFE in xtask lists",
        );
    }
    let lines = text.lines().count();
    if lines > LINES_MAX && !is_listed(LONG, path) {
        add(LINES_MAX + 1, format!("{lines} lines, over {LINES_MAX}"), "part it where it holds two ideas");
    }
    if has_empty_name(path) {
        add(1, "a module whose name says nothing".into(), "name it after what it holds");
    }
    for (line, name) in inline_modules(&parted.code).filter(|(_, name)| EMPTY_NAMES.contains(name)) {
        add(line, format!("`mod {name}` says nothing"), "name it after what it holds");
    }
    if TWO_ZONES.contains(&crate_of(path)) {
        for (line, word) in words(&parted.code).filter(|(_, word)| matches!(*word, "zone" | "zones")) {
            add(line, format!("bare `{word}`"), "say ct_zone or topology_zone");
        }
    }
    for (line, wrong, remedy) in unfinished(&parted) {
        add(line, wrong, remedy);
    }
    findings
}

/// Work that is not done, and checks that do not run.
fn unfinished(parted: &Parted) -> Vec<(usize, String, &'static str)> {
    let mut found = Vec::new();
    for ((code, comment), line) in parted.code.lines().zip(parted.comments.lines()).zip(1..) {
        for call in ["todo", "unimplemented"] {
            if words(code).any(|(_, word)| word == call) && code.contains(&format!("{call}!")) {
                found.push((
                    line,
                    format!("`{call}!`"),
                    "finish it, or return an error that says what is not supported",
                ));
            }
        }
        if code.contains("#[ignore") {
            found.push((line, "an ignored test".into(), "make it run, or remove it"));
        }
        if comment.contains("```") && words(comment).any(|(_, word)| word == "ignore") {
            found.push((line, "an ignored example".into(), "make it compile, or write it as prose"));
        }
        for mark in ["FIXME", "XXX"] {
            if words(code).chain(words(comment)).any(|(_, word)| word == mark) {
                found.push((line, format!("`{mark}`"), "put it right, or file an issue and name it"));
            }
        }
        if words(comment).any(|(_, word)| word == "TODO") && !names_issue(comment) {
            found.push((line, "`TODO` without an issue".into(), "name the issue as #NUMBER"));
        }
    }
    found
}

fn names_issue(comment: &str) -> bool {
    comment.split('#').skip(1).any(|after| after.starts_with(|char: char| char.is_ascii_digit()))
}

fn has_unsafe(parted: &Parted) -> Option<usize> {
    words(&parted.code).find(|(_, word)| *word == "unsafe").map(|(line, _)| line)
}

fn inline_modules(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let words = words(code).filter(|(_, word)| !word.is_empty());
    let mut after_mod = false;
    words.filter(move |(_, word)| std::mem::replace(&mut after_mod, *word == "mod"))
}

fn has_empty_name(path: &str) -> bool {
    let path = Path::new(path);
    let names = path.with_extension("");
    names.iter().any(|part| EMPTY_NAMES.iter().any(|name| part == *name))
}

/// True for what cargo builds into a library or a binary, build scripts and tests left out.
fn is_source(path: &str) -> bool {
    path.starts_with("xtask/src/") || path.starts_with("crates/") && path.split('/').nth(2) == Some("src")
}

/// The folder below `crates/` that a path is in; empty for every other path.
fn crate_of(path: &str) -> &str {
    path.strip_prefix("crates/").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

fn is_listed(table: &[(&str, &str)], path: &str) -> bool {
    table.iter().any(|(listed, _)| *listed == path)
}

fn stale(tree: &Tree, table: &[(&str, &str)], what: &str, has: impl Fn(&str) -> bool) -> Vec<Finding> {
    let unneeded = table.iter().filter(|(path, _)| !tree.text(path).is_some_and(&has));
    unneeded
        .map(|(path, _)| {
            Finding::new(
                path,
                1,
                format!("listed for {what}, and has none"),
                "remove it from its table in xtask",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests;
