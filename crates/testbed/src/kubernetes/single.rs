//! One object: read, created, replaced. Leases alone, as nobody here writes anything else.
//!
//! Source of the rules: `k8s.io/apiserver` `pkg/registry/rest` and `pkg/registry/coordination/lease` of Kubernetes: an
//! update names the version that it is of, UID and creation stay, and what changes nothing is no new version.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query as QueryOf, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::ask::Query;
use super::resource::Resource;
use super::routes::json_answer;
use super::shared::Shared;
use super::status::Refusal;
use super::store::{Key, Store};
use super::time::{seconds_ago, text};

const COLLECTION: &str = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases";
const OBJECT: &str = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}";

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route(COLLECTION, post(create)).route(OBJECT, get(read).put(replace))
}

/// Whether a path is one of [`routes`].
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with("/apis/coordination.k8s.io/v1/namespaces/")
}

async fn read(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
    QueryOf(query): QueryOf<Query>,
) -> Result<Response, Refusal> {
    check_request(&shared, &query, "get")?;
    let key = Key::new(Resource::Leases, &namespace, &name);
    let object = shared.store().get(&key).ok_or_else(|| Refusal::no_object(&key))?;
    Ok(json_answer(object.to_string()))
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Path(namespace): Path<String>,
    QueryOf(query): QueryOf<Query>,
    body: Bytes,
) -> Result<Response, Refusal> {
    check_request(&shared, &query, "create")?;
    let (key, object) = object_in(&body, &namespace, None)?;
    let created = shared.change_store(|store| created(store, &key, object))?;
    Ok((StatusCode::CREATED, json_answer(created.to_string())).into_response())
}

async fn replace(
    State(shared): State<Arc<Shared>>,
    Path((namespace, name)): Path<(String, String)>,
    QueryOf(query): QueryOf<Query>,
    body: Bytes,
) -> Result<Response, Refusal> {
    check_request(&shared, &query, "update")?;
    let (key, object) = object_in(&body, &namespace, Some(&name))?;
    let replaced = shared.change_store(|store| replaced(store, &key, object))?;
    Ok(json_answer(replaced.to_string()))
}

/// A parameter may change what is done, as `dryRun` does: none is known here.
fn check_request(shared: &Shared, query: &Query, verb: &str) -> Result<(), Refusal> {
    if shared.settings().forbidden.contains(&Resource::Leases) {
        return Err(Refusal::forbidden(Resource::Leases, verb));
    }
    match query.keys().next() {
        Some(parameter) => Err(Refusal::bad_request(&format!("{parameter} is not known here"))),
        None => Ok(()),
    }
}

/// The lease in a request's body; `name` is that of the path, where it has one.
fn object_in(body: &[u8], namespace: &str, name: Option<&str>) -> Result<(Key, Value), Refusal> {
    let object: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(&error.to_string()))?;
    if object["kind"] != Resource::Leases.kind() || object["apiVersion"] != Resource::Leases.api_version() {
        return Err(Refusal::bad_request("the object provided is unrecognized"));
    }
    let metadata = &object["metadata"];
    let own = metadata["name"].as_str().unwrap_or_default();
    if let Some(name) = name.filter(|name| *name != own) {
        let message = format!("the name of the object ({own}) does not match the name on the URL ({name})");
        return Err(Refusal::bad_request(&message));
    }
    if metadata["namespace"].as_str().is_some_and(|own| own != namespace) {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    let key = Key::new(Resource::Leases, namespace, own);
    if own.is_empty() {
        return Err(Refusal::invalid_field(
            &key,
            "metadata.name",
            "Required value: name or generateName is required",
        ));
    }
    check_spec(&key, &object["spec"])?;
    Ok((key, object))
}

fn check_spec(key: &Key, spec: &Value) -> Result<(), Refusal> {
    for (field, least, words) in [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        if let Some(found) = spec[field].as_i64().filter(|found| *found < least) {
            let message = format!("Invalid value: {found}: {words}");
            return Err(Refusal::invalid_field(key, &format!("spec.{field}"), &message));
        }
    }
    Ok(())
}

fn created(store: &mut Store, key: &Key, mut object: Value) -> Result<Value, Refusal> {
    if store.get(key).is_some() {
        return Err(Refusal::already_exists(key));
    }
    let uid = format!("5c5cba77-0000-4000-8000-{:012x}", store.version());
    object["metadata"]["uid"] = uid.into();
    object["metadata"]["creationTimestamp"] = text(seconds_ago(0)).into();
    put(store, key, object)
}

fn replaced(store: &mut Store, key: &Key, mut object: Value) -> Result<Value, Refusal> {
    let before = store.get(key).ok_or_else(|| Refusal::no_object(key))?;
    let metadata = &mut object["metadata"];
    let version = metadata["resourceVersion"].as_str().unwrap_or_default();
    if version.is_empty() {
        let message = "Invalid value: 0: must be specified for an update";
        return Err(Refusal::invalid_field(key, "metadata.resourceVersion", message));
    }
    let is_of_another = metadata["uid"].as_str().is_some_and(|uid| before["metadata"]["uid"] != uid);
    if before["metadata"]["resourceVersion"] != version || is_of_another {
        return Err(Refusal::conflict(key));
    }
    for kept in ["uid", "creationTimestamp"] {
        metadata[kept] = before["metadata"][kept].clone();
    }
    put(store, key, object)
}

fn put(store: &mut Store, key: &Key, mut object: Value) -> Result<Value, Refusal> {
    if let Value::Object(map) = &mut object {
        map.remove("kind");
        map.remove("apiVersion");
    }
    object["metadata"]["namespace"] = json!(key.namespace);
    store.put(key.clone(), object);
    store.get(key).ok_or_else(|| Refusal::no_object(key))
}
