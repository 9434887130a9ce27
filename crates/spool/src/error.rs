//! What can go wrong with a spool, and what happens next.

use std::io;
use std::path::PathBuf;

use egressd_flow::Position;

/// Why a call did not do what it says. The spool is as it was before the call, unless a variant says otherwise, and
/// the same call may be made again.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// No room: works again when there is some. An operator enlarges the volume or lowers the spool's bound.
    #[error("no room for {name} on the spool's volume: make it larger, or lower the spool's bound in bytes")]
    Full {
        /// The file.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Needs an operator: the volume does not take writes.
    #[error("the spool's volume is read-only, {name} cannot be written: mount it writable")]
    ReadOnly {
        /// The file.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The disk failed otherwise. Retried by the caller.
    #[error("the disk failed at {name} of the spool")]
    Disk {
        /// The file.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Fatal for this process: another one writes there, which may end.
    #[error("another process uses the spool {path}: give each its own directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// Needs an operator: what is there is not a spool, or parts of two.
    #[error("{name} is not of this spool: give the spool a directory of its own")]
    Foreign {
        /// The file that says so.
        name: String,
    },
    /// Needs an operator: a later release wrote it.
    #[error("the spool has format {found}, this release knows {known}: run the release that wrote it")]
    NewerVersion {
        /// Its format.
        found: u32,
        /// The latest that this release reads.
        known: u32,
    },
    /// The caller is wrong: positions rise by 1.
    #[error("position {} was expected, {} came", expected.0, found.0)]
    OutOfOrder {
        /// The next one.
        expected: Position,
        /// What came in its place.
        found: Position,
    },
    /// The caller is wrong: nothing was appended there yet.
    #[error("a cursor cannot be at {}, the last batch is at {}", found.0, last.0)]
    Ahead {
        /// Where the cursor was to be.
        found: Position,
        /// The last position.
        last: Position,
    },
    /// More than fits at all: the caller takes smaller steps.
    #[error("{bytes} bytes in one step, and {bytes_max} is the most")]
    TooLarge {
        /// What came.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// The caller is wrong: no such sink has joined.
    #[error("the spool has no sink {name}")]
    UnknownSink {
        /// Its name.
        name: String,
    },
    /// An operator names sinks shorter, or has fewer of them.
    #[error("there is no room for a sink {name}: at most {sinks_max}, of {name_bytes_max} bytes each")]
    TooManySinks {
        /// Its name.
        name: String,
        /// How many may be.
        sinks_max: usize,
        /// How long a name may be, in bytes.
        name_bytes_max: usize,
    },
}

impl SpoolError {
    /// Turns what the kernel said about a file into what to do about it.
    pub(crate) fn disk(name: &str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { name, source },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { name, source },
            _ => Self::Disk { name, source },
        }
    }

    /// Whether the same call may do better later without anybody changing the program.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::ReadOnly { .. } | Self::Disk { .. })
    }
}
