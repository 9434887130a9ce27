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
