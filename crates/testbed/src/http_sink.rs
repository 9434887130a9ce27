//! An honest fake of the cost API, of a receiver of remote write 2.0, or of whatever takes POSTs: an HTTP/1.1 server in the control namespace, with TLS
//! or without, that keeps what it is sent.
//!
//! Invariant: a request is kept exactly when it was read whole, with the status it was answered with; only those with
//! 200 count as accepted. Bodies are kept as they came, compression included. Keeping and answering are one step, so
//! going away never leaves an accepted request unanswered.
//!
//! Bounds: 16 connections, 16 MiB a body (then 413), 256 MiB kept in all (then 507, which is not kept).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::acceptor::Acceptor;
use crate::certificates::Certificate;
use crate::clock::now;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::remote_write::{Receiver, Refusal, SCHEMA, SCHEMA_FILE};
use crate::series::Series;
use crate::topology;

const CONNECTIONS_MAX: usize = 16;
const HEAD_LINE_BYTES_MAX: u64 = 8 << 10;
const HEADERS_MAX: usize = 64;
const BODY_BYTES_MAX: usize = 16 << 20;
const KEPT_BYTES_MAX: usize = 256 << 20;
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// One request, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// Header names in lower case, values trimmed, in order.
    pub headers: Vec<(String, String)>,
    /// The body as it came.
    pub body: Vec<u8>,
    /// What it was answered with; 0 for nothing.
    pub status: u16,
}

impl Request {
    /// The first header of that name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// How the sink treats requests from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this status. 200 accepts.
    Status(u16),
    /// Closes the connection after reading the request, without a word: the sender cannot know.
    Silence,
    /// Says nothing after reading the request, for as long as the sender waits.
    Hang,
    /// As the specification of remote write 2.0 says, for one [made](HttpSink::start_remote_write_2) as its receiver.
    RemoteWrite2,
}

#[derive(Debug)]
struct Kept {
    answer: Answer,
    bytes: usize,
    requests: Vec<Request>,
    receiver: Option<Receiver>,
    refusals: Vec<Refusal>,
    /// When each was read whole.
    arrivals: Vec<Instant>,
}

/// A status, and header lines that go with it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reply {
    status: u16,
    headers: String,
}

/// The fake cost API.
#[derive(Debug)]
pub struct HttpSink {
    namespace: Namespace,
    port: u16,
    kept: Arc<Mutex<Kept>>,
    /// What new connections are met with; `None` without TLS.
    certificate: Arc<Mutex<Option<Arc<ServerConfig>>>>,
    /// `None` while away.
    acceptor: Option<Acceptor>,
}

impl HttpSink {
    /// Listens on `port` of every address of the control namespace and accepts all.
    ///
    /// # Errors
    /// [`Error::Os`] when the port is taken.
    pub fn start(cluster: &Cluster, port: u16) -> Result<Self, Error> {
        Self::listen(cluster, port, None, None)
    }

    /// As [`start`](Self::start), as a receiver of remote write 2.0 and of nothing else.
    ///
    /// # Errors
    /// As there.
    pub fn start_remote_write_2(cluster: &Cluster, port: u16) -> Result<Self, Error> {
        let schema = cluster.write_file(SCHEMA_FILE, SCHEMA)?;
        let namespace = cluster.namespace(topology::CONTROL)?.clone();
        Self::listen(cluster, port, None, Some(Receiver::new(namespace, schema)))
    }

    /// As [`start`](Self::start), with TLS.
    ///
    /// # Errors
    /// As there.
    pub fn start_tls(cluster: &Cluster, port: u16, certificate: &Certificate) -> Result<Self, Error> {
        Self::listen(cluster, port, Some(Arc::clone(&certificate.config)), None)
    }

