//! Three brokers as real processes, under load, while everything is done to them that is done to
//! brokers: what was acknowledged is there, once and in order, on every broker that should have
//! it, and clients go on by themselves.
//!
//! | module | what is done |
//! | --- | --- |
//! | `kills` | brokers are killed and paused |
//! | `restarts` | brokers are restarted in order, one after the other |
//! | `members` | brokers come and go for good |
//! | `cuts` | brokers cannot reach each other, in one direction or both |
//! | `storage` | a disk is full; a broker misses more than the logs hold |
//! | `damage` | files are not what was written to them |
//! | `majority` | more brokers are gone than may be |
//! | `catalog` | topics and plugins are made through one broker and used through others |
//!
//! More rounds of what is done again and again: `cargo xtask test --rounds 100 --workspace --test
//! cluster`. Tests that need root, for hosts of their own or a small file system, say so on the
//! terminal where they are skipped.
#![allow(clippy::unwrap_used)]

mod catalog;
mod cuts;
mod damage;
mod flood;
mod kills;
mod majority;
mod members;
mod restarts;
mod storage;

/// Rounds of what is done again and again. More by `FLUMEN_TEST_ROUNDS`.
fn rounds() -> u32 {
    let rounds = std::env::var("FLUMEN_TEST_ROUNDS").ok();
    rounds.and_then(|text| text.parse().ok()).unwrap_or(4)
}
