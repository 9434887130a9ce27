//! The thread that works at its own pace: a tick reads, meters and cuts; in between it hears of ends.
//!
//! The kernel's ends are applied between two reads, never during one, so that the meter knows which rows of the
//! next read are ghosts. While whoever takes the cuts has no room, nothing is cut and open flows merge by key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use egressd_conntrack::netfilter::{Ends, Table, Waker};
use egressd_flow::{Batch, Completeness, Scope, UnixNanos};
use egressd_meter::Meter;
use egressd_protocol::{Settings, Status};
use egressd_service::admin::Part;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::metrics::{MeterMetrics, SourceMetrics};
use crate::{namespace, status};

/// Exactness does not need a shorter one.
const READ_INTERVAL: Duration = Duration::from_secs(15);
/// How long the thread that receives ends may take to hand over what the kernel has said.
const ENDS_PATIENCE: Duration = Duration::from_secs(2);

/// The reader's connections to the rest of the collector.
pub(crate) struct Lines {
    pub(crate) cuts: mpsc::Sender<Vec<Batch>>,
    pub(crate) scopes: mpsc::Receiver<Scope>,
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ready: Part,
}

/// What the reader is made of.
pub(crate) struct Reader {
    pub(crate) ends_config: egressd_conntrack::netfilter::EndsConfig,
    pub(crate) meter: Meter,
    /// From the command line: it wins over Settings.
    pub(crate) read_interval: Option<Duration>,
    pub(crate) lines: Lines,
    pub(crate) source_metrics: SourceMetrics,
    pub(crate) meter_metrics: MeterMetrics,
}

/// Asks a reader to stop, and tells when it has.
pub(crate) struct Handle {
    stop: Arc<AtomicBool>,
    waker: Waker,
    ended: oneshot::Receiver<anyhow::Result<()>>,
}

impl Handle {
    /// Waits until the reader ends, after the last snapshot when it was asked to by `stop`.
    pub(crate) async fn join(mut self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            ended = &mut self.ended => return ended.context("the reader panicked")?,
            () = stop => {}
        }
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        self.ended.await.context("the reader panicked")?
    }
}

/// The kernel's side, opened in the network namespace that is read.
struct Kernel {
    table: Table,
    ends: Ends,
}

impl Reader {
    /// Opens the kernel's side and starts the thread.
    pub(crate) fn start(self, host_pid: bool) -> anyhow::Result<Handle> {
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, kernel_opened) = std::sync::mpsc::sync_channel(1);
        let (tell_end, ended) = oneshot::channel();
        let asked = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || {
                let kernel = open(host_pid, self.ends_config);
                let waker = kernel.as_ref().map(|kernel| kernel.ends.waker());
                let told = opened.send(waker.map_err(|error| anyhow::anyhow!("{}", chain(error.as_ref()))));
                if let (Ok(kernel), Ok(())) = (kernel, told) {
                    // Nobody waits for the outcome of a reader whose daemon has given up on it.
                    let _unheard = tell_end.send(self.run(kernel, &asked));
                }
            })
            .context("cannot start the reader's thread")?;
        let waker = kernel_opened.recv().context("the reader panicked")??;
        Ok(Handle { stop, waker, ended })
    }

    fn run(mut self, mut kernel: Kernel, stop: &AtomicBool) -> anyhow::Result<()> {
        // A table that cannot be read at all is for the operator; later failures may pass.
        self.read(&mut kernel).context("cannot read conntrack")?;
        let mut last_read = Instant::now();
        while !stop.load(Ordering::Acquire) {
            let due = last_read + self.interval();
            kernel.ends.wait(due.saturating_duration_since(Instant::now()));
            self.hear_ends(&mut kernel)?;
            if Instant::now() < due {
                continue;
            }
            last_read = Instant::now();
            if let Err(error) = self.read(&mut kernel) {
                self.source_metrics.failed_reads.inc();
                error!(error = %chain(error.as_ref()), "this read gave nothing, the next one may");
            }
            self.hear_scopes();
            self.cut();
        }
        self.finish(&mut kernel)
    }

    /// The last snapshot, so that what was counted until now leaves with the last cut.
    fn finish(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        self.read(kernel).context("cannot read conntrack for the last time")?;
        self.hear_scopes();
        let batches = self.meter.cut(now());
        let unclaimed = self.meter.books().held;
        self.meter_metrics.publish(&self.meter.books());
        info!(batches = batches.len(), unclaimed_bytes = unclaimed.bytes, "last snapshot taken");
        if !batches.is_empty() && self.lines.cuts.blocking_send(batches).is_err() {
            warn!("nobody takes the last batches");
        }
        Ok(())
    }

    /// One snapshot, then the ends that came meanwhile.
    fn read(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let began = Instant::now();
        let meter = &mut self.meter;
        meter.begin(now());
        let read = kernel.table.read(now(), &mut |entry| meter.entry(entry));
        let snapshot = match read {
            Ok(snapshot) => snapshot,
            Err(error) => {
                meter.abandon();
                return Err(error.into());
            }
        };
        meter.finish(&snapshot);
        let took = began.elapsed();
        self.source_metrics.snapshot(&snapshot, took);
        if snapshot.completeness == Completeness::Complete {
            self.lines.ready.set(true);
        } else {
            self.source_metrics.partial_snapshots.inc();
            debug!(interruption = ?kernel.table.interruption(), "the table was not read to its end");
        }
        self.hear_all_ends(kernel)?;
        let losses = kernel.ends.losses()?;
        self.source_metrics.losses(losses);
        let books = self.meter.books();
        self.meter_metrics.publish(&books);
        let status = status::status(&snapshot, &books, losses);
        self.lines.status.send_if_modified(|known| {
            let news = *known != status;
            if news {
                *known = status;
            }
            news
        });
        debug!(entries = snapshot.entries, active = books.entries_active, took_ms = took.as_millis(), "read");
        Ok(())
    }

    fn hear_ends(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let (meter, now) = (&mut self.meter, now());
        let heard = kernel.ends.drain(&mut |ended| meter.ended(ended, now))?;
        self.source_metrics.ends.inc_by(heard);
        Ok(())
    }

    fn hear_all_ends(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let (meter, now) = (&mut self.meter, now());
        let drained = kernel.ends.drain_all(ENDS_PATIENCE, &mut |ended| meter.ended(ended, now))?;
        self.source_metrics.ends.inc_by(drained.ends);
        Ok(())
    }

    fn hear_scopes(&mut self) {
        while let Ok(scope) = self.lines.scopes.try_recv() {
            self.meter.scope(&scope);
        }
    }

    fn cut(&mut self) {
        let Ok(place) = self.lines.cuts.try_reserve() else { return };
        let batches = self.meter.cut(now());
        if !batches.is_empty() {
            place.send(batches);
        }
        self.meter_metrics.publish(&self.meter.books());
    }

    fn interval(&self) -> Duration {
        self.read_interval.or(self.lines.settings.borrow().read_interval).unwrap_or(READ_INTERVAL)
    }
}

fn open(host_pid: bool, ends: egressd_conntrack::netfilter::EndsConfig) -> anyhow::Result<Kernel> {
    namespace::enter_host(host_pid)?;
    let kernel = Kernel { table: Table::open()?, ends: Ends::listen(ends)? };
    if let Some(warning) = kernel.ends.warning() {
        warn!(%warning, "bursts of ends may be lost; what is lost is counted");
    }
    Ok(kernel)
}

fn now() -> UnixNanos {
    UnixNanos(unix_nanos())
}
