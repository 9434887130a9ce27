//! Which sinks there are: started, changed and ended as the configuration says, without a byte lost between.
//!
//! A new sink takes what comes from then on, and one that the spool knows goes on where it was. One that is no longer
//! configured gets what is there by then and pushes it, for [`REMOVAL_MAX`] at most; what it does not get rid of is
//! counted. One whose settings change goes on by the new ones with what it holds. One that a full disk does not let take
//! part waits for it by itself.
//! Bound: two tasks and one queue of [`BATCHES_QUEUE`] batches a sink.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::time::Duration;

use egressd_flow::{Counter, Position};
use egressd_sink::{
    ClientError, Controls, Keep, Lead, Report, Resume, Save, Sink, SinkConfig, SinkMetrics, system_clock,
};
use egressd_spool::SpoolError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::deliver::{NOT_YET, Party};
use crate::keeper::{Feed, Join, Request};

/// Batches on their way to one sink.
pub(crate) const BATCHES_QUEUE: usize = 16;
/// How long the others wait for a sink to take part in the spool.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a sink that is no longer configured has to get rid of what it holds.
const REMOVAL_MAX: Duration = Duration::from_secs(60);

/// What ties the sinks to the spool.
pub(crate) struct Supply {
    pub(crate) requests: mpsc::Sender<Request>,
    /// How far batches are safe; closed behind the last.
    pub(crate) safe: watch::Receiver<Position>,
    /// Where states are kept; `None` when nothing outlives the process.
    pub(crate) saves: Option<mpsc::Sender<Save>>,
    /// Fires when the last batch is safe.
    pub(crate) ending: CancellationToken,
    /// Who waits until every sink has a batch.
    pub(crate) parties: mpsc::Sender<Party>,
}

/// Why sinks cannot be as configured now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SinksError {
    #[error("sink {name:?} changed its kind: give it another name")]
    OtherKind { name: String },
    #[error("sink {name:?} was taken out and still pushes what it held; it comes back when that is done")]
    Leaving { name: String },
    #[error("sink {name:?} cannot take part in the spool")]
    Spool {
        name: String,
        #[source]
        source: SpoolError,
    },
    #[error("the exporter is stopping")]
    Stopping,
    #[error("sink {name:?} cannot be used")]
    Client {
        name: String,
        #[source]
        source: ClientError,
    },
}

struct Running {
    config: SinkConfig,
    controls: Controls,
    leave: CancellationToken,
    abandon: CancellationToken,
}

/// How a sink ended.
pub(crate) struct Ended {
    sink: String,
    /// What it said last, and what it never took; or why it never began.
    outcome: Result<(Report, Counter), SpoolError>,
}

/// The running sinks.
pub(crate) struct Sinks {
    running: BTreeMap<String, Running>,
    leaving: BTreeSet<String>,
    tasks: JoinSet<Ended>,
    metrics: SinkMetrics,
    supply: Supply,
    lead: Lead,
    abandon: CancellationToken,
}

impl Sinks {
    /// None yet. They push while there is `lead`; `abandon` ends them all, whatever they hold.
    pub(crate) fn new(metrics: SinkMetrics, supply: Supply, lead: Lead, abandon: CancellationToken) -> Self {
        Self {
            running: BTreeMap::new(),
            leaving: BTreeSet::new(),
            tasks: JoinSet::new(),
            metrics,
            supply,
            lead,
            abandon,
        }
    }

    /// Makes the sinks those of `wanted`.
    ///
    /// # Errors
    /// What cannot be; what has changed before stays changed. Only where the spool is to blame some may have come or gone.
    pub(crate) async fn become_those_of(&mut self, wanted: Vec<SinkConfig>) -> Result<(), SinksError> {
        let prepared = self.prepare(wanted)?;
        for (config, _) in prepared.iter().filter(|(_, step)| matches!(step, Step::Changes)) {
            self.change(config.clone())?;
        }
        let kept: BTreeSet<&String> = prepared.iter().map(|(config, _)| &config.name).collect();
        let gone: Vec<String> = self.running.keys().filter(|name| !kept.contains(name)).cloned().collect();
        gone.iter().for_each(|name| self.take_out(name));
        for (config, step) in prepared {
            if let Step::Begins(begun) = step {
                let (sink, controls) = *begun;
                self.begin(config, sink, controls).await?;
            }
        }
        Ok(())
    }

