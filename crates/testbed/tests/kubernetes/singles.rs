//! Secrets and config maps, one by one, by the real client.

use std::collections::BTreeMap;

use egressd_testbed::kubernetes::Permission;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Error};

use crate::client::{client_by, run};
use crate::plain;

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn refusal<T>(answer: Result<T, Error>) -> String {
    match answer {
        Ok(_) => "taken".to_owned(),
        Err(Error::Api(status)) => format!("{} {}: {}", status.code, status.reason, status.message),
        Err(error) => error.to_string(),
    }
}

/// Goal: a secret is created by the first and by nobody after, and replaced by who knows its version; a config map too, and
/// each request is told as a role would name it.
#[test]
fn secrets_and_config_maps_are_written_one_by_one() {
    let api = plain();
    run(async {
        let client = client_by(&api.kubeconfig()).await;
        let post = PostParams::default();
        let secrets: Api<Secret> = Api::namespaced(client.clone(), "egressd");
        assert!(secrets.get_opt("ca").await.unwrap().is_none());
        let data = |text: &str| BTreeMap::from([("key".to_owned(), ByteString(text.as_bytes().to_vec()))]);
        let secret = Secret { metadata: named("ca"), data: Some(data("one")), ..Secret::default() };
        let made = secrets.create(&post, &secret).await.unwrap();
        assert_eq!(made.type_.as_deref(), Some("Opaque"));
        assert_eq!(
            refusal(secrets.create(&post, &secret).await),
            "409 AlreadyExists: secrets \"ca\" already exists"
        );
        let by_one = Secret { data: Some(data("two")), ..made.clone() };
        let by_other = Secret { data: Some(data("three")), ..made };
        secrets.replace("ca", &post, &by_one).await.unwrap();
        assert!(refusal(secrets.replace("ca", &post, &by_other).await).starts_with("409 Conflict"));
        assert_eq!(secrets.get("ca").await.unwrap().data, Some(data("two")));

        let maps: Api<ConfigMap> = Api::namespaced(client, "egressd");
        let map = ConfigMap {
            metadata: named("ca"),
            data: Some(BTreeMap::from([("key".to_owned(), "value".to_owned())])),
            ..ConfigMap::default()
        };
        maps.create(&post, &map).await.unwrap();
        // Who names no version overwrites.
        maps.replace("ca", &post, &map).await.unwrap();
        assert_eq!(maps.get("ca").await.unwrap().data, map.data);
    });
    let permissions = api.requests().iter().filter_map(|request| request.permission()).collect::<Vec<_>>();
    let of = |verb, resource: &str, name: &str| {
        let [group, resource, namespace, name] = ["", resource, "egressd", name].map(str::to_owned);
        Permission { verb, group, resource, namespace, name }
    };
    let expected = [
        of("get", "secrets", "ca"),
        of("create", "secrets", ""),
        of("create", "secrets", ""),
        of("update", "secrets", "ca"),
        of("update", "secrets", "ca"),
        of("get", "secrets", "ca"),
        of("create", "configmaps", ""),
        of("update", "configmaps", "ca"),
        of("get", "configmaps", "ca"),
    ];
    assert_eq!(permissions, expected);
}
