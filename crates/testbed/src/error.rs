//! What can go wrong while a cluster is built, used or read.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::topology::Pair;
use crate::truth::TruthError;

/// A failure of the testbed. None is retried here but by [`wait_for`](crate::wait_for), up to its deadline.
#[derive(thiserror::Error)]
pub enum Error {
    /// Namespaces, mounts and nft need root. Run again as root.
    #[error("the testbed needs root for namespaces, mounts and nft: effective user is {uid}")]
    NotRoot {
        /// The effective user id found.
        uid: u32,
    },
    /// The operating system refused; usually a missing kernel feature or program.
    #[error("cannot {action} {subject}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// On what.
        subject: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A helper program (`ip`, `nft`, a daemon's `init`) ended with an error.
    #[error("{program} in {place} ended with {status}: {stderr}")]
    Command {
        /// The program.
        program: String,
        /// The namespace it ran in.
        place: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said, in full.
        stderr: String,
    },
    /// The caller named no part of the cluster.
    #[error("no such node, pod or namespace: {0}")]
    UnknownPlace(String),
    /// The caller gives a pod the address of another that is still there.
    #[error("{} and {} are those of {by}", addresses.v4, addresses.v6)]
    Taken {
        /// What was to be given.
        addresses: Pair,
        /// Who has it, as `namespace/name`.
        by: String,
    },
    /// A program of the testbed or a daemon is neither given nor beside the running executable.
    #[error("no {name} at {}: cargo build --workspace --bins builds it", searched.display())]
    MissingProgram {
        /// Its file name.
        name: String,
        /// Where it was looked for last.
        searched: PathBuf,
    },
    /// Something awaited did not come within its bound.
    #[error("{awaited} did not come within {} s: {last}", within.as_secs_f32())]
    Timeout {
        /// What was awaited.
        awaited: String,
        /// The bound.
        within: Duration,
        /// What was seen last.
        last: String,
    },
    /// A process ended on its own.
    #[error("{name} ended with {status}; its log ends with:\n{log}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// A peer's answer was not understood.
    #[error("not understood in {what}: {found}")]
    Malformed {
        /// The kind of answer.
        what: &'static str,
        /// The part that was not understood.
        found: String,
    },
    /// The Kubernetes API server has no such object.
    #[error("no {namespace}/{name} among the {resource} of the API server")]
    NoObject {
        /// The resource, as in paths.
        resource: &'static str,
        /// The namespace; empty where there is none.
        namespace: String,
        /// The name.
        name: String,
    },
    /// An HTTP request was answered with another status than 200.
    #[error("{path} answered {status}: {body}")]
    Status {
        /// The requested path.
        path: String,
        /// The status.
        status: u16,
        /// The body, as text.
        body: String,
    },
    /// The nft counters contradict the cluster's plan.
    #[error("counters of {node} are no truth")]
    Truth {
        /// The node whose counters were read.
        node: String,
        /// Why.
        source: TruthError,
    },
    /// A traffic program could not do its work; its payload is not what the plan says.
    #[error("traffic of {sender} failed {failures} times, first: {first}")]
    Traffic {
        /// The sender's process.
        sender: String,
        /// Failed conversations.
        failures: u64,
        /// The first failure.
        first: String,
    },
}

/// As [`chain`](Error::chain): tests unwrap, and whoever reads their end wants words and line breaks.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain())
    }
}

impl Error {
    /// For `map_err`: names the action and its subject.
    pub(crate) fn os(action: &'static str, subject: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let subject = subject.to_owned();
        move |source| Self::Os { action, subject, source }
    }

    /// This error and its sources on one line, for whoever reports it.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
