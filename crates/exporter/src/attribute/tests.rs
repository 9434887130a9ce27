//! What collectors are told and what batches are named, in the order in which the cluster becomes known.

use egressd_enrich::{Node, Pod, PodUid};
use egressd_flow::{Batch, Counter, Epoch, IpProtocol, Name, Sequence, Span, TopologyZone, Traffic};
use egressd_protocol::{CollectorFlags, Hello, Source};
use egressd_service::admin::Admin;
use prometheus_client::registry::Registry;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// Of the spool, before the first batch.
const LAST: Position = Position(40);
const PATIENCE: Duration = Duration::from_secs(60);

fn node(name: &str) -> NodeName {
    NodeName(name.into())
}

fn pod(name: &str, namespace: &str, address: &str) -> Pod {
    Pod {
        uid: PodUid(name.into()),
        namespace: namespace.into(),
        name: name.into(),
        node: Some(node("node-a")),
        addresses: vec![address.parse().unwrap()],
        labels: [].into(),
        workload: None,
        since: UnixNanos(1),
        until: None,
    }
}

fn nodes() -> Change {
    Change::Nodes(vec![Node {
        name: node("node-a"),
        topology_zone: Some(TopologyZone("zone-1".into())),
        region: None,
        addresses: vec!["172.18.0.2".parse().unwrap()],
        pod_ranges: vec![],
        labels: [].into(),
        taints: vec![],
    }])
}

/// An attribution under test, and everything around it.
struct Bench {
    changes: mpsc::Sender<Change>,
    takings: mpsc::Sender<Taking>,
    requests: mpsc::Sender<ScopeRequest>,
    names: mpsc::Sender<Heard>,
    stop: CancellationToken,
    attributed: mpsc::Receiver<Taken>,
    registry: Registry,
    running: JoinHandle<Result<(), SpoolGone>>,
}

impl Bench {
    fn start(patience: Duration) -> Self {
        Self::start_knowing(patience, Knowledge::default())
    }

    fn start_knowing(patience: Duration, knowledge: Knowledge) -> Self {
        Self::naming(Naming { patience, ..Naming::default() }, knowledge)
    }

    fn naming(naming: Naming, knowledge: Knowledge) -> Self {
        Self::with_room(naming, knowledge, WAITING_BYTES_MAX)
    }

    fn with_room(naming: Naming, knowledge: Knowledge, waiting_bytes_max: usize) -> Self {
        let (changes, changes_out) = mpsc::channel(16);
        let (takings, takings_out) = mpsc::channel(16);
        let (requests, scope_requests) = mpsc::channel(16);
        let (names, names_out) = mpsc::channel(16);
        let (appends, attributed) = mpsc::channel(16);
        let stop = CancellationToken::new();
        let mut registry = Registry::default();
        let mut attribution = Attribution::new(
            Cluster::Kubernetes(changes_out, knowledge),
            naming,
            (LAST, appends),
            EnrichMetrics::register(&mut registry),
            Roster::default(),
            Admin::default().part("cluster"),
        );
        attribution.waiting_bytes_max = waiting_bytes_max;
        let (heard, pod_questions) = (names_out, mpsc::channel(1).1);
        let inputs =
            Inputs { takings: takings_out, names: heard, scope_requests, pod_questions, stop: stop.clone() };
        let running = tokio::spawn(attribution.run(inputs));
        Self { changes, takings, requests, names, stop, attributed, registry, running }
    }

    async fn change(&self, change: Change) {
        self.changes.send(change).await.unwrap();
    }

    /// Waits until every change so far was taken.
    async fn changes_are_in(&self) {
        while self.changes.capacity() < self.changes.max_capacity() {
            tokio::task::yield_now().await;
        }
    }

    /// A collector of node-a dials; its feed holds `places` scopes.
    async fn dial(&self, excluded: &[&str], places: usize) -> mpsc::Receiver<Scope> {
        let (feed, scopes) = mpsc::channel(places);
        self.requests.send(ScopeRequest { hello: hello(excluded), feed }).await.unwrap();
        scopes
    }

    /// A batch of one record from 10.0.0.1 to `remote`, seen just now.
    async fn offer(&self, remote: &str) -> oneshot::Receiver<Position> {
        self.offer_at(remote, UnixNanos(unix_nanos())).await
    }

    async fn offer_at(&self, remote: &str, seen: UnixNanos) -> oneshot::Receiver<Position> {
        let owner = Owner {
            address: "10.0.0.1".parse().unwrap(),
            pod_uid: "web".into(),
            namespace: "shop".into(),
            name: "web".into(),
            labels: [].into(),
            since: UnixNanos(1),
            until: None,
            measure: true,
        };
        self.offer_of(&Arc::new(owner), remote, seen).await
    }

