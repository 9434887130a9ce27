//! What holds of every server, the fake one and, where `KUBECONFIG` points at one, a real one: so the fake is not
//! believed on its own word.
//!
//! On a real server everything happens in a namespace of its own, which goes afterwards however the test ends. Its
//! pods name a scheduler that does not exist, so nothing ever runs.

use std::env;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::pin;
use std::time::Duration;

use egressd_testbed::kubernetes::{KubernetesApi, Pod, Resource};
use egressd_testbed::now;
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1 as core;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};

use crate::client::{Events, client_by, next, run, strategies};
use crate::{SOON, addresses, plain};

/// How often a server ends a watch in these tests, in seconds, so that the client resumes all the time.
const WATCH_SECONDS: u32 = 1;
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

enum Server {
    Fake(KubernetesApi),
    Real { client: Client, namespace: String },
}

/// Runs `body` on each server that there is.
fn on_each(test: &str, body: impl AsyncFn(&Server)) {
    run(body(&Server::Fake(plain())));
    match env::var_os("KUBECONFIG") {
        Some(_) => run(on_real(test, body)),
        None => say(&format!("{test}: no KUBECONFIG, the real server is left out")),
    }
}

/// Past the test harness, which shows nothing of a test that passes.
fn say(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

async fn on_real(test: &str, body: impl AsyncFn(&Server)) {
    let mut config = Config::infer().await.unwrap();
    config.default_retry = false;
    let client = Client::try_from(config).unwrap();
    let version = client.apiserver_version().await.unwrap();
    let namespaces = Api::<core::Namespace>::all(client.clone());
    let object = json!({ "metadata": { "generateName": "egressd-test-" } });
    let created = namespaces.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await;
    let namespace = created.unwrap().name_any();
    say(&format!("{test}: on {} in {namespace}", version.git_version));
    let server = Server::Real { client, namespace: namespace.clone() };
    let outcome = AssertUnwindSafe(async {
        server.settle_account().await;
        body(&server).await;
    })
    .catch_unwind()
    .await;
    let pods = server.pods().await;
    drop(pods.delete_collection(&at_once(), &ListParams::default()).await);
    drop(namespaces.delete(&namespace, &DeleteParams::default()).await);
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
}

fn at_once() -> DeleteParams {
    DeleteParams::default().grace_period(0)
}

impl Server {
    /// A pod needs the account `default`, which a controller makes in a whole cluster; a bare server has none.
    async fn settle_account(&self) {
        let Self::Real { client, namespace } = self else { return };
        let accounts = Api::<core::ServiceAccount>::namespaced(client.clone(), namespace);
        let account = serde_json::from_value(json!({ "metadata": { "name": "default" } })).unwrap();
        drop(accounts.create(&PostParams::default(), &account).await);
    }

    /// The test's own pods.
    async fn pods(&self) -> Api<core::Pod> {
        match self {
            Self::Fake(api) => Api::all(client_by(&api.kubeconfig()).await),
            Self::Real { client, namespace } => Api::namespaced(client.clone(), namespace),
        }
    }

    async fn watch(&self, config: watcher::Config) -> Events {
        Box::pin(watcher::watcher(self.pods().await, config.timeout(WATCH_SECONDS)))
    }

    async fn create(&self, name: &str) {
        match self {
            Self::Fake(api) => drop(api.apply(Pod::new("shop", name)).unwrap()),
            Self::Real { .. } => {
                let object = json!({
                    "metadata": { "name": name },
                    "spec": {
                        "schedulerName": "none-of-egressd-tests",
                        "automountServiceAccountToken": false,
                        "containers": [{ "name": "app", "image": "registry.invalid/none" }],
                    },
                });
                let pod = serde_json::from_value(object).unwrap();
                self.pods().await.create(&PostParams::default(), &pod).await.unwrap();
            }
        }
    }

    async fn label(&self, name: &str, step: &str) {
        let patch = json!({ "metadata": { "labels": { "step": step } } });
        match self {
            Self::Fake(api) => drop(api.patch(Resource::Pods, "shop", name, &patch).unwrap()),
            Self::Real { .. } => {
                let pods = self.pods().await;
                pods.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
            }
        }
    }

    async fn report(&self, name: &str, status: &Value) {
        let patch = json!({ "status": status });
        match self {
            Self::Fake(api) => drop(api.patch(Resource::Pods, "shop", name, &patch).unwrap()),
            Self::Real { .. } => {
                let pods = self.pods().await;
                pods.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
            }
        }
    }

    async fn delete(&self, name: &str) {
        match self {
            Self::Fake(api) => drop(api.delete_pod("shop", name).unwrap()),
            Self::Real { .. } => drop(self.pods().await.delete(name, &at_once()).await.unwrap()),
        }
    }
}

/// Goal: a list in pages and a streamed list tell the same, once, and both are followed by what happens next.
#[test]
fn lists_are_whole_and_followed() {
    on_each("lists_are_whole_and_followed", async |server| {
        for name in ["a", "b", "c", "d", "e"] {
            server.create(name).await;
        }
        for (config, new) in strategies().into_iter().zip(["f", "g"]) {
            let mut events = server.watch(config).await;
            let existing = if new == "f" { 5 } else { 6 };
            let mut listed = next(&mut events, existing + 2).await;
            listed[1..=existing].sort();
            let names = ["a", "b", "c", "d", "e", "f"].map(|name| format!("listed {name}{}", labelled(name)));
            let expected = [&["init".to_owned()], &names[..existing], &["done".to_owned()]].concat();
            assert_eq!(listed, expected);
            server.create(new).await;
            server.label(new, "new").await;
            let followed = next(&mut events, 2).await;
            assert_eq!(followed, [format!("applied {new}"), format!("applied {new}/new")]);
        }
    });
}

/// The label that a pod got after it was first listed.
fn labelled(name: &str) -> &'static str {
    if name == "f" { "/new" } else { "" }
}

