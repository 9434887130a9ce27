//! The exporter's parts, from the far end back: sinks, what feeds them, last the streams.

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use egressd_delivery::LedgerMetrics;
use egressd_delivery::ledger::{Ledger, NODES_MAX};
use egressd_delivery::roster::Roster;
use egressd_delivery::serve::{Desk, Patience, Role, serve};
use egressd_enrich::Change;
use egressd_enrich::kubernetes::{Knowledge, WatchCounts};
use egressd_flow::{Position, UnixNanos};
use egressd_protocol::Settings;
use egressd_protocol::limits::MESSAGE_BYTES_MAX;
use egressd_service::admin::{self, Admin};
use egressd_service::bearer::Guard;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::Tasks;
use egressd_sink::{FLOWS_MAX, Lead, SCRAPE, Scrape, SinkMetrics};
use egressd_spool::{SINKS_MAX, Taken};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::attribute::{Attribution, Cluster, Inputs, Naming, WAITING_BYTES_MAX};
use crate::config::Options;
use crate::deliver::Party;
use crate::keeper::{GROUP_MAX, Keeper};
use crate::lease::{Contest, Word};
use crate::metrics::{
    ConfigMetrics, EnrichMetrics, LeadMetric, LeaseMetrics, NodeMetrics, SpoolMetrics, WatchMetrics,
};
use crate::reload::Reload;
use crate::security::{Door, Security};
use crate::sinks::{BATCHES_QUEUE, Sinks, Supply};
use crate::spool::Opened;
use crate::{Loaded, bounds, deliver, file, follow, keeper, nodes, security, spool};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Sinks that come or go, on their way to who tells what all of them have.
const PARTIES_QUEUE: usize = 16;
/// What sinks want of the spool; each waits for its answer.
const REQUESTS_QUEUE: usize = 64;
/// Collectors that dialled and wait for their scope.
const SCOPE_REQUESTS_QUEUE: usize = 64;
/// Messages of DNS names on their way to attribution: 8 MiB at worst.
const NAMES_QUEUE: usize = 16;
/// Changes of the cluster on their way to its index.
const CHANGES_QUEUE: usize = 1_024;
/// A watch tells of a pod within a second or two of its start; names are looked up a little later than that.
const WATCH_PATIENCE: Duration = Duration::from_secs(3);

