//! The real client, and what it tells as words.

use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use egressd_testbed::kubernetes::{KubernetesApi, Resource};
use egressd_testbed::now;
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1 as core;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Config, ResourceExt};

use crate::{SILENCE, SOON};

pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) async fn client_by(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    // Otherwise 429, 503 and 504 are tried again up to 15 times before anybody is told.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

pub(crate) type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<core::Pod>>>>>;

pub(crate) async fn pods(api: &KubernetesApi, config: watcher::Config) -> Events {
    let client = client_by(&api.kubeconfig()).await;
    Box::pin(watcher::watcher(Api::all(client), config))
}

pub(crate) fn told(event: watcher::Result<Event<core::Pod>>) -> String {
    let of = |verb: &str, pod: &core::Pod| {
        let step = pod.labels().get("step").map_or(String::new(), |step| format!("/{step}"));
        format!("{verb} {}{step}", pod.name_any())
    };
    match event {
        Ok(Event::Init) => "init".to_owned(),
        Ok(Event::InitApply(pod)) => of("listed", &pod),
        Ok(Event::InitDone) => "done".to_owned(),
        Ok(Event::Apply(pod)) => of("applied", &pod),
        Ok(Event::Delete(pod)) => of("deleted", &pod),
        Err(watcher::Error::WatchError(status)) => format!("watch error {}", status.code),
        Err(watcher::Error::WatchStartFailed(kube::Error::Api(status))) => {
            format!("watch refused {}", status.code)
        }
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) => {
            format!("list refused {}", status.code)
        }
        Err(watcher::Error::WatchFailed(_)) => "watch failed".to_owned(),
        Err(_) => "failed".to_owned(),
    }
}

/// The next so many events.
pub(crate) async fn next(events: &mut Events, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        match tokio::time::timeout(SOON, events.next()).await {
            Ok(Some(event)) => found.push(told(event)),
            other => panic!("nothing after {found:?}: {}", other.is_err()),
        }
    }
    found
}

pub(crate) async fn is_silent(events: &mut Events) -> bool {
    tokio::time::timeout(SILENCE, events.next()).await.is_err()
}

/// Looks while the client goes on by itself; it has nothing to tell meanwhile.
pub(crate) async fn until<T: PartialEq + Debug>(
    events: &mut Events,
    expected: T,
    mut look: impl FnMut() -> T,
) {
    let deadline = now() + SOON;
    while look() != expected {
        assert!(now() < deadline, "{:?} is not {expected:?}", look());
        let event = tokio::time::timeout(Duration::from_millis(10), events.next()).await;
        assert!(event.is_err(), "{:?}", event.map(|event| event.map(told)));
    }
}

pub(crate) fn lists(api: &KubernetesApi) -> usize {
    api.requests().iter().filter(|request| request.lists(Resource::Pods)).count()
}

/// The versions from which the pods were watched, in order.
pub(crate) fn watched_from(api: &KubernetesApi) -> Vec<String> {
    let requests = api.requests();
    let watches = requests.iter().filter(|request| request.watches(Resource::Pods));
    watches.map(|request| request.parameter("resourceVersion").to_owned()).collect()
}

pub(crate) fn strategies() -> [watcher::Config; 2] {
    [watcher::Config::default().page_size(2), watcher::Config::default().streaming_lists()]
}
