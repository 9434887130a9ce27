//! The server's thread: a listener, its connections and, where asked for, their TLS.
//!
//! Invariant: when it is dropped, the port and every connection are closed and the thread is gone.
//! Bound: [`CONNECTIONS_MAX`] connections, handshakes included; further ones wait to be accepted.

use std::io;
use std::net::TcpListener as StdListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};

use axum::Router;
use axum::serve::Listener;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const CONNECTIONS_MAX: usize = 256;

/// A running server.
#[derive(Debug)]
pub(super) struct Running {
    /// Dropped to end it.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Serves `listener`, which stays in the network namespace that it was made in, on a runtime of its own.
    pub(super) fn start(
        listener: StdListener,
        tls: Option<Arc<ServerConfig>>,
        router: Router,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let connections = Connections {
            listener,
            tls: tls.map(TlsAcceptor::from),
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            handshakes: JoinSet::new(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("kubernetes".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    _ = axum::serve(connections, router) => {}
                }
            });
            // Dropping the runtime drops the tasks of all connections, and with them their sockets.
            drop(runtime);
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and there is nothing left to end.
            drop(thread.join());
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// An accepted connection, counted while it lives.
struct Connection {
    stream: Box<dyn Duplex>,
    _permit: OwnedSemaphorePermit,
}

struct Connections {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    permits: Arc<Semaphore>,
    /// A peer that is slow in its handshake keeps nobody else waiting.
    handshakes: JoinSet<io::Result<Connection>>,
}

impl Connections {
    fn welcome(&mut self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let tls = self.tls.clone();
        self.handshakes.spawn(async move {
            let stream: Box<dyn Duplex> = match tls {
                Some(tls) => Box::new(tls.accept(stream).await?),
                None => Box::new(stream),
            };
            Ok(Connection { stream, _permit: permit })
        });
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    // A handshake that failed is the peer's to notice.
                    if let Ok(Ok(connection)) = done {
                        return (connection, ());
                    }
                }
                accepted = accept_one(&self.listener, &self.permits) => match accepted {
                    Ok((stream, permit)) => self.welcome(stream, permit),
                    // Out of descriptors, or a peer that left at once.
                    Err(_) => tokio::task::yield_now().await,
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

async fn accept_one(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
