//! What can go wrong with Cilium's maps, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a read handed over nothing at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory cannot be listed. Needs an operator, unless Cilium has yet to make it.
    #[error("cannot list {}: {}", .directory.display(), remedy(.source))]
    Directory {
        /// Where the maps are looked for.
        directory: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Nothing there has the name and the sizes of a conntrack map. The next read looks again.
    #[error(
        "no conntrack map of Cilium is pinned in {}: mount the node's /sys/fs/bpf, or pass --cilium-map-dir; Cilium makes \
         its maps when it starts",
        .directory.display()
    )]
    NoMaps {
        /// Where they are looked for.
        directory: PathBuf,
    },
    /// None of the maps could be opened or read. Needs an operator where a permission is missing.
    #[error("cannot read Cilium's conntrack map {}: {}", .map.display(), remedy(.source))]
    Map {
        /// The first of them.
        map: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl ReadError {
    /// False when another try fails as well until somebody grants a capability.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoMaps { .. } => true,
            Self::Directory { source, .. } | Self::Map { source, .. } => !is_refusal(source),
        }
    }
}

/// `bpf` answers `EPERM` without `CAP_BPF` before Linux 5.19 (`__sys_bpf`, `kernel/bpf/syscall.c`) and where seccomp forbids
/// it, a pin's mode `EACCES`.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "it needs root's files, before Linux 5.19 CAP_BPF, before 5.8 CAP_SYS_ADMIN, and a seccomp profile that lets \
             it call bpf"
        }
        Some(libc::EINVAL | libc::EOPNOTSUPP) => {
            "this kernel reads no map in batches, which came with Linux 5.6"
        }
        Some(libc::ENOENT) => "mount the node's /sys/fs/bpf, or pass --cilium-map-dir",
        _ => "see the cause",
    }
}
