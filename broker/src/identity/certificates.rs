//! The broker's own certificate authority, and the certificate that it shows to clients.

use std::{
    fmt,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flumen_protocol::ids::BrokerId;
use flumen_transport::tls::{self, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate};

use super::{
    IdentityError,
    files::{create_private_dir, read_private, write_private},
    name,
};
use crate::config::BrokerConfig;

const YEAR: Duration = Duration::from_hours(365 * 24);

/// How long the authority is valid.
const CA_YEARS: u32 = 20;

/// How long the broker's certificate is valid. It is issued anew at a start, never while the
/// broker runs, so that it must outlast the longest run.
const BROKER_YEARS: u32 = 10;

/// The broker's certificate is issued anew when it has less than this left.
const RENEW_BEFORE: Duration = Duration::from_secs(2 * YEAR.as_secs());

/// Clocks of other machines may be behind.
const BACKDATED: Duration = Duration::from_hours(24);

/// The authority and its key, the broker's certificate and its key.
const FILES: [&str; 4] = ["ca.pem", "ca.key", "broker.pem", "broker.key"];

/// PEM texts.
pub(super) struct Certificates {
    pub(super) ca_pem: String,
    /// Not there where another authority has signed the certificate.
    pub(super) ca_key: Option<String>,
    pub(super) broker_pem: String,
    pub(super) broker_key: String,
}

/// The key stays out of logs.
impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the certificates, and makes those that are missing, too old, or for other hosts
    /// than those of `config`. What is damaged is made anew where the authority can, and refused
    /// else.
    pub(super) fn load_or_issue(
        dir: &Path,
        broker: BrokerId,
        config: &BrokerConfig,
    ) -> Result<Self, IdentityError> {
        create_private_dir(dir)?;
        let [ca_path, ca_key_path, broker_path, broker_key_path] = FILES.map(|name| dir.join(name));
        let ca_pem = read_private(&ca_path)?;
        if let Some(pem) = &ca_pem {
            tls::certificate_der(pem).map_err(|error| not_as_on_all(&ca_path, &error))?;
        }
        let (ca_pem, ca_key) = match (ca_pem, read_private(&ca_key_path)?) {
            (Some(ca_pem), None) => {
                return Self::of_another_authority(dir, ca_pem);
            }
            (Some(ca_pem), Some(ca_key)) => {
                let ca_key =
                    parse_key(&ca_key).map_err(|error| not_as_on_all(&ca_key_path, &error))?;
                if !with_certificate(&ca_pem, |ca| is_of(ca, &ca_key)) {
                    return Err(not_as_on_all(&ca_key_path, &"it is not the key of ca.pem"));
                }
                (ca_pem, ca_key)
            }
            // The key is written first: a crash may have come between the two.
            (None, ca_key) => {
                let ca_key = match ca_key {
                    Some(text) => {
                        parse_key(&text).map_err(|error| not_as_on_all(&ca_key_path, &error))?
                    }
                    None => new_key(&ca_key_path)?,
                };
                let ca_pem = make_authority(&ca_key)?;
                write_private(&ca_path, ca_pem.as_bytes())?;
                (ca_pem, ca_key)
            }
        };

        let broker_key = key_or_new(&broker_key_path)?;
        let hosts = hosts(config);
        let broker_pem = match read_or_damaged(&broker_path)? {
            Some(pem) if is_current(&pem, &ca_pem, &broker_key, broker, &hosts) => pem,
            before => {
                if before.is_some() {
                    tracing::info!(
                        path = %broker_path.display(),
                        "not what it should be: the broker's certificate is issued anew"
                    );
                }
                let pem = issue(&ca_pem, &ca_key, &broker_key, broker, &hosts)?;
                write_private(&broker_path, pem.as_bytes())?;
                pem
            }
        };
        Ok(Self {
            ca_pem,
            ca_key: Some(ca_key.serialize_pem()),
            broker_pem,
            broker_key: broker_key.serialize_pem(),
        })
    }
}

