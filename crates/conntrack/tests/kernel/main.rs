//! The reader against the kernel's own connection tracking, in network namespaces without a name.
//!
//! Needs root, `ip`, `nft`, `conntrack` and `setpriv`. Each test runs on a thread of its own in a namespace of its
//! own, which goes with the thread; traffic stays on its loopback.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, thread};

use egressd_conntrack::netfilter::{
    CtZones, Drained, Ends, EndsConfig, Keeper, ListenError, Losses, ReadError, Table, codec, sysctl,
};
use egressd_flow::{Completeness, Counter, Counters, CtZone, Defects, Ended, Entry, EntryId, IpProtocol};
use egressd_flow::{L4, Snapshot, Tuple, UnixNanos, View};
use nix::sched::{CloneFlags, unshare};

mod ct_zones;
mod protocols;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const NOW: UnixNanos = UnixNanos(1);
/// Longer than any wait of a sound kernel: reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tracks everything, and counts TCP by port on its own.
const RULES: &str = "table inet test {
    counter there { }
    counter back { }
    chain track {
        type filter hook output priority filter
        tcp dport 8080 counter name there
        tcp sport 8080 counter name back
        ct state new accept
    }
}";

/// Runs `test` in a namespace with loopback up, tracking on and the three sysctls set.
fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("kernel tests need root: no network namespace can be made");
        run("ip", &["link", "set", "lo", "up"]);
        feed("nft", &["-f", "-"], RULES);
        sysctl::init().expect("a fresh namespace takes the sysctls");
        test()
    };
    thread::scope(|scope| scope.spawn(body).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs a tool in the thread's namespace and returns what it printed.
fn run(tool: &str, arguments: &[&str]) -> String {
    feed(tool, arguments, "")
}

fn feed(tool: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{tool} is not installed: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("the tool reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("the tool ends");
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the tool prints UTF-8")
}

/// Two UDP sockets. A port is never bound twice in one namespace: while another test starts a tool, the child holds
/// every closed socket open until it becomes that tool.
struct Exchange {
    client: UdpSocket,
    server: UdpSocket,
}

impl Exchange {
    fn new(from: SocketAddr, to: SocketAddr) -> Self {
        let bind = |address| UdpSocket::bind(address).expect("the port is free");
        Self { client: bind(from), server: bind(to) }
    }

    /// `sent` bytes of payload there and `answered` back, in one datagram each.
    fn run(&self, sent: usize, answered: usize) {
        pass(&self.client, &self.server, sent);
        pass(&self.server, &self.client, answered);
    }
}

fn pass(from: &UdpSocket, to: &UdpSocket, payload: usize) {
    let address = to.local_addr().expect("it is bound");
    from.send_to(&vec![0; payload], address).expect("loopback is up");
    to.recv_from(&mut [0; 2048]).expect("it was sent");
}

/// `sent` bytes of payload over TCP to port 8080, closed from this side first.
fn connection(address: IpAddr, sent: usize) {
    let listener = TcpListener::bind((address, 8080)).expect("the port is free");
    let mut client = TcpStream::connect((address, 8080)).expect("it listens");
    let (mut server, _) = listener.accept().expect("it connected");
    client.write_all(&vec![0; sent]).expect("it is connected");
    drop(client);
    let received = server.read_to_end(&mut Vec::new()).expect("it is connected");
    assert_eq!(received, sent);
}

/// One datagram of 50 bytes of payload from each of the ports: as many entries, of 78 bytes in one packet each.
fn datagrams(from_ports: std::ops::Range<u16>) {
    let server = UdpSocket::bind((V4, 0)).expect("some port is free");
    for port in from_ports {
        pass(&UdpSocket::bind((V4, port)).expect("the port is free"), &server, 50);
    }
}

/// What the table should show for an exchange of one datagram each way.
fn exchanged(from: SocketAddr, to: SocketAddr, sent: u64, answered: u64) -> String {
    let headers = if from.is_ipv4() { 20 + 8 } else { 40 + 8 };
    format!("udp {from}>{to} tx={}/1 rx={}/1", sent + headers, answered + headers)
}

/// Without what no test can know: kernel id, start, status and timeout, which are checked to be there.
fn plain(entry: &Entry) -> String {
    let EntryId { original, kernel_id, start } = entry.id;
    assert!(kernel_id.is_some() && start.is_some(), "{entry}");
    assert!(entry.status.is_some() && entry.timeout_seconds.is_some(), "{entry}");
    Entry { id: EntryId { original, kernel_id: None, start: None }, ..*entry }.to_string()
}

fn read(table: &mut Table) -> (Vec<Entry>, Snapshot) {
    let mut entries = Vec::new();
    let snapshot = table.read(NOW, &mut |entry| entries.push(*entry)).expect("the table is readable");
    assert!(table.interruption().is_none());
    (entries, snapshot)
}

fn complete(entries: u64) -> Snapshot {
    let (completeness, defects) = (Completeness::Complete, Defects::default());
    Snapshot { completeness, begun: NOW, entries, offloaded: 0, defects }
}

fn listen(receive_buffer_bytes: usize, queue_entries: usize) -> Ends {
    let queue_entries = NonZeroUsize::new(queue_entries).expect("tests ask for some");
    let config = EndsConfig { receive_buffer_bytes, queue_entries };
    Ends::listen(config, CtZones::ALL, None).expect("root may listen")
}

fn drain_all(ends: &mut Ends) -> Vec<Ended> {
    let mut found = Vec::new();
    let drained = ends.drain_all(PATIENCE, &mut |ended| found.push(*ended)).expect("the thread receives");
    assert_eq!(drained, Drained { ends: found.len() as u64, settled: true });
    found
}

fn directed(entry: &Entry) -> (Counter, Counter) {
    match entry.counters {
        Some(Counters::Directed { tx, rx }) => (tx, rx),
        other => panic!("{other:?} in {entry}"),
    }
}

/// An nft counter, found by its name.
fn nft_counter(name: &str) -> Counter {
    let text = run("nft", &["list", "counter", "inet", "test", name]);
    let after = |word: &str| {
        let mut words = text.split_whitespace().skip_while(|found| *found != word);
        words.nth(1).and_then(|number| number.parse().ok()).expect("nft prints packets and bytes")
    };
    Counter { bytes: after("bytes"), packets: after("packets") }
}

/// Goal: one dump shows both families, each entry with exactly the bytes and packets that were sent.
#[test]
fn one_dump_shows_udp_of_both_families_to_the_byte() {
    in_namespace(|| {
        let mut table = Table::open(CtZones::ALL).unwrap();
        assert_eq!(read(&mut table), (vec![], complete(0)));
        let mut expected = Vec::new();
        for (address, from_port) in [(V4, 4000), (V6, 4000), (V4, 4001)] {
            let (from, to) =
                (SocketAddr::new(address, from_port), SocketAddr::new(address, from_port + 3000));
            Exchange::new(from, to).run(100, 200);
            expected.push(exchanged(from, to, 100, 200));
        }
        for _ in 0..2 {
            let (entries, snapshot) = read(&mut table);
            let mut found: Vec<_> = entries.iter().map(plain).collect();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "a read changes nothing");
            assert_eq!(snapshot, complete(3));
        }
    });
}

/// Goal: a TCP entry's counters equal nft's own count of the same packets, on both families.
#[test]
fn tcp_equals_what_nft_counted() {
    for address in [V4, V6] {
        in_namespace(|| {
            connection(address, 1_000_000);
            let (entries, snapshot) = read(&mut Table::open(CtZones::ALL).unwrap());
            assert_eq!(snapshot, complete(1));
            let entry = entries[0];
            assert_eq!((entry.id.original.dst, entry.id.original.protocol), (address, IpProtocol::TCP));
            assert_eq!(entry.reply, entry.id.original.inverted());
            let (there, back) = (nft_counter("there"), nft_counter("back"));
            assert_eq!(directed(&entry), (there, back));
            assert!(there.bytes > 1_000_000);
        });
    }
}

/// Goal: entries of every protocol that the tool can make are read with their own fields and conntrack zone.
#[test]
fn entries_made_over_netlink_are_read_whole() {
    in_namespace(|| {
        let ends = ["-I", "-s", "10.0.0.1", "-d", "10.0.0.2", "-t", "600", "-p"];
        let made: [&[&str]; 4] = [
            &["udp", "--sport", "1", "--dport", "2", "-w", "5"],
            &["icmp", "--icmp-type", "8", "--icmp-code", "0", "--icmp-id", "77"],
            &["gre", "--srckey", "5", "--dstkey", "6"],
            &["udp", "--sport", "1", "--dport", "2", "--orig-zone", "9"],
        ];
        for arguments in made {
            run("conntrack", &[&ends, arguments].concat());
        }
        let (mut entries, snapshot) = read(&mut Table::open(CtZones::ALL).unwrap());
        assert_eq!(snapshot, complete(4));
        entries.sort_by_key(|entry| entry.id.original);
        let tuple = |protocol, l4, ct_zone| Tuple {
            protocol: IpProtocol(protocol),
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.0.2".parse().unwrap(),
            l4,
            ct_zone: CtZone(ct_zone),
        };
        let udp = L4::Ports { src: 1, dst: 2 };
        let ping = tuple(1, L4::Icmp { id: 77, kind: 8, code: 0 }, 0);
        let pong = Tuple { l4: L4::Icmp { id: 77, kind: 0, code: 0 }, ..ping.inverted() };
        let shared = tuple(17, udp, 5);
        let split = tuple(17, udp, 9);
        let gre = tuple(47, L4::Ports { src: 5, dst: 6 }, 0);
        let expected = [
            (ping, pong),
            (shared, shared.inverted()),
            (split, Tuple { ct_zone: CtZone(0), ..split.inverted() }),
            (gre, gre.inverted()),
        ];
        let zero = Counter::default();
        for (entry, (original, reply)) in entries.iter().zip(expected) {
            assert_eq!((entry.id.original, entry.reply, entry.view), (original, reply, View::Both));
            assert_eq!(directed(entry), (zero, zero));
        }
    });
}

/// Goal: a deleted entry ends once, under the identity that the dump showed, with its final counters.
#[test]
fn an_end_carries_the_final_counters_of_the_entry_in_the_dump() {
    in_namespace(|| {
        let mut ends = listen(1 << 20, 16);
        assert_eq!(ends.warning(), None);
        let (from, to) = (SocketAddr::new(V6, 4000), SocketAddr::new(V6, 7000));
        let exchange = Exchange::new(from, to);
        exchange.run(100, 200);
        let (before, _) = read(&mut Table::open(CtZones::ALL).unwrap());
        exchange.run(1000, 10);
        assert_eq!(drain_all(&mut ends), []);
        run("conntrack", &["-D", "-f", "ipv6"]);
        let ended = drain_all(&mut ends);
        assert_eq!(ended.len(), 1);
        let Ended { entry, stop } = ended[0];
        assert_eq!(entry.id, before[0].id);
        assert_eq!(plain(&entry), format!("udp {from}>{to} tx=1196/2 rx=306/2"));
        assert!(stop > entry.id.start, "{stop:?}");
        assert_eq!(ends.losses().unwrap(), Losses::default());
        assert_eq!(ends.defects(), Defects::default());
    });
}

/// Goal: thousands of entries are dumped once each, and as many end once each, with no byte missing, through a
/// queue that holds far fewer.
#[test]
fn two_thousand_entries_end_as_two_thousand_events() {
    in_namespace(|| {
        let mut ends = listen(8 << 20, 100);
        datagrams(20_000..22_000);
        let (entries, snapshot) = read(&mut Table::open(CtZones::ALL).unwrap());
        assert_eq!(snapshot, complete(2000));
        let before: BTreeMap<Tuple, Entry> =
            entries.into_iter().map(|entry| (entry.id.original, entry)).collect();
        assert_eq!(before.len(), 2000);
        run("conntrack", &["-D", "-p", "udp"]);
        let ended = drain_all(&mut ends);
        assert_eq!(ended.len(), 2000);
        for Ended { entry, .. } in ended {
            let dumped = &before[&entry.id.original];
            assert_eq!((entry.id, entry.counters), (dumped.id, dumped.counters));
            assert_eq!(directed(&entry), (Counter { bytes: 78, packets: 1 }, Counter::default()));
        }
        assert_eq!(ends.losses().unwrap(), Losses::default());
    });
}

/// Notes the datagrams, and how many ends it was told they hold.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<(Vec<u8>, usize)>>);

impl Keeper for Notes {
    fn keep(&mut self, datagrams: &mut dyn Iterator<Item = &[u8]>, ends: usize) {
        let (bytes, told) = &mut *self.0.lock().expect("no test panics with it");
        datagrams.for_each(|datagram| bytes.extend(datagram));
        *told += ends;
    }
}

/// Goal: a keeper has each end before it can be drained, in the same order, in bytes that decode to the same; and what
/// is passed over for its conntrack zone it never sees.
#[test]
fn a_keeper_has_every_end_before_it_is_drained() {
    in_namespace(|| {
        let (all, none) = (Notes::default(), Notes::default());
        let config =
            EndsConfig { receive_buffer_bytes: 8 << 20, queue_entries: NonZeroUsize::new(100).unwrap() };
        let listen = |ct_zones: &str, notes: &Notes| {
            Ends::listen(config, ct_zones.parse().unwrap(), Some(Box::new(notes.clone()))).unwrap()
        };
        let (mut ends, mut other) = (listen("all", &all), listen("9", &none));
        datagrams(20_000..20_500);
        run("conntrack", &["-D", "-p", "udp"]);
        let mut drained = Vec::new();
        let mut check = |ended: &Ended| {
            drained.push(*ended);
            assert!(all.0.lock().unwrap().1 >= drained.len(), "it is kept before it is drained");
        };
        assert!(ends.drain_all(PATIENCE, &mut check).unwrap().settled);
        assert!(drain_all(&mut other).is_empty());
        let (bytes, told) = &*all.0.lock().unwrap();
        let mut kept = Vec::new();
        codec::ends(bytes, &CtZones::ALL, &mut Defects::default(), &mut |ended| kept.push(ended));
        assert_eq!((*told, drained.len(), kept == drained), (500, 500, true));
        assert_eq!(*none.0.lock().unwrap(), (Vec::new(), 0));
    });
}

/// Goal: when nobody drains and the kernel's buffer is small, what is lost is counted to the event.
#[test]
fn received_and_lost_ends_add_up_to_those_sent() {
    in_namespace(|| {
        let mut ends = listen(4096, 4);
        datagrams(20_000..21_000);
        run("conntrack", &["-D", "-p", "udp"]);
        let received = drain_all(&mut ends).len() as u64;
        let losses = ends.losses().unwrap();
        assert!(losses.events > 0 && losses.overruns > 0, "the buffer was to overflow: {losses:?}");
        assert_eq!(received + losses.events, 1000);
        datagrams(21_000..21_001);
        run("conntrack", &["-D", "-p", "udp"]);
        assert_eq!(drain_all(&mut ends).len(), 1, "an overflow is not the end");
        assert_eq!(ends.losses().unwrap().events, losses.events, "asking twice counts once");
    });
}

/// Goal: the wait ends by half a full queue, and by a waker; and dropping stops a thread that waits for room.
#[test]
fn waiting_ends_when_there_is_work_or_someone_calls() {
    in_namespace(|| {
        let mut ends = listen(1 << 20, 4);
        let waker = ends.waker();
        thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            assert!(!ends.wait(PATIENCE));
        });
        datagrams(20_000..20_010);
        run("conntrack", &["-D", "-p", "udp"]);
        assert!(ends.wait(PATIENCE));
        assert!(ends.drain(&mut |_| {}).unwrap() >= 2);
        drop(ends);
    });
}

