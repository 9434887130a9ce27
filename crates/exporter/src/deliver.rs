//! Delivered is what every sink has accepted.

use std::collections::BTreeMap;
use std::convert::Infallible;

use egressd_flow::Position;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{StreamExt as _, StreamMap};

/// Who has to accept a batch.
#[derive(Debug)]
pub(crate) enum Party {
    /// This sink too, from the position on that its channel says first.
    Joined(String, watch::Receiver<Position>),
    /// Not this one any more.
    Left(String),
}

/// What a sink that takes nothing yet has "accepted": it holds nobody up.
pub(crate) const NOT_YET: Position = Position(u64::MAX);

/// Tells the least of all positions that sinks have reached, until all their senders and that of `parties` are gone;
/// then `delivered` goes too. A sink that ended without leaving stays where it was.
pub(crate) async fn deliver(
    mut parties: mpsc::Receiver<Party>,
    delivered: watch::Sender<Position>,
) -> Result<(), Infallible> {
    let mut sinks = Sinks::default();
    loop {
        tokio::select! {
            Some(party) = parties.recv() => sinks.note(party),
            Some(_) = sinks.changes.next() => {}
            else => return Ok(()),
        }
        // A position was read before the look at who joined: whoever had to reach it too is known by then.
        let mut least = sinks.least();
        while let Ok(party) = parties.try_recv() {
            sinks.note(party);
            least = sinks.least();
        }
        delivered.send_if_modified(|known| {
            let news = least > *known && least != NOT_YET;
            if news {
                *known = least;
            }
            news
        });
    }
}

#[derive(Default)]
struct Sinks {
    reached: BTreeMap<String, watch::Receiver<Position>>,
    changes: StreamMap<String, WatchStream<Position>>,
}

impl Sinks {
    fn note(&mut self, party: Party) {
        match party {
            Party::Joined(sink, accepted) => {
                self.reached.insert(sink.clone(), accepted.clone());
                self.changes.insert(sink, WatchStream::new(accepted));
            }
            Party::Left(sink) => {
                self.reached.remove(&sink);
                self.changes.remove(&sink);
            }
        }
    }

    /// Read twice where one does not take batches yet: it may have begun to, and others may have accepted one, since it
    /// was looked at.
    fn least(&self) -> Position {
        let read = || self.reached.values().map(|accepted| *accepted.borrow());
        let any_not_yet = read().any(|position| position == NOT_YET);
        let least = read().min().unwrap_or_default();
        if any_not_yet { least.min(read().min().unwrap_or_default()) } else { least }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    struct Bench {
        parties: mpsc::Sender<Party>,
        told: watch::Receiver<Position>,
    }

    impl Bench {
        fn start() -> Self {
            let (parties, parties_out) = mpsc::channel(4);
            let (delivered, told) = watch::channel(Position(0));
            tokio::spawn(deliver(parties_out, delivered));
            Self { parties, told }
        }

        /// A sink that takes batches after `from`.
        async fn join(&self, sink: &str, from: u64) -> watch::Sender<Position> {
            let (accepted, accepted_out) = watch::channel(NOT_YET);
            self.parties.send(Party::Joined(sink.to_owned(), accepted_out)).await.unwrap();
            accepted.send_replace(Position(from));
            accepted
        }

        #[track_caller]
        fn hear(&mut self, position: u64) -> impl Future<Output = ()> {
            let told = &mut self.told;
            async move {
                let heard = timeout(PATIENCE, told.wait_for(|told| *told >= Position(position))).await;
                assert_eq!(*heard.expect("it is told").unwrap(), Position(position));
            }
        }
    }

    /// Goal: the slowest sink decides, and the last word is heard after all senders are gone.
    #[tokio::test]
    async fn the_slowest_sink_decides() {
        let mut bench = Bench::start();
        let (one, two) = (bench.join("one", 0).await, bench.join("two", 0).await);
        one.send_replace(Position(5));
        two.send_replace(Position(3));
        bench.hear(3).await;
        two.send_replace(Position(9));
        drop((one, two));
        bench.hear(5).await;
        let Bench { parties, mut told } = bench;
        drop(parties);
        assert!(timeout(PATIENCE, told.changed()).await.expect("it ends").is_err());
    }

    /// Goal: a sink that joins holds nobody up before it takes batches and everybody after; one that ended is waited
    /// for until it is said to have left.
    #[tokio::test]
    async fn sinks_join_and_leave() {
        let mut bench = Bench::start();
        let one = bench.join("one", 0).await;
        let (not_yet, not_yet_out) = watch::channel(NOT_YET);
        bench.parties.send(Party::Joined("not yet".to_owned(), not_yet_out)).await.unwrap();
        one.send_replace(Position(5));
        bench.hear(5).await;
        let two = bench.join("two", 5).await;
        one.send_replace(Position(8));
        two.send_replace(Position(6));
        bench.hear(6).await;
        drop((two, not_yet));
        one.send_replace(Position(9));
        tokio::task::yield_now().await;
        assert_eq!(*bench.told.borrow(), Position(6));
        bench.parties.send(Party::Left("two".to_owned())).await.unwrap();
        bench.hear(9).await;
    }
}
