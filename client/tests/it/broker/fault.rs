//! What brokers do wrong on command.

use flumen_client::ErrorCode;

/// What happens to the next batch that arrives. Faults are used up one by one.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is appended, and the connection breaks before the answer.
    LoseAnswer,
    /// The connection breaks before it is appended.
    LoseBatch,
    /// It is refused.
    Refuse(ErrorCode, &'static str),
    /// It is refused, and its number counts as used.
    Reject(&'static str),
    /// It is taken, and a plugin keeps only this many of its records.
    Keep(u32),
    /// The stream ends without an answer, and the connection stays.
    EndStream,
}

/// What happens to the next batch that is pushed to a consumer.
#[derive(Clone, Debug)]
pub(crate) enum ConsumeFault {
    /// It is sent twice.
    Twice,
    /// A byte of it is flipped.
    Damage,
    /// It is sent, and the connection breaks.
    BreakAfter,
    /// It is not sent, as if retention had removed it meanwhile.
    Skip,
}