    /// Lets go of the sinks that the spool knows from before and that are not among these; what they had not accepted is
    /// counted.
    pub(crate) async fn are_all(&self) {
        let sinks = self.running.keys().cloned().collect();
        let (answer, gone) = oneshot::channel();
        // The spool ends after every sink.
        let _told = self.supply.requests.send(Request::Only { sinks, answer }).await;
        for (sink, owed) in gone.await.unwrap_or_default() {
            self.metrics.removed(&sink, Counter::default(), owed);
        }
    }

    fn prepare(&self, wanted: Vec<SinkConfig>) -> Result<Vec<(SinkConfig, Step)>, SinksError> {
        let step = |config: SinkConfig| {
            let name = config.name.clone();
            let step = match self.running.get(&name) {
                Some(running) if running.config == config => Step::Stays,
                Some(running) if discriminant(&running.config.kind) != discriminant(&config.kind) => {
                    return Err(SinksError::OtherKind { name });
                }
                Some(_) => Step::Changes,
                None if self.leaving.contains(&name) => return Err(SinksError::Leaving { name }),
                None => {
                    let made = Sink::new(config.clone(), &self.metrics, system_clock());
                    let (sink, controls) = made.map_err(|source| SinksError::Client { name, source })?;
                    Step::Begins(Box::new((sink.led_by(self.lead.clone()), controls)))
                }
            };
            Ok((config, step))
        };
        wanted.into_iter().map(step).collect()
    }

    async fn begin(&mut self, config: SinkConfig, sink: Sink, controls: Controls) -> Result<(), SinksError> {
        let name = config.name.clone();
        let Supply { requests, safe, saves, ending, parties } = &self.supply;
        let (accepted, reached) = watch::channel(NOT_YET);
        // Deliveries end after every sink.
        let _told = parties.send(Party::Joined(name.clone(), reached)).await;
        let (answer, joined) = oneshot::channel();
        let join = Request::Join(Join { sink: name.clone(), accepted: accepted.clone(), answer });
        requests.send(join).await.map_err(|_| SinksError::Stopping)?;
        let place = match Place::of(joined).await? {
            Ok(place) => place,
            Err(source) => {
                let _told = parties.send(Party::Left(name.clone())).await;
                return Err(SinksError::Spool { name, source });
            }
        };
        let (leave, abandon) = (CancellationToken::new(), self.abandon.child_token());
        let (requests, safe, saves) = (requests.clone(), safe.clone(), saves.clone());
        let (ending, left, abandoned) = (ending.clone(), leave.clone(), abandon.clone());
        self.running.insert(name.clone(), Running { config, controls, leave, abandon });
        self.tasks.spawn(async move {
            let resume = tokio::select! {
                taken = place.taken() => taken,
                () = left.cancelled() => Ok(None),
                () = abandoned.cancelled() => Ok(None),
                () = ending.cancelled() => Ok(None),
            };
            let resume = match resume {
                Ok(Some(resume)) => resume,
                Ok(None) => return Ended { sink: name, outcome: Ok(Default::default()) },
                Err(refused) => return Ended { sink: name, outcome: Err(refused) },
            };
            let (batches, queue) = mpsc::channel(BATCHES_QUEUE);
            let after = resume.position;
            let feed = Feed { sink: name.clone(), after, requests, safe, batches, leave: left };
            let keep = saves.map(|saves| Keep { resume, saves, ending });
            let running = egressd_sink::run(sink, queue, accepted, keep, abandoned);
            let last = tokio::join!(running, feed.run());
            Ended { sink: name, outcome: Ok(last) }
        });
        Ok(())
    }

