//! The files of a cluster or a bench: configuration, logs, the stores' data.
//!
//! Invariant: they stand in a tmpfs that is mounted nowhere and held by one descriptor, so they vanish with the
//! process even on SIGKILL. Children reach them as `/proc/PID/fd/N/…`.
//!
//! Bound: 512 MiB of memory unless said otherwise, then writers get ENOSPC.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::Error;
use crate::exec;
use crate::namespace::on_own_thread;

const MIB_MAX: u32 = 512;
/// Only the thread that mounts sees the file system there, and only until it ends.
const MOUNT_POINT: &str = "/tmp";

/// The directory. Dropping it lets go of the files, which stay while a program has them open.
#[derive(Debug)]
pub struct Scratch {
    root: File,
}

impl Scratch {
    /// An empty one.
    ///
    /// # Errors
    /// [`Error::Os`] without root.
    pub fn create() -> Result<Self, Error> {
        Self::of_mib(MIB_MAX)
    }

    /// An empty one that is full with so many MiB.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn of_mib(mib: u32) -> Result<Self, Error> {
        let options = format!("size={mib}m,mode=0700");
        let root = on_own_thread(move || -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
            mount(Some("tmpfs"), MOUNT_POINT, Some("tmpfs"), flags, Some(options.as_str()))?;
            File::open(MOUNT_POINT)
        })
        .map_err(Error::os("mount", "the scratch directory"))?;
        Ok(Self { root })
    }

    /// Where programs find it while this process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        exec::descriptor_path(&self.root)
    }

    /// Writes a file there and gives its path.
    ///
    /// # Errors
    /// [`Error::Os`] when the 512 MiB are used up.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        let path = self.path().join(name);
        fs::write(&path, text).map_err(Error::os("write", name))?;
        Ok(path)
    }
}
