//! What `wit-bindgen` makes of the WIT package. The two worlds share its types, so that the
//! rest of the crate is written once.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    reason = "generated code, whose reference is the WIT package"
)]

pub mod filter {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "filter",
        pub_export_macro: true,
        default_bindings_module: "flumen_plugin::bindings::filter",
    });
}

pub mod transform {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "transform",
        pub_export_macro: true,
        default_bindings_module: "flumen_plugin::bindings::transform",
        with: {
            "flumen:plugin/types@0.1.0": crate::bindings::filter::flumen::plugin::types,
            "flumen:plugin/host@0.1.0": crate::bindings::filter::flumen::plugin::host,
        },
    });
}

pub use filter::flumen::plugin::{host, types};
