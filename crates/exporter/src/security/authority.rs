//! An authority of our own: a certificate that collectors trust and a key that signs what we show. Pure, but for chance.
//!
//! Invariant: no certificate that it signs outlives it.

use std::time::Duration;

use egressd_flow::UnixNanos;
use egressd_service::tls::{Certificate, PemError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::expiry::{NotRead, expiry};

const DAY: Duration = Duration::from_hours(24);
/// Another one is taken up without a loss, but nobody should have to think of it.
const AUTHORITY_LIVES: Duration = Duration::from_hours(24 * 3_650);
/// Whoever steals the key of a leaf has it for that long.
const LEAF_LIVES: Duration = Duration::from_hours(24 * 7);
/// A collector's clock may be behind by so much.
const CLOCK_BEHIND: Duration = Duration::from_hours(1);
/// How long before its end an authority is complained of.
const SAID_BEFORE: Duration = Duration::from_hours(24 * 90);

/// What an authority is kept as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Its certificate, in PEM.
    pub(crate) certificate: String,
    /// Its key, in PEM.
    pub(crate) key: String,
}

/// Who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) expires: UnixNanos,
}

/// A certificate to show, for a while.
pub(crate) struct Leaf {
    pub(crate) certificate: Certificate,
    pub(crate) renew_at: UnixNanos,
}

/// What is kept is no authority, or the library refuses. An operator must look.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("no certificate can be made")]
    Make(#[source] rcgen::Error),
    #[error("the authority's certificate and key cannot be read")]
    Key(#[source] rcgen::Error),
    #[error("the authority's certificate cannot be read")]
    Pem(#[source] pem::Error),
    #[error(transparent)]
    NotRead(#[from] NotRead),
    #[error("the authority has expired: delete its Secret, another is made then")]
    Expired,
    #[error("what the authority signed cannot be shown")]
    Leaf(#[source] PemError),
}

impl Kept {
    /// A new authority.
    pub(crate) fn make(now: UnixNanos) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "egressd");
        params.distinguished_name.push(DnType::CommonName, "egressd exporter's authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date(now.0.saturating_sub(nanos(CLOCK_BEHIND)));
        params.not_after = date(now.0.saturating_add(nanos(AUTHORITY_LIVES)));
        let certificate = params.self_signed(&key).map_err(AuthorityError::Make)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// What can sign.
    pub(crate) fn authority(&self) -> Result<Authority, AuthorityError> {
        let key = KeyPair::from_pem(&self.key).map_err(AuthorityError::Key)?;
        let certificate =
            CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(AuthorityError::Pem)?;
        let expires = expiry(&certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Key)?;
        Ok(Authority { issuer, expires })
    }
}

impl Authority {
    /// A certificate for `names` from now on, with a key of its own.
    pub(crate) fn certify(&self, names: &[String], now: UnixNanos) -> Result<Leaf, AuthorityError> {
        if self.expires <= now {
            return Err(AuthorityError::Expired);
        }
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let mut params = CertificateParams::new(names).map_err(AuthorityError::Make)?;
        params.distinguished_name.push(DnType::CommonName, "egressd-exporter");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let ends = now.saturating_add(LEAF_LIVES).min(self.expires);
        params.not_before = date(now.0.saturating_sub(nanos(CLOCK_BEHIND)));
        params.not_after = date(ends.0);
        let signed = params.signed_by(&key, &self.issuer).map_err(AuthorityError::Make)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let certificate =
            Certificate::new(vec![signed.der().clone()], key.into()).map_err(AuthorityError::Leaf)?;
        let renew_at = now.saturating_add(ends.since(now) / 3 * 2);
        Ok(Leaf { certificate, renew_at })
    }

    /// Days until it expires, when those are few.
    pub(crate) fn days_left(&self, now: UnixNanos) -> Option<u64> {
        let left = self.expires.since(now);
        (left < SAID_BEFORE).then(|| left.as_secs() / DAY.as_secs())
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

fn date(unix_nanos: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_nanos)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

    /// Goal: an authority is the same after it was kept; what it signs lasts a week, is renewed at two thirds, and never
    /// outlives it; its own end is said 90 days before.
    #[test]
    fn an_authority_signs_for_a_week_and_not_beyond_its_end() {
        let authority = Kept::make(NOW).unwrap().authority().unwrap();
        assert_eq!(authority.expires.since(NOW), AUTHORITY_LIVES);
        let names = ["egressd-exporter".to_owned(), "10.0.0.1".to_owned()];
        let leaf = authority.certify(&names, NOW).unwrap();
        assert_eq!(expiry(leaf.certificate.leaf()).unwrap().since(NOW), LEAF_LIVES);
        assert_eq!(leaf.renew_at.since(NOW), LEAF_LIVES / 3 * 2);
        assert_eq!(authority.days_left(NOW), None);

        let late = UnixNanos(authority.expires.0 - nanos(3 * DAY));
        let leaf = authority.certify(&names, late).unwrap();
        assert_eq!(expiry(leaf.certificate.leaf()).unwrap(), authority.expires);
        assert_eq!((leaf.renew_at.since(late), authority.days_left(late)), (2 * DAY, Some(3)));
        assert_eq!(authority.days_left(UnixNanos(u64::MAX)), Some(0));
        let expired = authority.certify(&names, authority.expires).err().unwrap();
        assert_eq!(expired.to_string(), "the authority has expired: delete its Secret, another is made then");
    }

    /// Goal: what is no authority is refused, and named.
    #[test]
    fn what_is_no_authority_is_refused() {
        let kept = Kept::make(NOW).unwrap();
        let words = |kept: Kept| kept.authority().err().unwrap().to_string();
        let without_key = Kept { key: String::new(), ..kept.clone() };
        assert_eq!(words(without_key), "the authority's certificate and key cannot be read");
        let without_certificate = Kept { certificate: String::new(), ..kept };
        assert_eq!(words(without_certificate), "the authority's certificate cannot be read");
    }
}
