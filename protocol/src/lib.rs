//! The wire protocol and the batch format of Flumen. No I/O happens here: bytes go in,
//! values come out, and the other way round.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`batch`] | records laid out as columns: build, encode, check, decode |
//! | [`frame`] | length-delimited frames: a postcard header, then raw bytes |
//! | [`message`] | what the frames say on each kind of stream |
//! | [`topic`] | names and settings of topics |
//! | [`plugin`] | descriptions of plugins and of their bindings to topics |
//! | [`profile`] | what a client needs to reach a cluster |
//! | [`close`] | codes with which brokers close connections |
//! | [`error`] | error codes that both sides know, with a `retryable` mark |
//! | [`join`] | the token that lets a new broker in, and what is said for it |
//! | [`ids`] | newtypes for what must not be mixed up |
//! | [`size`] | numbers of bytes as people read them |
//! | [`limits`] | every limit of the formats, by name |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod batch;
pub mod close;
pub mod error;
pub mod frame;
pub mod ids;
pub mod join;
pub mod limits;
pub mod message;
pub mod plugin;
pub mod profile;
pub mod size;
pub mod topic;

/// The application protocol (ALPN) that clients speak. The number is the version:
/// a broker that speaks another one refuses the connection during the TLS handshake.
pub const ALPN_CLIENT: &[u8] = b"flumen/1";

/// The application protocol (ALPN) that brokers speak to each other.
pub const ALPN_PEER: &[u8] = b"flumen-peer/1";

/// The UDP port that brokers listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 4650;
