//! Who this exporter is in an election: its flags, and what the pod's environment says where they do not.
//!
//! Invariant: what makes a candidate is whole, or refused with all that is wrong.

use std::fmt;
use std::time::Duration;

use clap::{ArgAction, Args};
use egressd_delivery::dial::ExporterAddress;
use egressd_service::args::parse_go_bool;
use egressd_service::duration::parse_go_duration;

use super::election::Pace;
use crate::surroundings::{Surroundings, given, own_namespace};

/// The host's name, a pod's own.
const HOSTNAME_FILE: &str = "/proc/sys/kernel/hostname";
/// A sixth of it is what a request may take.
const DURATION_MIN: Duration = Duration::from_secs(3);
/// What a dead leader costs is no time to be silent for.
const DURATION_MAX: Duration = Duration::from_hours(1);

#[derive(Debug, Args)]
pub(crate) struct LeaseOptions {
    /// Write only while holding a Lease, so that a second exporter can stand by. The role needs `get`, `create` and
    /// `update` of `leases` (`coordination.k8s.io`) in the Lease's namespace.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = ArgAction::Set, value_parser = parse_go_bool)]
    leader_elect: bool,

    /// Name of the Lease, the same for all who stand by for each other.
    #[arg(long, default_value = "egressd-exporter")]
    lease_name: String,

    /// Namespace of the Lease; the pod's own, from its service account, when neither this nor the variable is set.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,

    /// How long a leader may be silent before another takes over: whole seconds, from 3s to 1h, the same for all. A
    /// leader that cannot renew stops after four fifths of it.
    #[arg(long, value_parser = parse_go_duration, default_value = "15s")]
    lease_duration: Duration,

    /// What the Lease calls this exporter; the host's name when neither this nor the variable is set.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,

    /// host:port where collectors reach this exporter while it leads; the variable `POD_IP` and `--grpc-listen-port` when
    /// it is not set.
    #[arg(long)]
    advertise_address: Option<String>,
}

/// An exporter that contends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Of the Lease.
    pub(crate) namespace: String,
    /// Of the Lease.
    pub(crate) name: String,
    pub(crate) pace: Pace,
    pod_name: String,
    address: String,
}

/// Other flags that were given, and with which there can be no election.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Beside {
    pub(crate) inventory: bool,
    pub(crate) spool_dir: bool,
}

/// Why there can be no election so. The operator must correct it.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("there is no Lease without a Kubernetes API: it does not go with --inventory")]
    Inventory,
    #[error(
        "it does not go with --spool-dir, since who takes over could not go on from this exporter's directory: run one exporter with --spool-dir, or several without"
    )]
    SpoolDir,
    #[error("the Lease has no namespace: set --lease-namespace or POD_NAMESPACE")]
    NoNamespace,
    #[error("collectors would not find this exporter: set --advertise-address or POD_IP")]
    NoAddress,
    #[error("--advertise-address {text:?} is not host:port")]
    Address { text: String },
    #[error("--lease-duration is {found:?}; write whole seconds from 3s to 1h")]
    Duration { found: Duration },
    #[error("this exporter has no name: set --pod-name or POD_NAME")]
    NoName,
}

/// All that is wrong.
#[derive(Debug)]
pub(crate) struct Refused(Vec<Problem>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problems: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "--leader-elect: {}", problems.join("; "))
    }
}

impl std::error::Error for Refused {}

impl LeaseOptions {
    /// The candidate that the flags make; `None` without an election.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub(crate) fn candidate(
        &self,
        beside: Beside,
        grpc_port: u16,
        around: &impl Surroundings,
    ) -> Result<Option<Candidate>, Refused> {
        if !self.leader_elect {
            return Ok(None);
        }
        let mut problems = Vec::new();
        let mut note = |is_wrong: bool, problem: Problem| {
            if is_wrong {
                problems.push(problem);
            }
        };
        let namespace = given(self.lease_namespace.clone()).or_else(|| own_namespace(around));
        let pod_name = given(self.pod_name.clone()).or_else(|| given(around.file(HOSTNAME_FILE)));
        let own = || given(around.variable("POD_IP")).map(|address| at_port(&address, grpc_port));
        let address = given(self.advertise_address.clone()).or_else(own);
        let duration = self.lease_duration;
        note(beside.inventory, Problem::Inventory);
        note(beside.spool_dir, Problem::SpoolDir);
        note(namespace.is_none(), Problem::NoNamespace);
        note(pod_name.is_none(), Problem::NoName);
        match &address {
            None => note(true, Problem::NoAddress),
            Some(text) => {
                // The identity is taken apart at its last underscore.
                let is_wrong = text.parse::<ExporterAddress>().is_err() || text.contains('_');
                note(is_wrong, Problem::Address { text: text.clone() });
            }
        }
        let is_odd = duration.subsec_nanos() > 0 || !(DURATION_MIN..=DURATION_MAX).contains(&duration);
        note(is_odd, Problem::Duration { found: duration });
        match (namespace, pod_name, address) {
            (Some(namespace), Some(pod_name), Some(address)) if problems.is_empty() => {
                let (name, pace) = (self.lease_name.clone(), Pace::of(duration));
                Ok(Some(Candidate { namespace, name, pace, pod_name, address }))
            }
            _ => Err(Refused(problems)),
        }
    }
}

