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

use super::session::Session;
use crate::metrics::RequestLabel;

pub(super) async fn serve(
    session: &Arc<Session>,
    request: Request,
    payload_len: usize,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) {
    let name = request.name();
    let reply = match read_payload(session, payload_len, &mut reader).await {
        Ok(payload) => session.shared.node.answer(request, payload).await,
        Err(error) => Err(error),
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
) -> Result<Bytes, WireError> {
    if len > PLUGIN_BYTES_MAX {
        let text = format!(
            "a payload of {} is over the limit of {}",
            Size::of(len),
            Size::of(PLUGIN_BYTES_MAX)
        );
        return Err(WireError::new(ErrorCode::TooLarge, text));
    }
    let _taken = session.budget.take(len).await;
    reader
        .payload(len)
        .await
        .map_err(|error| WireError::new(ErrorCode::InvalidRequest, error.to_string()))
}
