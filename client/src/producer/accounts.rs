//! Who gave which records to a delivery that several producers share.
//!
//! A batch holds records of whoever sends to its partition. Each producer has an account: it
//! is told of the failures of its own records only, waits when flushing for batches with
//! records of its own only, and is closed alone.

use std::{collections::VecDeque, sync::Arc};

use super::{
    completion::Completion,
    error::{FlushError, SendError},
};

/// A producer at its delivery. Of use to nobody once the producer has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AccountId {
    index: u32,
    /// Tells it from those that had the same place before.
    generation: u32,
}

/// What one producer has in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) account: AccountId,
    /// Records whose receipts nobody awaits one by one.
    pub(super) unawaited: u32,
}

/// A batch that has no outcome yet.
#[derive(Debug)]
pub(super) struct Unsettled {
    pub(super) partition: u32,
    pub(super) completion: Arc<Completion>,
}

/// Fewer batches than this are not looked through for those that others have overtaken.
const SWEEP_MIN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Account {
    is_closed: bool,
    /// Records that wait for room. Those that come later go behind them.
    pub(super) queued: usize,
    failures: Option<Box<FlushError>>,
    /// Batches with records of this producer, in the order in which it came to them.
    unsettled: VecDeque<Unsettled>,
    /// So many of them are looked through next time.
    sweep_at: usize,
    /// The newest batch with a share of this producer, and where that lies in it: finds the
    /// share of the next record without a search, unless that goes to another partition.
    newest: Option<(u64, usize)>,
}

impl Account {
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Whether records have failed that the producer was not told of.
    #[inline]
    pub(super) fn has_failures(&self) -> bool {
        self.failures.is_some()
    }

    pub(super) fn take_failures(&mut self) -> Option<Box<FlushError>> {
        self.failures.take()
    }

    /// Counts a record into the shares of a batch. Batches are numbered in the order in which
    /// they are begun.
    pub(super) fn count(
        &mut self,
        id: AccountId,
        number: u64,
        shares: &mut Vec<Share>,
        is_awaited: bool,
        unsettled: impl FnOnce() -> Unsettled,
    ) {
        let known = match self.newest {
            Some((newest, at)) if newest == number => Some(at),
            Some((newest, _)) if newest > number => shares.iter().position(|s| s.account == id),
            _ => None,
        };
        let at = known.unwrap_or_else(|| {
            self.forget_settled();
            self.unsettled.push_back(unsettled());
            shares.push(Share {
                account: id,
                unawaited: 0,
            });
            shares.len() - 1
        });
        if self.newest.is_none_or(|(newest, _)| newest < number) {
            self.newest = Some((number, at));
        }
        shares[at].unawaited += u32::from(!is_awaited);
    }

    /// Batches with records of this producer that have no outcome.
    pub(super) fn unsettled(&mut self) -> impl Iterator<Item = &Unsettled> {
        self.forget_settled();
        let unsettled = self.unsettled.iter();
        unsettled.filter(|batch| !batch.completion.is_complete())
    }

    /// Batches settle in order but for those of partitions that are not led, which others overtake:
    /// there are at most twice as many here as had no outcome when this looked last.
    fn forget_settled(&mut self) {
        let is_settled = |batch: &mut Unsettled| batch.completion.is_complete();
        while self.unsettled.pop_front_if(is_settled).is_some() {}
        if self.unsettled.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.unsettled
                .retain(|batch| !batch.completion.is_complete());
            self.sweep_at = self.unsettled.len() * 2;
        }
    }
}

/// All producers of one delivery.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// By index, with its generation; `None` where a producer has left.
    places: Vec<(u32, Option<Account>)>,
    free: Vec<u32>,
}

