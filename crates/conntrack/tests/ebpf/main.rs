//! The counting programs in a real kernel: its verifier, real packets, and nft's word against theirs.
//!
//! Needs root, `ip`, `nft`, `bash` and cgroup v2. Traffic stays between network namespaces of the test's own, whose
//! addresses nobody else has: at the root of the hierarchy the programs see every socket of the machine.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU32;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

use egressd_conntrack::ebpf::{Counts, CountsConfig, OpenError, Programs, Uncounted, Warning, forget};
use egressd_flow::{Counter, Counters, Ended, Entry, UnixNanos, View};

mod network;

use network::{Network, Plan};

const PORT: u16 = 7000;
const ENTRIES_MAX: NonZeroU32 = NonZeroU32::new(65_536).unwrap();

fn config() -> CountsConfig {
    CountsConfig { cgroup: None, pin_dir: None, entries_max: ENTRIES_MAX }
}

#[expect(clippy::disallowed_methods, reason = "this is the driver that a reader's time comes from")]
fn now() -> UnixNanos {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    UnixNanos(since.as_nanos().try_into().unwrap())
}

/// What one end sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    tx: Counter,
    rx: Counter,
}

/// By local address, remote address and protocol number.
type Sums = BTreeMap<(IpAddr, IpAddr, u8), Seen>;

fn add(sums: &mut Sums, entry: &Entry) {
    let Some(Counters::Directed { tx, rx }) = entry.counters else { panic!("{entry}") };
    assert_eq!(entry.view, View::Source);
    let tuple = entry.id.original;
    let seen = sums.entry((tuple.src, tuple.dst, tuple.protocol.0)).or_default();
    seen.tx += tx;
    seen.rx += rx;
}

/// Reads, and settles what was read.
fn read(counts: &mut Counts, sums: &mut Sums) {
    counts.read(now(), &mut |entry| add(sums, entry)).unwrap();
    counts.settle(&mut |_| {}).unwrap();
}

fn less(a: Counter, b: Counter) -> Counter {
    a.growth(b).unwrap_or_else(|| panic!("{a:?} is less than {b:?}"))
}

/// How the client and the server of a connection part.
#[derive(Clone, Copy, Debug)]
enum Parting {
    /// The client says that it is done, the server answers by its own end.
    Client,
    /// The client closes and is gone from the socket when the server closes: the server's FIN meets TIME_WAIT.
    ClientLong,
    /// The server closes first.
    Server,
    /// The client resets.
    Reset,
}

