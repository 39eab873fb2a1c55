//! The broker's own certificate authority, and the certificate that it shows to clients.

use std::{
    fmt,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flumen_protocol::ids::BrokerId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SubjectPublicKeyInfo,
};
use x509_parser::{
    extensions::GeneralName, parse_x509_certificate, pem::parse_x509_pem, prelude::X509Certificate,
};

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
    /// than those of `config`.
    pub(super) fn load_or_issue(
        dir: &Path,
        broker: BrokerId,
        config: &BrokerConfig,
    ) -> Result<Self, IdentityError> {
        create_private_dir(dir)?;
        let [ca_path, ca_key_path, broker_path, broker_key_path] =
            ["ca.pem", "ca.key", "broker.pem", "broker.key"].map(|name| dir.join(name));
        let ca_pem = read_private(&ca_path)?;
        let ca_key = read_private(&ca_key_path)?;
        let broker_pem = read_private(&broker_path)?;
        let broker_key = read_private(&broker_key_path)?;
        let hosts = hosts(config);

        let (ca_pem, ca_key) = match (ca_pem, ca_key, broker_pem.clone(), broker_key.clone()) {
            // Certificates of another authority, which only that one can renew.
            (Some(ca_pem), None, Some(broker_pem), Some(broker_key)) => {
                return Ok(Self {
                    ca_pem,
                    ca_key: None,
                    broker_pem,
                    broker_key,
                });
            }
            (Some(_), None, ..) => {
                return Err(IdentityError::Damaged {
                    path: ca_key_path,
                    reason: "ca.pem is there but its key is not; put ca.key back, or give \
                             broker.pem and broker.key that this authority signed"
                        .to_owned(),
                });
            }
            (Some(ca_pem), Some(ca_key), ..) => (ca_pem, parse_key(&ca_key_path, &ca_key)?),
            // The key is written first: a crash may have come between the two.
            (None, ca_key, ..) => {
                let ca_key = match ca_key {
                    Some(text) => parse_key(&ca_key_path, &text)?,
                    None => new_key(&ca_key_path)?,
                };
                let ca_pem = make_authority(&ca_key)?;
                write_private(&ca_path, ca_pem.as_bytes())?;
                (ca_pem, ca_key)
            }
        };

        let broker_key = match broker_key {
            Some(text) => parse_key(&broker_key_path, &text)?,
            None => new_key(&broker_key_path)?,
        };
        let broker_pem = match broker_pem {
            Some(pem) if is_current(&pem, &ca_pem, &broker_key, broker, &hosts) => pem,
            _ => {
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

/// The key in `dir`, made if there is none.
pub(super) fn load_or_make_key(dir: &Path) -> Result<BrokerKey, IdentityError> {
    create_private_dir(dir)?;
    let path = dir.join("broker.key");
    let key = match read_private(&path)? {
        Some(text) => parse_key(&path, &text)?,
        None => new_key(&path)?,
    };
    Ok(BrokerKey(key))
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
    let issuer = Issuer::from_ca_cert_pem(ca_pem, ca_key).map_err(not_issued)?;
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
    let with_certificate = |pem: &str, check: &dyn Fn(&X509Certificate<'_>) -> bool| {
        let Ok((_, pem)) = parse_x509_pem(pem.as_bytes()) else {
            return false;
        };
        parse_x509_certificate(&pem.contents).is_ok_and(|(_, certificate)| check(&certificate))
    };
    with_certificate(pem, &|certificate| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let renew_at = (now + RENEW_BEFORE).as_secs() as i64;
        let of_authority = with_certificate(ca_pem, &|ca| {
            ca.subject().as_raw() == certificate.issuer().as_raw()
        });
        let of_key =
            certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw();
        certificate.validity().not_after.timestamp() > renew_at
            && of_authority
            && of_key
            && name::broker_in(certificate) == Some(broker)
            && is_for_clients_and_brokers(certificate)
            && hosts.iter().all(|host| is_for(certificate, host))
    })
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

fn parse_key(path: &Path, pem: &str) -> Result<KeyPair, IdentityError> {
    KeyPair::from_pem(pem).map_err(|error| IdentityError::Damaged {
        path: path.to_owned(),
        reason: format!("it holds no private key that can be used: {error}"),
    })
}

fn not_issued(error: rcgen::Error) -> IdentityError {
    IdentityError::Issue(error.to_string())
}