pub(crate) async fn wire(options: Box<Options>, loaded: Loaded, mut tasks: Tasks) -> anyhow::Result<Tasks> {
    let mut registry = Registry::default();
    let mut admin = Admin::default();
    let Opened { spool, id, recovery } = loaded.spool.context("the spool was only checked")?;
    info!(
        version = VERSION,
        spool = %format_args!("{:016x}", id.0),
        grpc_port = options.grpc_listen_port,
        http_port = options.http_listen_port,
        cluster = if loaded.inventory.is_some() { "inventory" } else { "kubernetes" },
        leader_elect = loaded.candidate.is_some(),
        "starting"
    );
    info!(
        flows_max_a_sink = FLOWS_MAX,
        nodes_max = NODES_MAX,
        message_bytes_max = MESSAGE_BYTES_MAX,
        batches_queue = BATCHES_QUEUE,
        waiting_bytes_max = WAITING_BYTES_MAX,
        dns_names_bytes_max = options.dns_names_bytes_max,
        "bounds; a sink's table takes at most about 250 bytes a flow"
    );
    spool::tell_bounds(options.spool.config(), &spool);
    let (has_flows, dns_names) = (options.flows_listen.is_some(), options.dns_names_bytes_max);
    bounds::tell(&loaded.file.sinks, &spool, options.spool.config(), has_flows, dns_names);
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let grpc = admin::bind(options.grpc_listen_port).await?;
    let http = admin::bind(options.http_listen_port).await?;

    let roster = Roster::default();
    NodeMetrics::register(&mut registry, roster.clone());
    let (contender, lead, role) = match loaded.candidate {
        None => (None, Lead::always(), watch::channel(Role::Leader).1),
        Some(candidate) => {
            let (word, lead, role) = Word::new(LeaseMetrics::register(&mut registry));
            (Some((candidate, word)), lead, role)
        }
    };
    LeadMetric::register(&mut registry, lead.clone());
    let (ledger, last) = if spool.durable() {
        (Ledger::resume(spool::known(&spool)), spool.last())
    } else {
        (Ledger::default(), Position::default())
    };
    let is_durable = ledger.is_durable();
    let sink_metrics = SinkMetrics::register(&mut registry);
    let scrape = Scrape::new(&sink_metrics);
    let spool_metrics = SpoolMetrics::register(&mut registry, &spool, &recovery);
    let Kept { appends, supply, safe, delivered } =
        keep(Keeper::new(spool, scrape.clone()), spool_metrics, &mut tasks).await;
    let abandon_sinks = tasks.abandon.child_token();
    let sinks = Sinks::new(sink_metrics, supply, lead, abandon_sinks.clone());
    let metrics = ConfigMetrics::register(&mut registry);
    let follow = Reload { path: options.config_path, applied: Some(loaded.source), sinks, metrics, hangup };
    follow_configuration(follow, loaded.file, &mut tasks).await?;

    let (intake, takings) = mpsc::channel(BATCHES_QUEUE);
    let (scopes, scope_requests) = mpsc::channel(SCOPE_REQUESTS_QUEUE);
    let (names, names_out) = mpsc::channel(NAMES_QUEUE);
    let client = match &loaded.inventory {
        Some(_) => None,
        None => Some(egressd_enrich::kubernetes::connect(options.kubeconfig.flatten().as_deref()).await?),
    };
    let certificate = admin.part("certificate");
    loaded.security.complain();
    let Security { certification, tokens } = loaded.security;
    let door = Door::open(certification, client.as_ref(), certificate, &mut registry, &mut tasks);
    let (pods, pod_questions) = mpsc::channel(SCOPE_REQUESTS_QUEUE);
    let admission = security::admission(tokens, client.as_ref(), pods, &mut registry, &mut tasks);
    let readers = security::readers(options.security.readers_token_file, &mut tasks)?;
    let cluster = match (loaded.inventory, client) {
        (Some(index), _) => Cluster::Inventory(Box::new(index)),
        (None, client) => {
            let client = client.context("there is a client where there is no inventory")?;
            let (changes, knowledge) = kubernetes(client.clone(), &mut registry, &mut tasks);
            if let Some((candidate, word)) = contender {
                let (identity, knowledge) = (candidate.identity(id.0), knowledge.clone());
                let contest = Contest { client, candidate, identity, knowledge, word, abandon_sinks };
                tasks.spawn("lease", contest.run(tasks.stop.clone(), delivered.clone()));
            }
            Cluster::Kubernetes(changes, knowledge)
        }
    };
    let followers = match options.flows_listen {
        Some(address) => {
            Some(follow::start(address, &door, readers.clone(), &mut registry, &mut tasks).await?)
        }
        None => None,
    };
    let attribution = Attribution::new(
        cluster,
        Naming {
            ranges: options.cluster_ranges,
            patience: WATCH_PATIENCE,
            host_network: options.host_network_pods,
            names_bytes_max: options.dns_names_bytes_max,
        },
        (last, appends),
        EnrichMetrics::register(&mut registry),
        roster.clone(),
        admin.part("cluster"),
    )
    .with_followers(followers)
    .with_collectors_on(options.collectors_on);
    let inputs =
        Inputs { takings, names: names_out, scope_requests, pod_questions, stop: tasks.stop.clone() };
    tasks.spawn("attribution", attribution.run(inputs));

    let desk = Desk {
        spool: id,
        version: VERSION,
        intake,
        names,
        ledger,
        // A sink that is away keeps nothing with the collectors where the spool outlives us.
        delivered: if is_durable { safe } else { delivered },
        scopes,
        settings: Settings { read_interval: options.collector_read_interval, fold: Vec::new() },
        patience: Patience::USUAL,
        metrics: LedgerMetrics::register(&mut registry),
        roster: roster.clone(),
        role,
        tls: door.tls(),
        admission,
    };
    let (stop, abandon) = (tasks.stop.clone(), tasks.abandon.clone());
    tasks.spawn("streams", async move {
        door.is_there(&stop).await;
        serve(grpc, desk, stop, abandon).await
    });
    let router =
        admin.router(registry, flows(scrape, readers).merge(nodes::page(roster)), tasks.stop.clone());
    tasks.spawn_aside("admin", admin::serve(http, router));
    Ok(tasks)
}

