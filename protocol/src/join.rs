//! Joining a cluster: the token that lets a new broker in, and what broker and cluster tell each
//! other for it.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::{ids::BrokerId, message::BrokerInfo};

/// What the text of a token begins with. The number is the version of what follows.
const PREFIX: &str = "flumen-join-1.";

/// What tokens of all versions begin with.
const PREFIX_OF_ALL: &str = "flumen-join-";

/// Characters of a token's text.
pub const JOIN_TOKEN_CHARS_MAX: usize = 8 * 1024;

/// Addresses in a token.
pub const JOIN_ADDRESSES_MAX: usize = 16;

/// Names and addresses in a broker's certificate.
pub const CERTIFICATE_HOSTS_MAX: usize = 32;

/// Characters of a zone's name.
pub const ZONE_CHARS_MAX: usize = 200;

/// What a new broker needs to be let in: where to ask, whom to trust, and the secret to show.
///
/// Its text is one word that survives being copied into a file or a variable:
///
/// ```
/// use flumen_protocol::join::JoinToken;
///
/// let token = JoinToken {
///     cluster: 7,
///     addresses: vec!["broker-1.example.com:4650".to_owned()],
///     authority: [1; 32],
///     id: 9,
///     secret: [2; 32],
/// };
/// let text = token.to_string();
/// assert!(text.starts_with("flumen-join-1."));
/// assert_eq!(text.parse::<JoinToken>()?, token);
/// # Ok::<(), flumen_protocol::join::JoinTokenError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// The identity of the cluster.
    pub cluster: u128,
    /// Brokers to ask, each `host:port`.
    pub addresses: Vec<String>,
    /// SHA-256 of the certificate (DER) of the cluster's authority.
    pub authority: [u8; 32],
    /// Names the token among those of the cluster.
    pub id: u64,
    /// What only a holder of the token knows.
    pub secret: [u8; 32],
}

/// A text that is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinTokenError {
    /// It is something else.
    #[error(
        "this is no join token, which begins with {PREFIX_OF_ALL}; make one with `flumen cluster token` on a broker of the cluster"
    )]
    NoToken,
    /// A later version made it.
    #[error(
        "this join token is of another version of flumen, which this one does not read; start the version that the cluster runs"
    )]
    OtherVersion,
    /// Something is missing or changed.
    #[error(
        "this join token is damaged; copy it whole, or make another one with `flumen cluster token`"
    )]
    Damaged,
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = postcard::to_allocvec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(if text.starts_with(PREFIX_OF_ALL) {
                JoinTokenError::OtherVersion
            } else {
                JoinTokenError::NoToken
            });
        };
        if text.len() > JOIN_TOKEN_CHARS_MAX {
            return Err(JoinTokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| JoinTokenError::Damaged)?;
        match postcard::take_from_bytes::<Self>(&bytes) {
            Ok((token, [])) if (1..=JOIN_ADDRESSES_MAX).contains(&token.addresses.len()) => {
                Ok(token)
            }
            _ => Err(JoinTokenError::Damaged),
        }
    }
}

/// The secret stays out of logs.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster", &format_args!("{:032x}", self.cluster))
            .field("addresses", &self.addresses)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// How a new broker asks to be let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The cluster that it means to join.
    pub cluster: u128,
    /// The token.
    pub token_id: u64,
    /// Its secret.
    pub secret: [u8; 32],
    /// The broker, with the address that others reach it at, and its zone.
    pub broker: BrokerInfo,
    /// Its public key (DER), for which it wants a certificate.
    pub public_key: Vec<u8>,
    /// The names and addresses that the certificate is for.
    pub hosts: Vec<String>,
    /// Its software version.
    pub version: String,
}

/// The secret stays out of logs.
impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolment")
            .field("broker", &self.broker)
            .field("token_id", &self.token_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a broker gets that is let in. It is as secret as the cluster: every broker can let others
/// in, and accepts the operator's token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// The identity of the cluster.
    pub cluster: u128,
    /// PEM of the authority's certificate.
    pub authority: String,
    /// PEM of the authority's private key.
    pub authority_key: String,
    /// PEM of the new broker's certificate.
    pub certificate: String,
    /// The file of tokens that clients may show, as SHA-256.
    pub tokens: String,
    /// The operator's token.
    pub operator_token: String,
    /// The brokers of the cluster, the new one among them.
    pub members: Vec<BrokerInfo>,
    /// The broker that has let it in.
    pub enrolled_by: BrokerId,
}

/// Keys and tokens stay out of logs.
impl fmt::Debug for Enrolled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrolled")
            .field("cluster", &format_args!("{:032x}", self.cluster))
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            cluster: u128::MAX - 1,
            addresses: vec!["127.0.0.1:4650".to_owned()],
            authority: [3; 32],
            id: u64::MAX,
            secret: [0xab; 32],
        }
    }

    #[test]
    fn a_token_is_one_word_that_reads_as_what_it_was() {
        let text = token().to_string();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        assert!(text.chars().all(is_plain), "{text}");
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
    }

    #[test]
    fn what_is_no_token_is_told_apart_from_what_is_damaged_or_of_another_version() {
        let text = token().to_string();
        let other_version = text.replacen("-1.", "-2.", 1);
        assert_eq!(
            other_version.parse::<JoinToken>(),
            Err(JoinTokenError::OtherVersion)
        );
        for damaged in [
            &text[..text.len() - 4],
            &format!("{text}AAAA"),
            "flumen-join-1.",
        ] {
            let parsed = damaged.parse::<JoinToken>();
            assert_eq!(parsed, Err(JoinTokenError::Damaged), "{damaged}");
        }
        for other in ["", "0123456789abcdef", "tokens.txt"] {
            assert_eq!(other.parse::<JoinToken>(), Err(JoinTokenError::NoToken));
        }
        let mut nowhere = token();
        nowhere.addresses.clear();
        assert!(nowhere.to_string().parse::<JoinToken>().is_err());
    }

    #[test]
    fn no_secret_is_shown() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "flumen-join-1\\.[A-Za-z0-9_-]{0,200}") {
            let _ = text.parse::<JoinToken>();
        }
    }
}
