//! Answers control requests: what this broker knows at once, the rest where it is decided.
//!
//! Any broker may be asked anything. What changes the catalog goes to the broker that leads it;
//! where partitions end is asked of the brokers that lead them. A change is answered when every
//! broker that can be reached has it in force.

mod ends;

use bytes::Bytes;
use flumen_protocol::{
    error::{ErrorCode, WireError},
    ids::{BrokerId, Offset},
    message::{Reply, Request, Response},
    topic::TopicName,
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Node, majority,
    remote::{self, FOLLOW_TIMEOUT},
};
use crate::catalog::CATALOG_SHARD;

/// How long to look for a broker that leads the catalog.
const LEADER_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// How long to wait before it is looked for again.
const LEADER_RETRY_AFTER: std::time::Duration = std::time::Duration::from_millis(50);

/// How long it is looked for changes of topics that this broker may have missed.
const NEWS_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// How often it is looked whether a broker that was asked can still be heard.
const SILENCE_CHECK_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

impl Node {
    /// Answers a request of a client.
    pub(crate) async fn answer(&self, request: Request, payload: Bytes) -> Reply {
        let reads = majority::reads(&request);
        let reply = self.answer_or_fail(request, payload).await;
        reply.map_err(|error| self.with_cause(error, reads))
    }

    async fn answer_or_fail(&self, request: Request, payload: Bytes) -> Reply {
        match request {
            Request::Metadata { topics } => {
                if !topics.is_empty() {
                    self.look_for_news().await;
                }
                self.metadata(&topics).await.map(Response::Metadata)
            }
            Request::ListTopics => {
                self.catalog.caught_up().await?;
                Ok(Response::Topics(self.topics.list()))
            }
            Request::ListPlugins => {
                self.catalog.caught_up().await?;
                Ok(Response::Plugins(self.plugins.list()))
            }
            Request::DescribeTopic { name } => {
                self.describe_topic(&name).await.map(Response::Topic)
            }
            Request::OffsetsForTime { topic, time_ms } => self
                .offsets_for_time(&topic, time_ms)
                .await
                .map(Response::Offsets),
            Request::DescribePlugin { name } => {
                self.plugins.described(&name).await.map(Response::Plugin)
            }
            Request::Status => Ok(Response::Status(self.status())),
            Request::ClusterStatus => Ok(Response::ClusterStatus(self.cluster_status())),
            change => self.change_where_it_is_led(change, payload).await,
        }
    }

