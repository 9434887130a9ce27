//! A conntrack setting of the whole machine, changed for a while by whoever cannot do without.
//!
//! Invariant: it is put back however this process ends, by a process that waits for the end of its standard input.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use clap::ValueEnum;

use crate::error::Error;

/// A setting that only the initial network namespace can change, and that holds for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Setting {
    /// Entries that each namespace may have.
    ConntrackMax,
    /// Buckets of the one hash table; a change moves every entry to a new table.
    ConntrackBuckets,
}

impl Setting {
    const fn path(self) -> &'static str {
        match self {
            Self::ConntrackMax => "/proc/sys/net/netfilter/nf_conntrack_max",
            Self::ConntrackBuckets => "/proc/sys/net/netfilter/nf_conntrack_buckets",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ConntrackMax => "conntrack-max",
            Self::ConntrackBuckets => "conntrack-buckets",
        }
    }

    /// Its value now.
    ///
    /// # Errors
    /// [`Error::Os`] without conntrack, [`Error::Malformed`] for another value than a number.
    pub fn read(self) -> Result<u32, Error> {
        let text = fs::read_to_string(self.path()).map_err(Error::os("read", self.path()))?;
        let malformed = |_| Error::Malformed { what: self.path(), found: text.clone() };
        text.trim().parse().map_err(malformed)
    }

    fn write(self, value: u32) -> Result<(), Error> {
        fs::write(self.path(), value.to_string()).map_err(Error::os("write", self.path()))
    }
}

/// A setting that may be changed until this is dropped, or this process ends in any other way.
#[derive(Debug)]
pub struct Borrowed {
    setting: Setting,
    found: u32,
    keeper: Child,
}

impl Borrowed {
    /// Notes the value, and starts the running program once more as `keep-setting NAME VALUE`, which is to call
    /// [`keep_setting`].
    ///
    /// # Errors
    /// As [`Setting::read`]; [`Error::Os`] when the keeper does not start.
    pub fn of(setting: Setting) -> Result<Self, Error> {
        let found = setting.read()?;
        let program = std::env::current_exe().map_err(Error::os("find", "the running executable"))?;
        let keeper = Command::new(program)
            .args(["keep-setting", setting.name(), &found.to_string()])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Error::os("start the keeper of", setting.path()))?;
        Ok(Self { setting, found, keeper })
    }

    /// The value to be put back.
    #[must_use]
    pub const fn found(&self) -> u32 {
        self.found
    }

    /// Changes it.
    ///
    /// # Errors
    /// [`Error::Os`] outside of the initial network namespace.
    pub fn set(&self, value: u32) -> Result<(), Error> {
        self.setting.write(value)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It says itself what went wrong.
        drop(self.keeper.wait());
    }
}

/// The keeper's whole life: waits for the end of its standard input, then writes the value.
///
/// # Errors
/// [`Error::Os`] when the value cannot be put back.
pub fn keep_setting(setting: Setting, value: u32) -> Result<(), Error> {
    io::stdin().read_to_end(&mut Vec::new()).map_err(Error::os("wait before", setting.path()))?;
    setting.write(value)
}
