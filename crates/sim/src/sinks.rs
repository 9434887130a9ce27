//! The exporter's sinks: the real machines between the real spool and the fake stores.
//!
//! The order is that of the driver in `egressd-sink`: a state that is due is kept before anything else is said, each lane
//! has one request under way at most, and a batch is taken in where the machine has room, once it is durable. Requests are
//! so small in some histories that several are under way.
//!
//! Invariant: a kill between any two steps leaves no more than the requests under way in doubt. Bound: [`READ_BYTES_MAX`] a
//! step, and those of the machines.

use std::fmt;

use bytes::Bytes;
use egressd_flow::{Counter, Position, UnixNanos};
use egressd_sink::{Kind, Machine, RawHttp, RawRemoteWrite, RawSink, Resume, SinkConfig, Verdict};
use egressd_spool::{Losses, Spool};

use crate::Violation;
use crate::rng::Rng;
use crate::stores::Store;

/// Of one read of the spool.
const READ_BYTES_MAX: usize = 4 << 10;
/// Requests under way at once.
const LANES: u64 = 3;

/// Which sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Prometheus,
    Cost,
}

impl Name {
    pub(crate) const ALL: [Self; 2] = [Self::Prometheus, Self::Cost];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Prometheus => "prom",
            Self::Cost => "castai",
        }
    }

    fn kind(self) -> Kind {
        let url = "http://store.example/write".to_owned();
        let raw = match self {
            Self::Prometheus => {
                let write = RawRemoteWrite {
                    url,
                    send_received_bytes_metric: true,
                    concurrent_requests: Some(LANES),
                    ..RawRemoteWrite::default()
                };
                RawSink { prom_remote_write: Some(write), http: None }
            }
            Self::Cost => {
                let http = RawHttp { url, concurrent_requests: Some(LANES), ..RawHttp::default() };
                RawSink { http: Some(http), prom_remote_write: None }
            }
        };
        SinkConfig::new(self.text(), raw, None, &|_| None).expect("the configuration is sound").kind
    }
}

/// How a store treats a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It takes it and says so.
    Accepts,
    /// It refuses it for now, and says so: 429, 503, a transient 4xx.
    Refuses,
    /// It refuses it for what it says: 400. Only where what is set aside outlives the process.
    Rejects,
    /// It does not take it, and does not say so: a timeout on the way there.
    Drops,
    /// It takes it, and says nothing, or 500.
    TakesSilently,
    /// It takes its time.
    Waits,
}

/// One sink of one process.
pub(crate) struct Sink {
    pub(crate) name: Name,
    machine: Machine,
    /// Under way, by lane.
    bodies: Vec<Option<Bytes>>,
    /// The state that is to be kept.
    saving: Option<(Position, Vec<u8>)>,
    received: Counter,
    discarded: Counter,
    emitted: Counter,
}

impl Sink {
    /// Joins the spool, and where that outlives the process, goes on from what was kept there. `bytes_max` is of a request.
    ///
    /// # Errors
    /// What the spool keeps is not understood.
    pub(crate) fn join(
        name: Name,
        spool: &mut Spool,
        bytes_max: usize,
        now: UnixNanos,
    ) -> Result<Self, Violation> {
        let failed = |what: &dyn fmt::Display| Violation(format!("sink {}: {what}", name.text()));
        let position = spool.join(name.text()).map_err(|error| failed(&error))?;
        let state = spool.state(name.text()).map_err(|error| failed(&error))?;
        let (mut machine, mut received) = (Machine::bounded(&name.kind(), bytes_max), Counter::default());
        if spool.durable() {
            let resume = Resume { position, state, caught_up: spool.last() };
            received = machine.resume(&resume, now).map_err(|error| failed(&error))?;
        }
        let (zero, bodies) = (Counter::default(), vec![None; machine.lanes()]);
        Ok(Self { name, machine, bodies, saving: None, received, discarded: zero, emitted: zero })
    }

    /// Every byte up to here was accepted.
    pub(crate) fn accepted(&self) -> Position {
        self.machine.accepted()
    }

    /// Whether it has nothing more to tell of what the spool has.
    pub(crate) fn is_idle(&self, spool: &mut Spool) -> bool {
        let is_done = !self.is_under_way() && self.machine.held().is_zero();
        let next = spool.read(self.name.text(), self.machine.applied(), 1);
        is_done && next.is_ok_and(|read| read.batches.is_empty())
    }

