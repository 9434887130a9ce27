//! Opens the spool before anything starts, and says what was found there.
//!
//! Invariant: a directory that cannot be used ends the process here, as every other configuration that cannot be.

use std::path::Path;

use anyhow::Context as _;
use egressd_delivery::ledger::Known;
use egressd_delivery::random_id;
use egressd_protocol::SpoolId;
use egressd_spool::{CACHE_BYTES_MAX, Recovery, STATE_BYTES_MAX, Spool, SpoolConfig, UNSYNCED_BYTES_MAX};
use tracing::{error, info, warn};

use crate::config::SpoolOptions;

/// A spool, ready to use.
pub(crate) struct Opened {
    pub(crate) spool: Spool,
    /// What collectors are told.
    pub(crate) id: SpoolId,
    pub(crate) recovery: Recovery,
}

/// Opens the directory, or begins a spool in memory.
///
/// # Errors
/// The directory is another's, in use, or not usable.
pub(crate) fn open(options: &SpoolOptions) -> anyhow::Result<Opened> {
    let (config, id) = (options.config(), random_id().context("no random bytes")?);
    let Some(path) = &options.spool_dir else {
        let spool = Spool::in_memory(config, id);
        return Ok(Opened { spool, id: SpoolId(id), recovery: Recovery::default() });
    };
    let (spool, recovery) = Spool::open(path, config, id).with_context(|| unusable(path))?;
    tell(path, &spool, &recovery);
    // Nobody knows what was taken: collectors have to count what comes again.
    let id = if recovery.is_without_watermarks { id } else { spool.id() };
    Ok(Opened { spool, id: SpoolId(id), recovery })
}

/// Whether the directory could be opened; one that is in use can.
///
/// # Errors
/// As [`open`].
pub(crate) fn check(options: &SpoolOptions) -> anyhow::Result<()> {
    let Some(path) = &options.spool_dir else { return Ok(()) };
    Spool::check(path).with_context(|| unusable(path))
}

fn unusable(path: &Path) -> String {
    format!("the spool directory {} cannot be used", path.display())
}

/// What the ledger begins with.
pub(crate) fn known(spool: &Spool) -> Vec<Known> {
    let known = spool.watermarks().map(|(node, mark)| Known {
        node,
        epoch: mark.epoch,
        taken: mark.sequence,
        heard: mark.at,
    });
    known.collect()
}

/// States the bounds with their worst case.
pub(crate) fn tell_bounds(SpoolConfig { bytes_max, age_max }: SpoolConfig, spool: &Spool) {
    info!(
        durable = spool.durable(),
        bytes_max,
        ?age_max,
        unsynced_bytes_max = UNSYNCED_BYTES_MAX,
        cache_bytes_max = CACHE_BYTES_MAX,
        state_bytes_max_a_sink = STATE_BYTES_MAX,
        "bounds of the spool; without a directory bytes_max is memory, with one a thousandth of it is"
    );
}

fn tell(path: &Path, spool: &Spool, recovery: &Recovery) {
    let Recovery { is_new, torn_bytes, damages, damaged_sinks, is_without_watermarks } = recovery;
    let (path, sinks) = (path.display(), spool.sinks().count());
    if *is_new {
        info!(%path, "the spool is new");
    } else {
        info!(%path, bytes = spool.bytes(), last = spool.last().0, sinks, torn_bytes, "the spool goes on");
    }
    for damage in damages {
        let (file, after, last) = (&damage.file, damage.after.0, damage.last.0);
        let (batches, bytes) = (damage.loss.batches, damage.loss.traffic.bytes);
        error!(
            file,
            offset = damage.offset,
            after,
            last,
            batches,
            bytes,
            "the spool is damaged: these are lost"
        );
    }
    for file in damaged_sinks {
        error!(file, "the place of a sink in the spool is damaged: it goes on at the end, as a new one");
    }
    if *is_without_watermarks {
        warn!(
            "the spool does not know what it has taken: what comes again is taken again, counted as maybe_twice"
        );
    }
}
