//! The routes, and the gate that every request passes: delay, faults, token, then the answer; and the record of it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query as QueryOf, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::ask::{Ask, Continue, List, ListOf, Query, is_watch};
use super::resource::Resource;
use super::settings::{Fault, Settings};
use super::shared::Shared;
use super::single;
use super::status::Refusal;
use super::store::{Compacted, Key, Store, Stored};
use super::{tokens, watching};

/// Everything that the server answers. Further resources are further routes.
pub(super) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/version", get(version))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }));
    for resource in Resource::ALL {
        let answer = move |State(shared): State<Arc<Shared>>, query| collection(shared, resource, query);
        router = router.route(resource.path(), get(answer));
    }
    router
        .merge(single::routes())
        .merge(tokens::routes())
        .fallback(|| async { Refusal::not_found() })
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), gate))
        .with_state(shared)
}

async fn gate(
    State(shared): State<Arc<Shared>>,
    QueryOf(query): QueryOf<Query>,
    request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let settings = shared.settings();
    let _under_way = (path == tokens::PATH).then(|| shared.reviews.enter());
    tokio::time::sleep(settings.delay).await;
    let fault = match Resource::ALL.iter().any(|resource| resource.path() == path) {
        true if is_watch(&query) => settings.watches,
        true => settings.lists,
        false if single::is_path(&path) => settings.objects,
        false if path == tokens::PATH => settings.reviews,
        false => settings.others,
    };
    let answer = match fault {
        Fault::Stall => {
            shared.record(&method, &path, &query, None);
            return std::future::pending().await;
        }
        Fault::Status { code, retry_after } => Refusal::fault(code, retry_after).into_response(),
        Fault::None if !is_authentic(&settings, &request) => Refusal::unauthorized().into_response(),
        Fault::None => next.run(request).await,
    };
    shared.record(&method, &path, &query, Some(answer.status().as_u16()));
    answer
}

fn is_authentic(settings: &Settings, request: &Request) -> bool {
    let Some(token) = &settings.token else { return true };
    let given = request.headers().get(header::AUTHORIZATION);
    given.is_some_and(|given| given.as_bytes() == format!("Bearer {token}").as_bytes())
}

async fn version(State(shared): State<Arc<Shared>>) -> Response {
    let minor = shared.settings().streaming_lists.minor();
    let version = json!({
        "major": "1",
        "minor": minor.to_string(),
        "gitVersion": format!("v1.{minor}.1"),
        "gitCommit": "93248f9ae092f571eb870b7664c534bfc7d00f03",
        "gitTreeState": "clean",
        "buildDate": "2025-09-09T19:37:02Z",
        "goVersion": "go1.24.6",
        "compiler": "gc",
        "platform": "linux/amd64",
    });
    json_answer(version.to_string())
}

async fn collection(
    shared: Arc<Shared>,
    resource: Resource,
    QueryOf(query): QueryOf<Query>,
) -> Result<Response, Refusal> {
    let settings = shared.settings();
    if settings.forbidden.contains(&resource) {
        let verb = if is_watch(&query) { "watch" } else { "list" };
        return Err(Refusal::forbidden(resource, verb));
    }
    match Ask::parse(&query, settings.streaming_lists)? {
        Ask::List(ask) => Ok(json_answer(page(&shared.store(), resource, ask)?)),
        Ask::Watch(ask) => Ok(json_answer(watching::body(&shared, resource, &ask)?)),
    }
}

pub(super) fn json_answer(body: impl Into<Body>) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// The text of a list, or of a page of it.
fn page(store: &Store, resource: Resource, ask: List) -> Result<String, Refusal> {
    let current = store.version();
    let (version, after) = match &ask.of {
        ListOf::NotOlderThan(version) | ListOf::Exactly(version) if *version > current => {
            return Err(Refusal::too_large(*version, current));
        }
        ListOf::NotOlderThan(_) => (current, None),
        ListOf::Exactly(version) => (*version, None),
        ListOf::Rest(token) => (u64::try_from(token.rv).unwrap_or(current), Some(token.after())),
    };
    let state = store.state(resource, version).map_err(|Compacted| match after {
        Some(after) => Refusal::too_old_page(&Continue::new(None, after).token()),
        None => Refusal::too_old(version, store.compacted()),
    })?;
    let after = after.map(|path| {
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        Key::new(resource, namespace, name)
    });
    let rest: Vec<(&Key, &Stored)> =
        state.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after)).collect();
    let (items, left) = rest.split_at(ask.limit.unwrap_or(rest.len()).min(rest.len()));
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if let (Some((last, _)), false) = (items.last(), left.is_empty()) {
        metadata["continue"] = Continue::new(Some(version), &last.path()).token().into();
        metadata["remainingItemCount"] = left.len().into();
    }
    Ok(list_text(resource, &metadata, items))
}

fn list_text(resource: Resource, metadata: &Value, items: &[(&Key, &Stored)]) -> String {
    let (kind, api_version) = (resource.kind(), resource.api_version());
    let items: Vec<&str> = items.iter().map(|(_, stored)| &*stored.text).collect();
    let items = items.join(",");
    format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":[{items}]}}"#)
}
