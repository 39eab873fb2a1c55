//! Requests to whichever broker answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flumen_protocol::{
    error::ErrorCode,
    message::{Metadata, Request, Response, TopicMetadata},
    topic::TopicName,
};
use flumen_transport::quinn::Connection;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::sleep_until;

use super::Client;
use crate::{
    config::{HEDGE_DELAY, NO_MAJORITY_PATIENCE},
    connection::{Broker, ConnectError, control},
    request::RequestError,
};

/// What is known of a request by the attempts so far.
#[derive(Default)]
pub(super) struct Progress {
    /// Why the last attempt failed that is over; a broker's own words before those about one that
    /// cannot be reached.
    last: Mutex<Option<RequestError>>,
    /// Whether an attempt has got so far that it may have been carried out.
    may_be_done: AtomicBool,
}

impl Progress {
    fn note(&self, error: &RequestError) {
        let mut last = self.last.lock();
        let says_less = matches!(error, RequestError::Connect(_))
            && matches!(&*last, Some(RequestError::Refused { .. }));
        if !says_less {
            *last = Some(error.clone());
        }
    }

    /// Why a request is given up that is not on its way.
    fn unanswered(&self, what: &'static str, after: Duration, repeatable: bool) -> RequestError {
        let text = match self.last.lock().clone() {
            // What changes nothing leaves nothing open.
            Some(RequestError::Lost { text, .. }) if repeatable => Some(text),
            Some(error) => return error,
            None if repeatable => None,
            None => Some("no broker answers, and it was sent to none".to_owned()),
        };
        RequestError::NoAnswer { what, after, text }
    }

    fn lacks_majority(&self) -> bool {
        let last = self.last.lock();
        last.as_ref().and_then(RequestError::code) == Some(ErrorCode::NoMajority)
    }

    /// Waits until there is no use in waiting any longer. What may be carried out this moment is
    /// waited for: nobody would know what became of it.
    async fn given_up(&self, begun: Instant, deadline: Instant, repeatable: bool) {
        let patience = begun + NO_MAJORITY_PATIENCE;
        if patience < deadline {
            sleep_until(patience.into()).await;
            let is_open = !repeatable && self.may_be_done.load(Ordering::Relaxed);
            if self.lacks_majority() && !is_open {
                return;
            }
        }
        sleep_until(deadline.into()).await;
    }
}

/// What became of an attempt.
pub(super) enum Attempt {
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
        let begun = Instant::now();
        let deadline = begun + after;
        let progress = Progress::default();
        let given_up = progress.given_up(begun, deadline, repeatable);
        tokio::pin!(given_up);
        loop {
            let brokers = self.candidates();
            let round = Box::pin(async {
                if repeatable {
                    self.ask_all(&brokers, &request, payload.as_ref(), &progress)
                        .await
                } else {
                    let brokers = self.answering_first(brokers).await;
                    self.tell_one(&brokers, &request, payload.as_ref(), &progress)
                        .await
                }
            });
            tokio::select! {
                outcome = round => match outcome {
                    Ok(response) => return Ok(response),
                    Err(Attempt::Final(error)) => return Err(error),
                    Err(Attempt::Again(_)) => {}
                },
                () = &mut given_up => {
                    // Of an attempt under way nothing was heard: an earlier failure says more.
                    return Err(if !repeatable && progress.may_be_done.load(Ordering::Relaxed) {
                        RequestError::TimedOut { what, after }
                    } else {
                        progress.unanswered(what, after, repeatable)
                    });
                }
            }
            let pause = self.config().reconnect.first * 2;
            let is_late = begun.elapsed() + pause >= NO_MAJORITY_PATIENCE;
            if begun.elapsed() + pause >= after || is_late && progress.lacks_majority() {
                return Err(progress.unanswered(what, after, repeatable));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks one broker, and each further one when those before have failed or are slow. The
    /// first answer counts.
    async fn ask_all(
        &self,
        brokers: &[Arc<Broker>],
        request: &Request,
        payload: Option<&Bytes>,
        progress: &Progress,
    ) -> Result<Response, Attempt> {
        let mut waiting = brokers.iter();
        let mut asked = FuturesUnordered::new();
        let mut last = None;
        loop {
            match waiting.next() {
                Some(broker) => asked.push(self.attempt(broker, request, payload, true, progress)),
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
        progress: &Progress,
    ) -> Result<Response, Attempt> {
        let mut last = Attempt::Final(ConnectError::NoBrokers.into());
        for broker in brokers {
            match self
                .attempt(broker, request, payload, false, progress)
                .await
            {
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
                    let progress = Progress::default();
                    let answer = self.attempt(broker, &request, None, true, &progress).await;
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

    pub(super) async fn attempt(
        &self,
        broker: &Broker,
        request: &Request,
        payload: Option<&Bytes>,
        repeatable: bool,
        progress: &Progress,
    ) -> Result<Response, Attempt> {
        let connection = match broker.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                let attempt = Attempt::of(error.into());
                if let Attempt::Again(error) = &attempt {
                    progress.note(error);
                }
                return Err(attempt);
            }
        };
        progress.may_be_done.store(true, Ordering::Relaxed);
        let outcome = self
            .attempt_on(broker, &connection, request, payload, repeatable)
            .await;
        if let Err(Attempt::Again(error)) = &outcome {
            // A change that may be made again was not made.
            progress.may_be_done.store(false, Ordering::Relaxed);
            progress.note(error);
        }
        outcome
    }

    async fn attempt_on(
        &self,
        broker: &Broker,
        connection: &Connection,
        request: &Request,
        payload: Option<&Bytes>,
        repeatable: bool,
    ) -> Result<Response, Attempt> {
        let what = request.name();
        match control::exchange(&broker.streams, connection, request.clone(), payload).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.code == ErrorCode::Timeout && !repeatable => {
                let text = error.text;
                Err(Attempt::Final(RequestError::Unclear { what, text }))
            }
            Ok(Err(error)) if error.retryable => {
                Err(Attempt::Again(RequestError::refused(what, error)))
            }
            Ok(Err(error)) => Err(Attempt::Final(RequestError::refused(what, error))),
            Err(broken) => {
                if let Some(refused) = broker.refusal(connection) {
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
