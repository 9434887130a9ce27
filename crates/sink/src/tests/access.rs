//! Who a sink says it is and whom it trusts, over real sockets and with files that change.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use egressd_service::tls::Fault;
use prometheus_client::registry::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::driver::metric;
use super::failures::Log;
use super::push::install_provider;
use super::receiver::Receiver;
use super::*;
use crate::cause::Cause;
use crate::client::{Answer, Endpoint};
use crate::config::SinkConfig;
use crate::driver::{Prepared, Sink, check, run, system_clock};
use crate::metrics::SinkMetrics;

const RECORD: &str = "web/app@n1/a 10.0.0.1 > pg/db@n2/b 10.0.1.2 tcp tx=10/1";

fn config(yaml: &str) -> SinkConfig {
    let raw = serde_saphyr::from_str(yaml).unwrap();
    let environment = |name: &str| (name == "TOKEN").then(|| "from the environment".to_owned());
    SinkConfig::new("test", raw, Some(Duration::from_millis(10)), &environment).unwrap()
}

fn endpoint(yaml: &str) -> Endpoint {
    install_provider();
    Prepared::new(config(yaml)).unwrap().into_endpoint()
}

async fn send(endpoint: &Endpoint) -> Answer {
    endpoint.send(Bytes::from_static(b"body"), seconds(1)).await
}

/// Goal: each way to authenticate is what its standard says, from the file, the environment or a secret's file, for
/// both kinds.
#[tokio::test]
async fn each_way_to_authenticate_is_on_the_wire() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("secret");
    fs::write(&file, "from a file\n").unwrap();
    let file = file.display();
    for (keys, expected) in [
        ("basicAuth: { username: Aladdin, password: 'open sesame' }", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        (
            &format!("basicAuth: {{ username: Aladdin, passwordFile: '{file}' }}"),
            "Basic QWxhZGRpbjpmcm9tIGEgZmlsZQ==",
        ),
        ("bearerToken: '${TOKEN}'", "Bearer from the environment"),
        (&format!("bearerTokenFile: '{file}'"), "Bearer from a file"),
        ("headers: { Authorization: 'Api-Key ${TOKEN}' }", "Api-Key from the environment"),
    ] {
        let receiver = Receiver::start("127.0.0.1:0", &[]).await;
        for kind in ["http", "prom_remote_write"] {
            let yaml = format!("{kind}: {{ url: 'http://{}/', {keys} }}", receiver.address);
            let answer = send(&endpoint(&yaml)).await;
            assert!(matches!(answer, Answer::Accepted), "{answer:?}");
        }
        let said: Vec<_> =
            receiver.requests().iter().map(|request| request.headers["authorization"].clone()).collect();
        assert_eq!(said, [expected, expected]);
    }
}

/// Goal: a token that rotates is used from the next attempt on; one that cannot be read leaves the old one, counted and
/// complained of once.
#[tokio::test]
async fn rotated_token_is_used_from_the_next_attempt() {
    install_provider();
    let (log, _guard) = Log::begin();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("token");
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    let yaml =
        format!("http: {{ url: 'http://{}/', bearerTokenFile: '{}' }}", receiver.address, file.display());
    fs::write(&file, "one").unwrap();
    let mut registry = Registry::default();
    let metrics = SinkMetrics::register(&mut registry);
    let (sink, _controls) = Sink::new(config(&yaml), &metrics, system_clock()).unwrap();
    let (batches, received) = mpsc::channel(1);
    let (accepted, mut position) = watch::channel(Position::default());
    let sink = run(sink, received, accepted, None, CancellationToken::new());
    let rotate = async {
        let steps: [&dyn Fn(); 4] =
            [&|| (), &|| fs::write(&file, "two\n").unwrap(), &|| fs::write(&file, " \n").unwrap(), &|| {
                fs::remove_file(&file).unwrap();
            }];
        for (at, step) in (1..).zip(steps) {
            step();
            batches.send(Arc::new(batch(at, &[RECORD]))).await.unwrap();
            position.wait_for(|position| *position == Position(at)).await.unwrap();
        }
        drop(batches);
    };
    tokio::join!(sink, rotate);
    let said: Vec<_> =
        receiver.requests().iter().map(|request| request.headers["authorization"].clone()).collect();
    assert_eq!(said, ["Bearer one", "Bearer two", "Bearer two", "Bearer two"]);
    assert_eq!(metric(&registry, "egressd_exporter_sink_unread_files_total"), 2);
    assert_eq!(
        log.lines("WARN"),
        [format!(
            " cannot renew what this sink authenticates with, it keeps the old sink=\"test\" \
             error=\"{}, of bearerTokenFile, is empty\" withheld=0",
            file.display()
        )]
    );
}