/// Goal: while the server ends the watch every second the client hears of everything once and in order, with no new
/// list.
#[test]
fn a_watch_that_ends_is_resumed_where_it_was() {
    on_each("a_watch_that_ends_is_resumed_where_it_was", async |server| {
        let mut events = server.watch(watcher::Config::default()).await;
        assert_eq!(next(&mut events, 2).await, ["init", "done"]);
        let until = now() + Duration::from_secs(3 * u64::from(WATCH_SECONDS));
        let mut count = 0;
        while now() < until {
            let name = format!("pod-{count}");
            server.create(&name).await;
            server.label(&name, "2").await;
            server.delete(&name).await;
            // The deletion is told twice: that no grace is left, and that the pod is gone.
            let told = [("applied", ""), ("applied", "/2"), ("applied", "/2"), ("deleted", "/2")];
            let told = told.map(|(verb, label)| format!("{verb} {name}{label}"));
            assert_eq!(next(&mut events, 4).await, told);
            count += 1;
        }
        assert!(count > 1);
    });
}

/// Goal: a streamed list ends with the bookmark that says so and names a version.
#[test]
fn a_bookmark_ends_a_streamed_list() {
    on_each("a_bookmark_ends_a_streamed_list", async |server| {
        server.create("a").await;
        let pods = server.pods().await;
        let params = WatchParams::default().initial_events();
        let mut watch = pin!(pods.watch(&params, "").await.unwrap());
        let mut told = Vec::new();
        while !told.last().is_some_and(|last: &String| last.ends_with("true")) {
            told.push(match tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap() {
                WatchEvent::Added(pod) => format!("added {}", pod.name_any()),
                WatchEvent::Bookmark(bookmark) => {
                    let ends = bookmark.metadata.annotations.get(INITIAL_EVENTS_END);
                    assert!(bookmark.metadata.resource_version.parse::<u64>().unwrap() > 0);
                    format!("bookmark {}", ends.map_or("", String::as_str))
                }
                other => format!("{other:?}"),
            });
        }
        assert_eq!(told, ["added a", "bookmark true"]);
    });
}

/// Goal: a status is told with what an owner is made of, addresses and times as they were written.
#[test]
fn a_pods_status_comes_through_the_watch() {
    on_each("a_pods_status_comes_through_the_watch", async |server| {
        server.create("a").await;
        let mut events = server.watch(watcher::Config::default()).await;
        assert_eq!(next(&mut events, 3).await, ["init", "listed a", "done"]);
        let (started, finished) = ("2026-11-22T20:00:01Z", "2026-11-22T20:00:12Z");
        let own = addresses(&["10.244.1.9", "fd00:10:244:1::9"]);
        let ips = own.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>();
        let running = json!({ "phase": "Running", "startTime": started, "podIP": own[0], "podIPs": ips });
        server.report("a", &running).await;
        let container = json!({
            "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "terminated": { "exitCode": 0, "startedAt": started, "finishedAt": finished } },
        });
        server.report("a", &json!({ "phase": "Succeeded", "containerStatuses": [container] })).await;

        let mut seen = Vec::new();
        while seen.len() < 2 {
            match tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap().unwrap() {
                watcher::Event::Apply(pod) => seen.push(essence(&pod)),
                other => panic!("{other:?}"),
            }
        }
        let ips = json!(["10.244.1.9", "fd00:10:244:1::9"]);
        let expected = [json!(["Running", ips, started, null]), json!(["Succeeded", ips, started, finished])];
        assert_eq!(seen, expected);
    });
}

/// What a reader of owners looks at.
fn essence(pod: &core::Pod) -> Value {
    let pod = serde_json::to_value(pod).unwrap();
    let ips = pod["status"]["podIPs"].as_array().unwrap().iter().map(|one| one["ip"].clone());
    json!([
        pod["status"]["phase"],
        ips.collect::<Vec<_>>(),
        pod["status"]["startTime"],
        pod.pointer("/status/containerStatuses/0/state/terminated/finishedAt"),
    ])
}
