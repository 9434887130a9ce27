//! The ways to speak remote write: 2.0 to one who understands it and to two who say nothing of not doing so, and growth
//! in place of totals.

use egressd_testbed::{
    Cluster, Comparison, Daemons, HttpSink, Load, Programs, RECEIVED, Series, Store, TRANSMITTED, flows_by,
    recorded, wait_for,
};

use crate::harness::gentle_plans;
use crate::seconds;

const RECEIVER_PORT: u16 = 8092;
const RECORDER_PORT: u16 = 8093;

/// Goal: a receiver that holds to the specification of 2.0 takes every request and has every byte; a Prometheus and a
/// VictoriaMetrics that answer 2.0 with 204 and store nothing are each spoken to by 1.0 after one such answer, and have
/// every byte; growth, added up, is every byte too.
#[test]
fn every_way_to_speak_remote_write_brings_every_byte() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let stores = [Store::prometheus(&cluster).unwrap(), Store::victoria_metrics(&cluster).unwrap()];
    let receiver = HttpSink::start_remote_write_2(&cluster, RECEIVER_PORT).unwrap();
    let recorder = HttpSink::start(&cluster, RECORDER_PORT).unwrap();
    let sink = |name: &str, url: &str, key: &str| {
        format!(
            "  {name}: {{ prom_remote_write: {{ url: '{url}', sendReceivedBytesMetric: true, {key} }} }}\n"
        )
    };
    let config = [
        "exportInterval: 1s\nsinks:\n".to_owned(),
        sink("honest", &format!("{}/api/v1/write", receiver.url()), "protocol: v2"),
        sink("prometheus", &stores[0].write_url(), "protocol: v2"),
        sink("victoria", &stores[1].write_url(), "protocol: v2"),
        sink("growth", &recorder.url(), "temporality: delta"),
    ];
    let mut daemons = Daemons::start(&cluster, &programs, &config.concat(), &[]).unwrap();
    let load = Load::start(&cluster, &programs.testbed, &gentle_plans()).unwrap();
    wait_for("traffic in several pushes", seconds(60), || {
        let requests = recorder.accepted().len();
        Ok(if requests >= 8 { Ok(()) } else { Err(requests.to_string()) })
    })
    .unwrap_or_else(|error| panic!("{error:?}\n{}", daemons.log_tails()));
    load.finish().unwrap();

    let truth = cluster.truth().unwrap();
    let settled = wait_for("every byte everywhere", seconds(60), || {
        let all = format!("{{__name__=~\"{TRANSMITTED}|{RECEIVED}\"}}[1h]");
        let exported = [
            flows_by(Series::last_value, &receiver.series())?,
            flows_by(Series::last_value, &stores[0].series(&all, None)?)?,
            flows_by(Series::last_value, &stores[1].series(&all, None)?)?,
            flows_by(Series::sum, &recorded(&cluster, &recorder)?)?,
        ];
        let differences = exported.map(|flows| Comparison::of(&truth, &flows).difference_bytes());
        Ok(if differences == [0; 4] { Ok(()) } else { Err(format!("{differences:?}")) })
    });
    settled.unwrap_or_else(|error| panic!("{error:?}\n{:?}\n{}", receiver.refusals(), daemons.log_tails()));

    let metric =
        |name: &str, labels: &[(&str, &str)]| daemons.exporter.metric(name, labels).unwrap().unwrap_or(0);
    let not_understood = ["honest", "prometheus", "victoria"].map(|sink| {
        metric("egressd_exporter_sink_pushes_total", &[("sink", sink), ("outcome", "not_understood")])
    });
    assert_eq!(not_understood, [0, 1, 1]);
    assert_eq!(metric("egressd_exporter_sink_unwritten_samples_total", &[("sink", "honest")]), 0);
    assert_eq!(metric("egressd_exporter_sink_ambiguous_bytes_total", &[("sink", "growth")]), 0);
    assert_eq!(receiver.refusals(), Vec::<String>::new());
    assert!(receiver.series().iter().all(|series| series.points[0].value == 0));
    assert!(recorded(&cluster, &recorder).unwrap().iter().any(|series| series.points.len() > 1));
    println!(
        "ways to speak remote write: tx {} B, difference 0 at each of 4 sinks; {} requests of 2.0 taken",
        truth.total().tx_bytes,
        receiver.accepted().len()
    );
    daemons.end().unwrap();
}
