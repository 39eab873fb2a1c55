//! Letting clients know at once that a broker has restarted.
//!
//! A broker that was killed knows nothing of its connections when it is back. By itself it
//! ignores their packets, and clients notice no earlier than their idle time-out. A stateless
//! reset (RFC 9000, section 10.3) ends such a connection with the first packet; for that, the
//! broker must sign reset tokens with the same key in every life. The key is derived from a
//! secret that the broker keeps anyway, such as its TLS key.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::{hmac, rand};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};

/// Bytes of a connection id.
const CONNECTION_ID_LEN: usize = 8;

/// An endpoint configuration whose reset tokens are the same in every life of a broker with
/// this secret.
pub fn endpoint_config(secret: &[u8]) -> EndpointConfig {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let reset_key = hmac::sign(&secret, b"flumen stateless reset");
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, reset_key.as_ref());
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Ids of any form are answered, for they may be those of an earlier life. The default
/// generator would take them for noise.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_LEN];
        rand::fill(&mut bytes).expect("the system has random bytes");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

    use quinn::{ConnectionError, ServerConfig};
    use tokio::runtime::Runtime;

    use super::*;
    use crate::{endpoint, tls, tuning};

    /// A server in a runtime of its own, so that it can go without a word.
    fn serve(address: SocketAddr, config: ServerConfig, secret: &[u8]) -> (Runtime, SocketAddr) {
        let runtime = Runtime::new().unwrap();
        let guard = runtime.enter();
        let endpoint = endpoint::server_with_secret(address, config, secret).unwrap();
        let address = endpoint.local_addr().unwrap();
        tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Some(incoming) = endpoint.accept().await {
                connections.push(incoming.await);
            }
        });
        drop(guard);
        (runtime, address)
    }

    #[tokio::test]
    async fn a_restarted_server_ends_the_connections_of_its_earlier_life_at_once() {
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let cert_pem = key.cert.pem();
        let key_pem = key.signing_key.serialize_pem();
        let identity = tls::Identity {
            cert_pem: &cert_pem,
            key_pem: &key_pem,
        };
        let crypto = tls::server_config(identity, &cert_pem, &[b"test"]).unwrap();
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(tuning::transport_config(8));
        let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
        let (first_life, address) = serve(any, server.clone(), key_pem.as_bytes());

        let crypto = tls::client_config(&cert_pem, None, b"test").unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(tuning::transport_config(8));
        let client = endpoint::client(address).unwrap();
        let connecting = client.connect_with(config, address, "localhost").unwrap();
        let connection = connecting.await.unwrap();
        first_life.shutdown_background();
        // The port is free once the first life is really over.
        while UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
        let (second_life, _) = serve(address, server, key_pem.as_bytes());

        let (mut stream, _receive) = connection.open_bi().await.unwrap();
        stream.write_all(b"are you there?").await.unwrap();
        let closed = tokio::time::timeout(tuning::IDLE_TIMEOUT / 2, connection.closed()).await;
        assert!(matches!(closed, Ok(ConnectionError::Reset)), "{closed:?}");
        second_life.shutdown_background();
    }
}
