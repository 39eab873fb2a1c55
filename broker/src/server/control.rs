//! Control streams: one request, one reply.

use std::sync::Arc;

use bytes::Bytes;
use flumen_protocol::{
    error::{ErrorCode, WireError},
    limits::PLUGIN_BYTES_MAX,
    message::Request,
    size::Size,
};
use flumen_transport::stream::{FrameReader, FrameWriter};

use super::{budget::Taken, session::Session};
use crate::metrics::RequestLabel;

pub(super) async fn serve(
    session: &Arc<Session>,
    request: Request,
    payload_len: usize,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) {
    let name = request.name();
    // Until the request is answered: what is done with it keeps the payload in memory for as long.
    let (reply, _taken) = match read_payload(session, payload_len, &mut reader).await {
        Ok((payload, taken)) => {
            let reply = session.shared.node.answer(request, payload).await;
            (reply, Some(taken))
        }
        Err(error) => (Err(error), None),
    };
    let outcome = if reply.is_ok() { "ok" } else { "error" };
    let label = RequestLabel {
        request: name,
        outcome,
    };
    session.shared.metrics.requests.get_or_create(&label).inc();
    if let Err(error) = &reply {
        tracing::debug!(request = name, %error, "request refused");
    }
    session.refuse(&mut writer, reader, &reply).await;
}

async fn read_payload(
    session: &Session,
    len: usize,
    reader: &mut FrameReader,
) -> Result<(Bytes, Taken), WireError> {
    if len > PLUGIN_BYTES_MAX {
        let text = format!(
            "a payload of {} is over the limit of {}",
            Size::of(len),
            Size::of(PLUGIN_BYTES_MAX)
        );
        return Err(WireError::new(ErrorCode::TooLarge, text));
    }
    let taken = session.budget.take(len).await;
    match reader.payload(len).await {
        Ok(payload) => Ok((payload, taken)),
        Err(error) => {
            let text = error.to_string();
            Err(WireError::new(ErrorCode::InvalidRequest, text))
        }
    }
}
