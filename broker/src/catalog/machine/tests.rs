use std::time::Duration;

use flumen_protocol::{
    ids::ShardId,
    plugin::{Digest, World},
};
use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};

use super::*;
use crate::{
    catalog::{NewPlugin, PluginServer},
    disk::SimulatedDisk,
    peer::{Alone, PeerHandler, PeerService, PeerStream, memory::MemoryNetwork},
    shard::raft::{Failure, LogStorage, RaftMachine, TypeConfig},
    wal::{Wal, WalOptions},
};

/// Storage for openraft's own suite: the broker's Raft log under the catalog.
struct Builder;

impl StoreBuilder<TypeConfig, LogStorage, RaftMachine> for Builder {
    async fn build(&self) -> Result<((), LogStorage, RaftMachine), StorageError<TypeConfig>> {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let options = WalOptions {
            segment_bytes: 1 << 20,
            bytes_max: 8 << 20,
            ..WalOptions::new("/wal")
        };
        let wal = Wal::open(Arc::clone(&disk), options, Arc::new(())).unwrap();
        let plugins = PluginFiles::open(Arc::clone(&disk), "/plugins".into()).unwrap();
        let machine = CatalogMachine::open(
            BrokerId(1),
            Arc::new(Alone),
            disk,
            "/checkpoint".into(),
            Arc::new(plugins),
        )
        .unwrap();
        let failure = Failure::new();
        let shard = ShardId(0);
        let storage = LogStorage::open(wal.shard(shard), failure.clone()).unwrap();
        let machine = RaftMachine::new(shard, Arc::new(machine), storage.clone(), failure);
        Ok(((), storage, machine))
    }
}

#[tokio::test]
async fn openraft_finds_its_storage_to_be_as_it_must() {
    Suite::test_all(Builder).await.unwrap();
}

/// The one that sends its checkpoint, and the one that takes it over.
const SENDER: BrokerId = BrokerId(1);
const RECEIVER: BrokerId = BrokerId(2);

fn machine(broker: BrokerId, network: &MemoryNetwork) -> Arc<CatalogMachine> {
    let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
    let plugins = PluginFiles::open(Arc::clone(&disk), "/plugins".into()).unwrap();
    let (network, plugins) = (network.peer(broker), Arc::new(plugins));
    let path = "/checkpoint".into();
    Arc::new(CatalogMachine::open(broker, network, disk, path, plugins).unwrap())
}

impl CatalogMachine {
    async fn deploy(&self, name: &str) -> Digest {
        let plugin = NewPlugin {
            name: name.parse().unwrap(),
            version: "1".to_owned(),
            world: World::Filter,
            bytes: name.as_bytes().to_vec().into(),
        };
        let (info, bytes) = plugin.describe().await.unwrap();
        let digest = info.digest;
        self.change(&CatalogCommand::DeployPlugin { info }, &bytes);
        digest
    }

    fn change(&self, command: &CatalogCommand, attachment: &Bytes) {
        let command = postcard::to_allocvec(command).unwrap();
        let applied = self.apply_command(&mut self.image.lock(), &command, attachment);
        applied.unwrap();
    }

    fn has(&self, digest: Digest) -> bool {
        self.plugins.has(digest)
    }
}

/// Serves the sender's plugins, each after the receiver has taken a checkpoint.
struct AfterACheckpoint {
    receiver: Arc<CatalogMachine>,
    server: PluginServer,
}

impl PeerHandler for AfterACheckpoint {
    fn call(&self, from: BrokerId, request: Bytes) -> BoxFuture<'static, Result<Bytes, String>> {
        self.server.call(from, request)
    }

    fn stream(&self, from: BrokerId, head: Bytes, stream: PeerStream) -> BoxFuture<'static, ()> {
        let (receiver, server) = (Arc::clone(&self.receiver), self.server.clone());
        Box::pin(async move {
            let checkpoint = crate::executor::spawn_blocking(move || receiver.checkpoint());
            checkpoint.await.unwrap().unwrap();
            server.stream(from, head, stream).await;
        })
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_taken_meanwhile_drops_no_plugin_that_has_just_come() {
    let network = MemoryNetwork::new();
    let (sender, receiver) = (machine(SENDER, &network), machine(RECEIVER, &network));
    let digests = [sender.deploy("one").await, sender.deploy("two").await];
    let checkpoint = sender.checkpoint().unwrap();
    let server = PluginServer::new(Arc::clone(&sender.plugins));
    let server = AfterACheckpoint {
        receiver: Arc::clone(&receiver),
        server,
    };
    network.serve(SENDER, PeerService::Plugins, Arc::new(server));
    let installed = Arc::clone(&receiver).install(checkpoint, vec![SENDER]);
    installed.await.unwrap();
    for digest in digests {
        assert!(receiver.has(digest), "{digest}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_taken_meanwhile_drops_no_plugin_that_only_the_new_catalog_has() {
    let network = MemoryNetwork::new();
    let (sender, receiver) = (machine(SENDER, &network), machine(RECEIVER, &network));
    let mut digests = vec![sender.deploy("missing").await];
    for (name, has_a_file) in [("in-a-file", true), ("in-memory", false)] {
        digests.push(sender.deploy(name).await);
        receiver.deploy(name).await;
        if has_a_file {
            receiver.checkpoint().unwrap();
        }
        let name = name.parse().unwrap();
        receiver.change(&CatalogCommand::RemovePlugin { name }, &Bytes::new());
    }
    let checkpoint = sender.checkpoint().unwrap();
    let server = AfterACheckpoint {
        receiver: Arc::clone(&receiver),
        server: PluginServer::new(Arc::clone(&sender.plugins)),
    };
    network.serve(SENDER, PeerService::Plugins, Arc::new(server));
    let installed = Arc::clone(&receiver).install(checkpoint, vec![SENDER]);
    installed.await.unwrap();
    for digest in digests {
        assert!(receiver.has(digest), "{digest}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_plugin_that_was_removed_since_keeps_no_checkpoint_from_being_taken_over() {
    let network = MemoryNetwork::new();
    let (sender, receiver) = (machine(SENDER, &network), machine(RECEIVER, &network));
    let (removed, kept) = (sender.deploy("removed").await, sender.deploy("kept").await);
    let checkpoint = sender.checkpoint().unwrap();
    let name = "removed".parse().unwrap();
    sender.change(&CatalogCommand::RemovePlugin { name }, &Bytes::new());
    sender.checkpoint().unwrap();
    assert!(!sender.has(removed));
    let server = PluginServer::new(Arc::clone(&sender.plugins));
    network.serve(SENDER, PeerService::Plugins, Arc::new(server));
    let install = Arc::clone(&receiver).install(checkpoint, vec![SENDER, BrokerId(3)]);
    let installed = tokio::time::timeout(Duration::from_mins(1), install).await;
    installed.expect("it does not wait for ever").unwrap();
    assert!(receiver.has(kept));
}
