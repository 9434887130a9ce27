//! What a manifest gives a container, and a process that has that and no more.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use egressd_testbed::topology::CONTROL_ADDRESSES;
use egressd_testbed::{COLLECTOR_HTTP_PORT, Cluster, Daemon, EXPORTER_HTTP_PORT, GRPC_PORT, Process};

use crate::seconds;

/// The user of the exporter's pods.
const EXPORTER_USER: &str = "10001";

/// What the container `egressd` of a manifest may do.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    pub(super) user: u32,
    /// Without `CAP_`, in small letters.
    pub(super) capabilities: BTreeSet<String>,
    /// Paths of the node's that it sees without being able to write there.
    read_only: Vec<String>,
    /// The flags that decide what is read; all others point at a cluster that is not this one.
    pub(super) arguments: Vec<String>,
}

impl Rights {
    /// Of a manifest that grants nothing that is not looked at here.
    pub(super) fn of(manifest: &str) -> Self {
        let (_, container) = manifest.split_once("- name: egressd\n").unwrap();
        let (container, _) = container.split_once("\n      volumes:\n").unwrap();
        for line in ["allowPrivilegeEscalation: false", "readOnlyRootFilesystem: true", "drop: [ALL]"] {
            assert!(container.contains(line), "{line}");
        }
        assert!(!container.contains("privileged: true"));
        let value = |key: &str| container.split_once(key).unwrap().1.lines().next().unwrap().trim();
        let items = |key: &str| {
            let lines = container.split_once(key).unwrap().1.lines();
            lines.map_while(|line| line.trim().strip_prefix("- ")).collect::<Vec<_>>()
        };
        let mounts =
            container.split("mountPath: ").skip(1).map(|mount| mount.split("- name:").next().unwrap());
        let read_only = mounts.filter(|mount| mount.contains("readOnly: true"));
        let decisive = ["--ct-mode=", "--ebpf-dns-tracer-enabled="];
        let arguments = items("args:\n").into_iter().map(|argument| argument.trim_matches('"').to_owned());
        Self {
            user: value("runAsUser:").parse().unwrap(),
            capabilities: items("add:\n").into_iter().map(str::to_lowercase).collect(),
            read_only: read_only.map(|mount| mount.lines().next().unwrap().to_owned()).collect(),
            arguments: arguments
                .filter(|argument| decisive.iter().any(|flag| argument.starts_with(flag)))
                .collect(),
        }
    }

    /// These without one capability.
    pub(super) fn without(&self, capability: &str) -> Self {
        let mut rest = self.clone();
        assert!(rest.capabilities.remove(capability));
        rest
    }

    /// The mask of `/proc/PID/status`.
    pub(super) fn mask(&self) -> String {
        let bit = |name: &str| match name {
            "net_admin" => 12,
            "bpf" => 39,
            _ => panic!("{name} has no number here"),
        };
        format!("{:016x}", self.capabilities.iter().fold(0u64, |mask, name| mask | 1 << bit(name)))
    }

    /// A command that runs what follows with these rights. Of the file system it can write `writable`, and the BPF file
    /// system where the manifest lets it; `bpf` is what it finds at `/sys/fs/bpf`.
    pub(super) fn confine(&self, writable: &Path, bpf: Option<&Path>) -> Command {
        let bounds = self.capabilities.iter().map(|name| format!(",+{name}")).collect::<String>();
        let mut script = format!("set -e\nmount --bind {0} {0}\n", writable.display());
        if let Some(bpf) = bpf {
            script += &format!("mount --bind {} /sys/fs/bpf\n", bpf.display());
        }
        // Wherever below the manifest's path the machine has its file systems mounted.
        for path in self.read_only.iter().filter(|path| path.starts_with("/sys/")) {
            script += &format!(
                "for place in $(awk '$2 == \"{path}\" || index($2, \"{path}/\") == 1 {{ print $2 }}' \
                 /proc/self/mounts); do mount -o remount,ro,bind \"$place\"; done\n"
            );
        }
        script += &format!(
            "mount --bind -o ro /proc/sys /proc/sys\nmount -o remount,ro,bind /\n\
             exec setpriv --reuid {0} --regid {0} --clear-groups --no-new-privs \
             --bounding-set=-all{bounds} --inh-caps=-all{bounds} -- \"$@\"",
            self.user
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
        command
    }

    /// A collector that runs as in its container.
    pub(super) fn collector(
        &self,
        program: &Path,
        node: &str,
        state: &Path,
        bpf: Option<&Path>,
        more: &[&str],
    ) -> Command {
        let mut command = self.confine(state, bpf);
        command.arg(program).args(["run", "--node-name", node]).args(&self.arguments);
        command.args(["--read-interval", "1s", "--cpu-percent-max", "100"]);
        command.args(["--exporter-address", &format!("{}:{GRPC_PORT}", CONTROL_ADDRESSES.v4)]);
        command.args(["--http-listen-port", &COLLECTOR_HTTP_PORT.to_string()]);
        command.arg("--state-dir").arg(state).args(more);
        command
    }
}

/// The exporter as its container runs it, up to the file system.
pub(super) fn exporter(program: &Path, inventory: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", EXPORTER_USER, "--regid", EXPORTER_USER, "--clear-groups", "--no-new-privs"]);
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(program);
    command.args(["run", "--inventory"]).arg(inventory);
    command.args(["--grpc-listen-port", &GRPC_PORT.to_string()]);
    command.args(["--http-listen-port", &EXPORTER_HTTP_PORT.to_string()]);
    command
}

/// The kernel says that a daemon has these capabilities, and none to come.
pub(super) fn check_kernels_word(process: &Process, mask: &str) {
    let text = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    assert_eq!(["CapPrm", "CapEff", "CapBnd"].map(line), [mask, mask, mask]);
    let inheritable = line("CapInh");
    assert!(inheritable == mask || inheritable == "0".repeat(16), "{inheritable}");
    assert_eq!(["NoNewPrivs", "CapAmb"].map(line), ["1".to_owned(), "0".repeat(16)]);
}

pub(super) fn start<'c>(
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

/// A directory that other users may enter, which a cluster's own is not; gone when dropped.
pub(super) struct Public(PathBuf);

impl Public {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("egressd-{name}-{}", std::process::id()));
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        Self(path)
    }

    pub(super) fn directory(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        DirBuilder::new().mode(0o755).create(&path).unwrap();
        path
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
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

/// A directory of the machine's BPF file system, which stands for a node's; gone when dropped.
pub(super) struct BpfDir(pub(super) PathBuf);

impl BpfDir {
    pub(super) fn new(name: &str) -> Self {
        let path = Path::new("/sys/fs/bpf").join(format!("egressd-{name}-{}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }
}

impl Drop for BpfDir {
    fn drop(&mut self) {
        let _gone_by_now = fs::remove_dir_all(&self.0);
    }
}
