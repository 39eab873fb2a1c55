//! A client that is nothing but its connection.

use flumen_protocol::{ALPN_CLIENT, message::StreamOpen};
use flumen_transport::{
    endpoint,
    quinn::{ClientConfig, Connection},
    stream::{DATA_LIMITS, FrameReader, FrameWriter, Payload},
    tls, tuning,
};

use super::*;

/// Connects to a broker and shows it its token.
pub(super) async fn connect(broker: &Broker) -> Connection {
    let profile = broker.node().identity.profile(&[]);
    let crypto = tls::client_config(&profile.ca, None, ALPN_CLIENT).unwrap();
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(tuning::transport_config(0));
    let address = broker.local_addr();
    let endpoint = endpoint::client(address).unwrap();
    let connecting = endpoint.connect_with(client, address, "localhost");
    let connection = connecting.unwrap().await.unwrap();
    let token = profile.token.unwrap();
    let shown = StreamOpen::Control(Request::Authenticate { token });
    let (_writer, mut reader) = open(&connection, shown).await;
    let (reply, _) = reader.next::<Reply>().await.unwrap().unwrap();
    assert_eq!(reply, Ok(Response::Done));
    connection
}

/// Opens a stream with its first frame.
pub(super) async fn open(connection: &Connection, open: StreamOpen) -> (FrameWriter, FrameReader) {
    open_with(connection, open, Payload::None).await
}

/// As [`open`], with a payload in the first frame. Returns when the broker has taken so much of it
/// that the rest is on its way.
pub(super) async fn open_with(
    connection: &Connection,
    open: StreamOpen,
    payload: Payload<'_>,
) -> (FrameWriter, FrameReader) {
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    writer.send(&open, payload).await.unwrap();
    (writer, FrameReader::new(receive, DATA_LIMITS))
}
