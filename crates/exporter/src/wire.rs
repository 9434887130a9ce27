//! The exporter's parts, from the far end back: sinks, what feeds them, last the streams.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use egressd_delivery::ledger::{Ledger, NODES_MAX};
use egressd_delivery::roster::Roster;
use egressd_delivery::serve::{Desk, Patience, Role, serve};
use egressd_delivery::{LedgerMetrics, random_id};
use egressd_enrich::kubernetes::{ConnectError, Knowledge, WatchCounts};
use egressd_flow::{Position, UnixNanos};
use egressd_protocol::limits::MESSAGE_BYTES_MAX;
use egressd_protocol::{Settings, SpoolId};
use egressd_service::admin::{self, Admin};
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::Tasks;
use egressd_sink::{FLOWS_MAX, Scrape, SinkMetrics, system_clock};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::attribute::{Attribution, Cluster, Inputs, Naming, WAITING_BYTES_MAX};
use crate::config::Options;
use crate::deliver::Party;
use crate::metrics::{ConfigMetrics, EnrichMetrics, NodeMetrics, WatchMetrics};
use crate::reload::Reload;
use crate::sinks::{BATCHES_QUEUE, Lane, LaneChange, Sinks};
use crate::{Loaded, deliver, file, follow, nodes, sinks};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Sinks that come or go, on their way to those who have to know.
const LANE_CHANGES_QUEUE: usize = 16;
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
        waiting_bytes_max = WAITING_BYTES_MAX,
        "bounds; a sink's table takes at most about 250 bytes a flow"
    );
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let grpc = admin::bind(options.grpc_listen_port).await?;
    let http = admin::bind(options.http_listen_port).await?;

    let roster = Roster::default();
    NodeMetrics::register(&mut registry, roster.clone());
    let Fan { lanes, lane_changes, delivered, scrape } =
        fan_out(options.config_path, loaded.file, loaded.source, hangup, &mut registry, &mut tasks).await?;

    let (intake, takings) = mpsc::channel(BATCHES_QUEUE);
    let (scopes, scope_requests) = mpsc::channel(SCOPE_REQUESTS_QUEUE);
    let cluster = match loaded.inventory {
        Some(index) => Cluster::Inventory(Box::new(index)),
        None => kubernetes(options.kubeconfig.flatten().as_deref(), &mut registry, &mut tasks).await?,
    };
    let followers = match options.flows_listen {
        Some(address) => Some(follow::start(address, &mut registry, &mut tasks).await?),
        None => None,
    };
    let attribution = Attribution::new(
        cluster,
        Naming {
            ranges: options.cluster_ranges,
            patience: WATCH_PATIENCE,
            host_network: options.host_network_pods,
        },
        lanes,
        EnrichMetrics::register(&mut registry),
        roster.clone(),
        admin.part("cluster"),
    )
    .with_followers(followers);
    let inputs = Inputs { takings, scope_requests, lanes: lane_changes, stop: tasks.stop.clone() };
    tasks.spawn("attribution", attribution.run(inputs));

    let desk = Desk {
        spool,
        version: VERSION,
        intake,
        ledger: Ledger::default(),
        delivered,
        scopes,
        settings: Settings { read_interval: options.collector_read_interval, fold: Vec::new() },
        patience: Patience::USUAL,
        metrics: LedgerMetrics::register(&mut registry),
        roster: roster.clone(),
        role: watch::channel(Role::Leader).1,
    };
    tasks.spawn("streams", serve(grpc, desk, tasks.stop.clone(), tasks.abandon.clone()));
    let router = admin.router(registry, flows(scrape).merge(nodes::page(roster)), tasks.stop.clone());
    tasks.spawn_aside("admin", admin::serve(http, router));
    Ok(tasks)
}

/// The far end: where batches go, and how far all of it got.
struct Fan {
    lanes: Vec<Lane>,
    /// Those that come and go later.
    lane_changes: mpsc::Receiver<LaneChange>,
    delivered: watch::Receiver<Position>,
    scrape: Scrape,
}

/// Starts the sinks, what follows their configuration, and what tells how far all of them got.
async fn fan_out(
    path: Option<PathBuf>,
    settings: file::Settings,
    source: file::Source,
    hangup: Signal,
    registry: &mut Registry,
    tasks: &mut Tasks,
) -> anyhow::Result<Fan> {
    let (parties, parties_out) = mpsc::channel(LANE_CHANGES_QUEUE);
    let (delivered, delivered_out) = watch::channel(Position::default());
    tasks.spawn("deliver", deliver::deliver(parties_out, delivered));
    let sink_metrics = SinkMetrics::register(registry);
    let scrape = Scrape::new(&sink_metrics);
    let mut lanes = vec![add_scrape(&scrape, &parties, tasks).await];
    let mut sinks = Sinks::new(sink_metrics, parties, tasks.abandon.clone());
    for change in sinks.become_those_of(settings.sinks).await? {
        match change {
            LaneChange::Join(lane) => lanes.push(lane),
            LaneChange::Leave(_) => {}
        }
    }
    let (changes, lane_changes) = mpsc::channel(LANE_CHANGES_QUEUE);
    let metrics = ConfigMetrics::register(registry);
    let reload = Reload { path, applied: Some(source), sinks, lanes: changes, metrics, hangup };
    tasks.spawn("sinks", reload.run(tasks.stop.clone()));
    Ok(Fan { lanes, lane_changes, delivered: delivered_out, scrape })
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

/// The page of totals takes batches as sinks do.
async fn add_scrape(scrape: &Scrape, parties: &mpsc::Sender<Party>, tasks: &mut Tasks) -> Lane {
    let (lane, end) = sinks::lane(egressd_sink::SCRAPE, parties).await;
    let scrape = scrape.clone();
    tasks.spawn("scrape", async move {
        scrape.collect(end.batches, end.accepted, system_clock()).await;
        anyhow::Ok(())
    });
    lane
}

/// The totals as anybody may scrape them.
fn flows(scrape: Scrape) -> Router {
    async fn render(State(scrape): State<Scrape>) -> impl IntoResponse {
        ([(header::CONTENT_TYPE, admin::OPENMETRICS)], scrape.render(UnixNanos(unix_nanos())))
    }
    Router::new().route("/metrics/flows", get(render).with_state(scrape))
}
