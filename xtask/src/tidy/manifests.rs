//! Manifests: one table of versions at the root, features off by default, and nothing in it that nobody uses.
//!
//! Reads the part of TOML that manifests here are written in: `[table]`, `key = value`, values over several lines.

use super::Finding;
use super::tree::Tree;
use crate::workspace::Package;

/// One `key = value` of a manifest.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Of the key, from 1.
    line: usize,
    table: String,
    key: String,
    value: String,
}

/// Checks the root's table of versions and how members use it.
pub(super) fn check(tree: &Tree, packages: &[Package]) -> Vec<Finding> {
    let root = entries(tree.text("Cargo.toml").unwrap_or_default());
    let mut findings: Vec<Finding> = root
        .iter()
        .filter(|entry| entry.table == "workspace.dependencies")
        .flat_map(|entry| shared_dependency(entry, packages))
        .collect();
    let own_table = root.iter().filter(|entry| entry.table.starts_with("workspace.dependencies."));
    findings.extend(own_table.map(|entry| written_apart("Cargo.toml", entry)));
    for package in packages {
        findings.extend(member(&package.manifest, tree.text(&package.manifest).unwrap_or_default()));
    }
    findings
}

/// The line that names a dependency in a manifest, from 1; 1 when there is none.
pub(super) fn line_of(manifest: &str, key: &str) -> usize {
    let entries = entries(manifest);
    let named = entries.iter().find(|entry| is_dependency_table(&entry.table) && name(entry) == key);
    named.map_or(1, |entry| entry.line)
}

fn shared_dependency(entry: &Entry, packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let key = name(entry);
    if !packages.iter().flat_map(|package| &package.dependencies).any(|dependency| dependency.key == key) {
        let wrong = format!("no crate uses `{key}`");
        findings.push(Finding::new("Cargo.toml", entry.line, wrong, "remove it from the table of versions"));
    }
    let is_ours = packages.iter().any(|package| package.name == key);
    if !is_ours && !says(&entry.value, "default-features=false") {
        let wrong = format!("`{key}` comes with its default features");
        findings.push(Finding::new(
            "Cargo.toml",
            entry.line,
            wrong,
            "set default-features = false, and name the needed",
        ));
    }
    findings
}

fn member(manifest: &str, text: &str) -> Vec<Finding> {
    let entries = entries(text);
    let mut findings = Vec::new();
    for (table, key, example) in [
        ("package", "version.workspace", "version.workspace = true"),
        ("lints", "workspace", "[lints] workspace = true"),
    ] {
        if !entries.iter().any(|entry| entry.table == table && entry.key == key && entry.value == "true") {
            let wrong = format!("does not inherit `{key}` of [{table}]");
            findings.push(Finding::new(manifest, 1, wrong, format!("write {example}")));
        }
    }
    for entry in &entries {
        if is_dependency_table(&entry.table) {
            findings.extend(member_dependency(manifest, entry));
        } else if ["dependencies.", "dev-dependencies.", "build-dependencies."]
            .iter()
            .any(|table| entry.table.starts_with(table) || entry.table.contains(&format!(".{table}")))
        {
            findings.push(written_apart(manifest, entry));
        }
    }
    findings
}

fn member_dependency(manifest: &str, entry: &Entry) -> Option<Finding> {
    let key = name(entry);
    let is_inherited =
        entry.key.ends_with(".workspace") && entry.value == "true" || says(&entry.value, "workspace=true");
    if !is_inherited {
        let remedy = format!("move it to the root's table and write {key}.workspace = true");
        return Some(Finding::new(manifest, entry.line, format!("`{key}` has a version of its own"), remedy));
    }
    says(&entry.value, "default-features=true").then(|| {
        let wrong = format!("`{key}` turns its default features on");
        Finding::new(manifest, entry.line, wrong, "name the needed features")
    })
}

fn written_apart(manifest: &str, entry: &Entry) -> Finding {
    let wrong = format!("[{}] is a table of its own", entry.table);
    Finding::new(manifest, entry.line, wrong, "write the dependency as one entry of its table")
}

fn is_dependency_table(table: &str) -> bool {
    let last = table.rsplit('.').next().unwrap_or_default();
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
        && !table.starts_with("workspace")
}

/// The dependency's name: the key up to its first dot.
fn name(entry: &Entry) -> &str {
    entry.key.split('.').next().unwrap_or_default()
}

fn says(value: &str, setting: &str) -> bool {
    let squeezed: String = value.chars().filter(|char| !char.is_whitespace()).collect();
    squeezed.split([',', '{', '}']).any(|part| part == setting)
}

fn entries(manifest: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut table = String::new();
    let mut depth = 0_isize;
    for (text, line) in manifest.lines().zip(1..) {
        let text = without_comment(text).trim();
        if depth > 0 {
            depth += nesting(text);
            if let Some(entry) = entries.last_mut() {
                entry.value.push_str(text);
            }
        } else if let Some(header) = text.strip_prefix('[') {
            header.trim_end_matches(']').trim_start_matches('[').clone_into(&mut table);
        } else if let Some((key, value)) = text.split_once('=') {
            depth = nesting(value);
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            entries.push(Entry { line, table: table.clone(), key, value });
        }
    }
    entries
}