    fn listen(
        cluster: &Cluster,
        port: u16,
        certificate: Option<Arc<ServerConfig>>,
        receiver: Option<Receiver>,
    ) -> Result<Self, Error> {
        let namespace = cluster.namespace(topology::CONTROL)?.clone();
        let answer = if receiver.is_some() { Answer::RemoteWrite2 } else { Answer::Status(200) };
        let kept = Kept {
            answer,
            bytes: 0,
            requests: Vec::new(),
            receiver,
            refusals: Vec::new(),
            arrivals: Vec::new(),
        };
        let (kept, certificate) = (Arc::new(Mutex::new(kept)), Arc::new(Mutex::new(certificate)));
        let mut sink = Self { namespace, port, kept, certificate, acceptor: None };
        sink.come_back()?;
        Ok(sink)
    }

    /// Where the exporter finds it, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if locked(&self.certificate).is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Meets new connections with TLS and this certificate from now on.
    pub fn present(&self, certificate: &Certificate) {
        *locked(&self.certificate) = Some(Arc::clone(&certificate.config));
    }

    /// Treats requests so from now on.
    pub fn answer(&self, answer: Answer) {
        locked(&self.kept).answer = answer;
    }

    /// Closes the port and every connection.
    pub fn go_away(&mut self) {
        let _answers_are_out = locked(&self.kept);
        self.acceptor = None;
    }

    /// Opens the port again; what was kept stays.
    ///
    /// # Errors
    /// [`Error::Os`] when the port is taken.
    pub fn come_back(&mut self) -> Result<(), Error> {
        if self.acceptor.is_some() {
            return Ok(());
        }
        let refused = || Error::os("open the port of", "the HTTP sink");
        let port = self.port;
        let listener = self.namespace.enter(|| TcpListener::bind(("0.0.0.0", port)))?.map_err(refused())?;
        let (kept, certificate) = (Arc::clone(&self.kept), Arc::clone(&self.certificate));
        // A connection that breaks is the sender's to notice; what was read whole is kept.
        let serve = move |stream| {
            let tls = locked(&certificate).clone();
            drop(meet(stream, tls, &kept));
        };
        self.acceptor = Some(Acceptor::start(listener, CONNECTIONS_MAX, serve).map_err(refused())?);
        Ok(())
    }

    /// Every request read whole so far, in order, whatever it was answered with.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.kept).requests.clone()
    }

    /// Every series that a receiver of remote write 2.0 took.
    #[must_use]
    pub fn series(&self) -> Vec<Series> {
        locked(&self.kept).receiver.as_ref().map(Receiver::series).unwrap_or_default()
    }

    /// What a receiver of remote write 2.0 refused, and why.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        let words = |refusal: &Refusal| format!("{}: {}", refusal.status, refusal.words);
        locked(&self.kept).refusals.iter().map(words).collect()
    }

    /// When each of [`requests`](Self::requests) was read whole.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Instant> {
        locked(&self.kept).arrivals.clone()
    }

    /// The requests answered with 200.
    #[must_use]
    pub fn accepted(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.status == 200).collect()
    }
}

fn meet(stream: TcpStream, tls: Option<Arc<ServerConfig>>, kept: &Mutex<Kept>) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    match tls {
        None => serve(stream, kept),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            serve(StreamOwned::new(connection, stream), kept)
        }
    }
}

fn serve(stream: impl Read + Write, kept: &Mutex<Kept>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(read) = read_request(&mut reader)? {
        match read {
            Ok(request) => {
                let mut kept = locked(kept);
                let hangs = kept.answer == Answer::Hang;
                match kept.keep(request) {
                    Some(reply) => answer(reader.get_mut(), &reply, "keep-alive")?,
                    None if hangs => {
                        drop(kept);
                        return reader.fill_buf().map(drop);
                    }
                    None => return Ok(()),
                }
            }
            Err(status) => return answer(reader.get_mut(), &Reply::of(status), "close"),
        }
    }
    Ok(())
}

