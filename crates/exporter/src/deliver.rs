//! Delivered is what every sink has accepted.

use std::convert::Infallible;

use egressd_flow::Position;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{StreamExt as _, StreamMap};

/// Tells the least of all positions in `accepted` until all their senders are gone; then `delivered` goes too.
pub(crate) async fn deliver(
    accepted: Vec<watch::Receiver<Position>>,
    delivered: watch::Sender<Position>,
) -> Result<(), Infallible> {
    let mut reached = vec![Position::default(); accepted.len()];
    let mut changes: StreamMap<usize, WatchStream<Position>> =
        accepted.into_iter().map(WatchStream::new).enumerate().collect();
    while let Some((sink, position)) = changes.next().await {
        reached[sink] = position;
        let least = reached.iter().copied().min().unwrap_or_default();
        delivered.send_if_modified(|known| {
            let news = least > *known;
            if news {
                *known = least;
            }
            news
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the slowest sink decides, and the last word is heard after all senders are gone.
    #[tokio::test]
    async fn the_slowest_sink_decides() {
        let (one, one_out) = watch::channel(Position(0));
        let (two, two_out) = watch::channel(Position(0));
        let (delivered, mut told) = watch::channel(Position(0));
        let task = tokio::spawn(deliver(vec![one_out, two_out], delivered));
        one.send_replace(Position(5));
        two.send_replace(Position(3));
        told.changed().await.unwrap();
        assert_eq!(*told.borrow_and_update(), Position(3));
        two.send_replace(Position(9));
        drop((one, two));
        task.await.unwrap().unwrap();
        assert_eq!(*told.borrow(), Position(5));
        assert!(told.changed().await.is_ok(), "the last word is news");
        assert!(told.changed().await.is_err(), "and then there is none");
    }
}
