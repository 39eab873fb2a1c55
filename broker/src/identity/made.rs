//! A mark of what a data directory has had: what is missing later is missed, not made anew.
//!
//! A broker with another id or another authority is a stranger to its clients and to the other
//! brokers. So what makes one who it is, is made once; whoever wants it anew removes the mark.

use std::{io, path::Path};

use flumen_protocol::ids::BrokerId;
use flumen_transport::tls;
use serde::{Deserialize, Serialize};

use super::{
    IdentityError, certificates,
    data_dir::BROKER_FILE,
    files::{failed, read_private, write_private},
    membership::{self, CLUSTER_FILE, Membership},
    tokens::{TOKENS_FILE, hex},
};

/// Says that the first start got as far as having an identity.
pub(super) const MARK_FILE: &str = "identity.made";

const AUTHORITY_FILE: &str = "tls/ca.pem";
const AUTHORITY_KEY_FILE: &str = "tls/ca.key";
const CERTIFICATE_FILE: &str = "tls/broker.pem";

/// What a directory has.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// The broker's id.
    broker: u64,
    /// Whether it has joined a cluster of others.
    joined: bool,
    /// The cluster that it has joined, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    /// SHA-256 of the authority's certificate, in hexadecimal digits. Not where the authority is
    /// another one: that one may be renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
}

impl Mark {
    /// `authority` is the fingerprint of the cluster's own one.
    pub(super) fn of(
        broker: BrokerId,
        membership: &Membership,
        authority: Option<[u8; 32]>,
    ) -> Self {
        let cluster = match membership {
            Membership::Bootstrap => None,
            Membership::Joined { cluster, .. } => Some(membership::name(*cluster)),
        };
        Self {
            broker: broker.0,
            joined: cluster.is_some(),
            cluster,
            authority: authority.map(|fingerprint| hex(&fingerprint)),
        }
    }
}

/// Whether the first start got as far as having an identity.
pub(super) fn is_made(dir: &Path) -> Result<bool, IdentityError> {
    Ok(read(dir)?.is_some())
}

/// Refuses a directory in which something is missing that it has had.
pub(super) fn refuse_incomplete(dir: &Path) -> Result<(), IdentityError> {
    let Some(Mark {
        broker,
        joined,
        authority,
        ..
    }) = read(dir)?
    else {
        return Ok(());
    };
    let mark = dir.join(MARK_FILE);
    let mark = mark.display();
    let replace = format!(
        "without one, replace the broker: `flumen cluster remove {broker}`, and an empty directory \
         with --join"
    );
    let missed = [
        (
            BROKER_FILE,
            true,
            format!(
                "it holds the broker's id: put it back from a backup, or write `id = {broker}` into \
                 it"
            ),
        ),
        (
            CLUSTER_FILE,
            joined,
            format!(
                "it says which cluster the broker has joined: put it back from a backup; {replace}"
            ),
        ),
        (
            AUTHORITY_FILE,
            true,
            format!(
                "it is the authority that clients and other brokers trust: put the directory back \
                 from a backup, or its ca.pem and ca.key from another broker of the cluster; to \
                 have a new authority made, which none of them knows, remove {mark}"
            ),
        ),
        (
            TOKENS_FILE,
            true,
            format!(
                "it says which tokens of clients are accepted: put it back from a backup, or from \
                 another broker of the cluster; to have a new token made in place of all, remove \
                 {mark}"
            ),
        ),
    ];
    for (file, had, advice) in missed {
        let path = dir.join(file);
        if had && !path.try_exists().map_err(failed("look at", &path))? {
            return Err(IdentityError::Missing { path, advice });
        }
    }
    match authority {
        Some(authority) => refuse_another_authority(dir, &authority),
        None => Ok(()),
    }
}

