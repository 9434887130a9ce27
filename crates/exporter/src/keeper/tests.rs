//! The keeper over a real directory whose disk can be full, and its driver with a sink.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use egressd_flow::{Counter, Epoch, NodeName, Sequence, Span};
use egressd_sink::{Save, SinkMetrics};
use egressd_spool::{Directory, Disk, Recovery, SpoolConfig};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::metrics::SpoolMetrics;

const CONFIG: SpoolConfig = SpoolConfig { bytes_max: 1 << 20, age_max: Duration::from_secs(3600) };
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory on a disk that is full when it is told so.
struct Fillable {
    directory: Directory,
    is_full: Arc<AtomicBool>,
}

impl Fillable {
    fn room(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for Fillable {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.directory.list()
    }
    fn read(&self, name: &str, offset: u64, length: usize, into: &mut Vec<u8>) -> io::Result<()> {
        self.directory.read(name, offset, length, into)
    }
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.room()?;
        self.directory.create(name)
    }
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.room()?;
        self.directory.append(name, bytes)
    }
    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.directory.truncate(name, length)
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.directory.sync(name)
    }
    fn sync_names(&mut self) -> io::Result<()> {
        self.directory.sync_names()
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.directory.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.directory.remove(name)
    }
}

fn taken(at: u64) -> Taken {
    let batch = AttributedBatch {
        position: Position(at),
        node: NodeName("node-a".into()),
        span: Span { from: UnixNanos(0), to: UnixNanos(1) },
        records: vec![],
    };
    Taken { epoch: Epoch(1), sequence: Sequence(at), batch: Arc::new(batch) }
}

fn positions(batches: &[Arc<AttributedBatch>]) -> Vec<u64> {
    batches.iter().map(|batch| batch.position.0).collect()
}

fn keeper(path: &Path) -> (Keeper, Arc<AtomicBool>) {
    let is_full = Arc::new(AtomicBool::new(false));
    let disk = Fillable { directory: Directory::open(path).unwrap(), is_full: Arc::clone(&is_full) };
    let (spool, _) = Spool::on(Box::new(disk), CONFIG, 7).unwrap();
    (Keeper::new(spool, page()), is_full)
}

fn page() -> Scrape {
    Scrape::new(&SinkMetrics::register(&mut Registry::default()))
}

/// Goal: what a full disk does not take is neither safe nor read, is kept, and goes on in order once there is room.
#[test]
fn a_full_disk_loses_nothing_and_promises_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (mut keeper, is_full) = keeper(directory.path());
    keeper.join("sink").unwrap();
    keeper.take(taken(1));
    keeper.flush(UnixNanos(1)).unwrap();
    is_full.store(true, Ordering::Relaxed);
    keeper.take(taken(2));
    keeper.take(taken(3));
    for _ in 0..2 {
        assert!(keeper.flush(UnixNanos(2)).unwrap_err().is_transient());
        assert_eq!((keeper.safe(), keeper.is_behind()), (Position(1), true));
        assert_eq!(positions(&keeper.read("sink", Position(0)).unwrap()), [1]);
    }
    is_full.store(false, Ordering::Relaxed);
    keeper.flush(UnixNanos(3)).unwrap();
    assert_eq!((keeper.safe(), keeper.is_behind()), (Position(3), false));
    assert_eq!(positions(&keeper.read("sink", Position(1)).unwrap()), [2, 3]);
}

/// Goal: a sink joins at the end; in the next life it goes on from its place with its state, and is told how far the
/// life before may have got; what was taken is known.
#[test]
fn a_sink_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let (mut first, _) = keeper(directory.path());
    let flush = |keeper: &mut Keeper, at| {
        keeper.take(taken(at));
        keeper.flush(UnixNanos(at)).unwrap();
    };
    flush(&mut first, 1);
    let joined = Resume { position: Position(1), state: Some(vec![]), caught_up: Position(1) };
    assert_eq!(first.join("sink").unwrap(), joined);
    (2..=4).for_each(|at| flush(&mut first, at));
    first.save("sink", Position(2), b"state").unwrap();
    drop(first);

    let (mut second, _) = keeper(directory.path());
    let resumed = Resume { position: Position(2), state: Some(b"state".to_vec()), caught_up: Position(4) };
    assert_eq!((second.join("sink").unwrap(), second.safe()), (resumed, Position(4)));
    assert_eq!(positions(&second.read("sink", Position(2)).unwrap()), [3, 4]);
    let known = crate::spool::known(second.spool());
    assert_eq!((known.len(), known[0].taken), (1, Sequence(4)));
    second.take(Taken { sequence: Sequence(4), ..taken(5) });
    second.flush(UnixNanos(9)).unwrap();
    assert_eq!(second.safe(), Position(5));
    assert_eq!(positions(&second.read("sink", Position(4)).unwrap()), [0; 0]);
}