impl Candidate {
    /// What this process writes as the Lease's holder; `random` tells it from those before it in the same pod.
    pub(crate) fn identity(&self, random: u64) -> String {
        format!("{}_{random:016x}_{}", self.pod_name, self.address)
    }
}

/// Where a holder takes streams; `None` for one that is no exporter of ours.
pub(crate) fn address_of(holder: &str) -> Option<String> {
    let (_, address) = holder.rsplit_once('_')?;
    address.parse::<ExporterAddress>().is_ok().then(|| address.to_owned())
}

fn at_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        lease: LeaseOptions,
    }

    struct Pod<'a> {
        address: Option<&'a str>,
        namespace: Option<&'a str>,
    }

    impl Surroundings for Pod<'_> {
        fn variable(&self, name: &str) -> Option<String> {
            assert_eq!(name, "POD_IP");
            self.address.map(str::to_owned)
        }

        fn file(&self, path: &str) -> Option<String> {
            let text = if path.ends_with("/namespace") { self.namespace } else { Some("host") };
            text.map(str::to_owned)
        }
    }

    fn candidate(flags: &str, beside: Beside, pod: &Pod<'_>) -> Result<Option<Candidate>, String> {
        let line = Line::try_parse_from(["x"].into_iter().chain(flags.split_whitespace())).unwrap();
        line.lease.candidate(beside, 6062, pod).map_err(|refused| refused.to_string())
    }

    const BARE: Pod<'_> = Pod { address: None, namespace: None };
    const IN_CLUSTER: Pod<'_> = Pod { address: Some("10.1.2.3"), namespace: Some("egressd\n") };

    /// Goal: a pod with its environment needs one flag; every part can be said otherwise.
    #[test]
    fn a_candidate_is_made_of_flags_and_surroundings() {
        let of = |namespace: &str, name: &str, seconds, pod_name: &str, address: &str| {
            let pace = Pace::of(Duration::from_secs(seconds));
            let [namespace, name, pod_name, address] =
                [namespace, name, pod_name, address].map(str::to_owned);
            Ok(Some(Candidate { namespace, name, pace, pod_name, address }))
        };
        let all = "--leader-elect --lease-namespace n --lease-name l --lease-duration 1m --pod-name p \
                   --advertise-address exporter-0.exporter:7062";
        for (flags, pod, expected) in [
            ("", &BARE, Ok(None)),
            ("--leader-elect=false --lease-duration 1ms", &BARE, Ok(None)),
            ("--leader-elect", &IN_CLUSTER, of("egressd", "egressd-exporter", 15, "host", "10.1.2.3:6062")),
            (
                "--leader-elect",
                &Pod { address: Some("fd00::7"), ..IN_CLUSTER },
                of("egressd", "egressd-exporter", 15, "host", "[fd00::7]:6062"),
            ),
            (all, &BARE, of("n", "l", 60, "p", "exporter-0.exporter:7062")),
        ] {
            assert_eq!(candidate(flags, Beside::default(), pod), expected, "{flags}");
        }
    }

    /// Goal: all that keeps an election from working is named at once.
    #[test]
    fn what_cannot_be_is_named_at_once() {
        for (flags, both, pod, words) in [
            (
                "--leader-elect --lease-duration 1500ms",
                true,
                &BARE,
                "--leader-elect: there is no Lease without a Kubernetes API: it does not go with --inventory; it \
                 does not go with --spool-dir, since who takes over could not go on from this exporter's directory: run one \
                 exporter with --spool-dir, or several without; the Lease has no namespace: set --lease-namespace or POD_NAMESPACE; collectors would not find this exporter: set \
                 --advertise-address or POD_IP; --lease-duration is 1.5s; write whole seconds from 3s to 1h",
            ),
            (
                "--leader-elect --advertise-address exporter --lease-duration 2h",
                false,
                &IN_CLUSTER,
                "--leader-elect: --advertise-address \"exporter\" is not host:port; --lease-duration is 7200s; write \
                 whole seconds from 3s to 1h",
            ),
            (
                "--leader-elect --advertise-address my_exporter:6062",
                false,
                &IN_CLUSTER,
                "--leader-elect: --advertise-address \"my_exporter:6062\" is not host:port",
            ),
        ] {
            let beside = Beside { inventory: both, spool_dir: both };
            assert_eq!(candidate(flags, beside, pod), Err(words.to_owned()), "{flags}");
        }
    }

    /// Goal: a holder tells where it takes streams, and one that is no exporter tells nothing.
    #[test]
    fn a_holder_tells_its_address() {
        let candidate =
            candidate("--leader-elect --pod-name my_pod", Beside::default(), &IN_CLUSTER).unwrap().unwrap();
        let identity = candidate.identity(0xab);
        assert_eq!(identity, "my_pod_00000000000000ab_10.1.2.3:6062");
        assert_eq!(address_of(&identity), Some("10.1.2.3:6062".to_owned()));
        assert_eq!(["", "pod_8d1f9c1e", "pod", "pod_:1"].map(address_of), [const { None }; 4]);
    }
}
