//! `ebpf`: what the counting programs add to a packet, and what reading their tables costs.
//!
//! Datagrams go from one network namespace to another without the programs and with them by turns; the kernel's own
//! measure of the programs (`BPF_ENABLE_STATS`, which costs some 77 ns a run itself) stands beside. By turns the DNS tracer
//! alone is there too: these datagrams are no DNS, as nearly all packets of a node are not. Then one datagram to each of many addresses fills a table, which is read into the void (the floor) and into records.
//!
//! The programs see every socket of the machine: what others send meanwhile is counted with it.

use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::thread;

use anyhow::{Context, ensure};
use egressd_conntrack::ebpf::{Counts, CountsConfig, Runs, measure_runs};
use egressd_dns::{RING_BYTES, Tracer};
use egressd_flow::UnixNanos;
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::gauge::{self, float, median};
use crate::say;
use crate::subject;

const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PORT: u16 = 7000;
const PAYLOAD: [u8; 100] = [0; 100];

/// How much is sent and read.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Datagrams of a round
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    packets: u32,
    /// Entries that are read
    #[arg(long, value_name = "N", default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    entries: u32,
    /// Rounds that count
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed. Times are processor times of the sending or reading thread, but for those of the programs.
#[derive(Debug, Serialize)]
struct Report {
    packets: u32,
    rounds: u32,
    /// A datagram from one socket to the other, without the programs.
    floor_ns_per_packet: f64,
    /// The same with both programs: each packet passes one when it is sent and one when it is received.
    ns_per_packet: f64,
    /// The median of each round's own difference.
    added_ns_per_packet: f64,
    /// What the DNS tracer's program adds to a packet that is no DNS, in the same way.
    dns_tracer_added_ns_per_packet: f64,
    /// Of a run of the program, as the kernel measures it.
    sent_ns: f64,
    received_ns: f64,
    entries: u64,
    /// Turning the tables and reading one into the void.
    floor_ns_per_entry: f64,
    /// Turning, reading into records, and emptying.
    ns_per_entry: f64,
    ratio: f64,
    records: u64,
}

/// Runs the bench and prints its report.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let far = place()?;
    let sender = UdpSocket::bind((NEAR, 0)).context("cannot send")?;
    sender.connect((FAR, PORT)).context("cannot send")?;
    let (mut without, mut with, mut added) = (Vec::new(), Vec::new(), Vec::new());
    let (mut runs, mut traced) = (Vec::new(), Vec::new());
    for _ in 0..=options.rounds {
        let bare = send(&sender, options.packets)?;
        {
            let _tracer = Tracer::open(None, RING_BYTES).context("DNS answers cannot be traced")?;
            traced.push(send(&sender, options.packets)? - bare);
        }
        let counts = open(options.entries)?;
        let counted = send(&sender, options.packets)?;
        {
            let _measuring = measure_runs().context("the kernel does not measure programs")?;
            send(&sender, options.packets)?;
        }
        runs = counts.runs().context("the kernel does not tell of its programs")?;
        without.push(bare);
        with.push(counted);
        added.push(counted - bare);
    }
    let (records, floors, cycles) = read(options)?;
    drop(far);
    let rest = |values: &[f64]| median(values.iter().skip(1).copied());
    let report = Report {
        packets: options.packets,
        rounds: options.rounds,
        floor_ns_per_packet: rest(&without),
        ns_per_packet: rest(&with),
        added_ns_per_packet: rest(&added),
        dns_tracer_added_ns_per_packet: rest(&traced),
        sent_ns: ns_per_run(runs.first()),
        received_ns: ns_per_run(runs.get(1)),
        entries: options.entries.into(),
        floor_ns_per_entry: rest(&floors),
        ns_per_entry: rest(&cycles),
        ratio: rest(&cycles) / rest(&floors),
        records,
    };
    if options.json {
        say(serde_json::to_string(&report)?)?
    } else {
        say(&report)?
    }
    Ok(())
}

fn open(entries: u32) -> anyhow::Result<Counts> {
    // What others of this machine send has room as well.
    let entries_max = NonZeroU32::MIN.saturating_add(entries.saturating_mul(2).max(65_536));
    Ok(Counts::open(
        &CountsConfig { cgroup: None, pin_dir: None, entries_max },
        UnixNanos(gauge::unix_ns()?),
    )?)
}

/// Nanoseconds of a datagram.
fn send(sender: &UdpSocket, packets: u32) -> anyhow::Result<f64> {
    let before = gauge::thread_ns()?;
    for _ in 0..packets {
        sender.send(&PAYLOAD).context("cannot send")?;
    }
    Ok(float(gauge::thread_ns()? - before) / f64::from(packets))
}

