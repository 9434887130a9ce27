//! The program in the kernel, on real packets: in a network namespace and a cgroup of the test's own. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use egressd_dns::{Books, Counts, RING_BYTES, Tracer, cgroup};
use egressd_flow::{Name, UnixNanos};
use egressd_testbed::dns::{self, A, AAAA, ANSWER, Record};
use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};

/// A process is in one cgroup, so its tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// A cgroup with this process in it, until it is dropped.
struct Place {
    path: PathBuf,
    home: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn enter(name: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let root = cgroup::root().expect("cgroup v2 is mounted");
        let of_process = fs::read_to_string("/proc/self/cgroup").unwrap();
        let home = of_process.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let home = root.join(home);
        let path = root.join(format!("egressd-dns-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let place = Self { path, home, _turn: turn };
        put_into(&place.path);
        place
    }
}

fn put_into(cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
}

impl Drop for Place {
    fn drop(&mut self) {
        put_into(&self.home);
        fs::remove_dir(&self.path).unwrap();
    }
}

/// Runs a test in a network namespace of its own, where loopback is up and has an address of each family that is none of
/// loopback's own.
fn in_namespace(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let ran = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            for line in [
                "link set lo up",
                "address add 192.0.2.53/32 dev lo",
                "address add 2001:db8::53/128 dev lo nodad",
            ] {
                assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "{line}");
            }
            test();
        });
        ran.join().unwrap();
    });
}

fn clocks() -> (UnixNanos, Duration) {
    let now = |clock| Duration::from(clock_gettime(clock).unwrap());
    let unix = now(ClockId::CLOCK_REALTIME).as_nanos();
    (UnixNanos(u64::try_from(unix).unwrap()), now(ClockId::CLOCK_BOOTTIME))
}

fn drain(tracer: &mut Tracer) -> Vec<Name> {
    let mut names = Vec::new();
    let (now, since_boot) = clocks();
    tracer.drain(now, since_boot, &mut |name| names.push(name)).unwrap();
    names
}

fn zone() -> Vec<Record> {
    let lines = [
        "www.test 300 CNAME edge.test",
        "edge.test 120 CNAME lb.test",
        "lb.test 900 CNAME host.test",
        "host.test 600 A 203.0.113.1",
        "six.test 90 AAAA 2001:db8::1",
        "tcp.test 90 A 203.0.113.2",
        "truncated.test 90 A 203.0.113.3",
        "malformed.test 90 A 203.0.113.4",
    ];
    let many = (0..1_000).map(|host| format!("many.test 90 A 198.18.{}.{}", host / 250, host % 250));
    lines.map(str::to_owned).into_iter().chain(many).map(|line| line.parse().unwrap()).collect()
}

/// Goal: a chain of three aliases, an IPv6 address, TCP in two segments and in large ones give their names, with who
/// asked, over both families; a truncated and a malformed answer are counted; nothing else is seen.
#[test]
fn answers_of_every_kind_are_traced() {
    let place = Place::enter("kinds");
    in_namespace(|| {
        let server = thread::spawn(|| dns::serve(53, &zone()).unwrap());
        let mut tracer = Tracer::open(Some(&place.path), RING_BYTES).unwrap();
        let servers =
            ["192.0.2.53:53", "[2001:db8::53]:53"].map(|server| server.parse::<SocketAddr>().unwrap());
        let before = clocks().0;
        for server in servers {
            let ask = |name, kind, tcp| loop {
                // It has just been started.
                if let Ok(answer) = dns::ask(server, (name, kind), tcp) {
                    return answer;
                }
            };
            for (name, kind, tcp) in [
                ("www.test", A, false),
                ("six.test", AAAA, false),
                ("tcp.test", A, true),
                ("many.test", A, true),
                ("truncated.test", A, false),
                ("truncated.test", A, true),
                ("malformed.test", A, false),
                ("nobody.test", A, false),
            ] {
                ask(name, kind, tcp);
            }
        }
        let names = drain(&mut tracer);
        let after = clocks().0;
        assert!(names.iter().all(|name| before <= name.seen && name.seen <= after), "{names:?}");
        let (many, few): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| &*name.name == "many.test");
        assert_eq!(many.len(), 2 * 64);
        let text = |name: &Name| {
            let Name { address, name, time_to_live, asker, .. } = name;
            format!("{} asks {name}: {address} for {}", asker.unwrap(), time_to_live.as_secs())
        };
        let found: Vec<_> = few.iter().map(text).collect();
        let expected = ["192.0.2.53", "2001:db8::53"].into_iter().flat_map(|asker| {
            [
                "www.test: 203.0.113.1 for 120",
                "six.test: 2001:db8::1 for 90",
                "tcp.test: 203.0.113.2 for 90",
                "truncated.test: 203.0.113.3 for 90",
            ]
            .map(|said| format!("{asker} asks {said}"))
        });
        assert_eq!(found, expected.collect::<Vec<_>>());
        let books = Books {
            messages: 16,
            answers: 10,
            names: 8 + 2 * 64,
            surplus: 2 * (1_000 - 64),
            nameless: 2,
            truncated: 2,
            malformed: 2,
            ..Books::default()
        };
        assert_eq!(tracer.books(), books);
        let Counts { lost, unread, .. } = tracer.counts().unwrap();
        assert_eq!((lost, unread), (0, 0));
        assert!(!server.is_finished());
    });
}

