//! Where the cgroup v2 hierarchy is mounted, by `/proc/self/mounts`.
//!
//! A container sees its own cgroup as a root of its own, and a program attached there would see the container's answers
//! alone. The hierarchy's real root is told by its inode, which is 1 for kernfs (`kernfs_create_root`, `fs/kernfs/dir.c`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const MOUNTS: &str = "/proc/self/mounts";
const ROOT_INODE: u64 = 1;

/// Why there is nothing to attach to. Each needs an operator.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// `/proc` is not there.
    #[error("cannot read {MOUNTS}")]
    Mounts(#[source] io::Error),
    /// Cgroup v1 alone, or only a container's own part of v2.
    #[error(
        "no cgroup v2 hierarchy is mounted with its root: mount the node's /sys/fs/cgroup into the container, and \
         boot the node with cgroup v2 where it has v1 alone"
    )]
    NoRoot,
}

/// The root of the cgroup v2 hierarchy.
///
/// # Errors
/// There is none here.
pub fn root() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(CgroupError::Mounts)?;
    let is_root = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == ROOT_INODE);
    mount_points(&mounts).find(|path| is_root(path)).ok_or(CgroupError::NoRoot)
}

/// Of cgroup v2, in the order of mounting.
fn mount_points(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}
