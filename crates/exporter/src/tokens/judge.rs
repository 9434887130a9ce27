//! What a review says of a token. Pure.
//!
//! Source: `authentication.k8s.io/v1` TokenReview; the extra fields are those of Kubernetes 1.36, the node's name from 1.30
//! on.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use egressd_delivery::serve::NotAdmitted;
use egressd_enrich::PodUid;
use egressd_flow::NodeName;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use serde::Deserialize;

const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    namespace: String,
    name: String,
}

/// Text that names no service account. The operator must correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not NAMESPACE/NAME")]
pub(crate) struct AccountError {
    text: String,
}

impl FromStr for ServiceAccount {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err(AccountError { text: text.to_owned() }),
        }
    }
}

/// As a user of the API.
impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

/// Whose tokens are taken, and for whom they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) account: ServiceAccount,
    pub(crate) audience: String,
}

/// Whom a token vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) pod: PodUid,
    /// `None` where the API does not say.
    pub(crate) node: Option<NodeName>,
}

impl Expected {
    /// Whom the reviewed token vouches for, if it is one that we take.
    pub(crate) fn judge(&self, status: TokenReviewStatus) -> Result<Bound, NotAdmitted> {
        let audience = self.audience.clone();
        if status.authenticated != Some(true) {
            let reason = status.error.unwrap_or_else(|| "the Kubernetes API does not know it".to_owned());
            // Those words of the API say what is to be mended; either way it is refused.
            return Err(if reason.contains("audience") {
                NotAdmitted::OtherAudience { audience, reason }
            } else {
                NotAdmitted::NotAuthentic { reason }
            });
        }
        let audiences = status.audiences.unwrap_or_default();
        if !audiences.contains(&audience) {
            let reason = format!("the Kubernetes API vouches for {audiences:?}");
            return Err(NotAdmitted::OtherAudience { audience, reason });
        }
        let UserInfo { username, extra, .. } = status.user.unwrap_or_default();
        let (found, expected) = (username.unwrap_or_default(), self.account.to_string());
        if found != expected {
            return Err(NotAdmitted::OtherAccount { found, expected });
        }
        let extra = extra.unwrap_or_default();
        let of = |key| extra.get(key).and_then(|values| values.first()).filter(|value| !value.is_empty());
        let pod = of(POD_UID).ok_or(NotAdmitted::Unbound)?;
        let node = of(NODE_NAME).map(|name| NodeName(name.as_str().into()));
        Ok(Bound { pod: PodUid(pod.as_str().into()), node })
    }
}

/// When a token says that it expires, in seconds since 1970. Nothing else of it is believed, and this only makes it known
/// for less long.
pub(crate) fn expires(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let payload = token.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok()?;
    serde_json::from_slice::<Claims>(&payload).ok().map(|claims| claims.exp)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn expected() -> Expected {
        Expected {
            account: "egressd/egressd-collector".parse().unwrap(),
            audience: "egressd-exporter".to_owned(),
        }
    }

    fn good() -> TokenReviewStatus {
        let extra = [(POD_UID, "uid-1"), (NODE_NAME, "node-a")];
        let extra: BTreeMap<_, _> =
            extra.into_iter().map(|(key, value)| (key.to_owned(), vec![value.to_owned()])).collect();
        let username = Some("system:serviceaccount:egressd:egressd-collector".to_owned());
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec!["egressd-exporter".to_owned()]),
            user: Some(UserInfo { username, extra: Some(extra), ..UserInfo::default() }),
            error: None,
        }
    }

    /// Goal: of a good review one thing after the other is taken away, and each is missed by its name.
    #[test]
    fn everything_that_a_review_must_say_is_missed() {
        let bound = |node: Option<&str>| {
            Ok(Bound { pod: PodUid("uid-1".into()), node: node.map(|node| NodeName(node.into())) })
        };
        assert_eq!(expected().judge(good()), bound(Some("node-a")));
        type Change = fn(&mut TokenReviewStatus);
        fn user(status: &mut TokenReviewStatus) -> &mut UserInfo {
            status.user.as_mut().unwrap()
        }
        fn extra(status: &mut TokenReviewStatus) -> &mut BTreeMap<String, Vec<String>> {
            user(status).extra.as_mut().unwrap()
        }
        let cases: [(Change, &str); 9] = [
            (|status| status.authenticated = Some(false), "not_authentic"),
            (|status| status.authenticated = None, "not_authentic"),
            (
                |status| {
                    status.authenticated = None;
                    status.error = Some("token audiences [\"x\"] is invalid".to_owned());
                },
                "other_audience",
            ),
            (|status| status.audiences = None, "other_audience"),
            (|status| status.audiences = Some(vec!["https://kubernetes".to_owned()]), "other_audience"),
            (|status| status.user = None, "other_account"),
            (
                |status| {
                    user(status).username = Some("system:serviceaccount:shop:egressd-collector".to_owned())
                },
                "other_account",
            ),
            (|status| drop(extra(status).remove(POD_UID)), "unbound"),
            (|status| user(status).extra = None, "unbound"),
        ];
        for (change, reason) in cases {
            let mut status = good();
            change(&mut status);
            assert_eq!(expected().judge(status).unwrap_err().reason(), reason);
        }
        let mut old = good();
        extra(&mut old).remove(NODE_NAME);
        assert_eq!(expected().judge(old), bound(None), "before Kubernetes 1.30");
    }

    /// Goal: a token's end is read where there is one, and no text breaks the reader.
    #[test]
    fn a_tokens_end_is_read() {
        let token = |payload: &str| format!("header.{}.signature", URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(expires(&token(r#"{"exp":1900000000,"aud":["x"]}"#)), Some(1_900_000_000));
        for text in ["", "a.b.c", "no token", &token("{}"), &token("7"), &token(r#"{"exp":-1}"#), &token("{")]
        {
            assert_eq!(expires(text), None, "{text}");
        }
    }

    /// Goal: a service account is a namespace and a name.
    #[test]
    fn an_account_is_a_namespace_and_a_name() {
        let account: ServiceAccount = "egressd/collector".parse().unwrap();
        assert_eq!(account.to_string(), "system:serviceaccount:egressd:collector");
        for text in ["", "collector", "/collector", "egressd/", "a/b/c"] {
            assert!(text.parse::<ServiceAccount>().is_err(), "{text}");
        }
    }
}
