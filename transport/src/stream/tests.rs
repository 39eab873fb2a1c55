//! Frames over a real connection on loopback.

use std::{
    net::{Ipv4Addr, SocketAddr},
    task::Poll,
};

use bytes::Bytes;
use flumen_protocol::frame::FrameError;
use quinn::{Connection, Endpoint, RecvStream, SendStream};

use super::*;
use crate::{endpoint, tls, tuning};

/// Streams that the client may have open.
const STREAMS_MAX: u32 = 100;

pub(crate) struct Pair {
    client: (SendStream, RecvStream),
    server: (SendStream, RecvStream),
    connections: (Connection, Connection),
    _alive: (Endpoint, Endpoint),
}

impl Pair {
    pub(crate) fn outgoing(&self) -> &Connection {
        &self.connections.0
    }

    pub(crate) fn incoming(&self) -> &Connection {
        &self.connections.1
    }
}

pub(crate) async fn pair() -> Pair {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert_pem = key.cert.pem();
    let key_pem = key.signing_key.serialize_pem();
    let identity = tls::Identity {
        cert_pem: &cert_pem,
        key_pem: &key_pem,
    };
    let crypto = tls::server_config(identity, &cert_pem, &[b"test"]).unwrap();
    let mut config = quinn::ServerConfig::with_crypto(std::sync::Arc::new(crypto));
    config.transport_config(tuning::transport_config(STREAMS_MAX));
    let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let server = endpoint::server(any, config).unwrap();
    let address = server.local_addr().unwrap();

    let crypto = tls::client_config(&cert_pem, None, b"test").unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    let client = endpoint::client(address).unwrap();
    let connecting = client.connect_with(config, address, "localhost").unwrap();
    let accept = async { server.accept().await.unwrap().await.unwrap() };
    let (outgoing, incoming) = tokio::join!(connecting, accept);
    let outgoing = outgoing.unwrap();
    let mut ours = outgoing.open_bi().await.unwrap();
    ours.0.write_all(b"!").await.unwrap();
    let mut theirs = incoming.accept_bi().await.unwrap();
    theirs.1.read_exact(&mut [0]).await.unwrap();
    Pair {
        client: ours,
        server: theirs,
        connections: (outgoing, incoming),
        _alive: (server, client),
    }
}

#[tokio::test]
async fn frames_of_every_size_arrive_as_they_were_sent() {
    let pair = pair().await;
    let mut writer = FrameWriter::new(pair.client.0);
    let mut reader = FrameReader::new(pair.server.1, DATA_LIMITS);
    let sizes = [0, 1, 7, 1024, 1025, 5_999, 65_536, 3_000_001];
    let sender = tokio::spawn(async move {
        for (number, size) in sizes.into_iter().enumerate() {
            let payload = Bytes::from(vec![number as u8; size]);
            writer.push(&number, Payload::Bytes(&payload));
        }
        writer.flush().await.unwrap();
        assert_eq!(writer.buffered(), 0);
        writer.finish();
        writer.stopped().await;
    });
    for (number, size) in sizes.into_iter().enumerate() {
        let (header, payload) = reader.next_with_payload::<usize>().await.unwrap().unwrap();
        assert_eq!((header, payload.len()), (number, size));
        assert!(payload.iter().all(|byte| *byte == number as u8));
    }
    assert!(reader.next::<usize>().await.unwrap().is_none());
    sender.await.unwrap();
}

#[tokio::test]
async fn large_payloads_lie_at_a_block_of_memory_where_they_are_asked_to() {
    let pair = pair().await;
    let mut writer = FrameWriter::new(pair.client.0);
    let mut reader = FrameReader::new(pair.server.1, DATA_LIMITS);
    let sizes = [100, 65_536, 1_000_088, 70_000, 3_000_001, 5];
    tokio::spawn(async move {
        for (number, size) in sizes.into_iter().enumerate() {
            let payload = Bytes::from(vec![number as u8; size]);
            writer.push(&number, Payload::Bytes(&payload));
        }
        writer.flush().await.unwrap();
        writer.finish();
        writer.stopped().await;
    });
    for (number, size) in sizes.into_iter().enumerate() {
        let (header, len) = reader.next::<usize>().await.unwrap().unwrap();
        assert_eq!((header, len), (number, size));
        let payload = reader.payload_aligned(len, 88).await.unwrap();
        assert_eq!(payload.len(), len);
        assert!(payload.iter().all(|byte| *byte == number as u8));
        if (65_536..=1_000_088).contains(&len) {
            assert_eq!(payload[88..].as_ptr().addr() % 4096, 0, "{len}");
        }
    }
    assert!(reader.next::<usize>().await.unwrap().is_none());
}