/// Serves connections until the listener is told to stop by one that says nothing.
fn serve(listener: &TcpListener, parting: Parting, connections: usize) {
    for _ in 0..connections {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 300]).unwrap();
        stream.write_all(&[7; 5000]).unwrap();
        if !matches!(parting, Parting::Server) {
            // A reset is an error here, and all right.
            let _end = stream.read(&mut [0]);
        }
        if matches!(parting, Parting::ClientLong) {
            // Until the client's socket has gone to TIME_WAIT: its FIN was acknowledged.
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn converse(server: SocketAddr, parting: Parting) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.write_all(&[1; 300]).unwrap();
    stream.read_exact(&mut [0; 5000]).unwrap();
    match parting {
        Parting::ClientLong => {}
        Parting::Client => {
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        Parting::Server => assert_eq!(stream.read(&mut [0]).unwrap(), 0),
        Parting::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
    }
}

/// `connections` from pod 1 to pod 2.
fn connect(network: &Network, version: u8, parting: Parting, connections: usize) {
    let server = SocketAddr::new(network.plan.address(2, version), PORT);
    let listener = network.pods[1].enter(|| TcpListener::bind(server).unwrap());
    thread::scope(|scope| {
        scope.spawn(|| network.pods[1].enter(|| serve(&listener, parting, connections)));
        network.pods[0].enter(|| (0..connections).for_each(|_| converse(server, parting)));
    });
    // The last segments are on their way.
    thread::sleep(Duration::from_millis(50));
}

/// `datagrams` from pod 1 to pod 2, each answered by one of twice its size.
fn exchange(network: &Network, version: u8, datagrams: usize) {
    let address = |pod| SocketAddr::new(network.plan.address(pod, version), 0);
    let server = network.pods[1].enter(|| UdpSocket::bind(address(2)).unwrap());
    let client = network.pods[0].enter(|| UdpSocket::bind(address(1)).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    for _ in 0..datagrams {
        client.send(&[1; 300]).unwrap();
        let (_, from) = server.recv_from(&mut [0; 1024]).unwrap();
        server.send_to(&[2; 600], from).unwrap();
        client.recv(&mut [0; 1024]).unwrap();
    }
}

/// Holds both pods' views against what the node forwarded: the difference is what passed without a full socket, and
/// nothing else. Gives that difference's packets.
fn hold_against_truth(network: &Network, sums: &Sums, version: u8, protocol: &str) -> u64 {
    let number = if protocol == "tcp" { 6 } else { 17 };
    let mut left_out = 0;
    for (pod, other) in [(1, 2), (2, 1)] {
        let key = (network.plan.address(pod, version), network.plan.address(other, version), number);
        let seen = sums.get(&key).copied().unwrap_or_default();
        for (direction, truth, counted) in [
            ("out", network.truth(pod, version, protocol), seen.tx),
            ("in", network.truth(other, version, protocol), seen.rx),
        ] {
            let without_socket = match protocol {
                "tcp" => network.without_socket(pod, direction, version),
                _ => Counter::default(),
            };
            assert!(!truth.is_zero(), "nothing passed");
            let difference = less(truth, counted);
            assert_eq!(difference, without_socket, "pod {pod} {direction} IPv{version} {protocol}");
            left_out += difference.packets;
        }
    }
    left_out
}

/// Goal: the kernel's verifier takes the programs, with tables of any size that may be asked for.
#[test]
fn the_verifier_takes_the_programs() {
    for entries_max in [1, 65_536, 1 << 20] {
        Programs::load(NonZeroU32::new(entries_max).unwrap()).unwrap();
    }
}

/// Goal: of TCP and UDP over IPv4 and IPv6 each byte and packet is counted on both ends, short connections included,
/// however they end; and the difference to what the node forwarded is exactly what passed without a full socket: the two
/// segments of an exchange with a socket in TIME_WAIT.
#[test]
fn what_is_counted_is_what_passed_with_a_socket() {
    for (third, parting, left_out) in [
        (1, Parting::Client, 0),
        (2, Parting::Server, 0),
        (3, Parting::Reset, 0),
        (4, Parting::ClientLong, 2),
    ] {
        let network = Network::new(Plan::new(third));
        let mut counts = Counts::open(&config(), now()).unwrap();
        let mut sums = Sums::new();
        for version in [4, 6] {
            connect(&network, version, parting, 10);
            exchange(&network, version, 10);
        }
        read(&mut counts, &mut sums);
        for version in [4, 6] {
            let packets = hold_against_truth(&network, &sums, version, "tcp");
            assert_eq!(packets, 10 * left_out, "{parting:?} IPv{version}");
            hold_against_truth(&network, &sums, version, "udp");
        }
    }
}

/// Goal: a connection that nobody takes is counted where a socket sent it, and left out where there was none.
#[test]
fn a_refused_connection_is_left_out_where_no_socket_is() {
    let network = Network::new(Plan::new(5));
    let mut counts = Counts::open(&config(), now()).unwrap();
    for version in [4, 6] {
        let server = SocketAddr::new(network.plan.address(2, version), PORT);
        network.pods[0].enter(|| assert!(TcpStream::connect(server).is_err()));
    }
    let mut sums = Sums::new();
    read(&mut counts, &mut sums);
    for version in [4, 6] {
        assert!(hold_against_truth(&network, &sums, version, "tcp") > 0);
        assert_eq!(network.without_socket(1, "in", version), Counter::default());
    }
}

/// Goal: while two processors send as fast as they can, turning the tables a hundred times neither loses nor doubles a
/// packet, and each entry's end says what its row said.
#[test]
fn turns_lose_nothing_under_load() {
    let network = Network::new(Plan::new(6));
    let mut counts = Counts::open(&config(), now()).unwrap();
    let (mut rows, mut ends) = (Sums::new(), Sums::new());
    let done = AtomicBool::new(false);
    let flood = |version| {
        let to = SocketAddr::new(network.plan.address(2, version), PORT);
        let _sink = network.pods[1].enter(|| UdpSocket::bind(to).unwrap());
        network.pods[0].enter(|| {
            let socket = UdpSocket::bind(SocketAddr::new(network.plan.address(1, version), 0)).unwrap();
            socket.connect(to).unwrap();
            while !done.load(Ordering::Relaxed) {
                socket.send(&[1; 100]).unwrap();
            }
        });
    };
    thread::scope(|scope| {
        scope.spawn(|| flood(4));
        scope.spawn(|| flood(6));
        let mut turns = 0;
        while turns < 100 {
            counts.read(now(), &mut |entry| add(&mut rows, entry)).unwrap();
            counts.settle(&mut |Ended { entry, .. }| add(&mut ends, entry)).unwrap();
            turns += 1;
            thread::sleep(Duration::from_millis(5));
        }
        done.store(true, Ordering::Relaxed);
    });
    // Two turns: what came after the last, and the other table.
    for _ in 0..2 {
        counts.read(now(), &mut |entry| add(&mut rows, entry)).unwrap();
        counts.settle(&mut |Ended { entry, .. }| add(&mut ends, entry)).unwrap();
    }
    assert_eq!(rows, ends);
    for version in [4, 6] {
        let sent = network.truth(1, version, "udp");
        assert!(sent.packets > 1000, "{sent:?}");
        for (pod, other) in [(1, 2), (2, 1)] {
            let seen = rows[&(network.plan.address(pod, version), network.plan.address(other, version), 17)];
            let counted = if pod == 1 { seen.tx } else { seen.rx };
            assert_eq!(counted, sent, "IPv{version}, pod {pod}");
        }
    }
    assert_eq!(counts.uncounted().unwrap(), Uncounted::default());
}

/// Goal: with a place to pin, what passes while no process is there is counted, what was read and not settled is read
/// again as it was, a second process is refused, and what is forgotten counts no more.
#[test]
fn counting_goes_on_without_a_process() {
    let pin_dir = format!("/sys/fs/bpf/egressd-test-{}", std::process::id());
    let network = Network::new(Plan::new(7));
    let config = CountsConfig { pin_dir: Some(pin_dir.clone().into()), ..config() };
    let ours = |entry: &Entry| entry.id.original.src == network.plan.address(1, 4);
    let rows = |counts: &mut Counts| {
        let mut rows = Vec::new();
        counts.read(now(), &mut |entry| rows.extend(ours(entry).then_some(*entry))).unwrap();
        rows
    };

    let mut first = Counts::open(&config, now()).unwrap();
    assert!(!first.is_continued() && first.warnings().is_empty());
    assert!(matches!(Counts::open(&config, now()), Err(OpenError::InUse { .. })));
    let began = now();
    exchange(&network, 4, 3);
    let told = rows(&mut first);
    assert_eq!(told.len(), 1);
    let start = told[0].id.start.unwrap();
    assert!(began <= start && start <= now(), "{start}");
    drop(first);
    exchange(&network, 4, 5);

    let bound = NonZeroU32::new(1024).unwrap();
    let mut second = Counts::open(&CountsConfig { entries_max: bound, ..config.clone() }, now()).unwrap();
    assert!(second.is_continued());
    assert_eq!(second.warnings(), [Warning::OldBound { entries_max: ENTRIES_MAX.get() }]);
    assert_eq!(rows(&mut second), told, "not settled, so read again");
    let mut ends = Vec::new();
    second.settle(&mut |end| ends.extend(ours(&end.entry).then_some(end.entry))).unwrap();
    assert_eq!(ends, told);
    let mut sums = Sums::new();
    rows(&mut second).iter().chain(&told).for_each(|entry| add(&mut sums, entry));
    let seen = sums[&(network.plan.address(1, 4), network.plan.address(2, 4), 17)];
    assert_eq!((seen.tx, seen.rx), (network.truth(1, 4, "udp"), network.truth(2, 4, "udp")));
    drop(second);

    forget(pin_dir.as_ref()).unwrap();
    forget(pin_dir.as_ref()).unwrap();
    fs::remove_dir(&pin_dir).unwrap();
    exchange(&network, 4, 1);
    let mut third = Counts::open(&CountsConfig { pin_dir: None, ..config }, now()).unwrap();
    assert_eq!(rows(&mut third), []);
}

/// Goal: where nothing can be pinned, it counts all the same and says what that costs.
#[test]
fn a_directory_that_is_no_bpffs_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let pin_dir = Some(directory.path().join("pins"));
    let counts = Counts::open(&CountsConfig { pin_dir, ..config() }, now()).unwrap();
    let [warning] = counts.warnings() else { panic!("{:?}", counts.warnings()) };
    assert!(warning.to_string().contains("is on no BPF file system"), "{warning}");
}

/// Goal: of a cgroup that is named its own sockets are counted and no others; loopback and multicast are left out; and
/// what finds the table full is counted, to the byte.
#[test]
fn a_full_table_says_what_it_had_no_room_for() {
    let root = fs::read_to_string("/proc/self/mounts").unwrap();
    let root = root.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    let cgroup = format!("{}/egressd-test-{}", root.split(' ').nth(1).unwrap(), std::process::id());
    fs::create_dir(&cgroup).unwrap();
    let network = Network::new(Plan::new(8));
    let entries_max = NonZeroU32::new(2).unwrap();
    let config = CountsConfig { cgroup: Some(cgroup.clone().into()), pin_dir: None, entries_max };
    let mut counts = Counts::open(&config, now()).unwrap();

    // One datagram of 5 bytes to each of four addresses, to itself, and to a group.
    let gateways = (0..4u8).map(|host| match network.plan.address(1, 4) {
        IpAddr::V4(address) => std::net::Ipv4Addr::from(u32::from(address) + u32::from(host) + 1).to_string(),
        IpAddr::V6(_) => unreachable!("it is IPv4"),
    });
    let targets: Vec<String> =
        gateways.chain([network.plan.address(1, 4).to_string(), "224.0.0.99".to_owned()]).collect();
    let script = format!(
        "echo $$ > {cgroup}/cgroup.procs; for to in {}; do echo four > /dev/udp/$to/9; done",
        targets.join(" ")
    );
    // Without neighbours datagrams wait for ARP, behind the programs.
    network.pods[0].run("bash", &["-c", &script], "");
    exchange(&network, 4, 2);

    let mut sums = Sums::new();
    read(&mut counts, &mut sums);
    let datagram = Counter { bytes: 20 + 8 + 5, packets: 1 };
    assert_eq!(sums.len(), 2);
    assert!(sums.values().all(|seen| *seen == Seen { tx: datagram, rx: Counter::default() }), "{sums:?}");
    let full = Counter { bytes: 2 * datagram.bytes, packets: 2 };
    assert_eq!(counts.uncounted().unwrap(), Uncounted { full, unread: Counter::default() });
    drop(counts);
    fs::remove_dir(&cgroup).unwrap();
}

/// Set for a test that runs in a process of its own.
const AGAIN: &str = "EGRESSD_TEST_AGAIN";

/// Runs a test of this binary as root that has these capabilities and no others.
fn again(test: &str, capabilities: &str) {
    let output = Command::new("setpriv")
        .args(["--inh-caps=-all", &format!("--bounding-set=-all{capabilities}")])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test])
        .env(AGAIN, capabilities)
        .output()
        .unwrap_or_else(|error| panic!("setpriv is not installed: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{capabilities}: {said}");
}

