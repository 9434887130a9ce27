//! The election's driver: asks the API as the machine says, and tells sinks and streams what comes of it.
//!
//! A leader that is told to stop leads on until its sinks have let everything out, and then gives the Lease back, so
//! that another need not wait for it to be dead.
//! Bound: one request at a time, none longer than [`Pace::answer`](super::election::Pace::answer).

use std::time::Duration;

use egressd_delivery::random_id;
use egressd_delivery::serve::Role;
use egressd_enrich::kubernetes::Knowledge;
use egressd_flow::{Position, UnixNanos};
use egressd_service::clock::{boot_now, unix_nanos};
use egressd_service::lifecycle::chain;
use egressd_sink::{Grant, Lead};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::candidate::{Candidate, address_of};
use super::election::{Answer, Ask, Election, Loss, Record, Step, Version};
use crate::metrics::LeaseMetrics;

/// An exporter in an election, and whom it tells.
pub(crate) struct Contest {
    pub(crate) client: Client,
    pub(crate) candidate: Candidate,
    /// Of this process alone.
    pub(crate) identity: String,
    /// It contends once it knows the cluster.
    pub(crate) knowledge: Knowledge,
    pub(crate) word: Word,
    /// Ends the sinks, whatever they hold.
    pub(crate) abandon_sinks: CancellationToken,
}

/// Who hears how it stands.
pub(crate) struct Word {
    /// Every sink.
    grant: Grant,
    /// The streams.
    role: watch::Sender<Role>,
    metrics: LeaseMetrics,
}

/// Why a request came to nothing. It is tried again.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("the API refuses, or is not there")]
    Api(#[source] kube::Error),
}

impl Contest {
    /// Contends until `stop`, and while it leads until the sender of `delivered` is gone too.
    ///
    /// # Errors
    /// The lead is lost: the process must end.
    pub(crate) async fn run(
        self,
        stop: CancellationToken,
        delivered: watch::Receiver<Position>,
    ) -> Result<(), Loss> {
        let Self { client, candidate, identity, knowledge, word, abandon_sinks } = self;
        let Candidate { namespace, name, pace, .. } = &candidate;
        info!(lease = %format_args!("{namespace}/{name}"), identity, duration = ?pace.duration, "standing by");
        let mut office = Office::new(Api::namespaced(client, namespace), name, pace.answer);
        let mut election = Election::new(identity, *pace);
        let let_out = let_out(stop.clone(), delivered);
        tokio::pin!(let_out);
        loop {
            if stop.is_cancelled() && election.deadline().is_none() {
                return Ok(());
            }
            match election.next(boot_now(), knowledge.reaches() > UnixNanos(0)) {
                Step::Wait(until) => tokio::select! {
                    () = tokio::time::sleep(boot_now().until(until)) => {}
                    () = stop.cancelled(), if election.deadline().is_none() => {}
                    () = &mut let_out => {
                        let release = election.release();
                        word.tell(&election, election.holder());
                        if let Some(ask) = release {
                            office.ask(&ask, &word.metrics).await;
                        }
                        return Ok(());
                    }
                },
                Step::Ask(ask) => {
                    let sent = boot_now();
                    let answer = office.ask(&ask, &word.metrics).await;
                    let holder = election.holder().map(str::to_owned);
                    // Without randomness renewals are not spread, which is no fault.
                    election.heard(&ask, sent, boot_now(), answer, random_id().unwrap_or(0));
                    word.tell(&election, holder.as_deref());
                }
                Step::Lost(loss) => {
                    word.tell(&election, election.holder());
                    abandon_sinks.cancel();
                    return Err(loss);
                }
            }
        }
    }
}

/// A stop, and everything has left the sinks that ever will.
async fn let_out(stop: CancellationToken, mut delivered: watch::Receiver<Position>) {
    stop.cancelled().await;
    while delivered.changed().await.is_ok() {}
}

impl Word {
    /// Nobody leads yet: what it tells, for the sinks and for the streams.
    pub(crate) fn new(metrics: LeaseMetrics) -> (Self, Lead, watch::Receiver<Role>) {
        let ((grant, lead), (role, told)) = (Lead::elected(), watch::channel(Role::Standby(None)));
        (Self { grant, role, metrics }, lead, told)
    }