    fn change(&mut self, config: SinkConfig) -> Result<(), SinksError> {
        let Some(running) = self.running.get_mut(&config.name) else { return Ok(()) };
        let failed = |source| SinksError::Client { name: config.name.clone(), source };
        running.controls.change(config.clone()).map_err(failed)?;
        running.config = config;
        Ok(())
    }

    fn take_out(&mut self, name: &str) {
        info!(sink = name, longest_ms = REMOVAL_MAX.as_millis(), "taken out, pushing what it holds");
        if let Some(running) = self.running.remove(name) {
            self.leaving.insert(name.to_owned());
            running.leave.cancel();
            tokio::spawn(async move {
                tokio::time::sleep(REMOVAL_MAX).await;
                running.abandon.cancel();
            });
        }
    }

    /// Waits for the next sink to end; `None` when there is none.
    ///
    /// # Errors
    /// It panicked.
    pub(crate) async fn ended(&mut self) -> Option<Result<Ended, JoinError>> {
        self.tasks.join_next().await
    }

    /// Takes note of a sink that has ended.
    ///
    /// # Errors
    /// The spool refused a sink that is still configured after it had let it wait: it may begin anew.
    pub(crate) async fn settle(&mut self, Ended { sink, outcome }: Ended) -> Result<(), SinksError> {
        let (report, never_taken) = match outcome {
            Ok(last) => last,
            Err(source) if self.running.remove(&sink).is_some() => {
                let _told = self.supply.parties.send(Party::Left(sink.clone())).await;
                return Err(SinksError::Spool { name: sink, source });
            }
            // Nobody wants it any more.
            Err(_) => Default::default(),
        };
        if self.leaving.remove(&sink) {
            self.metrics.removed(&sink, report.held, never_taken);
            let _told = self.supply.requests.send(Request::Leave { sink: sink.clone() }).await;
            let _told = self.supply.parties.send(Party::Left(sink)).await;
        }
        Ok(())
    }

    /// Whether every sink has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.tasks.is_empty()
    }
}

/// A sink's place in the spool.
enum Place {
    Taken(Resume),
    /// The disk does not do it for now.
    Awaited(oneshot::Receiver<Result<Resume, SpoolError>>),
}

impl Place {
    /// What the spool answers, or that it takes its time.
    async fn of(
        mut joined: oneshot::Receiver<Result<Resume, SpoolError>>,
    ) -> Result<Result<Self, SpoolError>, SinksError> {
        match tokio::time::timeout(JOIN_PATIENCE, &mut joined).await {
            Ok(Ok(joined)) => Ok(joined.map(Self::Taken)),
            Ok(Err(_)) => Err(SinksError::Stopping),
            Err(_) => Ok(Ok(Self::Awaited(joined))),
        }
    }

    /// Where the sink goes on; `None` when the exporter stops before.
    ///
    /// # Errors
    /// The spool refuses it.
    async fn taken(self) -> Result<Option<Resume>, SpoolError> {
        match self {
            Self::Taken(resume) => Ok(Some(resume)),
            Self::Awaited(joined) => joined.await.ok().transpose(),
        }
    }
}

enum Step {
    Stays,
    Changes,
    Begins(Box<(Sink, Controls)>),
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;
    use std::sync::Arc;

    use egressd_flow::{
        AddressClass, Attributed, AttributedBatch, End, Identity, IpProtocol, NodeName, Span, Traffic,
        Unattributed, UnixNanos,
    };
    use egressd_service::clock::Boot;
    use prometheus_client::registry::Registry;

    use super::*;

