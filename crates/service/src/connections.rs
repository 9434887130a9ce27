//! A gRPC server's door: connections in, bounded in number, none for long without a conversation.
//!
//! A peer that connects and stays dumb, below HTTP/2 or above it, or that goes on holding a connection after its
//! conversation has ended, is cut off: it holds a place and buffers that another may need, and nothing else would
//! end it. With TLS its handshake is part of that silence. An accept that fails, for want of descriptors say, is tried again and never ends the daemon.
//! Bound: as many connections as the server says; more wait in the listener's backlog.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::tls::{Handshake, Tls, begin};

/// How long to wait when the kernel gives no connection: descriptors come back as others end.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// The listener's connections, for ever, `connections_max` at a time. One that has no conversation for `idle_max` is
/// cut off. Without `tls` they are plain text.
pub fn connections(
    listener: TcpListener,
    connections_max: usize,
    idle_max: Duration,
    tls: Option<Tls>,
) -> impl Stream<Item = Result<Connection, Infallible>> {
    let places = Arc::new(Semaphore::new(connections_max));
    stream::unfold((listener, places, tls), move |(listener, places, tls)| async move {
        let place = place(&places, connections_max).await;
        let (stream, peer) = accept(&listener).await;
        let connection = Connection::new(stream, peer, place, idle_max, tls.clone());
        Some((Ok(connection), (listener, places, tls)))
    })
}

async fn place(places: &Arc<Semaphore>, connections_max: usize) -> OwnedSemaphorePermit {
    if let Ok(place) = Arc::clone(places).try_acquire_owned() {
        return place;
    }
    warn!(connections_max, "no room for another connection: more wait until one ends");
    Arc::clone(places).acquire_owned().await.expect("nobody closes the places")
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_peers(&error) => {
                debug!(%error, "a connection was gone before it was accepted");
                tokio::task::yield_now().await;
            }
            Err(error) => {
                warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Whether it is one peer's affair, as when it hung up before it was its turn: the next ones need not wait for it. These
/// accept(2) passes on from the connection that it takes out of the queue; what else fails may fail again.
fn is_peers(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
        )
    )
}

/// What a call knows of the connection that carries it.
#[derive(Clone, Debug)]
pub struct Line {
    /// Who is at the other end.
    pub peer: SocketAddr,
    conversations: watch::Sender<usize>,
}

impl Line {
    /// A conversation begins; it lasts as long as what is returned.
    #[must_use]
    pub fn converse(&self) -> Talk {
        self.conversations.send_modify(|count| *count += 1);
        Talk(self.conversations.clone())
    }
}

/// While it lives the connection is not idle.
#[derive(Debug)]
pub struct Talk(watch::Sender<usize>);

impl Drop for Talk {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What carries the bytes.
enum Carrier {
    Plain(TcpStream),
    /// Driven by whoever reads or writes first, in the connection's own task.
    Begins(Handshake),
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake came to nothing.
    Over,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A connection that can be cut off.
pub struct Connection {
    carrier: Carrier,
    line: Line,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ends [`watch_over`] with the connection.
    _over: DropGuard,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(
        stream: TcpStream,
        peer: SocketAddr,
        place: OwnedSemaphorePermit,
        idle_max: Duration,
        tls: Option<Tls>,
    ) -> Self {
        // Only later, not wrong, without it.
        let _slower = stream.set_nodelay(true);
        let (conversations, watched) = watch::channel(0);
        let cut = CancellationToken::new();
        tokio::spawn(watch_over(watched, idle_max, cut.clone()));
        let carrier = match tls {
            Some(tls) => Carrier::Begins(begin(tls, stream, peer)),
            None => Carrier::Plain(stream),
        };
        Self {
            carrier,
            line: Line { peer, conversations },
            cut: Box::pin(cut.clone().cancelled_owned()),
            _over: cut.drop_guard(),
            _place: place,
        }
    }

    fn poll_carrier(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut dyn Duplex>> {
        if let Carrier::Begins(handshake) = &mut self.carrier {
            let agreed = ready!(handshake.as_mut().poll(context));
            self.carrier = Carrier::Over;
            self.carrier = Carrier::Tls(Box::new(agreed?));
        }
        Poll::Ready(match &mut self.carrier {
            Carrier::Plain(stream) => Ok(stream),
            Carrier::Tls(stream) => Ok(stream),
            Carrier::Begins(_) | Carrier::Over => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

/// Cuts a connection off once it has had no conversation for `idle_max`.
async fn watch_over(mut conversations: watch::Receiver<usize>, idle_max: Duration, cut: CancellationToken) {
    let idle = async {
        while tokio::time::timeout(idle_max, conversations.wait_for(|&count| count > 0)).await.is_ok() {
            if conversations.wait_for(|&count| count == 0).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = idle => cut.cancel(),
        () = cut.cancelled() => {}
    }
}

impl Connected for Connection {
    type ConnectInfo = Line;

    fn connect_info(&self) -> Line {
        self.line.clone()
    }
}

/// HTTP/2 always reads, so a cut is noticed there.
impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(ready!(self.poll_carrier(context))?).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(ready!(self.poll_carrier(context))?).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.poll_carrier(context))?).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(ready!(self.poll_carrier(context))?).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: accepting goes on at once after a peer that hung up, and pauses after whatever may fail again.
    #[test]
    fn accepting_pauses_unless_a_peer_is_to_blame() {
        let goes_on = |code| is_peers(&io::Error::from_raw_os_error(code));
        let peers = [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN].map(goes_on);
        let others = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EINVAL].map(goes_on);
        assert_eq!((peers, others), ([true; 3], [false; 5]));
    }
}
