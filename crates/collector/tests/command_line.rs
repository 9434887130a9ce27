//! The binary as a user starts it: what it says before anything is opened.

use std::process::Command;

/// Goal: a command line that cannot be is a usage error that names the flag, and help is not an error.
#[test]
fn a_wrong_command_line_is_a_usage_error() {
    for (arguments, code, words) in [
        (&["run"][..], 64, "--node-name"),
        (&["-read-interval=5", "--node-name=a"], 64, "has no unit"),
        (&["-no-such-flag", "--node-name=a"], 64, "--no-such-flag"),
        (&["dump", "--format", "xml"], 64, "json"),
        (&["--help"], 0, "egressd-collector"),
        (&["--version"], 0, "egressd-collector"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_egressd-collector"))
            .args(arguments)
            .env_remove("NODE_NAME")
            .output()
            .expect("it starts");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}

/// Goal: an exporter's address that is none is told before anything is measured.
#[test]
fn an_address_that_is_none_is_refused() {
    let output = Command::new(env!("CARGO_BIN_EXE_egressd-collector"))
        .args([
            "run",
            "--node-name=a",
            "--http-listen-port=0",
            "--exporter-address=not an address",
            "--grace=1s",
        ])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(said.contains("not host:port"), "{said}");
}

/// `check` in a network namespace of its own, after `wrapper`: its exit code and what it said.
fn check(wrapper: &[&str]) -> (Option<i32>, String) {
    collector(wrapper, &["check"])
}

/// The collector with `arguments`, in a network namespace of its own and after `wrapper`.
fn collector(wrapper: &[&str], arguments: &[&str]) -> (Option<i32>, String) {
    let arguments: Vec<&str> = ["--net"]
        .iter()
        .chain(wrapper)
        .copied()
        .chain([env!("CARGO_BIN_EXE_egressd-collector")])
        .chain(arguments.iter().copied())
        .collect();
    let output = Command::new("unshare").args(arguments).output().expect("unshare starts");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Goal: where nothing is counted, `check` says why and what to do; after `init` and with a connection it is content.
/// Needs root.
#[test]
fn check_says_why_nothing_is_counted() {
    let (code, said) = check(&[]);
    assert_eq!(code, Some(1), "{said}");
    for finding in
        ["acct_off: ", "timestamp_off: ", "events_off: ", "empty_table: ", "egressd-collector init"]
    {
        assert!(said.contains(finding), "{finding}: {said}");
    }
    let collector = env!("CARGO_BIN_EXE_egressd-collector");
    let prepare = format!(
        "ip link set lo up && nft add table ip t && nft 'add chain ip t c {{ type filter hook output priority 0; }}' \
         && nft add rule ip t c ct state new counter && {collector} init && echo hello | timeout 1 bash -c \
         'cat > /dev/udp/127.0.0.1/9'; exec \"$0\" \"$@\""
    );
    let (code, said) = check(&["sh", "-c", &prepare]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ok: "), "{said}");
}

/// Goal: an exporter that is named and cannot be reached is told by `check`, with files that are of no use before it; one
/// that nothing speaks of is not dialled. Needs root.
#[test]
fn check_says_what_keeps_a_stream_from_being_opened() {
    let directory = tempfile::tempdir().expect("a directory");
    let authority = directory.path().join("ca.crt");
    let path = authority.to_str().expect("text");
    let (_, said) = collector(&[], &["check", "--tls-ca-file", path]);
    assert!(said.contains("stream: no stream to the exporter can be opened: cannot read"), "{said}");
    let pem = egressd_testbed::Authority::generate("ours").expect("an authority").pem();
    std::fs::write(&authority, pem).expect("a file");
    let arguments = ["check", "--tls-ca-file", path, "--exporter-address", "127.0.0.1:6062"];
    let (code, said) = collector(&["sh", "-c", "ip link set lo up; exec \"$0\" \"$@\""], &arguments);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("127.0.0.1:6062: cannot reach the exporter: ") && said.contains("refused"),
        "{said}"
    );
    let (_, said) = check(&[]);
    assert!(!said.contains("cannot reach the exporter"), "{said}");
}

/// Goal: a connection in two conntrack zones is told by `check`, and neither told nor shown twice where one of them is
/// listed; a list in which nothing stands is told as that. Needs root.
#[test]
fn a_connection_in_two_ct_zones_is_told_until_one_is_listed() {
    let entry = "conntrack -I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 -t 600";
    let prepare = format!(
        "{} init && {entry} -w 5 && {entry} -w 9 && exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_egressd-collector")
    );
    let after = |arguments: &[&str]| collector(&["sh", "-c", &prepare], arguments);
    let two = "two_ct_zones: 1 connections stand in more than one conntrack zone";
    for (ct_zones, code, words) in
        [("all", 1, two), ("5,9", 1, two), ("9", 0, "ok: "), ("7", 1, "other_ct_zones: ")]
    {
        let (found, said) = after(&["check", "--ct-zones", ct_zones]);
        assert_eq!(found, Some(code), "{ct_zones}: {said}");
        assert!(said.contains(words), "{ct_zones}: {said}");
    }
    let (code, said) = after(&["dump", "--ct-zones", "9", "--format", "json"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\"ct_zone\":9") && !said.contains("\"ct_zone\":5"), "{said}");
}

/// Goal: without the capability, `check` and `dump` name it. Needs root.
#[test]
fn a_missing_capability_is_named() {
    let (code, said) = check(&["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("unreadable: ") && said.contains("deaf: ") && said.contains("CAP_NET_ADMIN"),
        "{said}"
    );
}
