//! What can go wrong when the kernel is to count for us, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::cgroup::CgroupError;

/// Why nothing counts. Each needs an operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no cgroup to attach to.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The cgroup that was named cannot be opened.
    #[error("cannot open the cgroup {}", .path.display())]
    CgroupPath {
        /// As named, or as found.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel takes no programs or tables.
    #[error("the kernel does not take the counting programs: {}", remedy(.0))]
    Load(#[source] libbpf_rs::Error),
    /// The programs are in the kernel and may not be attached.
    #[error("the counting programs cannot be attached to {}: {}", .path.display(), remedy(.source))]
    Attach {
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: libbpf_rs::Error,
    },
    /// What should outlive this process cannot be pinned, or what was pinned cannot be gone on with.
    #[error("cannot use {}: remove it, and what was counted there goes with it", .path.display())]
    Pins {
        /// The directory on bpffs.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another process counts with it.
    #[error("{} is in use by another collector of this node", .path.display())]
    InUse {
        /// The directory on bpffs.
        path: PathBuf,
    },
    /// What is in the kernel cannot be looked at.
    #[error("cannot look at the tables of the counting programs")]
    Look(#[source] libbpf_rs::Error),
}

/// Why a read gave nothing, or not all. The next one tries again, and nothing is lost or doubled by it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The tables could not be turned.
    #[error("the tables of the counting programs cannot take turns: {}", remedy(.0))]
    Turn(#[source] libbpf_rs::Error),
    /// The elements of a table could not be read.
    #[error("the tables of the counting programs cannot be read")]
    Rows(#[source] io::Error),
    /// The clock since boot cannot be read.
    #[error("cannot read the time since boot")]
    Clock(#[source] io::Error),
}

impl ReadError {
    /// False when another try fails as well until somebody grants a capability.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Turn(error) => error.kind() != libbpf_rs::ErrorKind::PermissionDenied,
            Self::Rows(error) | Self::Clock(error) => error.kind() != io::ErrorKind::PermissionDenied,
        }
    }
}

fn remedy(error: &libbpf_rs::Error) -> &'static str {
    match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => "it needs CAP_BPF and CAP_NET_ADMIN",
        _ => "it needs Linux 5.10 or later with CONFIG_CGROUP_BPF",
    }
}