/// Goal: in memory what a sink was given is passed, so nothing is held for it.
#[test]
fn memory_holds_nothing_that_was_given() {
    let mut keeper = Keeper::new(Spool::in_memory(CONFIG, 7), page());
    keeper.join("sink").unwrap();
    (1..=3).for_each(|at| keeper.take(taken(at)));
    keeper.flush(UnixNanos(1)).unwrap();
    assert_eq!(positions(&keeper.read("sink", Position(0)).unwrap()), [1, 2, 3]);
    assert_eq!(keeper.spool().sinks().map(|(_, cursor)| cursor.position).collect::<Vec<_>>(), [Position(3)]);
}

/// A running keeper and the ways to it.
struct Bench {
    appends: mpsc::Sender<Taken>,
    requests: mpsc::Sender<Request>,
    saves: mpsc::Sender<Save>,
    safe: watch::Receiver<Position>,
    ending: CancellationToken,
    is_full: Arc<AtomicBool>,
    driving: JoinHandle<Result<(), SpoolError>>,
}

impl Bench {
    fn start(path: &Path) -> Self {
        let (keeper, is_full) = keeper(path);
        let (appends, appends_out) = mpsc::channel(4);
        let (requests, requests_out) = mpsc::channel(4);
        let (saves, saves_out) = mpsc::channel(4);
        let (safe, safe_out) = watch::channel(keeper.safe());
        let ending = CancellationToken::new();
        let inputs = Inputs {
            appends: appends_out,
            requests: requests_out,
            saves: saves_out,
            safe,
            ending: ending.clone(),
            abandon: CancellationToken::new(),
        };
        let metrics = SpoolMetrics::register(&mut Registry::default(), keeper.spool(), &Recovery::default());
        let driving = tokio::spawn(drive(keeper, metrics, inputs));
        Self { appends, requests, saves, safe: safe_out, ending, is_full, driving }
    }

    /// A sink joins and is fed; what deliveries wait for is told its place.
    async fn feed(&self, sink: &str, leave: &CancellationToken, queue: usize) -> Fed {
        let (accepted, told) = watch::channel(Position(u64::MAX));
        let (answer, joined) = oneshot::channel();
        let join = Join { sink: sink.to_owned(), accepted, answer };
        self.requests.send(Request::Join(join)).await.unwrap();
        let Resume { position, .. } = joined.await.unwrap().unwrap();
        assert_eq!(*told.borrow(), position);
        let (batches, batches_out) = mpsc::channel(queue);
        let feed = Feed {
            sink: sink.to_owned(),
            after: position,
            requests: self.requests.clone(),
            safe: self.safe.clone(),
            batches,
            leave: leave.clone(),
        };
        Fed { batches: batches_out, feeding: tokio::spawn(feed.run()) }
    }
}

struct Fed {
    batches: mpsc::Receiver<Arc<AttributedBatch>>,
    feeding: JoinHandle<Counter>,
}

impl Fed {
    async fn next(&mut self) -> u64 {
        timeout(PATIENCE, self.batches.recv()).await.expect("it comes").unwrap().position.0
    }
}

/// Goal: while the disk is full nothing is told to be safe and no state kept; then both are, each once and in order; the
/// end comes behind the last batch.
#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut bench = Bench::start(directory.path());
    let mut fed = bench.feed("sink", &CancellationToken::new(), 4).await;
    bench.is_full.store(true, Ordering::Relaxed);
    (1..=3).for_each(|at| bench.appends.try_send(taken(at)).unwrap());
    let (kept, is_kept) = oneshot::channel();
    let save = Save { sink: "sink".to_owned(), position: Position(0), state: b"state".to_vec(), kept };
    bench.saves.send(save).await.unwrap();
    let nothing = timeout(Duration::from_secs(30), bench.safe.changed()).await;
    assert!(nothing.is_err() && fed.batches.is_empty() && !bench.ending.is_cancelled());

    bench.is_full.store(false, Ordering::Relaxed);
    timeout(PATIENCE, is_kept).await.expect("it is kept").unwrap();
    for at in 1..=3 {
        assert_eq!(fed.next().await, at);
    }
    assert_eq!(*bench.safe.borrow(), Position(3));
    let Bench { appends, requests, ending, driving, .. } = bench;
    drop((appends, requests));
    assert!(timeout(PATIENCE, fed.batches.recv()).await.expect("it ends").is_none());
    timeout(PATIENCE, driving).await.expect("it ends").unwrap().unwrap();
    assert!(ending.is_cancelled());
}

