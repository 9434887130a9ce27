//! `cargo xtask setup`: a fresh Debian or Ubuntu becomes able to run the demo and the tests.
//!
//! A tool counts as present when its binary is found and has the parts it is needed for, whatever package it came
//! from; only packages of absent tools are installed, and a machine that lacks nothing is not touched.
//!
//! Debian's packages of Prometheus and VictoriaMetrics start a server on every interface and enable it at boot. The
//! tests need the binaries alone and start them themselves on loopback, so where this module installs such a package
//! it first masks its unit, and while apt runs it forbids services to start (`policy-rc.d`, Debian policy 9.3.3).
//! `systemctl unmask prometheus` gives that service back.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::process;

/// A binary, or a header that a C compiler finds, the Debian package that has it, and what it is for.
#[derive(Debug, PartialEq, Eq)]
struct Tool {
    binary: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const TOOLS: [Tool; 14] = [
    Tool { binary: "nft", package: "nftables", purpose: "address translation and the truth's counters" },
    Tool { binary: "conntrack", package: "conntrack", purpose: "a second reader of the kernel's table" },
    Tool { binary: "ip", package: "iproute2", purpose: "network namespaces, links and routes" },
    Tool { binary: PROMETHEUS, package: PROMETHEUS, purpose: "a real store to write to and to ask" },
    Tool { binary: VICTORIA_METRICS, package: VICTORIA_METRICS, purpose: "a second store, by other authors" },
    Tool {
        binary: "protoc",
        package: "protobuf-compiler",
        purpose: "a second decoder of what the sinks send",
    },
    Tool { binary: "gcc", package: "gcc", purpose: "the C parts of the TLS library" },
    Tool { binary: "g++", package: "g++", purpose: "libFuzzer, for `cargo xtask fuzz`" },
    Tool { binary: "clang", package: "clang", purpose: "the programs that the kernel runs" },
    Tool { binary: "libelf.h", package: "libelf-dev", purpose: "libbpf, which loads them" },
    Tool { binary: "zlib.h", package: "zlib1g-dev", purpose: "libbpf, which loads them" },
    Tool { binary: "make", package: "make", purpose: "the C parts of libraries" },
    Tool { binary: "pkg-config", package: "pkg-config", purpose: "the C parts of libraries" },
    Tool {
        binary: PYTHON,
        package: "python3-venv",
        purpose: "the environments of buf, which checks contracts, and of a generic gRPC client",
    },
];

const PYTHON: &str = "python3";

/// What a binary must be able to do beside being there: Debian's python3 alone makes no environment with an
/// installer in it.
const PROOFS: [(&str, &[&str]); 1] = [(PYTHON, &["-c", "import ensurepip, venv"])];

const HEADERS: &str = "/usr/include";

const PROMETHEUS: &str = "prometheus";
const VICTORIA_METRICS: &str = "victoria-metrics";

/// The packages that bring a service; its unit bears the package's name.
const SERVERS: [&str; 2] = [PROMETHEUS, VICTORIA_METRICS];

/// Makes this machine ready.
///
/// # Errors
///
/// When not root, when something is missing and there is no apt to install it, or when apt fails. The message
/// names the packages to install by hand.
pub(crate) fn run() -> Result<()> {
    let missing = missing(is_ready);
    match decide(&missing, is_root()?, is_installed("apt-get"))? {
        Plan::Nothing => Ok(()),
        Plan::Install(packages) => install(&packages, Path::new("/")),
    }
}

/// What is to be done about the missing tools.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Install(Vec<&'static str>),
}

fn decide(missing: &[&Tool], root: bool, apt: bool) -> Result<Plan> {
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if !root && missing.is_empty() {
        bail!("not root: the testbed makes network namespaces; run this as root");
    }
    if !root {
        let packages = packages.join(" ");
        bail!(
            "not root, and tools are missing; run this as root, or first: apt-get install {packages}\n{}",
            list(missing)
        );
    }
    if missing.is_empty() {
        return Ok(Plan::Nothing);
    }
    if !apt {
        bail!("tools are missing, and there is no apt-get here; install them by hand:\n{}", list(missing));
    }
    Ok(Plan::Install(packages))
}

