//! Replicas that apply what another one vouches for, where no leader tells what is committed.
//!
//! ```text
//! another replica asks for records, as of an entry that it has applied
//!   this one has the entry in its log, but has not applied it, and finds no leader
//!     its group is started again: it applies its log up to that entry first
//!       the other one gets its records, votes again, and there is a leader
//! ```
//!
//! openraft hears what is committed from a leader only, or from its storage when it starts.

use flumen_protocol::ids::ShardId;

use super::{Shards, left::with_left};
use crate::shard::ShardError;

impl Shards {
    /// Open data shards with entries that another replica vouches for, and that are not applied here.
    pub(crate) fn vouched_for(&self) -> Vec<ShardId> {
        let shards = self.all_data().into_iter();
        let vouched_for = shards.filter(crate::shard::DataShard::is_vouched_for);
        vouched_for.map(|shard| shard.id()).collect()
    }

    /// Has a replica apply what another one vouches for, unless there is a leader that tells it what
    /// is committed. Takes as long as finding one may.
    pub(crate) async fn apply_vouched(&self, id: ShardId) -> Result<(), ShardError> {
        match self.data(id) {
            Some(shard) if shard.relies_on_vouched().await => {}
            _ => return Ok(()),
        }
        let this = self.clone();
        // What has begun is finished, even if nobody waits for it any more.
        let started = tokio::spawn(async move {
            let shared = &this.shared;
            let is_over = shared.opening.lock().await;
            let open = this.data(id);
            let Some(shard) = open.filter(|shard| !*is_over && shard.is_vouched_for()) else {
                return Ok(());
            };
            tracing::warn!(shard = %id, "no broker leads it: applying what another replica has applied");
            let parts = with_left(&shared.options, id, shared.parts.clone()).await?;
            // Without its group there is no shard.
            let again = shard.start_again(parts).await;
            let again = again.inspect_err(|error| this.fail(error.to_string()))?;
            again.group().keep_time(this.is_clustered());
            shared.data.write().insert(id, again);
            Ok(())
        });
        started
            .await
            .map_err(|error| ShardError::start(id, &error))?
    }
}
