//! What cargo knows about the workspace, as plain data: folders, crates, and who depends on whom.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The workspace as `cargo metadata --no-deps` tells it.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the root `Cargo.toml`; absolute.
    pub(crate) root: PathBuf,
    /// Where cargo builds to; absolute. Follows `CARGO_TARGET_DIR` and cargo's configuration.
    pub(crate) target: PathBuf,
    /// Every crate of ours.
    pub(crate) packages: Vec<Package>,
}

/// One crate of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    /// The package's name: `egressd-<folder>`, or `xtask`.
    pub(crate) name: String,
    /// Its `Cargo.toml`, relative to the root.
    pub(crate) manifest: String,
    /// What the manifest names, in cargo's order.
    pub(crate) dependencies: Vec<Dependency>,
}

/// A dependency as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// The package depended upon.
    pub(crate) package: String,
    /// The name that the manifest uses for it; the package's own unless renamed.
    pub(crate) key: String,
    /// Which table names it.
    pub(crate) kind: Kind,
}

/// The table that a dependency stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `[dependencies]`: linked into what ships.
    Normal,
    /// `[build-dependencies]`: linked into the build script.
    Build,
    /// `[dev-dependencies]`: linked into tests only.
    Dev,
}

impl Workspace {
    /// Asks cargo about the workspace around the current folder.
    ///
    /// # Errors
    ///
    /// When cargo fails (it has then said why on stderr), or answers in a shape unknown here.
    pub(crate) fn read() -> Result<Self> {
        let arguments = ["metadata", "--no-deps", "--format-version", "1"];
        let text = process::output(&mut process::cargo(Path::new("."), &arguments))?;
        Self::parse(&text).context("understand `cargo metadata`")
    }

    /// The version that every crate of ours has.
    ///
    /// # Errors
    ///
    /// When the root's manifest cannot be read or names none.
    pub(crate) fn version(&self) -> Result<String> {
        let manifest = self.root.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| format!("read {}", manifest.display()))?;
        let version = text.lines().find_map(|line| line.strip_prefix("version = "));
        let version = version.with_context(|| format!("find a version in {}", manifest.display()))?;
        Ok(version.trim_matches('"').to_owned())
    }

    fn parse(text: &str) -> Result<Self> {
        let metadata: Value = serde_json::from_str(text)?;
        let root = PathBuf::from(string(&metadata, "workspace_root")?);
        let target = PathBuf::from(string(&metadata, "target_directory")?);
        let packages = list(&metadata, "packages")?
            .iter()
            .map(|package| Package::parse(package, &root))
            .collect::<Result<_>>()?;
        Ok(Self { root, target, packages })
    }
}

impl Package {
    fn parse(package: &Value, root: &Path) -> Result<Self> {
        let path = Path::new(string(package, "manifest_path")?);
        let manifest = path.strip_prefix(root).context("a member outside of the workspace's folder")?;
        Ok(Self {
            name: string(package, "name")?.to_owned(),
            manifest: manifest.to_string_lossy().into_owned(),
            dependencies: list(package, "dependencies")?
                .iter()
                .map(Dependency::parse)
                .collect::<Result<_>>()?,
        })
    }

    /// The name without the product's: `flow` of `egressd-flow`.
    pub(crate) fn short(&self) -> &str {
        short(&self.name)
    }
}

impl Dependency {
    fn parse(dependency: &Value) -> Result<Self> {
        let package = string(dependency, "name")?.to_owned();
        let key = dependency.get("rename").and_then(Value::as_str).unwrap_or(&package).to_owned();
        let kind = match dependency.get("kind").and_then(Value::as_str) {
            None | Some("normal") => Kind::Normal,
            Some("build") => Kind::Build,
            Some("dev") => Kind::Dev,
            Some(other) => anyhow::bail!("unknown kind of dependency `{other}`"),
        };
        Ok(Self { package, key, kind })
    }
}

/// A package's name without the product's prefix.
pub(crate) fn short(name: &str) -> &str {
    name.strip_prefix("egressd-").unwrap_or(name)
}

fn string<'v>(value: &'v Value, key: &str) -> Result<&'v str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("no text under `{key}`"))
}

fn list<'v>(value: &'v Value, key: &str) -> Result<&'v [Value]> {
    let values =
        value.get(key).and_then(Value::as_array).with_context(|| format!("no list under `{key}`"))?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: members, kinds and renames come out of cargo's answer as they stand in the manifests.
    #[test]
    fn metadata_becomes_packages_and_their_dependencies() {
        let text = r#"{"workspace_root": "/w", "target_directory": "/elsewhere", "packages": [{
            "name": "egressd-meter", "manifest_path": "/w/crates/meter/Cargo.toml", "dependencies": [
                {"name": "egressd-flow", "kind": null, "rename": null},
                {"name": "protox", "kind": "build", "rename": null},
                {"name": "proptest", "kind": "dev", "rename": "prop"}]}]}"#;
        let workspace = Workspace::parse(text).unwrap();
        assert_eq!((workspace.root, workspace.target), (PathBuf::from("/w"), PathBuf::from("/elsewhere")));
        let dependency =
            |package: &str, key: &str, kind| Dependency { package: package.into(), key: key.into(), kind };
        let meter = Package {
            name: "egressd-meter".into(),
            manifest: "crates/meter/Cargo.toml".into(),
            dependencies: vec![
                dependency("egressd-flow", "egressd-flow", Kind::Normal),
                dependency("protox", "protox", Kind::Build),
                dependency("proptest", "prop", Kind::Dev),
            ],
        };
        assert_eq!(workspace.packages, [meter]);
    }

    /// Goal: an answer in another shape is an error, not an empty workspace in which nothing is wrong.
    #[test]
    fn an_answer_without_packages_is_refused() {
        let error = Workspace::parse(r#"{"workspace_root": "/w", "target_directory": "/t"}"#).unwrap_err();
        assert_eq!(error.to_string(), "no list under `packages`");
    }
}
