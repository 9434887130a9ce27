//! Both daemons with the rights that the chart gives them and no others, in each mode, against the same truth.
//!
//! The collector gets what the manifest for its mode says: its user, the capabilities that are listed there, no new
//! privileges, a root file system and sysctls that cannot be written, and each host path as it is mounted, read-only or
//! not. The exporter is another user and has no capability. What no test outside of a container runtime can apply is the
//! seccomp profile.

mod cilium;
mod confined;
mod ebpf;
mod needed;
mod netfilter;

use std::collections::BTreeSet;

use confined::Rights;

/// The manifests as the chart renders them, by what the collector reads.
const NETFILTER: &str = include_str!("../../../../../deploy/manifests/hardened.yaml");
const CILIUM: &str = include_str!("../../../../../deploy/manifests/cilium.yaml");
/// With the DNS tracer.
const EBPF: &str = include_str!("../../../../../deploy/manifests/ebpf.yaml");
/// The mode is not named.
const DETECTED: &str = include_str!("../../../../../deploy/manifests/prometheus.yaml");

/// Goal: what the chart gives is what security.md says, and nothing is privileged.
#[test]
fn the_chart_gives_the_least() {
    for (manifest, mode, capabilities) in [
        (NETFILTER, "netfilter", &["net_admin"][..]),
        (CILIUM, "cilium", &["bpf"]),
        (EBPF, "ebpf", &["bpf", "net_admin"]),
        (DETECTED, "", &["bpf", "net_admin"]),
    ] {
        let rights = Rights::of(manifest);
        let named = rights.arguments.iter().find_map(|argument| argument.strip_prefix("--ct-mode="));
        assert_eq!(named.unwrap_or_default(), mode);
        assert_eq!(
            rights.capabilities,
            BTreeSet::from_iter(capabilities.iter().map(|&name| name.to_owned()))
        );
        assert_eq!(rights.user, 0);
    }
}
