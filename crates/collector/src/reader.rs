//! The thread that works at its own pace: a tick reads, meters and cuts; in between it hears of ends.
//!
//! Ends are applied as they come, during a read as well, so that their queue stays short: the meter knows which rows
//! of a read are ghosts. While whoever takes the cuts has no room, nothing is cut and open flows merge by key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use egressd_conntrack::netfilter::{EndsConfig, Keeper, Losses};
use egressd_flow::{Batch, Completeness, Ended, Scope, Snapshot, UnixNanos};
use egressd_meter::Meter;
use egressd_protocol::{Settings, Status};
use egressd_service::admin::Part;
use egressd_service::clock::unix_nanos;
use egressd_service::figures::store;
use egressd_service::lifecycle::chain;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::diagnosis::{self, Finding};
use crate::kept::Kept;
use crate::metrics::{DnsMetrics, MeterMetrics, SourceMetrics};
use crate::pace::{Cost, Pace};
use crate::source::{Again, Hearing, Plan, Rows, Unread, Waker};
use crate::usage::{self, Usage};

/// How long the thread that receives ends may take to hand over what the kernel has said.
const ENDS_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at what waits, when reads are further apart.
const LOOK_EVERY: Duration = Duration::from_secs(5);
// What starts after the clock was set back is missed only where nobody looks at it for longer.
const _: () = assert!(LOOK_EVERY.as_secs() < egressd_meter::LOOKS_APART_MAX.as_secs());
/// Between two looks whether the last batches were handed over.
const LAST_LOOKS_EVERY: Duration = Duration::from_millis(10);
/// A source that was found is looked for again this often: the directory of Cilium's maps is listed.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(10);
/// Rows of a read after which ends are applied: some 2 ms.
const ROWS_BETWEEN_ENDS: u64 = 1024;

/// The reader's connections to the rest of the collector.
pub(crate) struct Lines {
    /// `None` once the last cut was handed over.
    pub(crate) cuts: Option<mpsc::Sender<Vec<Batch>>>,
    pub(crate) scopes: mpsc::Receiver<Scope>,
    pub(crate) settings: watch::Receiver<Settings>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) ready: Part,
    /// Asks this process to end.
    pub(crate) end: Box<dyn Fn() + Send>,
}

/// What the reader is made of.
pub(crate) struct Reader {
    pub(crate) plan: Plan,
    /// What was found at the start and stays so.
    pub(crate) standing: Option<Finding>,
    /// Looks for another source to read.
    pub(crate) search: Search,
    pub(crate) ends_config: EndsConfig,
    pub(crate) meter: Meter,
    /// Ordinal of the next end that is applied.
    pub(crate) heard: u64,
    /// The same as of this process's beginning: those before it, processes before have heard.
    pub(crate) heard_before: u64,
    pub(crate) pace: Pace,
    pub(crate) kept: Option<Kept>,
    /// From the command line: it wins over Settings.
    pub(crate) read_interval: Option<Duration>,
    pub(crate) lines: Lines,
    pub(crate) source_metrics: SourceMetrics,
    pub(crate) meter_metrics: MeterMetrics,
    /// Of the tracer's thread, which tells the exporter nothing by itself.
    pub(crate) dns_metrics: DnsMetrics,
}

/// When another source was looked for last, and what stands in its way.
#[derive(Default)]
pub(crate) struct Search {
    looked: Option<Instant>,
    unread: Option<Finding>,
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
    rows: Box<dyn Rows>,
    ends: Hearing,
}

