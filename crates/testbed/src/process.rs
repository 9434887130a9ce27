//! A child process in a namespace: its log, its end, what it cost.
//!
//! Invariant: dropping it kills it and waits for it; the death signal covers what drop cannot.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::clock::wait_for;
use crate::error::Error;
use crate::namespace::Namespace;

/// As much of a log as an error message carries, in bytes.
const LOG_TAIL_BYTES_MAX: usize = 4096;

/// A running child, or one that has ended and was not waited for by anyone else.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, in steps of the clock tick (10 ms).
    pub cpu: Duration,
    /// The highest resident set so far, in bytes (`VmHWM`).
    pub rss_peak_bytes: u64,
}

impl Process {
    /// Starts `command` in `namespace`. Standard error goes to `NAME.log` in `directory`, appended; so does standard
    /// output, unless the command is asked to keep it (`pipes`, which also opens standard input).
    pub(crate) fn start(
        namespace: &Namespace,
        name: &str,
        mut command: Command,
        directory: &Path,
        pipes: bool,
    ) -> Result<Self, Error> {
        let log = directory.join(format!("{name}.log"));
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        command.stderr(open().map_err(Error::os("open the log of", name))?);
        if pipes {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(open().map_err(Error::os("open the log of", name))?);
        }
        let child = namespace.spawn(command).map_err(Error::os("start", name))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with its output. Gone with the cluster.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its output so far, and that of those before it under the same name.
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be read.
    pub fn log_text(&self) -> Result<String, Error> {
        fs::read_to_string(&self.log).map_err(Error::os("read the log of", &self.name))
    }

    /// The last 4 KiB of its output, empty when there is none.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = bytes.len().saturating_sub(LOG_TAIL_BYTES_MAX);
        String::from_utf8_lossy(&bytes[from..]).trim_end().to_owned()
    }

    /// Its end, if it has ended.
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be asked.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(Error::os("wait for", &self.name))
    }

    /// That it still runs.
    ///
    /// # Errors
    /// [`Error::Ended`] with its log when it does not.
    pub fn check_running(&mut self) -> Result<(), Error> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(Error::Ended { name: self.name.clone(), status, log: self.log_tail() }),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Error::Timeout`] when it still runs after `within`; it goes on running.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, Error> {
        let awaited = format!("the end of {}", self.name);
        wait_for(&awaited, within, || Ok(self.ended()?.ok_or_else(|| self.log_tail())))
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus, Error> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        kill(self.pid()?, Signal::SIGTERM)
            .map_err(|errno| Error::os("send SIGTERM to", &self.name)(errno.into()))?;
        self.wait(within)
    }

    /// Ends it at once (SIGKILL) and waits.
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be signalled.
    pub fn kill(&mut self) -> Result<ExitStatus, Error> {
        self.child.kill().map_err(Error::os("kill", &self.name))?;
        self.child.wait().map_err(Error::os("wait for", &self.name))
    }

    /// Stops it where it is (SIGSTOP): it does nothing, and its connections stay open.
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be signalled.
    pub fn freeze(&self) -> Result<(), Error> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// [`Error::Os`] when it cannot be signalled.
    pub fn thaw(&self) -> Result<(), Error> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        kill(self.pid()?, signal).map_err(|errno| Error::os("signal", &self.name)(errno.into()))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// [`Error::Os`] once it was waited for, [`Error::Malformed`] when `/proc` reads otherwise than proc(5) says.
    pub fn usage(&self) -> Result<Usage, Error> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", self.id()))
                .map_err(Error::os("read the usage of", &self.name))
        };
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        let malformed = |what, found: String| Error::Malformed { what, found };
        let (stat, status) = (read("stat")?, read("status")?);
        let cpu = cpu_ticks(&stat)
            .zip(u64::try_from(ticks_per_second).ok())
            .map(|(ticks, per_second)| Duration::from_millis(ticks * 1000 / per_second))
            .ok_or_else(|| malformed("/proc/PID/stat", stat))?;
        let rss_peak_bytes = rss_peak_bytes(&status).ok_or_else(|| malformed("/proc/PID/status", status))?;
        Ok(Usage { cpu, rss_peak_bytes })
    }

    pub(crate) fn pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>) {
        (self.child.stdin.take(), self.child.stdout.take())
    }

    fn pid(&self) -> Result<Pid, Error> {
        let malformed = |_| Error::Malformed { what: "a process id", found: self.id().to_string() };
        i32::try_from(self.id()).map(Pid::from_raw).map_err(malformed)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing left to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Fields 14 and 15 of proc(5)'s `stat`, counted after the last `)` since the name may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn rss_peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the two fields are found whatever the process is called, and memory is in bytes.
    #[test]
    fn usage_is_read_from_proc() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 3 0 99";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("42 (short) S 1"), None);
        assert_eq!(rss_peak_bytes("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2 << 20));
        assert_eq!(rss_peak_bytes("Name:\tx\n"), None);
    }
}