impl Certificates {
    /// Certificates of another authority, which only that one can renew.
    fn of_another_authority(dir: &Path, ca_pem: String) -> Result<Self, IdentityError> {
        let [_, ca_key_path, broker_path, broker_key_path] = FILES.map(|name| dir.join(name));
        let broker_pem = read_private(&broker_path)?;
        let broker_key = read_private(&broker_key_path)?;
        let (Some(broker_pem), Some(broker_key)) = (broker_pem, broker_key) else {
            return Err(IdentityError::Damaged {
                path: ca_key_path,
                reason: "ca.pem is there but its key is not; put ca.key back, or give \
                         broker.pem and broker.key that this authority signed"
                    .to_owned(),
            });
        };
        let damaged = |path: &Path, what: &str, error: &TlsError| IdentityError::Damaged {
            path: path.to_owned(),
            reason: format!("{what}: {error}; put it back from a backup"),
        };
        check_signed(&ca_pem, &broker_pem)
            .map_err(|error| damaged(&broker_path, "it is not one of ca.pem", &error))?;
        let identity = tls::Identity {
            cert_pem: &broker_pem,
            key_pem: &broker_key,
        };
        tls::server_config(identity, &ca_pem, &[]).map_err(|error| {
            damaged(&broker_key_path, "it is not the key of broker.pem", &error)
        })?;
        Ok(Self {
            ca_pem,
            ca_key: None,
            broker_pem,
            broker_key,
        })
    }

    /// SHA-256 of the authority's certificate, if the authority is the cluster's own.
    pub(super) fn own_authority(&self) -> Option<[u8; 32]> {
        let der = tls::certificate_der(&self.ca_pem).ok()?;
        self.ca_key.is_some().then(|| tls::fingerprint(&der))
    }

    /// A certificate for another broker, by its public key (DER).
    pub(super) fn issue_for(
        &self,
        broker: BrokerId,
        public_key: &[u8],
        hosts: &[String],
    ) -> Result<String, IdentityError> {
        let Some(ca_key) = &self.ca_key else {
            return Err(IdentityError::Issue(
                "this cluster's authority is another one, whose key is not here; let that one \
                 sign the certificate of the new broker"
                    .to_owned(),
            ));
        };
        let ca_key = KeyPair::from_pem(ca_key).map_err(not_issued)?;
        let public_key = SubjectPublicKeyInfo::from_der(public_key).map_err(not_issued)?;
        issue(&self.ca_pem, &ca_key, &public_key, broker, hosts)
    }
}

/// The private key of a broker that has no certificate yet.
pub(super) struct BrokerKey(KeyPair);

impl BrokerKey {
    pub(super) fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

/// The key in `dir`, made if there is none that can be used.
pub(super) fn load_or_make_key(dir: &Path) -> Result<BrokerKey, IdentityError> {
    create_private_dir(dir)?;
    key_or_new(&dir.join("broker.key")).map(BrokerKey)
}

/// A broker's key. Nobody knows a broker by it, so that a new one serves as well.
fn key_or_new(path: &Path) -> Result<KeyPair, IdentityError> {
    let Some(text) = read_or_damaged(path)? else {
        return new_key(path);
    };
    parse_key(&text).or_else(|error| {
        tracing::warn!(path = %path.display(), error, "damaged: a new key is made in its place");
        new_key(path)
    })
}

/// As [`read_private`], with an empty text for what is none.
fn read_or_damaged(path: &Path) -> Result<Option<String>, IdentityError> {
    match read_private(path) {
        Err(IdentityError::Damaged { .. }) => Ok(Some(String::new())),
        read => read,
    }
}

/// The error about a file that is the same on all brokers.
fn not_as_on_all(path: &Path, what: &dyn ToString) -> IdentityError {
    IdentityError::Damaged {
        path: path.to_owned(),
        reason: format!(
            "{}; put ca.pem and ca.key back from a backup, or from another broker of the cluster",
            what.to_string()
        ),
    }
}

/// The names and addresses by which clients reach the broker.
pub(super) fn hosts(config: &BrokerConfig) -> Vec<String> {
    let mut hosts = ["localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec();
    let listen = config.listen.ip();
    if !listen.is_unspecified() {
        hosts.push(listen.to_string());
    }
    if let Some(advertise) = &config.advertise {
        hosts.push(advertise.host().to_owned());
    }
    hosts.sort();
    hosts.dedup();
    hosts
}

fn make_authority(key: &KeyPair) -> Result<String, IdentityError> {
    let mut params = CertificateParams::default();
    // A name of its own, so that a certificate of one authority is never tried on another.
    let name = format!("Flumen authority {:08x}", rand::random::<u32>());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, CA_YEARS);
    Ok(params.self_signed(key).map_err(not_issued)?.pem())
}

fn issue(
    ca_pem: &str,
    ca_key: &KeyPair,
    broker_key: &impl PublicKeyData,
    broker: BrokerId,
    hosts: &[String],
) -> Result<String, IdentityError> {
    let mut params = CertificateParams::new(hosts).map_err(not_issued)?;
    let uri = name::uri_of(broker).try_into().map_err(not_issued)?;
    params.subject_alt_names.push(SanType::URI(uri));
    params
        .distinguished_name
        .push(DnType::CommonName, "Flumen broker");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A broker is a client of the others.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, BROKER_YEARS);
    // Read as everywhere: readers of PEM differ in what they make of a damaged text.
    let ca = tls::certificate_der(ca_pem).map_err(not_issued)?;
    let issuer = Issuer::from_ca_cert_der(&ca.into(), ca_key).map_err(not_issued)?;
    let certificate = params.signed_by(broker_key, &issuer).map_err(not_issued)?;
    Ok(certificate.pem())
}

