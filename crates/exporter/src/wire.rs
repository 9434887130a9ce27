//! The exporter's parts, from the far end back: sinks, what feeds them, last the streams.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use egressd_delivery::ledger::NODES_MAX;
use egressd_delivery::roster::Roster;
use egressd_delivery::serve::{Desk, serve};
use egressd_delivery::{LedgerMetrics, random_id};
use egressd_enrich::kubernetes::{ConnectError, Knowledge, WatchCounts};
use egressd_flow::{AttributedBatch, Position, UnixNanos};
use egressd_protocol::limits::MESSAGE_BYTES_MAX;
use egressd_protocol::{Settings, SpoolId};
use egressd_service::admin::{self, Admin};
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::Tasks;
use egressd_sink::{FLOWS_MAX, Scrape, Sink, SinkMetrics, system_clock};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::attribute::{Attribution, Cluster, Inputs, Naming};
use crate::config::Options;
use crate::metrics::{EnrichMetrics, NodeMetrics, WatchMetrics};
use crate::{Loaded, deliver, nodes};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Batches on their way to the ledger's next stage, and to each sink.
const BATCHES_QUEUE: usize = 16;
/// Collectors that dialled and wait for their scope.
const SCOPE_REQUESTS_QUEUE: usize = 64;
/// Changes of the cluster on their way to its index.
const CHANGES_QUEUE: usize = 1_024;
/// A watch tells of a pod within a second or two of its start; names are looked up a little later than that.
const WATCH_PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn wire(options: Box<Options>, loaded: Loaded, mut tasks: Tasks) -> anyhow::Result<Tasks> {
    let mut registry = Registry::default();
    let mut admin = Admin::default();
    let spool = SpoolId(random_id().context("no random bytes")?);
    info!(
        version = VERSION,
        spool = %format_args!("{:016x}", spool.0),
        grpc_port = options.grpc_listen_port,
        http_port = options.http_listen_port,
        cluster = if loaded.inventory.is_some() { "inventory" } else { "kubernetes" },
        "starting"
    );
    info!(
        flows_max_a_sink = FLOWS_MAX,
        nodes_max = NODES_MAX,
        message_bytes_max = MESSAGE_BYTES_MAX,
        batches_queue = BATCHES_QUEUE,
        "bounds; a sink's table takes at most about 250 bytes a flow"
    );
    let grpc = admin::bind(options.grpc_listen_port).await?;
    let http = admin::bind(options.http_listen_port).await?;

    let mut fan = Fan::default();
    let sink_metrics = SinkMetrics::register(&mut registry);
    let scrape = Scrape::new(&sink_metrics);
    fan.add_scrape(&scrape, &mut tasks);
    for config in loaded.file.sinks {
        fan.add(Sink::new(config, &sink_metrics, system_clock())?, &mut tasks);
    }

    let roster = Roster::default();
    NodeMetrics::register(&mut registry, roster.clone());
    let (delivered, delivered_out) = watch::channel(Position::default());
    tasks.spawn("deliver", deliver::deliver(fan.accepted, delivered));
    let (intake, takings) = mpsc::channel(BATCHES_QUEUE);
    let (scopes, scope_requests) = mpsc::channel(SCOPE_REQUESTS_QUEUE);
    let cluster = match loaded.inventory {
        Some(index) => Cluster::Inventory(Box::new(index)),
        None => kubernetes(options.kubeconfig.flatten().as_deref(), &mut registry, &mut tasks).await?,
    };
    let attribution = Attribution::new(
        cluster,
        Naming {
            ranges: options.cluster_ranges,
            patience: WATCH_PATIENCE,
            host_network: options.host_network_pods,
        },
        fan.batches,
        EnrichMetrics::register(&mut registry),
        roster.clone(),
        admin.part("cluster"),
    );
    let inputs = Inputs { takings, scope_requests, stop: tasks.stop.clone() };
    tasks.spawn("attribution", attribution.run(inputs));

    let desk = Desk {
        spool,
        version: VERSION,
        intake,
        delivered: delivered_out,
        scopes,
        settings: Settings { read_interval: options.collector_read_interval, fold: Vec::new() },
        metrics: LedgerMetrics::register(&mut registry),
        roster: roster.clone(),
    };
    tasks.spawn("streams", serve(grpc, desk, tasks.stop.clone(), tasks.abandon.clone()));
    let router = admin.router(registry, flows(scrape).merge(nodes::page(roster)), tasks.stop.clone());
    tasks.spawn_aside("admin", admin::serve(http, router));
    Ok(tasks)
}

/// Watches the cluster; what is wrong with the API is no reason not to start.
async fn kubernetes(
    kubeconfig: Option<&Path>,
    registry: &mut Registry,
    tasks: &mut Tasks,
) -> Result<Cluster, ConnectError> {
    let client = egressd_enrich::kubernetes::connect(kubeconfig).await?;
    let (changes, changes_out) = mpsc::channel(CHANGES_QUEUE);
    let (knowledge, counts) = (Knowledge::default(), WatchCounts::default());
    WatchMetrics::register(registry, counts.clone(), knowledge.clone());
    let watching = egressd_enrich::kubernetes::watch(client, changes, knowledge.clone(), counts);
    let stop = tasks.stop.clone();
    tasks.spawn("watch", async move {
        // Names are needed until the last batch has its own: it ends with whoever listens.
        watching.await;
        stop.cancelled().await;
        anyhow::Ok(())
    });
    Ok(Cluster::Kubernetes(changes_out, knowledge))
}

/// The sinks' queues and how far each got.
#[derive(Default)]
struct Fan {
    batches: Vec<mpsc::Sender<Arc<AttributedBatch>>>,
    accepted: Vec<watch::Receiver<Position>>,
}

impl Fan {
    fn lane(&mut self) -> (mpsc::Receiver<Arc<AttributedBatch>>, watch::Sender<Position>) {
        let (batches, queue) = mpsc::channel(BATCHES_QUEUE);
        let (accepted, reached) = watch::channel(Position::default());
        self.batches.push(batches);
        self.accepted.push(reached);
        (queue, accepted)
    }

    fn add_scrape(&mut self, scrape: &Scrape, tasks: &mut Tasks) {
        let (queue, accepted) = self.lane();
        let scrape = scrape.clone();
        tasks.spawn("scrape", async move {
            scrape.collect(queue, accepted, system_clock()).await;
            anyhow::Ok(())
        });
    }

    fn add(&mut self, sink: Sink, tasks: &mut Tasks) {
        let (queue, accepted) = self.lane();
        let abandon = tasks.abandon.clone();
        tasks.spawn("sink", async move {
            // What it had to leave it has said itself.
            let _said = egressd_sink::run(sink, queue, accepted, abandon).await;
            anyhow::Ok(())
        });
    }
}

/// The totals as anybody may scrape them.
fn flows(scrape: Scrape) -> Router {
    async fn render(State(scrape): State<Scrape>) -> impl IntoResponse {
        ([(header::CONTENT_TYPE, admin::OPENMETRICS)], scrape.render(UnixNanos(unix_nanos())))
    }
    Router::new().route("/metrics/flows", get(render).with_state(scrape))
}
