//! One lease, read and written by the real client.

use egressd_testbed::kubernetes::{Fault, Resource};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Error};

use crate::client::{client_by, run};
use crate::plain;

fn lease(name: &str, holder: &str) -> Lease {
    let spec = LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        ..LeaseSpec::default()
    };
    Lease { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, spec: Some(spec) }
}

/// `HOLDER@VERSION` of what came back, or the refusal.
fn told(answer: Result<Lease, Error>) -> String {
    match answer {
        Ok(Lease { metadata, spec }) => {
            let holder = spec.unwrap().holder_identity.unwrap();
            assert!(metadata.uid.is_some() && metadata.creation_timestamp.is_some());
            assert_eq!(metadata.namespace.as_deref(), Some("egressd"));
            format!("{holder}@{}", metadata.resource_version.unwrap())
        }
        Err(Error::Api(status)) => format!("{} {}: {}", status.code, status.reason, status.message),
        Err(error) => error.to_string(),
    }
}

/// Goal: a lease is created once and replaced by who knows its version, in the words of a real server.
#[test]
fn a_lease_is_replaced_by_who_knows_its_version() {
    let api = plain();
    run(async {
        let leases: Api<Lease> = Api::namespaced(client_by(&api.kubeconfig()).await, "egressd");
        let post = PostParams::default();
        let not_found = "404 NotFound: leases.coordination.k8s.io \"exporter\" not found";
        assert_eq!(told(leases.get("exporter").await), not_found);
        assert_eq!(told(leases.create(&post, &lease("exporter", "a")).await), "a@1001");
        assert_eq!(
            told(leases.create(&post, &lease("exporter", "b")).await),
            "409 AlreadyExists: leases.coordination.k8s.io \"exporter\" already exists"
        );
        let read = leases.get("exporter").await.unwrap();
        assert_eq!(told(Ok(read.clone())), "a@1001");
        assert_eq!(told(leases.replace("exporter", &post, &read).await), "a@1001", "no change");

        let mut by_b = read.clone();
        by_b.spec.as_mut().unwrap().holder_identity = Some("b".to_owned());
        assert_eq!(told(leases.replace("exporter", &post, &by_b).await), "b@1002");
        assert_eq!(
            told(leases.replace("exporter", &post, &by_b).await),
            "409 Conflict: Operation cannot be fulfilled on leases.coordination.k8s.io \"exporter\": the object has been \
             modified; please apply your changes to the latest version and try again"
        );
        by_b.metadata.resource_version = None;
        assert_eq!(
            told(leases.replace("exporter", &post, &by_b).await),
            "422 Invalid: Lease.coordination.k8s.io \"exporter\" is invalid: metadata.resourceVersion: Invalid value: 0: \
             must be specified for an update"
        );
        by_b.metadata.resource_version = Some("1002".to_owned());
        by_b.spec.as_mut().unwrap().lease_duration_seconds = Some(0);
        assert_eq!(
            told(leases.replace("exporter", &post, &by_b).await),
            "422 Invalid: Lease.coordination.k8s.io \"exporter\" is invalid: spec.leaseDurationSeconds: Invalid value: 0: \
             must be greater than 0"
        );
    });
    assert_eq!(api.version(), 1_002);
    assert_eq!(api.get(Resource::Leases, "egressd", "exporter").unwrap()["spec"]["holderIdentity"], "b");
}

/// Goal: what is wrong with reading and writing one object is wrong with nothing else.
#[test]
fn a_fault_of_single_objects_is_theirs_alone() {
    let api = plain();
    api.change(|settings| settings.objects = Fault::Status { code: 503, retry_after: None });
    run(async {
        let leases: Api<Lease> = Api::namespaced(client_by(&api.kubeconfig()).await, "egressd");
        let refused = "503 ServiceUnavailable: the server is currently unable to handle the request";
        assert_eq!(told(leases.get("exporter").await), refused);
        assert_eq!(told(leases.create(&PostParams::default(), &lease("exporter", "a")).await), refused);
        let all: Api<Lease> = Api::all(client_by(&api.kubeconfig()).await);
        assert_eq!(all.list(&ListParams::default()).await.unwrap().items, []);
    });
}
