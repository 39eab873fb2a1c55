//! The operator's profile on disk.

use std::{io, path::Path};

use flumen_protocol::profile::Profile;

use super::{
    IdentityError,
    files::{failed, read_private, write_private},
};

const ABOUT: &str = "\
# How to reach this broker and its cluster, as the operator. Keep it secret:
# whoever holds it may do everything. Use it with --profile FILE or FLUMEN_PROFILE=FILE.
";

/// Writes a profile, unless it is there already: a full disk has no room for it.
pub(super) fn write(path: &Path, profile: &Profile) -> Result<(), IdentityError> {
    let text = toml::to_string(profile).map_err(|error| {
        let error = io::Error::other(error);
        failed("write", path)(error)
    })?;
    let text = format!("{ABOUT}{text}");
    let before = read_private(path).ok().flatten();
    if before.is_none_or(|before| before != text) {
        write_private(path, text.as_bytes())?;
    }
    Ok(())
}
