//! A small honest HTTP/1.1 server, with TLS or without: reads whole requests, keeps them, answers by a script.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What a request is answered with, after it was read to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// A status line without its version, and further header lines.
    Status(&'static str),
    /// The connection is closed without a word.
    Close,
    /// Nothing, ever.
    Hang,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Bytes,
}

/// The server; it ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    script: Arc<Mutex<VecDeque<Reply>>>,
    requests: Arc<Mutex<Vec<Request>>>,
    /// What new connections are met with; `None` without TLS.
    tls: Arc<Mutex<Option<Arc<ServerConfig>>>>,
}

impl Receiver {
    /// Answers by the script, then with 204.
    pub(crate) async fn start(address: &str, script: &[Reply]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
            requests: Arc::default(),
            tls: Arc::default(),
        };
        let server = receiver.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(server.clone().meet(stream));
            }
        });
        receiver
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Meets new connections with TLS from now on.
    pub(crate) fn present(&self, config: ServerConfig) {
        *self.tls.lock().unwrap() = Some(Arc::new(config));
    }

    async fn meet(self, stream: TcpStream) {
        let tls = self.tls.lock().unwrap().clone();
        match tls {
            None => self.serve(stream).await,
            Some(config) => match TlsAcceptor::from(config).accept(stream).into_fallible().await {
                Ok(stream) => self.serve(stream).await,
                // Closed by the client, so that what it is told is not lost to a reset.
                Err((_, mut stream)) => drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await),
            },
        }
    }

    /// Serves a connection until its end.
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream).await {
            self.requests.lock().unwrap().push(request);
            let reply = self.script.lock().unwrap().pop_front().unwrap_or(Reply::Status("204 No Content"));
            let head = match reply {
                Reply::Status(head) => head,
                Reply::Close => return,
                Reply::Hang => std::future::pending().await,
            };
            let body = if head.starts_with("204") { "" } else { "what is wrong, in words\n" };
            let length = format!("content-length: {}", body.len());
            let answer = format!("HTTP/1.1 {head}\r\n{length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
    }
}

/// One whole request; `None` at the connection's end.
async fn read(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let line = lines.next()?;
    let headers: BTreeMap<String, String> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { line, headers, body: Bytes::from(body) })
}
