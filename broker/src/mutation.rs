//! Bugs that a simulation can plant, to show that it would find them.
//!
//! Without the feature `simulation` nothing can be planted, and the compiler removes what asks.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The write-ahead log says that it has synced what it has only written.
    AckBeforeSync,
    /// The leader takes it for granted that followers have what it sends them.
    AckBeforeMajority,
    /// Votes are kept in memory only.
    VoteNotPersisted,
    /// What a partition's file holds behind the checkpoint stays there at the start.
    LogNotCut,
    /// A batch that is sent again is taken for a new one.
    NoDuplicateCheck,
}

impl Mutation {
    /// All of them, by name.
    pub const ALL: [(&str, Self); 5] = [
        ("ack-before-sync", Self::AckBeforeSync),
        ("ack-before-majority", Self::AckBeforeMajority),
        ("vote-not-persisted", Self::VoteNotPersisted),
        ("log-not-cut", Self::LogNotCut),
        ("no-duplicate-check", Self::NoDuplicateCheck),
    ];
}

#[cfg(feature = "simulation")]
mod planted {
    use std::sync::OnceLock;

    use super::Mutation;

    static PLANTED: OnceLock<Mutation> = OnceLock::new();

    /// Plants a bug in this process, for good; the first one stays.
    pub fn plant(mutation: Mutation) {
        PLANTED.get_or_init(|| mutation);
    }

    pub(crate) fn is_planted(mutation: Mutation) -> bool {
        PLANTED.get() == Some(&mutation)
    }
}

#[cfg(feature = "simulation")]
pub(crate) use planted::is_planted;
#[cfg(feature = "simulation")]
pub use planted::plant;

#[cfg(not(feature = "simulation"))]
pub(crate) const fn is_planted(_: Mutation) -> bool {
    false
}
