//! The authority against a fake Kubernetes API over real HTTP.

use egressd_service::admin::Admin;
use egressd_testbed::kubernetes::{Access, Fault, KubernetesApi, Resource};
use kube::config::{KubeConfigOptions, Kubeconfig};
use prometheus_client::registry::Registry;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

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
        trusted: Trusted::default(),
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
    settle_at(keeper, UnixNanos(unix_nanos())).await;
}

async fn settle_at(keeper: &mut Keeper, now: UnixNanos) {
    loop {
        match keeper.look(now).await {
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
    let error = first.look(UnixNanos(unix_nanos())).await.unwrap_err().to_string();
    assert_eq!(error, "the Secret has ca.crt or ca.key alone: delete it to have both made");
}

/// What a collector with these authorities makes of what an exporter shows; it shakes hands as a real one does, by the
/// same library.
fn dial(authorities: &str, exporter: &Keeper) -> Result<(), rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let client =
        rustls::ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server.unwrap().with_no_client_auth();
    let server = server.with_cert_resolver(std::sync::Arc::new(exporter.shown.clone()));
    let name = "egressd-exporter".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(client.into(), name).unwrap();
    let mut server = rustls::ServerConnection::new(server.into()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut there).unwrap();
        }
        while server.read_tls(&mut &*std::mem::take(&mut there)).unwrap() > 0 {}
        server.process_new_packets()?;
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut back = &*back;
        while client.read_tls(&mut back).unwrap() > 0 {
            client.process_new_packets()?;
        }
    }
    Ok(())
}

/// Goal: who deletes the Secret gets another authority, of which every exporter shows a certificate once collectors have it;
/// one whose node has the old bundle dials until then, one with the published bundle at any time.
#[tokio::test]
async fn a_deleted_secret_is_made_anew_and_nobody_is_kept_out() {
    let api = api();
    let (mut first, mut second) = (keeper(&api).await, keeper(&api).await);
    settle(&mut first).await;
    settle(&mut second).await;
    let (old, old_bundle) = (authority(&first), published(&api));
    assert_eq!(old_bundle, old);
    api.delete(Resource::Secrets, NAMESPACE, "ca").unwrap();
    let deleted = UnixNanos(unix_nanos());
    let after = |span: Duration| deleted.saturating_add(span);
    settle_at(&mut second, deleted).await;
    let both = published(&api);
    assert!(both.ends_with(&old) && both.len() > old.len(), "both are published");

    let just_before = SPREADS_WITHIN - Duration::from_secs(1);
    for at in [Duration::ZERO, just_before] {
        for exporter in [&mut first, &mut second] {
            settle_at(exporter, after(at)).await;
            assert_eq!(authority(exporter), old, "the nodes do not have the new one yet");
            assert_eq!((dial(&old_bundle, exporter), dial(&both, exporter)), (Ok(()), Ok(())));
        }
    }
    // A leaf that is due meanwhile is of the authority that is trusted everywhere.
    second.current.as_mut().unwrap().renew_at = deleted;
    settle_at(&mut second, after(just_before)).await;
    assert_eq!(dial(&old_bundle, &second), Ok(()));

    settle_at(&mut second, after(SPREADS_WITHIN)).await;
    assert_ne!(authority(&second), old);
    assert!(dial(&old_bundle, &second).is_err(), "the old bundle alone is no longer enough");
    assert_eq!((dial(&both, &second), dial(&both, &first)), (Ok(()), Ok(())), "one is later than the other");
    settle_at(&mut first, after(LOOK_EVERY)).await;
    assert_eq!(authority(&first), authority(&second));
    assert_eq!(published(&api), both);
    settle_at(&mut first, after(TRUSTED_FOR)).await;
    settle_at(&mut second, after(TRUSTED_FOR)).await;
    assert_eq!(published(&api), authority(&first), "the old one is trusted no longer");
    assert_eq!((dial(&published(&api), &first), dial(&published(&api), &second)), (Ok(()), Ok(())));
}

/// Goal: what others publish in place of the authority is replaced, and what is theirs beside it stays.
#[tokio::test]
async fn what_others_publish_is_replaced() {
    let api = api();
    let mut keeper = keeper(&api).await;
    settle(&mut keeper).await;
    let tampered = serde_json::json!({ "data": { CERTIFICATE: "another", "mine": "stays" } });
    api.patch(Resource::ConfigMaps, NAMESPACE, "ca-public", &tampered).unwrap();
    settle(&mut keeper).await;
    assert_eq!(published(&api), authority(&keeper));
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
    assert!(matches!(
        keeper.look(UnixNanos(unix_nanos())).await,
        Err(ManagedError::Api { what: "reading the Secret", .. })
    ));
    assert_eq!(authority(&keeper), before);
}

/// Goal: an authority that cannot sign is said, and told to nobody: what is shown and published stays, and a leaf that is due
/// is renewed.
#[tokio::test]
async fn an_authority_that_cannot_sign_replaces_none() {
    let api = api();
    let mut keeper = keeper(&api).await;
    settle(&mut keeper).await;
    let (authority_before, published_before) = (authority(&keeper), published(&api));
    let now = UnixNanos(unix_nanos());
    let another = Kept::make(now).unwrap();
    for (certificate, key) in
        [(another.certificate.as_str(), "no key"), ("no certificate", another.key.as_str())]
    {
        let data = serde_json::json!({ "data": {
            CERTIFICATE: ByteString(certificate.into()), KEY: ByteString(key.into()),
        } });
        api.patch(Resource::Secrets, NAMESPACE, "ca", &data).unwrap();
        for at in [now, now.saturating_add(SPREADS_WITHIN), now.saturating_add(TRUSTED_FOR)] {
            keeper.current.as_mut().unwrap().renew_at = UnixNanos(1);
            keeper.look(at).await.unwrap_err();
            assert!(keeper.current.as_ref().unwrap().renew_at > now, "the leaf is renewed");
            assert_eq!(
                (authority(&keeper), published(&api)),
                (authority_before.clone(), published_before.clone())
            );
        }
    }
    assert_eq!(dial(&published_before, &keeper), Ok(()));
}
