//! Builds the plugins of this repository (`plugins/samples` and `plugins/hostile`) for those
//! who need them: tests, benchmarks and the demo. `cargo xtask guests` calls it, and so does
//! the first test that asks for a guest; a build that is up to date costs a look at the
//! sources' times.
//!
//! They are WebAssembly components, built by a second run of cargo into `target/guests-build`
//! and put into `target/guests`, whatever `CARGO_TARGET_DIR` says. What that needs beyond Rust is the target `wasm32-wasip2`, which is added by
//! rustup if it is missing. Where that is not possible, set `FLUMEN_GUESTS_DIR` to a folder of
//! components that were built elsewhere; plugins/README.md says how.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// The target that components are built for.
pub const TARGET: &str = "wasm32-wasip2";

/// Names a folder of finished components, for machines without the target.
pub const GUESTS_DIR_VARIABLE: &str = "FLUMEN_GUESTS_DIR";

/// The workspaces of guests, below the root of the repository.
const WORKSPACES: &[&str] = &["plugins/samples", "plugins/hostile"];

/// What guests are made of: when nothing of it is newer than the last build, that build is good.
const SOURCES: &[&str] = &[
    "wit",
    "plugins/sdk",
    "plugins/sdk-macros",
    "plugins/samples",
    "plugins/hostile",
];

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The target is missing and could not be added.
    #[error(
        "the Rust target {TARGET} is not installed, and `rustup target add {TARGET}` does not \
         work here ({0}). Install it by hand, or set {GUESTS_DIR_VARIABLE} to a folder of \
         components built elsewhere: see plugins/README.md"
    )]
    TargetMissing(String),
    /// Cargo failed; it has said why on standard error.
    #[error("cargo could not build the plugins in {workspace}: {status}")]
    Build {
        /// The folder.
        workspace: PathBuf,
        /// How cargo ended.
        status: std::process::ExitStatus,
    },
    /// No such guest.
    #[error("there is no guest {name:?}: {path} cannot be read: {source}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Where it would be.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file or program could not be used.
    #[error("cannot build the plugins: {what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the operating system says.
        source: io::Error,
    },
}

/// The bytes of a guest, such as `json-filter`, built if need be.
///
/// # Panics
/// With a text that says what to do, when it cannot be built: tests have no better use for
/// an error.
pub fn guest(name: &str) -> Vec<u8> {
    match find(name) {
        Ok(bytes) => bytes,
        Err(error) => panic!("{error}"),
    }
}

/// As [`guest`], for callers that handle the error.
pub fn find(name: &str) -> Result<Vec<u8>, GuestError> {
    let path = build()?.join(format!("{}.wasm", name.replace('-', "_")));
    fs::read(&path).map_err(|source| GuestError::Unknown {
        name: name.to_owned(),
        path,
        source,
    })
}

/// Builds all guests unless that is done already, and returns the folder that they are in.
pub fn build() -> Result<PathBuf, GuestError> {
    if let Some(dir) = std::env::var_os(GUESTS_DIR_VARIABLE) {
        return Ok(dir.into());
    }
    let root = root();
    let target_dir = build_dir();
    let guests = root.join("target/guests");
    for dir in [&target_dir, &guests] {
        fs::create_dir_all(dir)
            .map_err(|source| io_error(format!("create {}", dir.display()), source))?;
    }
    // Tests run in many processes; the first one builds.
    let lock_path = target_dir.join("flumen.lock");
    let lock = File::create(&lock_path)
        .and_then(|lock| lock.lock().map(|()| lock))
        .map_err(|source| io_error(format!("lock {}", lock_path.display()), source))?;
    let stamp = target_dir.join("flumen.stamp");
    if !is_current(&root, &stamp)? {
        let started = SystemTime::now();
        ensure_target()?;
        for workspace in WORKSPACES {
            run_cargo(&root.join(workspace), &target_dir)?;
        }
        let built = target_dir.join(TARGET).join("release");
        collect(&built, &guests)
            .map_err(|source| io_error(format!("copy from {}", built.display()), source))?;
        File::create(&stamp)
            .and_then(|stamp| stamp.set_modified(started))
            .map_err(|source| io_error(format!("write {}", stamp.display()), source))?;
    }
    drop(lock);
    Ok(guests)
}

/// The workspaces of guests.
pub fn workspaces() -> Vec<PathBuf> {
    WORKSPACES
        .iter()
        .map(|folder| root().join(folder))
        .collect()
}

/// Where guests, and their own tests, are built.
pub fn build_dir() -> PathBuf {
    root().join("target/guests-build")
}

/// Copies the components that a build has left.
fn collect(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if let (Some(name), Some("wasm")) = (
            path.file_name(),
            path.extension().and_then(|extension| extension.to_str()),
        ) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// The root of the repository, two folders up from this crate.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

fn is_current(root: &Path, stamp: &Path) -> Result<bool, GuestError> {
    let Ok(built) = fs::metadata(stamp).and_then(|stamp| stamp.modified()) else {
        return Ok(false);
    };
    for source in SOURCES {
        let source = root.join(source);
        let newest = newest(&source)
            .map_err(|error| io_error(format!("look at {}", source.display()), error))?;
        if newest >= built {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The latest time that a file below `path` was changed.
fn newest(path: &Path) -> io::Result<SystemTime> {
    let metadata = fs::metadata(path)?;
    let mut newest = metadata.modified()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // A lock file that cargo writes is no change, and neither is what it builds.
            if entry.file_name() != "target" && entry.file_name() != "Cargo.lock" {
                newest = newest.max(self::newest(&entry.path())?);
            }
        }
    }
    Ok(newest)
}

fn ensure_target() -> Result<(), GuestError> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output();
    if output.is_ok_and(|output| {
        let dir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&dir).is_dir()
    }) {
        return Ok(());
    }
    match Command::new("rustup")
        .args(["target", "add", TARGET])
        .status()
    {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(GuestError::TargetMissing(status.to_string())),
        Err(error) => Err(GuestError::TargetMissing(error.to_string())),
    }
}

fn run_cargo(workspace: &Path, target_dir: &Path) -> Result<(), GuestError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(workspace)
        // Flags for the host's build, such as those of a coverage run, are not for guests.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .status()
        .map_err(|source| io_error("run cargo".to_owned(), source))?;
    if status.success() {
        Ok(())
    } else {
        Err(GuestError::Build {
            workspace: workspace.to_owned(),
            status,
        })
    }
}

fn io_error(what: String, source: io::Error) -> GuestError {
    GuestError::Io { what, source }
}
