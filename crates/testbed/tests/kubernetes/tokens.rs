//! Tokens, reviewed by the real client.

use egressd_testbed::kubernetes::{KubernetesApi, Resource, Token};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Api;
use kube::api::PostParams;

use crate::client::{client_by, run};
use crate::{plain, pod};

const AUDIENCE: &str = "egressd-exporter";

async fn review(api: &KubernetesApi, token: &str) -> TokenReviewStatus {
    let reviews: Api<TokenReview> = Api::all(client_by(&api.kubeconfig()).await);
    let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
    let review = TokenReview { spec, ..TokenReview::default() };
    reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap()
}

/// Goal: a good token is vouched for with all that a real server says of it, and a bad one with nothing but why.
#[test]
fn tokens_are_reviewed_as_by_a_real_server() {
    let api = plain();
    api.apply(pod("web-0")).unwrap();
    let bound = || Token::of("shop", "web").audience(AUDIENCE).bound("web-0", "uid-of-web-0", "node-a");
    let good = api.issue(bound());
    run(async {
        let status = review(&api, &good).await;
        let user = status.user.unwrap();
        assert_eq!((status.authenticated, status.error), (Some(true), None));
        assert_eq!(status.audiences, Some(vec![AUDIENCE.to_owned()]));
        assert_eq!(user.username.as_deref(), Some("system:serviceaccount:shop:web"));
        let extra = user.extra.unwrap();
        for (name, value) in [("pod-name", "web-0"), ("pod-uid", "uid-of-web-0"), ("node-name", "node-a")] {
            assert_eq!(extra[&format!("authentication.kubernetes.io/{name}")], [value]);
        }
        api.change(|settings| settings.names_nodes = false);
        let user = review(&api, &good).await.user.unwrap();
        assert!(!user.extra.unwrap().contains_key("authentication.kubernetes.io/node-name"));

        let unbound = review(&api, &api.issue(Token::of("shop", "web").audience(AUDIENCE))).await;
        let extra = unbound.user.unwrap().extra.unwrap_or_default();
        assert_eq!((unbound.authenticated, extra.len()), (Some(true), 0));
        for (token, words) in [
            (api.issue(bound().audience("another")), "is invalid for the target audiences"),
            (api.issue(bound().lasts(0)), "service account token has expired"),
            (
                api.issue(Token::of("shop", "web").audience(AUDIENCE).bound("web-0", "other", "node-a")),
                "invalidated",
            ),
            (format!("{good}x"), "error in cryptographic primitive"),
        ] {
            let status = review(&api, &token).await;
            assert_eq!((status.authenticated, status.audiences), (None, None));
            let error = status.error.unwrap();
            assert!(error.starts_with("[invalid bearer token, ") && error.contains(words), "{error}");
        }
        api.delete(Resource::Pods, "shop", "web-0").unwrap();
        assert!(review(&api, &good).await.error.unwrap().contains("invalidated"));
    });
    assert_eq!(api.reviews_at_once(), 1);
}
