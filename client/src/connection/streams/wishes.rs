//! How many streams are wished for, and which of those that are to spare are left for them. Pure:
//! time goes in, decisions come out.

use std::time::Duration;

use tokio::time::Instant;

/// A stream that is on its way out may take so long: what it carries is answered first, and then
/// the broker has to tell that there is room. After that others leave in its place.
pub(super) const LEAVES_WITHIN: Duration = Duration::from_secs(1);

/// Why a stream is to spare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spare {
    /// It carries nothing.
    Idle,
    /// It is in use and had its turn. Left only when all others carry something, too.
    Used,
}

/// The wishes for streams of one broker.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// Those who wait for a stream.
    waiting: usize,
    /// Streams that are on their way out for them.
    leaving: usize,
    /// Streams that carry nothing.
    idle: usize,
    /// When a stream left, or was opened, last.
    moved: Option<Instant>,
}

impl Wishes {
    /// Somebody waits for a stream.
    pub(super) fn wish(&mut self) {
        self.waiting += 1;
    }

    /// Somebody waits no more.
    pub(super) fn withdraw(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.leaving = 0;
        }
    }

    /// A stream was opened: for somebody who waited and does no more, or for one who did not have
    /// to. The latter may have taken the room of one that left for somebody else, who then needs
    /// another one. Both in one step: in between, one more would leave.
    pub(super) fn opened(&mut self, now: Instant, was_waited_for: bool) {
        self.leaving = self.leaving.saturating_sub(1);
        self.moved = Some(now);
        if was_waited_for {
            self.withdraw();
        }
    }

    /// Somebody still waits.
    pub(super) fn remind(&mut self, now: Instant) {
        if self.moved.is_none_or(|moved| now - moved >= LEAVES_WITHIN) {
            self.leaving = 0;
        }
    }

    /// A stream is to spare.
    pub(super) fn offer(&mut self, spare: Spare) {
        self.idle += usize::from(spare == Spare::Idle);
    }

    /// A stream is to spare no more.
    pub(super) fn retract(&mut self, spare: Spare) {
        self.idle -= usize::from(spare == Spare::Idle);
    }

    /// Whether a stream that is to spare is to be left now; then it is on its way out.
    pub(super) fn take(&mut self, spare: Spare, now: Instant) -> bool {
        let takes = match self.next() {
            None => false,
            Some(Spare::Idle) => spare == Spare::Idle,
            Some(Spare::Used) => true,
        };
        if takes {
            self.leaving += 1;
            self.moved = Some(now);
        }
        takes
    }

    /// Of what kind the next stream is that should leave, if one should.
    pub(super) fn next(&self) -> Option<Spare> {
        let is_open = self.waiting > self.leaving;
        is_open.then_some(if self.idle > 0 {
            Spare::Idle
        } else {
            Spare::Used
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many streams that carry nothing, and so many that wait for one.
    fn wishes(idle: usize, waiting: usize) -> Wishes {
        let mut wishes = Wishes::default();
        (0..idle).for_each(|_| wishes.offer(Spare::Idle));
        (0..waiting).for_each(|_| wishes.wish());
        wishes
    }

    /// How many of so many that are to spare leave.
    fn leave(wishes: &mut Wishes, spare: Spare, now: Instant) -> usize {
        let offered = (0..100).filter(|_| wishes.take(spare, now));
        offered.count()
    }

    #[test]
    fn as_many_streams_leave_as_are_wished_for() {
        let now = Instant::now();
        let mut wishes = wishes(100, 0);
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 0);
        wishes.wish();
        wishes.wish();
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 2);
        wishes.wish();
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 1);
        for _ in 0..3 {
            wishes.opened(now, true);
            assert_eq!(wishes.next(), None, "one more would leave");
        }
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 0);
    }

    #[test]
    fn one_that_is_in_use_leaves_when_all_others_are_too() {
        let now = Instant::now();
        let mut wishes = wishes(1, 2);
        assert_eq!(leave(&mut wishes, Spare::Used, now), 0);
        assert!(wishes.take(Spare::Idle, now));
        wishes.retract(Spare::Idle);
        assert_eq!(wishes.next(), Some(Spare::Used));
        assert_eq!(leave(&mut wishes, Spare::Used, now), 1);
    }

    #[test]
    fn who_is_forestalled_gets_another_one() {
        let now = Instant::now();
        let mut wishes = wishes(5, 1);
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 1);
        // By somebody who has just come, and needed no wish.
        wishes.opened(now, false);
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 1);
    }

    #[test]
    fn one_that_does_not_get_away_is_replaced_after_a_while() {
        let now = Instant::now();
        let mut wishes = wishes(5, 2);
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 2);
        wishes.remind(now + LEAVES_WITHIN / 2);
        assert_eq!(wishes.next(), None);
        let later = now + LEAVES_WITHIN;
        wishes.remind(later);
        assert_eq!(leave(&mut wishes, Spare::Idle, later), 2);
        wishes.remind(later);
        assert_eq!(wishes.next(), None, "however many remind of it");
    }

    #[test]
    fn nobody_leaves_for_those_that_have_gone() {
        let now = Instant::now();
        let mut wishes = wishes(5, 2);
        wishes.withdraw();
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 1);
        wishes.withdraw();
        wishes.wish();
        assert_eq!(leave(&mut wishes, Spare::Idle, now), 1);
    }
}
