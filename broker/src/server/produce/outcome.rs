//! What a producer is told once the shard has dealt with its batch.
//!
//! Plugins are asked again when a batch is sent again, and may say something else by then: they
//! were upgraded, unbound, or ran out of their time. What counts is what was done the first time:
//!
//! | the shard says | plugins refuse now | plugins keep nothing now | plugins keep records now |
//! | --- | --- | --- | --- |
//! | new | rejected | nothing stored | stored |
//! | there already, with records | stored, as the first time | the same | the same |
//! | there already, without records | rejected | nothing stored | rejected |
//! | there already, its receipt forgotten | not known | stored, nobody knows how many | stored |
//!
//! So *rejected* is final: nothing of the batch is stored, nor will be under its number.

use flumen_protocol::{
    error::{ErrorCode, WireError},
    message::{ProduceOutcome, ProduceReceipt},
};

use crate::shard::Appended;

/// What plugins made of a batch before it went to the shard.
#[derive(Debug)]
pub(super) enum Verdict {
    /// So many records are to be stored.
    Keep(u32),
    /// None, and the producer is to learn why.
    Refuse(WireError),
}

/// The outcome of a batch, from what plugins said now and what the shard did.
pub(super) fn outcome(verdict: Verdict, appended: Appended) -> ProduceOutcome {
    let receipt = |stored| ProduceReceipt {
        base_offset: appended.base_offset,
        stored,
        append_time_ms: appended.append_time_ms,
        duplicate: appended.duplicate,
    };
    match (appended.stored, verdict) {
        (Some(stored @ 1..), _) => Ok(receipt(stored)),
        (Some(0), Verdict::Refuse(refusal)) => Err(refusal),
        (Some(_), Verdict::Keep(kept)) if kept > 0 => Err(WireError::new(
            ErrorCode::Rejected,
            "plugins refused the batch, or kept none of its records, when it came first; \
             nothing of it is stored",
        )),
        (Some(_), _) => Ok(receipt(0)),
        (None, Verdict::Keep(kept)) => Ok(receipt(kept)),
        (None, Verdict::Refuse(refusal)) => Err(WireError::new(
            ErrorCode::UnknownProducer,
            format!(
                "the batch came before, and what became of it is forgotten; now it is refused: {}",
                refusal.text
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use flumen_protocol::ids::Offset;

    use super::*;

    fn appended(stored: Option<u32>, duplicate: bool) -> Appended {
        Appended {
            base_offset: stored.filter(|stored| *stored > 0).map(|_| Offset(7)),
            stored,
            append_time_ms: 5,
            duplicate,
        }
    }

    fn refuse() -> Verdict {
        Verdict::Refuse(WireError::new(ErrorCode::Rejected, "no"))
    }

    fn code(outcome: ProduceOutcome) -> ErrorCode {
        outcome.unwrap_err().code
    }

    #[test]
    fn a_new_batch_is_what_plugins_make_of_it() {
        let stored = outcome(Verdict::Keep(2), appended(Some(2), false)).unwrap();
        assert_eq!((stored.base_offset, stored.stored), (Some(Offset(7)), 2));
        let nothing = outcome(Verdict::Keep(0), appended(Some(0), false)).unwrap();
        assert_eq!((nothing.base_offset, nothing.stored), (None, 0));
        let refused = outcome(refuse(), appended(Some(0), false)).unwrap_err();
        assert_eq!((refused.code, &*refused.text), (ErrorCode::Rejected, "no"));
    }

    #[test]
    fn what_is_stored_stays_so_whatever_plugins_say_later() {
        for verdict in [Verdict::Keep(9), Verdict::Keep(0), refuse()] {
            let receipt = outcome(verdict, appended(Some(2), true)).unwrap();
            assert_eq!((receipt.base_offset, receipt.stored), (Some(Offset(7)), 2));
            assert!(receipt.duplicate);
        }
    }

    #[test]
    fn what_was_refused_is_never_told_to_be_stored() {
        let empty = || appended(Some(0), true);
        assert_eq!(code(outcome(refuse(), empty())), ErrorCode::Rejected);
        let kept_now = outcome(Verdict::Keep(3), empty());
        assert_eq!(code(kept_now), ErrorCode::Rejected);
        assert_eq!(outcome(Verdict::Keep(0), empty()).unwrap().stored, 0);
    }

    #[test]
    fn what_is_forgotten_is_not_told_to_be_rejected() {
        let forgotten = || appended(None, true);
        let refused = outcome(refuse(), forgotten());
        assert_eq!(code(refused), ErrorCode::UnknownProducer);
        let stored = outcome(Verdict::Keep(3), forgotten()).unwrap();
        assert_eq!((stored.base_offset, stored.stored), (None, 3));
    }
}
