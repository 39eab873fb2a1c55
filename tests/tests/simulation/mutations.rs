//! Bugs that are planted to show that the simulation would find them.
//!
//! Which seed finds a bug changes with everything that changes what happens in a run. So each bug
//! has a seed that found it lately, and some more behind it that may.

use std::thread;

use flumen_broker::mutation::Mutation;

use crate::seeds::{Setting, run_in_process};

/// Seeds that are tried until one finds a bug. Without the bug that seed has to pass.
const SEEDS_MAX: u64 = 120;

/// What clients say that cannot be if all is well: not that a broker does not start or panics, by
/// which a bug gives itself away without a simulation.
const CONTRADICTIONS: [&str; 11] = [
    "lost for",
    "passed over by",
    "vanished for",
    "twice:",
    "out of order:",
    "two contents:",
    "elsewhere:",
    "refused, and yet there:",
    "is lost",
    "went back:",
    "is damaged at byte",
];

/// With how many brokers a bug is looked for, and from which seed on.
fn where_to_look(mutation: Mutation) -> (u64, u64) {
    match mutation {
        Mutation::AckBeforeSync => (1, 2),
        Mutation::LogNotCut => (1, 54),
        Mutation::NoDuplicateCheck => (1, 6),
        Mutation::AckBeforeMajority => (3, 16),
        Mutation::VoteNotPersisted => (3, 62),
    }
}

/// Looks for a planted bug with one seed after the other. Returns what went wrong, if so.
fn look_for(name: &str, mutation: Mutation) -> Result<(), String> {
    let (brokers, first) = where_to_look(mutation);
    let planted = Setting {
        mutation: Some(name.to_owned()),
        ..Setting::brokers(brokers)
    };
    let seeds = first..first + SEEDS_MAX;
    let found = seeds.clone().find_map(|seed| {
        let outcome = run_in_process(seed, &planted);
        let mut lines = outcome.output.lines();
        let line = lines.find(|line| CONTRADICTIONS.iter().any(|text| line.contains(text)))?;
        (!outcome.passed).then(|| (seed, line.trim().to_owned()))
    });
    let Some((seed, contradiction)) = found else {
        return Err(format!("{name}: no seed of {seeds:?} finds it"));
    };
    println!("{name}, {brokers} brokers: seed {seed} finds {contradiction}");
    let clean = run_in_process(seed, &Setting::brokers(brokers));
    if !clean.passed {
        let output = clean.output;
        return Err(format!(
            "{name}: seed {seed} fails without it, too: {output}"
        ));
    }
    Ok(())
}

#[test]
#[ignore = "run it by `cargo xtask test`, or `cargo xtask simulate --fixed`"]
fn every_planted_bug_is_found_by_a_seed_that_passes_without_it() {
    let results: Vec<_> = thread::scope(|scope| {
        let searches =
            Mutation::ALL.map(|(name, mutation)| scope.spawn(move || look_for(name, mutation)));
        searches
            .into_iter()
            .map(|search| search.join().unwrap())
            .collect()
    });
    let wrong: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
