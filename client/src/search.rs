//! The search for leaders: while somebody waits for one, a task asks several brokers at a time
//! for metadata, soon again at first and less often the longer it takes. One task serves all
//! producers and consumers of a client, however many partitions have lost their leader at once.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use flumen_protocol::{
    ids::{BrokerId, ShardId},
    message::{Request, Response},
};
use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    client::Client,
    connection::{Broker, control},
};

/// Brokers that are asked at the same time.
const ASKED_MAX: usize = 3;

/// How long one broker is waited for; others are asked meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The shortest wait between two rounds.
const PACE_MIN: Duration = Duration::from_millis(40);

/// The longest wait between two rounds.
const PACE_MAX: Duration = Duration::from_secs(1);

/// The wait between rounds is this part of the time that the search has taken, so that what it
/// adds to an outage stays a small part of the outage.
const PACE_PART: u32 = 8;

/// Counts those who wait.
#[derive(Debug, Default)]
pub(crate) struct Searchers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    is_running: bool,
}

/// Somebody waits for a leader; the search goes on until this is dropped.
#[derive(Debug)]
#[must_use = "the search ends when this is dropped"]
pub(crate) struct Search {
    searchers: Arc<Searchers>,
}

impl Drop for Search {
    fn drop(&mut self) {
        self.searchers.state.lock().waiting -= 1;
    }
}

impl Client {
    /// Asks around for leaders from now on. Who waits is told by
    /// [`Cluster::changes`](crate::cluster::Cluster::changes).
    pub(crate) fn search(&self) -> Search {
        let searchers = Arc::clone(self.searchers());
        let starts = {
            let mut state = searchers.state.lock();
            state.waiting += 1;
            !std::mem::replace(&mut state.is_running, true)
        };
        if starts {
            tokio::spawn(ask_around(self.clone()));
        }
        Search { searchers }
    }

    /// Waits until a broker other than `at` leads the shard, as far as is known, and asks around
    /// for it once `patience` is over.
    pub(crate) async fn led_elsewhere(
        &self,
        shard: ShardId,
        at: Option<BrokerId>,
        patience: Duration,
    ) {
        let mut changes = self.cluster().changes();
        let impatient = sleep(patience);
        tokio::pin!(impatient);
        let mut search = None;
        while !self.cluster().is_led_elsewhere(shard, at) {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = &mut impatient, if search.is_none() => search = Some(self.search()),
            }
        }
    }
}

/// Asks until nobody waits any more.
async fn ask_around(client: Client) {
    let started = Instant::now();
    let mut asked = HashSet::new();
    let mut answers = JoinSet::new();
    let mut first = 0;
    loop {
        {
            let mut state = client.searchers().state.lock();
            if state.waiting == 0 || client.is_closed() {
                state.is_running = false;
                return;
            }
        }
        while let Some(answered) = answers.try_join_next() {
            if let Ok(address) = answered {
                asked.remove(&address);
            }
        }
        let mut brokers = client.candidates();
        if brokers.len() > ASKED_MAX {
            // Those that always answer must not keep the others from being asked.
            first = (first + ASKED_MAX) % brokers.len();
            brokers.rotate_left(first);
        }
        // A broker that is alone cannot tell of others.
        for broker in brokers.iter().filter(|_| brokers.len() > 1) {
            let address = broker.address().to_owned();
            if asked.len() < ASKED_MAX && asked.insert(address.clone()) {
                let asking = ask(client.clone(), Arc::clone(broker));
                answers.spawn(async move {
                    // Silence is an answer, too: another one is asked.
                    let _ = timeout(ANSWER_TIMEOUT, asking).await;
                    address
                });
            }
        }
        sleep(pace(started.elapsed(), rand::random_range(0.75..=1.0))).await;
    }
}

async fn ask(client: Client, broker: Arc<Broker>) {
    let request = Request::Metadata { topics: Vec::new() };
    let Ok(connection) = broker.connection().await else {
        return;
    };
    if let Ok(Ok(Response::Metadata(metadata))) =
        control::exchange(&broker.streams, &connection, request, None).await
    {
        client.cluster().learn(&metadata);
    }
}

/// The wait after so long a search; `part` of it, so that clients do not ask in step.
fn pace(searching: Duration, part: f64) -> Duration {
    (searching / PACE_PART)
        .clamp(PACE_MIN, PACE_MAX)
        .mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_asks_soon_again_at_first_and_less_often_later() {
        for (searching, wait) in [
            (0, 40),
            (320, 40),
            (800, 100),
            (8_000, 1_000),
            (90_000, 1_000),
        ] {
            let wait = Duration::from_millis(wait);
            assert_eq!(pace(Duration::from_millis(searching), 1.0), wait);
            assert_eq!(pace(Duration::from_millis(searching), 0.75), wait * 3 / 4);
        }
    }
}
