//! Certificates for a simulation: Ed25519, so that every signature has the same length and with it
//! every packet of a handshake.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SerialNumber, date_time_ymd,
};

/// Addresses of brokers that certificates are for.
const BROKERS_MAX: u8 = 9;

/// An authority, and a certificate for every broker.
pub(crate) struct Authority {
    ca_pem: String,
    broker_pem: String,
    broker_key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let ca_key = key();
        let mut ca = params(Vec::new(), 1);
        ca.distinguished_name
            .push(DnType::CommonName, "Simulated authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let hosts = (1..=BROKERS_MAX).map(|number| format!("10.0.0.{number}"));
        let broker_key = key();
        let issuer = Issuer::new(ca, ca_key);
        let broker = params(hosts.collect(), 2)
            .signed_by(&broker_key, &issuer)
            .unwrap();
        Self {
            ca_pem,
            broker_pem: broker.pem(),
            broker_key: broker_key.serialize_pem(),
        }
    }

    /// Writes a broker's files to where it looks for them.
    pub(crate) fn write_to(&self, data_dir: &Path) {
        let dir = data_dir.join("tls");
        fs::create_dir_all(&dir).unwrap();
        // Marks the directory as a broker's own.
        fs::write(data_dir.join("version"), "1\n").unwrap();
        fs::write(dir.join("ca.pem"), &self.ca_pem).unwrap();
        fs::write(dir.join("broker.pem"), &self.broker_pem).unwrap();
        fs::write(dir.join("broker.key"), &self.broker_key).unwrap();
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn params(hosts: Vec<String>, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).unwrap();
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2046, 1, 1);
    params
}
