//! What the watch of the real client makes of the server, on good days and bad ones.

use std::time::Duration;

use egressd_testbed::kubernetes::{Fault, Node, Pod, Resource, StreamingLists, Workload, seconds_ago};
use egressd_testbed::now;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};
use serde_json::json;

use crate::client::{is_silent, lists, next, pods, run, strategies, told, until, watched_from};
use crate::{SILENCE, SOON, addresses, labelled, plain, pod};

/// Goal: the real client lists in pages, and streams the list, and follows after both; all objects decode.
#[test]
fn kube_lists_and_follows_both_ways() {
    for (config, pages) in strategies().into_iter().zip([3, 0]) {
        let api = plain();
        for name in ["a", "b", "c", "d", "e"] {
            api.apply(pod(name).workload(Workload::Deployment("web".into()))).unwrap();
        }
        run(async {
            let mut events = pods(&api, config).await;
            let listed = ["init", "listed a", "listed b", "listed c", "listed d", "listed e", "done"];
            assert_eq!(next(&mut events, 7).await, listed);
            assert_eq!(lists(&api), pages);
            until(&mut events, 1, || api.watches_open(Resource::Pods)).await;
            api.apply(labelled("f", "new")).unwrap();
            api.delete(Resource::Pods, "shop", "a").unwrap();
            assert_eq!(next(&mut events, 2).await, ["applied f/new", "deleted a"]);
        });
        let from = if pages > 0 { "1005" } else { "0" };
        assert_eq!(watched_from(&api), [from]);
    }
}

/// Goal: a watch that is cut, ended or away resumes from its last version; nothing is listed again, nothing is lost.
#[test]
fn kube_resumes_after_a_cut_without_a_list() {
    for config in strategies() {
        let mut api = plain();
        api.apply(pod("a")).unwrap();
        run(async {
            let mut events = pods(&api, config).await;
            assert_eq!(next(&mut events, 3).await, ["init", "listed a", "done"]);
            until(&mut events, 1, || api.watches_open(Resource::Pods)).await;
            let before = lists(&api);

            api.apply(pod("b")).unwrap();
            assert_eq!(next(&mut events, 1).await, ["applied b"]);
            api.cut_watches();
            api.apply(pod("c")).unwrap();
            assert_eq!(next(&mut events, 1).await, ["applied c"]);
            assert_eq!(watched_from(&api).last().unwrap(), "1002");

            api.end_watches();
            api.delete(Resource::Pods, "shop", "b").unwrap();
            assert_eq!(next(&mut events, 1).await, ["deleted b"]);
            assert_eq!(watched_from(&api).last().unwrap(), "1003");

            api.go_away();
            api.apply(pod("d")).unwrap();
            let failed = next(&mut events, 1).await;
            assert_eq!(failed, ["failed"]);
            api.come_back().unwrap();
            assert_eq!(next(&mut events, 1).await, ["applied d"]);
            assert_eq!((lists(&api), api.version()), (before, 1_005));
        });
    }
}

/// Goal: whoever resumes from a compacted version is told so in the stream, and lists again, whole.
#[test]
fn kube_lists_again_after_410() {
    for config in strategies() {
        let api = plain();
        api.apply(pod("a")).unwrap();
        run(async {
            let mut events = pods(&api, config).await;
            assert_eq!(next(&mut events, 3).await, ["init", "listed a", "done"]);
            until(&mut events, 1, || api.watches_open(Resource::Pods)).await;
            api.cut_watches();
            api.delete(Resource::Pods, "shop", "a").unwrap();
            api.apply(pod("b")).unwrap();
            api.compact();
            assert_eq!(next(&mut events, 4).await, ["watch error 410", "init", "listed b", "done"]);
            until(&mut events, 1, || api.watches_open(Resource::Pods)).await;
            api.apply(pod("c")).unwrap();
            assert_eq!(next(&mut events, 1).await, ["applied c"]);
        });
    }
}

/// Goal: a bookmark moves the point from which a quiet watch resumes; without it, the watch is stranded in the past.
#[test]
fn bookmarks_keep_the_resume_point_fresh() {
    let node = Node::new("node-a", &addresses(&["172.18.0.2"]));
    for interval in [Duration::from_millis(1), Duration::from_secs(3_600)] {
        let api = plain();
        api.change(|settings| settings.bookmark_interval = interval);
        api.apply(pod("a")).unwrap();
        run(async {
            let mut events = pods(&api, watcher::Config::default()).await;
            assert_eq!(next(&mut events, 3).await, ["init", "listed a", "done"]);
            until(&mut events, 1, || api.watches_open(Resource::Pods)).await;
            api.apply(&node).unwrap();
            if interval < SILENCE {
                // Nothing happens to a pod, and yet the watch resumes from the node's version.
                let resumed_from = || {
                    api.end_watches();
                    watched_from(&api).pop().unwrap_or_default()
                };
                until(&mut events, "1002".to_owned(), resumed_from).await;
                return;
            }
            api.compact();
            api.end_watches();
            assert_eq!(next(&mut events, 4).await, ["watch error 410", "init", "listed a", "done"]);
            assert_eq!(watched_from(&api)[..2], ["1001", "1001"]);
        });
    }
}

