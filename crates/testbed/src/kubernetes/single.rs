//! One object: read, created, replaced. Leases, secrets and config maps, as nobody here writes anything else.
//!
//! Source of the rules: `k8s.io/apiserver` `pkg/registry/rest`, and of `pkg/registry` of Kubernetes `coordination/lease`,
//! `core/secret` and `core/configmap`: a lease's update names the version that it is of, that of the others may; UID and
//! creation stay, and what changes nothing is no new version.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query as QueryOf, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ask::Query;
use super::resource::Resource;
use super::routes::json_answer;
use super::shared::Shared;
use super::status::Refusal;
use super::store::{Key, Store};
use super::time::{seconds_ago, text};

pub(super) fn routes() -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for resource in Resource::SINGLE {
        let collection = collection(resource);
        let read = move |shared, path, query| read(resource, shared, path, query);
        let create = move |shared, path, query, body| create(resource, shared, path, query, body);
        let replace = move |shared, path, query, body| replace(resource, shared, path, query, body);
        router = router
            .route(&format!("{collection}/{{name}}"), get(read).put(replace))
            .route(&collection, post(create));
    }
    router
}

/// The path of those of one namespace.
fn collection(resource: Resource) -> String {
    let (group, plural) = resource.path().rsplit_once('/').unwrap_or_default();
    format!("{group}/namespaces/{{namespace}}/{plural}")
}

/// Whether a path is one of [`routes`].
pub(super) fn is_path(path: &str) -> bool {
    path.contains("/namespaces/")
}

type In = State<Arc<Shared>>;

async fn read(
    resource: Resource,
    State(shared): In,
    Path((namespace, name)): Path<(String, String)>,
    QueryOf(query): QueryOf<Query>,
) -> Result<Response, Refusal> {
    check_request(resource, &shared, &query, "get")?;
    let key = Key::new(resource, &namespace, &name);
    let object = shared.store().get(&key).ok_or_else(|| Refusal::no_object(&key))?;
    Ok(json_answer(object.to_string()))
}

async fn create(
    resource: Resource,
    State(shared): In,
    Path(namespace): Path<String>,
    QueryOf(query): QueryOf<Query>,
    body: Bytes,
) -> Result<Response, Refusal> {
    check_request(resource, &shared, &query, "create")?;
    let (key, object) = object_in(resource, &body, &namespace, None)?;
    let created = shared.change_store(|store| created(store, &key, object))?;
    Ok((StatusCode::CREATED, json_answer(created.to_string())).into_response())
}

async fn replace(
    resource: Resource,
    State(shared): In,
    Path((namespace, name)): Path<(String, String)>,
    QueryOf(query): QueryOf<Query>,
    body: Bytes,
) -> Result<Response, Refusal> {
    check_request(resource, &shared, &query, "update")?;
    let (key, object) = object_in(resource, &body, &namespace, Some(&name))?;
    let replaced = shared.change_store(|store| replaced(store, &key, object))?;
    Ok(json_answer(replaced.to_string()))
}

/// A parameter may change what is done, as `dryRun` does: none is known here.
fn check_request(resource: Resource, shared: &Shared, query: &Query, verb: &str) -> Result<(), Refusal> {
    if shared.settings().forbidden.contains(&resource) {
        return Err(Refusal::forbidden(resource, verb));
    }
    match query.keys().next() {
        Some(parameter) => Err(Refusal::bad_request(&format!("{parameter} is not known here"))),
        None => Ok(()),
    }
}

/// The object in a request's body; `name` is that of the path, where it has one.
fn object_in(
    resource: Resource,
    body: &[u8],
    namespace: &str,
    name: Option<&str>,
) -> Result<(Key, Value), Refusal> {
    let mut object: Value =
        serde_json::from_slice(body).map_err(|error| Refusal::bad_request(&error.to_string()))?;
    if object["kind"] != resource.kind() || object["apiVersion"] != resource.api_version() {
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
    let key = Key::new(resource, namespace, own);
    if own.is_empty() {
        return Err(Refusal::invalid_field(
            &key,
            "metadata.name",
            "Required value: name or generateName is required",
        ));
    }
    match resource {
        Resource::Leases => check_spec(&key, &object["spec"])?,
        Resource::Secrets => {
            check_data(&object["data"])?;
            if object["type"].is_null() {
                object["type"] = "Opaque".into();
            }
        }
        _ => {}
    }
    Ok((key, object))
}

/// A secret's values are base64.
fn check_data(data: &Value) -> Result<(), Refusal> {
    let mut values = data.as_object().into_iter().flatten();
    match values.find(|(_, value)| value.as_str().is_none_or(|text| STANDARD.decode(text).is_err())) {
        Some((name, _)) => Err(Refusal::bad_request(&format!(
            "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data in {name}"
        ))),
        None => Ok(()),
    }
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
    if version.is_empty() && key.resource == Resource::Leases {
        let message = "Invalid value: 0: must be specified for an update";
        return Err(Refusal::invalid_field(key, "metadata.resourceVersion", message));
    }
    let is_of_another = metadata["uid"].as_str().is_some_and(|uid| before["metadata"]["uid"] != uid);
    let is_of_another_version = !version.is_empty() && before["metadata"]["resourceVersion"] != version;
    if is_of_another_version || is_of_another {
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
