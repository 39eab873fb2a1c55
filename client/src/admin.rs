//! Topics, plugins and the state of the cluster.

use std::time::Duration;

use bytes::Bytes;
use flumen_protocol::{
    error::ErrorCode,
    ids::{BrokerId, Offset},
    message::{
        BrokerStatus, ClusterStatus, PluginDescription, Request, Response, TopicDescription,
        TopicSummary,
    },
    plugin::{BindingConfig, PluginInfo},
    topic::{Name, TopicChanges, TopicConfig},
};

use crate::{client::Client, request::RequestError};

/// How long it takes at most until every broker knows that one of them is removed.
const REMOVAL_KNOWN_AFTER: Duration = Duration::from_secs(5);

/// How often the brokers are asked for it.
const REMOVAL_POLL: Duration = Duration::from_millis(100);

/// Why an administrative call failed, or why its outcome is not known.
pub type AdminError = RequestError;

/// Administrative calls. Each has the client's request time-out; reading calls are repeated
/// when an answer is lost, changing ones are not.
///
/// ```no_run
/// use flumen_client::{Client, TopicConfig};
///
/// # async fn run(client: Client) -> Result<(), flumen_client::AdminError> {
/// let config = TopicConfig { partitions: 4, ..TopicConfig::default() };
/// client.admin().create_topic("orders", config).await?;
/// for topic in client.admin().list_topics().await? {
///     println!("{}: {} partitions", topic.name, topic.config.partitions);
/// }
/// # Ok(()) }
/// ```
///
/// # Cancel safety
/// Of a changing call that is dropped nobody knows whether it was carried out.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Client,
}

