//! The wire protocol by hand, for what the client never does.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use flumen_client::Profile;
use flumen_protocol::{
    ALPN_CLIENT,
    message::{ConsumeOpen, Reply, Request, StreamOpen},
};
use flumen_transport::{
    endpoint,
    quinn::{ClientConfig, Connection, Endpoint},
    stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload, REPLY_LIMITS},
    tls, tuning,
};

/// A connection without any manners of its own.
#[derive(Debug)]
pub struct RawClient {
    /// The connection.
    pub connection: Connection,
    _endpoint: Endpoint,
}

impl RawClient {
    /// Connects and shows the profile's token.
    pub async fn connect(profile: &Profile) -> Result<Self> {
        let client = Self::connect_as_stranger(profile, ALPN_CLIENT).await?;
        let token = profile.contents().token.clone();
        let token = token.context("the profile has no token")?;
        client.request(Request::Authenticate { token }).await??;
        Ok(client)
    }

    /// Connects, speaking `alpn`, and shows nothing.
    pub async fn connect_as_stranger(profile: &Profile, alpn: &[u8]) -> Result<Self> {
        let profile = profile.contents();
        let address: SocketAddr = profile.brokers[0].parse()?;
        let crypto = tls::client_config(&profile.ca, None, alpn)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(tuning::transport_config(0));
        let endpoint = endpoint::client(address)?;
        let connection = endpoint.connect_with(config, address, "localhost")?.await?;
        Ok(Self {
            connection,
            _endpoint: endpoint,
        })
    }

    /// Opens a stream with its first frame.
    pub async fn open(&self, open: StreamOpen) -> Result<(FrameWriter, FrameReader)> {
        let (send, receive) = self.connection.open_bi().await?;
        let mut writer = FrameWriter::new(send);
        writer.send(&open, Payload::None).await?;
        Ok((writer, FrameReader::new(receive, REPLY_LIMITS)))
    }

    /// Opens a consume stream. It ends when the writer is dropped.
    pub async fn consume(&self, open: ConsumeOpen) -> Result<(FrameWriter, FrameReader)> {
        let (writer, mut reader) = self.open(StreamOpen::Consume(open)).await?;
        reader.set_limits(DATA_LIMITS);
        Ok((writer, reader))
    }

    /// Makes a control request.
    pub async fn request(&self, request: Request) -> Result<Reply> {
        let (mut writer, mut reader) = self.open(StreamOpen::Control(request)).await?;
        writer.finish();
        let (reply, _) = reader.next::<Reply>().await?.context("no reply")?;
        Ok(reply)
    }
}
