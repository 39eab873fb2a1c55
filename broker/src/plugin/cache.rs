//! Compiled plugins on disk, so that a start does not compile again. A file is used only if it
//! was written by this very engine for this very component and is whole; anything else is as
//! good as no file.
//!
//! ```text
//! magic (8) | SHA-256 of what follows (32) | engine (8) | digest of the component (32) | code
//! ```
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
};

use flumen_protocol::plugin::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

const MAGIC: &[u8; 8] = b"flumenc1";
const SUM_END: usize = MAGIC.len() + 32;
const ENGINE_END: usize = SUM_END + 8;
const DIGEST_END: usize = ENGINE_END + 32;

/// The directory of compiled plugins.
pub(super) struct CodeCache {
    dir: PathBuf,
}

impl CodeCache {
    pub(super) fn open(dir: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The compiled component, if a good file of it is there.
    pub(super) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(engine, digest);
        let file = fs::read(&path).ok()?;
        let component = whole_code(&file, engine_id(engine), digest)
            .and_then(|code| trusted::deserialize(engine, code));
        if component.is_none() {
            tracing::warn!(
                path = %path.display(),
                "a compiled plugin is damaged or of another version; it is compiled again"
            );
        }
        component
    }

    /// Keeps a compiled component. Failing only costs time at the next start.
    pub(super) fn store(&self, engine: &Engine, digest: Digest, component: &Component) {
        let path = self.path(engine, digest);
        let result = component
            .serialize()
            .map_err(|error| std::io::Error::other(error.to_string()))
            .and_then(|code| self.write(&path, &sealed(&code, engine_id(engine), digest)));
        if let Err(error) = result {
            tracing::warn!(path = %path.display(), %error, "cannot keep a compiled plugin");
        }
    }

    /// Removes what belongs to a component, for every engine.
    pub(super) fn remove(&self, digest: Digest) {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            return;
        };
        let prefix = digest.to_string();
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // It is a cache: what stays is found again or ignored.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        // Written aside, then renamed: a crash leaves the old file or the new one. It needs no
        // sync, as a file that is not whole is not used. The thread's id keeps two writers apart.
        let aside = self.dir.join(format!(
            ".{}-{}-{:?}",
            path.file_name().unwrap_or_default().to_string_lossy(),
            std::process::id(),
            std::thread::current().id(),
        ));
        let mut file = fs::File::create(&aside)?;
        let result = file
            .write_all(bytes)
            .and_then(|()| fs::rename(&aside, path));
        if result.is_err() {
            let _ = fs::remove_file(&aside);
        }
        result
    }

    fn path(&self, engine: &Engine, digest: Digest) -> PathBuf {
        self.dir
            .join(format!("{digest}-{:016x}.cwasm", engine_id(engine)))
    }
}

/// Tells engines apart whose code cannot be exchanged: version, settings, processor.
fn engine_id(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

fn sealed(code: &[u8], engine: u64, digest: Digest) -> Vec<u8> {
    let mut file = Vec::with_capacity(DIGEST_END + code.len());
    file.extend_from_slice(MAGIC);
    file.resize(SUM_END, 0);
    file.extend_from_slice(&engine.to_le_bytes());
    file.extend_from_slice(&digest.0);
    file.extend_from_slice(code);
    let sum = Sha256::digest(&file[SUM_END..]);
    file[MAGIC.len()..SUM_END].copy_from_slice(&sum);
    file
}

fn whole_code(file: &[u8], engine: u64, digest: Digest) -> Option<&[u8]> {
    let body = file.get(SUM_END..)?;
    let good = file.starts_with(MAGIC)
        && file[MAGIC.len()..SUM_END] == *Sha256::digest(body)
        && file.get(SUM_END..ENGINE_END)? == engine.to_le_bytes()
        && file.get(ENGINE_END..DIGEST_END)? == digest.0;
    good.then(|| &file[DIGEST_END..])
}

#[allow(unsafe_code)]
mod trusted {
    //! The one unsafe step: machine code that is run as it stands.
    use wasmtime::{Engine, component::Component};

    /// Takes code that [`super::whole_code`] has checked.
    pub(super) fn deserialize(engine: &Engine, code: &[u8]) -> Option<Component> {
        // SAFETY: the bytes must come from `Component::serialize`. The caller has checked the
        // SHA-256 over them that this module wrote together with them, so they are the bytes
        // that this module has written, for this engine (which wasmtime checks again) and this
        // component. Who can forge that file in the broker's own data directory can as well
        // replace its data, its keys and its plugins.
        unsafe { Component::deserialize(engine, code) }.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: Digest = Digest([7; 32]);

    #[test]
    fn a_file_with_any_byte_flipped_is_not_used() {
        let good = sealed(b"machine code", 5, DIGEST);
        assert_eq!(whole_code(&good, 5, DIGEST), Some(&b"machine code"[..]));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(whole_code(&bad, 5, DIGEST), None, "byte {at}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_not_used() {
        let good = sealed(b"machine code", 5, DIGEST);
        for len in 0..good.len() {
            assert_eq!(whole_code(&good[..len], 5, DIGEST), None, "{len} bytes");
        }
    }

    #[test]
    fn a_file_of_another_engine_or_component_is_not_used() {
        let good = sealed(b"machine code", 5, DIGEST);
        assert_eq!(whole_code(&good, 6, DIGEST), None);
        assert_eq!(whole_code(&good, 5, Digest([8; 32])), None);
    }
}