    /// Tells how it stands now; `before` is who held the Lease until now.
    fn tell(&self, election: &Election, before: Option<&str>) {
        let holder = election.holder();
        let role = match election.deadline() {
            Some(deadline) => {
                self.grant.until(deadline);
                Role::Leader
            }
            None => {
                self.grant.end();
                Role::Standby(election.other_holder().and_then(address_of))
            }
        };
        if holder.is_some() && holder != before {
            self.metrics.holders.inc();
            info!(holder, "the lease has a new holder");
        }
        self.role.send_if_modified(|known| {
            let is_news = *known != role;
            if is_news && role == Role::Leader {
                info!("this exporter leads");
            }
            *known = role;
            is_news
        });
    }
}

/// Where the Lease is.
struct Office {
    leases: Api<Lease>,
    name: String,
    answer_within: Duration,
    /// As it was read or written last; what is not the election's stays as it is.
    lease: Lease,
    /// A failure is said once.
    failing: bool,
}

impl Office {
    fn new(leases: Api<Lease>, name: &str, answer_within: Duration) -> Self {
        Self { leases, name: name.to_owned(), answer_within, lease: Lease::default(), failing: false }
    }

    async fn ask(&mut self, ask: &Ask, metrics: &LeaseMetrics) -> Answer {
        let within = self.answer_within;
        let answered = tokio::time::timeout(within, self.request(ask)).await;
        let outcome = match answered {
            Err(_) => Err(Unanswered::Late(within)),
            Ok(Err(error)) => of_status(error),
            Ok(Ok(answer)) => Ok(answer),
        };
        match outcome {
            Ok(answer) => {
                if std::mem::take(&mut self.failing) {
                    info!("the lease can be asked for again");
                }
                answer
            }
            Err(error) => {
                metrics.failures.inc();
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(error = %chain(&error), "cannot ask for the lease, trying again");
                }
                Answer::Failed
            }
        }
    }

    async fn request(&mut self, ask: &Ask) -> kube::Result<Answer> {
        let (leases, post) = (&self.leases, PostParams::default());
        let lease = match ask {
            Ask::Read => match leases.get_opt(&self.name).await? {
                Some(lease) => lease,
                None => return Ok(Answer::Absent),
            },
            Ask::Create(record) => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                leases.create(&post, &written(Lease { metadata, spec: None }, record)).await?
            }
            Ask::Replace(Version(version), record) => {
                let mut lease = self.lease.clone();
                lease.metadata.resource_version = Some(version.clone());
                leases.replace(&self.name, &post, &written(lease, record)).await?
            }
        };
        let version = Version(lease.metadata.resource_version.clone().unwrap_or_default());
        let record = record_in(&lease);
        self.lease = lease;
        Ok(Answer::Is(version, record))
    }
}

/// Some refusals are answers.
fn of_status(error: kube::Error) -> Result<Answer, Unanswered> {
    match error {
        kube::Error::Api(status) if status.code == 404 => Ok(Answer::Absent),
        kube::Error::Api(status) if status.code == 409 => Ok(Answer::Conflict),
        error => Err(Unanswered::Api(error)),
    }
}

fn record_in(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Record {
        holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(seconds.unwrap_or(0)),
        transitions: spec.lease_transitions.unwrap_or(0),
    }
}

/// The Lease with `record` in it. The times are for those who look at it, by our clock: nobody here decides by them.
fn written(mut lease: Lease, record: &Record) -> Lease {
    let nanos = i128::from(unix_nanos());
    let now = Timestamp::from_nanosecond(nanos).ok().map(MicroTime);
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity != record.holder {
        spec.acquire_time.clone_from(&now);
    }
    spec.renew_time = now;
    spec.holder_identity.clone_from(&record.holder);
    spec.lease_duration_seconds =
        i32::try_from(record.duration.as_secs()).ok().filter(|seconds| *seconds > 0);
    spec.lease_transitions = Some(record.transitions);
    lease
}