/// Goal: a sink that is new while the disk is full takes part as soon as there is room, unless nobody waits any more.
#[tokio::test(start_paused = true)]
async fn a_sink_waits_for_room_to_take_part() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path());
    bench.is_full.store(true, Ordering::Relaxed);
    let join = |sink: &str| {
        let ((accepted, told), (answer, joined)) = (watch::channel(Position(9)), oneshot::channel());
        (Request::Join(Join { sink: sink.to_owned(), accepted, answer }), told, joined)
    };
    let ((first, told, mut joined), (second, _, gone)) = (join("waits"), join("gone"));
    bench.requests.send(first).await.unwrap();
    bench.requests.send(second).await.unwrap();
    assert!(timeout(Duration::from_secs(30), &mut joined).await.is_err());
    drop(gone);
    bench.is_full.store(false, Ordering::Relaxed);
    let resume = timeout(PATIENCE, joined).await.expect("it takes part").unwrap().unwrap();
    assert_eq!((resume.position, *told.borrow()), (Position(0), Position(0)));
    drop((bench.appends, bench.requests));
    timeout(PATIENCE, bench.driving).await.expect("it ends").unwrap().unwrap();
    let (keeper, _) = keeper(directory.path());
    assert_eq!(keeper.spool().sinks().map(|(name, _)| name).collect::<Vec<_>>(), ["waits"]);
}

/// Goal: a sink that leaves gets what is there by then, and what it does not take is added up; those that nobody named
/// any more are let go.
#[tokio::test(start_paused = true)]
async fn a_sink_leaves_with_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let bench = Bench::start(directory.path());
    let leave = CancellationToken::new();
    let mut fed = bench.feed("leaves", &leave, 1).await;
    let mut other = bench.feed("stays", &CancellationToken::new(), 4).await;
    for at in 1..=3 {
        let mut taken = taken(at);
        let traffic = egressd_flow::Traffic { tx: Counter { bytes: at, packets: 1 }, ..Default::default() };
        let identity = Arc::new(egressd_flow::Identity::default());
        let address = "10.0.0.1".parse().unwrap();
        Arc::make_mut(&mut taken.batch).records.push(egressd_flow::Attributed {
            local_address: address,
            local: Arc::clone(&identity),
            remote: egressd_flow::End { address: Some(address), class: None, identity: Ok(identity) },
            protocol: egressd_flow::IpProtocol::TCP,
            traffic,
        });
        bench.appends.send(taken).await.unwrap();
    }
    assert_eq!((other.next().await, other.next().await, other.next().await), (1, 2, 3));
    assert_eq!(fed.next().await, 1);
    leave.cancel();
    bench.appends.send(taken(4)).await.unwrap();
    assert_eq!(other.next().await, 4);
    assert_eq!(fed.next().await, 2);
    drop(fed.batches);
    let left = timeout(PATIENCE, fed.feeding).await.expect("it ends").unwrap();
    assert_eq!(left, Counter { bytes: 3, packets: 1 });
    let (answer, gone) = oneshot::channel();
    bench.requests.send(Request::Only { sinks: vec!["stays".to_owned()], answer }).await.unwrap();
    // It kept no state, so by the spool it had passed nothing.
    let never_passed = Counter { bytes: 6, packets: 3 };
    assert_eq!(gone.await.unwrap(), [("leaves".to_owned(), never_passed)]);
    drop((bench.appends, bench.requests));
    timeout(PATIENCE, other.feeding).await.expect("it ends").unwrap();
    timeout(PATIENCE, bench.driving).await.expect("it ends").unwrap().unwrap();
    let (keeper, _) = keeper(directory.path());
    assert_eq!(keeper.spool().sinks().map(|(name, _)| name).collect::<Vec<_>>(), ["stays"]);
}
