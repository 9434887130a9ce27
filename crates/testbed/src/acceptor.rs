//! A listener and the threads that serve its connections; shared by the port-forward, the traffic server and the fake
//! sink.
//!
//! Invariant: dropping it closes the port and every connection at once, and its accepting thread is gone.
//! Bound: connections at a time; one over it is closed unserved.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use socket2::SockRef;

/// Open connections, so that they can be closed from outside of their threads.
#[derive(Debug, Default)]
struct Live {
    next: u64,
    streams: HashMap<u64, TcpStream>,
    closed: bool,
}

#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: Arc<TcpListener>,
    live: Arc<Mutex<Live>>,
    accepting: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Serves each connection by `serve` on a thread of its own.
    pub(crate) fn start(
        listener: TcpListener,
        connections_max: usize,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (listener, live) = (Arc::new(listener), Arc::new(Mutex::new(Live::default())));
        let accepting = {
            let (listener, live) = (Arc::clone(&listener), Arc::clone(&live));
            let serve = Arc::new(serve);
            thread::Builder::new().name("accept".to_owned()).spawn(move || {
                // The only end of accept that matters is the shutdown of the listener; a connection that broke
                // before it was accepted is the peer's affair.
                loop {
                    match listener.accept() {
                        Ok((stream, _)) => serve_one(stream, connections_max, &live, &serve),
                        Err(_) if locked(&live).closed => return,
                        Err(_) => thread::yield_now(),
                    }
                }
            })?
        };
        Ok(Self { listener, live, accepting: Some(accepting) })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        {
            let mut live = locked(&self.live);
            live.closed = true;
            for stream in live.streams.values() {
                // A connection that has ended meanwhile cannot be shut down, and need not be.
                drop(stream.shutdown(Shutdown::Both));
            }
        }
        // On Linux this wakes a thread in accept with EINVAL and closes the port.
        drop(SockRef::from(&*self.listener).shutdown(Shutdown::Both));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

fn serve_one<S: Fn(TcpStream) + Send + Sync + 'static>(
    stream: TcpStream,
    connections_max: usize,
    live: &Arc<Mutex<Live>>,
    serve: &Arc<S>,
) {
    let Ok(handle) = stream.try_clone() else { return };
    let id = {
        let mut live = locked(live);
        if live.closed || live.streams.len() >= connections_max {
            return;
        }
        live.next += 1;
        let id = live.next;
        live.streams.insert(id, handle);
        id
    };
    let (for_thread, serve) = (Arc::clone(live), Arc::clone(serve));
    let started = thread::Builder::new().name("serve".to_owned()).spawn(move || {
        serve(stream);
        locked(&for_thread).streams.remove(&id);
    });
    if started.is_err() {
        locked(live).streams.remove(&id);
    }
}

/// A panic in one connection's thread leaves the table whole: it is changed by single calls only.
fn locked(live: &Mutex<Live>) -> MutexGuard<'_, Live> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}