impl Reader {
    /// Opens the kernel's side and starts the thread.
    pub(crate) fn start(self) -> anyhow::Result<Handle> {
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, kernel_opened) = std::sync::mpsc::sync_channel(1);
        let (tell_end, ended) = oneshot::channel();
        let asked = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || {
                let keeper = self.kept.as_ref().map(Kept::keeper);
                let kernel = open(&self.plan, self.ends_config, keeper);
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

    /// Works until `stop`, or until the kernel can be read no more; either way what was metered leaves with a last
    /// cut.
    fn run(mut self, mut kernel: Kernel, stop: &AtomicBool) -> anyhow::Result<()> {
        let worked = self.work(&mut kernel, stop);
        if worked.is_ok()
            && let Err(error) = self.tick(&mut kernel)
        {
            error!(error = %chain(error.as_ref()), "there is no last snapshot; what was metered before is sent");
        }
        let batches = self.cut_last();
        let handed_over = self.hand_over(batches, &mut kernel);
        worked.and(handed_over)?;
        self.listen_on(&mut kernel)
    }

    fn work(&mut self, kernel: &mut Kernel, stop: &AtomicBool) -> anyhow::Result<()> {
        self.tick(kernel)?;
        // The watch begins: whoever comes after this process goes on from here.
        self.keep(&[]);
        self.source_metrics.read_interval.set(self.interval().as_secs_f64());
        let (mut last_tick, mut usage) = (Instant::now(), Usage::now(kernel.ends.spent()));
        while !stop.load(Ordering::Acquire) {
            let due = last_tick + self.interval();
            kernel.ends.wait(due.saturating_duration_since(Instant::now()).min(LOOK_EVERY));
            self.meter.look(now());
            self.hear_ends(kernel)?;
            self.hear_scopes();
            if Instant::now() < due {
                self.relieve();
                continue;
            }
            last_tick = Instant::now();
            self.look_for_another_source();
            // A long read begins with room for ends.
            self.relieve();
            let before = usage::of_thread();
            self.tick(kernel)?;
            self.cut();
            let tick = usage::of_thread().saturating_sub(before);
            self.learn(usage.turn(kernel.ends.spent(), tick));
        }
        Ok(())
    }

    /// One snapshot, then the ends that came meanwhile. A read that gives nothing this time is not the end.
    fn tick(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let read = self.read(kernel)?;
        self.hear_all_ends(kernel)?;
        let (losses, defects) = (kernel.ends.losses()?, kernel.ends.defects());
        let books = self.meter.books();
        self.source_metrics.losses(losses, defects);
        self.meter_metrics.publish(&books);
        self.meter_metrics.dropped(losses, &books);
        let mut findings = match read {
            Ok(snapshot) => kernel.rows.findings(&snapshot),
            Err(finding) => vec![finding],
        };
        findings.extend(self.slow_reads());
        findings.extend(self.standing.clone().into_iter().chain(self.search.unread.clone()));
        self.source_metrics.findings(&findings);
        let described = kernel.rows.description().map(|description| format!("; {description}"));
        let reason = format!("{}{}", self.plan.reason, described.unwrap_or_default());
        let source = (self.plan.mode.source(), reason);
        let uncounted = kernel.rows.uncounted();
        self.source_metrics.uncounted(&uncounted);
        let mut status = diagnosis::status(source, &findings, &books, losses, defects);
        status.losses.extend(diagnosis::uncounted(&uncounted));
        status.losses.extend(diagnosis::lost_answers(self.dns_metrics.lost_parts()));
        self.tell(status);
        Ok(())
    }

    /// Where there is another source by now, this process ends with what it holds handed over, and the next one reads that: all
    /// that is read here, from baselines to the state, is of one source.
    fn look_for_another_source(&mut self) {
        let Search { looked, unread } = &mut self.search;
        if looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN_EVERY) {
            return;
        }
        *looked = Some(Instant::now());
        match self.plan.look_again() {
            Some(Again::Other(mode, reason)) => {
                warn!(
                    source = mode.name(),
                    reason, "ending, so that the next process reads what is there by now"
                );
                (self.lines.end)();
            }
            Some(Again::Unread(finding)) => *unread = Some(finding),
            None => *unread = None,
        }
    }

    fn slow_reads(&self) -> Option<Finding> {
        let (interval, longest) = (self.interval(), self.plan.mode.reads_apart_max()?);
        (interval > longest).then_some(Finding::SlowReads { interval, longest })
    }