    /// Looks whether topics have changed, if this broker may not have heard of it: it has just
    /// started, or does not hear of the catalog's leader. Changes wait for all others. Where nobody
    /// can be asked, what is known is better than nothing; a client does not wait for that if
    /// another broker answers.
    async fn look_for_news(&self) {
        let is_in_touch = self.is_in_touch(CATALOG_SHARD);
        let looking = async {
            if is_in_touch {
                self.catalog.caught_up().await
            } else {
                self.catalog.catch_up().await
            }
        };
        match timeout(NEWS_WAIT_MAX, looking).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "topics may have changed"),
            Err(_) => tracing::debug!("topics may have changed: nobody leads the catalog"),
        }
    }

    async fn change_where_it_is_led(&self, request: Request, payload: Bytes) -> Reply {
        let deadline = Instant::now() + LEADER_WAIT_MAX;
        loop {
            let reply = match self.shards.leader_of(CATALOG_SHARD) {
                // Nothing would come of it, and whoever asks would not know.
                Some(leader) if leader == self.shards.broker() && self.lacks_majority() => {
                    Err(no_leader())
                }
                Some(leader) if leader == self.shards.broker() => {
                    self.change(request.clone(), payload.clone()).await
                }
                Some(leader) => self.forward(leader, &request, payload.clone()).await,
                None => Err(no_leader()),
            };
            match reply {
                // Until one of those that are missing is back, there will be no other leader.
                Err(error) if error.code == ErrorCode::NotLeader && self.lacks_majority() => {
                    return Err(error);
                }
                Err(error) if error.code == ErrorCode::NotLeader && Instant::now() < deadline => {
                    sleep(LEADER_RETRY_AFTER).await;
                }
                reply => return reply,
            }
        }
    }

    /// Passes a request on, and waits no longer once the leader is silent with so many others that
    /// nobody can take its place.
    async fn forward(&self, leader: BrokerId, request: &Request, payload: Bytes) -> Reply {
        if self.is_silent_for_good(leader) {
            return Err(no_leader());
        }
        let silent = async {
            while !self.is_silent_for_good(leader) {
                sleep(SILENCE_CHECK_INTERVAL).await;
            }
        };
        tokio::select! {
            reply = remote::forward(&*self.network, leader, request, payload) => reply,
            () = silent => Err(remote::lost(leader)),
        }
    }

    fn is_silent_for_good(&self, leader: BrokerId) -> bool {
        !self.reports.is_reachable(leader) && self.lacks_majority()
    }

    fn lacks_majority(&self) -> bool {
        self.no_majority().is_some()
    }

    /// Makes a change on the broker that leads the catalog, and waits until the others have it
    /// in force, too.
    pub(super) async fn change(&self, request: Request, payload: Bytes) -> Reply {
        if self.shards.leader_of(CATALOG_SHARD) != Some(self.shards.broker()) {
            return Err(no_leader());
        }
        // What those who led before have changed counts from the first change on.
        if let Err(error) = self.catalog.catch_up().await {
            tracing::debug!(%error, "not the catalog's leader for sure");
            return Err(no_leader());
        }
        let reply = self.make_change(request, payload).await?;
        let version = self.catalog.snapshot().version;
        let others = self.other_brokers();
        let others = others
            .into_iter()
            .filter(|id| self.reports.is_reachable(*id));
        remote::followed(&*self.network, others, version).await?;
        Ok(reply)
    }

    async fn make_change(&self, request: Request, payload: Bytes) -> Reply {
        let (topics, plugins, catalog) = (&self.topics, &self.plugins, &self.catalog);
        match request {
            Request::CreateTopic { name, config } => done(topics.create(name, config).await),
            Request::AlterTopic { name, changes } => done(topics.alter(name, changes).await),
            Request::DeleteTopic { name } => self.delete_topic(name).await,
            Request::DeployPlugin { name, version } => plugins
                .deploy(name, version, payload)
                .await
                .map(Response::Plugin),
            Request::UpgradePlugin { name, version } => plugins
                .upgrade(name, version, payload)
                .await
                .map(Response::Plugin),
            Request::RollBackPlugin { name } => plugins.roll_back(name).await.map(Response::Plugin),
            Request::RemovePlugin { name } => done(plugins.remove(name).await),
            Request::Bind { topic, binding } => done(plugins.bind(topic, binding).await),
            Request::Unbind { topic, plugin } => done(plugins.unbind(topic, plugin).await),
            Request::CreateJoinToken { ttl_ms } => self.create_join_token(ttl_ms).await,
            Request::DrainBroker { broker, undo } => done(
                catalog
                    .drain_broker(broker, !undo)
                    .await
                    .map_err(Into::into),
            ),
            Request::RemoveBroker { broker } => done(self.remove_broker(broker).await),
            Request::SetReplicationFactor { factor } => done(
                catalog
                    .set_replication_factor(factor)
                    .await
                    .map_err(Into::into),
            ),
            // Placement is even whenever it can be; leaders follow within seconds.
            Request::Rebalance => Ok(Response::Done),
            other => Err(WireError::new(
                ErrorCode::InvalidRequest,
                format!(
                    "this broker cannot {}; is it older than the client?",
                    other.name()
                ),
            )),
        }
    }

    /// Removes a topic, and forgets the plugins that ran on it.
    async fn delete_topic(&self, name: TopicName) -> Reply {
        let topic = self.topics.delete(name).await?;
        self.plugins.topic_deleted(topic);
        Ok(Response::Done)
    }

    async fn offsets_for_time(
        &self,
        name: &TopicName,
        time_ms: i64,
    ) -> Result<Vec<Offset>, WireError> {
        let topic = self.topics.find(name).await?;
        let mut offsets = Vec::with_capacity(topic.config.partitions as usize);
        for (leader, indexes) in self.topics.by_leader(&topic) {
            let found = match leader {
                Some(leader) if leader != self.shards.broker() => {
                    self.expect_answer(leader)?;
                    remote::offsets_for_time(&*self.network, leader, name, &indexes, time_ms)
                        .await?
                }
                _ => {
                    self.topics
                        .offsets_for_time(name, &indexes, time_ms)
                        .await?
                }
            };
            offsets.extend(indexes.into_iter().zip(found));
        }
        offsets.sort_by_key(|(index, _)| *index);
        Ok(offsets.into_iter().map(|(_, offset)| offset).collect())
    }

    /// Fails where nobody should wait for the answer of a leader.
    fn expect_answer(&self, leader: BrokerId) -> Result<(), WireError> {
        if !self.is_silent_for_good(leader) {
            return Ok(());
        }
        let text = format!("broker {leader}, which leads partitions of the topic, does not answer");
        Err(WireError::new(ErrorCode::NotLeader, text))
    }

    /// Waits until this broker has all changes up to `version` of the catalog in force.
    pub(super) async fn follow(&self, version: u64) -> Result<(), WireError> {
        let mut applied = self.catalog.watch();
        let followed = async {
            applied
                .wait_for(|state| state.version >= version)
                .await
                .map_err(|error| WireError::new(ErrorCode::Unavailable, error.to_string()))?;
            self.plugins.in_step(version).await;
            Ok(())
        };
        match timeout(FOLLOW_TIMEOUT, followed).await {
            Ok(followed) => followed,
            Err(_) => Err(WireError::new(
                ErrorCode::Timeout,
                format!("the change is made, but not in force here after {FOLLOW_TIMEOUT:?}"),
            )),
        }
    }

    pub(super) fn other_brokers(&self) -> Vec<BrokerId> {
        let state = self.catalog.snapshot();
        let brokers = state.brokers.keys().copied();
        let me = self.shards.broker();
        brokers.filter(|broker| *broker != me).collect()
    }
}

fn no_leader() -> WireError {
    WireError::new(
        ErrorCode::NotLeader,
        "no broker leads the cluster's catalog at the moment; try again, and look at `flumen \
         cluster status` if it stays so",
    )
}

fn done(result: Result<(), WireError>) -> Reply {
    result.map(|()| Response::Done)
}
