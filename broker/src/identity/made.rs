//! A mark of what a data directory has had: what is missing later is missed, not made anew.
//!
//! A broker with another id or another authority is a stranger to its clients and to the other
//! brokers. So what makes one who it is, is made once; whoever wants it anew removes the mark.

use std::{io, path::Path};

use flumen_protocol::ids::BrokerId;
use serde::{Deserialize, Serialize};

use super::{
    IdentityError,
    data_dir::BROKER_FILE,
    files::{failed, read_private, write_private},
    membership::CLUSTER_FILE,
    tokens::TOKENS_FILE,
};

/// Says that the first start got as far as having an identity.
pub(super) const MARK_FILE: &str = "identity.made";

const AUTHORITY_FILE: &str = "tls/ca.pem";

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// The broker's id.
    broker: u64,
    /// Whether it has joined a cluster of others.
    joined: bool,
}

/// Refuses a directory in which something is missing that it has had.
pub(super) fn refuse_incomplete(dir: &Path) -> Result<(), IdentityError> {
    let Some(Mark { broker, joined }) = read(dir)? else {
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
    Ok(())
}

/// Refuses an id that is not the one that the directory has had: the log knows its members by it.
pub(super) fn refuse_another(dir: &Path, id: u64) -> Result<(), IdentityError> {
    match read(dir)? {
        Some(Mark { broker, .. }) if broker != id => Err(IdentityError::Damaged {
            path: dir.join(BROKER_FILE),
            reason: format!(
                "it says that this is broker {id}, but by {} it is broker {broker}; write \
                 `id = {broker}` into it",
                dir.join(MARK_FILE).display()
            ),
        }),
        _ => Ok(()),
    }
}

/// Notes what the directory has from now on.
pub(super) fn note(dir: &Path, broker: BrokerId, joined: bool) -> Result<(), IdentityError> {
    let mark = Mark {
        broker: broker.0,
        joined,
    };
    if read(dir)?.is_some_and(|before| before == mark) {
        return Ok(());
    }
    let path = dir.join(MARK_FILE);
    let text =
        toml::to_string(&mark).map_err(|error| failed("write", &path)(io::Error::other(error)))?;
    write_private(&path, text.as_bytes())
}

fn read(dir: &Path) -> Result<Option<Mark>, IdentityError> {
    let path = dir.join(MARK_FILE);
    let text = read_private(&path)?;
    text.map(|text| {
        toml::from_str(&text).map_err(|error| IdentityError::Damaged {
            path,
            reason: error.to_string(),
        })
    })
    .transpose()
}