    /// Why nothing was read, where the next try may do better.
    fn read(&mut self, kernel: &mut Kernel) -> anyhow::Result<Result<Snapshot, Finding>> {
        let began = Instant::now();
        let Kernel { rows: source, ends } = kernel;
        let is_kept = !self.kept.as_ref().is_some_and(Kept::is_failing);
        let Self { meter, heard, .. } = self;
        if is_kept && let Err(Unread { error, .. }) = source.settle(&mut |ended| meter.ended(ended, now())) {
            debug!(error = %chain(error.as_ref()), "ends come with the next read");
        }
        let mut rows = 0;
        meter.begin(now());
        let read = source.read(now(), &mut |entry| {
            meter.entry(entry);
            rows += 1;
            if rows % ROWS_BETWEEN_ENDS == 0 {
                meter.look(now());
                // A listener that failed says so when it is asked after the read.
                let _said_later = ends.drain(&mut |ended| hear(meter, heard, ended));
            }
        });
        let snapshot = match read {
            Ok(snapshot) => snapshot,
            Err(Unread { error, is_transient }) => {
                meter.abandon();
                self.source_metrics.failed_reads.inc();
                if !is_transient {
                    return Err(error.context("cannot read conntrack"));
                }
                let error = chain(error.as_ref());
                debug!(error, "this read gave nothing, the next one may");
                return Ok(Err(Finding::Unreadable { error }));
            }
        };
        meter.finish(&snapshot);
        let took = began.elapsed();
        self.source_metrics.snapshot(&snapshot, took);
        if snapshot.completeness == Completeness::Complete {
            self.lines.ready.set(true);
        } else {
            self.source_metrics.partial_snapshots.inc();
            debug!(interruption = ?kernel.rows.interruption(), "the table was not read to its end");
        }
        debug!(entries = snapshot.entries, took_ms = took.as_millis(), "read");
        Ok(Ok(snapshot))
    }

    /// Passes on how the collector is, and says it once when it changes.
    fn tell(&self, status: Status) {
        self.lines.status.send_if_modified(|known| {
            if *known == status {
                return false;
            }
            if status.reason != known.reason {
                info!(source = self.plan.mode.name(), reason = %status.reason, "reading");
            }
            if diagnosis::is_news(&status, known) {
                warn!(diagnosis = %status.diagnosis, "the figures may fall short");
            }
            *known = status;
            true
        });
    }

    fn hear_ends(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let Self { meter, heard, .. } = self;
        let drained = kernel.ends.drain(&mut |ended| hear(meter, heard, ended));
        store(&self.source_metrics.ends, *heard - self.heard_before);
        drained?;
        Ok(())
    }

    fn hear_all_ends(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let Self { meter, heard, .. } = self;
        let drained = kernel.ends.drain_all(ENDS_PATIENCE, &mut |ended| hear(meter, heard, ended));
        store(&self.source_metrics.ends, *heard - self.heard_before);
        if !drained?.settled {
            warn!(patience_ms = ENDS_PATIENCE.as_millis(), "ends are handed over late");
        }
        Ok(())
    }

    fn hear_scopes(&mut self) {
        while let Ok(scope) = self.lines.scopes.try_recv() {
            self.meter.scope(&scope);
        }
    }

    /// Without a place for a cut the open flows merge on.
    fn cut(&mut self) {
        let place = self.lines.cuts.clone().and_then(|cuts| cuts.try_reserve_owned().ok());
        let batches = if place.is_some() { self.meter.cut(now()) } else { Vec::new() };
        self.meter_metrics.cut(&batches);
        self.keep(&batches);
        if let Some(place) = place.filter(|_| !batches.is_empty()) {
            place.send(batches);
        }
        self.meter_metrics.publish(&self.meter.books());
    }

