//! What the log says of a destination that cannot be pushed to, over real sockets.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;

use super::driver::{books, metric};
use super::push::{install_provider, pushes_of};
use super::receiver::Receiver;
use super::receiver::Reply::{Close, Hang};
use super::*;
use crate::cause::Cause;
use crate::client::{Answer, Endpoint};
use crate::config::{Access, SinkConfig};
use crate::driver::{Report, Sink, run, system_clock};
use crate::metrics::SinkMetrics;

/// The log of the current thread, as the daemons write it but for the time.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let format = tracing_subscriber::fmt().without_time().with_ansi(false).with_target(false);
        (log.clone(), tracing::subscriber::set_default(format.with_writer(log).finish()))
    }

    /// The lines of a level.
    pub(crate) fn lines(&self, level: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter_map(|line| line.trim_start().strip_prefix(level)).map(str::to_owned).collect()
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A port of loopback that nobody listens on.
async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// The address of a server that answers the first connection so, whatever it asks.
async fn answers(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        // Closed by the client, so that the answer is not lost to a reset.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.ok();
    });
    address
}

/// Why one attempt got no answer.
async fn cause(url: &str) -> Cause {
    install_provider();
    let url = crate::Secret::new(Url::parse(url).unwrap());
    let endpoint =
        Endpoint::new(Method::POST, url, HeaderMap::new(), Duration::from_secs(30), Access::default())
            .unwrap();
    match endpoint.send(Bytes::from_static(b"body"), seconds(1)).await {
        Answer::Failed(error) => Cause::of(&error),
        other => panic!("{other:?}"),
    }
}

/// Goal: each way in which a destination can be out of reach is told in plain words, by its cause.
#[tokio::test]
async fn causes_are_told_in_plain_words() {
    let closed = Receiver::start("127.0.0.1:0", &[Close]).await.address;
    let plain = answers("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    for (url, expected) in [
        (
            format!("http://{}/", closed_port().await),
            "connection refused: the host is there and nothing listens on the port",
        ),
        // No label may be longer than 63, so no resolver is asked.
        (
            format!("http://{}.invalid/", "a".repeat(64)),
            "the host's name cannot be resolved: failed to lookup address information: Name or service not known",
        ),
        (format!("https://{plain}/"), "the server does not speak TLS on this port"),
        (
            format!("http://{closed}/"),
            "client error (SendRequest): connection closed before message completed",
        ),
    ] {
        assert_eq!(cause(&url).await.to_string(), expected, "{url}");
    }
}

/// Goal: silence is told apart, before the connection and after it.
#[tokio::test(start_paused = true)]
async fn silence_is_told_apart() {
    let hanging = Receiver::start("127.0.0.1:0", &[Hang]).await.address;
    assert_eq!(cause(&format!("http://{hanging}/")).await, Cause::AnswerTimedOut);

    // A queue of one that is full swallows every further attempt to connect.
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(0).unwrap();
    let _first = TcpStream::connect(full.local_addr().unwrap()).await.unwrap();
    let address = full.local_addr().unwrap();
    assert_eq!(cause(&format!("http://{address}/")).await, Cause::ConnectTimedOut);
}

/// Goal: a destination that is not there is named with the cause and what to do; it gets everything, once, when it
/// comes, and nothing of it counts as ambiguous.
#[tokio::test]
async fn absent_destination_is_named_and_found_when_it_comes() {
    let (log, _guard) = Log::begin();
    let address = closed_port().await;
    let mut registry = Registry::default();
    let config = serde_saphyr::from_str(&format!("http: {{ url: 'http://{address}/path' }}")).unwrap();
    let config = SinkConfig::new("castai", config, None, &|_| None).unwrap();
    install_provider();
    let (sink, _controls) = Sink::new(config, &SinkMetrics::register(&mut registry), system_clock()).unwrap();
    let (batches, received) = mpsc::channel(1);
    let (accepted, _position) = watch::channel(Position::default());
    batches
        .send(Arc::new(batch(1, &["web/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp tx=10/1 rx=20/2"])))
        .await
        .unwrap();
    drop(batches);
    let come = async {
        while pushes_of(&registry, "outcome=\"not_connected\"") == 0 {
            tokio::task::yield_now().await;
        }
        Receiver::start(&address.to_string(), &[]).await
    };
    let (report, receiver) =
        tokio::join!(run(sink, received, accepted, None, CancellationToken::new()), come);
    assert_eq!(report, Report { applied: Position(1), accepted: Position(1), ..Report::default() });
    assert_eq!(receiver.requests().len(), 1);
    assert_eq!(metric(&registry, "egressd_exporter_sink_ambiguous_bytes_total"), 0);
    assert_eq!(books(&registry, "bytes"), [30, 30, 0, 0]);
    assert_eq!(
        log.lines("WARN"),
        [format!(
            " push failed, data kept, trying again sink=\"castai\" origin=\"http://{address}\" \
             error=connection refused: the host is there and nothing listens on the port \
             advice=\"check host and port of the sink's url, and that its server runs\" \
             outcome=not_connected withheld=0"
        )]
    );
}
