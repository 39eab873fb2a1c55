//! Builds the plugins of this repository as WebAssembly components, for the tests, the demo
//! and the benchmarks, which find them as `target/guests/NAME.wasm`.
//!
//! The way is `wasm32-wasip2`, a target that rustup can add. Where it cannot, see
//! `docs/building-guests.md` for another one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::shell::{self, cargo, command, output, root, step};

/// The target that guests are built for: its linker makes components.
const TARGET: &str = "wasm32-wasip2";

/// Folders of guests, each a workspace of its own.
const WORKSPACES: [&str; 2] = ["plugins/samples", "plugins/hostile"];

/// The workspaces that are there.
pub(crate) fn workspaces() -> Vec<PathBuf> {
    WORKSPACES
        .iter()
        .map(|folder| root().join(folder))
        .filter(|folder| folder.join("Cargo.toml").exists())
        .collect()
}

/// Where guests are built.
pub(crate) fn build_dir() -> PathBuf {
    root().join("target/guests-build")
}

/// Where finished components are put, whatever `CARGO_TARGET_DIR` says: tests look here.
pub(crate) fn guests_dir() -> PathBuf {
    root().join("target/guests")
}

pub(crate) fn run() -> Result<()> {
    step("guests");
    install_target()?;
    for workspace in workspaces() {
        shell::run(
            cargo()
                .args(["build", "--release", "--locked", "--target", TARGET])
                .arg("--manifest-path")
                .arg(workspace.join("Cargo.toml"))
                .arg("--target-dir")
                .arg(build_dir()),
        )?;
    }
    let built = build_dir().join(TARGET).join("release");
    let count = collect(&built, &guests_dir())?;
    eprintln!("{count} components in {}", guests_dir().display());
    Ok(())
}

/// Copies components that have changed, so that what has not keeps its time stamp.
fn collect(from: &Path, to: &Path) -> Result<usize> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
    let mut count = 0;
    for entry in entries {
        let path = entry?.path();
        let (Some(name), Some("wasm")) =
            (path.file_name(), path.extension().and_then(|e| e.to_str()))
        else {
            continue;
        };
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let copy = to.join(name);
        if fs::read(&copy).ok().as_ref() != Some(&bytes) {
            fs::write(&copy, bytes).with_context(|| format!("cannot write {}", copy.display()))?;
        }
        count += 1;
    }
    Ok(count)
}

fn install_target() -> Result<()> {
    if has_target()? {
        return Ok(());
    }
    eprintln!("the target {TARGET} is not installed; asking rustup for it");
    let added = shell::run(command("rustup").args(["target", "add", TARGET]));
    if added.is_ok() && has_target()? {
        return Ok(());
    }
    bail!("rustup cannot add {TARGET} from here; docs/building-guests.md tells another way")
}

fn has_target() -> Result<bool> {
    let library = output(command("rustc").args(["--print", "target-libdir", "--target", TARGET]))?;
    Ok(Path::new(library.trim()).is_dir())
}
