//! The tracer's thread: looks at the kernel's ring twenty times a second and passes names on to the stream.
//!
//! Names are worth less than bytes: where they cannot be traced the collector says so and goes on. A stream that takes
//! none for a while makes this thread wait, and then the ring loses answers, counted by the program.
//! Bound: the ring, what waits for the rest of its message, and the queue to the stream.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use egressd_dns::{RING_BYTES, Tracer, streams};
use egressd_flow::{NAME_BYTES_MAX, Name, UnixNanos};
use egressd_service::clock::{boot_now, unix_nanos};
use egressd_service::lifecycle::chain;
use tokio::sync::mpsc;
use tracing::{error, info};

use crate::config::DnsOptions;
use crate::diagnosis::Finding;
use crate::metrics::DnsMetrics;

/// Between two looks at the ring. Traffic follows an answer at once, and its batch is named seconds later.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What tracing takes at worst, in bytes, the kernel's ring included and what the stream holds not.
pub(crate) fn worst_case_bytes(options: &DnsOptions) -> usize {
    let queue = options.queue_size() * (size_of::<Name>() + NAME_BYTES_MAX + 32);
    RING_BYTES as usize + 2 * streams::BYTES_MAX + queue
}

/// Starts tracing, where it is asked for.
///
/// # Errors
/// Why names cannot be traced.
pub(crate) fn start(
    options: &DnsOptions,
    names: mpsc::Sender<Name>,
    metrics: DnsMetrics,
) -> Result<(), Finding> {
    if !options.ebpf_dns_tracer_enabled {
        return Ok(());
    }
    let untraced = |error: &(dyn std::error::Error + 'static)| Finding::Untraced { error: chain(error) };
    let tracer = Tracer::open(options.cgroup_dir.as_deref(), RING_BYTES).map_err(|error| untraced(&error))?;
    let worker = Worker { tracer, names, metrics };
    let started = thread::Builder::new().name("names".to_owned()).spawn(move || worker.run());
    started.map_err(|error| untraced(&error))?;
    info!(cgroup = ?options.cgroup_dir, "tracing DNS answers");
    Ok(())
}

/// Whether names could be traced, where it is asked for.
pub(crate) fn check(options: &DnsOptions) -> Option<Finding> {
    let probe = || egressd_dns::probe(options.cgroup_dir.as_deref());
    let error = options.ebpf_dns_tracer_enabled.then(probe)?.err()?;
    Some(Finding::Untraced { error: chain(&error) })
}

struct Worker {
    tracer: Tracer,
    names: mpsc::Sender<Name>,
    metrics: DnsMetrics,
}

impl Worker {
    fn run(mut self) {
        self.metrics.tracing.set(1);
        // The stream ends last, and with it the need of names.
        while !self.names.is_closed() {
            thread::sleep(LOOK_EVERY);
            if let Err(error) = self.look() {
                error!(error = %chain(error.as_ref()), "DNS answers are not traced any more, names run out");
                break;
            }
        }
        self.metrics.tracing.set(0);
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let Self { tracer, names, metrics, .. } = self;
        tracer
            .drain(UnixNanos(unix_nanos()), boot_now().since_boot(), &mut |name| {
                // A stream that has ended takes none any more, and nobody misses them.
                let _ended = names.blocking_send(name);
            })
            .context("its ring")?;
        metrics.publish(&tracer.books(), &tracer.counts().context("its counters")?);
        Ok(())
    }
}
