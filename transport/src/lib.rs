//! QUIC as Flumen uses it.
