//! The switches, in a directory that stands for /proc.

use std::fs;
use std::path::Path;

use super::{State, SysctlError, init_in, state_in};

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

/// What an error says, with the directory's random name left out.
fn said(result: Result<State, SysctlError>, directory: &Path) -> String {
    result.unwrap_err().to_string().replace(&directory.display().to_string(), "/dir")
}

const DEFAULTS: [(&str, &str); 3] =
    [("nf_conntrack_acct", "0\n"), ("nf_conntrack_timestamp", "0\n"), ("nf_conntrack_events", "2\n")];

/// Goal: init turns the kernel's defaults into what measuring needs, and says what stands then.
#[test]
fn init_switches_all_three_on() {
    let directory = directory(&DEFAULTS);
    let before = state_in(directory.path()).unwrap();
    assert_eq!(before, State { acct: 0, timestamp: 0, events: 2 });
    assert_eq!(
        before.wanting().collect::<Vec<_>>(),
        [("nf_conntrack_acct", 0), ("nf_conntrack_timestamp", 0), ("nf_conntrack_events", 2)]
    );
    let after = init_in(directory.path()).unwrap();
    assert_eq!(after, State { acct: 1, timestamp: 1, events: 1 });
    assert_eq!(after.wanting().count(), 0);
}

/// Goal: each error names the file, and the remedy where there is one.
#[test]
fn errors_name_the_file() {
    let missing = directory(&DEFAULTS[..2]);
    assert_eq!(
        said(state_in(missing.path()), missing.path()),
        "/dir/nf_conntrack_events does not exist: load the kernel module nf_conntrack"
    );
    let odd = directory(&[("nf_conntrack_acct", "yes\n")]);
    assert_eq!(said(init_in(odd.path()), odd.path()), "/dir/nf_conntrack_acct holds \"yes\", not a number");
    let fixed = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/proc/sys/kernel/random/poolsize", fixed.path().join("nf_conntrack_acct"))
        .unwrap();
    assert_eq!(
        said(init_in(fixed.path()), fixed.path()),
        "cannot write 1 to /dir/nf_conntrack_acct: run init in a privileged container on the host network, or set \
         net.netfilter.nf_conntrack_acct = 1 on the node"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("nf_conntrack_acct")).unwrap();
    assert_eq!(said(state_in(folder.path()), folder.path()), "cannot read /dir/nf_conntrack_acct");
}