/// The ways into the spool and out of it.
struct Kept {
    appends: mpsc::Sender<Taken>,
    supply: Supply,
    /// How far batches are safe.
    safe: watch::Receiver<Position>,
    /// How far every sink has accepted them.
    delivered: watch::Receiver<Position>,
}

/// Starts who owns the spool, on a thread where the disk may take its time, and who tells how far every sink is. The page
/// of totals has a batch when it is appended.
async fn keep(keeper: Keeper, metrics: SpoolMetrics, tasks: &mut Tasks) -> Kept {
    let (appends, appends_out) = mpsc::channel(GROUP_MAX);
    let (requests, requests_out) = mpsc::channel(REQUESTS_QUEUE);
    let (saves, saves_out) = mpsc::channel(SINKS_MAX);
    let (safe, safe_out) = watch::channel(keeper.safe());
    let (parties, parties_out) = mpsc::channel(PARTIES_QUEUE);
    let (delivered, delivered_out) = watch::channel(Position::default());
    tasks.spawn("deliver", deliver::deliver(parties_out, delivered));
    let page = Party::Joined(SCRAPE.to_owned(), safe_out.clone());
    // Deliveries end after it.
    let _told = parties.send(page).await;
    let supply = Supply {
        requests,
        safe: safe_out.clone(),
        saves: keeper.spool().durable().then_some(saves),
        ending: CancellationToken::new(),
        parties,
    };
    let inputs = keeper::Inputs {
        appends: appends_out,
        requests: requests_out,
        saves: saves_out,
        safe,
        ending: supply.ending.clone(),
        abandon: tasks.abandon.clone(),
    };
    let (runtime, driving) = (Handle::current(), keeper::drive(keeper, metrics, inputs));
    let driving = spawn_blocking(move || runtime.block_on(driving));
    tasks.spawn("spool", async {
        driving.await.context("the spool's thread panicked")?.context("the spool failed")
    });
    Kept { appends, supply, safe: safe_out, delivered: delivered_out }
}

/// Starts the sinks, and what follows their configuration.
async fn follow_configuration(
    mut reload: Reload,
    settings: file::Settings,
    tasks: &mut Tasks,
) -> anyhow::Result<()> {
    reload.sinks.become_those_of(settings.sinks).await?;
    reload.sinks.are_all().await;
    tasks.spawn("sinks", reload.run(tasks.stop.clone()));
    Ok(())
}

/// Watches the cluster; what is wrong with the API is no reason not to start.
fn kubernetes(
    client: Client,
    registry: &mut Registry,
    tasks: &mut Tasks,
) -> (mpsc::Receiver<Change>, Knowledge) {
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
    (changes_out, knowledge)
}

/// The totals, for anybody or for whoever shows the readers' token.
fn flows(scrape: Scrape, readers: Option<Guard>) -> Router {
    async fn render(
        State((scrape, readers)): State<(Scrape, Option<Guard>)>,
        headers: HeaderMap,
    ) -> Response {
        let shown = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        if readers.is_some_and(|readers| !readers.lets_in(shown)) {
            let words = "show the token of --readers-token-file, as Authorization: Bearer\n";
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], words).into_response();
        }
        ([(header::CONTENT_TYPE, admin::OPENMETRICS)], scrape.render(UnixNanos(unix_nanos()))).into_response()
    }
    Router::new().route("/metrics/flows", get(render).with_state((scrape, readers)))
}
