//! Names that somebody may have meant: `topic ordres does not exist …; did you mean orders?`

use anyhow::Error;
use flumen_client::{Client, ErrorCode, RequestError};
use flumen_protocol::topic::{Name, TopicName};

/// How alike two names must be, from 0 to 1, for one to be taken for a slip of the other.
const LIKENESS_MIN: f64 = 0.7;

/// What a command names, to be looked for when it is not there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Named<'a> {
    topics: [Option<&'a TopicName>; 2],
    plugin: Option<&'a Name>,
}

impl<'a> Named<'a> {
    /// A topic.
    pub(crate) fn topic(topic: &'a TopicName) -> Self {
        Self {
            topics: [Some(topic), None],
            plugin: None,
        }
    }

    /// A plugin.
    pub(crate) fn plugin(plugin: &'a Name) -> Self {
        Self::default().and_plugin(plugin)
    }

    /// A plugin, too.
    pub(crate) fn and_plugin(mut self, plugin: &'a Name) -> Self {
        self.plugin = Some(plugin);
        self
    }

    /// A topic for dead letters, too.
    pub(crate) fn and_dead_letters(mut self, topic: Option<&'a TopicName>) -> Self {
        self.topics[1] = topic;
        self
    }

    /// The error; if it is about a name that is not there, with the name that was meant.
    pub(crate) async fn explain(self, client: &Client, error: RequestError) -> Error {
        let meant = match error.code() {
            Some(ErrorCode::UnknownTopic) => {
                let topics = client.admin().list_topics().await.unwrap_or_default();
                let there: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
                let mut asked = self.topics.into_iter().flatten();
                asked.find_map(|topic| missing(topic.as_str(), &there))
            }
            Some(ErrorCode::UnknownPlugin) => {
                let plugins = client.admin().list_plugins().await.unwrap_or_default();
                let there: Vec<_> = plugins.iter().map(|plugin| plugin.name.as_str()).collect();
                self.plugin
                    .and_then(|plugin| missing(plugin.as_str(), &there))
            }
            _ => None,
        };
        match meant {
            Some(meant) => Error::msg(format!("{error}; did you mean {meant}?")),
            None => error.into(),
        }
    }
}

/// The name that was meant, if this one is not there.
fn missing(name: &str, there: &[&str]) -> Option<String> {
    if there.contains(&name) {
        return None;
    }
    similar(name, there.iter().copied()).map(str::to_owned)
}

/// The name that is most like this one, if it is like it at all.
pub(crate) fn similar<'n>(name: &str, there: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let lower = name.to_ascii_lowercase();
    there
        .into_iter()
        .map(|other| {
            let likeness =
                strsim::normalized_damerau_levenshtein(&lower, &other.to_ascii_lowercase());
            (likeness, other)
        })
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_name() {
        let there = ["orders", "orders.failed", "payments", "eu"];
        for (name, meant) in [
            ("ordres", Some("orders")),
            ("order", Some("orders")),
            ("Orders", Some("orders")),
            ("orders-failed", Some("orders.failed")),
            ("payment", Some("payments")),
            ("users", None),
            ("us", None),
            ("", None),
        ] {
            assert_eq!(similar(name, there), meant, "{name}");
        }
    }
}
