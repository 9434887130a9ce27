//! A network namespace without a name in the file system.
//!
//! Invariant: it lives as long as a descriptor, a socket or a process in it; `/run/netns` is never touched, so there
//! is nothing to clean up.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::path::PathBuf;
use std::process::{self, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::error::Error;
use crate::exec;

/// That of the thread that opens it.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// A network namespace, held open. Clones hold the same namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Namespace {
    /// Creates an empty namespace. `name` is for messages only.
    ///
    /// # Errors
    /// [`Error::Os`] without root or without `CONFIG_NET_NS`.
    pub(crate) fn create(name: &str) -> Result<Self, Error> {
        let file = on_own_thread(|| -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open(CURRENT)
        })
        .map_err(Error::os("create the network namespace", name))?;
        Ok(Self { name: name.into(), file: Arc::new(file) })
    }

    /// The one that the calling thread is in. `name` is for messages only.
    ///
    /// # Errors
    /// [`Error::Os`] without `/proc`.
    pub fn current(name: &str) -> Result<Self, Error> {
        let file = File::open(CURRENT).map_err(Error::os("open the network namespace", name))?;
        Ok(Self { name: name.into(), file: Arc::new(file) })
    }

    /// The name given at creation.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that `ip link set … netns PATH` and `nsenter --net=PATH` accept while this process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        exec::descriptor_path(&*self.file)
    }

    /// The inode number that `/proc/PID/ns/net` shows as `net:[N]` for whoever is inside.
    ///
    /// # Errors
    /// [`Error::Os`] when the kernel does not tell.
    pub fn inode(&self) -> Result<u64, Error> {
        let metadata = self.file.metadata().map_err(Error::os("read the inode of", self.name()))?;
        Ok(metadata.ino())
    }

    /// Runs `work` on a thread of its own inside the namespace; sockets made there stay there.
    ///
    /// # Errors
    /// [`Error::Os`] when the namespace cannot be entered.
    ///
    /// # Panics
    /// When `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_own_thread(|| -> io::Result<T> {
            setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .map_err(Error::os("enter the network namespace", self.name()))
    }

    /// Runs a program inside to its end, feeding it `stdin` meanwhile, and gives its standard output.
    ///
    /// # Errors
    /// [`Error::Command`] when it ends with another status than 0, [`Error::Os`] when it does not start.
    pub fn run(&self, mut command: Command, stdin: &[u8]) -> Result<Vec<u8>, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = self.run_piped(command, stdin).map_err(Error::os("run", &program))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        Err(Error::Command { program, place: self.name().to_owned(), status: output.status, stderr })
    }

    /// A program that ends before it has read everything speaks through its status, not through our broken pipe.
    fn run_piped(&self, command: Command, stdin: &[u8]) -> io::Result<Output> {
        let mut child = exec::spawn(command, Arc::clone(&self.file))?;
        let pipe = child.stdin.take();
        let feed = || match pipe.map(|mut pipe| io::Write::write_all(&mut pipe, stdin)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        };
        thread::scope(|scope| {
            let feeding = scope.spawn(feed);
            let output = child.wait_with_output()?;
            feeding.join().unwrap_or_else(|payload| panic::resume_unwind(payload))?;
            Ok(output)
        })
    }

    /// Starts a program inside; it dies with this process.
    pub(crate) fn spawn(&self, command: Command) -> io::Result<process::Child> {
        exec::spawn(command, Arc::clone(&self.file))
    }
}

/// `unshare` and `setns` change the calling thread for good, so each goes to a thread that ends after it.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match thread::scope(|scope| scope.spawn(work).join()) {
        Ok(value) => value,
        Err(payload) => panic::resume_unwind(payload),
    }
}
