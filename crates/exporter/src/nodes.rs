//! The page `/nodes`: which nodes are collected from, and what is wrong where. One JSON object a line and a node.

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use egressd_delivery::roster::{Collector, Node, Roster};
use egressd_flow::UnixNanos;
use egressd_protocol::{Loss, Source};
use serde::Serialize;

/// JSON Lines.
const CONTENT_TYPE: &str = "application/jsonl";

#[derive(Serialize)]
struct Row<'a> {
    node: &'a str,
    /// False: nothing there is anybody's.
    in_cluster: bool,
    /// False: no collector is to run there, by where the DaemonSet's pods may.
    to_collect: bool,
    /// Null: no collector dialled within a day.
    collector: Option<CollectorRow<'a>>,
}

#[derive(Serialize)]
struct CollectorRow<'a> {
    connected: bool,
    version: &'a str,
    source: &'static str,
    /// Why it reads there, and how.
    reason: &'a str,
    /// Unix time, as all of them.
    dialled_seconds: u64,
    heard_seconds: u64,
    gone_seconds: Option<u64>,
    /// Empty when it is well.
    diagnosis: &'a str,
    /// Since it started.
    losses: Vec<LossRow<'a>>,
    /// When it last lost something; null when it has not since this exporter knows of it.
    lost_seconds: Option<u64>,
}

#[derive(Serialize)]
struct LossRow<'a> {
    reason: &'a str,
    count: u64,
    bytes: u64,
}

/// The page.
pub(crate) fn page(roster: Roster) -> Router {
    Router::new().route("/nodes", get(render).with_state(roster))
}

async fn render(State(roster): State<Roster>) -> Response {
    match lines(&roster.nodes()) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn lines(nodes: &[Node]) -> Result<String, serde_json::Error> {
    let mut text = String::new();
    for node in nodes {
        text.push_str(&serde_json::to_string(&row(node))?);
        text.push('\n');
    }
    Ok(text)
}

fn row(node: &Node) -> Row<'_> {
    Row {
        node: &node.name.0,
        in_cluster: node.in_cluster,
        to_collect: node.to_collect,
        collector: node.collector.as_ref().map(collector_row),
    }
}

fn collector_row(collector: &Collector) -> CollectorRow<'_> {
    CollectorRow {
        connected: collector.gone.is_none(),
        version: &collector.version,
        source: match collector.source {
            Source::Netfilter => "netfilter",
            Source::Cilium => "cilium",
            Source::Ebpf => "ebpf",
            Source::Unknown => "unknown",
        },
        reason: &collector.reason,
        dialled_seconds: seconds(collector.dialled),
        heard_seconds: seconds(collector.heard),
        gone_seconds: collector.gone.map(seconds),
        diagnosis: &collector.diagnosis,
        losses: collector.losses.iter().flatten().map(loss_row).collect(),
        lost_seconds: collector.lost.map(seconds),
    }
}

fn loss_row(loss: &Loss) -> LossRow<'_> {
    LossRow { reason: &loss.reason, count: loss.count, bytes: loss.bytes }
}

fn seconds(at: UnixNanos) -> u64 {
    at.0 / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use egressd_flow::NodeName;

    use super::*;

    /// Goal: a node says what is wrong with its collector, and one without a collector says that.
    #[test]
    fn a_line_says_what_is_wrong_on_a_node() {
        let collector = Collector {
            version: "1".to_owned(),
            source: Source::Netfilter,
            dialled: UnixNanos(5_000_000_000),
            heard: UnixNanos(9_999_999_999),
            gone: None,
            reason: "--ct-mode".to_owned(),
            diagnosis: "\"acct\" is off".to_owned(),
            losses: Some(vec![Loss { reason: "lost_ends".to_owned(), count: 3, bytes: 0 }]),
            lost: Some(UnixNanos(8_000_000_000)),
        };
        let node = |name: &str, collector| Node {
            name: NodeName(name.into()),
            in_cluster: true,
            to_collect: true,
            collector,
        };
        assert_eq!(
            lines(&[node("node-a", Some(collector)), node("node-b", None)]).unwrap(),
            concat!(
                r#"{"node":"node-a","in_cluster":true,"to_collect":true,"collector":{"connected":true,"version":"1","source":"netfilter","reason":"--ct-mode","#,
                r#""dialled_seconds":5,"heard_seconds":9,"gone_seconds":null,"diagnosis":"\"acct\" is off","#,
                r#""losses":[{"reason":"lost_ends","count":3,"bytes":0}],"lost_seconds":8}}"#,
                "\n",
                r#"{"node":"node-b","in_cluster":true,"to_collect":true,"collector":null}"#,
                "\n"
            )
        );
    }
}
