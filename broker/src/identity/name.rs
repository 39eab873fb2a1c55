//! What a broker's certificate says of it: `flumen://broker/<id>`, as a URI among its names.

use flumen_protocol::ids::BrokerId;
use x509_parser::{extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate};

const URI_PREFIX: &str = "flumen://broker/";

/// The URI that stands in the certificate of a broker.
pub(super) fn uri_of(broker: BrokerId) -> String {
    format!("{URI_PREFIX}{}", broker.0)
}

/// The broker that a certificate (DER) names, or what is wrong with it. Who signed it was verified
/// before.
pub(crate) fn broker_in_certificate(der: &[u8]) -> Result<BrokerId, String> {
    let (_, certificate) = parse_x509_certificate(der)
        .map_err(|error| format!("its certificate cannot be read: {error}"))?;
    broker_in(&certificate).ok_or_else(|| "its certificate names no broker".to_owned())
}

pub(super) fn broker_in(certificate: &X509Certificate<'_>) -> Option<BrokerId> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut ids = names.value.general_names.iter().filter_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        uri.strip_prefix(URI_PREFIX)?.parse().ok().map(BrokerId)
    });
    // One that says two things says nothing.
    ids.next().filter(|_| ids.next().is_none())
}