/// Records of a read, and nanoseconds of an entry into the void and into records, by round.
fn read(options: &Options) -> anyhow::Result<(u64, Vec<f64>, Vec<f64>)> {
    let mut counts = open(options.entries)?;
    let (mut records, mut floors, mut cycles) = (0, Vec::new(), Vec::new());
    let now = UnixNanos(gauge::unix_ns()?);
    let mut meter = subject::meter_of(now, NEAR.into());
    // Its watch begins before anything that is to count whole.
    meter.begin(now);
    meter.abandon();
    for _ in 0..=options.rounds {
        for is_floor in [true, false] {
            fill(options.entries)?;
            let (before, now) = (gauge::thread_ns()?, UnixNanos(gauge::unix_ns()?));
            if is_floor {
                let entries = counts.read(now, &mut |_| {})?.entries;
                ensure!(entries >= u64::from(options.entries), "{entries} entries were read");
                floors.push(float(gauge::thread_ns()? - before) / float(entries));
                counts.settle(&mut |_| {})?;
                continue;
            }
            meter.begin(now);
            let snapshot = counts.read(now, &mut |entry| meter.entry(entry))?;
            meter.finish(&snapshot);
            let batches = meter.cut(now);
            counts.settle(&mut |ended| meter.ended(ended, now))?;
            cycles.push(float(gauge::thread_ns()? - before) / float(snapshot.entries));
            records = batches.iter().map(|batch| batch.records.len() as u64).sum();
            ensure!(records > 0, "nothing was metered");
        }
    }
    ensure!(counts.uncounted()?.full.is_zero(), "the table was full");
    Ok((records, floors, cycles))
}

fn ns_per_run(runs: Option<&Runs>) -> f64 {
    runs.map_or(0.0, |runs| float(runs.nanoseconds) / float(runs.count.max(1)))
}

/// One datagram to each of as many addresses.
fn fill(entries: u32) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((NEAR, 0)).context("cannot send")?;
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    for number in 0..entries {
        let to = SocketAddr::new(Ipv4Addr::from(first + number).into(), PORT);
        socket.send_to(&PAYLOAD, to).context("cannot send")?;
    }
    Ok(())
}

/// Moves the calling thread into a namespace with a link to another one, where a socket waits that nobody reads: what
/// finds it full has passed the programs by then. The far end goes with what is returned.
fn place() -> anyhow::Result<std::sync::mpsc::SyncSender<()>> {
    let enter =
        || unshare(CloneFlags::CLONE_NEWNET).context("a bench needs root: no network namespace can be made");
    let (tell, told) = sync_channel(1);
    let (stay, stayed) = sync_channel::<()>(1);
    let (linked, is_linked) = sync_channel::<()>(1);
    thread::spawn(move || -> anyhow::Result<()> {
        enter()?;
        tell.send(File::open("/proc/thread-self/ns/net")?)?;
        is_linked.recv()?;
        ip(&format!("addr add {FAR}/24 dev far\nlink set lo up\nlink set far up"))?;
        let _socket = UdpSocket::bind((FAR, PORT))?;
        tell.send(File::open("/dev/null")?)?;
        // Until the bench is over.
        let _end = stayed.recv();
        Ok(())
    });
    enter()?;
    let far = told.recv().context("there is no other namespace")?;
    let netns = format!("/proc/{}/fd/{}", std::process::id(), far.as_raw_fd());
    ip(&format!(
        "link add near type veth peer name far netns {netns}\nlink set lo up\nlink set near up\n\
         addr add {NEAR}/24 dev near\nroute add 198.18.0.0/15 via {FAR}"
    ))?;
    linked.send(()).context("the other namespace is gone")?;
    told.recv().context("nobody listens in the other namespace")?;
    Ok(stay)
}

fn ip(script: &str) -> anyhow::Result<()> {
    for line in script.lines() {
        let status =
            Command::new("ip").args(line.split_whitespace()).status().context("ip is not installed")?;
        ensure!(status.success(), "ip {line} ended with {status}");
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "a datagram, without the programs: {:.0} ns, with them: {:.0} ns",
            self.floor_ns_per_packet, self.ns_per_packet
        )?;
        writeln!(f, "added by both programs:           {:.0} ns a packet", self.added_ns_per_packet)?;
        writeln!(
            f,
            "added by the DNS tracer alone:    {:.0} ns a packet that is no DNS",
            self.dns_tracer_added_ns_per_packet
        )?;
        writeln!(
            f,
            "a run as the kernel measures it:  sent {:.0} ns, received {:.0} ns",
            self.sent_ns, self.received_ns
        )?;
        write!(
            f,
            "an entry of {}: read {:.0} ns, into records {:.0} ns, ratio {:.2}",
            self.entries, self.floor_ns_per_entry, self.ns_per_entry, self.ratio
        )
    }
}
