//! The program as its users see it: every command, against a real broker where it needs one.
#![allow(clippy::unwrap_used, clippy::needless_pass_by_value)]

mod bench;
mod broker;
mod completing;
mod confirm;
mod joining;
mod plugins;
mod profiles;
mod records;
mod scripts;
mod stalled;
mod support;
mod usage;
mod waiting;