/// Goal: an entry made without accounting is handed over, worth nothing and counted.
#[test]
fn an_entry_without_accounting_is_counted() {
    in_namespace(|| {
        std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", "0").unwrap();
        let state = sysctl::state().unwrap();
        assert_eq!(state, sysctl::State { acct: 0, timestamp: 1, events: 1 });
        assert_eq!(state.wanting().collect::<Vec<_>>(), [("nf_conntrack_acct", 0)]);
        datagrams(20_000..20_001);
        let (entries, snapshot) = read(&mut Table::open(CtZones::ALL).unwrap());
        assert_eq!(entries[0].counters, None);
        let defects = Defects { without_counters: 1, ..Defects::default() };
        assert_eq!(snapshot, Snapshot { defects, ..complete(1) });
    });
}

/// Goal: an entry made before accounting was switched on never gets counters, grows unseen and ends without any,
/// counted; one made after counts.
#[test]
fn an_entry_older_than_accounting_never_counts() {
    in_namespace(|| {
        let acct = |value| std::fs::write("/proc/sys/net/netfilter/nf_conntrack_acct", value).unwrap();
        let at = |port| SocketAddr::new(V4, port);
        acct("0");
        let (older, younger) = (Exchange::new(at(4000), at(7000)), Exchange::new(at(4001), at(7001)));
        older.run(100, 200);
        acct("1");
        let mut ends = listen(1 << 20, 16);
        older.run(100, 200);
        younger.run(100, 200);
        let expected =
            ["udp 127.0.0.1:4000>127.0.0.1:7000".to_owned(), exchanged(at(4001), at(7001), 100, 200)];
        let defects = Defects { without_counters: 1, ..Defects::default() };
        let (entries, snapshot) = read(&mut Table::open(CtZones::ALL).unwrap());
        let mut found: Vec<_> = entries.iter().map(plain).collect();
        found.sort();
        assert_eq!((found.as_slice(), snapshot), (&expected[..], Snapshot { defects, ..complete(2) }));
        run("conntrack", &["-D", "-p", "udp"]);
        let mut ended: Vec<_> = drain_all(&mut ends).iter().map(|ended| plain(&ended.entry)).collect();
        ended.sort();
        assert_eq!((ended.as_slice(), ends.defects()), (&expected[..], defects));
    });
}

