//! QUIC as Flumen uses it: one place for what client, broker and benchmarks share.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`tuning`] | every transport setting, with its reason |
//! | [`tls`] | TLS 1.3 for clients and brokers |
//! | [`endpoint`] | UDP sockets with an endpoint on them |
//! | [`restart`] | letting clients know at once that a broker has restarted |
//! | [`stream`] | frames over QUIC streams |
//! | [`credit`] | telling the other end that it may open streams again |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod credit;
pub mod endpoint;
pub mod restart;
mod runtime;
pub mod stream;
pub mod tls;
pub mod tuning;

pub use quinn;
