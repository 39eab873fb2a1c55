//! A topic by what brokers know together: one that is cut off from the leader of a partition does
//! not know where that ends, and another one may.

use std::time::Duration;

use flumen_protocol::{
    message::{Request, Response, TopicDescription},
    topic::TopicName,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::timeout;

use super::{Client, requests::Progress};
use crate::request::RequestError;

/// How long others are waited for when the first one that answers does not know all.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(1);

impl Client {
    /// Describes a topic.
    pub(crate) async fn describe(
        &self,
        name: &TopicName,
    ) -> Result<TopicDescription, RequestError> {
        let request = Request::DescribeTopic { name: name.clone() };
        let what = request.name();
        let Response::Topic(mut topic) = self.request(request.clone(), None, true).await? else {
            return Err(RequestError::UnexpectedReply { what });
        };
        if is_complete(&topic) {
            return Ok(topic);
        }
        let (brokers, progress) = (self.candidates(), Progress::default());
        let asked = brokers.iter();
        let mut asked: FuturesUnordered<_> = asked
            .map(|broker| self.attempt(broker, &request, None, true, &progress))
            .collect();
        let complete = async {
            while let Some(answer) = asked.next().await {
                if let Ok(Response::Topic(other)) = answer {
                    add(&mut topic, other);
                }
                if is_complete(&topic) {
                    return;
                }
            }
        };
        // What is not known by then stays unknown.
        let _ = timeout(OTHERS_WAIT_MAX, complete).await;
        Ok(topic)
    }
}

fn is_complete(topic: &TopicDescription) -> bool {
    topic.partitions.iter().all(|p| p.extent.is_some())
}

/// Takes over what another broker knows, if it is about the same topic.
fn add(topic: &mut TopicDescription, other: TopicDescription) {
    if other.id != topic.id {
        return;
    }
    for (known, other) in topic.partitions.iter_mut().zip(other.partitions) {
        if known.extent.is_none() && other.extent.is_some() {
            *known = other;
        }
    }
}
