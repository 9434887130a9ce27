//! The server's certificate and the authority that signed it, made for one server and forgotten with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::error::Error;
use crate::topology::CONTROL_ADDRESSES;

/// Names under which a real server is reached from inside and outside.
const NAMES: [&str; 3] = ["localhost", "kubernetes", "kubernetes.default.svc"];

#[derive(Debug)]
pub(super) struct Identity {
    /// The authority's certificate, PEM.
    pub(super) authority: String,
    pub(super) config: Arc<ServerConfig>,
}

impl Identity {
    pub(super) fn generate() -> Result<Self, Error> {
        let authority = authority().map_err(refused)?;
        let key = KeyPair::generate().map_err(refused)?;
        let certificate = certificate_params().signed_by(&key, &authority).map_err(refused)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                let chain = vec![certificate.der().clone()];
                builder.with_no_client_auth().with_single_cert(chain, key.into())
            })
            .map_err(refused)?;
        Ok(Self { authority: authority.pem(), config: Arc::new(config) })
    }
}

fn refused(error: impl std::error::Error) -> Error {
    Error::Malformed { what: "a certificate", found: error.to_string() }
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn certificate_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let addresses = loopback.into_iter().chain(CONTROL_ADDRESSES.both()).map(SanType::IpAddress);
    let names = NAMES.into_iter().filter_map(|name| Some(SanType::DnsName(name.try_into().ok()?)));
    params.subject_alt_names = addresses.chain(names).collect();
    params
}
