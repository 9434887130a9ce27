//! `cargo xtask dist`: a release as files below `target/dist`, and the checksums of all.
//!
//! The list of crates is made here from what cargo knows (CycloneDX 1.5): name, version, licence, source and the
//! checksum that `Cargo.lock` has of each crate that the daemons link.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::chart;
use crate::process;
use crate::workspace::Workspace;

/// What ships.
const DAEMONS: [&str; 2] = ["egressd-collector", "egressd-exporter"];

/// Makes the release.
///
/// # Errors
///
/// When something cannot be built, read or written, or the chart has a finding.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let (root, dist) = (&workspace.root, workspace.target.join("dist"));
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("remove {}", dist.display()))?;
    }
    fs::create_dir_all(&dist).with_context(|| format!("create {}", dist.display()))?;
    chart::run(&chart::CHECK, workspace)?;
    chart::package(workspace, &dist)?;

    let mut build = process::cargo(root, &["build", "--release", "--locked"]);
    process::run(process::chatter(build.args(DAEMONS.iter().flat_map(|name| ["--package", name]))))?;
    let version = workspace.version()?;
    for name in DAEMONS {
        let to = dist.join(format!("{name}-{version}-linux-{}", std::env::consts::ARCH));
        fs::copy(workspace.target.join("release").join(name), &to)
            .with_context(|| format!("copy {name} to {}", to.display()))?;
        process::run(process::clean("strip").arg(&to))?;
    }
    let manifests = format!("egressd-manifests-{version}.tar.gz");
    let mut pack = process::clean("tar");
    pack.args(["--create", "--gzip", "--owner=0", "--group=0", "--sort=name", "--file"])
        .arg(dist.join(manifests));
    process::run(pack.args(["--directory", "deploy", "manifests", "values", "rules"]).current_dir(root))?;
    let bill = serde_json::to_string_pretty(&bill_of_materials(workspace)?)?;
    fs::write(dist.join(format!("egressd-{version}.cdx.json")), bill).context("write the list of crates")?;
    fs::copy(root.join("CHANGELOG.md"), dist.join("CHANGELOG.md")).context("copy the change log")?;
    checksums(&dist)
}

/// `SHA256SUMS` of all that is in the folder, as `sha256sum --check` reads it.
fn checksums(dist: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dist).with_context(|| format!("list {}", dist.display()))? {
        names.push(entry?.file_name());
    }
    names.sort();
    let sums = process::output(process::clean("sha256sum").args(&names).current_dir(dist))?;
    fs::write(dist.join("SHA256SUMS"), &sums).context("write the checksums")?;
    eprint!("{sums}");
    Ok(())
}

/// The crates that the daemons link, on Linux.
fn bill_of_materials(workspace: &Workspace) -> Result<Value> {
    let arguments = ["metadata", "--locked", "--format-version", "1", "--filter-platform"];
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = process::cargo(&workspace.root, &arguments);
    let metadata: Value = serde_json::from_str(&process::output(command.arg(host))?)?;
    let lock = fs::read_to_string(workspace.root.join("Cargo.lock")).context("read Cargo.lock")?;
    let mut linked = linked(&metadata);
    linked.sort_by_key(|package| (package["name"].to_string(), package["version"].to_string()));
    let components: Vec<Value> = linked.into_iter().map(|package| component(package, &lock)).collect();
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": {
            "type": "application", "name": "egressd", "version": workspace.version()?,
            "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": components,
    }))
}

/// The packages that the daemons reach by what they link; build and test dependencies are not among them.
fn linked(metadata: &Value) -> Vec<&Value> {
    let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let nodes = metadata["resolve"]["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_daemon = |package: &&Value| DAEMONS.iter().any(|name| package["name"] == **name);
    let mut waiting: Vec<Value> =
        packages.iter().filter(is_daemon).map(|package| package["id"].clone()).collect();
    let mut reached: Vec<Value> = Vec::new();
    while let Some(id) = waiting.pop() {
        if reached.contains(&id) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id);
        for dependency in node.map(|node| list(&node["deps"])).unwrap_or_default() {
            let is_linked = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            if is_linked {
                waiting.push(dependency["pkg"].clone());
            }
        }
        reached.push(id);
    }
    packages.iter().filter(|package| reached.contains(&package["id"])).collect()
}

fn component(package: &Value, lock: &str) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let (name, version) = (text("name"), text("version"));
    let mut component = json!({
        "type": "library", "name": name, "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
        "licenses": [{"expression": text("license")}],
    });
    if let Some(checksum) = checksum(lock, name, version) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
    }
    component
}

/// What `Cargo.lock` says of a crate; nothing of ours.
fn checksum<'l>(lock: &'l str, name: &str, version: &str) -> Option<&'l str> {
    let head = format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
    let entry = lock.split_once(&head)?.1.split("\n\n").next()?;
    entry.lines().find_map(|line| line.strip_prefix("checksum = \"")?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a daemon links is listed, however far away; what only builds or tests it is not.
    #[test]
    fn only_what_is_linked_is_listed() {
        let package =
            |id: &str, name: &str| json!({"id": id, "name": name, "version": "1", "license": "MIT"});
        let dependency = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                package("c", "egressd-collector"), package("a", "near"), package("b", "far"), package("d", "built"),
                package("e", "tested"),
            ],
            "resolve": {"nodes": [
                {"id": "c", "deps": [dependency("a", Value::Null), dependency("d", json!("build")), dependency("e", json!("dev"))]},
                {"id": "a", "deps": [dependency("b", Value::Null)]},
                {"id": "b", "deps": [dependency("a", Value::Null)]},
            ]},
        });
        let names: Vec<_> =
            linked(&metadata).iter().map(|package| package["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["egressd-collector", "near", "far"]);
        let lock = "[[package]]\nname = \"near\"\nversion = \"1\"\nsource = \"x\"\nchecksum = \"abc\"\n\n[[package]]\nname = \"far\"\nversion = \"1\"\n\n";
        assert_eq!(
            (checksum(lock, "near", "1"), checksum(lock, "far", "1"), checksum(lock, "x", "1")),
            (Some("abc"), None, None)
        );
    }
}