/// Goal: files that cannot be used are each refused when the sink is made, in words that name key and file and show
/// nothing of them.
#[test]
fn unusable_files_are_refused_at_the_start() {
    install_provider();
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (certificate, key) = Authority::new("one").signed("a");
    for (name, text) in
        [("text", "k3y"), ("cert", &*certificate), ("key", &*key), ("lines", "a\nk3y"), ("blank", "\n")]
    {
        fs::write(at(name), text).unwrap();
    }
    fs::write(at("large"), vec![b'a'; (1 << 20) + 1]).unwrap();
    let other = Authority::new("one").signed("b").1;
    fs::write(at("other"), other).unwrap();
    for (keys, expected) in [
        (
            "bearerTokenFile: D/none",
            "cannot read D/none, of bearerTokenFile: No such file or directory (os error 2)",
        ),
        ("bearerTokenFile: D/", "cannot read D/, of bearerTokenFile: it is no regular file"),
        ("bearerTokenFile: D/large", "D/large, of bearerTokenFile, is larger than 1048576 bytes"),
        ("bearerTokenFile: D/lines", "D/lines, of bearerTokenFile, is no text that a header can hold"),
        ("basicAuth: { username: u, passwordFile: D/blank }", "D/blank, of basicAuth.passwordFile, is empty"),
        ("tls: { caFile: D/text }", "D/text, of tls.caFile, holds no certificate in PEM"),
        (
            "tls: { certFile: D/cert, keyFile: D/text }",
            "D/cert, of tls.certFile, and D/text, of tls.keyFile, are no certificate and key in PEM: builder error: \
             unexpected error: private key or certificate not found",
        ),
        (
            "tls: { certFile: D/cert, keyFile: D/other }",
            "cannot build the HTTP client: builder error: keys may not be consistent: KeyMismatch",
        ),
    ] {
        let place = directory.path().display().to_string();
        let yaml = format!("prom_remote_write: {{ url: 'https://x/', {} }}", keys.replace('D', &place));
        let error = check(&config(&yaml)).unwrap_err();
        let said = egressd_service::lifecycle::chain(&error);
        assert_eq!(said, expected.replace("D/", &format!("{place}/")), "{keys}");
    }
}

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a host and its key, both PEM.
    fn signed(&self, host: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A server of 127.0.0.1 that shows a certificate of this authority, and asks clients for one of `clients`.
    fn server(&self, clients: Option<&Self>) -> ServerConfig {
        install_provider();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        builder.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap()
    }
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

async fn cause(endpoint: &Endpoint) -> (Cause, String) {
    let answer = send(endpoint).await;
    match &answer {
        Answer::Failed(error) => (Cause::of(error), format!("{:?}", answer.outcome())),
        other => panic!("{other:?}"),
    }
}

/// Goal: with an authority of its own a sink trusts that one and no other, and follows its file to the next one.
#[tokio::test]
async fn authorities_are_those_of_the_file() {
    let directory = TempDir::new().unwrap();
    let (old, new) = (Authority::new("one"), Authority::new("other"));
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    receiver.present(old.server(None));
    let ca = write(directory.path(), "ca.pem", &old.0.pem());
    let url = format!("url: 'https://{}/'", receiver.address);
    let untrusting = endpoint(&format!("http: {{ {url} }}"));
    assert_eq!(cause(&untrusting).await, (Cause::Tls(Fault::Untrusted), "not_connected".to_owned()));
    let mut endpoint = endpoint(&format!("http: {{ {url}, tls: {{ caFile: '{}' }} }}", ca.display()));
    assert!(matches!(send(&endpoint).await, Answer::Accepted));

    receiver.present(new.server(None));
    write(directory.path(), "ca.pem", "half a fi");
    assert!(endpoint.refresh().is_err());
    assert!(matches!(send(&endpoint).await, Answer::Accepted), "by the connection that is there");
    write(directory.path(), "ca.pem", &new.0.pem());
    endpoint.refresh().unwrap();
    assert!(matches!(send(&endpoint).await, Answer::Accepted));
    assert_eq!(receiver.requests().len(), 3);
}

/// Goal: a server that asks for a client certificate is shown that of the files, also after they were renewed; without
/// one, or with one that it does not trust, nothing is taken to be sent, and the words say what to do.
#[tokio::test]
async fn client_certificates_are_shown() {
    let directory = TempDir::new().unwrap();
    let (servers, clients, others) =
        (Authority::new("servers"), Authority::new("clients"), Authority::new("others"));
    let receiver = Receiver::start("127.0.0.1:0", &[]).await;
    receiver.present(servers.server(Some(&clients)));
    let ca = write(directory.path(), "ca.pem", &servers.0.pem());
    let (certificate, key) = others.signed("sink");
    let files = [write(directory.path(), "cert.pem", &certificate), write(directory.path(), "key.pem", &key)];
    let yaml = |tls: &str| {
        let (address, ca) = (receiver.address, ca.display());
        format!("prom_remote_write: {{ url: 'https://{address}/', tls: {{ caFile: '{ca}' {tls} }} }}")
    };
    let refused = |alert: &str| {
        (Cause::Tls(Fault::ClientCertificate { alert: alert.to_owned() }), "not_connected".to_owned())
    };
    assert_eq!(cause(&endpoint(&yaml(""))).await, refused("CertificateRequired"));
    let [cert, key] = files.each_ref().map(|file| file.display());
    let mut endpoint = endpoint(&yaml(&format!(", certFile: '{cert}', keyFile: '{key}'")));
    assert_eq!(cause(&endpoint).await, refused("UnknownCA"));

    let (certificate, key) = clients.signed("sink");
    write(directory.path(), "cert.pem", &certificate);
    assert!(endpoint.refresh().is_err(), "a new certificate with the old key");
    write(directory.path(), "key.pem", &key);
    endpoint.refresh().unwrap();
    assert!(matches!(send(&endpoint).await, Answer::Accepted));
    assert_eq!(receiver.requests().len(), 1);
}
