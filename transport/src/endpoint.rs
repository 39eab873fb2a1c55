//! UDP sockets with an endpoint on them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use quinn::{Endpoint, EndpointConfig, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    restart,
    runtime::GatheringRuntime,
    tuning::{MTU_MAX_BYTES, SOCKET_BUFFER_BYTES},
};

/// An endpoint for outgoing connections to addresses of the family of `peer`.
pub fn client(peer: SocketAddr) -> io::Result<Endpoint> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    bind(any, EndpointConfig::default(), None)
}

/// An endpoint that accepts connections on `listen`.
pub fn server(listen: SocketAddr, config: ServerConfig) -> io::Result<Endpoint> {
    bind(listen, EndpointConfig::default(), Some(config))
}

/// As [`server`], for one that keeps a secret from life to life: after a restart it ends the
/// connections of its earlier life at once, where clients would otherwise wait for their idle
/// time-out (see [`restart`]).
pub fn server_with_secret(
    listen: SocketAddr,
    config: ServerConfig,
    secret: &[u8],
) -> io::Result<Endpoint> {
    bind(listen, restart::endpoint_config(secret), Some(config))
}

fn bind(
    address: SocketAddr,
    mut config: EndpointConfig,
    server: Option<ServerConfig>,
) -> io::Result<Endpoint> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    // The kernel caps what is asked for at its own limit; less still works.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    // What this end says it takes bounds the packets that the other end tries.
    config
        .max_udp_payload_size(MTU_MAX_BYTES)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Endpoint::new(config, server, socket.into(), Arc::new(GatheringRuntime))
}
