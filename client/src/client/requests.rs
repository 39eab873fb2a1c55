//! Requests to whichever broker answers.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use flumen_protocol::{
    error::ErrorCode,
    message::{Metadata, Request, Response, TopicMetadata},
    topic::TopicName,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{sleep_until, timeout_at};

use super::Client;
use crate::{
    config::HEDGE_DELAY,
    connection::{Broker, ConnectError, control},
    request::RequestError,
};

/// What became of an attempt.
enum Attempt {
    /// Another one may succeed.
    Again(RequestError),
    Final(RequestError),
}

impl Attempt {
    /// Whether no broker will ever answer otherwise.
    fn of(error: RequestError) -> Self {
        match error {
            RequestError::Connect(
                ConnectError::Unauthenticated { .. }
                | ConnectError::Tls { .. }
                | ConnectError::Closed,
            ) => Self::Final(error),
            error => Self::Again(error),
        }
    }
}

impl Client {
    /// Sends a request to whichever broker answers. A request that is `repeatable` is sent
    /// again when its reply is lost, and to another broker, too, when one is slow to answer; any
    /// other is sent again only if it was not carried out for sure, and to a broker that has
    /// just shown that it answers.
    pub(crate) async fn request(
        &self,
        request: Request,
        payload: Option<Bytes>,
        repeatable: bool,
    ) -> Result<Response, RequestError> {
        let what = request.name();
        let after = self.config().request_timeout;
        let deadline = Instant::now() + after;
        let mut last = RequestError::TimedOut { what, after };
        loop {
            let brokers = self.candidates();
            let round = Box::pin(async {
                if repeatable {
                    self.ask_all(&brokers, &request, payload.as_ref()).await
                } else {
                    let brokers = self.answering_first(brokers).await;
                    self.tell_one(&brokers, &request, payload.as_ref()).await
                }
            });
            match timeout_at(deadline.into(), round).await {
                // Nothing was heard: an earlier failure that is known says more.
                Err(_) if matches!(last, RequestError::Connect(_)) => return Err(last),
                Err(_) => return Err(RequestError::TimedOut { what, after }),
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(Attempt::Final(error))) => return Err(error),
                Ok(Err(Attempt::Again(error))) => last = error,
            }
            let pause = Instant::now() + self.config().reconnect.first * 2;
            if pause >= deadline {
                return Err(last);
            }
            sleep_until(pause.into()).await;
        }
    }

    /// Asks one broker, and each further one when those before have failed or are slow. The
    /// first answer counts.
    async fn ask_all(
        &self,
        brokers: &[Arc<Broker>],
        request: &Request,
        payload: Option<&Bytes>,
    ) -> Result<Response, Attempt> {
        let mut waiting = brokers.iter();
        let mut asked = FuturesUnordered::new();
        let mut last = None;
        loop {
            match waiting.next() {
                Some(broker) => asked.push(self.attempt(broker, request, payload, true)),
                None if asked.is_empty() => {
                    let nobody = || Attempt::Final(ConnectError::NoBrokers.into());
                    return Err(last.unwrap_or_else(nobody));
                }
                None => {}
            }
            let slow = tokio::time::sleep(HEDGE_DELAY);
            tokio::pin!(slow);
            let has_more = waiting.len() > 0;
            tokio::select! {
                Some(answer) = asked.next() => match answer {
                    Err(again @ Attempt::Again(_)) => last = Some(again),
                    answer => return answer,
                },
                () = &mut slow, if has_more => {}
            }
        }
    }

    /// Sends a request to one broker after the other, until one may have carried it out.
    async fn tell_one(
        &self,
        brokers: &[Arc<Broker>],
        request: &Request,
        payload: Option<&Bytes>,
    ) -> Result<Response, Attempt> {
        let mut last = Attempt::Final(ConnectError::NoBrokers.into());
        for broker in brokers {
            match self.attempt(broker, request, payload, false).await {
                Err(again @ Attempt::Again(_)) => last = again,
                answer => return answer,
            }
        }
        Err(last)
    }

    /// Brings a broker to the front that answers: what is sent to one that is gone, and not
    /// known to be, has an unknown outcome.
    async fn answering_first(&self, mut brokers: Vec<Arc<Broker>>) -> Vec<Arc<Broker>> {
        if brokers.len() < 2 {
            return brokers;
        }
        let mut asked = FuturesUnordered::new();
        let mut waiting = brokers.iter().enumerate();
        let found = loop {
            if let Some((index, broker)) = waiting.next() {
                asked.push(async move {
                    let request = Request::Metadata { topics: Vec::new() };
                    let answer = self.attempt(broker, &request, None, true).await;
                    answer.ok().map(|_| index)
                });
            } else if asked.is_empty() {
                break None;
            }
            let has_more = waiting.len() > 0;
            tokio::select! {
                Some(answer) = asked.next() => if answer.is_some() {
                    break answer;
                },
                () = tokio::time::sleep(HEDGE_DELAY), if has_more => {}
            }
        };
        drop(asked);
        if let Some(index) = found {
            brokers[..=index].rotate_right(1);
        }
        brokers
    }

    async fn attempt(
        &self,
        broker: &Broker,
        request: &Request,
        payload: Option<&Bytes>,
        repeatable: bool,
    ) -> Result<Response, Attempt> {
        let what = request.name();
        let connection = match broker.connection().await {
            Ok(connection) => connection,
            Err(error) => return Err(Attempt::of(error.into())),
        };
        match control::exchange(&connection, request.clone(), payload).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.code == ErrorCode::Timeout && !repeatable => {
                let text = error.text;
                Err(Attempt::Final(RequestError::Lost { what, text }))
            }
            Ok(Err(error)) if error.retryable => {
                Err(Attempt::Again(RequestError::refused(what, error)))
            }
            Ok(Err(error)) => Err(Attempt::Final(RequestError::refused(what, error))),
            Err(broken) => {
                if let Some(refused) = broker.refusal(&connection) {
                    return Err(Attempt::Final(refused.into()));
                }
                let repeat = repeatable || !broken.sent;
                let text = broken.text;
                let error = RequestError::Lost { what, text };
                Err(if repeat {
                    Attempt::Again(error)
                } else {
                    Attempt::Final(error)
                })
            }
        }
    }

    /// Asks for the cluster's brokers and one topic; `None` if there is no such topic.
    pub(crate) async fn topic(
        &self,
        topic: &TopicName,
    ) -> Result<Option<TopicMetadata>, RequestError> {
        let topics = vec![topic.clone()];
        let mut metadata = self.metadata(topics).await?;
        Ok(metadata.topics.pop().filter(|found| found.name == *topic))
    }

    /// Bytes of the largest batch that the brokers take, as they said when a topic was last
    /// asked for.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        self.inner.batch_bytes_max.load(Ordering::Relaxed)
    }

    pub(super) async fn metadata(&self, topics: Vec<TopicName>) -> Result<Metadata, RequestError> {
        let request = Request::Metadata { topics };
        let what = request.name();
        match self.request(request, None, true).await {
            Ok(Response::Metadata(metadata)) => {
                self.cluster().learn(&metadata);
                let batch_bytes_max = metadata.batch_bytes_max as usize;
                let inner = &self.inner;
                inner
                    .batch_bytes_max
                    .store(batch_bytes_max, Ordering::Relaxed);
                Ok(metadata)
            }
            Ok(_) => Err(RequestError::UnexpectedReply { what }),
            // A broker may answer so where no topic is left of those asked for.
            Err(RequestError::Refused {
                code: ErrorCode::UnknownTopic,
                ..
            }) => Ok(Metadata::default()),
            Err(error) => Err(error),
        }
    }
}