/// Brackets and braces opened less those closed, strings left out.
fn nesting(text: &str) -> isize {
    outside_strings(text)
        .map(|(_, char)| match char {
            '[' | '{' => 1,
            ']' | '}' => -1,
            _ => 0,
        })
        .sum()
}

fn without_comment(line: &str) -> &str {
    let comment = outside_strings(line).find(|(_, char)| *char == '#');
    comment.map_or(line, |(at, _)| &line[..at])
}

fn outside_strings(line: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    line.char_indices().filter(move |(_, char)| match quote {
        Some(open) if open == *char => {
            quote = None;
            false
        }
        Some(_) => false,
        None if matches!(char, '"' | '\'') => {
            quote = Some(*char);
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, Kind};

    const HEAD: &str = "[package]\nversion.workspace = true\n[lints]\nworkspace = true\n";

    fn package(uses: &[&str]) -> Package {
        let dependencies = uses
            .iter()
            .map(|name| Dependency { package: (*name).into(), key: (*name).into(), kind: Kind::Normal })
            .collect();
        Package { name: "egressd-meter".into(), manifest: "crates/meter/Cargo.toml".into(), dependencies }
    }

    fn wrongs(root: &str, member: &str, uses: &[&str]) -> Vec<(usize, String)> {
        let tree = Tree::of(&[("Cargo.toml", root), ("crates/meter/Cargo.toml", member)]);
        check(&tree, &[package(uses)]).into_iter().map(|finding| (finding.line, finding.wrong)).collect()
    }

    /// Goal: the table of versions holds nothing unused and no default features, however it is laid out.
    #[test]
    fn the_root_table_is_used_and_without_default_features() {
        for (dependency, expected) in [
            (r#"bytes = { version = "1", default-features = false }"#, None),
            ("bytes = { version = \"1\", features = [\n  \"std\",\n], default-features = false }", None),
            (r#"bytes = "1" # default-features = false"#, Some("`bytes` comes with its default features")),
            (
                r#"bytes = { version = "1", default-features = true }"#,
                Some("`bytes` comes with its default features"),
            ),
            (r#"snap = { version = "1", default-features = false }"#, Some("no crate uses `snap`")),
            (r#"egressd-meter = { path = "crates/meter" }"#, Some("no crate uses `egressd-meter`")),
            (
                "[workspace.dependencies.bytes]\nversion = \"1\"",
                Some("[workspace.dependencies.bytes] is a table of its own"),
            ),
        ] {
            let found = wrongs(&format!("[workspace.dependencies]\n{dependency}\n"), HEAD, &["bytes"]);
            let found: Vec<_> = found.into_iter().map(|(_, wrong)| wrong).collect();
            assert_eq!(found, Vec::from_iter(expected), "{dependency}");
        }
    }

    /// Goal: a member takes versions, lints and features from the root, in every table a manifest has.
    #[test]
    fn members_inherit_versions_and_lints() {
        for (tables, expected) in [
            ("[dependencies]\nbytes.workspace = true", None),
            ("[dependencies]\nbytes = { workspace = true, features = [\"std\"] }", None),
            ("[dependencies]\nbytes = \"1\"", Some((6, "`bytes` has a version of its own"))),
            (
                "[target.'cfg(unix)'.dev-dependencies]\nbytes = \"1\"",
                Some((6, "`bytes` has a version of its own")),
            ),
            (
                "[build-dependencies]\nbytes = { workspace = true, default-features = true }",
                Some((6, "`bytes` turns its default features on")),
            ),
            (
                "[dependencies.bytes]\nversion = \"1\"",
                Some((6, "[dependencies.bytes] is a table of its own")),
            ),
        ] {
            let expected: Vec<_> =
                expected.map(|(line, wrong)| (line, wrong.to_owned())).into_iter().collect();
            assert_eq!(wrongs("", &format!("{HEAD}{tables}\n"), &[]), expected, "{tables}");
        }
        let missing =
            ["does not inherit `version.workspace` of [package]", "does not inherit `workspace` of [lints]"];
        assert_eq!(
            wrongs("", "[package]\nversion = \"0.0.0\"\n", &[]),
            missing.map(|wrong| (1, wrong.to_owned()))
        );
    }

    /// Goal: a finding about a dependency points at the line that names it.
    #[test]
    fn a_dependency_is_found_by_its_line() {
        let manifest = "[package]\nbytes = 1\n[dependencies]\nbytes-utils.workspace = true\nbytes = { workspace = true }\n";
        assert_eq!((line_of(manifest, "bytes"), line_of(manifest, "absent")), (5, 1));
    }
}
