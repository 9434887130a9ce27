//! Both daemons with the rights that the chart gives them and no others, against the same truth.
//!
//! The collector gets what the manifest for netfilter says: root without privileges, the capabilities that are listed
//! there, a root file system and sysctls that cannot be written, no new privileges. The exporter is another user and has
//! no capability. What no test outside of a container runtime can apply is the seccomp profile.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use egressd_testbed::topology::{CONTROL, CONTROL_ADDRESSES, NODES};
use egressd_testbed::{
    COLLECTOR_HTTP_PORT, Cluster, Comparison, Daemon, EXPORTER_HTTP_PORT, GRPC_PORT, Load, Programs,
    init_nodes, standard_plans, wait_for,
};

use crate::seconds;

const MANIFEST: &str = include_str!("../../../../deploy/manifests/hardened.yaml");
/// The user of the exporter's pods.
const USER: &str = "10001";

/// A directory that other users may enter, which a cluster's own is not; gone when dropped.
struct Public(PathBuf);

impl Public {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("egressd-{name}-{}", std::process::id()));
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        Self(path)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        path
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        let _gone_by_now = fs::remove_dir_all(&self.0);
    }
}

/// The capabilities that the chart adds for the container `egressd`.
fn capabilities() -> BTreeSet<String> {
    let container = MANIFEST.split_once("- name: egressd\n").unwrap().1;
    let (_, added) = container.split_once("add:\n").unwrap();
    let names = added.lines().map_while(|line| line.trim().strip_prefix("- "));
    names.map(str::to_lowercase).collect()
}

/// The collector as its container runs it, with these capabilities; of the file system only `state` can be written.
fn confined_collector(program: &Path, node: &str, state: &Path, capabilities: &BTreeSet<String>) -> Command {
    let bounds = capabilities.iter().map(|name| format!(",+{name}")).collect::<String>();
    let script = format!(
        "mount --bind {state} {state} && mount --bind -o ro /proc/sys /proc/sys && mount -o remount,ro,bind / && \
         exec setpriv --no-new-privs --bounding-set=-all{bounds} --inh-caps=-all{bounds} -- \"$@\"",
        state = state.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).arg(program);
    command.args(["run", "--node-name", node, "--ct-mode", "netfilter"]);
    command.args(["--read-interval", "1s", "--cpu-percent-max", "100"]);
    command.args(["--exporter-address", &format!("{}:{GRPC_PORT}", CONTROL_ADDRESSES.v4)]);
    command.args(["--http-listen-port", &COLLECTOR_HTTP_PORT.to_string()]).arg("--state-dir").arg(state);
    command
}

/// The exporter as its container runs it, up to the file system.
fn confined_exporter(program: &Path, inventory: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"]);
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(program);
    command.args(["run", "--inventory"]).arg(inventory);
    command.args(["--grpc-listen-port", &GRPC_PORT.to_string()]);
    command.args(["--http-listen-port", &EXPORTER_HTTP_PORT.to_string()]);
    command
}

/// A line of what the kernel says of a process.
fn status(process: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

fn start<'c>(
    cluster: &'c Cluster,
    place: &'static str,
    name: &str,
    command: Command,
    port: u16,
) -> Daemon<'c> {
    let mut daemon =
        Daemon::start(cluster.namespace(place).unwrap(), &cluster.directory(), name, command, port).unwrap();
    daemon.wait_ready(seconds(30)).unwrap();
    daemon
}

/// Goal: with the chart's rights and no others, both daemons measure every byte; the kernel says that they have no more.
#[test]
fn the_charts_rights_are_enough() {
    /// CAP_NET_ADMIN is number 12.
    const NET_ADMIN: &str = "0000000000001000";
    let (cluster, programs, public) =
        (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap(), Public::new("enough"));
    let capabilities = capabilities();
    assert_eq!(capabilities, BTreeSet::from(["net_admin".to_owned()]));
    init_nodes(&cluster, &programs.collector).unwrap();
    let inventory = public.write("inventory.yaml", &cluster.inventory());
    let command = confined_exporter(&programs.exporter, &inventory);
    let mut exporter = start(&cluster, CONTROL, "exporter", command, EXPORTER_HTTP_PORT);
    let collect = |node: &'static str| {
        let state = public.directory(node);
        let command = confined_collector(&programs.collector, node, &state, &capabilities);
        start(&cluster, node, &format!("collector-{node}"), command, COLLECTOR_HTTP_PORT)
    };
    let mut collectors: Vec<_> = NODES.iter().map(|node| collect(node.name)).collect();

    for (daemon, may) in
        collectors.iter_mut().zip([NET_ADMIN; 2]).chain([(&mut exporter, "0000000000000000")])
    {
        let process = daemon.process().id();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
            let has = status(process, set);
            let is_held = set == "CapEff" || set == "CapPrm" || set == "CapBnd";
            assert!(has == may || (!is_held && has == "0000000000000000"), "{set} {has}, not {may}");
        }
        assert_eq!((status(process, "NoNewPrivs"), status(process, "CapAmb")), ("1".into(), "0".repeat(16)));
    }

    let mut load = Load::start(&cluster, &programs.testbed, &standard_plans(None)).unwrap();
    thread::sleep(seconds(8));
    load.check_running().unwrap();
    load.finish().unwrap();
    let mut compared = None;
    wait_for("equality of truth and the exporter's page", seconds(60), || {
        let truth = cluster.truth()?;
        let comparison = Comparison::of(&truth, &exporter.flows()?);
        // The page tells bytes alone.
        let apart = comparison.difference_bytes();
        compared = Some((truth.total(), apart));
        Ok(if apart == 0 { Ok(()) } else { Err(format!("{comparison:?}")) })
    })
    .unwrap();
    println!("least privilege: {capabilities:?}, truth and difference: {compared:?}");
    for daemon in collectors.iter_mut().chain([&mut exporter]) {
        daemon.end().unwrap();
    }
}

/// Goal: what the chart gives is needed. Without its one capability the collector never becomes ready.
#[test]
fn the_charts_rights_are_needed() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let public = Public::new("needed");
    init_nodes(&cluster, &programs.collector).unwrap();
    let node = NODES[0].name;
    let state = public.directory("state");
    let command = confined_collector(&programs.collector, node, &state, &BTreeSet::new());
    let mut collector = Daemon::start(
        cluster.namespace(node).unwrap(),
        &cluster.directory(),
        "powerless",
        command,
        COLLECTOR_HTTP_PORT,
    )
    .unwrap();
    assert!(collector.wait_ready(seconds(5)).is_err());
    let log = collector.process().log_text().unwrap();
    assert!(log.contains("Operation not permitted") || log.contains("CAP_NET_ADMIN"), "{log}");
}
