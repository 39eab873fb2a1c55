//! UDP sockets with an endpoint on them.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tuning::{MTU_MAX_BYTES, SOCKET_BUFFER_BYTES};

/// An endpoint for outgoing connections to addresses of the family of `peer`.
pub fn client(peer: SocketAddr) -> io::Result<Endpoint> {
    let any = match peer {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    bind(any, None)
}

/// An endpoint that accepts connections on `listen`.
pub fn server(listen: SocketAddr, config: ServerConfig) -> io::Result<Endpoint> {
    bind(listen, Some(config))
}

fn bind(address: SocketAddr, server: Option<ServerConfig>) -> io::Result<Endpoint> {
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
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(MTU_MAX_BYTES)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Endpoint::new(
        config,
        server,
        socket.into(),
        Arc::new(TokioRuntime),
    )
}
