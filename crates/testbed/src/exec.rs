//! Starting children: inside a namespace, and never longer than this process.
//!
//! Invariant: the kernel kills every child with SIGKILL when its parent **thread** ends, so all children come from
//! one thread that lives as long as the process. The only unsafe code of the crate is here.
//!
//! Bound: one start at a time; callers wait in line.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Child, Command};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid};

struct Order {
    command: Command,
    answer: mpsc::SyncSender<io::Result<Child>>,
}

static SPAWNER: Mutex<Option<mpsc::SyncSender<Order>>> = Mutex::new(None);

/// Starts `command` inside the namespace behind `namespace`, in a process group of its own.
pub(crate) fn spawn(mut command: Command, namespace: Arc<File>) -> io::Result<Child> {
    confine(&mut command, namespace);
    let (answer, answered) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the thread that starts children is gone");
    spawner()?.send(Order { command, answer }).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

/// How another process reaches a descriptor of this one.
pub(crate) fn descriptor_path(descriptor: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", process::id(), descriptor.as_raw_fd()))
}

fn spawner() -> io::Result<mpsc::SyncSender<Order>> {
    let mut slot = SPAWNER.lock().map_err(|_| io::Error::other("a start of a child panicked"))?;
    if let Some(sender) = &*slot {
        return Ok(sender.clone());
    }
    let (sender, orders) = mpsc::sync_channel::<Order>(1);
    thread::Builder::new().name("spawner".to_owned()).spawn(move || {
        for Order { mut command, answer } in orders {
            if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                drop(orphan.kill());
            }
        }
    })?;
    Ok(slot.insert(sender).clone())
}

/// Its own process group keeps a terminal's Ctrl-C away from the child: it ends with us, by the death signal.
#[expect(unsafe_code, reason = "entering a namespace and asking for the death signal must happen after fork")]
fn confine(command: &mut Command, namespace: Arc<File>) {
    let parent = getpid();
    command.process_group(0);
    // SAFETY: between fork and exec the closure makes four system calls (setns, prctl, getppid, none of which
    // takes a lock or allocates) and builds an `io::Error` from an errno, which does not allocate either.
    unsafe {
        command.pre_exec(move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the request for the signal was in place.
            if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
}
