//! Who a broker is: its data directory, its certificates, and the credentials it accepts.
//!
//! ```text
//! data directory (0700)
//!   version        format of everything below; a later one is refused
//!   lock           held by the broker that uses the directory
//!   broker.toml    the broker's id, chosen once at random
//!   identity.made  says that all of this was there once
//!   client.toml    what a client needs to get in as operator (0600)
//!   cluster.toml   the cluster that the broker has joined, if it did not make one
//!   tokens         SHA-256 of each token that is accepted (0600)
//!   tls/           ca.pem ca.key broker.pem broker.key (0700; keys 0600)
//! ```
//!
//! Everything is made on the first start, and what is missing later is missed. What is damaged is
//! refused, unless it can be made anew: `client.toml`, and the broker's certificate with its key,
//! which nobody knows the broker by. Deleting `client.toml` makes the next start issue a new
//! operator's token in place of the old one; damage to it revokes nothing. A directory `tls/` with certificates of another
//! authority, and without `ca.key`, is used as it is.

mod certificates;
mod data_dir;
mod files;
mod made;
mod membership;
mod name;
mod profile;
mod tokens;

#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use flumen_protocol::{
    ALPN_CLIENT, ALPN_PEER,
    ids::BrokerId,
    join::{Enrolled, Enrolment},
    message::BrokerInfo,
    profile::Profile,
};
use flumen_transport::tls::{self, TlsError};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

pub use self::data_dir::FORMAT_VERSION;
pub use self::membership::Membership;
use self::{certificates::Certificates, data_dir::DataDir, made::Mark, tokens::Tokens};
pub(crate) use self::{
    membership::Candidate, name::broker_in_certificate, tokens::equal_in_constant_time,
};
use crate::config::BrokerConfig;

/// The file that holds a client's profile, in the data directory.
pub const PROFILE_FILE: &str = "client.toml";

/// A broker's place on disk and its secrets. The data directory stays locked while this lives.
#[derive(Debug)]
pub struct Identity {
    data_dir: DataDir,
    broker_id: BrokerId,
    membership: Membership,
    certificates: Certificates,
    tokens: Tokens,
}

/// Why a broker cannot take a data directory as its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Another broker uses the directory.
    #[error(
        "the data directory {} is in use by another broker{}; stop that one, or give this one \
         another directory with --data-dir",
        dir.display(),
        pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// The directory holds something else.
    #[error(
        "{} holds {found:?}, but no Flumen data; give an empty or a new directory with --data-dir",
        dir.display()
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// One of the files in it.
        found: String,
    },
    /// A later version wrote the directory.
    #[error(
        "the data directory {} has format version {found}, but this build knows versions up to \
         {FORMAT_VERSION}; use the version of flumen that wrote it, or a later one",
        dir.display()
    )]
    TooNew {
        /// The directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Something is gone that cannot be made again as it was.
    #[error("{} is missing, and nothing was made in its place; {advice}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What it is, and what to do.
        advice: String,
    },
    /// The directory belongs to another cluster.
    #[error(
        "the data directory {} belongs to a cluster {ours}, and the token is one of cluster \
         {theirs}; give a token of its own cluster or none at all, or an empty directory with \
         --data-dir",
        dir.display()
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// The cluster that it belongs to.
        ours: String,
        /// The cluster of the token.
        theirs: String,
    },
    /// The broker was about to join a cluster, and did not get to the end.
    #[error(
        "the broker in {} was about to join a cluster and did not get in; start it with --join \
         again, or empty the directory",
        dir.display()
    )]
    JoinInterrupted {
        /// The directory.
        dir: PathBuf,
    },
    /// The broker has not made its cluster.
    #[error(
        "the broker in {} has joined cluster {cluster} and cannot make another one; start it \
         without --bootstrap, or give an empty directory with --data-dir",
        dir.display()
    )]
    HasJoined {
        /// The directory.
        dir: PathBuf,
        /// The cluster.
        cluster: String,
    },
    /// The system refuses.
    #[error("cannot {attempt} {}: {error}", path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make the broker's certificates: {0}")]
    Issue(String),
    /// The certificates do not fit each other.
    #[error("cannot use the certificates in {}: {error}", dir.display())]
    Tls {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: TlsError,
    },
}

/// What a broker shows to the others, as PEM texts.
#[derive(Clone)]
pub(crate) struct PeerCredentials {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl PeerCredentials {
    /// TLS towards another broker, which must show that it is the one that was meant.
    pub(crate) fn tls_towards(&self, broker: BrokerId) -> Result<QuicClientConfig, TlsError> {
        self.tls(
            move |certificate| match broker_in_certificate(certificate)? {
                found if found == broker => Ok(()),
                found => Err(format!("it is broker {found}")),
            },
        )
    }

    /// TLS towards whichever broker of the cluster is there.
    pub(crate) fn tls_towards_any(&self) -> Result<QuicClientConfig, TlsError> {
        self.tls(|certificate| broker_in_certificate(certificate).map(drop))
    }

