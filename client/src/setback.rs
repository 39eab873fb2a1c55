//! Why a producer or a consumer waits, for those who want to say so: every attempt that failed is
//! followed by another one, and meanwhile both are silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use parking_lot::Mutex;

/// Why messages to a partition have no receipt yet, or none of it come: the attempts to deliver them,
/// or to read them, fail, and others follow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setback {
    /// The partition.
    pub partition: u32,
    /// Since when it waits: for the first answer of all, or since an attempt failed after one that did
    /// not.
    pub since: Instant,
    /// Why the last attempt failed, in the broker's words if it gave some.
    pub reason: String,
}

/// Tells the setbacks of a consumer, also while it is being built.
#[derive(Clone, Debug)]
pub struct SetbackWatch(pub(crate) Arc<Setbacks>);

impl SetbackWatch {
    /// As [`Consumer::setback`](crate::Consumer::setback).
    pub fn setback(&self) -> Option<Setback> {
        self.0.longest()
    }
}

/// What a partition waits for. Each has an end of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// Attempts to deliver or to read have failed.
    Attempts,
    /// Nobody says where the partition ends, though it may be read.
    End,
    /// The broker that the partition is read from is cut off from its leader.
    CutOff,
    /// A consumer has not started yet. Whatever is known beside it says more.
    Start,
}

/// The setbacks of a delivery or a consumer, by partition.
#[derive(Debug, Default)]
pub(crate) struct Setbacks(Mutex<BTreeMap<(Cause, u32), Setback>>);

impl Setbacks {
    /// An attempt has failed, or is not known to have succeeded.
    pub(crate) fn note(&self, cause: Cause, partition: u32, reason: String) {
        let mut setbacks = self.0.lock();
        let setback = setbacks
            .entry((cause, partition))
            .or_insert_with(|| Setback {
                partition,
                since: Instant::now(),
                reason: String::new(),
            });
        setback.reason = reason;
    }

    /// What is noted for this cause has another reason by now, if there is anything.
    pub(crate) fn renew(&self, cause: Cause, partition: u32, reason: String) {
        let mut setbacks = self.0.lock();
        let mut noted = setbacks.iter_mut().filter(|((of, _), _)| *of == cause);
        if let Some((_, setback)) = noted.next() {
            setback.partition = partition;
            setback.reason = reason;
        }
    }

    /// A partition does not wait for this any more.
    pub(crate) fn clear(&self, cause: Cause, partition: u32) {
        self.0.lock().remove(&(cause, partition));
    }

    /// No others than these wait for this any more.
    pub(crate) fn keep(&self, cause: Cause, partitions: &BTreeSet<u32>) {
        let mut setbacks = self.0.lock();
        setbacks.retain(|(of, partition), _| *of != cause || partitions.contains(partition));
    }

    /// The one that has lasted longest.
    pub(crate) fn longest(&self) -> Option<Setback> {
        let setbacks = self.0.lock();
        let since = setbacks.values().map(|setback| setback.since).min()?;
        let telling = setbacks.iter().min_by_key(|((cause, _), setback)| {
            let says_little = *cause == Cause::Start;
            (says_little, setback.since)
        });
        telling.map(|(_, setback)| Setback {
            since,
            ..setback.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_counts_with_its_last_reason_until_it_is_over() {
        let setbacks = Setbacks::default();
        let note = |partition, reason: &str| {
            setbacks.note(Cause::Attempts, partition, reason.to_owned());
        };
        assert_eq!(setbacks.longest(), None);
        note(7, "first");
        let since = setbacks.longest().unwrap().since;
        note(3, "later");
        note(7, "second");
        let longest = setbacks.longest().unwrap();
        assert_eq!((longest.partition, longest.since), (7, since));
        assert_eq!(longest.reason, "second");
        setbacks.clear(Cause::Attempts, 7);
        assert_eq!(setbacks.longest().unwrap().partition, 3);
        setbacks.clear(Cause::Attempts, 3);
        assert_eq!(setbacks.longest(), None);
    }

    #[test]
    fn what_is_read_again_still_waits_for_its_end() {
        let setbacks = Setbacks::default();
        setbacks.note(Cause::End, 1, "the end".to_owned());
        setbacks.note(Cause::Attempts, 1, "lost".to_owned());
        setbacks.clear(Cause::Attempts, 1);
        assert_eq!(setbacks.longest().unwrap().reason, "the end");
    }

    #[test]
    fn those_that_do_not_wait_any_more_are_forgotten() {
        let setbacks = Setbacks::default();
        for partition in 0..3 {
            setbacks.note(Cause::End, partition, format!("the end of {partition}"));
        }
        setbacks.note(Cause::Attempts, 2, "lost".to_owned());
        setbacks.keep(Cause::End, &BTreeSet::from([1]));
        assert_eq!(setbacks.longest().unwrap().reason, "the end of 1");
        setbacks.keep(Cause::End, &BTreeSet::new());
        assert_eq!(setbacks.longest().unwrap().reason, "lost");
    }

    #[test]
    fn why_a_consumer_does_not_start_says_more_than_that_it_does_not_and_counts_from_then() {
        let setbacks = Setbacks::default();
        setbacks.note(Cause::Start, 0, "not yet".to_owned());
        let begun = setbacks.longest().unwrap();
        assert_eq!(begun.reason, "not yet");
        setbacks.note(Cause::Attempts, 1, "refused".to_owned());
        let longest = setbacks.longest().unwrap();
        assert_eq!((longest.since, longest.partition), (begun.since, 1));
        assert_eq!(longest.reason, "refused");
    }
}