/// Refuses an authority that is not the one that the directory has had, unless all of it is replaced
/// by one whose key is elsewhere.
fn refuse_another_authority(dir: &Path, authority: &str) -> Result<(), IdentityError> {
    let path = dir.join(AUTHORITY_FILE);
    let pem = read_private(&path)?.unwrap_or_default();
    let der = tls::certificate_der(&pem);
    let is_the_same = der.is_ok_and(|der| hex(&tls::fingerprint(&der)) == authority);
    let key_path = dir.join(AUTHORITY_KEY_FILE);
    let has_key = key_path
        .try_exists()
        .map_err(failed("look at", &key_path))?;
    let mark = dir.join(MARK_FILE);
    let mark = mark.display();
    match (is_the_same, has_key) {
        (true, true) | (false, false) => Ok(()),
        (true, false) => Err(IdentityError::Missing {
            path: key_path,
            advice: format!(
                "it signs the certificates of this broker and of those that join: put it back from \
                 a backup, or from another broker of the cluster; to go on without it, remove the \
                 line `authority` of {mark}"
            ),
        }),
        (false, true) => Err(IdentityError::Damaged {
            path,
            reason: format!(
                "it is not the authority's certificate that was there, by {mark}; put ca.pem and \
                 ca.key back from a backup, or from another broker of the cluster, and if these are \
                 the same, remove {mark}"
            ),
        }),
    }
}

/// Refuses a cluster that is not the one that the broker has joined.
pub(super) fn refuse_another_cluster(dir: &Path, cluster: &str) -> Result<(), IdentityError> {
    let mark = dir.join(MARK_FILE);
    match read(dir)?.and_then(|mark| mark.cluster) {
        Some(joined) if joined != cluster => Err(IdentityError::Damaged {
            path: dir.join(CLUSTER_FILE),
            reason: format!(
                "it says that the broker has joined cluster {cluster}, but by {mark} it is cluster \
                 {joined}; put it back from a backup, or write `id = \"{joined}\"` into it, and if \
                 that is not the cluster, remove {mark}",
                mark = mark.display()
            ),
        }),
        _ => Ok(()),
    }
}

/// The error about a file of the broker's id that cannot be read.
pub(super) fn unreadable_id(dir: &Path, error: &str) -> IdentityError {
    let id = match read(dir) {
        Ok(Some(mark)) => format!(", or write `id = {}` into it", mark.broker),
        _ => String::new(),
    };
    IdentityError::Damaged {
        path: dir.join(BROKER_FILE),
        reason: format!("{}; put it back from a backup{id}", error.trim_end()),
    }
}

/// Refuses an id that is not the one that the directory has had: the log knows its members by it.
/// The broker's certificate says which of the two is wrong.
pub(super) fn refuse_another(dir: &Path, id: u64) -> Result<(), IdentityError> {
    let Some(Mark { broker, .. }) = read(dir)?.filter(|mark| mark.broker != id) else {
        return Ok(());
    };
    let certificate = read_private(&dir.join(CERTIFICATE_FILE)).ok().flatten();
    let named = certificate.and_then(|pem| certificates::broker_named(&pem));
    let (wrong, line, other) = if named == Some(BrokerId(id)) {
        (MARK_FILE, format!("broker = {id}"), BROKER_FILE)
    } else {
        (BROKER_FILE, format!("id = {broker}"), MARK_FILE)
    };
    let (says, is) = if wrong == MARK_FILE {
        (broker, id)
    } else {
        (id, broker)
    };
    Err(IdentityError::Damaged {
        path: dir.join(wrong),
        reason: format!(
            "it says that this is broker {says}, but by {} it is broker {is}; write `{line}` into it",
            dir.join(other).display()
        ),
    })
}

/// Notes what the directory has from now on.
pub(super) fn note(dir: &Path, mark: &Mark) -> Result<(), IdentityError> {
    if read(dir)?.is_some_and(|before| before == *mark) {
        return Ok(());
    }
    let path = dir.join(MARK_FILE);
    let text =
        toml::to_string(mark).map_err(|error| failed("write", &path)(io::Error::other(error)))?;
    write_private(&path, text.as_bytes())
}

fn read(dir: &Path) -> Result<Option<Mark>, IdentityError> {
    let path = dir.join(MARK_FILE);
    let unreadable = |error: &str| IdentityError::Damaged {
        path: path.clone(),
        reason: format!(
            "{}; put it back from a backup, or, if broker.toml, tls/ and tokens are there, and on a \
             broker that has joined a cluster cluster.toml, remove it: it is then made anew",
            error.trim_end()
        ),
    };
    let text = match read_private(&path) {
        Err(IdentityError::Damaged { .. }) => return Err(unreadable("it is no text")),
        text => text?,
    };
    text.map(|text| toml::from_str(&text).map_err(|error| unreadable(&error.to_string())))
        .transpose()
}
