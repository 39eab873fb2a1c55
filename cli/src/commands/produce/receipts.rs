//! What became of the lines that were sent: each line's receipt, in the order of the lines.

use std::{collections::VecDeque, future};

use flumen_client::{PendingReceipt, SendError};
use futures_util::FutureExt;

/// Lines whose receipts may be missing at once; beyond that, sending waits for the oldest.
const WAITING_MAX: usize = 262_144;

/// Counts receipts, and finds the first line without one.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    waiting: VecDeque<(u64, PendingReceipt)>,
    pub(super) stored: u64,
    pub(super) failed: u64,
    /// Of those that failed, how many may be stored all the same.
    pub(super) unknown: u64,
    pub(super) first: Option<FirstFailure>,
}

/// The first line that failed. All lines of its batch did: a batch is stored as a whole or not
/// at all.
#[derive(Debug)]
pub(super) struct FirstFailure {
    pub(super) line: u64,
    pub(super) error: SendError,
    /// The line that a plugin blames.
    pub(super) line_at_fault: Option<u64>,
    partition: u32,
    /// Lines of the batch that come before the one at fault and were not seen yet.
    left_before_fault: Option<u32>,
}

impl Receipts {
    /// A line is on its way.
    pub(super) async fn push(&mut self, line: u64, receipt: PendingReceipt) {
        if self.waiting.len() >= WAITING_MAX {
            self.settle_oldest().await;
        }
        self.waiting.push_back((line, receipt));
    }

    /// Takes the receipts that are there.
    pub(super) fn settle_ready(&mut self) {
        while let Some((line, receipt)) = self.waiting.front_mut() {
            let (line, partition) = (*line, receipt.partition());
            let Some(outcome) = receipt.now_or_never() else {
                return;
            };
            self.waiting.pop_front();
            self.count(line, partition, outcome.err());
        }
    }

    /// Takes receipts as they come, until one says that its line has failed.
    pub(super) async fn until_one_fails(&mut self) {
        while self.first.is_none() {
            let Some((line, receipt)) = self.waiting.front_mut() else {
                return future::pending().await;
            };
            let (line, partition) = (*line, receipt.partition());
            let outcome = receipt.await;
            self.waiting.pop_front();
            self.count(line, partition, outcome.err());
        }
    }

    /// Waits for all receipts.
    pub(super) async fn settle_all(&mut self) {
        while !self.waiting.is_empty() {
            self.settle_oldest().await;
        }
    }

    async fn settle_oldest(&mut self) {
        if let Some((line, receipt)) = self.waiting.pop_front() {
            let partition = receipt.partition();
            let outcome = receipt.await;
            self.count(line, partition, outcome.err());
        }
    }

    fn count(&mut self, line: u64, partition: u32, error: Option<SendError>) {
        let Some(error) = error else {
            self.stored += 1;
            return;
        };
        self.failed += 1;
        self.unknown += u64::from(error.is_unknown());
        let first = self.first.get_or_insert(FirstFailure {
            line,
            left_before_fault: match &error {
                SendError::Rejected { record, .. } => *record,
                _ => None,
            },
            error,
            line_at_fault: None,
            partition,
        });
        first.look_for_fault(line, partition);
    }
}

impl FirstFailure {
    /// The batch's lines are those of its partition from the first that failed on.
    fn look_for_fault(&mut self, line: u64, partition: u32) {
        if partition != self.partition {
            return;
        }
        match self.left_before_fault {
            Some(0) => {
                self.line_at_fault = Some(line);
                self.left_before_fault = None;
            }
            Some(left) => self.left_before_fault = Some(left - 1),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use flumen_client::Name;

    use super::*;

    fn rejected(record: Option<u32>) -> SendError {
        SendError::Rejected {
            topic: Name::new("orders").unwrap(),
            record,
            text: "no".to_owned(),
        }
    }

    #[test]
    fn the_line_at_fault_is_found_among_the_lines_of_its_partition() {
        let mut receipts = Receipts::default();
        receipts.count(1, 0, None);
        for (line, partition, record) in [
            (2, 1, Some(2)),
            (3, 0, Some(0)),
            (4, 1, Some(2)),
            (6, 1, Some(2)),
            (7, 1, Some(2)),
        ] {
            receipts.count(line, partition, Some(rejected(record)));
        }
        assert_eq!(
            (receipts.stored, receipts.failed, receipts.unknown),
            (1, 5, 0)
        );
        let first = receipts.first.unwrap();
        assert_eq!((first.line, first.line_at_fault), (2, Some(6)));
    }

    #[test]
    fn nobody_is_blamed_for_a_batch_that_failed_as_a_whole() {
        let mut receipts = Receipts::default();
        receipts.count(1, 0, Some(rejected(None)));
        receipts.count(2, 0, Some(rejected(None)));
        let first = receipts.first.unwrap();
        assert_eq!((first.line, first.line_at_fault), (1, None));
    }
}
