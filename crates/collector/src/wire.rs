//! The collector's parts, from the far end back: the stream, then the reader that feeds it.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use egressd_delivery::dial::{DialConfig, Security, dial};
use egressd_delivery::window::Window;
use egressd_delivery::{WindowMetrics, dial, outbox, random_id};
use egressd_flow::{Epoch, UnixNanos};
use egressd_meter::Meter;
use egressd_protocol::{CollectorFlags, Settings, Source};
use egressd_service::admin::{self, Admin};
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::{Tasks, chain};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::checkpoint::{Recovered, Recovery, StateDir, Whose};
use crate::config::RunOptions;
use crate::diagnosis;
use crate::journal::{self, Journal, Replayed};
use crate::kept::Kept;
use crate::metrics::{CheckpointMetrics, DnsMetrics, MeterMetrics, SourceMetrics};
use crate::names;
use crate::pace::Pace;
use crate::reader::{self, Reader, Search};
use crate::source::{Mode, Plan};
use crate::stream::PLAIN_TEXT;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Full jitter over this long keeps 5,000 collectors from dialling a restarted exporter at once.
const REDIAL_LONGEST: Duration = Duration::from_secs(30);

/// Scopes on their way to the reader, which looks every few seconds.
const SCOPES_QUEUE: usize = 64;

pub(crate) async fn wire(options: Box<RunOptions>, mut tasks: Tasks) -> anyhow::Result<Tasks> {
    let mut registry = Registry::default();
    let mut admin = Admin::default();
    let checkpoint_metrics = CheckpointMetrics::register(&mut registry);
    let plan = Plan::choose(&options.source).lasting(&options.ebpf_pin_dir, options.state_dir.is_some());
    let (kept, life) = begin(&options, &plan, &checkpoint_metrics)?;
    log_start(&options, &plan, life.meter.position().0);
    let listener = admin::bind(options.http_listen_port).await?;
    // There is nothing to read again, and a terminal that closes must not end it with what it holds.
    drop(signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?);

    // One cut at a time: while it waits, the meter's open flows merge.
    let (cuts, cuts_out) = mpsc::channel(1);
    let (names, names_out) = mpsc::channel(options.dns.queue_size());
    let (scopes, scopes_in) = mpsc::channel(SCOPES_QUEUE);
    let (settings, settings_in) = watch::channel(Settings::default());
    let (status, status_out) = watch::channel(diagnosis::starting(&plan));

    let (progress, progress_out) = watch::channel(life.window.progress());
    let stream = dial(
        dial_config(&options, plan.mode.source()),
        life.window,
        dial::Lines { cuts: cuts_out, names: names_out, scopes, settings, status: status_out, progress },
        WindowMetrics::register(&mut registry),
        tasks.abandon.clone(),
    );

    let dns_metrics = DnsMetrics::register(&mut registry);
    let untraced = names::start(&options.dns, names, dns_metrics.clone()).err();
    let reader = Reader {
        plan,
        standing: untraced,
        search: Search::default(),
        ends_config: options.ends(),
        meter: life.meter,
        heard: life.heard,
        heard_before: life.heard,
        pace: Pace::new(options.cpu_percent_max),
        kept: kept
            .map(|(directory, journal)| Kept::new(directory, journal, progress_out, checkpoint_metrics)),
        read_interval: options.read_interval,
        lines: reader::Lines {
            cuts: Some(cuts),
            scopes: scopes_in,
            settings: settings_in,
            status,
            ready: admin.part("snapshot"),
            end: {
                let stop = tasks.stop.clone();
                Box::new(move || stop.cancel())
            },
        },
        source_metrics: SourceMetrics::register(&mut registry),
        meter_metrics: MeterMetrics::register(&mut registry),
        dns_metrics,
    }
    .start()?;

    tasks.spawn("stream", async move {
        stream.await;
        Ok::<_, Infallible>(())
    });
    let stop = tasks.stop.clone();
    tasks.spawn("reader", reader.join(stop.clone().cancelled_owned()));
    tasks.spawn_aside("admin", admin::serve(listener, admin.router(registry, Router::new(), stop)));
    Ok(tasks)
}

/// The machines that this process begins or goes on with.
struct Life {
    meter: Meter,
    window: Window,
    /// Ordinal of the next end.
    heard: u64,
}

