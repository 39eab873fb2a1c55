//! Files and directories that nobody else on the machine may read.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::IdentityError;

/// Owner only.
const DIR_MODE: u32 = 0o700;

/// Owner only.
const FILE_MODE: u32 = 0o600;

/// The permission bits of group and others.
const OTHERS_MASK: u32 = 0o077;

/// Makes a private directory with its parents; one that is there already becomes private.
pub(super) fn create_private_dir(path: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .map_err(failed("create the directory", path))?;
    make_private(path, DIR_MODE)
}

/// Replaces a file as a whole, so that a crash leaves the old one or the new one.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let mut tmp_name = path.file_name().unwrap_or_default().to_owned();
    tmp_name.push(".tmp");
    let tmp = path.with_file_name(tmp_name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&tmp)?;
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&tmp, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(failed("write", path))
}

/// Reads a private text file; `None` if there is none. Takes group and others their rights.
pub(super) fn read_private(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => {
            make_private(path, FILE_MODE)?;
            Ok(Some(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(IdentityError::Damaged {
            path: path.to_owned(),
            reason: "it is no text; put it back from a backup".to_owned(),
        }),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn make_private(path: &Path, mode: u32) -> Result<(), IdentityError> {
    let found = fs::metadata(path)
        .map_err(failed("look at", path))?
        .permissions()
        .mode();
    if found & OTHERS_MASK != 0 {
        tracing::warn!(path = %path.display(), "was open to other users; closing it");
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(failed("make private", path))?;
    }
    Ok(())
}

/// Says what was attempted on what, for `map_err`.
pub(super) fn failed(
    attempt: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |error| IdentityError::Io {
        attempt,
        path,
        error,
    }
}