    async fn offer_of(
        &self,
        owner: &Arc<Owner>,
        remote: &str,
        now: UnixNanos,
    ) -> oneshot::Receiver<Position> {
        let (taken, position) = oneshot::channel();
        let traffic = Traffic { tx: Counter { bytes: 5, packets: 1 }, ..Traffic::default() };
        let record =
            Record { owner: 0, remote: Some(remote.parse().unwrap()), protocol: IpProtocol::TCP, traffic };
        let batch = Batch {
            epoch: Epoch(1),
            sequence: Sequence(1),
            span: Span { from: now, to: now },
            owners: vec![Arc::clone(owner)],
            records: vec![record],
        };
        self.takings.send(Taking { hello: hello(&[]), batch, taken }).await.unwrap();
        position
    }

    /// Bytes received, emitted and held, as the metrics say.
    fn figures(&self) -> [u64; 3] {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        ["received_bytes_total", "emitted_bytes_total", "held_bytes"].map(|figure| {
            let name = format!("egressd_exporter_enrich_{figure} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        })
    }

    /// The name at the far end of the next batch that reaches the sink.
    async fn named(&mut self) -> String {
        let Taken { batch, .. } =
            timeout(PATIENCE, self.attributed.recv()).await.expect("a batch comes").unwrap();
        match &batch.records[0].remote.identity {
            Ok(identity) => identity.pod.as_ref().map_or("a node".to_owned(), |pod| pod.name.to_string()),
            Err(unattributed) => unattributed.reason().to_owned(),
        }
    }
}

fn hello(excluded: &[&str]) -> Arc<Hello> {
    Arc::new(Hello {
        node: node("node-a"),
        version: "1".to_owned(),
        source: Source::Netfilter,
        last_spool: None,
        epochs: vec![],
        clock: UnixNanos(1),
        flags: CollectorFlags {
            exclude_namespaces: excluded.iter().map(ToString::to_string).collect(),
            group_public_ips: false,
        },
    })
}

async fn told(scopes: &mut mpsc::Receiver<Scope>) -> (bool, Vec<String>) {
    let scope = timeout(PATIENCE, scopes.recv()).await.expect("a scope comes").unwrap();
    let owner =
        |owner: &Arc<Owner>| format!("{}{}", owner.name, if owner.measure { "" } else { " unmeasured" });
    (scope.whole, scope.owners.iter().map(owner).collect())
}

/// Goal: before everything was listed nobody is told a scope and no batch is named; then both happen at once.
#[tokio::test]
async fn nothing_is_said_before_everything_was_listed() {
    let mut bench = Bench::start(Duration::ZERO);
    let mut scopes = bench.dial(&["infra"], 4).await;
    let taken = bench.offer("10.0.0.2").await;
    bench.change(Change::Pods(vec![pod("web", "shop", "10.0.0.1"), pod("db", "infra", "10.0.0.2")])).await;
    tokio::task::yield_now().await;
    assert!(scopes.try_recv().is_err() && bench.attributed.try_recv().is_err());
    bench.change(nodes()).await;
    let (whole, mut owners) = told(&mut scopes).await;
    owners.sort();
    assert_eq!((whole, owners), (true, vec!["db unmeasured".to_owned(), "web".to_owned()]));
    assert_eq!(bench.named().await, "db");
    assert_eq!(taken.await, Ok(Position(LAST.0 + 1)));
}

/// Goal: after the whole, a collector is told what changes on its node, and excluded pods as such.
#[tokio::test]
async fn a_collector_is_told_the_whole_and_then_changes() {
    let bench = Bench::start(Duration::ZERO);
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    let mut scopes = bench.dial(&["infra"], 4).await;
    assert_eq!(told(&mut scopes).await, (true, vec![]));
    bench.change(Change::Pod(pod("web", "shop", "10.0.0.1"))).await;
    assert_eq!(told(&mut scopes).await, (false, vec!["web".to_owned()]));
    bench.change(Change::Pod(Pod { node: Some(node("node-b")), ..pod("far", "shop", "10.0.0.3") })).await;
    bench.change(Change::Pod(pod("dns", "infra", "10.0.0.2"))).await;
    assert_eq!(told(&mut scopes).await, (false, vec!["dns unmeasured".to_owned()]));
}

/// Goal: a node that comes or gets another address after its collector dialled is told as a whole; where host-network
/// pods are measured, as the owner of its addresses, and what it sends is the node's.
#[tokio::test]
async fn a_node_is_an_owner_where_host_network_pods_are_measured() {
    for (host_network, expected) in [(false, vec![]), (true, vec!["node-a".to_owned()])] {
        let mut bench = Bench::naming(Naming { host_network, ..Naming::default() }, Knowledge::default());
        bench.change(Change::Pods(vec![])).await;
        bench.change(Change::Nodes(vec![])).await;
        let mut scopes = bench.dial(&[], 4).await;
        assert_eq!(told(&mut scopes).await, (true, vec![]));
        bench.change(nodes()).await;
        let scope = timeout(PATIENCE, scopes.recv()).await.expect("a scope comes").unwrap();
        let names: Vec<_> = scope.owners.iter().map(|owner| owner.name.to_string()).collect();
        assert_eq!((scope.whole, names, scope.node_addresses.len()), (true, expected, 1));
        for owner in &scope.owners {
            let _taken = bench.offer_of(owner, "10.0.0.2", UnixNanos(unix_nanos())).await;
            let taken = timeout(PATIENCE, bench.attributed.recv()).await.expect("a batch comes").unwrap();
            let local = &taken.batch.records[0].local;
            assert_eq!((&local.pod, local.node.as_ref()), (&None, Some(&node("node-a"))));
        }
    }
}

/// Goal: a collector that does not keep up is told the whole again instead of missing something.
#[tokio::test(start_paused = true)]
async fn a_collector_that_falls_behind_is_told_the_whole_again() {
    let bench = Bench::start(Duration::ZERO);
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    let mut scopes = bench.dial(&[], 1).await;
    while scopes.is_empty() {
        tokio::task::yield_now().await;
    }
    for name in ["one", "two", "three"] {
        bench.change(Change::Pod(pod(name, "shop", "10.0.0.1"))).await;
    }
    // The first place was taken by the whole scope of nobody; nothing else had room.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(told(&mut scopes).await, (true, vec![]));
    let (whole, owners) = told(&mut scopes).await;
    assert_eq!((whole, owners.len()), (true, 3));
}

/// Goal: a batch waits for the watch to catch up with it, and a pod told meanwhile gives it its name.
#[tokio::test]
async fn a_batch_waits_for_the_watch() {
    let mut bench = Bench::start(Duration::from_millis(300));
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    let mut scopes = bench.dial(&[], 4).await;
    told(&mut scopes).await;
    let taken = bench.offer("10.0.0.2").await;
    bench.change(Change::Pod(pod("late", "shop", "10.0.0.2"))).await;
    assert_eq!(bench.named().await, "late");
    assert_eq!(taken.await, Ok(Position(LAST.0 + 1)));
}

/// Goal: a batch waits by a clock that nobody sets: the one on the wall stands still here.
#[tokio::test(start_paused = true)]
async fn a_batch_waits_by_a_clock_that_nobody_sets() {
    let mut bench = Bench::start(PATIENCE / 2);
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    let _taken = bench.offer("10.0.0.2").await;
    assert_eq!(bench.named().await, "unknown");
}

/// Goal: while the watch is interrupted a batch waits beyond its time, and gets the name that came meanwhile.
#[tokio::test]
async fn a_batch_waits_for_an_interrupted_watch() {
    let knowledge = Knowledge::default();
    let mut bench = Bench::start_knowing(Duration::ZERO, knowledge.clone());
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    knowledge.interrupt();
    let taken = bench.offer("10.0.0.2").await;
    assert_eq!(taken.await, Ok(Position(LAST.0 + 1)), "its stream need not wait");
    assert_eq!(bench.figures(), [5, 0, 5]);
    let silence = timeout(2 * LOOK_AGAIN, bench.attributed.recv()).await;
    assert!(silence.is_err(), "it is named before the watch goes on");
    bench.change(Change::Pod(pod("late", "shop", "10.0.0.2"))).await;
    knowledge.advance(UnixNanos(unix_nanos()));
    assert_eq!(bench.named().await, "late");
    assert_eq!(bench.figures(), [5, 5, 0]);
}

/// Goal: while the watch is interrupted a collector hears nothing of what happens, and then of all at once.
#[tokio::test(start_paused = true)]
async fn an_interrupted_watch_tells_no_scopes() {
    let knowledge = Knowledge::default();
    let bench = Bench::start_knowing(Duration::ZERO, knowledge.clone());
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    let mut scopes = bench.dial(&[], 4).await;
    assert_eq!(told(&mut scopes).await, (true, vec![]));
    knowledge.interrupt();
    bench.change(Change::Pod(pod("one", "shop", "10.0.0.1"))).await;
    bench.change(Change::Pod(pod("two", "shop", "10.0.0.2"))).await;
    assert_eq!(told(&mut scopes).await, (false, vec![]), "only how old it is");
    knowledge.advance(UnixNanos(1));
    let (whole, mut owners) = told(&mut scopes).await;
    owners.sort();
    assert_eq!((whole, owners), (true, vec!["one".to_owned(), "two".to_owned()]));
}

/// Goal: a watch that stays interrupted keeps new pods from being measured no longer than it may.
#[tokio::test(start_paused = true)]
async fn an_interruption_silences_scopes_no_longer_than_it_may() {
    let knowledge = Knowledge::default();
    let bench = Bench::start_knowing(Duration::ZERO, knowledge.clone());
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    let mut scopes = bench.dial(&[], 64).await;
    assert_eq!(told(&mut scopes).await, (true, vec![]));
    let begun = Instant::now();
    knowledge.interrupt();
    bench.change(Change::Pod(pod("new", "shop", "10.0.0.1"))).await;
    let whole = loop {
        let scope = timeout(PATIENCE, scopes.recv()).await.expect("a scope comes").unwrap();
        if scope.whole {
            break scope;
        }
    };
    assert_eq!(
        (whole.owners.len(), whole.as_of),
        (1, UnixNanos(0)),
        "told, and complete up to no later than before"
    );
    assert!((HELD_MAX..HELD_MAX + 2 * REFRESH).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

/// Goal: a collector that dials while the watch is interrupted hears no half of what happened and no time up to which
/// it knew all, and the whole once that is known; where nothing happened yet, the whole at once.
#[tokio::test(start_paused = true)]
async fn who_dials_during_an_interruption_waits_for_the_whole() {
    let knowledge = Knowledge::default();
    let bench = Bench::start_knowing(Duration::ZERO, knowledge.clone());
    bench.change(Change::Pods(vec![pod("old", "shop", "10.0.0.9")])).await;
    bench.change(nodes()).await;
    knowledge.advance(UnixNanos(5));
    knowledge.interrupt();
    assert_eq!(told(&mut bench.dial(&[], 4).await).await, (true, vec!["old".to_owned()]));
    bench.change(Change::Pod(pod("one", "shop", "10.0.0.1"))).await;
    bench.changes_are_in().await;
    let mut scopes = bench.dial(&[], 4).await;
    let nothing = Scope { as_of: UnixNanos(0), whole: false, owners: vec![], node_addresses: vec![] };
    assert_eq!(timeout(PATIENCE, scopes.recv()).await.expect("a word"), Some(nothing));
    knowledge.advance(UnixNanos(6));
    let whole = timeout(PATIENCE, scopes.recv()).await.expect("a scope comes").unwrap();
    assert_eq!((whole.as_of, whole.whole, whole.owners.len()), (UnixNanos(6), true, 2));
}

/// Goal: a batch waits for an interrupted watch no longer than it may, and what the watch knew before needs no wait.
#[tokio::test]
async fn a_batch_waits_no_longer_than_it_may() {
    let now = UnixNanos(unix_nanos());
    for (reaches, seen) in [(UnixNanos(1), now.saturating_sub(HELD_MAX)), (now.saturating_add(HELD_MAX), now)]
    {
        let knowledge = Knowledge::default();
        let mut bench = Bench::start_knowing(Duration::ZERO, knowledge.clone());
        bench.change(Change::Pods(vec![])).await;
        bench.change(nodes()).await;
        knowledge.advance(reaches);
        knowledge.interrupt();
        let _taken = bench.offer_at("10.0.0.2", seen).await;
        assert_eq!(timeout(LOOK_AGAIN, bench.named()).await.as_deref(), Ok("unknown"), "{reaches}");
    }
}

/// Goal: a batch goes to the spool under the epoch and the sequence that it came under; while the spool takes nothing
/// collectors are told scopes all the same, and what waits goes on when it takes something.
#[tokio::test(start_paused = true)]
async fn a_spool_that_takes_nothing_keeps_no_scope_back() {
    let mut bench = Bench::start(Duration::ZERO);
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    for _ in 0..17 {
        bench.offer("10.0.0.2").await.await.unwrap();
    }
    bench.change(Change::Pod(pod("late", "shop", "10.0.0.9"))).await;
    let mut scopes = bench.dial(&[], 4).await;
    assert_eq!(told(&mut scopes).await, (true, vec!["late".to_owned()]));
    for position in 1..=17 {
        let Taken { epoch, sequence, batch } = bench.attributed.recv().await.unwrap();
        assert_eq!((epoch, sequence, batch.position), (Epoch(1), Sequence(1), Position(LAST.0 + position)));
    }
}

/// Goal: a stop names what waits and ends; before the cluster is known it takes nothing and ends.
#[tokio::test]
async fn a_stop_names_what_waits() {
    let Bench { changes, takings, stop, mut attributed, running, requests, .. } = {
        let bench = Bench::start(Duration::from_secs(3600));
        bench.change(Change::Pods(vec![])).await;
        bench.change(nodes()).await;
        told(&mut bench.dial(&[], 4).await).await;
        let _taken = bench.offer("10.0.0.2").await;
        bench
    };
    stop.cancel();
    drop(takings);
    timeout(PATIENCE, running).await.expect("it ends").unwrap().unwrap();
    assert_eq!(attributed.recv().await.unwrap().batch.position, Position(LAST.0 + 1));
    drop((changes, requests));

    let unsynced = Bench::start(Duration::ZERO);
    let taken = unsynced.offer("10.0.0.2").await;
    unsynced.stop.cancel();
    timeout(PATIENCE, unsynced.running).await.expect("it ends").unwrap().unwrap();
    assert!(taken.await.is_err(), "its collector keeps it");
}

/// Goal: when there is no room for another batch none is taken; a stop is seen all the same, and what is on its way
/// then is taken and named.
#[tokio::test(start_paused = true)]
async fn a_stop_is_seen_without_room_for_another_batch() {
    let naming = Naming { patience: Duration::from_secs(3600), ..Naming::default() };
    let mut bench = Bench::with_room(naming, Knowledge::default(), 1);
    bench.change(Change::Pods(vec![])).await;
    bench.change(nodes()).await;
    assert_eq!(bench.offer("10.0.0.2").await.await, Ok(Position(LAST.0 + 1)));
    let mut second = bench.offer("10.0.0.3").await;
    assert!(timeout(PATIENCE, &mut second).await.is_err(), "there is no room");
    bench.stop.cancel();
    drop(bench.takings);
    timeout(PATIENCE, bench.running).await.expect("it ends").unwrap().unwrap();
    assert_eq!(second.await, Ok(Position(LAST.0 + 2)));
    assert_eq!(bench.attributed.recv().await.unwrap().batch.position, Position(LAST.0 + 1));
    assert_eq!(bench.attributed.recv().await.unwrap().batch.position, Position(LAST.0 + 2));
}

/// Goal: what a batch is weighed at covers its owners and its place, not only its records.
#[test]
fn a_batch_is_weighed_with_its_owners() {
    let batch = |owners: Vec<Owner>| Batch {
        epoch: Epoch(1),
        sequence: Sequence(1),
        span: Span { from: UnixNanos(1), to: UnixNanos(2) },
        owners: owners.into_iter().map(Arc::new).collect(),
        records: vec![],
    };
    let text = "x".repeat(egressd_protocol::limits::OWNER_TEXT_BYTES_MAX / 32);
    let labels = (0..32).map(|place| (place.to_string(), text.clone())).collect();
    let owner = Owner { labels, ..Owner::of_node("10.0.0.1".parse().unwrap(), &node("node-a")) };
    assert_eq!(memory_of(&batch(vec![])), size_of::<Waiting>());
    let one = memory_of(&batch(vec![owner.clone()])) - size_of::<Waiting>();
    assert!((2_048 + 32 * 48..16_384).contains(&one), "{one}");
    assert_eq!(memory_of(&batch(vec![owner; 1_000])) - size_of::<Waiting>(), 1_000 * one);
}

/// Goal: names that were told before a batch are known when it is named, however soon that is.
#[tokio::test(start_paused = true)]
async fn names_told_before_a_batch_name_it() {
    let bench = Bench::naming(Naming { names_bytes_max: 1 << 20, ..Naming::default() }, Knowledge::default());
    bench.change(nodes()).await;
    bench.change(Change::Pods(vec![])).await;
    bench.changes_are_in().await;
    let name = Name {
        address: "203.0.113.1".parse().unwrap(),
        name: "api.example.com".into(),
        time_to_live: Duration::from_secs(60),
        seen: UnixNanos(unix_nanos()),
        asker: Some("10.0.0.1".parse().unwrap()),
    };
    bench.names.send(Heard { node: NodeName("node-a".into()), names: vec![name] }).await.unwrap();
    let mut bench = bench;
    let taken = bench.offer("203.0.113.1").await;
    let batch = bench.attributed.recv().await.unwrap().batch;
    taken.await.unwrap();
    let identity = batch.records[0].remote.identity.as_ref().unwrap();
    assert_eq!(identity.dns_name.as_deref(), Some("api.example.com"));
}