/// Sends a request and takes the one reply that fits it.
macro_rules! call {
    ($self:ident, $repeatable:expr, $payload:expr, $request:expr, $pattern:pat => $value:expr) => {{
        let request = $request;
        let what = request.name();
        match $self.client.request(request, $payload, $repeatable).await? {
            $pattern => Ok($value),
            _ => Err(RequestError::UnexpectedReply { what }),
        }
    }};
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Makes a topic.
    pub async fn create_topic(&self, name: &str, config: TopicConfig) -> Result<(), AdminError> {
        config.validate()?;
        let name = Name::new(name)?;
        let request = Request::CreateTopic { name, config };
        call!(self, false, None, request, Response::Done => ())
    }

    /// Makes a topic unless there is one of that name already, whatever its settings; tells
    /// whether it was made.
    pub async fn ensure_topic(&self, name: &str, config: TopicConfig) -> Result<bool, AdminError> {
        match self.create_topic(name, config).await {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(ErrorCode::TopicExists) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Changes a topic's settings.
    pub async fn alter_topic(&self, name: &str, changes: TopicChanges) -> Result<(), AdminError> {
        let name = Name::new(name)?;
        let request = Request::AlterTopic { name, changes };
        call!(self, false, None, request, Response::Done => ())
    }

    /// Removes a topic with all of its records.
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let name = Name::new(name)?;
        let request = Request::DeleteTopic { name };
        call!(self, false, None, request, Response::Done => ())
    }

    /// All topics.
    pub async fn list_topics(&self) -> Result<Vec<TopicSummary>, AdminError> {
        let request = Request::ListTopics;
        call!(self, true, None, request, Response::Topics(topics) => topics)
    }

    /// One topic, with its partitions and the plugins bound to it. Where a partition begins and ends
    /// is left out if its leader does not say so within a second or two.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        self.client.describe(&Name::new(name)?, |_| true).await
    }

    /// The offset of the first record at or after `time_ms` (milliseconds since the epoch) in
    /// each partition, by index; the end of the partition where there is none.
    pub async fn offsets_for_time(
        &self,
        topic: &str,
        time_ms: i64,
    ) -> Result<Vec<Offset>, AdminError> {
        let topic = Name::new(topic)?;
        let request = Request::OffsetsForTime { topic, time_ms };
        call!(self, true, None, request, Response::Offsets(offsets) => offsets)
    }

    /// Adds a plugin: the bytes of a WebAssembly component. Without a `version` it is 0.0.0.
    pub async fn deploy_plugin(
        &self,
        name: &str,
        version: Option<&str>,
        component: impl Into<Bytes>,
    ) -> Result<PluginDescription, AdminError> {
        let name = Name::new(name)?;
        let version = version.map(str::to_owned);
        let request = Request::DeployPlugin { name, version };
        call!(self, false, Some(component.into()), request, Response::Plugin(plugin) => plugin)
    }

    /// Replaces a plugin's bytes, also where it is bound; no batch is lost or passed
    /// unfiltered meanwhile. Without a `version` it keeps the one that it has.
    pub async fn upgrade_plugin(
        &self,
        name: &str,
        version: Option<&str>,
        component: impl Into<Bytes>,
    ) -> Result<PluginDescription, AdminError> {
        let name = Name::new(name)?;
        let version = version.map(str::to_owned);
        let request = Request::UpgradePlugin { name, version };
        call!(self, false, Some(component.into()), request, Response::Plugin(plugin) => plugin)
    }

    /// Goes back to a plugin's version before the last upgrade, also where it is bound, as an upgrade
    /// does. Going back once more undoes that.
    pub async fn roll_back_plugin(&self, name: &str) -> Result<PluginDescription, AdminError> {
        let name = Name::new(name)?;
        let request = Request::RollBackPlugin { name };
        call!(self, false, None, request, Response::Plugin(plugin) => plugin)
    }

    /// All plugins.
    pub async fn list_plugins(&self) -> Result<Vec<PluginInfo>, AdminError> {
        let request = Request::ListPlugins;
        call!(self, true, None, request, Response::Plugins(plugins) => plugins)
    }

    /// One plugin, and where it is bound.
    pub async fn describe_plugin(&self, name: &str) -> Result<PluginDescription, AdminError> {
        let name = Name::new(name)?;
        let request = Request::DescribePlugin { name };
        call!(self, true, None, request, Response::Plugin(plugin) => plugin)
    }

    /// Removes a plugin that is bound to no topic.
    pub async fn remove_plugin(&self, name: &str) -> Result<(), AdminError> {
        let name = Name::new(name)?;
        let request = Request::RemovePlugin { name };
        call!(self, false, None, request, Response::Done => ())
    }

    /// Attaches a plugin to a topic, after those that are bound already.
    pub async fn bind(&self, topic: &str, binding: BindingConfig) -> Result<(), AdminError> {
        let topic = Name::new(topic)?;
        let request = Request::Bind { topic, binding };
        call!(self, false, None, request, Response::Done => ())
    }

    /// Detaches a plugin from a topic.
    pub async fn unbind(&self, topic: &str, plugin: &str) -> Result<(), AdminError> {
        let topic = Name::new(topic)?;
        let plugin = Name::new(plugin)?;
        let request = Request::Unbind { topic, plugin };
        call!(self, false, None, request, Response::Done => ())
    }

    /// The state of the broker that the client is connected to.
    pub async fn status(&self) -> Result<BrokerStatus, AdminError> {
        call!(self, true, None, Request::Status, Response::Status(status) => status)
    }

    /// The state of the whole cluster: brokers, leaders, replicas and how far they are behind.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, AdminError> {
        let request = Request::ClusterStatus;
        call!(self, true, None, request, Response::ClusterStatus(status) => status)
    }

    /// Has leaders and replicas taken away from a broker. Returns once the cluster has noted
    /// it; [`Admin::cluster_status`] tells how far it is.
    pub async fn drain_broker(&self, broker: BrokerId) -> Result<(), AdminError> {
        let undo = false;
        let request = Request::DrainBroker { broker, undo };
        call!(self, false, None, request, Response::Done => ())
    }

    /// Lets a broker have leaders and replicas again that was or is drained.
    pub async fn undrain_broker(&self, broker: BrokerId) -> Result<(), AdminError> {
        let undo = true;
        let request = Request::DrainBroker { broker, undo };
        call!(self, false, None, request, Response::Done => ())
    }

    /// Removes a broker for good: one that was drained, or one that is dead. It ends, maybe before
    /// it has passed on that it is removed: then the others are asked whether it is.
    pub async fn remove_broker(&self, broker: BrokerId) -> Result<(), AdminError> {
        let request = Request::RemoveBroker { broker };
        let asked = async { call!(self, false, None, request, Response::Done => ()) };
        let removed: Result<(), AdminError> = asked.await;
        match removed {
            Err(error) if error.is_unknown() && self.learn_of_removal(broker).await => {
                tracing::debug!(%broker, %error, "the broker is removed all the same");
                Ok(())
            }
            removed => removed,
        }
    }

    /// Waits until another broker says that this one is removed; false if none does for
    /// [`REMOVAL_KNOWN_AFTER`].
    async fn learn_of_removal(&self, removed: BrokerId) -> bool {
        let learned = async {
            loop {
                let status = self.cluster_status().await;
                let is_news = |status: &ClusterStatus| {
                    status.answered_by != removed && status.broker(removed).is_none()
                };
                if status.as_ref().is_ok_and(is_news) {
                    return;
                }
                tokio::time::sleep(REMOVAL_POLL).await;
            }
        };
        let learned = tokio::time::timeout(REMOVAL_KNOWN_AFTER, learned).await;
        learned.is_ok()
    }

    /// Spreads replicas and leaders evenly over the brokers. Returns once the cluster has
    /// noted it.
    pub async fn rebalance(&self) -> Result<(), AdminError> {
        call!(self, false, None, Request::Rebalance, Response::Done => ())
    }

    /// Sets how many replicas every shard has.
    pub async fn set_replication_factor(&self, factor: u32) -> Result<(), AdminError> {
        let request = Request::SetReplicationFactor { factor };
        call!(self, false, None, request, Response::Done => ())
    }

    /// Makes a token with which new brokers can join the cluster for `ttl`. Whoever holds it can:
    /// treat it like a key.
    pub async fn create_join_token(&self, ttl: Duration) -> Result<String, AdminError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let request = Request::CreateJoinToken { ttl_ms };
        call!(self, false, None, request, Response::JoinToken(token) => token.0)
    }
}