/// Goal: an older server's way with streaming lists reaches the client as it does in the field, and lists work there.
#[test]
fn older_servers_refuse_or_overlook_streaming_lists() {
    for (streaming, expected) in [
        (StreamingLists::GateOff, vec!["watch refused 422"]),
        (StreamingLists::Unknown, vec!["watch refused 422"]),
        (StreamingLists::Ignored, vec!["init", "listed a"]),
    ] {
        let api = plain();
        api.change(|settings| settings.streaming_lists = streaming);
        api.apply(pod("a")).unwrap();
        run(async {
            let mut events = pods(&api, watcher::Config::default().streaming_lists()).await;
            assert_eq!(next(&mut events, expected.len()).await, expected, "{streaming:?}");
            if streaming == StreamingLists::Ignored {
                assert!(is_silent(&mut events).await);
            }
            let mut events = pods(&api, watcher::Config::default()).await;
            assert_eq!(next(&mut events, 3).await, ["init", "listed a", "done"]);
        });
    }
}

/// Goal: faults reach the client as its errors, an open watch that stalls says nothing until it is over, and one
/// malformed event does not end a watch.
#[test]
fn kube_lives_through_faults() {
    let api = plain();
    api.apply(pod("a")).unwrap();
    run(async {
        let mut events = pods(&api, watcher::Config::default()).await;
        let unavailable = Fault::Status { code: 503, retry_after: Some(Duration::from_secs(1)) };
        api.change(|settings| settings.lists = unavailable);
        assert_eq!(next(&mut events, 2).await, ["init", "list refused 503"]);
        api.change(|settings| settings.lists = Fault::None);
        assert_eq!(next(&mut events, 3).await, ["init", "listed a", "done"]);
        until(&mut events, 1, || api.watches_open(Resource::Pods)).await;

        api.change(|settings| settings.watches = Fault::Stall);
        api.apply(pod("b")).unwrap();
        assert!(is_silent(&mut events).await);
        api.change(|settings| settings.watches = Fault::None);
        assert_eq!(next(&mut events, 1).await, ["applied b"]);

        api.patch(Resource::Pods, "shop", "b", &json!({ "status": { "startTime": "yesterday" } })).unwrap();
        api.apply(pod("c")).unwrap();
        assert_eq!(next(&mut events, 2).await, ["watch failed", "applied c"]);

        api.change(|settings| settings.delay = SILENCE);
        let began = now();
        api.apply(pod("d")).unwrap();
        assert_eq!(next(&mut events, 1).await, ["applied d"]);
        assert!(began.elapsed() >= SILENCE);
    });
}

/// Goal: a pod's life comes to the client step by step, with what an owner is made of; a namesake is another pod.
#[test]
fn a_pods_life_comes_through_the_watch() {
    let api = plain();
    run(async {
        let mut events = pods(&api, watcher::Config::default()).await;
        assert_eq!(next(&mut events, 2).await, ["init", "done"]);
        until(&mut events, 1, || api.watches_open(Resource::Pods)).await;

        let of_set = || Pod::new("data", "store-0").workload(Workload::StatefulSet("store".into()));
        let host = addresses(&["172.18.0.2"]);
        let pending = of_set();
        let scheduled = pending.clone().scheduled("node-a", &host);
        let running = scheduled.clone().running(seconds_ago(40), &addresses(&["10.244.1.4"]));
        let terminating = running.clone().terminating(seconds_ago(30), 30);
        let ended = terminating.clone().finished(seconds_ago(20), 0);
        for step in [&pending, &scheduled, &running, &terminating, &ended] {
            api.apply(step).unwrap();
        }
        let namesake = of_set();
        assert_ne!(namesake.uid_text(), pending.uid_text());
        api.apply(&namesake).unwrap();

        let mut seen = Vec::new();
        while seen.len() < 7 {
            match tokio::time::timeout(SOON, events.next()).await {
                Ok(Some(Ok(Event::Apply(pod)))) => seen.push(("applied", pod)),
                Ok(Some(Ok(Event::Delete(pod)))) => seen.push(("deleted", pod)),
                other => panic!("{:?} after {}", other.map(|event| event.map(told)), seen.len()),
            }
        }
        let essence = |(verb, pod): &(&str, core::Pod)| {
            let status = pod.status.as_ref().unwrap();
            let container = status.container_statuses.as_ref().and_then(|all| all.first());
            let finished =
                container.and_then(|one| one.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
            let uid = if pod.uid().as_deref() == Some(pending.uid_text()) { "first" } else { "second" };
            let phase = status.phase.as_deref().unwrap();
            let ends = (pod.metadata.deletion_timestamp.is_some(), finished.is_some());
            format!(
                "{verb} {uid} {phase} {:?} {:?} {ends:?}",
                pod.spec.as_ref().unwrap().node_name,
                status.pod_ip
            )
        };
        let expected = [
            "applied first Pending None None (false, false)",
            r#"applied first Pending Some("node-a") None (false, false)"#,
            r#"applied first Running Some("node-a") Some("10.244.1.4") (false, false)"#,
            r#"applied first Running Some("node-a") Some("10.244.1.4") (true, false)"#,
            r#"applied first Succeeded Some("node-a") Some("10.244.1.4") (true, true)"#,
            r#"deleted first Succeeded Some("node-a") Some("10.244.1.4") (true, true)"#,
            "applied second Pending None None (false, false)",
        ];
        assert_eq!(seen.iter().map(essence).collect::<Vec<_>>(), expected);
        let owner = &seen[0].1.owner_references()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("StatefulSet", "store"));
    });
}
