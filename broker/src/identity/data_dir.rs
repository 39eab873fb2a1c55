//! The data directory: made, recognised, locked.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use flumen_protocol::ids::BrokerId;
use serde::{Deserialize, Serialize};

use super::{
    IdentityError,
    files::{create_private_dir, failed, read_private, write_private},
    made,
};

/// The version of the layout and of all formats in the data directory.
pub const FORMAT_VERSION: u32 = 1;

const LOCK_FILE: &str = "lock";
const VERSION_FILE: &str = "version";
pub(super) const BROKER_FILE: &str = "broker.toml";

/// What may lie in a directory that is still considered empty.
const IGNORED: [&str; 3] = [LOCK_FILE, "lost+found", "version.tmp"];

/// Ids fit the integers of JSON readers, which are exact up to 2⁵³.
const BROKER_ID_BITS: u32 = 53;

/// A data directory that this process holds.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BrokerFile {
    id: u64,
}

impl DataDir {
    /// Makes the directory if need be, locks it, and checks that it is one of ours and has all
    /// that it has had.
    pub(super) fn open(path: &Path) -> Result<Self, IdentityError> {
        // What is not ours is left as it was, its permissions included.
        if path.exists() && !path.join(VERSION_FILE).exists() {
            refuse_foreign(path)?;
        }
        create_private_dir(path)?;
        let lock = lock(path)?;
        check_version(path)?;
        made::refuse_incomplete(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The broker's id, chosen on the first call.
    pub(super) fn broker_id(&self) -> Result<BrokerId, IdentityError> {
        let path = self.path.join(BROKER_FILE);
        if let Some(text) = read_private(&path)? {
            let file: BrokerFile = toml::from_str(&text)
                .map_err(|error| made::unreadable_id(&self.path, &error.to_string()))?;
            made::refuse_another(&self.path, file.id)?;
            return Ok(BrokerId(file.id));
        }
        let id = (rand::random::<u64>() >> (u64::BITS - BROKER_ID_BITS)).max(1);
        let text = toml::to_string(&BrokerFile { id }).map_err(|error| damaged(&path, &error))?;
        write_private(&path, text.as_bytes())?;
        Ok(BrokerId(id))
    }
}

fn damaged(path: &Path, reason: &dyn ToString) -> IdentityError {
    IdentityError::Damaged {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn refuse_foreign(dir: &Path) -> Result<(), IdentityError> {
    if dir.join(made::MARK_FILE).exists() {
        return Err(IdentityError::Missing {
            path: dir.join(VERSION_FILE),
            advice:
                "it says how the rest of the directory is to be read: put it back from a backup"
                    .to_owned(),
        });
    }
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?;
    for entry in entries {
        let entry = entry.map_err(failed("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !IGNORED.contains(&name.as_str()) {
            return Err(IdentityError::NotOurs {
                dir: dir.to_owned(),
                found: name,
            });
        }
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, IdentityError> {
    let path = dir.join(LOCK_FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.read_to_string(&mut text);
            return Err(IdentityError::InUse {
                dir: dir.to_owned(),
                pid: read.ok().and_then(|_| text.trim().parse().ok()),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
    }
    let mut write_pid = || {
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        writeln!(file, "{}", std::process::id())
    };
    // Who holds the lock is a courtesy to the reader of an error; a full disk must not keep
    // the broker from serving what it has.
    if let Err(error) = write_pid() {
        tracing::warn!(path = %path.display(), %error, "cannot note the process id");
    }
    Ok(file)
}

fn check_version(dir: &Path) -> Result<(), IdentityError> {
    let path = dir.join(VERSION_FILE);
    let Some(text) = read_private(&path)? else {
        return write_private(&path, format!("{FORMAT_VERSION}\n").as_bytes());
    };
    match text.trim().parse() {
        Ok(FORMAT_VERSION) => Ok(()),
        Ok(found) if found > FORMAT_VERSION => Err(IdentityError::TooNew {
            dir: dir.to_owned(),
            found,
        }),
        _ => Err(damaged(
            &path,
            &format!(
                "it holds no known version number; put it back from a backup: in a directory of \
                 this version of flumen it holds {FORMAT_VERSION}"
            ),
        )),
    }
}
