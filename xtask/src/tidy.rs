//! `cargo xtask tidy`: what the compiler cannot check and a reviewer should not have to.
//!
//! Each check is a pure function from text, or from what cargo says, to [`Finding`]s; this file alone reads the tree,
//! and buf the contracts.
//! All findings are reported at once. Every exception stands in a table with its reason, and an exception that
//! nothing needs any more is itself a finding.

mod contracts;
mod crates;
mod layering;
mod links;
mod manifests;
mod rust;
mod source;
mod tree;

use std::fmt;

use anyhow::{Result, bail};

use crate::process;
use crate::tidy::contracts::Buf;
use crate::tidy::tree::Tree;
use crate::workspace::Workspace;

/// Something to put right: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the workspace's root.
    path: String,
    /// From 1.
    line: usize,
    wrong: String,
    remedy: String,
}

impl Finding {
    fn new(path: &str, line: usize, wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, wrong: wrong.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line, self.wrong, self.remedy)
    }
}

/// Prints every finding on stdout.
///
/// # Errors
///
/// When there is at least one, or the tree cannot be read.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut findings = check(&Tree::read(&workspace.root, &workspace.target)?, workspace);
    findings.extend(closures(workspace)?);
    findings.extend(Buf::ready(&workspace.root, &workspace.target)?.check(&workspace.root)?);
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => bail!("tidy has 1 finding"),
        count => bail!("tidy has {count} findings"),
    }
}

fn check(tree: &Tree, workspace: &Workspace) -> Vec<Finding> {
    let mut findings = layering::check(&workspace.packages, tree);
    findings.extend(manifests::check(tree, &workspace.packages));
    findings.extend(source::check(tree));
    findings.extend(links::check(tree));
    findings.extend(crates::check(tree, &workspace.packages));
    findings
}

fn closures(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for absence in layering::ABSENCES {
        let arguments = [
            "tree",
            "--package",
            absence.package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ];
        let closure = process::output(&mut process::cargo(&workspace.root, &arguments))?;
        findings.extend(layering::check_closure(absence, &closure));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a terminal or an editor can jump to a finding, and its reader knows what to do.
    #[test]
    fn a_finding_reads_as_place_fault_and_remedy() {
        let finding = Finding::new("crates/meter/src/lib.rs", 7, "names `zone`", "say `ct_zone`");
        assert_eq!(finding.to_string(), "crates/meter/src/lib.rs:7: names `zone`; say `ct_zone`");
    }
}
