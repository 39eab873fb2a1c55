//! UDP sockets with an endpoint on them.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, ServerConfig};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    restart,
    runtime::GatheringRuntime,
    tuning::{MTU_MAX_BYTES, SOCKET_BUFFER_BYTES},
};

/// Where sockets come from: the system, or a simulated network.
pub trait Network: fmt::Debug + Send + Sync {
    /// A UDP socket on `address`; port 0 is any that is free.
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// An endpoint for outgoing connections to addresses of the family of `peer`.
    fn client(&self, peer: SocketAddr) -> io::Result<Endpoint> {
        let any = match peer {
            SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        endpoint(self.bind(any)?, EndpointConfig::default(), None)
    }

    /// An endpoint that accepts connections on `listen`.
    fn server(&self, listen: SocketAddr, config: ServerConfig) -> io::Result<Endpoint> {
        let socket = self.bind(listen)?;
        endpoint(socket, EndpointConfig::default(), Some(config))
    }

    /// As [`Network::server`], for one that keeps a secret from life to life: after a restart it
    /// ends the connections of its earlier life at once, where clients would otherwise wait for
    /// their idle time-out (see [`restart`]).
    fn server_with_secret(
        &self,
        listen: SocketAddr,
        config: ServerConfig,
        secret: &[u8],
    ) -> io::Result<Endpoint> {
        let socket = self.bind(listen)?;
        endpoint(socket, restart::endpoint_config(secret), Some(config))
    }
}

/// The network of the system. Its sockets belong to the tokio runtime in which they are bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Udp;

impl Network for Udp {
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        // The kernel caps what is asked for at its own limit; less still works.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        socket.bind(&address.into())?;
        GatheringRuntime.wrap_udp_socket(socket.into())
    }
}

/// An endpoint for outgoing connections to addresses of the family of `peer`.
pub fn client(peer: SocketAddr) -> io::Result<Endpoint> {
    Udp.client(peer)
}

/// An endpoint that accepts connections on `listen`.
pub fn server(listen: SocketAddr, config: ServerConfig) -> io::Result<Endpoint> {
    Udp.server(listen, config)
}

/// As [`Network::server_with_secret`], on the network of the system.
pub fn server_with_secret(
    listen: SocketAddr,
    config: ServerConfig,
    secret: &[u8],
) -> io::Result<Endpoint> {
    Udp.server_with_secret(listen, config, secret)
}

fn endpoint(
    socket: Arc<dyn AsyncUdpSocket>,
    mut config: EndpointConfig,
    server: Option<ServerConfig>,
) -> io::Result<Endpoint> {
    // What this end says it takes bounds the packets that the other end tries.
    config
        .max_udp_payload_size(MTU_MAX_BYTES)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(GatheringRuntime))
}
