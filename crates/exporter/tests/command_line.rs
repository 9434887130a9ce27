//! The binary as a user starts it: what it says before it starts, how it answers, how it stops.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use std::{fs, thread};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

const POLL: Duration = Duration::from_millis(10);
const POLLS_MAX: usize = 2_000;
const INVENTORY: &str = "nodes: [{ name: node-a, addresses: [172.18.0.2] }]\npods: []\n";

fn exporter(directory: &tempfile::TempDir, verb: &str, config: &str, inventory: &str) -> Command {
    let (config_path, inventory_path) = (directory.path().join("config"), directory.path().join("inventory"));
    fs::write(&config_path, config).unwrap();
    fs::write(&inventory_path, inventory).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_egressd-exporter"));
    command.arg(verb).arg("--config-path").arg(config_path).arg("--inventory").arg(inventory_path);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[track_caller]
fn until_ready(port: u16, child: &mut Child) {
    until(port, child, "/readyz", |answer| answer.starts_with("HTTP/1.1 200"));
}

#[track_caller]
fn until(port: u16, child: &mut Child, path: &str, holds: impl Fn(&str) -> bool) {
    for _ in 0..POLLS_MAX {
        if get(port, path).is_some_and(|answer| holds(&answer)) {
            return;
        }
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        thread::sleep(POLL);
    }
    panic!("{path} is not as expected after {POLLS_MAX} polls: {:?}", get(port, path));
}

fn signal(child: &Child, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// Goal: `check` accepts what can be used, and names everything that cannot, with the exit code of a usage error.
#[test]
fn check_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let good = exporter(&directory, "check", "sinks: {}", INVENTORY).output().unwrap();
    assert!(good.status.success(), "{}", said(&good));
    for (config, inventory, words) in [
        ("sinks: { a: {} }", INVENTORY, "sink \"a\": has no kind, write http or prom_remote_write"),
        ("exportInterval: 15", INVENTORY, "exportInterval: \"15\" has no unit; write for example \"15s\""),
        (
            "sinks: { a: { http: { url: 'http://x', compression: lz4 } } }",
            INVENTORY,
            "sink \"a\": compression",
        ),
        ("exportInterval: 0s", INVENTORY, "exportInterval is zero"),
        ("exportInterval: [15s]", INVENTORY, "line 1, column 17: a single text belongs here"),
        ("sinks: { a: { http: 5 } }", INVENTORY, "line 1, column 21: keys with values belong here"),
        ("sinks: {", INVENTORY, "line 1, column 8: unclosed bracket '{'"),
        (
            "exportIntervall: 15s",
            INVENTORY,
            "line 1: exportIntervall is not known, did you mean exportInterval",
        ),
        (
            "exportIntervall: 15s\nexportInterval: 15",
            INVENTORY,
            "or \"2m30s\"; line 1: exportIntervall is not known, did you mean exportInterval",
        ),
        (
            "sinks: { a: { prom_remote_write: { url: 'https://x', bearerTokenFile: /nowhere, tls: { caFile: /no } } }, \
             b: { http: { url: 'https://x', tls: { caFile: /no } } } }",
            INVENTORY,
            "sink \"a\": cannot read /no, of tls.caFile: No such file or directory (os error 2); sink \"b\": cannot \
             read /no, of tls.caFile: No such file or directory (os error 2)",
        ),
        (
            "sinks: { a: { http: { url: 'http://x', basicAuth: { username: a, password: hunter2 }, headers: \
             { Authorization: hunter2 } } } }",
            INVENTORY,
            "sink \"a\": basicAuth and the header Authorization exclude each other: keep one",
        ),
        ("", "nodes: [{}]", "the inventory is not understood: line 1, column 9: name is missing"),
    ] {
        let bad = exporter(&directory, "check", config, inventory).output().unwrap();
        assert_eq!(bad.status.code(), Some(64), "{config}: {}", said(&bad));
        assert!(said(&bad).contains(words), "{config}: {}", said(&bad));
    }
}

/// Goal: `check` reads the kubeconfig too, and asks nobody.
#[test]
fn check_says_what_is_wrong_with_a_kubeconfig() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let good = "{ clusters: [{ name: c, cluster: { server: 'http://127.0.0.1:1' } }], users: [{ name: u, user: {} }], \
                contexts: [{ name: x, context: { cluster: c, user: u } }], current-context: x }";
    for (kubeconfig, code) in [(None, 64), (Some("clusters: 5"), 64), (Some(INVENTORY), 64), (Some(good), 0)]
    {
        if let Some(text) = kubeconfig {
            fs::write(&path, text).unwrap();
        }
        let mut check = Command::new(env!("CARGO_BIN_EXE_egressd-exporter"));
        let output = check.args(["check", "--kubeconfig"]).arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{kubeconfig:?}: {}", said(&output));
    }
}