/// Goal: what a resolver answers on a loopback address is not seen, over both families and protocols; what the same one answers
/// at another address is.
#[test]
fn answers_on_loopback_addresses_are_left_out() {
    let place = Place::enter("loopback");
    in_namespace(|| {
        thread::spawn(|| dns::serve(53, &zone()).unwrap());
        let mut tracer = Tracer::open(Some(&place.path), RING_BYTES).unwrap();
        for server in ["127.0.0.1:53", "[::1]:53", "192.0.2.53:53"] {
            for tcp in [false, true] {
                // It has just been started.
                while dns::ask(server.parse().unwrap(), ("tcp.test", A), tcp).is_err() {}
            }
        }
        let askers: Vec<_> = drain(&mut tracer).iter().map(|name| name.asker.unwrap().to_string()).collect();
        assert_eq!(askers, ["192.0.2.53"; 2]);
        assert_eq!(tracer.books().messages, 2);
    });
}

const MANY: u32 = 20_000;

/// Sends so many answers, each with an address of its own, as fast as one thread can.
fn send_many() {
    let server = UdpSocket::bind("192.0.2.53:53").unwrap();
    let client = UdpSocket::bind("192.0.2.53:0").unwrap();
    let to = client.local_addr().unwrap();
    for number in 0..MANY {
        let address = Ipv4Addr::from(0xc612_0000 + number);
        let name = format!("host-{number}.service.example.com");
        let record = format!("{name} 90 A {address}").parse().unwrap();
        let answer = dns::message(1, ANSWER, (&name, A), &[record]);
        server.send_to(&answer, to).unwrap();
    }
}

/// Goal: of 20,000 answers within a moment none is lost with the ring as it is by default.
#[test]
fn twenty_thousand_answers_are_not_lost() {
    let place = Place::enter("many");
    in_namespace(|| {
        let mut tracer = Tracer::open(Some(&place.path), RING_BYTES).unwrap();
        let mut found = BTreeSet::new();
        thread::scope(|scope| {
            let sending = scope.spawn(send_many);
            while !sending.is_finished() {
                found.extend(drain(&mut tracer).into_iter().map(|name| name.address));
                thread::sleep(Duration::from_millis(50));
            }
        });
        found.extend(drain(&mut tracer).into_iter().map(|name| name.address));
        let counts = Counts { put: MANY.into(), lost: 0, unread: 0 };
        assert_eq!(tracer.counts().unwrap(), counts);
        let expected: BTreeSet<IpAddr> =
            (0..MANY).map(|number| Ipv4Addr::from(0xc612_0000 + number).into()).collect();
        assert_eq!(found, expected);
    });
}

/// Goal: where the ring is full every answer is counted, as put by or as lost.
#[test]
fn a_full_ring_counts_what_it_loses() {
    let place = Place::enter("full");
    in_namespace(|| {
        let mut tracer = Tracer::open(Some(&place.path), 1 << 16).unwrap();
        send_many();
        let names = drain(&mut tracer);
        let Counts { put, lost, unread } = tracer.counts().unwrap();
        assert_eq!((put + lost, unread), (MANY.into(), 0));
        assert!(put > 100 && lost > 0, "{put} {lost}");
        assert_eq!((names.len() as u64, tracer.books().answers), (put, put));
    });
}
