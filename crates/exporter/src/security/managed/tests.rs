//! The authority against a fake Kubernetes API over real HTTP.

use egressd_service::admin::Admin;
use egressd_testbed::kubernetes::{Access, Fault, KubernetesApi, Resource};
use kube::config::{KubeConfigOptions, Kubeconfig};
use prometheus_client::registry::Registry;

use super::*;

const NAMESPACE: &str = "egressd";

async fn client(api: &KubernetesApi) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig()).unwrap();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

async fn keeper(api: &KubernetesApi) -> Keeper {
    let client = client(api).await;
    let [namespace, secret, config_map] = [NAMESPACE, "ca", "ca-public"].map(str::to_owned);
    Keeper {
        secrets: Api::namespaced(client.clone(), &namespace),
        config_maps: Api::namespaced(client, &namespace),
        managed: Managed { namespace, secret, config_map, names: vec!["egressd-exporter".to_owned()] },
        shown: Shown::default(),
        metrics: TlsMetrics::register(&mut Registry::default()),
        ready: Admin::default().part("certificate"),
        current: None,
        said_at: None,
    }
}

fn api() -> KubernetesApi {
    KubernetesApi::start_on_loopback(0, Access::Plain).unwrap()
}

fn authority(keeper: &Keeper) -> String {
    keeper.current.as_ref().unwrap().kept.certificate.clone()
}

fn published(api: &KubernetesApi) -> String {
    let map = api.get(Resource::ConfigMaps, NAMESPACE, "ca-public").unwrap();
    map["data"][CERTIFICATE].as_str().unwrap().to_owned()
}

/// Until one was not too late.
async fn settle(keeper: &mut Keeper) {
    loop {
        match keeper.look().await {
            Ok(()) => return,
            Err(ManagedError::Quicker) => {}
            Err(error) => panic!("{}", chain(&error)),
        }
    }
}

/// Goal: eight exporters that start at once agree on one authority, and publish it.
#[tokio::test]
async fn those_who_start_at_once_agree() {
    let api = api();
    let mut keepers = Vec::new();
    for _ in 0..8 {
        keepers.push(keeper(&api).await);
    }
    let looks = keepers.into_iter().map(|mut keeper| {
        tokio::spawn(async move {
            settle(&mut keeper).await;
            keeper
        })
    });
    let mut authorities = Vec::new();
    for look in looks.collect::<Vec<_>>() {
        authorities.push(authority(&look.await.unwrap()));
    }
    authorities.dedup();
    assert_eq!(authorities, [published(&api)]);
}

/// Goal: a Secret that is there is read, whoever made it, and one that is there empty is filled; half of one is refused, and
/// said.
#[tokio::test]
async fn a_secret_that_is_there_is_read_or_filled() {
    let api = api();
    let secret = |data: serde_json::Value| {
        serde_json::json!({ "kind": "Secret", "apiVersion": "v1", "metadata": { "namespace": NAMESPACE, "name": "ca" },
            "data": data })
    };
    api.apply(secret(serde_json::json!({}))).unwrap();
    let mut first = keeper(&api).await;
    settle(&mut first).await;
    let mut second = keeper(&api).await;
    settle(&mut second).await;
    assert_eq!(authority(&first), authority(&second));

    let whole = api.get(Resource::Secrets, NAMESPACE, "ca").unwrap();
    api.apply(secret(serde_json::json!({ CERTIFICATE: whole["data"][CERTIFICATE] }))).unwrap();
    let error = first.look().await.unwrap_err().to_string();
    assert_eq!(error, "the Secret has ca.crt or ca.key alone: delete it to have both made");
}

/// Goal: who deletes the Secret gets another authority, published, and every exporter takes it up; so it does what is
/// published in its place by others.
#[tokio::test]
async fn a_deleted_secret_is_made_anew() {
    let api = api();
    let (mut first, mut second) = (keeper(&api).await, keeper(&api).await);
    settle(&mut first).await;
    settle(&mut second).await;
    let old = authority(&first);
    api.delete(Resource::Secrets, NAMESPACE, "ca").unwrap();
    settle(&mut second).await;
    settle(&mut first).await;
    assert_ne!(authority(&first), old);
    assert_eq!((authority(&first), published(&api)), (authority(&second), authority(&second)));

    let tampered = serde_json::json!({ "data": { CERTIFICATE: "another", "mine": "stays" } });
    api.patch(Resource::ConfigMaps, NAMESPACE, "ca-public", &tampered).unwrap();
    settle(&mut first).await;
    assert_eq!(published(&api), authority(&first));
    let map = api.get(Resource::ConfigMaps, NAMESPACE, "ca-public").unwrap();
    assert_eq!(map["data"]["mine"], "stays");
}

/// Goal: nothing is written that is there already, and a leaf is renewed when it is due, of the same authority.
#[tokio::test]
async fn a_leaf_is_renewed_and_nothing_is_written() {
    let api = api();
    let mut keeper = keeper(&api).await;
    settle(&mut keeper).await;
    let (version, authority_before) = (api.version(), authority(&keeper));
    let due = keeper.current.as_ref().unwrap().renew_at;
    settle(&mut keeper).await;
    assert_eq!(keeper.current.as_ref().unwrap().renew_at, due, "not yet");
    keeper.current.as_mut().unwrap().renew_at = UnixNanos(1);
    settle(&mut keeper).await;
    assert!(keeper.current.as_ref().unwrap().renew_at >= due);
    assert_eq!((api.version(), authority(&keeper)), (version, authority_before));
}

/// Goal: an API that is away, or refuses, leaves what is shown as it is.
#[tokio::test]
async fn an_api_that_is_away_changes_nothing() {
    let api = api();
    let mut keeper = keeper(&api).await;
    settle(&mut keeper).await;
    let before = authority(&keeper);
    api.change(|settings| settings.objects = Fault::Status { code: 503, retry_after: None });
    assert!(matches!(keeper.look().await, Err(ManagedError::Api { what: "reading the Secret", .. })));
    assert_eq!(authority(&keeper), before);
}
