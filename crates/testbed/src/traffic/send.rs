//! The sender: reads a plan from its input's first line, runs all its items at once, prints a report as one line.
//!
//! Bounds: the plan's, the end of its input, 5 s to connect, 20 s of silence in an exchange.

use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::clock::now;
use crate::traffic::{HEADER_BYTES, Item, ItemReport, Kind, Plan, UDP_PAYLOAD_BYTES_MAX};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Runs the plan on `input`'s first line until its bound, or until `input` ends, and writes a JSON array of
/// [`ItemReport`] to `output`.
///
/// # Errors
/// When the plan cannot be read or the report not written; failed exchanges are in the report.
pub fn send(input: impl BufRead + Send + 'static, output: &mut impl Write) -> io::Result<()> {
    let mut input = input;
    let mut line = String::new();
    input.read_line(&mut line)?;
    let plan: Plan = serde_json::from_str(&line)?;

    let stop = Arc::new(Stop::default());
    stop_at_end_of(input, Arc::clone(&stop))?;
    let deadline = plan.seconds.map(|seconds| now() + Duration::from_secs(seconds));
    let reports = run_all(plan.items, &stop, deadline)?;
    serde_json::to_writer(&mut *output, &reports)?;
    writeln!(output)?;
    output.flush()
}

fn run_all(items: Vec<Item>, stop: &Stop, deadline: Option<Instant>) -> io::Result<Vec<ItemReport>> {
    thread::scope(|scope| {
        let running: Vec<_> =
            items.into_iter().map(|item| scope.spawn(move || run(item, stop, deadline))).collect();
        let joined = running.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|report| report.map_err(|_| io::Error::other("an item panicked"))).collect()
    })
}

fn stop_at_end_of(mut input: impl Read + Send + 'static, stop: Arc<Stop>) -> io::Result<()> {
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            // However the input ends, nobody steers this sender any more.
            drop(io::copy(&mut input, &mut io::sink()));
            stop.set();
        })
        .map(drop)
}

/// Asks all items to end.
#[derive(Default)]
struct Stop {
    asked: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.locked() = true;
        self.changed.notify_all();
    }

    /// Waits for `pause`, or until the deadline or the stop; true when it is time to end.
    fn wait(&self, pause: Duration, deadline: Option<Instant>) -> bool {
        let remaining = deadline.map_or(pause, |at| at.saturating_duration_since(now()));
        let waited = self.changed.wait_timeout_while(self.locked(), pause.min(remaining), |asked| !*asked);
        let asked = *waited.unwrap_or_else(PoisonError::into_inner).0;
        asked || deadline.is_some_and(|at| at <= now())
    }

    fn locked(&self) -> MutexGuard<'_, bool> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn run(item: Item, stop: &Stop, deadline: Option<Instant>) -> ItemReport {
    let mut report = ItemReport::of(item);
    let mut open = None;
    let mut pause = Duration::ZERO;
    while report.exchanges + report.failures < report.item.exchanges_max && !stop.wait(pause, deadline) {
        pause = Duration::from_millis(report.item.pause_ms);
        if let Err(error) = exchange_once(&mut open, &mut report) {
            open = None;
            fail(&mut report, &error);
        }
    }
    if let Some(conversation) = open
        && let Err(error) = conversation.close(report.item.kind)
    {
        fail(&mut report, &error);
    }
    report
}

fn fail(report: &mut ItemReport, error: &io::Error) {
    report.failures += 1;
    let item = &report.item;
    report.first_failure.get_or_insert_with(|| format!("{:?} to {}: {error}", item.kind, item.to));
}

fn exchange_once(open: &mut Option<Conversation>, report: &mut ItemReport) -> io::Result<()> {
    let mut conversation = match open.take() {
        Some(conversation) => conversation,
        None => {
            report.conversations += 1;
            Conversation::open(&report.item)?
        }
    };
    let (sent, received) = conversation.exchange(&report.item)?;
    report.exchanges += 1;
    report.sent_bytes += sent;
    report.received_bytes += received;
    if report.item.kind.is_long() {
        *open = Some(conversation);
        return Ok(());
    }
    conversation.close(report.item.kind)
}

enum Conversation {
    Tcp(TcpStream),
    Udp { socket: UdpSocket, sequence: u32 },
}

impl Conversation {
    fn open(item: &Item) -> io::Result<Self> {
        if item.kind.is_udp() {
            let socket = match item.to {
                SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
            }?;
            socket.connect(item.to)?;
            socket.set_read_timeout(Some(SILENCE_MAX))?;
            return Ok(Self::Udp { socket, sequence: 0 });
        }
        let stream = connect(item)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// One request and its whole reply; payload bytes sent and received.
    fn exchange(&mut self, item: &Item) -> io::Result<(u64, u64)> {
        match self {
            Self::Tcp(stream) => {
                stream.write_all(&super::join_header(item.request_bytes, item.reply_bytes))?;
                super::write_payload(stream, item.request_bytes)?;
                super::read_payload(stream, item.reply_bytes)?;
                Ok((u64::from(HEADER_BYTES) + u64::from(item.request_bytes), u64::from(item.reply_bytes)))
            }
            Self::Udp { socket, sequence } => {
                *sequence = sequence.wrapping_add(1);
                exchange_datagrams(socket, *sequence, item)
            }
        }
    }

    fn close(self, kind: Kind) -> io::Result<()> {
        let Self::Tcp(mut stream) = self else { return Ok(()) };
        if kind == Kind::TcpRst {
            return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        stream.shutdown(Shutdown::Write)?;
        match stream.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("more than the reply arrived")),
        }
    }
}

fn connect(item: &Item) -> io::Result<TcpStream> {
    let Some(port) = item.from_port else { return TcpStream::connect_timeout(&item.to, CONNECT_WITHIN) };
    let unspecified: IpAddr =
        if item.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = Socket::new(Domain::for_address(item.to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::new(unspecified, port).into())?;
    socket.connect_timeout(&item.to.into(), CONNECT_WITHIN)?;
    Ok(socket.into())
}

fn exchange_datagrams(socket: &UdpSocket, sequence: u32, item: &Item) -> io::Result<(u64, u64)> {
    let mut buffer = [0; UDP_PAYLOAD_BYTES_MAX as usize];
    let length = usize::try_from(item.request_bytes).unwrap_or(usize::MAX);
    let too_long = || io::Error::other("a datagram has 8 to 1400 bytes");
    buffer[..8].copy_from_slice(&super::join_header(sequence, item.reply_bytes));
    let request = buffer.get(..length).filter(|request| request.len() >= 8).ok_or_else(too_long)?;
    socket.send(request)?;
    let received = socket.recv(&mut buffer)?;
    let answered = buffer[..received].first_chunk::<8>().map(|header| super::split_header(*header).0);
    if answered != Some(sequence) || u32::try_from(received) != Ok(item.reply_bytes) {
        return Err(io::Error::other("another datagram than the reply arrived"));
    }
    Ok((u64::from(item.request_bytes), u64::from(item.reply_bytes)))
}
