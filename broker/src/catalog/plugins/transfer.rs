//! Plugins' bytes on their way to a broker that misses them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use flumen_protocol::{ids::BrokerId, plugin::Digest};
use futures_util::future::BoxFuture;

use super::{PluginFiles, digest};
use crate::peer::{
    PeerError, PeerHandler, PeerMessage, PeerNetwork, PeerService, PeerStream, encode,
};

/// How long to wait before the brokers are asked again, after none had the bytes.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long one broker may take to send a plugin.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends plugins to the brokers that ask for them.
#[derive(Clone)]
pub struct PluginServer {
    files: Arc<PluginFiles>,
}

impl PluginServer {
    pub(in crate::catalog) fn new(files: Arc<PluginFiles>) -> Self {
        Self { files }
    }

    async fn serve(&self, head: Bytes, mut stream: PeerStream) -> Result<(), String> {
        let wanted: Digest = postcard::from_bytes(&head).map_err(text)?;
        let files = Arc::clone(&self.files);
        let read = crate::executor::spawn_blocking(move || files.read_by_digest(wanted));
        let parts = match read.await.map_err(text)? {
            Ok(bytes) => vec![bytes],
            Err(error) => {
                tracing::debug!(digest = %wanted, "another broker wants a plugin: {error}");
                Vec::new()
            }
        };
        let head = Bytes::new();
        let sent = stream.sender.send(PeerMessage { head, parts }).await;
        sent.map_err(text)?;
        stream.sender.finish();
        Ok(())
    }
}

impl PeerHandler for PluginServer {
    fn call(&self, _: BrokerId, _: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        Box::pin(async { Err("plugins travel on streams".to_owned()) })
    }

    fn stream(&self, from: BrokerId, head: Bytes, stream: PeerStream) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move {
            if let Err(reason) = this.serve(head, stream).await {
                tracing::debug!(broker = %from, reason, "a plugin was not sent");
            }
        })
    }
}

/// Fetches a plugin from whichever broker has it, however long that takes.
pub(in crate::catalog) async fn fetch(
    network: &dyn PeerNetwork,
    brokers: &[BrokerId],
    wanted: Digest,
) -> Bytes {
    loop {
        for broker in brokers {
            let asked = tokio::time::timeout(FETCH_TIMEOUT, ask(network, *broker, wanted)).await;
            match asked {
                Ok(Ok(Some(bytes))) if digest(&bytes) == wanted => return bytes,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!("plugin {wanted} did not come: {error}"),
                Err(_) => tracing::debug!("plugin {wanted} did not come from {broker} in time"),
            }
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}

async fn ask(
    network: &dyn PeerNetwork,
    broker: BrokerId,
    wanted: Digest,
) -> Result<Option<Bytes>, PeerError> {
    let opened = network.open(broker, PeerService::Plugins, encode(&wanted));
    let mut stream = opened.await?;
    let message = stream.receiver.next().await?;
    Ok(message.and_then(|message| message.parts.into_iter().next()))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
