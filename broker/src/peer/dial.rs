//! Making a connection to another broker.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use flumen_protocol::ids::BrokerId;
use flumen_transport::{
    quinn::{
        ClientConfig, Connecting, Connection, ConnectionError, Endpoint, VarInt,
        crypto::rustls::QuicClientConfig,
    },
    stream::{FrameReader, FrameWriter, Payload},
    tls::TlsError,
    tuning,
};

use tokio::sync::watch;

use super::{
    accept::broker_of,
    envelope::FRAME_LIMITS,
    wire::{Hello, PeerOpen, reason_of, says_removed},
};
use crate::identity::PeerCredentials;

/// How long it may take until a broker has answered.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Who is not let in is told so at once; an answer that takes longer is none.
const VERDICT_TIMEOUT: Duration = Duration::from_millis(200);

/// Of the addresses that a name stands for, so many are tried.
const ADDRESSES_MAX: usize = 4;

/// QUIC wants a name; certificates of brokers are checked for their ids instead.
const SERVER_NAME: &str = "broker.flumen";

/// Makes connections to other brokers from the endpoint that they, too, come to.
pub(super) struct Dialer {
    endpoint: Endpoint,
    credentials: PeerCredentials,
    /// The broker that has said that this one was removed from the cluster.
    removed_by: watch::Sender<Option<BrokerId>>,
}

/// A connection whose other side has introduced itself, with its stream of calls.
pub(super) struct Dialed {
    pub(super) connection: Connection,
    pub(super) writer: FrameWriter,
    pub(super) reader: FrameReader,
}

impl Dialer {
    pub(super) fn new(endpoint: Endpoint, credentials: PeerCredentials) -> Self {
        Self {
            endpoint,
            credentials,
            removed_by: watch::Sender::new(None),
        }
    }

    /// Takes note of how a connection with another broker has ended.
    pub(super) fn note_end(&self, by: BrokerId, error: &ConnectionError) {
        if says_removed(error) {
            self.removed_by.send_replace(Some(by));
        }
    }

    /// Waits until a broker says that this one was removed from the cluster; for ever if none does.
    pub(super) fn removed(&self) -> impl Future<Output = BrokerId> + Send + use<> {
        let mut removed_by = self.removed_by.subscribe();
        async move {
            let by = removed_by.wait_for(Option::is_some).await;
            if let Ok(Some(by)) = by.map(|by| *by) {
                return by;
            }
            std::future::pending().await
        }
    }

    /// Connects to a broker at `address`, `host:port`; the error says why it did not answer.
    pub(super) async fn dial(&self, to: BrokerId, address: &str) -> Result<Dialed, String> {
        self.first(address, |address| self.dial_address(to, address))
            .await
    }

    /// Asks which broker of the cluster is at `address`. One that says that this broker was removed
    /// is heard.
    pub(super) async fn who_is_at(&self, address: &str) -> Result<BrokerId, String> {
        self.first(address, |address| self.ask_who(address)).await
    }

    /// Makes sure that a broker can be dialed at `address`, by a connection that is closed at once.
    pub(super) async fn try_address(&self, broker: BrokerId, address: &str) -> Result<(), String> {
        self.first(address, |address| self.knock(broker, address))
            .await
    }

    /// What comes of the first of a host's addresses where something does.
    async fn first<T, F: Future<Output = Result<T, String>>>(
        &self,
        address: &str,
        attempt: impl Fn(SocketAddr) -> F,
    ) -> Result<T, String> {
        let mut reason = format!("{address} is no address that this broker can reach");
        for address in self.resolve(address).await?.into_iter().take(ADDRESSES_MAX) {
            match tokio::time::timeout(DIAL_TIMEOUT, attempt(address)).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => reason = format!("{address}: {error}"),
                Err(_) => reason = format!("{address} did not answer within {DIAL_TIMEOUT:?}"),
            }
        }
        Err(reason)
    }

    async fn knock(&self, broker: BrokerId, address: SocketAddr) -> Result<(), String> {
        let connecting = self.connect(self.credentials.tls_towards(broker), address)?;
        let connection = connecting.await.map_err(|error| reason_of(&error))?;
        connection.close(VarInt::from_u32(0), b"only tried whether it is there");
        Ok(())
    }

    async fn ask_who(&self, address: SocketAddr) -> Result<BrokerId, String> {
        let tls = self.credentials.tls_towards_any();
        let connecting = self.connect(tls, address)?;
        let connection = connecting.await.map_err(|error| reason_of(&error))?;
        let broker = broker_of(&connection).map_err(|refusal| refusal.reason)?;
        match tokio::time::timeout(VERDICT_TIMEOUT, connection.closed()).await {
            Ok(error) => self.note_end(broker, &error),
            Err(_) => connection.close(VarInt::from_u32(0), b"only asked who is there"),
        }
        Ok(broker)
    }

    fn connect(
        &self,
        tls: Result<QuicClientConfig, TlsError>,
        address: SocketAddr,
    ) -> Result<Connecting, String> {
        let mut config = ClientConfig::new(Arc::new(tls.map_err(|error| error.to_string())?));
        config.transport_config(tuning::peer_transport_config());
        let connecting = self.endpoint.connect_with(config, address, SERVER_NAME);
        connecting.map_err(|error| error.to_string())
    }

    async fn dial_address(&self, to: BrokerId, address: SocketAddr) -> Result<Dialed, String> {
        let connecting = self.connect(self.credentials.tls_towards(to), address)?;
        let ended = |error: &ConnectionError| {
            self.note_end(to, error);
            reason_of(error)
        };
        let connection = connecting.await.map_err(|error| ended(&error))?;
        match introduce(&connection).await {
            Ok((writer, reader)) => Ok(Dialed {
                connection,
                writer,
                reader,
            }),
            Err(error) => Err(match connection.close_reason() {
                Some(error) => ended(&error),
                None => error,
            }),
        }
    }

    /// The addresses of a host that this endpoint can send to.
    async fn resolve(&self, address: &str) -> Result<Vec<SocketAddr>, String> {
        let is_ipv4 = self
            .endpoint
            .local_addr()
            .is_ok_and(|local| local.is_ipv4());
        let found = match address.parse() {
            Ok(address) => vec![address],
            Err(_) => tokio::time::timeout(DIAL_TIMEOUT, tokio::net::lookup_host(address))
                .await
                .map_err(|_| format!("the name in {address} was not found in time"))?
                .map_err(|error| format!("{address} cannot be found: {error}"))?
                .collect(),
        };
        let can_send = |address: &SocketAddr| !is_ipv4 || address.is_ipv4();
        Ok(found.into_iter().filter(can_send).collect())
    }
}

/// Says who we are, and waits until the other side has let us in.
async fn introduce(connection: &Connection) -> Result<(FrameWriter, FrameReader), String> {
    let (send, receive) = connection
        .open_bi()
        .await
        .map_err(|error| reason_of(&error))?;
    let mut writer = FrameWriter::new(send);
    let mut reader = FrameReader::new(receive, FRAME_LIMITS);
    let hello = PeerOpen::Calls(Hello::ours());
    writer
        .send(&hello, Payload::None)
        .await
        .map_err(|error| error.to_string())?;
    match reader.next::<Hello>().await {
        Ok(Some((welcome, _))) => {
            tracing::debug!(version = welcome.version, "a broker has let us in");
            Ok((writer, reader))
        }
        Ok(None) => Err("it ended the conversation".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