/// Goal: a spool directory that cannot be used is refused before anything starts, by `check` and by `run` alike, and a
/// bound that makes no sense by the command line.
#[test]
fn a_spool_that_cannot_be_used_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let [foreign, file, new] = ["foreign", "file", "new"].map(|name| directory.path().join(name));
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("segment-00000000000000000000"), "").unwrap();
    fs::write(&file, "").unwrap();
    let flag = |flag: &str, value: &Path| [flag.to_owned(), value.to_str().unwrap().to_owned()];
    for (arguments, words) in [
        (flag("--spool-dir", &foreign), "is not of this spool: give the spool a directory of its own"),
        (flag("--spool-dir", &file), "cannot be used"),
        (flag("--spool-bytes-max", Path::new("1048575")), "1048575 is not in 1048576.."),
        (flag("--spool-age-max", Path::new("0s")), "nothing could be kept for no time"),
    ] {
        for verb in ["check", "run"] {
            let output =
                exporter(&directory, verb, "sinks: {}", INVENTORY).args(&arguments).output().unwrap();
            assert_eq!(output.status.code(), Some(64), "{verb} {arguments:?}: {}", said(&output));
            assert!(said(&output).contains(words), "{verb} {arguments:?}: {}", said(&output));
        }
    }
    let mut good = exporter(&directory, "check", "sinks: {}", INVENTORY);
    assert!(good.args(flag("--spool-dir", &new)).output().unwrap().status.success());
    assert!(!new.exists(), "a check makes nothing");

    let http = free_port();
    let mut first = exporter(&directory, "run", "sinks: {}", INVENTORY);
    first.args(["--grpc-listen-port", &free_port().to_string(), "--http-listen-port", &http.to_string()]);
    first.arg("--flows-listen=");
    let mut child = first.args(flag("--spool-dir", &new)).stderr(Stdio::null()).spawn().unwrap();
    until_ready(http, &mut child);
    assert!(get(http, "/metrics").unwrap().contains("egressd_exporter_spool_durable 1"));
    let second = first.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(64), "{}", said(&second));
    assert!(said(&second).contains("another process uses the spool"), "{}", said(&second));
    assert!(good.output().unwrap().status.success(), "a spool in use can be used");
    signal(&child, Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
}

/// What the original's chart rendered, where the captures are beside the project.
fn renders_of_the_original() -> Vec<String> {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/captures/original-chart");
    // `cargo xtask test` says what it left out.
    let Ok(files) = fs::read_dir(&captures) else { return Vec::new() };
    let paths = files.map(|file| file.unwrap().path());
    let renders = paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("render-"));
    renders.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// The configuration in a render's ConfigMap, and the arguments of its exporter, which come last.
fn config_and_arguments(render: &str) -> (String, Vec<&str>) {
    let (_, map) = render.split_once("config.yaml: |\n").unwrap();
    let config = map
        .lines()
        .map_while(|line| line.strip_prefix("    "))
        .fold(String::new(), |text, line| text + line + "\n");
    let (_, arguments) = render.rsplit_once(" args:\n").unwrap();
    let argument = |line| str::trim(line).strip_prefix("- \"")?.strip_suffix('"');
    (config, arguments.lines().map_while(argument).collect())
}

/// Goal: the original's configurations, its own default without a sink, its demo's and CAST AI's, are taken unchanged,
/// with the arguments that its chart passes.
#[test]
fn the_originals_configurations_are_taken_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let flags = vec!["-http-listen-port=6060", "-log-level=info"];
    let demo = "exportInterval: 15s
sinks:
  prom_sink:
    prom_remote_write:
      url: http://victoria.example:8428/api/v1/write
      headers: { My-Header: my-value }
      labels: { my_label: label_value }
";
    let cost_api = "sinks:
  castai:
    http:
      compression: gzip
      encoding: protobuf
      headers:
        X-API-Key: ${API_KEY}
      method: POST
      url: https://api.example.org/v1/kubernetes/clusters/${CLUSTER_ID}/egressd-metrics
";
    let by_hand = [("sinks:\n", flags.clone()), (demo, flags.clone()), (cost_api, flags)];
    let by_hand = by_hand.map(|(config, arguments)| (config.to_owned(), arguments));
    let renders = renders_of_the_original();
    for (config, arguments) in
        by_hand.into_iter().chain(renders.iter().map(|render| config_and_arguments(render)))
    {
        let mut check = exporter(&directory, "check", &config, INVENTORY);
        check
            .args(&arguments)
            .env("CLUSTER_ID", "7f9d1c1e")
            .env("API_KEY", "key")
            .env("POD_NAMESPACE", "castai-agent");
        let output = check.output().unwrap();
        let said = said(&output);
        // The original knew nothing else than plain text.
        let is_else = |line: &&str| line.contains("WARN") && !line.contains("the streams are plain text");
        let warned = said.lines().find(is_else);
        assert!(output.status.success() && warned.is_none(), "{config}{arguments:?}: {said}");
    }
}

