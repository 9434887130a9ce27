//! The code map: `crates/README.md` has every crate, with a paragraph and one invariant stated as an absence.

use super::Finding;
use super::tree::Tree;
use crate::workspace::Package;

/// Where the code map is.
const MAP: &str = "crates/README.md";

/// What an invariant's line begins with.
const INVARIANT: &str = "Invariant: ";

/// Words that make a sentence an absence.
const ABSENCES: [&str; 7] = ["never", "no", "nobody", "none", "not", "nothing", "nowhere"];

/// One `## name` of the map.
#[derive(Debug)]
struct Section<'t> {
    line: usize,
    name: &'t str,
    body: Vec<&'t str>,
}

/// Checks the map against the crates that exist.
pub(super) fn check(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let Some(text) = tree.text(MAP) else {
        return vec![Finding::new(MAP, 1, "there is no code map", "write one: a section for each crate")];
    };
    let sections = sections(text);
    let mut crates: Vec<&str> = packages.iter().filter_map(|package| folder(&package.manifest)).collect();
    crates.sort_unstable();

    let mut findings = Vec::new();
    for name in &crates {
        if !sections.iter().any(|section| section.name == *name) {
            let remedy = format!("add `## {name}` with a paragraph and its invariant");
            findings.push(Finding::new(MAP, 1, format!("crates/{name} is not in the code map"), remedy));
        }
    }
    for section in &sections {
        let fault = if crates.contains(&section.name) { fault(section) } else { Some(NO_CRATE) };
        if let Some((wrong, remedy)) = fault {
            findings.push(Finding::new(MAP, section.line, format!("`{}` {wrong}", section.name), remedy));
        }
    }
    findings
}

const NO_CRATE: (&str, &str) =
    ("is no crate", "remove its section, or write what is not a crate under `###`");

fn fault(section: &Section<'_>) -> Option<(&'static str, &'static str)> {
    let (invariants, prose): (Vec<&str>, Vec<&str>) =
        section.body.iter().filter(|line| !line.is_empty()).partition(|line| line.starts_with(INVARIANT));
    match invariants[..] {
        _ if prose.is_empty() => Some(("has no paragraph", "say what enters, what leaves, and who uses it")),
        [] => Some(("has no invariant", "add a line `Invariant: …`")),
        [invariant] if is_absence(invariant) => None,
        [_] => Some(("has an invariant that is no absence", "say what it never does")),
        _ => Some(("has several invariants", "keep the one that the others follow from")),
    }
}

fn is_absence(sentence: &str) -> bool {
    sentence.split(|char: char| !char.is_alphanumeric()).any(|word| ABSENCES.contains(&word))
}

fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for (text, line) in text.lines().zip(1..) {
        if let Some(name) = text.strip_prefix("## ") {
            sections.push(Section { line, name: name.trim(), body: Vec::new() });
        } else if let Some(section) = sections.last_mut() {
            section.body.push(text.trim());
        }
    }
    sections
}

/// The folder below `crates/` that a manifest is in.
fn folder(manifest: &str) -> Option<&str> {
    manifest.strip_prefix("crates/")?.strip_suffix("/Cargo.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrongs(map: &str) -> Vec<(usize, String)> {
        let package = |folder: &str| Package {
            name: format!("egressd-{folder}"),
            manifest: format!("crates/{folder}/Cargo.toml"),
            dependencies: Vec::new(),
        };
        let xtask =
            Package { name: "xtask".into(), manifest: "xtask/Cargo.toml".into(), dependencies: Vec::new() };
        let packages = [package("flow"), package("meter"), xtask];
        check(&Tree::of(&[(MAP, map)]), &packages)
            .into_iter()
            .map(|finding| (finding.line, finding.wrong))
            .collect()
    }

    /// Goal: the map has each crate, each with prose and one absence, and nothing that does not exist.
    #[test]
    fn the_map_and_the_crates_match() {
        let flow = "# Map\n\n## flow\n\nThe nouns.\n\nInvariant: flow never reads a clock.\n\n";
        for (meter, expected) in [
            ("## meter\n\nGrowth.\n\nInvariant: meter has no clock.\n", None),
            ("", Some((1, "crates/meter is not in the code map"))),
            ("## meter\n\nInvariant: meter has no clock.\n", Some((9, "`meter` has no paragraph"))),
            ("## meter\n\nGrowth.\n", Some((9, "`meter` has no invariant"))),
            (
                "## meter\n\nGrowth.\n\nInvariant: meter is pure, nonetheless.\n",
                Some((9, "`meter` has an invariant that is no absence")),
            ),
            (
                "## meter\nGrowth.\nInvariant: it never reads.\nInvariant: it never writes.\n",
                Some((9, "`meter` has several invariants")),
            ),
            (
                "## meter\nGrowth.\nInvariant: it has no clock.\n## spool\nRecords.\nInvariant: none is lost.\n",
                Some((12, "`spool` is no crate")),
            ),
        ] {
            let expected: Vec<_> =
                expected.map(|(line, wrong)| (line, wrong.to_owned())).into_iter().collect();
            assert_eq!(wrongs(&format!("{flow}{meter}")), expected, "{meter}");
        }
    }

    /// Goal: a missing map is a fault, not a map with nothing wrong in it.
    #[test]
    fn a_missing_map_is_found() {
        assert_eq!(check(&Tree::default(), &[])[0].wrong, "there is no code map");
    }
}
