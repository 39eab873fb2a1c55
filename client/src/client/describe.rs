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

/// How many are asked then, others each time: each of them asks the leaders.
const OTHERS_MAX: usize = 3;

impl Client {
    /// Describes a topic. Others than the first that answers are asked if that does not know all of
    /// the partitions that are wanted.
    pub(crate) async fn describe(
        &self,
        name: &TopicName,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Result<TopicDescription, RequestError> {
        let request = Request::DescribeTopic { name: name.clone() };
        let what = request.name();
        let Response::Topic(mut topic) = self.request(request.clone(), None, true).await? else {
            return Err(RequestError::UnexpectedReply { what });
        };
        if is_complete(&topic, &is_wanted) {
            return Ok(topic);
        }
        let (mut brokers, progress) = (self.candidates(), Progress::default());
        let first = rand::random_range(0..brokers.len());
        brokers.rotate_left(first);
        let asked = brokers.iter().take(OTHERS_MAX);
        let mut asked: FuturesUnordered<_> = asked
            .map(|broker| self.attempt(broker, &request, None, true, &progress))
            .collect();
        let complete = async {
            while let Some(answer) = asked.next().await {
                if let Ok(Response::Topic(other)) = answer {
                    add(&mut topic, other);
                }
                if is_complete(&topic, &is_wanted) {
                    return;
                }
            }
        };
        // What is not known by then stays unknown.
        let _ = timeout(OTHERS_WAIT_MAX, complete).await;
        Ok(topic)
    }
}

fn is_complete(topic: &TopicDescription, is_wanted: impl Fn(u32) -> bool) -> bool {
    let mut wanted = topic.partitions.iter().filter(|p| is_wanted(p.index));
    wanted.all(|partition| partition.extent.is_some())
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