#[tokio::test]
async fn a_header_of_bytes_and_a_payload_of_parts_arrive_as_they_are() {
    let pair = pair().await;
    let mut writer = FrameWriter::new(pair.client.0);
    let mut reader = FrameReader::new(pair.server.1, DATA_LIMITS);
    let header = Bytes::from(vec![7; 2_000]);
    let parts = [0, 3, 1_024, 70_000, 1_025].map(|len| Bytes::from(vec![len as u8; len]));
    for _ in 0..2 {
        writer.push_bytes(&header, Payload::Parts(&parts));
        writer.push_bytes(&Bytes::new(), Payload::None);
    }
    writer.flush().await.unwrap();
    assert_eq!(writer.buffered(), 0);
    for _ in 0..2 {
        let (received, len) = reader.next_bytes().await.unwrap().unwrap();
        assert_eq!(received, header);
        assert_eq!(reader.payload(len).await.unwrap(), parts.concat());
        let (received, len) = reader.next_bytes().await.unwrap().unwrap();
        assert_eq!((received.len(), len), (0, 0));
    }
    drop(pair.server.0);
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_by_its_prefix() {
    let pair = pair().await;
    let mut sender = pair.client.0;
    let mut prefix = [0_u8; 8];
    prefix[4..].copy_from_slice(&u32::MAX.to_le_bytes());
    sender.write_all(&prefix).await.unwrap();
    let mut reader = FrameReader::new(pair.server.1, DATA_LIMITS);
    assert!(matches!(
        reader.next::<u8>().await,
        Err(ReadError::Frame(FrameError::PayloadTooLarge { .. }))
    ));
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_is_an_error() {
    let pair = pair().await;
    let mut sender = pair.client.0;
    sender.write_all(&[1, 0, 0]).await.unwrap();
    sender.finish().unwrap();
    let mut reader = FrameReader::new(pair.server.1, DATA_LIMITS);
    assert!(matches!(
        reader.next::<u8>().await,
        Err(ReadError::Truncated)
    ));
}

#[tokio::test]
async fn a_cancelled_read_loses_no_byte() {
    let pair = pair().await;
    let mut writer = FrameWriter::new(pair.client.0);
    let mut reader = FrameReader::new(pair.server.1, DATA_LIMITS);
    let cancelled = tokio::time::timeout(
        std::time::Duration::from_millis(5),
        reader.next_with_payload::<u8>(),
    );
    assert!(cancelled.await.is_err());
    let payload = Bytes::from_static(b"whole");
    writer.send(&7_u8, Payload::Bytes(&payload)).await.unwrap();
    let (header, received) = reader.next_with_payload::<u8>().await.unwrap().unwrap();
    assert_eq!((header, received), (7, payload));
    drop(pair.server.0);
}

#[tokio::test]
async fn reads_that_are_cancelled_within_a_payload_go_on_there() {
    let pair = pair().await;
    let mut writer = FrameWriter::new(pair.client.0);
    let mut reader = FrameReader::new(pair.server.1, DATA_LIMITS);
    let payload = Bytes::from((0..3_000_001_u32).map(|n| n as u8).collect::<Vec<_>>());
    let sent = payload.clone();
    let sender = tokio::spawn(async move {
        for header in 0..3_u8 {
            writer.push(&header, Payload::Bytes(&sent));
        }
        writer.flush().await.unwrap();
        writer.finish();
        writer.stopped().await;
    });
    for expected in 0..3 {
        let (header, received) = loop {
            let mut read = std::pin::pin!(reader.next_with_payload::<u8>());
            let polled = std::future::poll_fn(|ctx| Poll::Ready(read.as_mut().poll(ctx))).await;
            match polled {
                Poll::Ready(frame) => break frame.unwrap().unwrap(),
                Poll::Pending => tokio::task::yield_now().await,
            }
        };
        assert_eq!(header, expected);
        assert!(received == payload);
    }
    assert!(reader.next_with_payload::<u8>().await.unwrap().is_none());
    sender.await.unwrap();
}
