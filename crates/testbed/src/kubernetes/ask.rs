//! What a list or a watch asks for: its query, checked as a real server checks it.
//!
//! The rules are those of `k8s.io/apimachinery` `apis/meta/internalversion/validation`, today's and those from before
//! 1.27. Selectors are refused rather than overlooked: nobody gets an object that was not
//! asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::settings::StreamingLists;
use super::status::Refusal;

/// The parameters of a request's query; of one that is repeated, the last.
pub(super) type Query = BTreeMap<String, String>;

const NOT_OLDER_THAN: &str = "NotOlderThan";
const EXACT: &str = "Exact";

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    List(List),
    Watch(Watch),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    /// Objects in a page; `None` for all.
    pub(super) limit: Option<usize>,
    pub(super) of: ListOf,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum ListOf {
    /// The state now, which must be at least this one.
    NotOlderThan(u64),
    /// That state.
    Exactly(u64),
    /// What follows a page.
    Rest(Continue),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Watch {
    pub(super) from: WatchFrom,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum WatchFrom {
    /// Every change after this version.
    After(u64),
    /// The state now as added objects, then every change.
    AnyState,
    /// The same, with a bookmark between the two that says so; the state must be at least this one.
    InitialEvents(u64),
}

/// A continue token, as the server's own notes to itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Continue {
    v: String,
    /// The version that the first page was of; −1 for whatever there is now.
    pub(super) rv: i64,
    /// The path of the last object of the page before.
    pub(super) start: String,
}

impl Continue {
    pub(super) fn new(version: Option<u64>, after: &str) -> Self {
        let rv = version.map_or(-1, |version| i64::try_from(version).unwrap_or(i64::MAX));
        Self { v: "meta.k8s.io/v1".to_owned(), rv, start: format!("{after}\u{0}") }
    }

    pub(super) fn token(&self) -> String {
        let json = serde_json::to_vec(self).expect("a structure of plain fields is JSON");
        URL_SAFE_NO_PAD.encode(json)
    }

    fn parse(token: &str) -> Result<Self, Refusal> {
        let invalid = || Refusal::bad_request("continue key is not valid");
        let json = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        serde_json::from_slice(&json).map_err(|_| invalid())
    }

    /// The path of the last object of the page before.
    pub(super) fn after(&self) -> &str {
        self.start.trim_end_matches('\u{0}')
    }
}

impl Ask {
    pub(super) fn parse(query: &Query, streaming: StreamingLists) -> Result<Self, Refusal> {
        let get = |name: &str| query.get(name).map(String::as_str).filter(|value| !value.is_empty());
        if let Some(selector) = get("labelSelector").or(get("fieldSelector")) {
            return Err(Refusal::bad_request(&format!("this server knows no selectors: {selector}")));
        }
        if is_watch(query) {
            let mut query = query.clone();
            if streaming == StreamingLists::Ignored {
                query.remove("sendInitialEvents");
                query.remove("resourceVersionMatch");
            }
            return Ok(Self::Watch(watch(&query, streaming)?));
        }
        Ok(Self::List(list(query)?))
    }
}

/// Whether it asks for a watch.
pub(super) fn is_watch(query: &Query) -> bool {
    is_true(query, "watch")
}

fn is_true(query: &Query, name: &str) -> bool {
    query.get(name).is_some_and(|value| value == "true" || value == "1")
}

fn number(query: &Query, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let refused = |_| Refusal::bad_request(&format!("Invalid value: \"{text}\": {name} is no number"));
    text.parse().map(Some).map_err(refused)
}

fn list(query: &Query) -> Result<List, Refusal> {
    let get = |name: &str| query.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let version = number(query, "resourceVersion")?;
    let limit = number(query, "limit")?.filter(|limit| *limit > 0);
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let field = "resourceVersionMatch";
    if query.contains_key("sendInitialEvents") {
        return Err(Refusal::forbidden_option(
            "sendInitialEvents",
            "sendInitialEvents is forbidden for list",
        ));
    }
    let exactly = match (get(field), version) {
        (None | Some(NOT_OLDER_THAN | EXACT), _) if get("continue").is_some() && get(field).is_some() => {
            let detail = "resourceVersionMatch is forbidden when continue is provided";
            return Err(Refusal::forbidden_option(field, detail));
        }
        (None, _) | (Some(NOT_OLDER_THAN), Some(_)) => false,
        (Some(EXACT), Some(version)) if version > 0 => true,
        (Some(EXACT), Some(_)) => {
            let detail = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            return Err(Refusal::forbidden_option(field, detail));
        }
        (Some(NOT_OLDER_THAN | EXACT), None) => {
            let detail = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            return Err(Refusal::forbidden_option(field, detail));
        }
        (Some(other), _) => {
            return Err(Refusal::unsupported_option(field, other, "\"Exact\", \"NotOlderThan\", \"\""));
        }
    };
    let of = match get("continue") {
        Some(_) if version.is_some_and(|version| version > 0) => {
            let message = "specifying resource version is not allowed when using continue";
            return Err(Refusal::bad_request(message));
        }
        Some(token) => ListOf::Rest(Continue::parse(token)?),
        None if exactly => ListOf::Exactly(version.unwrap_or(0)),
        None => ListOf::NotOlderThan(version.unwrap_or(0)),
    };
    Ok(List { limit, of })
}

fn watch(query: &Query, streaming: StreamingLists) -> Result<Watch, Refusal> {
    let field = "resourceVersionMatch";
    let matching = query.get(field).map(String::as_str).filter(|value| !value.is_empty());
    let asks_initial = query.contains_key("sendInitialEvents");
    if streaming == StreamingLists::Unknown && matching.is_some() {
        return Err(Refusal::forbidden_option(field, "resourceVersionMatch is forbidden for watch"));
    }
    if asks_initial && streaming != StreamingLists::Unknown {
        if matching != Some(NOT_OLDER_THAN) {
            let detail = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Refusal::forbidden_option(field, detail));
        }
        if streaming == StreamingLists::GateOff {
            let detail =
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return Err(Refusal::forbidden_option("sendInitialEvents", detail));
        }
    } else if matching.is_some() {
        let detail = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        return Err(Refusal::forbidden_option(field, detail));
    }
    let version = number(query, "resourceVersion")?.unwrap_or(0);
    let from = match version {
        _ if is_true(query, "sendInitialEvents") && streaming == StreamingLists::Served => {
            WatchFrom::InitialEvents(version)
        }
        0 => WatchFrom::AnyState,
        _ => WatchFrom::After(version),
    };
    let timeout = number(query, "timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    Ok(Watch { from, bookmarks: is_true(query, "allowWatchBookmarks"), timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, streaming: StreamingLists) -> Result<Ask, (u16, String)> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ask::parse(&query, streaming).map_err(|refusal| {
            let message = refusal.object()["message"].as_str().unwrap_or_default().to_owned();
            (refusal.code, message)
        })
    }

    /// Goal: lists are understood in every way in which kube asks for them.
    #[test]
    fn lists_are_understood() {
        let after = Continue::new(Some(1_007), "shop/web-0");
        let rest = format!("limit=2&continue={}", after.token());
        for (text, limit, of) in [
            ("", None, ListOf::NotOlderThan(0)),
            ("limit=0&resourceVersion=0", None, ListOf::NotOlderThan(0)),
            ("limit=500", Some(500), ListOf::NotOlderThan(0)),
            ("resourceVersion=7&resourceVersionMatch=NotOlderThan", None, ListOf::NotOlderThan(7)),
            ("resourceVersion=7&resourceVersionMatch=Exact", None, ListOf::Exactly(7)),
            (rest.as_str(), Some(2), ListOf::Rest(after.clone())),
        ] {
            assert_eq!(parse(text, StreamingLists::Served), Ok(Ask::List(List { limit, of })), "{text}");
        }
        assert_eq!(after.after(), "shop/web-0");
        assert_eq!(Continue::new(None, "/node-a").rv, -1);
    }

    /// Goal: watches are understood, and an old server takes a streaming list as an old server does.
    #[test]
    fn watches_are_understood() {
        let streaming = "watch=true&resourceVersion=0&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let watch = |from, bookmarks, timeout: Option<u64>| {
            let timeout = timeout.map(Duration::from_secs);
            Ok(Ask::Watch(Watch { from, bookmarks, timeout }))
        };
        let invalid = |text: &str| Err((422, format!("ListOptions.meta.k8s.io \"\" is invalid: {text}")));
        let gate = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        let unknown = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch";
        for (text, server, expected) in [
            ("watch=true", StreamingLists::Served, watch(WatchFrom::AnyState, false, None)),
            (
                "watch=1&resourceVersion=9&timeoutSeconds=290&allowWatchBookmarks=true",
                StreamingLists::Served,
                watch(WatchFrom::After(9), true, Some(290)),
            ),
            (streaming, StreamingLists::Served, watch(WatchFrom::InitialEvents(0), true, None)),
            (streaming, StreamingLists::Ignored, watch(WatchFrom::AnyState, true, None)),
            (streaming, StreamingLists::GateOff, invalid(gate)),
            (streaming, StreamingLists::Unknown, invalid(unknown)),
        ] {
            assert_eq!(parse(text, server), expected, "{text} {server:?}");
        }
    }

    /// Goal: what a real server refuses is refused, and what this one lacks too.
    #[test]
    fn nonsense_is_refused() {
        let served = StreamingLists::Served;
        for (text, code, part) in [
            ("resourceVersionMatch=Exact", 422, "unless resourceVersion is provided"),
            ("resourceVersion=0&resourceVersionMatch=Exact", 422, "is forbidden for resourceVersion \"0\""),
            ("resourceVersion=1&resourceVersionMatch=Newest", 422, "Unsupported value: \"Newest\""),
            ("sendInitialEvents=true", 422, "forbidden for list"),
            ("continue=e30&resourceVersionMatch=Exact", 422, "forbidden when continue is provided"),
            ("continue=nonsense", 400, "continue key is not valid"),
            ("resourceVersion=new", 400, "is no number"),
            ("fieldSelector=spec.nodeName%3Dnode-a", 400, "knows no selectors"),
            ("watch=true&sendInitialEvents=true", 422, "requires setting resourceVersionMatch"),
            ("watch=true&resourceVersionMatch=NotOlderThan", 422, "unless sendInitialEvents is provided"),
        ] {
            let (found, message) = parse(text, served).unwrap_err();
            assert_eq!(found, code, "{text}");
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