impl Accounts {
    pub(super) fn open(&mut self) -> AccountId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            self.places.len() as u32 - 1
        });
        let (generation, account) = &mut self.places[index as usize];
        *account = Some(Account::default());
        AccountId {
            index,
            generation: *generation,
        }
    }

    /// The producer takes no more records.
    pub(super) fn close(&mut self, id: AccountId) {
        if let Some(account) = self.get(id) {
            account.is_closed = true;
        }
    }

    /// No producer takes any more records.
    pub(super) fn close_all(&mut self) {
        let accounts = self.places.iter_mut();
        let accounts = accounts.filter_map(|(_, account)| account.as_mut());
        accounts.for_each(|account| account.is_closed = true);
    }

    /// The producer is gone.
    pub(super) fn remove(&mut self, id: AccountId) -> Option<Account> {
        let (generation, account) = self.places.get_mut(id.index as usize)?;
        if *generation != id.generation {
            return None;
        }
        let account = account.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(id.index);
        Some(account)
    }

    #[inline]
    pub(super) fn get(&mut self, id: AccountId) -> Option<&mut Account> {
        let (generation, account) = self.places.get_mut(id.index as usize)?;
        account.as_mut().filter(|_| *generation == id.generation)
    }

    /// Whether no producer takes records any more.
    pub(super) fn all_closed(&self) -> bool {
        let mut accounts = self
            .places
            .iter()
            .filter_map(|(_, account)| account.as_ref());
        accounts.all(Account::is_closed)
    }

    /// Remembers that records nobody awaits have failed, until their producer flushes or
    /// enqueues; false if it is gone.
    pub(super) fn note_failure(&mut self, share: Share, error: &SendError) -> bool {
        if share.unawaited == 0 {
            return true;
        }
        let Some(account) = self.get(share.account) else {
            return false;
        };
        let failures = account.failures.get_or_insert_with(|| {
            Box::new(FlushError {
                failed: 0,
                unknown: 0,
                first: error.clone(),
            })
        });
        failures.failed += u64::from(share.unawaited);
        if error.is_unknown() {
            failures.unknown += u64::from(share.unawaited);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::completion::BatchOutcome;

    fn count(accounts: &mut Accounts, id: AccountId, number: u64, shares: &mut Vec<Share>) {
        let account = accounts.get(id).expect("it is open");
        account.count(id, number, shares, false, || Unsettled {
            partition: 0,
            completion: Arc::default(),
        });
    }

    #[test]
    fn a_batch_knows_how_much_is_whose_in_whatever_order_it_came() {
        let mut accounts = Accounts::default();
        let [a, b] = [accounts.open(), accounts.open()];
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            count(&mut accounts, a, 1, &mut first);
            count(&mut accounts, b, 2, &mut second);
            count(&mut accounts, a, 2, &mut second);
            count(&mut accounts, b, 1, &mut first);
        }
        let share = |account| Share {
            account,
            unawaited: 3,
        };
        assert_eq!(first, [share(a), share(b)]);
        assert_eq!(second, [share(b), share(a)]);
        for id in [a, b] {
            let account = accounts.get(id).expect("it is open");
            assert_eq!(account.unsettled().count(), 2);
        }
    }

    #[test]
    fn a_batch_that_does_not_settle_does_not_keep_those_that_do() {
        let mut accounts = Accounts::default();
        let id = accounts.open();
        let account = accounts.get(id).expect("it is open");
        let stuck = Arc::new(Completion::default());
        for number in 0..10_000 {
            let completion = if number == 0 {
                Arc::clone(&stuck)
            } else {
                Arc::default()
            };
            let unsettled = || Unsettled {
                partition: 0,
                completion: Arc::clone(&completion),
            };
            account.count(id, number, &mut Vec::new(), false, unsettled);
            if number > 0 {
                let topic = flumen_protocol::topic::Name::new("t").expect("a name");
                completion.complete(BatchOutcome {
                    result: Err(Arc::new(SendError::Closed { topic })),
                    records: 1,
                });
            }
            assert!(account.unsettled.len() <= SWEEP_MIN);
        }
        assert_eq!(account.unsettled().count(), 1);
    }

    #[test]
    fn whoever_takes_a_place_is_not_told_of_the_failures_of_who_had_it() {
        let mut accounts = Accounts::default();
        let gone = accounts.open();
        assert!(accounts.remove(gone).is_some());
        let next = accounts.open();
        let topic = flumen_protocol::topic::Name::new("t").expect("a name");
        let share = Share {
            account: gone,
            unawaited: 1,
        };
        assert!(!accounts.note_failure(share, &SendError::Closed { topic }));
        let account = accounts.get(next).expect("it is open");
        assert!(account.take_failures().is_none());
        assert!(accounts.remove(gone).is_none());
    }
}
