//! The exporter's parts, from the far end back: sinks, what feeds them, last the streams.

use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use egressd_delivery::serve::{Desk, serve};
use egressd_delivery::{LedgerMetrics, random_id, serve};
use egressd_flow::{AttributedBatch, Position, UnixNanos};
use egressd_protocol::SpoolId;
use egressd_service::admin::{self, Admin};
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::Tasks;
use egressd_sink::{SCRAPE_CONTENT_TYPE, Scrape, Sink, SinkMetrics, system_clock};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::config::Options;
use crate::metrics::EnrichMetrics;
use crate::{Loaded, attribute, deliver, scopes};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Batches on their way to the ledger's next stage, and to each sink.
const BATCHES_QUEUE: usize = 16;

pub(crate) async fn wire(options: Box<Options>, loaded: Loaded, mut tasks: Tasks) -> anyhow::Result<Tasks> {
    let mut registry = Registry::default();
    let mut admin = Admin::default();
    let spool = SpoolId(random_id().context("no random bytes")?);
    let index = Arc::new(loaded.index);
    info!(
        version = VERSION,
        spool = %format_args!("{:016x}", spool.0),
        grpc = %options.grpc_address(),
        admin = %options.admin_address(),
        nodes = index.nodes(),
        addresses = index.addresses(),
        "starting"
    );
    let grpc = serve::bind(options.grpc_address()).await?;
    let http = admin::bind(options.admin_address()).await?;

    let mut fan = Fan::default();
    let sink_metrics = SinkMetrics::register(&mut registry);
    let scrape = Scrape::new(&sink_metrics);
    fan.add_scrape(&scrape, &mut tasks);
    for config in loaded.file.sinks {
        info!(sink = config.name, to = config.origin(), interval_ms = config.interval.as_millis(), "sink");
        fan.add(Sink::new(config, &sink_metrics, system_clock())?, &mut tasks);
    }

    let (delivered, delivered_out) = watch::channel(Position::default());
    tasks.spawn("deliver", deliver::deliver(fan.accepted, delivered));
    let (intake, takings) = mpsc::channel(BATCHES_QUEUE);
    let enrich_metrics = EnrichMetrics::register(&mut registry);
    tasks.spawn("attribute", attribute::attribute(takings, Arc::clone(&index), fan.batches, enrich_metrics));
    admin.part("index").set(true);

    let desk = Desk {
        spool,
        version: VERSION,
        intake,
        delivered: delivered_out,
        scopes: scopes::feed(index),
        metrics: LedgerMetrics::register(&mut registry),
    };
    tasks.spawn("streams", serve(grpc, desk, tasks.stop.clone(), tasks.abandon.clone()));
    let router = admin.router(registry, flows(scrape), tasks.stop.clone());
    tasks.spawn_aside("admin", admin::serve(http, router));
    Ok(tasks)
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
            let report = egressd_sink::run(sink, queue, accepted, abandon).await;
            if report.held.bytes > 0 {
                warn!(
                    bytes = report.held.bytes,
                    flows = report.held_flows,
                    "left with what a sink does not have"
                );
            }
            anyhow::Ok(())
        });
    }
}

/// The totals as anybody may scrape them.
fn flows(scrape: Scrape) -> Router {
    async fn render(State(scrape): State<Scrape>) -> impl IntoResponse {
        ([(header::CONTENT_TYPE, SCRAPE_CONTENT_TYPE)], scrape.render(UnixNanos(unix_nanos())))
    }
    Router::new().route("/metrics/flows", get(render).with_state(scrape))
}
