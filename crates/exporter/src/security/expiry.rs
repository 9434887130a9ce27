//! When a certificate expires.

use egressd_flow::UnixNanos;
use x509_parser::error::X509Error;
use x509_parser::parse_x509_certificate;

/// No certificate that is understood.
#[derive(Debug, thiserror::Error)]
#[error("the certificate cannot be read")]
pub(crate) struct NotRead(#[source] x509_parser::nom::Err<X509Error>);

/// The end of the time of a certificate in DER.
///
/// # Errors
/// It is not understood.
pub(crate) fn expiry(certificate: &[u8]) -> Result<UnixNanos, NotRead> {
    let (_, certificate) = parse_x509_certificate(certificate).map_err(NotRead)?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(UnixNanos(seconds.saturating_mul(1_000_000_000)))
}