/// Goal: a log that cannot be written changes nothing else.
#[test]
fn a_log_that_cannot_be_written_is_not_fatal() {
    let directory = tempfile::tempdir().unwrap();
    for (config, code) in [("sinks: {}", 0), ("sinks: { a: {} }", 64)] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let status = exporter(&directory, "check", config, INVENTORY).stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(code));
    }
}

/// Goal: a secret in the configuration is not printed when the configuration is wrong.
#[test]
fn a_wrong_configuration_prints_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    for config in [
        "sinks: { a: { http: { url: 'ftp://user:hunter2@x', headers: { X-API-Key: \"hunter2\\n\" } } } }",
        "sinks:\n  a:\n    http:\n      headers: { X-API-Key: hunter2 }\n      url: [http://x]\n",
        "sinks: { a: { http: { url: 'http://x', bearerToken: \"hunter2\\n\", basicAuth: { password: hunter2 } } } }",
        "sinks: { a: { http: { url: 'http://x', basicAuth: { username: a, password: [hunter2] } } } }",
    ] {
        let bad = exporter(&directory, "check", config, INVENTORY).output().unwrap();
        assert_eq!(bad.status.code(), Some(64));
        assert!(!said(&bad).contains("hunter2"), "{}", said(&bad));
    }
}

/// Goal: it is ready without any sink, tells its totals, lets flows be followed where it was told to, and a stop is a
/// success; a port in use is an error.
#[test]
fn it_starts_answers_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    let (grpc, http, flows) = (free_port(), free_port(), free_port());
    let mut start = exporter(&directory, "run", "", INVENTORY);
    start.args(["--grpc-listen-port", &grpc.to_string(), "--http-listen-port", &http.to_string()]);
    start.arg(format!("--flows-listen=127.0.0.1:{flows}"));
    let mut child = start.stderr(Stdio::null()).spawn().unwrap();
    until_ready(http, &mut child);
    assert!(get(http, "/metrics/flows").unwrap().starts_with("HTTP/1.1 200"));
    assert!(get(http, "/metrics").unwrap().contains("egressd_exporter_ledger_streams 0"));
    assert!(get(http, "/healthz").unwrap().ends_with("ok\n"));
    assert!(TcpStream::connect(("127.0.0.1", flows)).is_ok());
    assert!(get(http, "/metrics").unwrap().contains("egressd_exporter_flows_subscribers 0"));

    let second = start.stderr(Stdio::piped()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("cannot listen on"), "{}", said(&second));

    signal(&child, Signal::SIGTERM);
    assert!(child.wait().unwrap().success());
}

/// Goal: a configuration that changes is followed while it runs; one that cannot be used changes nothing and says why.
#[test]
fn a_changed_configuration_is_followed() {
    let sink = |name: &str, path: &str| {
        format!("  {name}: {{ prom_remote_write: {{ url: 'http://127.0.0.1:1/{path}' }} }}\n")
    };
    let directory = tempfile::tempdir().unwrap();
    let http = free_port();
    let mut start = exporter(&directory, "run", &format!("sinks:\n{}", sink("stays", "old")), INVENTORY);
    start.args(["--grpc-listen-port", &free_port().to_string(), "--http-listen-port", &http.to_string()]);
    start.arg("--flows-listen=");
    let mut child = start.stderr(Stdio::piped()).spawn().unwrap();
    until_ready(http, &mut child);
    assert!(!get(http, "/metrics").unwrap().contains("egressd_exporter_flows_"));
    let has = |page: &str, sample: &str| page.lines().any(|line| line == sample);
    let (failed, used) =
        ("egressd_exporter_config_reload_failed 1", "egressd_exporter_config_reload_failed 0");
    let reloads = |count| format!("egressd_exporter_config_reloads_total {count}");
    for (text, expected, count) in [
        ("sinks: { wrong: {} }".to_owned(), failed, 0),
        (format!("sinks:\n{}{}", sink("stays", "new"), sink("joins", "")), used, 1),
        (String::new(), failed, 1),
        (format!("sinks:\n{}", sink("stays", "new")), used, 2),
        ("sinks: { stays: { http: { url: 'http://127.0.0.1:1/' } } }".to_owned(), failed, 2),
    ] {
        fs::write(directory.path().join("config"), text).unwrap();
        signal(&child, Signal::SIGHUP);
        until(http, &mut child, "/metrics", |page| has(page, expected) && has(page, &reloads(count)));
    }

    signal(&child, Signal::SIGTERM);
    let said = said(&child.wait_with_output().unwrap());
    for words in [
        "the changed configuration cannot be used; the one before stays",
        "sink \"wrong\": has no kind, write http or prom_remote_write",
        "pushing by new settings",
        "taken out, pushing what it holds",
        "is gone or empty; write `sinks: {}` for none",
        "sink \"stays\" changed its kind: give it another name",
    ] {
        let said = said.replace("\\\"", "\"");
        assert!(said.contains(words), "{words}: {said}");
    }
}
