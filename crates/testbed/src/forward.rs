//! A port of the machine's loopback that leads into a namespace.
//!
//! A socket belongs to the namespace it was created in, so a thread that entered the namespace makes the connection
//! and the relaying threads need not be there.
//!
//! Bound: 64 connections at a time.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::acceptor::Acceptor;
use crate::error::Error;
use crate::namespace::Namespace;

const CONNECTIONS_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    _acceptor: Acceptor,
}

impl Forward {
    /// Relays a free port of 127.0.0.1 to `port` of 127.0.0.1 inside `namespace`.
    pub(crate) fn start(namespace: &Namespace, port: u16) -> Result<Self, Error> {
        let refused = |source| Error::os("forward a port into", namespace.name())(source);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let inside = namespace.clone();
        let acceptor = Acceptor::start(listener, CONNECTIONS_MAX, move |outer| {
            // Whoever connected sees a closed connection; there is nobody else to tell.
            if let Ok(Ok(inner)) = inside.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port))) {
                drop(relay(&outer, &inner));
            }
        })
        .map_err(refused)?;
        Ok(Self { address, _acceptor: acceptor })
    }
}

/// Copies both ways until both ends have closed.
fn relay(outer: &TcpStream, inner: &TcpStream) -> io::Result<()> {
    thread::scope(|scope| {
        let inward = scope.spawn(|| copy(outer, inner));
        copy(inner, outer)?;
        inward.join().unwrap_or(Ok(()))
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    match copied {
        Ok(_) => to.shutdown(Shutdown::Write),
        Err(error) => {
            // The other direction has no one left to talk to.
            drop(from.shutdown(Shutdown::Both));
            drop(to.shutdown(Shutdown::Both));
            Err(error)
        }
    }
}