/// Goal: CAP_BPF and CAP_NET_ADMIN are enough for all of it, pinning included, and each is needed and named.
#[test]
fn two_capabilities_are_enough_and_both_are_needed() {
    let all = "+bpf,+net_admin";
    let Some(capabilities) = env::var_os(AGAIN) else {
        for capabilities in [all, "+bpf", "+net_admin", ""] {
            let separator = if capabilities.is_empty() { "" } else { "," };
            again("two_capabilities_are_enough_and_both_are_needed", &format!("{separator}{capabilities}"));
        }
        return;
    };
    let pin_dir = format!("/sys/fs/bpf/egressd-test-capabilities-{}", std::process::id());
    let config = CountsConfig { pin_dir: Some(pin_dir.clone().into()), ..config() };
    let opened = Counts::open(&config, now());
    let is_enough = capabilities.to_string_lossy().contains(all);
    if is_enough {
        let mut counts = opened.unwrap_or_else(|error| panic!("{error:?}"));
        for _ in 0..2 {
            read(&mut counts, &mut Sums::new());
        }
        counts.uncounted().unwrap();
        drop(counts);
        assert!(Counts::open(&config, now()).unwrap().is_continued());
    } else {
        let error = opened.err().expect("something is missing").to_string();
        assert!(error.contains("it needs CAP_BPF and CAP_NET_ADMIN"), "{error}");
    }
    forget(pin_dir.as_ref()).unwrap();
    fs::remove_dir(&pin_dir).unwrap();
}
