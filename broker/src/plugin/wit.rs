//! The host's side of the WIT package, as wasmtime generates it.
//!
//! A plugin exports one of two interfaces. They are generated from one world that has both, so
//! that they share their types; nothing ever instantiates that world.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    reason = "generated code, whose reference is the WIT package"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package flumen:broker;

        world both {
            import flumen:plugin/host@0.1.0;
            export flumen:plugin/filtering@0.1.0;
            export flumen:plugin/transforming@0.1.0;
        }
    ",
    world: "flumen:broker/both",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});

pub(super) use self::{
    exports::flumen::plugin::{filtering, transforming},
    flumen::plugin::{host, types},
};
