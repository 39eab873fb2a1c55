//! Small questions to the replica of a group on another broker.

use std::time::Duration;

use flumen_protocol::ids::BrokerId;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Group;
use crate::{
    peer::PeerService,
    shard::rpc::{self, Call, CallRequest},
};

/// How long another broker may take to answer. A leader that hangs is followed by another.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

impl Group {
    /// Asks a broker something about its replica. The error says why there is no answer.
    pub(super) async fn ask<R: DeserializeOwned>(
        &self,
        broker: BrokerId,
        request: CallRequest,
    ) -> Result<R, String> {
        let shard = self.shard;
        let call = rpc::encode(&Call { shard, request });
        let call = self.parts.network.call(broker, PeerService::Raft, call);
        match timeout(ANSWER_TIMEOUT, call).await {
            Ok(Ok(reply)) => rpc::decode(&reply).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("broker {broker}, its leader, does not answer")),
        }
    }
}