/// Goal: with the switch that `init` sets, entries older than the listener are heard of when they end; without it they
/// end unheard and uncounted, which is why `init` does not leave it to the kernel.
///
/// The kernel's own choice (2, since Linux 5.19) is not tried: it asks whether anyone listens in any namespace
/// (`nf_ctnetlink_has_listener`, `linux/netfilter.h`), such as another test.
#[test]
fn an_entry_older_than_the_listener_is_heard_of_after_init() {
    for (switch, heard) in [("1", 2), ("0", 0)] {
        in_namespace(|| {
            std::fs::write("/proc/sys/net/netfilter/nf_conntrack_events", switch).unwrap();
            datagrams(20_000..20_001);
            let mut ends = listen(1 << 20, 16);
            datagrams(20_001..20_002);
            run("conntrack", &["-D", "-p", "udp"]);
            let ended = drain_all(&mut ends);
            assert_eq!(ended.len(), heard, "nf_conntrack_events is {switch}");
            assert!(ended.iter().all(|ended| directed(&ended.entry).0.bytes == 78));
            assert_eq!(ends.losses().unwrap(), Losses::default());
        });
    }
}

/// Goal: behind DNAT the reply's source is the real peer, behind SNAT the original's source is who opened it; both
/// count what was sent, in the table and when they end.
#[test]
fn nat_either_way_shows_both_ends() {
    const RULES: &str = "table ip translate {
        chain out {
            type nat hook output priority -100
            ip daddr 127.0.0.9 udp dport 53 dnat to 127.0.0.2:5353
        }
        chain post {
            type nat hook postrouting priority 100
            udp dport 7005 snat to 127.0.0.8:6000
        }
    }";
    in_namespace(|| {
        feed("nft", &["-f", "-"], RULES);
        let mut ends = listen(1 << 20, 16);
        for (from, dialled, to) in [
            ("127.0.0.1:4000", "127.0.0.9:53", "127.0.0.2:5353"),
            ("127.0.0.1:4001", "127.0.0.2:7005", "127.0.0.2:7005"),
        ] {
            let (client, server) = (UdpSocket::bind(from).unwrap(), UdpSocket::bind(to).unwrap());
            client.send_to(&[0; 100], dialled).unwrap();
            let (_, peer) = server.recv_from(&mut [0; 2048]).unwrap();
            server.send_to(&[0; 200], peer).unwrap();
            assert_eq!(client.recv_from(&mut [0; 2048]).unwrap().1.to_string(), dialled);
        }
        let expected = [
            "udp 127.0.0.1:4000>127.0.0.9:53 reply=127.0.0.2:5353>127.0.0.1:4000 tx=128/1 rx=228/1",
            "udp 127.0.0.1:4001>127.0.0.2:7005 reply=127.0.0.2:7005>127.0.0.8:6000 tx=128/1 rx=228/1",
        ];
        let (entries, _) = read(&mut Table::open(CtZones::ALL).unwrap());
        let mut found: Vec<_> = entries.iter().map(plain).collect();
        found.sort();
        assert_eq!(found, expected);
        run("conntrack", &["-D", "-p", "udp"]);
        let mut ended: Vec<_> = drain_all(&mut ends).iter().map(|ended| plain(&ended.entry)).collect();
        ended.sort();
        assert_eq!(ended, expected);
    });
}

