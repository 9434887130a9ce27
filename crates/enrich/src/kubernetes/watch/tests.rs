//! What a watch's events and failures make of how far the cluster is known.

use futures_util::stream;
use kube::core::Status;

use super::*;

/// A feed whose changes come out at the other end.
fn feed() -> (Feed, mpsc::Receiver<Change>) {
    let (changes, told) = mpsc::channel(16);
    (Feed::new("pods", changes, WatchCounts::default(), Knowledge::default()), told)
}

/// The events, one after the other, as the library gives them.
async fn follow(feed: &mut Feed, events: Vec<watcher::Result<Event<PodObject>>>) {
    let _ended = feed.follow(stream::iter(events), false).await;
}

fn failure(code: u16) -> watcher::Error {
    watcher::Error::WatchError(Status::failure("it is over", "Expired").with_code(code).boxed())
}

/// Goal: from the moment when a list is due until it is in nothing is complete, however long it takes; the first one
/// interrupts nothing.
#[tokio::test]
async fn nothing_is_complete_until_the_list_is_in() {
    let (mut feed, _told) = feed();
    let long_after = || UnixNanos(unix_nanos()).saturating_add(10 * BROKEN_FOR);
    let cases = [
        ("listing first", vec![Ok(Event::Init)], false, false),
        ("listed", vec![Ok(Event::InitDone)], true, false),
        ("broken, going on", vec![Err(failure(500))], true, true),
        ("gone", vec![Err(failure(410))], false, true),
        ("listing after it", vec![Ok(Event::Init)], false, false),
        ("listed anew", vec![Ok(Event::InitDone)], true, false),
        ("without a version", vec![Err(watcher::Error::NoResourceVersion)], false, true),
        ("listed again", vec![Ok(Event::Init), Ok(Event::InitDone)], true, false),
        ("listing unasked", vec![Ok(Event::Init)], false, true),
    ];
    for (case, events, is_well, interrupts) in cases {
        feed.knowledge.advance(UnixNanos(1));
        follow(&mut feed, events).await;
        let found = (feed.well.is_well(long_after()), feed.knowledge.is_interrupted());
        assert_eq!(found, (is_well, interrupts), "{case}");
    }
}

/// Goal: each reason why a watch is broken is said when it is new, and again after the watch went on.
#[test]
fn a_reason_is_said_when_it_is_new() {
    let mut complaint = Complaint::default();
    let said = ["refused", "refused", "forbidden", "refused"].map(|text| complaint.is_news(text));
    assert_eq!(said, [true, false, true, true]);
    complaint.over();
    assert!(complaint.is_news("refused"));
}