    /// Before what was cut is sent, so that the next process neither forgets it nor cuts it again.
    fn keep(&mut self, cut: &[Batch]) {
        if let Some(kept) = &mut self.kept {
            kept.save(&mut self.meter, cut, self.heard);
        }
    }

    fn relieve(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.relieve(&mut self.meter, self.heard);
        }
    }

    fn cut_last(&mut self) -> Vec<Batch> {
        self.hear_scopes();
        let batches = self.meter.cut(now());
        self.meter_metrics.cut(&batches);
        self.keep(&batches);
        let books = self.meter.books();
        self.meter_metrics.publish(&books);
        info!(batches = batches.len(), unclaimed_bytes_left = books.held.bytes, "last batches cut");
        batches
    }

    /// Nothing comes after the last batches, so they wait for their place, and the kernel is heard meanwhile.
    fn hand_over(&mut self, mut batches: Vec<Batch>, kernel: &mut Kernel) -> anyhow::Result<()> {
        let Some(cuts) = self.lines.cuts.take().filter(|_| !batches.is_empty()) else { return Ok(()) };
        let mut listened = Ok(());
        while listened.is_ok() {
            batches = match cuts.try_send(batches) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(batches)) => batches,
                Err(TrySendError::Full(batches)) => {
                    listened = self.listen(kernel);
                    batches
                }
            };
            if cuts.is_closed() {
                break;
            }
        }
        if cuts.blocking_send(batches).is_err() {
            warn!("nobody takes the last batches");
        }
        listened
    }

    /// As long as this process hands over its last batches, ends are heard for the next one: it goes on from a last
    /// state, with what grew since. That is written whatever becomes of the listener.
    fn listen_on(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        if self.kept.is_none() {
            return Ok(());
        }
        let losses = self.listen_to_the_end(kernel);
        self.keep(&[]);
        let Some(kept) = &mut self.kept else { return Ok(()) };
        kept.settle();
        let (lost_ends, unprotected_ends) = (losses?.events, kept.unprotected());
        info!(lost_ends, unprotected_ends, "heard of ends up to here");
        Ok(())
    }

    /// Until nobody hands over batches any more; what was lost up to then.
    fn listen_to_the_end(&mut self, kernel: &mut Kernel) -> anyhow::Result<Losses> {
        while !self.lines.status.is_closed() {
            self.listen(kernel)?;
        }
        self.hear_all_ends(kernel)?;
        Ok(kernel.ends.losses()?)
    }

    fn listen(&mut self, kernel: &mut Kernel) -> anyhow::Result<()> {
        kernel.ends.wait(LAST_LOOKS_EVERY);
        self.meter.look(now());
        self.hear_ends(kernel)?;
        self.hear_scopes();
        self.relieve();
        Ok(())
    }

    fn interval(&self) -> Duration {
        self.pace.interval(self.asked_interval())
    }

    fn asked_interval(&self) -> Duration {
        self.read_interval
            .or(self.lines.settings.borrow().read_interval)
            .unwrap_or(self.plan.mode.read_interval())
    }

    /// Says it when reads get further apart than asked for, and when they come as asked again.
    fn learn(&mut self, cost: Cost) {
        let (asked, before) = (self.asked_interval(), self.interval());
        self.pace.learn(cost);
        let interval = self.interval();
        self.source_metrics.read_interval.set(interval.as_secs_f64());
        if (before > asked) != (interval > asked) {
            info!(?asked, ?interval, "the time between reads follows --cpu-percent-max");
        }
    }
}

fn open(plan: &Plan, ends: EndsConfig, keeper: Option<Box<dyn Keeper>>) -> anyhow::Result<Kernel> {
    Ok(Kernel { rows: plan.rows()?, ends: plan.hearing(ends, keeper)? })
}

/// Applies an end and counts it, in one step: a state must not say less than its meter knows.
fn hear(meter: &mut Meter, heard: &mut u64, ended: &Ended) {
    meter.ended(ended, now());
    *heard += 1;
}

fn now() -> UnixNanos {
    UnixNanos(unix_nanos())
}