/// Goal: sockets stay in the namespace where they were opened, whoever uses them from where.
#[test]
fn a_table_shows_the_namespace_that_it_was_opened_in() {
    let mut table = in_namespace(|| {
        datagrams(20_000..20_003);
        Table::open(CtZones::ALL).unwrap()
    });
    in_namespace(|| assert_eq!(read(&mut table).1, complete(3)));
}

/// Set in the processes that [`again`] starts.
const AGAIN: &str = "EGRESSD_TEST_AGAIN";

/// Runs the named test of this file once more, by a tool that takes rights away from it.
fn again(test: &str, tool: &str, arguments: &[&str]) {
    let output = Command::new(tool)
        .args(arguments)
        .arg(env::current_exe().expect("the test knows its own file"))
        .args(["--exact", test])
        .env(AGAIN, "1")
        .output()
        .unwrap_or_else(|error| panic!("{tool} is not installed: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// Goal: without `CAP_NET_ADMIN` both readers say that this is what they need.
#[test]
fn without_the_capability_it_is_named() {
    if env::var_os(AGAIN).is_some() {
        return unprivileged();
    }
    let arguments = ["--inh-caps=-net_admin", "--bounding-set=-net_admin"];
    in_namespace(|| again("without_the_capability_it_is_named", "setpriv", &arguments));
}

/// Goal: with the capability in a user namespace only, ends are received, with a smaller buffer and a warning.
#[test]
fn a_buffer_that_cannot_be_forced_is_a_warning() {
    if env::var_os(AGAIN).is_none() {
        let arguments = ["--user", "--map-root-user", "--net"];
        return again("a_buffer_that_cannot_be_forced_is_a_warning", "unshare", &arguments);
    }
    let asked_bytes = 1 << 30;
    let mut ends = listen(asked_bytes, 4);
    let warning = ends.warning().expect("no net.core.rmem_max is that large");
    assert_eq!(warning.asked_bytes, asked_bytes);
    assert!((1..asked_bytes).contains(&warning.granted_bytes), "{warning}");
    run(
        "conntrack",
        &["-I", "-p", "gre", "-s", "10.0.0.1", "-d", "10.0.0.2", "-t", "9", "--srckey", "1", "--dstkey", "2"],
    );
    run("conntrack", &["-F"]);
    assert_eq!(drain_all(&mut ends).len(), 1);
}

fn unprivileged() {
    let refused = Table::open(CtZones::ALL)
        .expect("a socket needs nothing")
        .read(NOW, &mut |_| {})
        .expect_err("a dump does");
    assert!(matches!(refused, ReadError::Refused(_)) && !refused.is_transient(), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        "the kernel refuses to list the conntrack table: it needs CAP_NET_ADMIN in the network namespace"
    );
    let config = EndsConfig { receive_buffer_bytes: 1 << 20, queue_entries: NonZeroUsize::MIN };
    let refused = Ends::listen(config, CtZones::ALL, None).err().expect("so do events");
    assert!(matches!(refused, ListenError::Subscribe(_)), "{refused:?}");
    assert_eq!(
        refused.to_string(),
        "cannot subscribe to conntrack's DESTROY events: it needs CAP_NET_ADMIN in the network namespace"
    );
}
