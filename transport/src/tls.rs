//! TLS 1.3 for clients and brokers. There is no way to turn it off.

mod verifier;

use std::{sync::Arc, time::Duration};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    RootCertStore,
    client::{WantsClientCert, verify_server_cert_signed_by_trust_anchor},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};

use self::verifier::{BrokerVerifier, Trust};
pub use self::verifier::{CertificateCheck, fingerprint};

/// A certificate chain and its private key, as PEM texts.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate, and those between it and the authority.
    pub cert_pem: &'a str,
    /// The private key.
    pub key_pem: &'a str,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM text holds no such item, or a damaged one.
    #[error("{what} cannot be read as PEM: {reason}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The parts do not fit each other.
    #[error("the certificates cannot be used: {0}")]
    Invalid(String),
}

/// TLS of a client: trusts `ca_pem` alone and speaks `alpn`.
pub fn client_config(
    ca_pem: &str,
    identity: Option<Identity<'_>>,
    alpn: &[u8],
) -> Result<QuicClientConfig, TlsError> {
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid)?
        .with_root_certificates(roots(ca_pem)?);
    let mut config = match identity {
        Some(identity) => {
            let (certs, key) = parse(identity)?;
            builder.with_client_auth_cert(certs, key).map_err(invalid)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    QuicClientConfig::try_from(config).map_err(invalid)
}

/// TLS of a broker towards another: shows `identity`, and goes on with a broker of the authority
/// `ca_pem` whose certificate passes the check, whatever its host is called.
pub fn peer_config(
    ca_pem: &str,
    identity: Identity<'_>,
    alpn: &[u8],
    check: CertificateCheck,
) -> Result<QuicClientConfig, TlsError> {
    let (certs, key) = parse(identity)?;
    let mut config = verified_by(Trust::Named(roots(ca_pem)?, check))?
        .with_client_auth_cert(certs, key)
        .map_err(invalid)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    QuicClientConfig::try_from(config).map_err(invalid)
}

/// TLS of a broker that joins a cluster: all that it knows is the fingerprint of the authority,
/// whose certificate the other side must show behind its own.
pub fn joiner_config(
    authority_fingerprint: [u8; 32],
    alpn: &[u8],
) -> Result<QuicClientConfig, TlsError> {
    let mut config = verified_by(Trust::Fingerprint(authority_fingerprint))?.with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    QuicClientConfig::try_from(config).map_err(invalid)
}

/// The first certificate of a PEM text (DER).
pub fn certificate_der(pem: &str) -> Result<Vec<u8>, TlsError> {
    let certificates = certificates("the certificate", pem)?;
    Ok(certificates
        .into_iter()
        .next()
        .map_or_else(Vec::new, |first| first.to_vec()))
}

/// Whether the authority `ca_pem` has signed the first certificate of `cert_pem`, if need be by way of
/// the others, for a time in seconds since the epoch.
pub fn check_signed(ca_pem: &str, cert_pem: &str, at_seconds: u64) -> Result<(), TlsError> {
    let certs = certificates("the certificate", cert_pem)?;
    let (first, between) = certs.split_first().expect("there is at least one");
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(first).map_err(invalid)?,
        &roots(ca_pem)?,
        between,
        UnixTime::since_unix_epoch(Duration::from_secs(at_seconds)),
        provider().signature_verification_algorithms.all,
    )
    .map_err(invalid)
}

fn verified_by(
    trust: Trust,
) -> Result<rustls::ConfigBuilder<rustls::ClientConfig, WantsClientCert>, TlsError> {
    let verifier = BrokerVerifier::new(trust, &provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

/// TLS of a broker: shows `identity`, and accepts clients that show a certificate of
/// `client_ca_pem` as well as clients that show none and must authenticate otherwise.
pub fn server_config(
    identity: Identity<'_>,
    client_ca_pem: &str,
    alpns: &[&[u8]],
) -> Result<QuicServerConfig, TlsError> {
    let (certs, key) = parse(identity)?;
    let clients = roots(client_ca_pem)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider())
        .allow_unauthenticated()
        .build()
        .map_err(invalid)?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(invalid)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs, key)
        .map_err(invalid)?;
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    QuicServerConfig::try_from(config).map_err(invalid)
}

/// AES-128-GCM first: as safe here as AES-256 and a fifth cheaper.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

fn roots(ca_pem: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for cert in certificates("the authority's certificate", ca_pem)? {
        roots.add(cert).map_err(invalid)?;
    }
    Ok(roots)
}

type CertAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn parse(identity: Identity<'_>) -> Result<CertAndKey, TlsError> {
    let certs = certificates("the certificate", identity.cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|error| {
        TlsError::Pem {
            what: "the private key",
            reason: error.to_string(),
        }
    })?;
    Ok((certs, key))
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |reason: String| TlsError::Pem { what, reason };
    let certs = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    if certs.is_empty() {
        return Err(failed("it holds no certificate".to_owned()));
    }
    Ok(certs)
}

fn invalid(error: impl ToString) -> TlsError {
    TlsError::Invalid(error.to_string())
}
