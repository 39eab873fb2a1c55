//! The client against a scripted broker: real QUIC over loopback, the real protocol, and
//! faults on command.
#![allow(clippy::unwrap_used)]

mod admin;
mod broker;
mod connect;
mod consume;
mod cut_off;
mod follow;
mod produce;
mod reach;
mod resume;
mod share;
mod zone;
