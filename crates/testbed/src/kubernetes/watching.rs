//! One open watch: the events of a resource from a version on, as lines of JSON.
//!
//! Invariants: events come in the order of versions, none twice, none left out; a bookmark never names a version
//! whose events are not all sent. A watch that falls behind what the store remembers is ended.
//!
//! Bounds: lines of at most [`LINES_MAX`] objects go out at once, so a slow reader holds back the rest in the store;
//! the state that a watch begins with is held as shared texts until it is sent.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde_json::json;
use tokio::sync::watch as latest;
use tokio::time::Instant;

use super::ask::{Watch, WatchFrom};
use super::resource::Resource;
use super::settings::{Fault, Settings};
use super::shared::Shared;
use super::status::Refusal;
use super::store::{Event, EventKind, Store, Stored};

const LINES_MAX: usize = 256;
/// What a real server takes for a watch that does not say (`--min-request-timeout`).
const TIMEOUT: Duration = Duration::from_secs(1800);

/// How a test ends all watches at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Ended well, as by their timeout.
    pub(super) ended: u64,
    /// Broken off in the middle, as by a cut connection.
    pub(super) cut: u64,
}

/// The connection is to be broken off.
#[derive(Debug, thiserror::Error)]
#[error("the watch is cut")]
pub(super) struct Cut;

#[derive(Debug)]
struct Line {
    kind: EventKind,
    text: Arc<str>,
}

/// Counts one watch of a resource while it lives.
#[derive(Debug)]
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Watching {
    shared: Arc<Shared>,
    resource: Resource,
    /// All events up to here are sent or in `lines`.
    position: u64,
    lines: VecDeque<Line>,
    /// Owed after `lines`: the bookmark that ends the initial events.
    ends_initial: bool,
    bookmarks: bool,
    bookmarked: Instant,
    deadline: Instant,
    began: Ends,
    versions: latest::Receiver<u64>,
    settings: latest::Receiver<Settings>,
    ends: latest::Receiver<Ends>,
    _open: Open,
}

/// The body of a watch's answer.
pub(super) fn body(shared: &Arc<Shared>, resource: Resource, ask: &Watch) -> Result<Body, Refusal> {
    // Subscribed before the store is read, so no change falls between the two.
    let (versions, settings, ends) = shared.subscribe();
    let began = *ends.borrow();
    let (position, lines) = {
        let store = shared.store();
        match begin(&store, resource, &ask.from) {
            Ok(begun) => begun,
            // An answer with 200 and one event: so a real server tells it.
            Err(refusal) if refusal.code == 410 => return Ok(error_event(&refusal).into()),
            Err(refusal) => return Err(refusal),
        }
    };
    let now = Instant::now();
    let watching = Watching {
        shared: Arc::clone(shared),
        resource,
        position,
        lines,
        ends_initial: ask.bookmarks && matches!(ask.from, WatchFrom::InitialEvents(_)),
        bookmarks: ask.bookmarks,
        bookmarked: now,
        deadline: now + ask.timeout.unwrap_or(TIMEOUT),
        began,
        versions,
        settings,
        ends,
        _open: Open(shared.open_watch(resource)),
    };
    Ok(Body::from_stream(stream::unfold(Some(watching), |watching| async {
        match watching?.next().await {
            (Ok(Some(bytes)), watching) => Some((Ok(bytes), Some(watching))),
            (Ok(None), _) => None,
            (Err(cut), _) => Some((Err(cut), None)),
        }
    })))
}

fn begin(store: &Store, resource: Resource, from: &WatchFrom) -> Result<(u64, VecDeque<Line>), Refusal> {
    let current = store.version();
    let (WatchFrom::After(asked) | WatchFrom::InitialEvents(asked)) = *from else {
        return Ok((current, state(store, resource)));
    };
    if asked > current {
        return Err(Refusal::too_large(asked, current));
    }
    match from {
        WatchFrom::InitialEvents(_) => Ok((current, state(store, resource))),
        _ if asked < store.compacted() => Err(Refusal::too_old(asked, store.compacted())),
        _ => match store.events(resource, asked) {
            Ok(events) => Ok((current, events.map(Line::of).collect())),
            Err(_) => Err(Refusal::too_old(asked, store.compacted())),
        },
    }
}

