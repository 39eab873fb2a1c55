//! What a consumer asks the cluster beside reading: who leads, while it is read from a broker that
//! does not know where partitions end, and, if it stops at the end, where that is, and whether what
//! it waits for was removed by retention.
//!
//! A broker that does not know an end is cut off from the leader, or there is none. What it has may
//! be old, and stay so. One that was in touch before says when it is no more.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::atomic::Ordering,
    time::Duration,
};

use flumen_protocol::{
    ids::BrokerId,
    message::{PartitionDescription, PartitionStart, TopicDescription},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::{
    avoided::Useless,
    fetch::{Event, Fetch},
};
use crate::setback::Cause;

/// A consumer that got nothing for this long, or is read from a broker that does not know an end,
/// asks this often.
const END_CHECK: Duration = Duration::from_secs(1);

/// It asks this often when that goes on: each time at several brokers, which ask others.
const END_CHECK_MAX: Duration = Duration::from_secs(5);

/// What is known of the ends of partitions that have started.
#[derive(Debug)]
pub(super) struct Ends {
    /// Whether the consumer stops there.
    pub(super) are_waited_for: bool,
    partitions: Mutex<Partitions>,
    /// A partition has started at a broker that does not know its end.
    doubts: Notify,
    /// The broker of a partition that was read has lost touch with its leader.
    cut_offs: Notify,
}

#[derive(Debug, Default)]
struct Partitions {
    ends: BTreeMap<u32, End>,
    /// How often partitions have started.
    starts: u64,
}

#[derive(Clone, Copy, Debug)]
struct End {
    /// Whether anybody has said it.
    is_known: bool,
    /// Whether the broker that the partition is read from is in touch with its leader.
    is_in_touch: bool,
    reader: Option<BrokerId>,
    /// The number of the start that this is of.
    start: u64,
}

impl Ends {
    pub(super) fn new(are_waited_for: bool) -> Self {
        Self {
            are_waited_for,
            partitions: Mutex::default(),
            doubts: Notify::new(),
            cut_offs: Notify::new(),
        }
    }

    /// Partitions start at a broker, for the first time or again.
    fn started(&self, reader: Option<BrokerId>, starts: &[PartitionStart]) {
        let mut partitions = self.partitions.lock();
        partitions.starts += 1;
        for start in starts {
            let is_in_touch = start.end_offset.is_some();
            let before = partitions.ends.get(&start.partition);
            let end = End {
                is_known: is_in_touch || before.is_some_and(|end| end.is_known),
                is_in_touch,
                reader,
                start: partitions.starts,
            };
            partitions.ends.insert(start.partition, end);
            if !is_in_touch {
                self.doubts.notify_one();
            }
        }
    }

    /// The broker that partitions are read from has lost touch with their leaders.
    fn cut_off(&self, cut_off: &[u32]) {
        let mut partitions = self.partitions.lock();
        partitions.starts += 1;
        let start = partitions.starts;
        for partition in cut_off {
            if let Some(end) = partitions.ends.get_mut(partition) {
                end.is_in_touch = false;
                // What was asked before says nothing of it.
                end.start = start;
            }
        }
        self.cut_offs.notify_one();
    }

    /// Partitions, started or not, were described by who was asked after so many starts. Returns the
    /// brokers that some are read from though somebody else leads them, and which did not know of
    /// that. A broker that `is_alone` has no others.
    fn described(&self, starts: u64, topic: &TopicDescription, is_alone: bool) -> Vec<BrokerId> {
        let mut partitions = self.partitions.lock();
        let mut cut_off = Vec::new();
        for described in &topic.partitions {
            let known = partitions.ends.get_mut(&described.index);
            let Some(end) = known.filter(|_| described.extent.is_some()) else {
                continue;
            };
            end.is_known = true;
            // Of a stream that began since, the answer says nothing.
            if end.is_in_touch || end.start > starts {
                continue;
            }
            match end.reader {
                Some(reader) if described.leader != Some(reader) => cut_off.push(reader),
                // Whoever it is read from, the stream moves when the leader is found.
                None if !is_alone => {}
                _ => end.is_in_touch = true,
            }
        }
        cut_off
    }

    /// Nothing more comes of a partition.
    fn given_up(&self, partition: u32) {
        self.partitions.lock().ends.remove(&partition);
    }

    /// How often partitions have started so far.
    fn starts(&self) -> u64 {
        self.partitions.lock().starts
    }

    fn of(&self, wanted: impl Fn(&End) -> bool) -> BTreeSet<u32> {
        let partitions = self.partitions.lock();
        let found = partitions.ends.iter().filter(|(_, end)| wanted(end));
        found.map(|(partition, _)| *partition).collect()
    }

    fn unknown(&self) -> BTreeSet<u32> {
        self.of(|end| !end.is_known)
    }

    /// Those whose end, or what retention has left of them, is to be heard.
    fn wanted(&self) -> BTreeSet<u32> {
        self.of(|end| self.are_waited_for || !end.is_known || !end.is_in_touch)
    }

    fn in_doubt(&self) -> BTreeSet<u32> {
        self.of(|end| !end.is_in_touch)
    }

    fn is_in_doubt(&self) -> bool {
        !self.in_doubt().is_empty()
    }
}

impl Fetch {
    /// Partitions have started at a broker.
    pub(super) fn note_ends(&self, reader: Option<BrokerId>, starts: &[PartitionStart]) {
        self.ends.started(reader, starts);
        for start in starts {
            // A broker that is cut off starts a partition again, too, behind what compaction removed.
            if start.end_offset.is_some() {
                self.setbacks.clear(Cause::CutOff, start.partition);
                self.setbacks.clear(Cause::End, start.partition);
            }
        }
    }

    /// A broker that partitions are read from says that it has lost touch with their leaders.
    pub(super) fn note_cut_off(&self, reader: Option<BrokerId>, partitions: &[u32]) {
        self.ends.cut_off(partitions);
        let broker = self.client.broker(reader);
        for partition in partitions {
            let address = broker.address();
            let reason =
                format!("broker {address} does not hear of a leader of partition {partition}");
            self.setbacks.note(Cause::CutOff, *partition, reason);
        }
    }

    /// Nothing more comes of a partition.
    pub(super) fn give_up_end(&self, partition: u32) {
        self.ends.given_up(partition);
        self.setbacks.clear(Cause::End, partition);
        self.setbacks.clear(Cause::CutOff, partition);
    }

    /// Asks for what the consumer has to know of the end, for as long as it lives.
    pub(super) async fn look_after_ends(&self) -> Infallible {
        let ends = &self.ends;
        let mut search = None;
        let mut pause = END_CHECK;
        loop {
            let batches = self.batches.load(Ordering::Relaxed);
            if !ends.is_in_doubt() {
                search = None;
            }
            let looks_again = ends.are_waited_for || ends.is_in_doubt();
            tokio::select! {
                () = ends.doubts.notified() => pause = END_CHECK,
                () = ends.cut_offs.notified() => {
                    // The search may find the leader before this consumer has to ask by itself.
                    search = search.or_else(|| Some(self.client.search()));
                    pause = END_CHECK;
                    continue;
                }
                () = sleep(pause.mul_f64(rand::random_range(0.75..=1.0))), if looks_again => {}
            }
            self.setbacks.keep(Cause::End, &ends.unknown());
            let is_idle = self.batches.load(Ordering::Relaxed) == batches;
            let is_in_doubt = ends.is_in_doubt();
            // Whom the streams are to go to is heard by them.
            search = is_in_doubt.then(|| search.unwrap_or_else(|| self.client.search()));
            if is_in_doubt || is_idle && ends.are_waited_for {
                self.ask_for_ends().await;
            }
            let goes_on = is_in_doubt && ends.is_in_doubt();
            pause = if goes_on {
                (pause * 2).min(END_CHECK_MAX)
            } else {
                END_CHECK
            };
        }
    }

    /// Tells the consumer where partitions begin and end by now.
    async fn ask_for_ends(&self) {
        let starts = self.ends.starts();
        let wanted = self.ends.wanted();
        let is_wanted = |partition| wanted.contains(&partition);
        let described = self.client.describe(&self.topic, is_wanted).await;
        // Another topic of that name says nothing of this one. Who opens a stream next hears of it.
        if let Ok(topic) = &described
            && topic.id == self.topic_id
        {
            let is_alone = self.client.candidates().len() < 2;
            for broker in self.ends.described(starts, topic, is_alone) {
                self.places.avoid(broker, Useless::CutOff);
            }
            // Before the consumer is told, which may take none of it for long.
            self.setbacks.keep(Cause::End, &self.ends.unknown());
            self.setbacks.keep(Cause::CutOff, &self.ends.in_doubt());
            let starts = topic
                .partitions
                .iter()
                .filter_map(described_start)
                .collect();
            // A consumer that is gone need not be told.
            let _ = self.events.send(Event::Described(starts)).await;
        }
        if !self.ends.are_waited_for {
            return;
        }
        for partition in self.ends.unknown() {
            let obstacle = match &described {
                Ok(topic) => obstacle(topic, partition),
                Err(error) => error.to_string(),
            };
            let reason = format!("where partition {partition} ends is not known: {obstacle}");
            self.setbacks.note(Cause::End, partition, reason);
        }
    }
}

/// Why nobody says where a partition ends.
fn obstacle(topic: &TopicDescription, partition: u32) -> String {
    let described = topic.partitions.get(partition as usize);
    match described.and_then(|described| described.leader) {
        Some(leader) => format!("broker {leader}, which leads it, does not answer"),
        None => "nobody leads it".to_owned(),
    }
}

fn described_start(partition: &PartitionDescription) -> Option<PartitionStart> {
    let extent = partition.extent?;
    Some(PartitionStart {
        partition: partition.index,
        start_offset: extent.start_offset,
        end_offset: Some(extent.end_offset),
    })
}
