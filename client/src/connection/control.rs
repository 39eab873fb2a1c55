//! One request, one reply, on a stream of their own.

use bytes::Bytes;
use flumen_protocol::message::{Reply, Request, StreamOpen};
use flumen_transport::{
    quinn::Connection,
    stream::{FrameReader, FrameWriter, Payload, REPLY_LIMITS},
};

use super::streams::Streams;

/// No reply came: the stream or its connection broke. Whether the request was carried out is
/// not known, unless `sent` is false.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Broken {
    pub(crate) text: String,
    pub(crate) sent: bool,
}

impl Broken {
    fn new(sent: bool, error: impl ToString) -> Self {
        let text = error.to_string();
        Self { text, sent }
    }
}

/// Sends a request and awaits its reply, for as long as the connection lives.
pub(crate) async fn exchange(
    streams: &Streams,
    connection: &Connection,
    request: Request,
    payload: Option<&Bytes>,
) -> Result<Reply, Broken> {
    let opened = streams.open(connection).await;
    let (send, receive) = opened.map_err(|error| Broken::new(false, error))?;
    let mut writer = FrameWriter::new(send);
    let payload = payload.map_or(Payload::None, Payload::Bytes);
    // A broker that answers early, with a refusal, stops reading: its answer counts.
    let written = writer.send(&StreamOpen::Control(request), payload).await;
    writer.finish();
    let mut reader = FrameReader::new(receive, REPLY_LIMITS);
    match reader.next::<Reply>().await {
        Ok(Some((reply, _))) => Ok(reply),
        Ok(None) => Err(Broken::new(
            true,
            "the broker closed the stream without a reply",
        )),
        Err(error) => Err(match written {
            Ok(()) => Broken::new(true, error),
            Err(error) => Broken::new(true, error),
        }),
    }
}
