//! Python environments below the folder that cargo builds to, for tools and clients that are written in it.
//!
//! Each is made once for each list of requirements, and wheels are held against the hashes there. Nothing but that
//! first time needs a network.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process;

/// Makes the environment in `home` what `requirements` lists, unless it is that already.
///
/// # Errors
///
/// When it cannot be made; the message says what to do.
pub(crate) fn ready(home: &Path, requirements: &Path) -> Result<()> {
    let list = fs::read(requirements).with_context(|| format!("read {}", requirements.display()))?;
    let stamp = home.join("installed");
    if fs::read(&stamp).is_ok_and(|installed| installed == list) {
        return Ok(());
    }
    eprintln!("installing {} into {}", requirements.display(), home.display());
    install(home, requirements).context(
        "`cargo xtask setup` brings the Python that this needs, and the network or PIP_INDEX_URL must lead to a \
         package index",
    )?;
    fs::write(&stamp, list).with_context(|| format!("write {}", stamp.display()))
}

fn install(home: &Path, requirements: &Path) -> Result<()> {
    let venv = ["-m", "venv", "--clear"];
    process::run(process::chatter(process::clean("python3").args(venv).arg(home)))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"];
    let strict = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement"];
    let mut command = process::clean(home.join("bin/python"));
    process::run(process::chatter(command.args(pip).args(strict).arg(requirements)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an environment is made once for a list, anew when the list changes, and a list that cannot be had says what
    /// to do.
    #[test]
    fn an_environment_is_made_once_for_each_list() {
        let folder = std::env::temp_dir().join(format!("xtask-python-{}", std::process::id()));
        let (home, list) = (folder.join("home"), folder.join("list.txt"));
        let witness = home.join("witness");
        fs::create_dir_all(&folder).unwrap();
        let mut stands = Vec::new();
        for text in ["# one\n", "# one\n", "# another\n"] {
            fs::write(&list, text).unwrap();
            ready(&home, &list).unwrap();
            stands.push(witness.exists());
            fs::write(&witness, "").unwrap();
        }
        fs::write(&list, "without-a-hash==1\n").unwrap();
        let refused = ready(&home, &list).unwrap_err().to_string();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(stands, [false, true, false]);
        assert!(refused.starts_with("`cargo xtask setup` brings the Python"), "{refused}");
    }
}
