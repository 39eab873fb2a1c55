//! What a consumer that stops at the end asks the cluster meanwhile: whether what it waits for was
//! removed by retention, and where partitions end, when nobody knew that at their start.

use std::{collections::BTreeMap, convert::Infallible, sync::atomic::Ordering, time::Duration};

use flumen_protocol::message::{PartitionDescription, PartitionStart};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::fetch::{Event, Fetch};

/// A consumer that got nothing for this long, or does not know an end, asks this often.
const END_CHECK: Duration = Duration::from_secs(1);

/// The partitions that have started, and whether their end is known.
#[derive(Debug, Default)]
pub(super) struct Ends(Mutex<BTreeMap<u32, bool>>);

impl Ends {
    /// Partitions start, for the first time or again.
    fn started(&self, starts: &[PartitionStart]) {
        let mut known = self.0.lock();
        for start in starts {
            *known.entry(start.partition).or_default() |= start.end_offset.is_some();
        }
    }

    /// Partitions, started or not, were described by whoever leads them.
    fn described(&self, starts: &[PartitionStart]) {
        let mut known = self.0.lock();
        for start in starts {
            if let Some(known) = known.get_mut(&start.partition) {
                *known |= start.end_offset.is_some();
            }
        }
    }

    fn unknown(&self) -> Vec<u32> {
        let known = self.0.lock();
        let unknown = known.iter().filter(|(_, known)| !**known);
        unknown.map(|(partition, _)| *partition).collect()
    }
}

impl Fetch {
    /// Partitions have started.
    pub(super) fn note_ends(&self, starts: &[PartitionStart]) {
        if let Some(ends) = &self.ends {
            ends.started(starts);
        }
    }

    /// Asks for what the consumer has to know of the end, for as long as it lives.
    pub(super) async fn look_after_ends(&self) -> Infallible {
        let Some(ends) = &self.ends else {
            return std::future::pending().await;
        };
        loop {
            let batches = self.batches.load(Ordering::Relaxed);
            sleep(END_CHECK).await;
            let is_idle = self.batches.load(Ordering::Relaxed) == batches;
            let unknown = ends.unknown();
            if is_idle || !unknown.is_empty() {
                self.ask_for_ends(ends, unknown).await;
            }
        }
    }

    /// Tells the consumer where partitions begin and end by now.
    async fn ask_for_ends(&self, ends: &Ends, before: Vec<u32>) {
        let admin = self.client.admin();
        let obstacle = match admin.describe_topic(self.topic.as_str()).await {
            Ok(topic) => {
                let starts: Vec<_> = topic.partitions.iter().map(described).collect();
                ends.described(&starts);
                // A consumer that is gone need not be told.
                let _ = self.events.send(Event::Described(starts)).await;
                "nobody leads it".to_owned()
            }
            Err(error) => error.to_string(),
        };
        let unknown = ends.unknown();
        for partition in before {
            if unknown.binary_search(&partition).is_err() {
                self.setbacks.clear(partition);
            }
        }
        for partition in unknown {
            let reason = format!("where partition {partition} ends is not known: {obstacle}");
            self.setbacks.note(partition, reason);
        }
    }
}

/// A copy does not know the end.
fn described(partition: &PartitionDescription) -> PartitionStart {
    PartitionStart {
        partition: partition.index,
        start_offset: partition.start_offset,
        end_offset: partition.leader.map(|_| partition.end_offset),
    }
}
