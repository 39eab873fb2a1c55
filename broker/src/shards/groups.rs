//! The Raft groups of a broker, and their checkpoints.

use std::{io, ops::Deref};

use flumen_protocol::ids::ShardId;
use prometheus_client::metrics::counter::Counter;

use super::DataShards;
use crate::{
    catalog::{CATALOG_SHARD, Catalog},
    shard::{DataShard, raft::Group},
};

/// The Raft groups of the broker.
#[derive(Clone)]
pub(super) struct Groups {
    pub(super) catalog: Catalog,
    pub(super) data: DataShards,
    /// Counts the checkpoints that are taken.
    pub(super) checkpoints: Counter,
}

/// A Raft group, kept open while it is looked at.
pub(super) enum Kept {
    Catalog(Catalog),
    Data(DataShard),
}

impl Deref for Kept {
    type Target = Group;

    fn deref(&self) -> &Group {
        match self {
            Self::Catalog(catalog) => catalog.group(),
            Self::Data(shard) => shard.group(),
        }
    }
}

impl Groups {
    pub(super) async fn checkpoint(&self, group: &Group) -> io::Result<()> {
        match group.checkpoint().await {
            Ok(()) => {
                self.checkpoints.inc();
                Ok(())
            }
            Err(error) => self.unless_closed(group, error),
        }
    }

    pub(super) async fn release_log(&self, group: &Group) -> io::Result<()> {
        let released = group.release_log().await;
        released.or_else(|error| self.unless_closed(group, error))
    }

    /// The error, unless the replica was given up or closed meanwhile: then nothing is wrong.
    fn unless_closed(&self, group: &Group, error: io::Error) -> io::Result<()> {
        let open = self.get(group.shard());
        if open.is_some_and(|open| std::ptr::eq::<Group>(&raw const *open, group)) {
            Err(error)
        } else {
            Ok(())
        }
    }

    pub(super) fn data(&self) -> Vec<DataShard> {
        self.data.read().values().cloned().collect()
    }

    pub(super) fn get(&self, id: ShardId) -> Option<Kept> {
        if id == CATALOG_SHARD {
            return Some(Kept::Catalog(self.catalog.clone()));
        }
        self.data.read().get(&id).cloned().map(Kept::Data)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Kept> + use<> {
        let data = self.data().into_iter().map(Kept::Data);
        data.chain([Kept::Catalog(self.catalog.clone())])
    }

    /// Stops them all, the catalog last.
    pub(super) async fn stop(&self) {
        for group in self.all() {
            group.stop().await;
        }
    }

    /// The first failure keeps none of the others from theirs: one of them may make the room that
    /// all lack.
    pub(super) async fn checkpoint_changed(&self) -> io::Result<()> {
        let mut done = Ok(());
        for group in self.all() {
            if group.has_changed() {
                done = done.and(self.checkpoint(&group).await);
            }
        }
        done
    }
}
