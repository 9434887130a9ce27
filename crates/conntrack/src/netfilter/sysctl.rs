//! The kernel's switches for counters, timestamps and events: `/proc/sys/net/netfilter/nf_conntrack_*`.
//!
//! The kernel attaches each extension to an entry when the entry is made, so an entry older than the switch never
//! gets it (`Documentation/networking/nf_conntrack-sysctl.rst`): set them early. The files show the network
//! namespace of the thread that opens them.

use std::path::{Path, PathBuf};
use std::{fs, io};

const DIRECTORY: &str = "/proc/sys/net/netfilter";
/// Gives new entries counters.
pub const ACCT: &str = "nf_conntrack_acct";
/// Gives new entries start and stop.
pub const TIMESTAMP: &str = "nf_conntrack_timestamp";
/// Lets entries announce their end.
pub const EVENTS: &str = "nf_conntrack_events";

/// The switches as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// `nf_conntrack_acct`: 1 gives new entries counters; 0, the kernel's default, none.
    pub acct: u32,
    /// `nf_conntrack_timestamp`: 1 gives new entries start and stop; 0, the kernel's default, none.
    pub timestamp: u32,
    /// `nf_conntrack_events`: 1 lets every new entry announce its end; 2, the default since Linux 5.19, only those
    /// made while someone listens; 0 none.
    pub events: u32,
}

impl State {
    /// The files that do not hold what exact measuring needs, and what they hold: for a warning at start.
    pub fn wanting(&self) -> impl Iterator<Item = (&'static str, u32)> {
        [(ACCT, self.acct), (TIMESTAMP, self.timestamp), (EVENTS, self.events)]
            .into_iter()
            .filter(|&(_, value)| value != 1)
    }
}

/// Why the switches could not be read or set. Each needs an operator.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// Connection tracking is not in this kernel, or not loaded.
    #[error("{} does not exist: load the kernel module nf_conntrack", .file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// Not readable.
    #[error("cannot read {}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Not writable: no permission, or a container's read-only `/proc/sys`.
    #[error(
        "cannot write 1 to {}: run init in a privileged container on the host network, or set net.netfilter.{} = 1 \
         on the node",
        .file.display(), .file.file_name().unwrap_or_default().display()
    )]
    Write {
        /// The file.
        file: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something else than a number was read.
    #[error("{} holds {found:?}, not a number", .file.display())]
    NotANumber {
        /// The file.
        file: PathBuf,
        /// What it held.
        found: String,
    },
    /// The write was taken, and has not changed the value.
    #[error("{} was set to 1 and reads {found}", .file.display())]
    NotKept {
        /// The file.
        file: PathBuf,
        /// What it holds.
        found: u32,
    },
}

/// Sets all three to 1 and reads them back. What is 1 already is not written.
///
/// # Errors
/// [`SysctlError`] at the first file that does not end up as 1; those before it are set.
pub fn init() -> Result<State, SysctlError> {
    init_in(Path::new(DIRECTORY))
}

/// Reads all three.
///
/// # Errors
/// [`SysctlError`] at the first file that does not hold a number.
pub fn state() -> Result<State, SysctlError> {
    state_in(Path::new(DIRECTORY))
}

fn init_in(directory: &Path) -> Result<State, SysctlError> {
    for name in [ACCT, TIMESTAMP, EVENTS] {
        switch_on(directory.join(name))?;
    }
    state_in(directory)
}

fn state_in(directory: &Path) -> Result<State, SysctlError> {
    let value = |name| value(&directory.join(name));
    Ok(State { acct: value(ACCT)?, timestamp: value(TIMESTAMP)?, events: value(EVENTS)? })
}

fn switch_on(file: PathBuf) -> Result<(), SysctlError> {
    if value(&file)? == 1 {
        return Ok(());
    }
    if let Err(source) = fs::write(&file, "1") {
        return Err(SysctlError::Write { file, source });
    }
    match value(&file)? {
        1 => Ok(()),
        found => Err(SysctlError::NotKept { file, found }),
    }
}

fn value(file: &Path) -> Result<u32, SysctlError> {
    let text = fs::read_to_string(file).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => SysctlError::Missing { file: file.to_owned() },
        _ => SysctlError::Read { file: file.to_owned(), source },
    })?;
    let number = text.trim();
    number.parse().map_err(|_| SysctlError::NotANumber { file: file.to_owned(), found: number.to_owned() })
}

#[cfg(test)]
mod tests;