fn state(store: &Store, resource: Resource) -> VecDeque<Line> {
    let state = store.state(resource, store.version()).unwrap_or_default();
    let added = |stored: &Stored| Line { kind: EventKind::Added, text: Arc::clone(&stored.text) };
    state.into_values().map(added).collect()
}

impl Line {
    fn of(event: &Event) -> Self {
        Self { kind: event.kind, text: Arc::clone(&event.object.text) }
    }
}

enum Wake {
    /// The settings have changed, or the test ends the watch.
    Again,
    /// Its time is over, or the server's.
    Over,
    /// The store has changed.
    Changed,
    Bookmark,
}

impl Watching {
    /// The next bytes to send; `None` when it ends well.
    async fn next(mut self) -> (Result<Option<Bytes>, Cut>, Self) {
        loop {
            let (stalled, interval) = {
                let settings = self.settings.borrow_and_update();
                (settings.watches == Fault::Stall, settings.bookmark_interval)
            };
            let ends = *self.ends.borrow();
            if ends != self.began {
                let end = if ends.cut == self.began.cut { Ok(None) } else { Err(Cut) };
                return (end, self);
            }
            if !stalled && let Some(bytes) = self.take() {
                return (Ok(Some(bytes)), self);
            }
            match self.wait(stalled, interval).await {
                Wake::Again => {}
                Wake::Over => return (Ok(None), self),
                Wake::Bookmark => {
                    let bytes = self.bookmark(false);
                    return (Ok(Some(bytes)), self);
                }
                Wake::Changed => {
                    let delay = self.settings.borrow().delay;
                    tokio::time::sleep(delay).await;
                    if !self.fetch() {
                        return (Ok(None), self);
                    }
                }
            }
        }
    }

    async fn wait(&mut self, stalled: bool, interval: Duration) -> Wake {
        let again = |is_there| if is_there { Wake::Again } else { Wake::Over };
        let bookmark_at = self.bookmarked + interval;
        tokio::select! {
            biased;
            ended = self.ends.changed() => again(ended.is_ok()),
            changed = self.settings.changed() => again(changed.is_ok()),
            () = tokio::time::sleep_until(self.deadline), if !stalled => Wake::Over,
            changed = self.versions.changed(), if !stalled => {
                if changed.is_ok() { Wake::Changed } else { Wake::Over }
            }
            () = tokio::time::sleep_until(bookmark_at), if self.bookmarks && !stalled => Wake::Bookmark,
        }
    }

    /// Reads what is new; `false` when the store has forgotten a part of it.
    fn fetch(&mut self) -> bool {
        let version = *self.versions.borrow_and_update();
        let store = self.shared.store();
        let Ok(events) = store.events(self.resource, self.position) else { return false };
        self.lines.extend(events.map(Line::of));
        self.position = store.version().max(version);
        true
    }

    /// Some of what is owed; `None` when nothing is.
    fn take(&mut self) -> Option<Bytes> {
        if self.lines.is_empty() {
            return std::mem::take(&mut self.ends_initial).then(|| self.bookmark(true));
        }
        let count = self.lines.len().min(LINES_MAX);
        let mut text = String::new();
        for Line { kind, text: object } in self.lines.drain(..count) {
            let kind = match kind {
                EventKind::Added => "ADDED",
                EventKind::Modified => "MODIFIED",
                EventKind::Deleted => "DELETED",
            };
            let (api_version, of) = (self.resource.api_version(), self.resource.kind());
            // The stored text is an object that lacks its first two fields.
            let rest = &object[1..];
            writeln!(
                text,
                r#"{{"type":"{kind}","object":{{"kind":"{of}","apiVersion":"{api_version}",{rest}}}"#
            )
            .expect("writing to a String cannot fail");
        }
        Some(text.into())
    }

    fn bookmark(&mut self, ends_initial: bool) -> Bytes {
        self.bookmarked = Instant::now();
        let mut object = self.resource.empty();
        object["kind"] = self.resource.kind().into();
        object["apiVersion"] = self.resource.api_version().into();
        object["metadata"] =
            json!({ "resourceVersion": self.position.to_string(), "creationTimestamp": null });
        if ends_initial {
            object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        format!("{}\n", json!({ "type": "BOOKMARK", "object": object })).into()
    }
}

fn error_event(refusal: &Refusal) -> String {
    format!("{}\n", json!({ "type": "ERROR", "object": refusal.object() }))
}
