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
//! Where each of its records lies is told only if they are what came, one by one: a transform says
//! what it returns, not of which record it made that. A record that is alone in its batch, and one
//! is stored, is that one. If a batch was changed when it came first, and the plugins that did so are
//! gone when it comes again, the numbers alone can tell.
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

/// What became of a batch before it went to the shard.
#[derive(Debug)]
pub(super) struct Treated {
    /// How many records it came with.
    pub(super) came: u32,
    /// Whether all of them are to be stored as they came.
    pub(super) is_unchanged: bool,
    pub(super) verdict: Verdict,
}

/// The outcome of a batch, from what plugins said now and what the shard did.
pub(super) fn outcome(treated: Treated, appended: Appended) -> ProduceOutcome {
    let Treated {
        came,
        is_unchanged,
        verdict,
    } = treated;
    let are_in_place = appended.stored == Some(came) && (is_unchanged || came == 1);
    let receipt = |stored| ProduceReceipt {
        base_offset: appended.base_offset.filter(|_| are_in_place),
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

    /// A batch of two records that plugins left as it was, or changed.
    fn keep(kept: u32) -> Treated {
        Treated {
            came: 2,
            is_unchanged: kept == 2,
            verdict: Verdict::Keep(kept),
        }
    }

    fn refuse() -> Treated {
        Treated {
            came: 2,
            is_unchanged: false,
            verdict: Verdict::Refuse(WireError::new(ErrorCode::Rejected, "no")),
        }
    }

    fn code(outcome: ProduceOutcome) -> ErrorCode {
        outcome.unwrap_err().code
    }

    #[test]
    fn a_new_batch_is_what_plugins_make_of_it() {
        let stored = outcome(keep(2), appended(Some(2), false)).unwrap();
        assert_eq!((stored.base_offset, stored.stored), (Some(Offset(7)), 2));
        let nothing = outcome(keep(0), appended(Some(0), false)).unwrap();
        assert_eq!((nothing.base_offset, nothing.stored), (None, 0));
        let refused = outcome(refuse(), appended(Some(0), false)).unwrap_err();
        assert_eq!((refused.code, &*refused.text), (ErrorCode::Rejected, "no"));
    }

    #[test]
    fn what_is_stored_stays_so_whatever_plugins_say_later() {
        for treated in [keep(9), keep(0), refuse()] {
            let receipt = outcome(treated, appended(Some(2), true)).unwrap();
            assert_eq!((receipt.base_offset, receipt.stored), (None, 2));
            assert!(receipt.duplicate);
        }
    }

    #[test]
    fn places_are_told_only_where_each_record_is_known_to_be_in_its_own() {
        let base = |came, is_unchanged, stored| {
            let verdict = Verdict::Keep(stored);
            let treated = Treated {
                came,
                is_unchanged,
                verdict,
            };
            let receipt = outcome(treated, appended(Some(stored), false)).unwrap();
            receipt.base_offset
        };
        assert_eq!(base(3, true, 3), Some(Offset(7)));
        // One may have been dropped and another one split.
        assert_eq!(base(3, false, 3), None);
        assert_eq!(base(3, false, 2), None);
        assert_eq!(base(1, false, 1), Some(Offset(7)));
        assert_eq!(base(1, false, 2), None);
    }

    #[test]
    fn what_was_refused_is_never_told_to_be_stored() {
        let empty = || appended(Some(0), true);
        assert_eq!(code(outcome(refuse(), empty())), ErrorCode::Rejected);
        let kept_now = outcome(keep(3), empty());
        assert_eq!(code(kept_now), ErrorCode::Rejected);
        assert_eq!(outcome(keep(0), empty()).unwrap().stored, 0);
    }

    #[test]
    fn what_is_forgotten_is_not_told_to_be_rejected() {
        let forgotten = || appended(None, true);
        let refused = outcome(refuse(), forgotten());
        assert_eq!(code(refused), ErrorCode::UnknownProducer);
        let stored = outcome(keep(3), forgotten()).unwrap();
        assert_eq!((stored.base_offset, stored.stored), (None, 3));
    }
}
