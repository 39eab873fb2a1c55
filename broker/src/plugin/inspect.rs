//! Examines a component before it becomes a plugin, to refuse it in words that say what to do.
use flumen_protocol::plugin::World;
use wasmtime::{Engine, component::Component};

use super::{error::DeployError, limits::PLUGIN_BYTES_MAX};

/// The version of the WIT package that this broker offers.
pub(super) const OFFERED_VERSION: &str = "0.1.0";

const PACKAGE: &str = "flumen:plugin/";
const FILTERING: &str = "flumen:plugin/filtering";
const TRANSFORMING: &str = "flumen:plugin/transforming";

/// Interfaces that a component may import; of WASI any 0.2 release, which wasmtime matches.
const OFFERED: &[&str] = &[
    "flumen:plugin/host",
    "flumen:plugin/types",
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

pub(super) fn check_size(bytes: &[u8]) -> Result<(), DeployError> {
    if bytes.len() > PLUGIN_BYTES_MAX {
        return Err(DeployError::TooLarge { bytes: bytes.len() });
    }
    Ok(())
}

/// By the first eight bytes: WebAssembly at all, and of which layer.
pub(super) fn check_kind(bytes: &[u8]) -> Result<(), DeployError> {
    match bytes {
        [b'\0', b'a', b's', b'm', _, _, 0, 0, ..] => Err(DeployError::CoreModule),
        [b'\0', b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [b'\0', b'a', b's', b'm', ..] => Err(DeployError::NotWebAssembly(
            "it begins like WebAssembly, and then is of no version or layer that there is"
                .to_owned(),
        )),
        [] => Err(DeployError::NotWebAssembly("it is empty".to_owned())),
        _ => {
            let first: Vec<_> = bytes.iter().take(8).copied().collect();
            Err(DeployError::NotWebAssembly(format!(
                "it begins with \"{}\", not with \"\\0asm\"",
                first.escape_ascii()
            )))
        }
    }
}

/// By the names of what it exports and imports.
pub(super) fn check_interfaces(
    engine: &Engine,
    component: &Component,
) -> Result<World, DeployError> {
    let types = component.component_type();
    let exports: Vec<_> = types
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    let imports: Vec<_> = types
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();

    for name in exports.iter().chain(&imports) {
        if name.starts_with(PACKAGE) && version(name) != OFFERED_VERSION {
            return Err(DeployError::WrongVersion {
                found: name.clone(),
                offered: OFFERED_VERSION,
            });
        }
    }
    let has = |interface| exports.iter().any(|name| base(name) == interface);
    let world = match (has(FILTERING), has(TRANSFORMING)) {
        (true, false) => World::Filter,
        (false, true) => World::Transform,
        (true, true) => return Err(DeployError::TwoWorlds),
        (false, false) => {
            let found = if exports.is_empty() {
                "nothing".to_owned()
            } else {
                exports.join(", ")
            };
            return Err(DeployError::WrongWorld {
                found,
                offered: OFFERED_VERSION,
            });
        }
    };
    let others: Vec<_> = imports
        .into_iter()
        .filter(|name| !is_offered(name))
        .collect();
    if others.is_empty() {
        Ok(world)
    } else {
        Err(DeployError::ImportsNotOffered(others))
    }
}

fn is_offered(import: &str) -> bool {
    OFFERED.contains(&base(import))
        && (import.starts_with(PACKAGE) || version(import).starts_with("0.2."))
}

/// `flumen:plugin/host` of `flumen:plugin/host@0.1.0`.
fn base(name: &str) -> &str {
    name.split_once('@').map_or(name, |(base, _)| base)
}

/// `0.1.0` of `flumen:plugin/host@0.1.0`.
fn version(name: &str) -> &str {
    name.split_once('@').map_or("", |(_, version)| version)
}