fn answer(writer: &mut impl Write, reply: &Reply, connection: &str) -> io::Result<()> {
    let Reply { status, headers } = reply;
    let head =
        format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\n{headers}Connection: {connection}\r\n\r\n");
    writer.write_all(head.as_bytes())?;
    writer.flush()
}

impl Reply {
    fn of(status: u16) -> Self {
        Self { status, headers: String::new() }
    }
}

impl Kept {
    /// What to answer with, `None` for silence.
    fn keep(&mut self, mut request: Request) -> Option<Reply> {
        if self.bytes + request.body.len() > KEPT_BYTES_MAX {
            return Some(Reply::of(507));
        }
        let reply = match (self.answer, &mut self.receiver) {
            (Answer::Status(status), _) => Some(Reply::of(status)),
            (Answer::Silence | Answer::Hang, _) | (Answer::RemoteWrite2, None) => None,
            (Answer::RemoteWrite2, Some(receiver)) => Some(match receiver.take(&request) {
                Ok(samples) => written(200, samples),
                Err(refusal) => {
                    self.refusals.push(refusal.clone());
                    written(refusal.status, 0)
                }
            }),
        };
        request.status = reply.as_ref().map_or(0, |reply| reply.status);
        self.bytes += request.body.len();
        self.requests.push(request);
        self.arrivals.push(now());
        reply
    }
}

/// A receiver of remote write 2.0 says what it wrote with every answer.
fn written(status: u16, samples: usize) -> Reply {
    let kinds = [("Samples", samples), ("Histograms", 0), ("Exemplars", 0)];
    let headers = kinds.map(|(kind, count)| format!("X-Prometheus-Remote-Write-{kind}-Written: {count}\r\n"));
    Reply { status, headers: headers.concat() }
}

/// `None` at the end of the connection; `Err` is the status for what this server does not take.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Result<Request, u16>>> {
    let Some(first) = read_line(reader)? else { return Ok(None) };
    let mut words = first.split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(Some(Err(400))) };
    let mut headers = Vec::new();
    loop {
        let Some(line) = read_line(reader)? else { return Ok(None) };
        if line.is_empty() {
            break;
        }
        match line.split_once(':') {
            Some((name, value)) if headers.len() < HEADERS_MAX => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => return Ok(Some(Err(400))),
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let Some(length) = length.and_then(|(_, value)| value.parse().ok()) else {
        return Ok(Some(Err(411)));
    };
    if length > BODY_BYTES_MAX {
        return Ok(Some(Err(413)));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (method, path) = (method.to_owned(), path.to_owned());
    Ok(Some(Ok(Request { method, path, headers, body, status: 0 })))
}

/// `None` at the end of the connection.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    reader.by_ref().take(HEAD_LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
    let text = text.strip_suffix("\r\n").ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(text.to_owned()))
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<Result<Request, u16>> {
        read_request(&mut &*bytes).unwrap()
    }

    /// Goal: a whole request is read as it came, and what this server does not take gets its status.
    #[test]
    fn requests_are_read_whole_or_refused() {
        let request = Request {
            method: "POST".to_owned(),
            path: "/v1/x?y=z".to_owned(),
            headers: vec![
                ("content-length".to_owned(), "3".to_owned()),
                ("x-api-key".to_owned(), "k".to_owned()),
            ],
            body: vec![0x1f, 0x8b, 0x00],
            status: 0,
        };
        let head = b"POST /v1/x?y=z HTTP/1.1\r\nContent-Length: 3\r\nX-API-Key: k\r\n\r\n";
        assert_eq!(read(&[head.as_slice(), &[0x1f, 0x8b, 0x00]].concat()), Some(Ok(request)));
        assert_eq!(read(b""), None);
        assert_eq!(read(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Some(Err(411)));
        assert_eq!(read(b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"), Some(Err(413)));
        assert_eq!(read(b"POST\r\n\r\n"), Some(Err(400)));
        assert!(read_request(&mut &b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nxy"[..]).is_err());
    }
}
