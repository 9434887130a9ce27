//! Tokens of service accounts: issued as the kubelet has them issued for a projected volume, and reviewed.
//!
//! Source: `pkg/serviceaccount` of Kubernetes (claims, validators and the extra fields of the user), and
//! `k8s.io/apiserver` `pkg/authentication` for audiences. What it says of tokens was compared with a 1.36.
//! Invariant: a token is good that was issued here, has not expired, is for an audience that is asked for, and whose pod,
//! where it is bound to one, is there under its UID.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::resource::Resource;
use super::routes::json_answer;
use super::shared::Shared;
use super::status::Refusal;
use super::store::Key;
use super::time::seconds_ago;

/// Where tokens are reviewed.
pub(super) const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// The audience of the API itself, which a token has that asks for no other.
const API_AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

/// A token to be issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    namespace: String,
    account: String,
    audience: String,
    pod: Option<BoundPod>,
    lasts_seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct BoundPod {
    name: String,
    uid: String,
    node: String,
}

impl Token {
    /// Of a service account, for the API itself, bound to nothing, for an hour.
    #[must_use]
    pub fn of(namespace: &str, account: &str) -> Self {
        let [namespace, account, audience] = [namespace, account, API_AUDIENCE].map(str::to_owned);
        Self { namespace, account, audience, pod: None, lasts_seconds: 3_600 }
    }

    /// For somebody else.
    #[must_use]
    pub fn audience(self, audience: &str) -> Self {
        Self { audience: audience.to_owned(), ..self }
    }

    /// Bound to a pod of the account's namespace.
    #[must_use]
    pub fn bound(self, pod: &str, uid: &str, node: &str) -> Self {
        let [name, uid, node] = [pod, uid, node].map(str::to_owned);
        Self { pod: Some(BoundPod { name, uid, node }), ..self }
    }

    /// For so many seconds from now on; below zero it is over.
    #[must_use]
    pub fn lasts(self, seconds: i64) -> Self {
        Self { lasts_seconds: seconds, ..self }
    }

    fn expires(&self) -> i64 {
        seconds_ago(0).as_second() + self.lasts_seconds
    }

    /// The text, with a signature that nobody can make from outside.
    pub(super) fn text(&self, serial: usize) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let bound = self.pod.as_ref();
        let claims = json!({
            "iss": API_AUDIENCE,
            "sub": self.username(),
            "aud": [self.audience],
            "exp": self.expires(),
            "jti": serial.to_string(),
            "kubernetes.io": {
                "namespace": self.namespace,
                "serviceaccount": { "name": self.account },
                "pod": bound.map(|pod| json!({ "name": pod.name, "uid": pod.uid })),
                "node": bound.map(|pod| json!({ "name": pod.node })),
            },
        });
        let header = json!({ "alg": "RS256", "kid": "testbed" });
        format!("{}.{}.{}", part(&header), part(&claims), part(&json!(format!("signed {serial}"))))
    }

    fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }

    /// The user that it vouches for; a server before 1.30 does not name the node.
    fn user(&self, names_nodes: bool) -> Value {
        let mut extra = BTreeMap::new();
        let mut add = |name: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{name}"), json!([value]));
        };
        if let Some(BoundPod { name, uid, node }) = &self.pod {
            add("pod-name", name);
            add("pod-uid", uid);
            if names_nodes {
                add("node-name", node);
            }
        }
        let of_namespace = format!("system:serviceaccounts:{}", self.namespace);
        json!({
            "username": self.username(),
            "uid": format!("uid-of-{}", self.account),
            "groups": ["system:serviceaccounts", of_namespace, "system:authenticated"],
            "extra": extra,
        })
    }
}

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route(PATH, post(review))
}

async fn review(State(shared): State<Arc<Shared>>, body: Bytes) -> Result<Response, Refusal> {
    let review: Value =
        serde_json::from_slice(&body).map_err(|error| Refusal::bad_request(&error.to_string()))?;
    if review["kind"] != "TokenReview" || review["apiVersion"] != "authentication.k8s.io/v1" {
        return Err(Refusal::bad_request("the object provided is unrecognized"));
    }
    let spec = &review["spec"];
    let asked: Vec<&str> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let asked = if asked.is_empty() { vec![API_AUDIENCE] } else { asked };
    let status = match vouched(&shared, spec["token"].as_str().unwrap_or_default(), &asked) {
        Ok(token) => json!({
            "authenticated": true,
            "user": token.user(shared.settings().names_nodes),
            "audiences": [token.audience],
        }),
        Err(reason) => json!({ "user": {}, "error": format!("[invalid bearer token, {reason}]") }),
    };
    let answer = json!({
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {},
        "spec": spec,
        "status": status,
    });
    Ok((StatusCode::CREATED, json_answer(answer.to_string())).into_response())
}

/// The token that was issued under this text, if it is good.
fn vouched(shared: &Shared, text: &str, asked: &[&str]) -> Result<Token, String> {
    let token = shared.issued(text).ok_or("square/go-jose: error in cryptographic primitive")?;
    if token.lasts_seconds <= 0 {
        return Err("service account token has expired".to_owned());
    }
    if !asked.contains(&token.audience.as_str()) {
        let found = &token.audience;
        return Err(format!("token audiences [{found:?}] is invalid for the target audiences {asked:?}"));
    }
    if let Some(BoundPod { name, uid, .. }) = &token.pod {
        let pod = shared.store().get(&Key::new(Resource::Pods, &token.namespace, name));
        if pod.is_none_or(|pod| pod["metadata"]["uid"] != uid.as_str()) {
            return Err("service account token has been invalidated".to_owned());
        }
    }
    Ok(token)
}
