//! Control streams: one request, one reply.

use std::sync::Arc;

use bytes::Bytes;
use flumen_protocol::{
    error::{ErrorCode, WireError},
    limits::PLUGIN_BYTES_MAX,
    message::{Reply, Request, Response},
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
        Ok(payload) => answer(session, request, payload).await,
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

async fn answer(session: &Session, request: Request, payload: Bytes) -> Reply {
    let node = &session.shared.node;
    let (topics, plugins) = (&node.topics, &node.plugins);
    match request {
        Request::Metadata { topics: names } => Ok(Response::Metadata(node.metadata(&names))),
        Request::CreateTopic { name, config } => done(topics.create(name, config).await),
        Request::AlterTopic { name, changes } => done(topics.alter(name, changes).await),
        Request::DeleteTopic { name } => node.delete_topic(name).await,
        Request::ListTopics => Ok(Response::Topics(topics.list())),
        Request::DescribeTopic { name } => node.describe_topic(&name).map(Response::Topic),
        Request::OffsetsForTime { topic, time_ms } => topics
            .offsets_for_time(&topic, time_ms)
            .await
            .map(Response::Offsets),
        Request::DeployPlugin { name, version } => plugins
            .deploy(name, version, payload)
            .await
            .map(Response::Plugin),
        Request::UpgradePlugin { name, version } => plugins
            .upgrade(name, version, payload)
            .await
            .map(Response::Plugin),
        Request::ListPlugins => Ok(Response::Plugins(plugins.list())),
        Request::DescribePlugin { name } => plugins.describe(&name).map(Response::Plugin),
        Request::RemovePlugin { name } => done(plugins.remove(name).await),
        Request::Bind { topic, binding } => done(plugins.bind(topic, binding).await),
        Request::Unbind { topic, plugin } => done(plugins.unbind(topic, plugin).await),
        Request::CreateJoinToken { ttl_ms } => node.create_join_token(ttl_ms).await,
        Request::Status => Ok(Response::Status(node.status())),
        other => Err(WireError::new(
            ErrorCode::InvalidRequest,
            format!(
                "this broker cannot {}; is it older than the client?",
                other.name()
            ),
        )),
    }
}

fn done(result: Result<(), WireError>) -> Reply {
    result.map(|()| Response::Done)
}
