//! Where the cgroup v2 hierarchy is mounted, by `/proc/self/mounts`.
//!
//! A container sees its own cgroup as a root of its own, and programs attached there would count the container alone.
//! The hierarchy's real root is told by its inode, which is 1 for kernfs (`kernfs_create_root`, `fs/kernfs/dir.c`).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, path::Path};

const MOUNTS: &str = "/proc/self/mounts";
const ROOT_INODE: u64 = 1;

/// Why there is nothing to attach to. Each needs an operator.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// `/proc` is not there.
    #[error("cannot read {MOUNTS}")]
    Mounts(#[source] io::Error),
    /// Cgroup v1 alone, or the node's hierarchy is not mounted into the container.
    #[error(
        "no cgroup v2 hierarchy is mounted with its root: mount the node's /sys/fs/cgroup into the container, and \
         boot the node with cgroup v2 where it has v1 alone"
    )]
    NoRoot,
}

/// The root of the cgroup v2 hierarchy.
pub(super) fn root() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(CgroupError::Mounts)?;
    let is_root = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.ino() == ROOT_INODE);
    mount_points(&mounts).find(|path| is_root(path)).ok_or(CgroupError::NoRoot)
}

/// Of cgroup v2, in the order of mounting. Blanks in a path are written in octal (`proc(5)`), and such a path is passed
/// over: nobody mounts cgroups there.
fn mount_points(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: cgroup v2 is found wherever it is mounted, beside v1 as well, and nothing else is taken for it.
    #[test]
    fn mount_points_of_v2_are_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\nnone /host/cgroup cgroup2 rw 0 0\nshort\n";
        let expected = ["/sys/fs/cgroup/unified", "/host/cgroup"].map(PathBuf::from);
        assert_eq!(mount_points(mounts).collect::<Vec<_>>(), expected);
    }
}
