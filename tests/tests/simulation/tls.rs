//! The keys of a simulation: the same in every run, and Ed25519, whose signatures have one length.
//! So certificates and handshakes have the same sizes in every run of a seed.

use std::{fs, path::Path};

use flumen_broker::identity::FORMAT_VERSION;
use rcgen::KeyPair;

/// A private key of 32 bytes in its usual wrapping (RFC 8410, section 7).
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The number of the authority's key; brokers have theirs.
const AUTHORITY: u8 = 0;

fn key_pem(number: u8) -> String {
    let mut der = PKCS8_HEAD.to_vec();
    der.extend([number.wrapping_add(1); 32]);
    KeyPair::try_from(der).unwrap().serialize_pem()
}

/// Writes keys to where a new broker looks for its own.
pub(crate) fn write_keys(data_dir: &Path, number: u8, founds: bool) {
    let dir = data_dir.join("tls");
    fs::create_dir_all(&dir).unwrap();
    // Marks the directory as a broker's own.
    fs::write(data_dir.join("version"), format!("{FORMAT_VERSION}\n")).unwrap();
    fs::write(dir.join("broker.key"), key_pem(number)).unwrap();
    if founds {
        fs::write(dir.join("ca.key"), key_pem(AUTHORITY)).unwrap();
    }
}
