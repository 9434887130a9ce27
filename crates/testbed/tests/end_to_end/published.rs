//! What the dashboards and the rules ask for is what the daemons publish, by name and by label.
//!
//! Known is what both daemons say in a run with a cluster, two sinks and traffic; not what their sources say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use egressd_testbed::{Cluster, HttpSink, Load, Programs, standard_plans, wait_for};

use crate::lives::{READY_WITHIN, Stage};
use crate::seconds;

/// Published from the first loss on, so not in a run that is well; each is held to its name elsewhere.
const RARE: [&str; 2] =
    ["egressd_exporter_enrich_unattributed_bytes_total", "egressd_exporter_spool_lost_bytes_total"];
/// Labels that a scrape adds, and that of a histogram's buckets.
const OF_SCRAPES: [&str; 2] = ["instance", "le"];

/// Files with queries, from the workspace's root.
const RULES: &str = "deploy/rules/egressd.yaml";
const DASHBOARDS: &str = "charts/egressd/files/dashboards";

/// Every query of the rules and the dashboards, as they stand in their files.
fn queries() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let rules = fs::read_to_string(root.join(RULES)).unwrap();
    let is_text =
        |line: &&str| !["summary:", "description:"].iter().any(|key| line.trim_start().starts_with(key));
    let mut queries: Vec<String> = rules.lines().filter(is_text).map(str::to_owned).collect();
    for entry in fs::read_dir(root.join(DASHBOARDS)).unwrap() {
        let dashboard: serde_json::Value =
            serde_json::from_slice(&fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        queries.extend(targets.map(|target| target["expr"].as_str().unwrap().to_owned()));
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        queries.extend(
            variables.iter().filter_map(|variable| variable["definition"].as_str().map(str::to_owned)),
        );
    }
    queries
}

/// The words of a text, each with what stands before and behind it.
fn words(text: &str) -> impl Iterator<Item = (Option<char>, &str, Option<char>)> {
    let is_part = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at + text[at..].find(is_part)?;
        let end = begin + text[begin..].find(|char| !is_part(char)).unwrap_or(text.len() - begin);
        at = end;
        Some((text[..begin].chars().next_back(), &text[begin..end], text[end..].chars().next()))
    })
}

/// The series that a query names; a recording rule's name has colons around the word.
fn series_in(query: &str) -> impl Iterator<Item = &str> {
    let is_series = |(before, word, after): &(Option<char>, &str, Option<char>)| {
        word.starts_with("egressd_") && *before != Some(':') && *after != Some(':')
    };
    words(query).filter(is_series).map(|(_, word, _)| word)
}

/// The labels that a query chooses or sums by.
fn labels_in(query: &str) -> BTreeSet<&str> {
    let mut labels = BTreeSet::new();
    for chosen in query.split('{').skip(1).filter_map(|rest| rest.split_once('}')) {
        labels.extend(
            words(chosen.0).filter(|(_, _, after)| matches!(after, Some('=' | '!'))).map(|(_, word, _)| word),
        );
    }
    for summed in query.split("by (").skip(1).filter_map(|rest| rest.split_once(')')) {
        labels.extend(words(summed.0).map(|(_, word, _)| word));
    }
    labels
}

/// What the pages of a run publish.
fn published(config: &str, cluster: &Cluster, programs: &Programs) -> (BTreeSet<String>, BTreeSet<String>) {
    let stage = Stage::new(cluster, programs);
    let mut daemons = stage.start_daemons(config);
    daemons.all_mut().for_each(|daemon| daemon.wait_ready(READY_WITHIN).unwrap());
    let load = Load::start(cluster, &programs.testbed, &standard_plans(None)).unwrap();
    thread::sleep(seconds(5));
    load.finish().unwrap();
    wait_for("accepted pushes of both sinks", seconds(60), || {
        let pushed = |sink| {
            let labels = [("sink", sink), ("outcome", "accepted")];
            daemons.exporter.metric("egressd_exporter_sink_pushes_total", &labels)
        };
        let pushed = [pushed("castai")?, pushed("prom")?];
        Ok(if pushed.iter().all(Option::is_some) { Ok(()) } else { Err(format!("{pushed:?}")) })
    })
    .unwrap();
    let mut pages: Vec<String> = daemons.all().map(|daemon| daemon.get("/metrics").unwrap()).collect();
    pages.push(daemons.exporter.get("/metrics/flows").unwrap());
    daemons.end().unwrap();
    let samples = pages.iter().flat_map(|page| page.lines()).filter(|line| !line.starts_with('#'));
    let (mut names, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for sample in samples {
        let (name, rest) = sample.split_at(sample.find(['{', ' ']).unwrap_or(sample.len()));
        names.insert(name.to_owned());
        labels.extend(labels_in(rest).into_iter().map(str::to_owned));
    }
    (names, labels)
}

/// Goal: no panel and no alert stays empty for ever because nobody publishes what it asks for.
#[test]
fn dashboards_and_rules_ask_for_what_is_published() {
    let (cluster, programs) = (Cluster::start().unwrap(), Programs::beside_current_exe().unwrap());
    let (cost_api, recorder) =
        (HttpSink::start(&cluster, 8090).unwrap(), HttpSink::start(&cluster, 8091).unwrap());
    let config = format!(
        "exportInterval: 1s\nsinks:\n  castai: {{http: {{url: \"{}/x\"}}}}\n  prom: {{prom_remote_write: {{url: \"{}/y\"}}}}\n",
        cost_api.url(),
        recorder.url()
    );
    let (names, labels) = published(&config, &cluster, &programs);
    let queries = queries();
    let asked: BTreeSet<&str> = queries.iter().flat_map(|query| series_in(query)).collect();
    let unknown: Vec<_> =
        asked.iter().filter(|name| !names.contains(**name) && !RARE.contains(name)).collect();
    assert_eq!(unknown, [&""; 0], "published: {names:#?}");
    let asked_labels: BTreeSet<&str> = queries.iter().flat_map(|query| labels_in(query)).collect();
    let is_known = |label: &&&str| labels.contains(**label) || OF_SCRAPES.contains(*label);
    let unknown: Vec<_> = asked_labels.iter().filter(|label| !is_known(label)).collect();
    assert_eq!(unknown, [&""; 0], "published: {labels:#?}");
    println!(
        "{} lines of queries, {} series and {} labels, all published",
        queries.len(),
        asked.len(),
        asked_labels.len()
    );
    assert!(asked.len() > 20 && asked_labels.len() > 10, "{asked:?} {asked_labels:?}");
}

/// Goal: a series or a label that nobody knows would be found.
#[test]
fn names_are_taken_out_of_queries() {
    let query = "sum by (src_pod, x) (rate(egressd_a_total{b=\"c\", d!=\"\"}[5m])) / pod:egressd_r:rate5m";
    assert_eq!(series_in(query).collect::<Vec<_>>(), ["egressd_a_total"]);
    assert_eq!(labels_in(query), BTreeSet::from(["b", "d", "src_pod", "x"]));
}