fn set_validity(params: &mut CertificateParams, years: u32) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + YEAR * years).into();
}

/// Whether a broker's certificate is for this broker, key and hosts, of this authority, good
/// towards clients and brokers, and valid for long enough.
fn is_current(pem: &str, ca_pem: &str, key: &KeyPair, broker: BrokerId, hosts: &[String]) -> bool {
    with_certificate(pem, |certificate| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let renew_at = (now + RENEW_BEFORE).as_secs() as i64;
        certificate.validity().not_after.timestamp() > renew_at
            && is_of(certificate, key)
            && name::broker_in(certificate) == Some(broker)
            && is_for_clients_and_brokers(certificate)
            && hosts.iter().all(|host| is_for(certificate, host))
    }) && check_signed(ca_pem, pem).is_ok()
}

/// Whether the authority has signed it. That it is too old is another matter; what lies between it
/// and the authority may be younger than it is.
fn check_signed(ca_pem: &str, pem: &str) -> Result<(), TlsError> {
    let mut from = 0;
    with_certificate(pem, |certificate| {
        from = certificate.validity().not_before.timestamp();
        true
    });
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    tls::check_signed(ca_pem, pem, now.as_secs())
        .or_else(|_| tls::check_signed(ca_pem, pem, u64::try_from(from).unwrap_or_default()))
}

/// The broker that a certificate names, if it can be read.
pub(super) fn broker_named(pem: &str) -> Option<BrokerId> {
    let mut named = None;
    with_certificate(pem, |certificate| {
        named = name::broker_in(certificate);
        true
    });
    named
}

/// Checks a certificate; one that cannot be read passes no check.
fn with_certificate(pem: &str, check: impl FnOnce(&X509Certificate<'_>) -> bool) -> bool {
    let Ok(der) = tls::certificate_der(pem) else {
        return false;
    };
    parse_x509_certificate(&der).is_ok_and(|(_, certificate)| check(&certificate))
}

fn is_of(certificate: &X509Certificate<'_>, key: &KeyPair) -> bool {
    certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
}

fn is_for_clients_and_brokers(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.extended_key_usage();
    matches!(usage, Ok(Some(usage)) if usage.value.server_auth && usage.value.client_auth)
}

fn is_for(certificate: &X509Certificate<'_>, host: &str) -> bool {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return false;
    };
    let address = match host.parse() {
        Ok(IpAddr::V4(address)) => address.octets().to_vec(),
        Ok(IpAddr::V6(address)) => address.octets().to_vec(),
        Err(_) => Vec::new(),
    };
    names.value.general_names.iter().any(|name| match name {
        GeneralName::DNSName(name) => *name == host,
        GeneralName::IPAddress(bytes) => *bytes == address,
        _ => false,
    })
}

fn new_key(path: &Path) -> Result<KeyPair, IdentityError> {
    let key = KeyPair::generate().map_err(not_issued)?;
    write_private(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

fn parse_key(pem: &str) -> Result<KeyPair, String> {
    KeyPair::from_pem(pem)
        .map_err(|error| format!("it holds no private key that can be used: {error}"))
}

fn not_issued(error: impl ToString) -> IdentityError {
    IdentityError::Issue(error.to_string())
}