/// Goes on from what the process before left, where there is a place for it and something usable in it.
fn begin(
    options: &RunOptions,
    plan: &Plan,
    metrics: &CheckpointMetrics,
) -> anyhow::Result<(Option<(StateDir, Journal)>, Life)> {
    let Some(path) = &options.state_dir else { return Ok((None, anew(options, plan.mode)?)) };
    let source = plan.identity()?;
    let mut directory = StateDir::open(path, Whose { node: &options.node_name, source: &source })?;
    let life = match recover(&mut directory, options, plan.mode, metrics) {
        Some(recovered) => gone_on(recovered, options, metrics),
        None => anew(options, plan.mode)?,
    };
    let (journal, begun) = directory.journal(life.meter.position().0, life.heard);
    if let Err(error) = begun {
        warn!(%error, "ends cannot be kept for now: a kill loses those heard since the state before");
    }
    Ok((Some((directory, journal)), life))
}

fn recover(
    directory: &mut StateDir,
    options: &RunOptions,
    mode: Mode,
    metrics: &CheckpointMetrics,
) -> Option<Recovered> {
    let Recovery { recovered, lost_batches } =
        directory.recover(options.meter(mode), UnixNanos(unix_nanos()));
    if lost_batches > 0 {
        metrics.lost_batches.inc_by(lost_batches);
        warn!(lost_batches, "batches that the process before had not delivered are lost");
    }
    recovered.unwrap_or_else(|refusal| {
        metrics.refused.inc();
        warn!(reason = %chain(&refusal), "the checkpoint is not gone on from: beginning anew");
        None
    })
}

fn gone_on(recovered: Recovered, options: &RunOptions, metrics: &CheckpointMetrics) -> Life {
    let Recovered { meter, batches, spool, replayed } = recovered;
    let Replayed { ends, next: heard, missing, torn } = replayed;
    let (epoch, next) = meter.position();
    let entries = meter.books().entries;
    info!(%epoch, entries, batches = batches.len(), ends, "going on from a checkpoint");
    metrics.replayed_ends.inc_by(ends);
    metrics.missing_ends.inc_by(missing);
    metrics.torn_journals.inc_by(torn);
    if missing + torn > 0 {
        warn!(missing_ends = missing, torn_files = torn, "ends that the process before had heard are lost");
    }
    let bounds = (options.window_bytes_max.get(), options.window_taken_bytes_max.get());
    Life { meter, window: Window::resume((epoch, next), batches, spool, bounds), heard }
}

fn anew(options: &RunOptions, mode: Mode) -> anyhow::Result<Life> {
    let epoch = Epoch(random_id().context("no random bytes")?);
    let meter = Meter::new(options.meter(mode), epoch, random_key()?, UnixNanos(unix_nanos()));
    let window = Window::new(epoch, options.window_bytes_max.get(), options.window_taken_bytes_max.get());
    Ok(Life { meter, window, heard: 0 })
}

fn dial_config(options: &RunOptions, source: Source) -> DialConfig {
    DialConfig {
        exporter: options.stream.exporter_address.clone(),
        security: options.stream.security(),
        node: options.node_name.clone(),
        version: VERSION,
        source,
        flags: CollectorFlags {
            exclude_namespaces: options.exclude_namespaces.clone(),
            group_public_ips: options.group_public_ips,
        },
        redial_longest: REDIAL_LONGEST,
    }
}

fn random_key() -> anyhow::Result<[u8; 16]> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).context("no random bytes")?;
    Ok(key)
}

fn log_start(options: &RunOptions, plan: &Plan, epoch: Epoch) {
    let security = options.stream.security();
    if security == Security::Plain {
        warn!("{PLAIN_TEXT}");
    }
    info!(
        version = VERSION,
        node = %options.node_name,
        %epoch,
        exporter = %options.stream.exporter_address,
        %security,
        http_port = options.http_listen_port,
        source = plan.mode.name(),
        reason = %plan.reason,
        ct_zones = %options.source.ct_zones,
        "starting"
    );
    let window_bytes = options.window_bytes_max.saturating_add(options.window_taken_bytes_max.get());
    info!(
        entries_max = options.entries_max,
        meter_bytes_max = options.meter(plan.mode).worst_case_bytes(),
        ends_bytes_max = plan.mode.tells_ends().then(|| options.ends().worst_case_bytes()),
        kernel_bytes_max = plan.kernel_bytes_max(),
        window_bytes_max = window_bytes,
        // A state beside the one that replaces it, the window's batches, and ends; of a tmpfs.
        checkpoint_bytes_max = options.state_dir.as_ref().map(|_| {
            2 * options.meter(plan.mode).state_bytes_max() + window_bytes.get() + journal::BYTES_MAX
        }),
        // The kernel's ring, what tracing holds, and what the stream holds of names.
        dns_bytes_max = options
            .dns
            .ebpf_dns_tracer_enabled
            .then(|| names::worst_case_bytes(&options.dns) + outbox::BYTES_MAX),
        "memory at worst"
    );
}
