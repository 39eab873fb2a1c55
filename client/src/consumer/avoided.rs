//! Copies that could not be read, and for how long each is left alone. Pure: time goes in.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use flumen_protocol::ids::BrokerId;

/// After a copy could not be read, the leader is read instead for so long. Each time that the copy
/// is of no use again soon after that, it is twice as long ...
const AVOIDED: Duration = Duration::from_secs(10);

/// ... up to this.
const AVOIDED_MAX: Duration = Duration::from_mins(5);

/// As [`AVOIDED`], where the broker of the copy answers and only hears of no leader: an election may
/// be all that it waits for.
const CUT_OFF_AVOIDED: Duration = Duration::from_secs(2);

/// Why a copy is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Useless {
    /// Its broker is gone, or does not read it out.
    Unreadable,
    /// Its broker has lost touch with the leader.
    CutOff,
}

/// The copies, by broker.
#[derive(Debug, Default)]
pub(super) struct Avoided {
    copies: HashMap<BrokerId, Copy>,
}

#[derive(Debug)]
struct Copy {
    until: Instant,
    /// For how long it is, or was, left alone.
    wait: Duration,
}

impl Copy {
    /// Whether it was read, or could have been, for as long as it was left alone before.
    fn is_forgiven(&self, now: Instant) -> bool {
        now >= self.until + self.wait
    }
}

impl Avoided {
    /// A copy is of no use. That many say so at the same time counts once.
    pub(super) fn note(&mut self, broker: BrokerId, why: Useless, now: Instant) {
        let first = match why {
            Useless::Unreadable => AVOIDED,
            Useless::CutOff => CUT_OFF_AVOIDED,
        };
        self.copies.retain(|_, copy| !copy.is_forgiven(now));
        let before = self.copies.get(&broker);
        let wait = match before {
            None => first,
            Some(copy) if now < copy.until => return,
            Some(copy) => (copy.wait * 2).clamp(first, AVOIDED_MAX),
        };
        let until = now + wait;
        self.copies.insert(broker, Copy { until, wait });
    }

    /// Whether a copy is left alone now.
    pub(super) fn contains(&self, broker: BrokerId, now: Instant) -> bool {
        let copy = self.copies.get(&broker);
        copy.is_some_and(|copy| now < copy.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: BrokerId = BrokerId(2);
    const SOON: Duration = Duration::from_secs(1);

    /// For how long a copy is avoided that has just been noted.
    fn wait(avoided: &Avoided, now: Instant) -> Duration {
        let seconds = (0..).map(Duration::from_secs);
        let mut over = seconds.skip_while(|time| avoided.contains(COPY, now + *time));
        over.next().unwrap()
    }

    #[test]
    fn a_copy_that_stays_of_no_use_is_tried_less_and_less_often() {
        let mut avoided = Avoided::default();
        let mut now = Instant::now();
        assert!(!avoided.contains(COPY, now));
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            avoided.note(COPY, Useless::Unreadable, now);
            let wait = wait(&avoided, now);
            assert_eq!(wait, Duration::from_secs(seconds));
            assert!(!avoided.contains(BrokerId(3), now));
            now += wait + SOON;
        }
    }

    #[test]
    fn a_copy_that_only_waits_for_a_leader_is_tried_soon_and_less_often_if_that_goes_on() {
        let mut avoided = Avoided::default();
        let mut now = Instant::now();
        for seconds in [2, 4, 8] {
            avoided.note(COPY, Useless::CutOff, now);
            let wait = wait(&avoided, now);
            assert_eq!(wait, Duration::from_secs(seconds));
            now += wait + SOON;
        }
        let mut avoided = Avoided::default();
        avoided.note(COPY, Useless::CutOff, now);
        now += CUT_OFF_AVOIDED + SOON;
        avoided.note(COPY, Useless::Unreadable, now);
        assert_eq!(wait(&avoided, now), AVOIDED, "it is gone by now");
    }

    #[test]
    fn what_several_streams_say_of_a_copy_counts_once() {
        let mut avoided = Avoided::default();
        let now = Instant::now();
        for _ in 0..5 {
            avoided.note(COPY, Useless::Unreadable, now);
        }
        avoided.note(COPY, Useless::Unreadable, now + SOON);
        assert_eq!(wait(&avoided, now), AVOIDED);
    }

    #[test]
    fn a_copy_that_was_of_use_for_as_long_is_forgiven() {
        let mut avoided = Avoided::default();
        let mut now = Instant::now();
        avoided.note(COPY, Useless::Unreadable, now);
        now += AVOIDED + SOON;
        avoided.note(COPY, Useless::Unreadable, now);
        now += 4 * AVOIDED;
        avoided.note(COPY, Useless::Unreadable, now);
        assert_eq!(wait(&avoided, now), AVOIDED);
    }
}
