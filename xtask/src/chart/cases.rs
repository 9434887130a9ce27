//! The values that the chart is rendered with: examples, values of the original's chart, and values that are wrong.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Example values, each of which becomes a manifest.
const EXAMPLES: &str = "deploy/values";
/// Values as they are written for the original's chart.
const ORIGINAL: &str = "xtask/chart/original";
/// Values that must be refused, and what the refusal must say.
const REFUSED: &str = "xtask/chart/refused.json";
/// Values that must be rendered with something in them, or without.
const SAID: &str = "xtask/chart/said.json";
/// The original's own values files and renders, where they are at hand.
const CAPTURES: &str = "../shared/captures/original-chart";

/// Values that are tried.
#[derive(Debug, Default)]
pub(super) struct Cases {
    /// By the name of the example: its values.
    pub(super) examples: BTreeMap<String, String>,
    /// Values of the original's chart, by case.
    pub(super) original: BTreeMap<String, String>,
    /// What must be refused.
    pub(super) refused: Vec<Refused>,
    /// What must be said, or not, for values.
    pub(super) said: Vec<Said>,
    /// What the original's chart rendered, by the file's name.
    pub(super) captures: BTreeMap<String, String>,
}

/// Values that must be refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Of the case.
    pub(super) name: String,
    /// In YAML.
    pub(super) values: String,
    /// Part of the message.
    pub(super) says: String,
}

/// Values with which something must be rendered, notes included, or must not.
#[derive(Debug)]
pub(super) struct Said {
    /// Of the case.
    pub(super) name: String,
    /// In YAML.
    pub(super) values: String,
    /// Parts of what is rendered.
    pub(super) says: Vec<String>,
    /// No part of it.
    pub(super) says_not: Vec<String>,
}

impl Cases {
    /// Reads all that are in the workspace and, where they are beside it, those of the original's chart.
    ///
    /// # Errors
    ///
    /// When a folder or a file cannot be read, or a folder has none.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut original = yaml_files(&root.join(ORIGINAL), "", "original-")?;
        let mut captures = BTreeMap::new();
        let folder = root.join(CAPTURES);
        if folder.is_dir() {
            original.extend(yaml_files(&folder, "values-", "captured-")?);
            captures = yaml_files(&folder, "render-", "")?;
        }
        Ok(Self {
            examples: yaml_files(&root.join(EXAMPLES), "", "")?,
            original,
            refused: refused(&root.join(REFUSED))?,
            said: said(&root.join(SAID))?,
            captures,
        })
    }

    /// All of them, as the engine wants them. The original's are installed as its own documentation says.
    pub(super) fn all(&self) -> impl Iterator<Item = Value> {
        let ours = |name: &str, values: &str| json!({"name": name, "release": "egressd", "namespace": "egressd", "values": values});
        let original = |name: &str, values: &str| {
            json!({
                "name": name, "release": "castai-egressd", "namespace": "castai-agent", "values": values,
            })
        };
        let examples = self.examples.iter().map(move |(name, values)| ours(name, values));
        let originals = self.original.iter().map(move |(name, values)| original(name, values));
        let refused = self.refused.iter().map(move |refused| ours(&refused.name, &refused.values));
        let said = self.said.iter().map(move |said| ours(&said.name, &said.values));
        examples.chain(originals).chain(refused).chain(said)
    }

    /// Whether a case must not render.
    pub(super) fn is_refused(name: &str) -> bool {
        name.starts_with("refused-")
    }

    /// Examples of these values, for tests.
    #[cfg(test)]
    pub(super) fn of(examples: &[(&str, &str)]) -> Self {
        let examples = examples.iter().map(|(name, values)| ((*name).to_owned(), (*values).to_owned()));
        Self { examples: examples.collect(), ..Self::default() }
    }
}

/// The YAML files of a folder whose names begin with `prefix`, which `instead` takes the place of.
fn yaml_files(folder: &Path, prefix: &str, instead: &str) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".yaml").and_then(|name| name.strip_prefix(prefix)) {
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            files.insert(format!("{instead}{name}"), text);
        }
    }
    anyhow::ensure!(!files.is_empty(), "no values in {}", folder.display());
    Ok(files)
}

fn said(path: &Path) -> Result<Vec<Said>> {
    let words = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    list(path)?
        .iter()
        .zip(1..)
        .map(|(entry, number)| {
            let values =
                entry["values"].as_str().with_context(|| format!("{} lacks values", path.display()))?;
            let (says, says_not) = (words(&entry["says"]), words(&entry["says_not"]));
            Ok(Said { name: format!("said-{number}"), values: values.to_owned(), says, says_not })
        })
        .collect()
}

fn list(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

fn refused(path: &Path) -> Result<Vec<Refused>> {
    let field = |entry: &Value, key: &str| {
        entry[key].as_str().map(str::to_owned).with_context(|| format!("{} lacks {key}", path.display()))
    };
    list(path)?
        .iter()
        .zip(1..)
        .map(|(entry, number)| {
            let (values, says) = (field(entry, "values")?, field(entry, "says")?);
            Ok(Refused { name: format!("refused-{number}"), values, says })
        })
        .collect()
}
