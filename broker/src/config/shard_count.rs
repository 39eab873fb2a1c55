//! The number of shards, which counts only when somebody asks for it: a cluster that is there has
//! one of its own.

use std::cmp::Ordering;

use super::value::Value;

/// How many shards a cluster should have. Compares by the number alone.
#[derive(Clone, Copy, Debug)]
pub struct ShardCount {
    count: u32,
    is_asked_for: bool,
}

impl ShardCount {
    /// So many, as somebody asks for.
    pub const fn asked(count: u32) -> Self {
        Self {
            count,
            is_asked_for: true,
        }
    }

    /// So many, unless somebody asks for another number.
    pub(super) const fn unless_asked(count: u32) -> Self {
        Self {
            count,
            is_asked_for: false,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.count
    }

    /// The number that somebody asks for, if anybody does.
    pub fn asked_for(self) -> Option<u32> {
        self.is_asked_for.then_some(self.count)
    }
}

impl PartialEq for ShardCount {
    fn eq(&self, other: &Self) -> bool {
        self.count == other.count
    }
}

impl Eq for ShardCount {}

impl PartialOrd for ShardCount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.count.partial_cmp(&other.count)
    }
}

impl Value for ShardCount {
    const NAME: &'static str = u32::NAME;
    const IS_NUMBER: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        u32::parse(text).map(Self::asked)
    }

    fn to_text(&self) -> String {
        self.count.to_text()
    }
}
