//! Shapes, statuses and faults, seen by a client of a few lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use egressd_testbed::kubernetes::{Fault, KubernetesApi, Node, Resource, StreamingLists};
use egressd_testbed::now;
use serde_json::{Value, json};

use crate::{SILENCE, SOON, addresses, labelled, plain, pod};

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// A request of HTTP/1.0, which is answered without chunks until the connection ends.
fn connect(api: &KubernetesApi, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, api.port())).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n").unwrap();
    stream
}

fn get_with(api: &KubernetesApi, path: &str, headers: &str) -> Answer {
    let mut text = String::new();
    connect(api, path, headers).read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn get(api: &KubernetesApi, path: &str) -> Answer {
    get_with(api, path, "")
}

/// The lines of a watch, as they come.
fn watch(api: &KubernetesApi, query: &str) -> impl Iterator<Item = Value> + use<> {
    let reader = BufReader::new(connect(api, &format!("/api/v1/pods?watch=true&{query}"), ""));
    let body = reader.lines().map(Result::unwrap).skip_while(|line| !line.is_empty()).skip(1);
    body.map(|line| serde_json::from_str(&line).unwrap())
}

/// `TYPE name@version` of a watch's line.
fn line(event: &Value) -> String {
    let metadata = &event["object"]["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    format!("{} {}@{}", text(&event["type"]), text(&metadata["name"]), text(&metadata["resourceVersion"]))
}

fn lines(events: impl Iterator<Item = Value>) -> Vec<String> {
    events.map(|event| line(&event)).collect()
}

/// `name@version` of a list's items.
fn items(list: &Value) -> Vec<String> {
    let item = |item: &Value| {
        let metadata = &item["metadata"];
        format!("{}@{}", metadata["name"].as_str().unwrap(), metadata["resourceVersion"].as_str().unwrap())
    };
    list["items"].as_array().unwrap().iter().map(item).collect()
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

/// Goal: a list has the shape of a real one, and so has all that is not a resource.
#[test]
fn lists_versions_and_health_have_their_shapes() {
    let api = plain();
    let pod = pod("web-0");
    let version = api.apply(&pod).unwrap();
    let list = get(&api, "/api/v1/pods");
    assert_eq!(list.status, 200);
    assert!(list.head.contains("content-type: application/json"), "{}", list.head);
    let mut item = Value::from(&pod);
    item["metadata"]["resourceVersion"] = version.to_string().into();
    let item = item.as_object_mut().unwrap();
    assert!(item.remove("kind").is_some() && item.remove("apiVersion").is_some());
    let metadata = json!({ "resourceVersion": version.to_string() });
    assert_eq!(
        list.json(),
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": [item] })
    );
    let nodes = get(&api, "/api/v1/nodes").json();
    assert_eq!(nodes, json!({ "kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": [] }));

    for path in ["/readyz", "/livez"] {
        let answer = get(&api, path);
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    }
    assert_eq!(get(&api, "/version").json()["gitVersion"], "v1.34.1");
    let missing = get(&api, "/api/v1/services");
    let mut expected = status(404, "NotFound", "the server could not find the requested resource");
    expected["details"] = json!({});
    assert_eq!((missing.status, missing.json()), (404, expected));
}

/// Goal: pages are of one state whatever happens between them, until that state is compacted.
#[test]
fn pages_are_of_one_state_until_it_is_compacted() {
    let api = plain();
    for name in ["a", "b", "c", "d", "e"] {
        api.apply(pod(name)).unwrap();
    }
    let first = get(&api, "/api/v1/pods?limit=2").json();
    assert_eq!(items(&first), ["a@1001", "b@1002"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    api.delete(Resource::Pods, "shop", "c").unwrap();
    api.apply(labelled("d", "changed")).unwrap();
    api.apply(pod("bb")).unwrap();

    let next = |list: &Value| {
        let token = list["metadata"]["continue"].as_str().unwrap();
        get(&api, &format!("/api/v1/pods?limit=2&continue={token}"))
    };
    let second = next(&first).json();
    assert_eq!(items(&second), ["c@1003", "d@1004"]);
    assert_eq!(second["metadata"]["resourceVersion"], "1005");
    let third = next(&second).json();
    assert_eq!(items(&third), ["e@1005"]);
    assert_eq!(third["metadata"], json!({ "resourceVersion": "1005" }));
    let exact = get(&api, "/api/v1/pods?resourceVersion=1003&resourceVersionMatch=Exact").json();
    assert_eq!(items(&exact), ["a@1001", "b@1002", "c@1003"]);

    api.compact();
    let expired = next(&first);
    assert_eq!((expired.status, &expired.json()["reason"]), (410, &json!("Expired")));
    assert!(
        expired.json()["message"].as_str().unwrap().starts_with("The provided continue parameter is too old")
    );
    assert_eq!(items(&next(&expired.json()).json()), ["bb@1008", "d@1007"]);
}

/// Goal: a request that a real server refuses is refused with its status and its words.
#[test]
fn refusals_have_their_status_and_words() {
    let api = plain();
    api.change(|settings| {
        settings.forbidden.insert(Resource::Nodes);
        settings.streaming_lists = StreamingLists::GateOff;
    });
    let streaming =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for (path, code, reason, message) in [
        (
            "/api/v1/nodes?watch=true".to_owned(),
            403,
            "Forbidden",
            "nodes is forbidden: User \"system:serviceaccount:egressd:egressd-exporter\" cannot watch resource \
             \"nodes\" in API group \"\" at the cluster scope",
        ),
        (
            format!("/api/v1/pods?{streaming}"),
            422,
            "Invalid",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden \
             for watch unless the WatchList feature gate is enabled",
        ),
        (
            "/api/v1/pods?watch=true&resourceVersion=2000".to_owned(),
            504,
            "Timeout",
            "Timeout: Too large resource version: 2000, current: 1000",
        ),
        (
            "/api/v1/pods?resourceVersion=7&resourceVersionMatch=Exact".to_owned(),
            410,
            "Expired",
            "too old resource version: 7 (1000)",
        ),
    ] {
        let answer = get(&api, &path);
        let mut found = answer.json();
        found.as_object_mut().unwrap().remove("details");
        assert_eq!((answer.status, found), (code, status(code, reason, message)), "{path}");
    }
    assert_eq!(get(&api, "/version").json()["gitVersion"], "v1.31.1");
}

/// Goal: a watch tells what happened after its version, then what happens; one from before the past is an error event.
#[test]
fn watches_replay_follow_and_expire() {
    let api = plain();
    api.apply(pod("a")).unwrap();
    api.apply(pod("b")).unwrap();
    api.patch(Resource::Pods, "shop", "a", &json!({ "metadata": { "labels": { "x": "y" } } })).unwrap();
    let mut follows = watch(&api, "resourceVersion=1001");
    assert_eq!(lines(follows.by_ref().take(2)), ["ADDED b@1002", "MODIFIED a@1003"]);
    api.delete(Resource::Pods, "shop", "b").unwrap();
    let deleted = follows.next().unwrap();
    assert_eq!(line(&deleted), "DELETED b@1004");
    assert_eq!((&deleted["object"]["kind"], &deleted["object"]["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(deleted["object"]["status"]["podIP"], "10.244.1.9");

    api.compact();
    api.apply(pod("c")).unwrap();
    assert_eq!(line(&follows.next().unwrap()), "ADDED c@1006");
    let expired: Vec<_> = watch(&api, "resourceVersion=1001").collect();
    let gone = status(410, "Expired", "too old resource version: 1001 (1005)");
    assert_eq!(expired, [json!({ "type": "ERROR", "object": gone })]);
    let any: Vec<_> = lines(watch(&api, "").take(2));
    assert_eq!(any, ["ADDED a@1003", "ADDED c@1006"]);
}

/// Goal: bookmarks come to those who want them and carry the version of now; a watch ends after its seconds.
#[test]
fn watches_bookmark_and_end_in_time() {
    let api = plain();
    api.change(|settings| settings.bookmark_interval = Duration::from_millis(50));
    api.apply(Node::new("node-a", &addresses(&["172.18.0.2"]))).unwrap();
    let bookmark = watch(&api, "resourceVersion=1000&allowWatchBookmarks=true").next().unwrap();
    let expected = json!({
        "type": "BOOKMARK",
        "object": {
            "kind": "Pod", "apiVersion": "v1",
            "metadata": { "resourceVersion": "1001", "creationTimestamp": null },
            "spec": { "containers": null }, "status": {},
        },
    });
    assert_eq!(bookmark, expected);
    let began = now();
    assert_eq!(watch(&api, "resourceVersion=1001&timeoutSeconds=1").count(), 0);
    assert!((Duration::from_millis(900)..SOON).contains(&began.elapsed()), "{:?}", began.elapsed());

    api.apply(pod("a")).unwrap();
    let streaming = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = watch(&api, streaming);
    assert_eq!(line(&events.next().unwrap()), "ADDED a@1002");
    let end = events.next().unwrap();
    assert_eq!(line(&end), "BOOKMARK -@1002");
    assert_eq!(end["object"]["metadata"]["annotations"], json!({ "k8s.io/initial-events-end": "true" }));
    api.apply(pod("b")).unwrap();
    let next = events.find(|event| event["type"] != "BOOKMARK").unwrap();
    assert_eq!(line(&next), "ADDED b@1003");
}

/// Goal: each fault is what it says, for the requests that it is for, and is over when it is switched off.
#[test]
fn faults_come_and_go() {
    let api = plain();
    for (code, retry_after) in [(429, Some(7)), (500, None), (503, Some(1))] {
        let fault = Fault::Status { code, retry_after: retry_after.map(Duration::from_secs) };
        api.change(|settings| settings.lists = fault);
        let answer = get(&api, "/api/v1/pods");
        assert_eq!(answer.status, code);
        assert_eq!(answer.json()["code"], code);
        let header = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n"));
        assert!(header.is_none_or(|header| answer.head.contains(&header)), "{}", answer.head);
        assert_eq!(get(&api, "/readyz").status, 200);
    }
    api.change(|settings| settings.all(Fault::None));
    assert_eq!(get(&api, "/api/v1/pods").status, 200);

    api.change(|settings| settings.delay = SILENCE);
    let began = now();
    assert_eq!(get(&api, "/readyz").status, 200);
    assert!(began.elapsed() >= SILENCE);
    api.change(|settings| settings.delay = Duration::ZERO);

    api.change(|settings| settings.all(Fault::Stall));
    let mut stalled = connect(&api, "/readyz", "");
    stalled.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(stalled.read(&mut [0]).is_err());
    api.change(|settings| settings.all(Fault::None));
    assert_eq!(get(&api, "/readyz").status, 200);
    assert_eq!(api.requests().iter().filter(|request| request.status.is_none()).count(), 1);

    api.change(|settings| settings.token = Some("secret".to_owned()));
    for headers in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic secret\r\n"] {
        let refused = get_with(&api, "/api/v1/pods", headers);
        let expected = (401, status(401, "Unauthorized", "Unauthorized"));
        assert_eq!((refused.status, refused.json()), expected, "{headers}");
    }
    assert_eq!(get_with(&api, "/api/v1/pods", "Authorization: Bearer secret\r\n").status, 200);
}

/// Goal: the port is closed while the server is away, its connections are cut at once, and nothing is forgotten.
#[test]
fn the_server_goes_away_and_comes_back() {
    let mut api = plain();
    api.apply(pod("a")).unwrap();
    let mut open = watch(&api, "resourceVersion=0");
    assert_eq!(line(&open.next().unwrap()), "ADDED a@1001");
    assert_eq!(api.watches_open(Resource::Pods), 1);
    api.go_away();
    assert_eq!(open.count(), 0);
    assert_eq!(api.watches_open(Resource::Pods), 0);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, api.port())).is_err());
    api.apply(pod("b")).unwrap();
    api.come_back().unwrap();
    assert_eq!(lines(watch(&api, "resourceVersion=1001").take(1)), ["ADDED b@1002"]);
}

/// Goal: whatever is wrong with an object is served as it is.
#[test]
fn malformed_objects_are_served_as_they_are() {
    let api = plain();
    api.apply(pod("a")).unwrap();
    let wrong = json!({
        "metadata": { "uid": null, "creationTimestamp": "yesterday" },
        "status": { "podIP": "none", "podIPs": [{ "ip": "10.0.0.300" }], "startTime": 7 },
    });
    api.patch(Resource::Pods, "shop", "a", &wrong).unwrap();
    let object = get(&api, "/api/v1/pods").json()["items"][0].clone();
    assert_eq!(object["metadata"].get("uid"), None);
    assert_eq!(object["metadata"]["creationTimestamp"], "yesterday");
    assert_eq!(object["status"]["podIPs"], json!([{ "ip": "10.0.0.300" }]));
    assert_eq!(object["status"]["startTime"], 7);
}

/// Goal: a watch that ends well has the last chunk of HTTP/1.1, one that is cut has not.
#[test]
fn an_ended_watch_is_whole_and_a_cut_one_is_not() {
    let api = plain();
    for is_whole in [true, false] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, api.port())).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(answer.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert_eq!(api.watches_open(Resource::Pods), 1);
        if is_whole {
            api.end_watches()
        } else {
            api.cut_watches()
        }
        let mut rest = String::new();
        answer.read_to_string(&mut rest).unwrap();
        assert_eq!(rest == "0\r\n\r\n", is_whole, "{rest:?}");
    }
}
