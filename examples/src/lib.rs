//! One file per user task, each to be run by its name once a broker is there:
//!
//! ```text
//! flumen dev                                       # in one terminal
//! cargo run -p flumen-examples --example produce   # in another
//! ```
//!
//! | example | what it shows |
//! | --- | --- |
//! | `produce` | receipts one by one, and many messages fast |
//! | `consume` | all messages of a topic, and new ones as they come |
//! | `typed_json` | a type of your own as JSON, next to lines from elsewhere |
//! | `keys_and_headers` | order by key, and what travels beside the value |
//! | `replay_from_time` | reading again from a moment on |
//! | `stop_and_resume` | going on where another consumer stopped |
//! | `admin_topics` | making, describing, changing and deleting topics |
//! | `earthquakes` | a dashboard: real data, typed, figures as they come |
//! | `plugins` | deploying a filter and binding it to a topic |
//!
//! They use the default profile, or that which `FLUMEN_PROFILE` names.

/// What README shows is compiled with the tests of documentation.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// As above, with the guide for authors of plugins.
#[cfg(doctest)]
#[doc = include_str!("../../plugins/README.md")]
pub struct PluginReadme;
