//! A plugin's component and what it is deployed as, as arguments.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use flumen_protocol::{limits::PLUGIN_BYTES_MAX, plugin::PluginInfo, topic::Name};

use crate::output;

/// Arguments that `deploy` and `upgrade` share.
#[derive(Debug, clap::Args)]
pub(crate) struct ComponentArguments {
    /// The plugin's name
    pub(crate) name: Name,
    /// The WebAssembly component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The version, as its author counts; default: 0.0.0 when it is deployed, and the one that it
    /// has when it is upgraded
    #[arg(long, value_name = "V", value_parser = parse_version)]
    pub(crate) version: Option<String>,
}

impl ComponentArguments {
    /// What was attempted, for an error.
    pub(crate) fn cannot(&self, verb: &str) -> String {
        let file = self.file.display();
        format!("cannot {verb} {file} as plugin {}", self.name)
    }

    /// Where the version comes from, if nobody named it.
    pub(crate) fn version_note(&self, came_from: &str) -> String {
        match self.version {
            Some(_) => String::new(),
            None => format!("; {came_from}, --version names another"),
        }
    }

    /// The bytes of the component.
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        read_component(&self.file)
    }
}

fn parse_version(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err(
            "a version is not empty; write one such as 1.2.0, or leave --version away".into(),
        );
    }
    Ok(text.trim().to_owned())
}

/// The bytes of a component, if they can be one by their size.
pub(crate) fn read_component(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("cannot read the plugin {}", path.display());
    let file = std::fs::File::open(path).with_context(failed)?;
    // What a file says of its length need not be so: devices and pipes have none.
    let bytes_max = PLUGIN_BYTES_MAX as u64;
    let mut bytes = Vec::new();
    let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
    if read.with_context(failed)? as u64 > bytes_max {
        bail!(
            "the plugin {} is larger than the {} that are allowed; build it with --release, \
             opt-level and strip",
            path.display(),
            output::bytes(bytes_max)
        );
    }
    Ok(bytes)
}

/// `0.1.0 (filter, 144 KiB)`.
pub(crate) fn summary(info: &PluginInfo) -> String {
    format!(
        "{} ({}, {})",
        info.version,
        info.world,
        output::bytes(info.size_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_has_no_end_is_refused_as_too_large() {
        let error = read_component(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("16 MiB"), "{error}");
    }
}
