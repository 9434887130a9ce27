//! How a Kubernetes API server says no: a `v1` Status object with its code.

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::resource::Resource;
use super::store::Key;

/// A refused request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    retry_after: Option<Duration>,
    /// The Status object.
    object: Value,
}

impl Refusal {
    fn new(code: u16, reason: &str, message: &str) -> Self {
        let object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        });
        Self { code, retry_after: None, object }
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.object[field] = value;
        self
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(super) fn forbidden(resource: Resource, verb: &str) -> Self {
        let (plural, group) = (resource.plural(), resource.group());
        let user = "system:serviceaccount:egressd:egressd-exporter";
        let message = format!(
            "{plural} is forbidden: User \"{user}\" cannot {verb} resource \"{plural}\" in API group \"{group}\" at the cluster scope"
        );
        Self::new(403, "Forbidden", &message).with("details", json!({ "kind": plural }))
    }

    pub(super) fn not_found() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message).with("details", json!({}))
    }

    /// One object that is not there.
    pub(super) fn no_object(key: &Key) -> Self {
        let message = format!("{} \"{}\" not found", qualified(key), key.name);
        Self::new(404, "NotFound", &message).with("details", details(key))
    }

    /// It is there already.
    pub(super) fn already_exists(key: &Key) -> Self {
        let message = format!("{} \"{}\" already exists", qualified(key), key.name);
        Self::new(409, "AlreadyExists", &message).with("details", details(key))
    }

    /// It changed since the version that the writer knows.
    pub(super) fn conflict(key: &Key) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes to the \
             latest version and try again",
            qualified(key),
            key.name
        );
        Self::new(409, "Conflict", &message).with("details", details(key))
    }

    /// An object with a field that it cannot have so.
    pub(super) fn invalid_field(key: &Key, field: &str, message: &str) -> Self {
        let mut details = details(key);
        details["kind"] = key.resource.kind().into();
        details["causes"] = json!([{ "reason": "FieldValueInvalid", "message": message, "field": field }]);
        let (kind, group) = (key.resource.kind(), key.resource.group());
        let message = format!("{kind}.{group} \"{}\" is invalid: {field}: {message}", key.name);
        Self::new(422, "Invalid", &message).with("details", details)
    }

    pub(super) fn bad_request(message: &str) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A list option that must not be there, or not so.
    pub(super) fn forbidden_option(field: &str, detail: &str) -> Self {
        Self::invalid(field, "FieldValueForbidden", &format!("Forbidden: {detail}"))
    }

    /// A list option with a value that it cannot have.
    pub(super) fn unsupported_option(field: &str, value: &str, supported: &str) -> Self {
        let message = format!("Unsupported value: \"{value}\": supported values: {supported}");
        Self::invalid(field, "FieldValueNotSupported", &message)
    }

    fn invalid(field: &str, reason: &str, message: &str) -> Self {
        let details = json!({
            "group": "meta.k8s.io",
            "kind": "ListOptions",
            "causes": [{ "reason": reason, "message": message, "field": field }],
        });
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {message}");
        Self::new(422, "Invalid", &message).with("details", details)
    }

    /// A watch, or a list of an exact version, from before the compaction.
    pub(super) fn too_old(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", &format!("too old resource version: {asked} ({oldest})"))
    }

    /// A page from before the compaction; `remainder` leads to the rest of what there is now.
    pub(super) fn too_old_page(remainder: &str) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start \
                       a new list without the continue parameter, or use the continue token in this response to \
                       retrieve the remainder of the results. Continuing with the provided token results in an \
                       inconsistent list - objects that were created, modified, or deleted between the time the \
                       first chunk was returned and now may show up in the list.";
        Self::new(410, "Expired", message).with("metadata", json!({ "continue": remainder }))
    }

    /// A version that is not there yet. A real server waits 3 s for it first.
    pub(super) fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let cause = json!({ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" });
        let details = json!({ "causes": [cause], "retryAfterSeconds": 1 });
        let refusal = Self::new(504, "Timeout", &message).with("details", details);
        Self { retry_after: Some(Duration::from_secs(1)), ..refusal }
    }

    /// A fault that the test has switched on.
    pub(super) fn fault(code: u16, retry_after: Option<Duration>) -> Self {
        let (reason, message) = match code {
            429 => (
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later",
            ),
            500 => ("InternalError", "Internal error occurred: etcdserver: leader changed"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            504 => ("Timeout", "request timed out"),
            _ => ("Unknown", "an error on the server has prevented the request from succeeding"),
        };
        let refusal = Self { retry_after, ..Self::new(code, reason, message) };
        match retry_after {
            Some(after) => refusal.with("details", json!({ "retryAfterSeconds": after.as_secs() })),
            None => refusal,
        }
    }

    pub(super) fn object(&self) -> &Value {
        &self.object
    }
}

/// As `leases.coordination.k8s.io`, and `secrets` of the core group.
fn qualified(key: &Key) -> String {
    format!("{}.{}", key.resource.plural(), key.resource.group()).trim_end_matches('.').to_owned()
}

fn details(key: &Key) -> Value {
    let mut details = json!({ "name": key.name, "kind": key.resource.plural() });
    if !key.resource.group().is_empty() {
        details["group"] = key.resource.group().into();
    }
    details
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = [(header::CONTENT_TYPE, "application/json")];
        let retry_after = self.retry_after.map(|after| [(header::RETRY_AFTER, after.as_secs().to_string())]);
        let body = self.object().to_string();
        match retry_after {
            Some(retry_after) => (status, json, retry_after, body).into_response(),
            None => (status, json, body).into_response(),
        }
    }
}
