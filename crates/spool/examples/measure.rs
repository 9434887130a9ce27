//! What the spool costs: `cargo run --release -p egressd-spool --example measure -- DIRECTORY [GIB]`.
//!
//! Fills a new spool with batches of 200 records between 50 pods and 4,000 addresses, one sync for 32 of them, reads all
//! of it back for one sink, and opens it again. Memory mode before that, for the part that is not the disk's.
#![expect(clippy::print_stdout, reason = "it is a program that prints")]
#![expect(clippy::disallowed_methods, reason = "it measures time")]
#![expect(clippy::cast_precision_loss, reason = "figures of four digits")]

use std::error::Error;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egressd_flow::{
    AddressClass, Attributed, AttributedBatch, Counter, End, Epoch, Identity, IpProtocol, NodeName, PodName,
};
use egressd_flow::{Position, Sequence, Span, TopologyZone, Traffic, Unattributed, UnixNanos, Workload};
use egressd_spool::{Spool, SpoolConfig, Taken};

const RECORDS: u32 = 200;
const APPENDS_A_SYNC: u64 = 32;
const NOW: UnixNanos = UnixNanos(1_700_000_000_000_000_000);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("say a directory that is not there yet")?;
    let bytes = arguments.next().map_or(Ok(1), |gib| gib.parse::<u64>())? << 30;
    if Path::new(&directory).exists() {
        return Err("the directory is there already".into());
    }
    let config = SpoolConfig { bytes_max: bytes * 2, age_max: Duration::from_hours(24) };

    let mut memory = Spool::in_memory(config, 1);
    fill("memory", &mut memory, bytes / 4)?;
    drop(memory);

    let (mut spool, _) = Spool::open(Path::new(&directory), config, 1)?;
    fill("disk", &mut spool, bytes)?;
    drop(spool);

    let began = Clock::begin()?;
    let (mut spool, recovery) = Spool::open(Path::new(&directory), config, 1)?;
    let gib = spool.bytes() as f64 / f64::from(1 << 30);
    println!("recovery: {gib:.2} GiB, {}; torn {} bytes", began.end()?, recovery.torn_bytes);

    let (began, mut after, mut records) = (Clock::begin()?, Position(0), 0);
    loop {
        let read = spool.read("sink", after, 1 << 20)?;
        let Some(last) = read.batches.last() else { break };
        after = last.position;
        records += read.batches.iter().map(|batch| batch.records.len() as u64).sum::<u64>();
    }
    println!("read: {}", began.rate(records)?);
    Ok(())
}

fn fill(what: &str, spool: &mut Spool, bytes: u64) -> Result<(), Box<dyn Error>> {
    spool.join("sink")?;
    let batches: Vec<Arc<AttributedBatch>> = (0..64).map(batch).collect();
    let (mut position, mut spent) = (0, Clock::default());
    while spool.bytes() < bytes {
        let groups: Vec<Taken> = (0..APPENDS_A_SYNC)
            .map(|_| {
                position += 1;
                let mut batch = AttributedBatch::clone(&batches[usize::try_from(position % 64).unwrap_or(0)]);
                batch.position = Position(position);
                Taken { epoch: Epoch(1), sequence: Sequence(position), batch: Arc::new(batch) }
            })
            .collect();
        let began = Clock::begin()?;
        for taken in &groups {
            spool.append(std::slice::from_ref(taken), NOW)?;
        }
        spool.sync()?;
        spent = spent.plus(began.elapsed()?);
    }
    let records = position * u64::from(RECORDS);
    let each = spool.bytes() as f64 / records as f64;
    println!("{what}: {}, {each:.1} bytes a record", spent.of(records));
    Ok(())
}

fn batch(seed: u32) -> Arc<AttributedBatch> {
    let node = NodeName(format!("ip-10-0-{seed}-17.eu-west-1.compute.internal").into());
    let identity = |pod: u32| Identity {
        pod: Some(PodName {
            namespace: format!("team-{}", pod % 9).into(),
            name: format!("checkout-7d9c5b8f6{pod}-x{pod}kz").into(),
        }),
        workload: Some(Workload { kind: "Deployment".into(), name: format!("checkout-{}", pod % 20).into() }),
        node: Some(node.clone()),
        topology_zone: Some(TopologyZone("eu-west-1a".into())),
        region: Some("eu-west-1".into()),
        dns_name: None,
    };
    let pods: Vec<Arc<Identity>> = (0..50).map(|pod| Arc::new(identity(pod))).collect();
    let record = |index: u32| {
        let mixed = (seed * RECORDS + index).wrapping_mul(2_654_435_761);
        let peer = &pods[(mixed >> 8) as usize % pods.len()];
        let is_internal = mixed.is_multiple_of(2);
        let counter = |scale: u32| Counter {
            bytes: u64::from(mixed >> (scale + 8)),
            packets: u64::from(mixed >> (scale + 18)),
        };
        Attributed {
            local_address: Ipv4Addr::from_bits(0x0a00_0000 + index % 50).into(),
            local: Arc::clone(&pods[(index % 50) as usize]),
            remote: End {
                address: Some(Ipv4Addr::from_bits(0x0a01_0000 + mixed % 4_000).into()),
                class: Some(if is_internal { AddressClass::Private } else { AddressClass::Public }),
                identity: if is_internal { Ok(Arc::clone(peer)) } else { Err(Unattributed::Unknown) },
            },
            protocol: IpProtocol::TCP,
            traffic: Traffic { tx: counter(2), rx: counter(0), undirected: Counter::default() },
        }
    };
    let span = Span { from: NOW, to: NOW };
    Arc::new(AttributedBatch {
        position: Position(0),
        node: node.clone(),
        span,
        records: (0..RECORDS).map(record).collect(),
    })
}

/// Time by the wall and by the processor.
#[derive(Clone, Copy, Default)]
struct Clock {
    wall: Duration,
    processor: Duration,
}

struct Began(Instant, Duration);

impl Clock {
    fn begin() -> Result<Began, Box<dyn Error>> {
        Ok(Began(Instant::now(), processor()?))
    }

    fn plus(self, other: Self) -> Self {
        Self { wall: self.wall + other.wall, processor: self.processor + other.processor }
    }

    fn of(self, records: u64) -> String {
        let rate = |time: Duration| records as f64 / time.as_secs_f64() / 1e6;
        let (wall, processor) = (rate(self.wall), rate(self.processor));
        format!("{records} records, {processor:.2} M/s of processor time, {wall:.2} M/s by the wall")
    }
}

impl Began {
    fn elapsed(&self) -> Result<Clock, Box<dyn Error>> {
        Ok(Clock { wall: self.0.elapsed(), processor: processor()? - self.1 })
    }

    fn end(&self) -> Result<String, Box<dyn Error>> {
        let Clock { wall, processor } = self.elapsed()?;
        Ok(format!("{wall:.2?} by the wall, {processor:.2?} of processor time"))
    }

    fn rate(&self, records: u64) -> Result<String, Box<dyn Error>> {
        Ok(self.elapsed()?.of(records))
    }
}

/// What this thread ran so far: the first figure of its `schedstat`, in nanoseconds.
fn processor() -> Result<Duration, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split_whitespace().next().ok_or("no figure")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}
