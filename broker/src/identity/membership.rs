//! Which cluster a data directory belongs to, and how it comes to belong to one.
//!
//! A broker that joins writes `joining.toml` first and `cluster.toml` last: whatever a crash leaves
//! in between is completed by joining again, and taken for nothing else.

use std::{fs, io, path::Path};

use flumen_protocol::{
    ids::BrokerId,
    join::{Enrolled, JoinToken},
    message::BrokerInfo,
    profile::Profile,
};
use flumen_transport::tls;
use serde::{Deserialize, Serialize};

use super::{
    IdentityError, PROFILE_FILE,
    certificates::{self, BrokerKey},
    data_dir::DataDir,
    files::{failed, read_private, write_private},
    made,
    tokens::TOKENS_FILE,
};
use crate::config::BrokerConfig;

/// Says which cluster a broker has joined.
pub(super) const CLUSTER_FILE: &str = "cluster.toml";

/// Says that a broker is about to join a cluster.
const JOINING_FILE: &str = "joining.toml";

/// How a broker came to its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It made the cluster, or will with its first start.
    Bootstrap,
    /// It has joined a cluster that was there.
    Joined {
        /// The identity of the cluster.
        cluster: u128,
        /// The brokers of the cluster when it joined, itself among them. Since then there may be
        /// others.
        members: Vec<BrokerInfo>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterFile {
    /// In hexadecimal digits.
    id: String,
    #[serde(default)]
    members: Vec<BrokerInfo>,
}

impl Membership {
    /// What the data directory says. One that is on its way into a cluster is refused.
    pub(super) fn load(dir: &Path) -> Result<Self, IdentityError> {
        match read(dir, CLUSTER_FILE)? {
            Some((cluster, members)) => {
                made::refuse_another_cluster(dir, &name(cluster))?;
                Ok(Self::Joined { cluster, members })
            }
            None if dir.join(JOINING_FILE).exists() => Err(IdentityError::JoinInterrupted {
                dir: dir.to_owned(),
            }),
            None => Ok(Self::Bootstrap),
        }
    }
}

/// A data directory on its way into a cluster. Locked while this lives.
pub(crate) struct Candidate {
    data_dir: DataDir,
    broker: BrokerId,
    key: BrokerKey,
    hosts: Vec<String>,
}

impl Candidate {
    /// Prepares the data directory of `config`. `None` if it belongs to the token's cluster
    /// already; one that belongs to another cluster is refused.
    pub(crate) fn open(
        config: &BrokerConfig,
        token: &JoinToken,
    ) -> Result<Option<Self>, IdentityError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let dir = data_dir.path();
        let is_member = match read(dir, CLUSTER_FILE)? {
            Some((cluster, _)) if cluster == token.cluster => true,
            Some((cluster, _)) => return Err(other_cluster(dir, name(cluster), token)),
            None if dir.join(JOINING_FILE).exists() => false,
            None => has_founded(dir, token)?,
        };
        if is_member {
            return Ok(None);
        }
        write(dir, JOINING_FILE, token.cluster, Vec::new())?;
        let broker = data_dir.broker_id()?;
        let key = certificates::load_or_make_key(&dir.join("tls"))?;
        Ok(Some(Self {
            broker,
            key,
            hosts: certificates::hosts(config),
            data_dir,
        }))
    }

    /// The broker's id.
    pub(crate) fn broker(&self) -> BrokerId {
        self.broker
    }

    /// The key that it wants a certificate for (DER).
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.key.public_der()
    }

    /// The names and addresses that the certificate is for.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Writes what the cluster has given.
    pub(crate) fn complete(self, enrolled: &Enrolled) -> Result<(), IdentityError> {
        let dir = self.data_dir.path();
        let tls_dir = dir.join("tls");
        let profile = Profile {
            brokers: enrolled
                .members
                .iter()
                .map(|member| member.address.clone())
                .collect(),
            ca: enrolled.authority.clone(),
            token: Some(enrolled.operator_token.clone()),
            ..Profile::default()
        };
        let profile_path = dir.join(PROFILE_FILE);
        let profile = toml::to_string(&profile)
            .map_err(|error| failed("write", &profile_path)(io::Error::other(error)))?;
        for (path, text) in [
            (tls_dir.join("ca.key"), &enrolled.authority_key),
            (tls_dir.join("ca.pem"), &enrolled.authority),
            (tls_dir.join("broker.pem"), &enrolled.certificate),
            (dir.join(TOKENS_FILE), &enrolled.tokens),
            (profile_path, &profile),
        ] {
            write_private(&path, text.as_bytes())?;
        }
        // From here on it is a member.
        write(
            dir,
            CLUSTER_FILE,
            enrolled.cluster,
            enrolled.members.clone(),
        )?;
        let joining = dir.join(JOINING_FILE);
        fs::remove_file(&joining).map_err(failed("remove", &joining))
    }
}

/// Whether the cluster that lives in the directory, if there is one, is that of the token.
fn has_founded(dir: &Path, token: &JoinToken) -> Result<bool, IdentityError> {
    let path = dir.join("tls/ca.pem");
    let Some(ca_pem) = read_private(&path)? else {
        return Ok(false);
    };
    let ca = tls::certificate_der(&ca_pem).map_err(|error| IdentityError::Damaged {
        path,
        reason: error.to_string(),
    })?;
    if tls::fingerprint(&ca) == token.authority {
        return Ok(true);
    }
    Err(other_cluster(dir, "of its own".to_owned(), token))
}

fn other_cluster(dir: &Path, ours: String, token: &JoinToken) -> IdentityError {
    IdentityError::OtherCluster {
        dir: dir.to_owned(),
        ours,
        theirs: name(token.cluster),
    }
}

/// A cluster's identity, as people read it.
pub(super) fn name(cluster: u128) -> String {
    format!("{cluster:032x}")
}

fn read(dir: &Path, file: &str) -> Result<Option<(u128, Vec<BrokerInfo>)>, IdentityError> {
    let path = dir.join(file);
    let Some(text) = read_private(&path)? else {
        return Ok(None);
    };
    let damaged = |reason: String| IdentityError::Damaged {
        path: path.clone(),
        reason: format!(
            "{reason}; put it back from a backup, or replace the broker: `flumen cluster remove`, and \
             an empty directory with --join"
        ),
    };
    let file: ClusterFile =
        toml::from_str(&text).map_err(|error| damaged(error.to_string().trim_end().to_owned()))?;
    let cluster = u128::from_str_radix(&file.id, 16)
        .map_err(|_| damaged("its id is not a hexadecimal number".to_owned()))?;
    Ok(Some((cluster, file.members)))
}

fn write(
    dir: &Path,
    file: &str,
    cluster: u128,
    members: Vec<BrokerInfo>,
) -> Result<(), IdentityError> {
    let path = dir.join(file);
    let contents = ClusterFile {
        id: name(cluster),
        members,
    };
    let text = toml::to_string(&contents)
        .map_err(|error| failed("write", &path)(io::Error::other(error)))?;
    write_private(&path, text.as_bytes())
}
