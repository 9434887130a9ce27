//! Who follows flows with a client that knows nothing of ours hears what sinks are told.
//!
//! The client is Python's grpcio with reflection, in the environment that `cargo xtask test` makes below the target
//! folder.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use egressd_testbed::topology::CONTROL;
use egressd_testbed::{Cluster, Comparison, FlowKey, Flows, Process, Series, Volume, standard_plans};
use serde_json::Value;

use crate::harness::Harness;
use crate::seconds;

const CLIENT: &str = include_str!("follow.py");
const FLOWS_ADDRESS: &str = "127.0.0.1:6063";
/// It ends when the exporter has.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// `target/PROFILE/deps/THIS`, and `target/grpc-client`.
fn python() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let python = this.ancestors().nth(3).unwrap().join("grpc-client/bin/python");
    assert!(python.exists(), "{} is missing; `cargo xtask test` makes it", python.display());
    python
}

fn follow(cluster: &Cluster, name: &str) -> Process {
    let script = cluster.write_file("follow.py", CLIENT).unwrap();
    let mut command = Command::new(python());
    command.arg(script).arg(FLOWS_ADDRESS);
    cluster.spawn(CONTROL, name, command).unwrap()
}

/// What a client printed.
struct Heard {
    services: Value,
    flows: Flows,
    told: Value,
}

fn heard(mut client: Process) -> Heard {
    let status = client.wait(ENDS_WITHIN).unwrap();
    let log = client.log_text().unwrap();
    assert!(status.success(), "{log}");
    let mut heard = Heard { services: Value::Null, flows: Flows::default(), told: Value::Null };
    for line in log.lines() {
        let mut said: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {log}"));
        match said.as_object().unwrap().keys().next().unwrap().as_str() {
            "services" => heard.services = said["services"].take(),
            "told" => heard.told = said["told"].take(),
            "flow" => {
                let (key, volume) = flow_of(&said["flow"]);
                heard.flows.add(key, volume);
            }
            other => panic!("{other}"),
        }
    }
    heard
}

fn flow_of(flow: &Value) -> (FlowKey, Volume) {
    let text = |name: &str| flow[name].as_str().unwrap().to_owned();
    let number = |name: &str| flow[name].as_u64().unwrap();
    assert_eq!((number("undirected_bytes"), number("undirected_packets")), (0, 0), "{flow}");
    let key = FlowKey {
        node: text("node"),
        pod: text("pod"),
        local: text("local").parse().unwrap(),
        remote: text("remote").parse().unwrap(),
        remote_pod: flow["remote_pod"].as_str().map(str::to_owned),
        protocol: u8::try_from(number("protocol")).unwrap(),
    };
    let volume = Volume {
        tx_bytes: number("tx_bytes"),
        tx_packets: number("tx_packets"),
        rx_bytes: number("rx_bytes"),
        rx_packets: number("rx_packets"),
    };
    (key, volume)
}

/// Goal: a client that learns everything by reflection follows flows to the last byte, whether it joins before the traffic
/// is measured or amid it: snapshot and batches together are the truth.
#[test]
fn a_generic_client_follows_every_byte() {
    let cluster = Cluster::start().unwrap();
    let mut run = Harness::start("followed", &cluster, &standard_plans(None));
    let first = follow(&cluster, "follower-first");
    run.pass(seconds(6));
    let amid = follow(&cluster, "follower-amid");
    run.pass(seconds(4));
    let truth = run.finish(Series::last_value);
    for client in [first, amid] {
        let name = client.name().to_owned();
        let Heard { services, flows, told } = heard(client);
        run.say(&format!("{name}: {services} {told}"));
        let expected =
            ["egressd.v1.Flows", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"];
        assert_eq!(services, serde_json::json!(expected));
        let comparison = Comparison::of(&truth, &flows);
        let difference = (comparison.difference_bytes(), comparison.difference_packets());
        let Volume { tx_bytes, rx_bytes, .. } = flows.total();
        run.say(&format!("{name}: tx {tx_bytes} B, rx {rx_bytes} B, difference {difference:?}"));
        assert_eq!(difference, (0, 0), "{comparison:#?}");
        assert_eq!(told["end"], "UNAVAILABLE: the exporter is stopping");
        assert_eq!((&told["missed"], &told["snapshot_end"]), (&Value::from(0), &Value::from(1)));
        assert!(told["batch"].as_u64().unwrap() > 0);
    }
}
