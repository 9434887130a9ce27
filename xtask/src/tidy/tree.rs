//! The files of the workspace, as text: what cargo builds and what version control hides are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Endings of the files whose text is looked at.
const TEXTS: [&str; 3] = [".rs", ".md", ".toml"];

/// Every path of the workspace, relative to its root and with `/` between names, and the text of some.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Files and folders.
    pub(super) paths: BTreeSet<String>,
    texts: BTreeMap<String, String>,
}

impl Tree {
    /// Reads everything below `root` but hidden version control and the folder cargo builds to.
    ///
    /// # Errors
    ///
    /// When a folder or one of the texts cannot be read, or a text is not UTF-8.
    pub(super) fn read(root: &Path, target: &Path) -> Result<Self> {
        let mut tree = Self::default();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
                let entry = entry?;
                let path = entry.path();
                if path == target || entry.file_name() == ".git" || path.join("CACHEDIR.TAG").exists() {
                    continue;
                }
                let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
                if TEXTS.iter().any(|ending| name.ends_with(ending)) {
                    let text = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
                    tree.texts.insert(name.clone(), text);
                }
                tree.paths.insert(name);
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                }
            }
        }
        Ok(tree)
    }

    /// The texts whose name has this ending, by name.
    pub(super) fn texts(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .filter(move |(name, _)| name.ends_with(ending))
            .map(|(name, text)| (&**name, &**text))
    }

    /// The text of one file, if there is such a file and its text is looked at.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// A tree of these files, for tests.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let mut tree = Self::default();
        for (name, text) in files {
            tree.texts.insert((*name).to_owned(), (*text).to_owned());
            let parents = name.match_indices('/').map(|(at, _)| &name[..at]);
            tree.paths.extend(parents.chain([*name]).map(str::to_owned));
        }
        tree
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the tree that the checks see is this workspace, without what was built.
    #[test]
    fn the_tree_holds_sources_and_not_what_was_built() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        let tree = Tree::read(&root, &root.join("target")).unwrap();
        assert!(tree.text("xtask/src/tidy/tree.rs").is_some_and(|text| text.starts_with("//! The files of")));
        assert!(tree.paths.contains("xtask/src/tidy"));
        assert!(!tree.paths.iter().any(|path| path.starts_with("target") || path.starts_with(".git/")));
    }
}
