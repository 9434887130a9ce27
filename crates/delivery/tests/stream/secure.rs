//! Both halves over TLS: whom a collector trusts, what it says of whom it does not, and certificates that change.

use std::fs;
use std::path::PathBuf;

use egressd_delivery::dial::Security;
use egressd_flow::Sequence;
use egressd_service::tls::{Certificate, Shown};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::halves::{Collector, Exporter};

const DIALS: &str = "egressd_collector_window_dials_total";
const SERVICE: &str = "egressd-exporter";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn certificate(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Certificate::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
    }

    fn good(&self) -> Certificate {
        self.certificate(SERVICE, |_| {})
    }
}

/// A collector's directory, and what it trusts.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn ca_file(&self) -> PathBuf {
        self.0.path().join("ca.crt")
    }

    fn trusting(authority: &Authority) -> Self {
        let mounted = Self::new();
        mounted.trust(authority);
        mounted
    }

    fn trust(&self, authority: &Authority) {
        fs::write(self.ca_file(), authority.0.pem()).unwrap();
    }

    fn security(&self) -> Security {
        Security::Tls { ca_file: self.ca_file(), server_name: SERVICE.to_owned(), token_file: None }
    }
}

fn showing(certificate: Certificate) -> Shown {
    let shown = Shown::default();
    shown.show(certificate);
    shown
}

fn failures(reason: &str) -> String {
    format!("egressd_collector_window_dial_failures_total{{reason=\"{reason}\"}}")
}

fn handshakes(reason: &str) -> String {
    format!("egressd_exporter_ledger_refused_handshakes_total{{reason=\"{reason}\"}}")
}

/// Goal: another certificate is shown to whoever dials next, and a stream that is open does not notice.
#[tokio::test]
async fn a_certificate_changes_under_an_open_stream() {
    let (old, new) = (Authority::new(), Authority::new());
    let shown = showing(old.good());
    let mut exporter = Exporter::start_secure(1, &shown).await;
    let (first, second) = (Mounted::trusting(&old), Mounted::trusting(&new));
    let collector = Collector::start_with(exporter.address, first.security());
    collector.cut(1..=1).await;
    assert_eq!(exporter.take().await, Sequence(1));
    shown.show(new.good());
    collector.cut(2..=2).await;
    assert_eq!(exporter.take().await, Sequence(2));
    assert_eq!(collector.metric(DIALS), 1);
    exporter.deliver();
    collector.finish().await;

    let later = Collector::start_with(exporter.address, second.security());
    later.until(DIALS, 1).await;
    later.abandon.cancel();
    exporter.stop().await;
}

/// Goal: whom a collector does not trust it does not greet, and both ends count why.
#[tokio::test]
async fn who_cannot_be_trusted_is_told_apart() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2001, 1, 1);
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(3000, 1, 1);
    for (certificate, reason) in [
        (theirs.good(), "untrusted"),
        (ours.certificate(SERVICE, expired), "expired"),
        (ours.certificate(SERVICE, early), "expired"),
        (ours.certificate("other", |_| {}), "other_name"),
    ] {
        let mut exporter = Exporter::start_secure(1, &showing(certificate)).await;
        let mounted = Mounted::trusting(&ours);
        let collector = Collector::start_with(exporter.address, mounted.security());
        collector.cut(1..=1).await;
        collector.until(&failures(reason), 2).await;
        exporter.until_at_least(&handshakes("distrusted"), 2).await;
        assert!(exporter.takings.try_recv().is_err() && collector.metric(DIALS) == 0, "{reason}");
        collector.abandon.cancel();
        exporter.stop().await;
    }
}

/// Goal: plain text against TLS, either way, is called by its name.
#[tokio::test]
async fn plain_text_against_tls_is_called_so() {
    let ours = Authority::new();
    let secure = Exporter::start_secure(1, &showing(ours.good())).await;
    let collector = Collector::start(secure.address);
    collector.until(&failures("tls_wanted"), 2).await;
    secure.until_at_least(&handshakes("plain_text"), 2).await;
    collector.abandon.cancel();
    secure.stop().await;

    let plain = Exporter::start(1).await;
    let mounted = Mounted::trusting(&ours);
    let collector = Collector::start_with(plain.address, mounted.security());
    collector.until(&failures("plain_text"), 2).await;
    collector.abandon.cancel();
    plain.stop().await;
}

/// Goal: a CA file that is not there yet, holds nothing, or another CA is read again at each dial, until it is right.
#[tokio::test]
async fn a_ca_file_is_waited_for() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut exporter = Exporter::start_secure(1, &showing(ours.good())).await;
    let mounted = Mounted::new();
    let collector = Collector::start_with(exporter.address, mounted.security());
    collector.cut(1..=1).await;
    collector.until(&failures("no_authority"), 1).await;
    fs::write(mounted.ca_file(), "none").unwrap();
    collector.until(&failures("no_authority"), 3).await;
    mounted.trust(&theirs);
    collector.until(&failures("untrusted"), 1).await;
    mounted.trust(&ours);
    assert_eq!(exporter.take().await, Sequence(1));
    exporter.deliver();
    collector.finish().await;
    exporter.stop().await;
}

/// Goal: a collector that is sent on to an address asks there for the name of the Service, and for no other.
#[tokio::test]
async fn who_is_sent_on_asks_for_the_services_name() {
    let ours = Authority::new();
    let shown = showing(ours.good());
    let (standby, mut leader) =
        (Exporter::start_secure(1, &shown).await, Exporter::start_secure(2, &shown).await);
    let by_address = showing(ours.certificate("127.0.0.1", |_| {}));
    let other = Exporter::start_secure(3, &by_address).await;
    standby.stand_by(Some(other.address));
    let mounted = Mounted::trusting(&ours);
    let collector = Collector::start_with(standby.address, mounted.security());
    collector.cut(1..=1).await;
    collector.until(&failures("other_name"), 1).await;
    standby.stand_by(Some(leader.address));
    assert_eq!(leader.take().await, Sequence(1));
    leader.deliver();
    collector.finish().await;
    leader.stop().await;
}

/// Goal: whoever connects and says nothing keeps nobody out.
#[tokio::test]
async fn peers_that_are_silent_keep_nobody_out() {
    let ours = Authority::new();
    let shown = showing(ours.good());
    let mut exporter = Exporter::start_secure(1, &shown).await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(tokio::net::TcpStream::connect(exporter.address).await.unwrap());
    }
    let mounted = Mounted::trusting(&ours);
    let collector = Collector::start_with(exporter.address, mounted.security());
    collector.cut(1..=1).await;
    assert_eq!(exporter.take().await, Sequence(1));
    exporter.deliver();
    collector.finish().await;
    drop(silent);
    exporter.stop().await;
}

/// Goal: an address where nobody listens is no fault of TLS.
#[tokio::test]
async fn nobody_is_no_fault_of_tls() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mounted = Mounted::trusting(&Authority::new());
    let collector = Collector::start_with(nobody, mounted.security());
    collector.until(&failures("unreachable"), 2).await;
    collector.abandon.cancel();
}
