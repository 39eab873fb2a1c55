//! Builds the plugins of this repository as WebAssembly components, for the tests, the demo
//! and the benchmarks, which find them as `target/guests/NAME.wasm`.

use anyhow::Result;

use crate::shell::step;

pub(crate) use flumen_guests::{build_dir, workspaces};

pub(crate) fn run() -> Result<()> {
    step("guests: the plugins of this repository as WebAssembly components");
    let folder = flumen_guests::build()?;
    eprintln!("they are in {}", folder.display());
    Ok(())
}