fn list(missing: &[&Tool]) -> String {
    let line =
        |tool: &&Tool| format!("  {} (Debian package {}): {}", tool.binary, tool.package, tool.purpose);
    missing.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn missing(is_ready: impl Fn(&str) -> bool) -> Vec<&'static Tool> {
    TOOLS.iter().filter(|tool| !is_ready(tool.binary)).collect()
}

fn is_ready(binary: &str) -> bool {
    let mut proofs = PROOFS.iter().filter(|(of, _)| *of == binary);
    is_installed(binary) && proofs.all(|(_, arguments)| ends_well(binary, arguments))
}

fn ends_well(binary: &str, arguments: &[&str]) -> bool {
    let mut command = process::clean(binary);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn is_installed(binary: &str) -> bool {
    if binary.ends_with(".h") {
        return Path::new(HEADERS).join(binary).is_file();
    }
    process::search_path().iter().any(|directory| is_executable(&directory.join(binary)))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn is_root() -> Result<bool> {
    // The owner of /proc/self is the effective user: proc(5).
    Ok(fs::metadata("/proc/self").context("look at /proc/self")?.uid() == 0)
}

fn install(packages: &[&str], root: &Path) -> Result<()> {
    eprintln!("installing {}", packages.join(" "));
    for server in SERVERS.iter().filter(|server| packages.contains(server)) {
        mask(server, root)?;
    }
    let quiet = QuietServices::begin(root)?;
    apt(&["update"])?;
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt(&arguments)?;
    drop(quiet);
    match missing(is_ready).as_slice() {
        [] => Ok(()),
        still => bail!("installed, and yet not found:\n{}", list(still)),
    }
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = process::clean("apt-get");
    // A fresh machine often runs its own upgrade when it boots: wait for it.
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("NEEDRESTART_SUSPEND", "1").stdin(Stdio::null());
    process::run(process::chatter(&mut command))
}

/// Keeps systemd from ever starting the packaged server, unless the administrator has a unit of that name.
fn mask(service: &str, root: &Path) -> Result<()> {
    let units = root.join("etc/systemd/system");
    let unit = units.join(format!("{service}.service"));
    fs::create_dir_all(&units).with_context(|| format!("create {}", units.display()))?;
    match symlink("/dev/null", &unit) {
        Ok(()) => {
            eprintln!("masked {service}.service; `systemctl unmask {service}` gives it back");
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("mask {}", unit.display())),
    }
}

/// While this lives, packages do not start services. A policy that was there before stands, and stays.
struct QuietServices {
    policy: Option<std::path::PathBuf>,
}

/// 101 means "action forbidden by policy" to invoke-rc.d(8) and deb-systemd-invoke(1p).
const POLICY: &str = "#!/bin/sh\n# Written by egressd's set-up while it installs packages.\nexit 101\n";

impl QuietServices {
    fn begin(root: &Path) -> Result<Self> {
        let path = root.join("usr/sbin/policy-rc.d");
        let mut options = OpenOptions::new();
        match options.write(true).create_new(true).mode(0o755).open(&path) {
            Ok(mut file) => {
                let policy = Self { policy: Some(path.clone()) };
                file.write_all(POLICY.as_bytes()).with_context(|| format!("write {}", path.display()))?;
                Ok(policy)
            }
            // Ours when an earlier set-up was killed: it goes with this one.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let ours = fs::read(&path).is_ok_and(|text| text == POLICY.as_bytes());
                Ok(Self { policy: ours.then_some(path) })
            }
            Err(error) => Err(error).with_context(|| format!("create {}", path.display())),
        }
    }
}

impl Drop for QuietServices {
    fn drop(&mut self) {
        let Some(path) = &self.policy else { return };
        if let Err(error) = fs::remove_file(path) {
            eprintln!("warning: {} keeps services from starting; remove it: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests;
