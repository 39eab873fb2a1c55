//! The names that there are.

use std::time::Duration;

use flumen_client::{Client, Profiles};
use tokio::time::{Instant, timeout_at};

use super::line::{Kind, Wanted};
use crate::{
    commands::{self, cluster},
    connect::Connection,
    output::counted,
};

/// How long the cluster may take to answer. Somebody has pressed a key, and cannot type on until
/// then.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);

/// Names that are offered at most: more are of no help.
const NAMES_MAX: usize = 1_000;

/// A name, and what is said of it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) name: String,
    pub(super) about: String,
}

/// The names that begin as what is wanted; none where that cannot be learnt in time.
pub(super) fn beginning_as(wanted: &Wanted) -> impl Iterator<Item = Candidate> {
    let all = match wanted.kind {
        Kind::Profile => profiles(),
        kind => ask(kind, &wanted.connection),
    };
    let all = all.unwrap_or_default().into_iter();
    all.filter(|candidate| candidate.name.starts_with(&wanted.begun))
        .take(NAMES_MAX)
}

fn profiles() -> Option<Vec<Candidate>> {
    let profiles = Profiles::of_user().ok()?;
    let default = profiles.default_name().ok().flatten();
    let candidate = |name: String| {
        let is_default = default.as_ref() == Some(&name);
        let about = if is_default {
            "the default"
        } else {
            "a profile"
        };
        Candidate {
            about: about.to_owned(),
            name,
        }
    };
    Some(profiles.list().ok()?.into_iter().map(candidate).collect())
}

fn ask(kind: Kind, flags: &[String]) -> Option<Vec<Candidate>> {
    let connection = Connection::of_unfinished(flags)?;
    let deadline = Instant::now() + ANSWER_WAIT_MAX;
    let runtime = commands::runtime().ok()?;
    let names = runtime.block_on(async {
        let client = timeout_at(deadline, connection.connect())
            .await
            .ok()?
            .ok()?;
        let names = timeout_at(deadline, names(&client, kind)).await;
        // A broker that is told does not wait for the client.
        let _ = timeout_at(deadline, client.close()).await;
        names.ok()?
    });
    // Whatever still waits, such as for a name to be resolved, is left behind.
    runtime.shutdown_background();
    names
}

async fn names(client: &Client, kind: Kind) -> Option<Vec<Candidate>> {
    let admin = client.admin();
    Some(match kind {
        Kind::Topic => {
            let topics = admin.list_topics().await.ok()?.into_iter();
            let candidate = |topic: flumen_client::TopicSummary| Candidate {
                about: counted(topic.config.partitions.into(), "partition"),
                name: topic.name.into(),
            };
            topics.map(candidate).collect()
        }
        Kind::Plugin => {
            let plugins = admin.list_plugins().await.ok()?.into_iter();
            let candidate = |plugin: flumen_client::PluginInfo| Candidate {
                about: format!("a {}, version {}", plugin.world, plugin.version),
                name: plugin.name.into(),
            };
            plugins.map(candidate).collect()
        }
        Kind::Broker => {
            let names = cluster::names_of_brokers(&admin.cluster_status().await.ok()?);
            let candidate = |(name, about)| Candidate { name, about };
            names.into_iter().map(candidate).collect()
        }
        Kind::Profile => Vec::new(),
    })
}
