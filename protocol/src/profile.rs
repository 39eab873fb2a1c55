//! What a client needs to reach a cluster: the contents of a broker's `client.toml`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Addresses, authority and credential. PEM texts stand in the file itself, so that one
/// file is all that has to be handed over; it is as secret as the credential in it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Brokers to try first, each `host:port`.
    pub brokers: Vec<String>,
    /// PEM of the authority that signs the brokers' certificates.
    pub ca: String,
    /// Where the client stands, as brokers are told with `--zone`: it reads from brokers of its
    /// own zone that have a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// A token that the brokers accept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// PEM of a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert: Option<String>,
    /// PEM of the private key of the client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Secrets stay out of logs.
impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("brokers", &self.brokers)
            .field("zone", &self.zone)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("key", &self.key.as_ref().map(|_| "…"))
            .finish_non_exhaustive()
    }
}
