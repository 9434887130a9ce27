//! What the server's thread and the test's handle both hold: the store, the settings and the record of requests.
//!
//! Bound: the last [`REQUESTS_MAX`] requests are kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch as latest;

use super::ask::{Query, is_watch};
use super::resource::Resource;
use super::settings::Settings;
use super::store::Store;
use super::tokens::Token;
use super::watching::Ends;

const REQUESTS_MAX: usize = 65_536;

/// One request to the server, kept as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// The method.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The parameters of the query; of one that is repeated, the last.
    pub query: BTreeMap<String, String>,
    /// The status; `None` for one that was stalled.
    pub status: Option<u16>,
}

/// What a request asks for, as a role would allow it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permission {
    /// As in a role's `verbs`.
    pub verb: &'static str,
    /// Empty for the core group.
    pub group: String,
    /// In the plural.
    pub resource: String,
    /// Empty for all, or where there is none.
    pub namespace: String,
    /// Empty where no one is named.
    pub name: String,
}

impl ApiRequest {
    /// Whether it asks for the list of a resource, or a page of it.
    #[must_use]
    pub fn lists(&self, resource: Resource) -> bool {
        self.path == resource.path() && !is_watch(&self.query)
    }

    /// Whether it asks for a watch of a resource.
    #[must_use]
    pub fn watches(&self, resource: Resource) -> bool {
        self.path == resource.path() && is_watch(&self.query)
    }

    /// What it asks for in the words of RBAC; `None` for what every client may ask, as the version.
    #[must_use]
    pub fn permission(&self) -> Option<Permission> {
        let path = self.path.strip_prefix("/api/").or_else(|| self.path.strip_prefix("/apis/"))?;
        let mut parts = path.split('/');
        let group = if self.path.starts_with("/apis/") { parts.next()? } else { "" };
        let _version = parts.next()?;
        let mut parts = parts.peekable();
        let namespace = parts.next_if_eq(&"namespaces").and_then(|_| parts.next()).unwrap_or_default();
        let (resource, name) = (parts.next()?, parts.next().unwrap_or_default());
        let verb = match self.method.as_str() {
            "GET" if is_watch(&self.query) => "watch",
            "GET" if name.is_empty() => "list",
            "GET" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            _ => "delete",
        };
        let [group, resource, namespace, name] = [group, resource, namespace, name].map(str::to_owned);
        Some(Permission { verb, group, resource, namespace, name })
    }

    /// A parameter of the query; empty when it is not there.
    #[must_use]
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    store: Mutex<Store>,
    /// Tells open watches that the store has changed.
    versions: latest::Sender<u64>,
    settings: latest::Sender<Settings>,
    ends: latest::Sender<Ends>,
    open: BTreeMap<Resource, Arc<AtomicUsize>>,
    requests: Mutex<VecDeque<ApiRequest>>,
    tokens: Mutex<BTreeMap<String, Token>>,
    pub(super) reviews: AtOnce,
}

/// How many there are at once, and were at most.
#[derive(Debug, Default)]
pub(super) struct AtOnce {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl AtOnce {
    /// One more, as long as what is returned lives.
    pub(super) fn enter(&self) -> Inside<'_> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        Inside(self)
    }

    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

pub(super) struct Inside<'a>(&'a AtOnce);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        let store = Store::new();
        Self {
            versions: latest::Sender::new(store.version()),
            store: Mutex::new(store),
            settings: latest::Sender::new(settings),
            ends: latest::Sender::new(Ends::default()),
            open: Resource::ALL.into_iter().map(|resource| (resource, Arc::default())).collect(),
            requests: Mutex::default(),
            tokens: Mutex::default(),
            reviews: AtOnce::default(),
        }
    }

    pub(super) fn issue(&self, token: Token) -> String {
        let mut tokens = locked(&self.tokens);
        let text = token.text(tokens.len());
        tokens.insert(text.clone(), token);
        text
    }

    pub(super) fn issued(&self, text: &str) -> Option<Token> {
        locked(&self.tokens).get(text).cloned()
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        locked(&self.store)
    }

    /// Changes the store, then wakes the watches.
    pub(super) fn change_store<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let result = change(&mut store);
        self.versions.send_replace(store.version());
        result
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    pub(super) fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        self.settings.send_modify(change);
    }

    pub(super) fn end_watches(&self, end: impl FnOnce(&mut Ends)) {
        self.ends.send_modify(end);
    }

    pub(super) fn subscribe(
        &self,
    ) -> (latest::Receiver<u64>, latest::Receiver<Settings>, latest::Receiver<Ends>) {
        (self.versions.subscribe(), self.settings.subscribe(), self.ends.subscribe())
    }

    /// Counts a watch in; whoever gets the counter counts it out.
    pub(super) fn open_watch(&self, resource: Resource) -> Arc<AtomicUsize> {
        let open = self.open.get(&resource).map(Arc::clone).unwrap_or_default();
        open.fetch_add(1, Ordering::SeqCst);
        open
    }

    pub(super) fn watches_open(&self, resource: Resource) -> usize {
        self.open.get(&resource).map_or(0, |open| open.load(Ordering::SeqCst))
    }

    pub(super) fn record(&self, method: &str, path: &str, query: &Query, status: Option<u16>) {
        let (method, path, query) = (method.to_owned(), path.to_owned(), query.clone());
        let mut requests = locked(&self.requests);
        if requests.len() == REQUESTS_MAX {
            requests.pop_front();
        }
        requests.push_back(ApiRequest { method, path, query, status });
    }

    pub(super) fn requests(&self) -> Vec<ApiRequest> {
        locked(&self.requests).iter().cloned().collect()
    }
}

/// A panic elsewhere leaves what is guarded whole: it is changed by single calls only.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
