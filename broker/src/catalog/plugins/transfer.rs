//! Plugins' bytes on their way to a broker that misses them.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use bytes::Bytes;
use flumen_protocol::{ids::BrokerId, plugin::Digest};
use futures_util::future::BoxFuture;

use super::{PluginFiles, digest};
use crate::peer::{
    PeerError, PeerHandler, PeerMessage, PeerNetwork, PeerService, PeerStream, encode,
};

/// How long to wait before the brokers are asked again, after none had the bytes.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Rounds in a row in which nobody who answers has a plugin: then it is gone everywhere.
const ROUNDS_WITHOUT: u32 = 3;

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
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::debug!(digest = %wanted, "another broker wants a plugin that is not here");
                Vec::new()
            }
            // It is not gone: another broker may have it whole.
            Err(error) => return Err(error.to_string()),
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

/// Fetches a plugin from whichever broker has it, however long that takes. The first of them is the
/// one that has named it: `None` once it, too, says that it has it no more, as then it was removed
/// since, of which the log tells.
pub(in crate::catalog) async fn fetch(
    network: &dyn PeerNetwork,
    brokers: &[BrokerId],
    wanted: Digest,
) -> Option<Bytes> {
    let mut rounds_without = 0;
    loop {
        let mut lacking = BTreeSet::new();
        for broker in brokers {
            let asked = tokio::time::timeout(FETCH_TIMEOUT, ask(network, *broker, wanted)).await;
            match asked {
                Ok(Ok(Some(bytes))) if digest(&bytes) == wanted => return Some(bytes),
                Ok(Ok(Some(_))) => tracing::warn!("the plugin {wanted} of {broker} is damaged"),
                Ok(Ok(None)) => drop(lacking.insert(*broker)),
                Ok(Err(error)) => tracing::debug!("plugin {wanted} did not come: {error}"),
                Err(_) => tracing::debug!("plugin {wanted} did not come from {broker} in time"),
            }
        }
        let is_gone = brokers.first().is_some_and(|first| lacking.contains(first));
        rounds_without = if is_gone { rounds_without + 1 } else { 0 };
        if rounds_without >= ROUNDS_WITHOUT {
            tracing::warn!(
                "no broker has the bytes of plugin {wanted} any more: it was removed meanwhile, \
                 or runs nowhere until it is upgraded"
            );
            return None;
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