    /// A batch with something to push.
    fn batch() -> AttributedBatch {
        let nobody = Identity::default();
        let remote = End {
            address: Some([8, 8, 8, 8].into()),
            class: Some(AddressClass::Public),
            identity: Err(Unattributed::Unknown),
        };
        let record = Attributed {
            local_address: [10, 0, 0, 1].into(),
            local: Arc::new(nobody),
            remote,
            protocol: IpProtocol::TCP,
            traffic: Traffic { tx: Counter { bytes: 1, packets: 1 }, ..Traffic::default() },
        };
        AttributedBatch {
            position: Position(1),
            node: NodeName("node-a".into()),
            span: Span { from: UnixNanos(0), to: UnixNanos(0) },
            records: vec![record],
        }
    }

    /// A sink that pushes to `address`.
    fn config(address: impl std::fmt::Display) -> SinkConfig {
        // Another test may have been quicker.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let raw = serde_saphyr::from_str(&format!("http: {{ url: 'http://{address}/' }}")).unwrap();
        SinkConfig::new("test", raw, Some(Duration::from_secs(1)), &|_| None).unwrap()
    }

    /// A spool that has that batch.
    async fn answer(mut asked: mpsc::Receiver<Request>) {
        while let Some(request) = asked.recv().await {
            match request {
                Request::Join(Join { answer, .. }) => answer.send(Ok(Resume::default())).unwrap(),
                Request::Read { after, answer, .. } => {
                    let batches = (after == Position(0)).then(|| Arc::new(batch()));
                    answer.send(batches.into_iter().collect()).unwrap();
                }
                Request::Leave { .. } | Request::Only { .. } => {}
            }
        }
    }

    /// Goal: a configured sink with something to push connects to nobody before this process leads, and then does.
    #[tokio::test(start_paused = true)]
    async fn sinks_push_only_while_the_process_leads() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let config = config(listener.local_addr().unwrap());
        let (grant, lead) = Lead::elected();
        let (requests, asked) = mpsc::channel(1);
        tokio::spawn(answer(asked));
        let (_safe, safe) = watch::channel(Position(1));
        let (parties, _parties) = mpsc::channel(1);
        let supply = Supply { requests, safe, saves: None, ending: CancellationToken::new(), parties };
        let metrics = SinkMetrics::register(&mut Registry::default());
        let mut sinks = Sinks::new(metrics, supply, lead, CancellationToken::new());
        sinks.become_those_of(vec![config]).await.unwrap();

        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        grant.until(Boot::NEVER);
        let connects = async {
            while listener.accept().is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), connects).await.expect("it pushes");
    }

    /// Goal: a sink that the spool lets wait and then refuses is said to have failed, is waited for by nobody, and begins
    /// again when the configuration is followed again.
    #[tokio::test(start_paused = true)]
    async fn a_sink_that_is_refused_late_is_missed() {
        let (requests, mut asked) = mpsc::channel(1);
        let (_safe, safe) = watch::channel(Position(1));
        let (parties, mut told) = mpsc::channel(4);
        let supply = Supply { requests, safe, saves: None, ending: CancellationToken::new(), parties };
        let metrics = SinkMetrics::register(&mut Registry::default());
        let mut sinks = Sinks::new(metrics, supply, Lead::always(), CancellationToken::new());
        let wanted = vec![config("127.0.0.1:9")];

        sinks.become_those_of(wanted.clone()).await.unwrap();
        let Some(Request::Join(join)) = asked.recv().await else { panic!("it joins") };
        let refused = SpoolError::TooManySinks { name: join.sink, sinks_max: 1, name_bytes_max: 1 };
        join.answer.send(Err(refused)).unwrap();
        let ended = sinks.ended().await.expect("there is one").expect("it did not panic");
        let settled = sinks.settle(ended).await;
        assert!(matches!(settled, Err(SinksError::Spool { name, .. }) if name == "test"));
        assert!(matches!(told.recv().await, Some(Party::Joined(name, _)) if name == "test"));
        assert!(matches!(told.recv().await, Some(Party::Left(name)) if name == "test"));

        sinks.become_those_of(wanted).await.unwrap();
        assert!(matches!(asked.try_recv(), Ok(Request::Join(_))), "it joins again");
    }
}
