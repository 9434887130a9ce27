//! Set-up on machines that are not this one: what is decided, and what is left behind.

use std::path::PathBuf;
use std::{env, process};

use super::*;

/// Goal: only what is missing is installed, and each machine that cannot install is told what to do.
#[test]
fn a_machine_is_told_or_given_exactly_what_it_lacks() {
    let lacks = |absent: &'static [&str]| missing(move |binary| !absent.contains(&binary));
    let install = |packages: &[&'static str]| Ok(Plan::Install(packages.to_vec()));
    let conntrack = "  conntrack (Debian package conntrack): a second reader of the kernel's table";
    for (absent, root, apt, expected) in [
        (&[][..], true, true, Ok(Plan::Nothing)),
        (&[], true, false, Ok(Plan::Nothing)),
        (&["nft", "protoc"], true, true, install(&["nftables", "protobuf-compiler"])),
        (
            &[],
            false,
            true,
            Err("not root: the testbed makes network namespaces; run this as root".to_owned()),
        ),
        (
            &["conntrack"],
            false,
            true,
            Err(format!(
                "not root, and tools are missing; run this as root, or first: apt-get install conntrack\n{conntrack}"
            )),
        ),
        (
            &["conntrack"],
            true,
            false,
            Err(format!(
                "tools are missing, and there is no apt-get here; install them by hand:\n{conntrack}"
            )),
        ),
    ] {
        let plan = decide(&lacks(absent), root, apt).map_err(|error| error.to_string());
        assert_eq!(plan, expected, "absent {absent:?}, root {root}, apt {apt}");
    }
}

/// Goal: a tool is present by its executable file, not by the name of something else.
#[test]
fn only_an_executable_file_is_a_tool() {
    assert!(is_executable(Path::new("/bin/sh")));
    assert!(!is_executable(Path::new("/etc/passwd")));
    assert!(!is_executable(Path::new("/usr/bin")));
    assert!(!is_installed("no-tool-has-this-name"));
    assert!(is_installed("stdio.h"));
    assert!(!is_installed("no-header-has-this-name.h"));
}

/// Goal: a tool that is there without what is needed of it is told from one that has it.
#[test]
fn a_tool_is_asked_for_its_parts() {
    assert!(ends_well("sh", &["-c", "exit 0"]));
    assert!(!ends_well("sh", &["-c", "exit 1"]));
    assert!(is_ready("sh"));
    assert!(!is_ready("no-tool-has-this-name"));
}

/// Goal: services may start again once the installation is over, also when it was killed before.
#[test]
fn the_policy_lives_as_long_as_the_installation() {
    let machine = Machine::new("policy");
    let policy = machine.0.join("usr/sbin/policy-rc.d");

    let quiet = QuietServices::begin(&machine.0).unwrap();
    assert_eq!(fs::read_to_string(&policy).unwrap(), POLICY);
    assert!(is_executable(&policy));
    std::mem::forget(quiet);
    drop(QuietServices::begin(&machine.0).unwrap());
    assert!(!policy.exists());
}

/// Goal: an administrator's policy outlives the installation unchanged.
#[test]
fn an_earlier_policy_stays() {
    let machine = Machine::new("earlier");
    let policy = machine.0.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 104\n").unwrap();
    drop(QuietServices::begin(&machine.0).unwrap());
    assert_eq!(fs::read_to_string(&policy).unwrap(), "#!/bin/sh\nexit 104\n");
}

/// Goal: a packaged server is masked, and a unit that an administrator wrote is not replaced.
#[test]
fn servers_are_masked_unless_someone_has_a_unit_of_that_name() {
    let machine = Machine::new("mask");
    for server in SERVERS {
        let unit = machine.0.join("etc/systemd/system").join(format!("{server}.service"));
        mask(server, &machine.0).unwrap();
        mask(server, &machine.0).unwrap();
        assert_eq!(fs::read_link(&unit).unwrap(), Path::new("/dev/null"));

        fs::remove_file(&unit).unwrap();
        fs::write(&unit, "[Unit]\n").unwrap();
        mask(server, &machine.0).unwrap();
        assert_eq!(fs::read_to_string(&unit).unwrap(), "[Unit]\n");
    }
}

/// An empty root folder for one test, removed at its end.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let root = env::temp_dir().join(format!("xtask-setup-{name}-{}", process::id()));
        fs::create_dir_all(root.join("usr/sbin")).unwrap();
        Self(root)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ignored = fs::remove_dir_all(&self.0);
    }
}