    fn tls(
        &self,
        check: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<QuicClientConfig, TlsError> {
        let identity = tls::Identity {
            cert_pem: &self.certificate,
            key_pem: &self.key,
        };
        tls::peer_config(&self.authority, identity, ALPN_PEER, Arc::new(check))
    }
}

/// The key stays out of logs.
impl fmt::Debug for PeerCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCredentials").finish_non_exhaustive()
    }
}

impl Identity {
    /// Opens the data directory of `config`, locks it, and makes what is missing on a first start.
    pub fn load_or_create(config: &BrokerConfig) -> Result<Self, IdentityError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let membership = Membership::load(data_dir.path())?;
        let broker_id = data_dir.broker_id()?;
        let tls_dir = data_dir.path().join("tls");
        let certificates = Certificates::load_or_issue(&tls_dir, broker_id, config)?;
        let tokens = Tokens::load_or_issue(data_dir.path(), &certificates.ca_pem)?;
        let mark = Mark::of(broker_id, &membership, certificates.own_authority());
        // A full disk keeps no broker from serving; the next start notes it.
        if let Err(error) = made::note(data_dir.path(), &mark) {
            tracing::warn!(
                %error,
                "what makes this broker who it is would not be missed if it were gone"
            );
        }
        Ok(Self {
            data_dir,
            broker_id,
            membership,
            certificates,
            tokens,
        })
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// The broker's id: random, and another one in every data directory.
    pub fn broker_id(&self) -> BrokerId {
        self.broker_id
    }

    /// How the broker came to its cluster.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// SHA-256 of the authority's certificate.
    pub(crate) fn authority_fingerprint(&self) -> Result<[u8; 32], IdentityError> {
        tls::certificate_der(&self.certificates.ca_pem)
            .map(|der| tls::fingerprint(&der))
            .map_err(|error| self.tls_error(error))
    }

    /// Makes another broker one of this cluster: signs a certificate for its public key (DER), and
    /// gives it all that a broker needs. `members` are the brokers of the cluster.
    pub(crate) fn enrol(
        &self,
        cluster: u128,
        enrolment: &Enrolment,
        members: Vec<BrokerInfo>,
    ) -> Result<Enrolled, IdentityError> {
        let Enrolment {
            broker,
            public_key,
            hosts,
            ..
        } = enrolment;
        let certificates = &self.certificates;
        let certificate = certificates.issue_for(broker.id, public_key, hosts)?;
        Ok(Enrolled {
            cluster,
            authority: certificates.ca_pem.clone(),
            authority_key: certificates.ca_key.clone().unwrap_or_default(),
            certificate,
            tokens: self.tokens.to_text(),
            operator_token: self.tokens.operator().to_owned(),
            members,
            enrolled_by: self.broker_id,
        })
    }

    /// PEM of the authority that clients must trust.
    pub fn ca_pem(&self) -> &str {
        &self.certificates.ca_pem
    }

    /// Whether a client that shows this token may come in. Takes the same time for every token.
    pub fn accepts_token(&self, token: &str) -> bool {
        self.tokens.accepts(token)
    }

    /// TLS for the broker's endpoint. A client certificate of the broker's authority is a
    /// credential, too. The authority's own certificate goes with the broker's: a broker that
    /// joins knows nothing but its fingerprint.
    pub fn server_tls(&self) -> Result<QuicServerConfig, IdentityError> {
        let ca_pem = &self.certificates.ca_pem;
        let identity = tls::Identity {
            cert_pem: &format!("{}\n{ca_pem}", self.certificates.broker_pem),
            key_pem: &self.certificates.broker_key,
        };
        tls::server_config(identity, ca_pem, &[ALPN_CLIENT, ALPN_PEER])
            .map_err(|error| self.tls_error(error))
    }

    /// What the broker shows to the others.
    pub(crate) fn peer_credentials(&self) -> PeerCredentials {
        PeerCredentials {
            authority: self.certificates.ca_pem.clone(),
            certificate: self.certificates.broker_pem.clone(),
            key: self.certificates.broker_key.clone(),
        }
    }

    fn tls_error(&self, error: TlsError) -> IdentityError {
        IdentityError::Tls {
            dir: self.data_dir.path().join("tls"),
            error,
        }
    }

    /// What lets a restarted broker end the connections of its earlier life at once: a secret
    /// that is the same in every life.
    pub fn restart_secret(&self) -> &[u8] {
        self.certificates.broker_key.as_bytes()
    }

    /// What an operator's client needs to reach the broker at these addresses.
    pub fn profile(&self, brokers: &[String]) -> Profile {
        Profile {
            brokers: brokers.to_vec(),
            ca: self.certificates.ca_pem.clone(),
            token: Some(self.tokens.operator().to_owned()),
            ..Profile::default()
        }
    }

    /// Writes `client.toml`, once the broker knows the address that it got. Returns its path.
    pub fn write_profile(&self, brokers: &[String]) -> Result<PathBuf, IdentityError> {
        let path = self.data_dir.path().join(PROFILE_FILE);
        profile::write(&path, &self.profile(brokers))?;
        Ok(path)
    }
}
