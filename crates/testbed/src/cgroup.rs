//! A cgroup of one test's programs, as all of a real node's are below its root.
//!
//! Whoever counts or listens at the root of the machine's hierarchy sees every cluster that it tests at once.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::error::Error;

/// The inode of the hierarchy's root (kernfs).
const ROOT_INODE: u64 = 1;
/// Whoever was in it has been told to end, and ends soon.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A cgroup v2. Dropping it removes it, once the last of its programs has ended.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// An empty one below the root of the machine's hierarchy.
    ///
    /// # Errors
    /// [`Error::Os`] without root, without cgroup v2, and where the name is taken.
    pub fn create(name: &str) -> Result<Self, Error> {
        let create = || {
            let path = root()?.join(format!("egressd-testbed-{}-{name}", process::id()));
            fs::create_dir(&path).map(|()| path)
        };
        create().map(Self).map_err(Error::os("make the cgroup", name))
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs in it what `command` would run.
    #[must_use]
    pub fn inside(&self, command: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(&self.0).args(command);
        shell
    }

    /// A program that enters it and becomes `program`; its file is one of the cluster's.
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be written.
    pub fn enterer(&self, cluster: &Cluster, program: &Path) -> Result<PathBuf, Error> {
        let script = format!(
            "#!/bin/sh\necho $$ > {}/cgroup.procs && exec {} \"$@\"\n",
            self.0.display(),
            program.display()
        );
        let path = cluster.write_file("enterer", &script)?;
        let executable = fs::set_permissions(&path, fs::Permissions::from_mode(0o755));
        executable.map_err(Error::os("make executable", "enterer"))?;
        Ok(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // One that a failed test left programs in stays behind.
        for _ in 0..REMOVED_WITHIN.as_millis() / LOOK_EVERY.as_millis() {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mut places = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    let root = places.find(|path| fs::metadata(path).is_ok_and(|path| path.ino() == ROOT_INODE));
    root.ok_or_else(|| io::ErrorKind::NotFound.into())
}
