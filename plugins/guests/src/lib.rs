//! Builds the plugins of this repository (`plugins/samples` and `plugins/hostile`) for those
//! who need them: tests, benchmarks and the demo. `cargo xtask guests` calls it, and so does
//! the first test that asks for a guest; a build that is up to date costs a look at the
//! sources' times.
//!
//! They are WebAssembly components, built by a second run of cargo into `target/guests-build`
//! and put into `target/guests`, whatever `CARGO_TARGET_DIR` says. There are two ways:
//!
//! - The target `wasm32-wasip2`, whose linker makes components. Rustup adds it if it is missing.
//! - Where it cannot be had: `wasm32-unknown-unknown`, with a standard library that cargo
//!   builds from its source, and components made of the modules here. `FLUMEN_GUESTS_TARGET`
//!   asks for it.
//!
//! `FLUMEN_GUESTS_DIR` names a folder of components that were built elsewhere, which are then
//! used as they are. See `docs/building-guests.md`.
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

/// The target for machines that cannot have the other one.
const FALLBACK_TARGET: &str = "wasm32-unknown-unknown";

/// Chooses one of the two targets.
pub const TARGET_VARIABLE: &str = "FLUMEN_GUESTS_TARGET";

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
    /// There is no target to build for.
    #[error(
        "the Rust target {TARGET} is not installed and rustup cannot add it ({0}), and there is \
         no source of the standard library to build another one from (`rustup component add \
         rust-src`, or Debian's rust-web-src); docs/building-guests.md tells the ways"
    )]
    NoTarget(String),
    /// A module that makes no component.
    #[error("{path} cannot be made a component: {text}")]
    Componentize {
        /// The module.
        path: PathBuf,
        /// Why.
        text: String,
    },
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
        let target = choose_target()?;
        for workspace in WORKSPACES {
            run_cargo(&root.join(workspace), target)?;
        }
        collect(target, &guests)?;
        fs::write(&stamp, asked_target())
            .and_then(|()| File::options().append(true).open(&stamp))
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

/// A target, and whether its standard library is there or has to be built.
#[derive(Clone, Copy)]
struct Target {
    name: &'static str,
    build_std: bool,
}

/// Copies the components that a build has left, or makes them of the modules.
fn collect(target: Target, to: &Path) -> Result<(), GuestError> {
    let from = build_dir().join(target.name).join("release");
    let entries = fs::read_dir(&from)
        .map_err(|source| io_error(format!("list {}", from.display()), source))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let (Some(name), Some("wasm")) = (
            path.file_name(),
            path.extension().and_then(|extension| extension.to_str()),
        ) else {
            continue;
        };
        let mut bytes = fs::read(&path)
            .map_err(|source| io_error(format!("read {}", path.display()), source))?;
        if target.name == FALLBACK_TARGET {
            bytes = componentize(&bytes).map_err(|text| GuestError::Componentize {
                path: path.clone(),
                text,
            })?;
        }
        let copy = to.join(name);
        fs::write(&copy, bytes)
            .map_err(|source| io_error(format!("write {}", copy.display()), source))?;
    }
    Ok(())
}

/// What the linker of `wasm32-wasip2` does by itself: the module carries the description of its
/// world along.
fn componentize(module: &[u8]) -> Result<Vec<u8>, String> {
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(wit_component::ComponentEncoder::encode)
        .map_err(|error| format!("{error:#}"))
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
    if fs::read_to_string(stamp).ok() != Some(asked_target()) {
        return Ok(false);
    }
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

/// The target to build for: as the environment says, else the first that can be had.
fn choose_target() -> Result<Target, GuestError> {
    let asked = asked_target();
    let may_be = |target| asked.is_empty() || asked == target;
    let mut reason = format!("{TARGET_VARIABLE} asks for {asked:?}");
    if may_be(TARGET) {
        match ensure_target() {
            Ok(()) => {
                return Ok(Target {
                    name: TARGET,
                    build_std: false,
                });
            }
            Err(error) => reason = error,
        }
    }
    if may_be(FALLBACK_TARGET) {
        let has_library = has_library(FALLBACK_TARGET);
        if has_library || has_library_source() {
            return Ok(Target {
                name: FALLBACK_TARGET,
                build_std: !has_library,
            });
        }
    }
    Err(GuestError::NoTarget(reason))
}

/// What the environment asks for, or nothing.
fn asked_target() -> String {
    std::env::var(TARGET_VARIABLE).unwrap_or_default()
}

fn ensure_target() -> Result<(), String> {
    if has_library(TARGET) {
        return Ok(());
    }
    match Command::new("rustup")
        .args(["target", "add", TARGET])
        .status()
    {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn has_library(target: &str) -> bool {
    ask_rustc(&["--print", "target-libdir", "--target", target]).is_some_and(|dir| dir.is_dir())
}

fn has_library_source() -> bool {
    ask_rustc(&["--print", "sysroot"]).is_some_and(|dir| {
        dir.join("lib/rustlib/src/rust/library/Cargo.lock")
            .is_file()
    })
}

fn ask_rustc(arguments: &[&str]) -> Option<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(arguments).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| answer.trim().into())
}

fn run_cargo(workspace: &Path, target: Target) -> Result<(), GuestError> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--target",
            target.name,
        ])
        .arg("--target-dir")
        .arg(build_dir())
        .current_dir(workspace)
        // Flags for the host's build, such as those of a coverage run, are not for guests.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    if target.build_std {
        // Building the standard library is not stable yet, but needs no other compiler.
        cargo
            .args(["-Z", "build-std=std,panic_abort"])
            .env("RUSTC_BOOTSTRAP", "1");
    }
    let status = cargo
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