    /// Reads on in the spool, up to what is durable.
    pub(crate) fn feed(&mut self, spool: &mut Spool, synced: Position, now: UnixNanos) {
        // A disk that fails is asked again.
        let Ok(read) = spool.read(self.name.text(), self.machine.applied(), READ_BYTES_MAX) else { return };
        for batch in read.batches.into_iter().filter(|batch| batch.position <= synced) {
            if !self.machine.has_room() {
                return;
            }
            let folded = self.machine.apply(&batch, now);
            self.received += folded.received;
            self.discarded += folded.discarded;
        }
    }

    /// Whether a state has to be kept before anything else is said.
    pub(crate) fn is_due(&self) -> bool {
        self.saving.is_some() || self.machine.is_due()
    }

    /// Keeps the state that is due; false when it could not be kept, and is due still.
    pub(crate) fn keep(&mut self, spool: &mut Spool) -> bool {
        let Some((position, state)) = self.saving.take().or_else(|| self.machine.due()) else { return true };
        let is_kept = spool.advance(self.name.text(), position, &state).is_ok();
        if is_kept {
            self.machine.kept();
        } else {
            self.saving = Some((position, state));
        }
        is_kept
    }

    /// Begins or goes on with a push in a lane that has nothing under way.
    pub(crate) fn request(&mut self, now: UnixNanos) {
        let idle = self.bodies.iter().position(Option::is_none);
        if let Some(lane) = idle
            && let Some(body) = self.bodies.get_mut(lane)
        {
            *body = self.machine.request(lane, now);
        }
    }

    /// Whether a request is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.bodies.iter().any(Option::is_some)
    }

    /// One of the requests under way meets the store. Gives the bytes that may be told twice by that.
    ///
    /// # Errors
    /// The store would not have it.
    pub(crate) fn answer(
        &mut self,
        rng: &mut Rng,
        store: &mut Store,
        treatment: Treatment,
        now: UnixNanos,
    ) -> Result<u64, Violation> {
        let under_way: Vec<usize> =
            (0..self.bodies.len()).filter(|lane| self.bodies[*lane].is_some()).collect();
        let Some(&lane) = rng.pick(&under_way).filter(|_| treatment != Treatment::Waits) else {
            return Ok(0);
        };
        let Some(body) = self.bodies[lane].take() else { return Ok(0) };
        if matches!(treatment, Treatment::Accepts | Treatment::TakesSilently) {
            store.take(&body)?;
        }
        let verdict = match treatment {
            Treatment::Accepts => Verdict::Accepted,
            Treatment::Refuses => Verdict::Refused,
            Treatment::Rejects => Verdict::Rejected,
            Treatment::Drops | Treatment::TakesSilently | Treatment::Waits => Verdict::Ambiguous,
        };
        let settled = self.machine.settle(lane, verdict, now);
        self.emitted += settled.emitted;
        self.discarded += settled.discarded;
        Ok(settled.ambiguous.bytes)
    }

    /// The process is killed with requests under way: each may have got there, which the next life counts.
    ///
    /// # Errors
    /// The store would not have it.
    pub(crate) fn killed(self, rng: &mut Rng, store: &mut Store) -> Result<(), Violation> {
        self.bodies.into_iter().flatten().filter(|_| rng.once_in(2)).try_for_each(|body| store.take(&body))
    }

    /// received = emitted + discarded + held.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn check(&self) -> Result<(), Violation> {
        let mut accounted = self.emitted;
        accounted += self.discarded;
        accounted += self.machine.held();
        if accounted == self.received {
            return Ok(());
        }
        Err(Violation(format!("the books of sink {} do not balance: {self:?}", self.name.text())))
    }

    /// What the spool had to let go before this sink had read it.
    pub(crate) fn losses(&self, spool: &mut Spool) -> Losses {
        let cursor =
            spool.sinks().find(|(name, _)| *name == self.name.text()).map(|(_, cursor)| cursor.losses);
        cursor.unwrap_or_default()
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, received, discarded, emitted, .. } = self;
        let held = self.machine.held();
        f.debug_struct("Sink")
            .field("name", name)
            .field("received", received)
            .field("discarded", discarded)
            .field("emitted", emitted)
            .field("held", &held)
            .finish_non_exhaustive()
    }
}
