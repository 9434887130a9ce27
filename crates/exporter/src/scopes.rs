//! Each node's scope: whole when its collector dials, then how old it is.

use std::sync::Arc;
use std::time::Duration;

use egressd_delivery::serve::ScopeFeed;
use egressd_enrich::Index;
use egressd_flow::{Scope, UnixNanos};
use egressd_service::clock::unix_nanos;
use tokio::sync::mpsc;

/// Four times a minute: collectors let go of what nobody owns a minute after a scope does not name it.
const REFRESH: Duration = Duration::from_secs(15);

/// Feeds from an index that does not change.
pub(crate) fn feed(index: Arc<Index>) -> ScopeFeed {
    Arc::new(move |hello| {
        let (scopes, feed) = mpsc::channel(1);
        let whole = index.scope(&hello.node, &hello.flags.exclude_namespaces, UnixNanos(unix_nanos()));
        tokio::spawn(refresh(whole, scopes));
        feed
    })
}

async fn refresh(whole: Scope, scopes: mpsc::Sender<Scope>) {
    let mut scope = whole;
    let mut every = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            () = scopes.closed() => return,
            _ = every.tick() => {}
        }
        if scopes.send(scope).await.is_err() {
            return;
        }
        scope = Scope {
            as_of: UnixNanos(unix_nanos()),
            whole: false,
            owners: Vec::new(),
            node_addresses: Vec::new(),
        };
    }
}
