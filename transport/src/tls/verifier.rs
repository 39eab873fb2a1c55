//! How a connection to a broker checks who answers, where the name of the host says nothing: by
//! what its certificate says of the broker, or by the fingerprint of its authority.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// What a broker's certificate (DER), signed by the authority, must say; the error says what is
/// wrong with it.
pub type CertificateCheck = Arc<dyn Fn(&[u8]) -> Result<(), String> + Send + Sync>;

/// SHA-256 of an authority's certificate (DER).
pub fn fingerprint(certificate: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, certificate);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

/// Whom to trust.
pub(super) enum Trust {
    /// Certificates of these authorities that pass the check.
    Named(RootCertStore, CertificateCheck),
    /// Certificates of the authority that comes last in the chain and has this fingerprint.
    Fingerprint([u8; 32]),
}

/// Verifies a chain without regard to the name of the host.
pub(super) struct BrokerVerifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

impl BrokerVerifier {
    pub(super) fn new(trust: Trust, provider: &CryptoProvider) -> Self {
        Self {
            trust,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn verify_chain(
        &self,
        certificate: &CertificateDer<'_>,
        roots: &RootCertStore,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(certificate)?,
            roots,
            between,
            now,
            self.algorithms.all,
        )
    }
}

impl ServerCertVerifier for BrokerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.trust {
            Trust::Named(roots, check) => {
                self.verify_chain(certificate, roots, between, now)?;
                check(certificate).map_err(Error::General)?;
            }
            Trust::Fingerprint(expected) => {
                let authority = between
                    .iter()
                    .find(|authority| fingerprint(authority) == *expected)
                    .ok_or(CertificateError::UnknownIssuer)?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                self.verify_chain(certificate, &roots, &[], now)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for BrokerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerVerifier").finish_non_exhaustive()
    }
}
