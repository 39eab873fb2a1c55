//! Why a producer or a consumer waits, for those who want to say so: every attempt that failed is
//! followed by another one, and meanwhile both are silent.

use std::{collections::BTreeMap, time::Instant};

use parking_lot::Mutex;

/// Why messages to a partition have no receipt yet, or none of it come: the attempts to deliver them,
/// or to read them, fail, and others follow.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setback {
    /// The partition.
    pub partition: u32,
    /// When the first attempt failed since the last one that did not.
    pub since: Instant,
    /// Why the last attempt failed, in the broker's words if it gave some.
    pub reason: String,
}

/// The setbacks of a delivery or a consumer, by partition.
#[derive(Debug, Default)]
pub(crate) struct Setbacks(Mutex<BTreeMap<u32, Setback>>);

impl Setbacks {
    /// An attempt has failed.
    pub(crate) fn note(&self, partition: u32, reason: String) {
        let mut setbacks = self.0.lock();
        let setback = setbacks.entry(partition).or_insert_with(|| Setback {
            partition,
            since: Instant::now(),
            reason: String::new(),
        });
        setback.reason = reason;
    }

    /// Nothing of a partition waits any more, or its messages are acknowledged, or read, again.
    pub(crate) fn clear(&self, partition: u32) {
        self.0.lock().remove(&partition);
    }

    /// The one that has lasted longest.
    pub(crate) fn longest(&self) -> Option<Setback> {
        let setbacks = self.0.lock();
        setbacks.values().min_by_key(|s| s.since).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_counts_with_its_last_reason_until_it_is_over() {
        let setbacks = Setbacks::default();
        assert_eq!(setbacks.longest(), None);
        setbacks.note(7, "first".to_owned());
        let since = setbacks.longest().unwrap().since;
        setbacks.note(3, "later".to_owned());
        setbacks.note(7, "second".to_owned());
        let longest = setbacks.longest().unwrap();
        assert_eq!((longest.partition, longest.since), (7, since));
        assert_eq!(longest.reason, "second");
        setbacks.clear(7);
        assert_eq!(setbacks.longest().unwrap().partition, 3);
        setbacks.clear(3);
        assert_eq!(setbacks.longest(), None);
    }
}
