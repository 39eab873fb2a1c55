//! The seeds that every change is tried with. `cargo xtask test` runs them, optimised.

use crate::seeds::{Setting, assert_all_pass, run_in_process};

/// Seeds with one broker.
const SEEDS_OF_ONE: u64 = 100;

/// Seeds with two brokers, one of which decides alone.
const SEEDS_OF_TWO: u64 = 10;

/// Seeds with three brokers, each of which takes several times as long.
const SEEDS_OF_THREE: u64 = 40;

#[test]
#[ignore = "run it by `cargo xtask test`, or `cargo xtask simulate --fixed`"]
fn one_broker_loses_doubles_and_reorders_nothing_whatever_goes_wrong() {
    assert_all_pass(1, SEEDS_OF_ONE, &Setting::brokers(1), true);
}

#[test]
#[ignore = "run it by `cargo xtask test`, or `cargo xtask simulate --fixed`"]
fn two_brokers_lose_double_and_reorder_nothing_whatever_goes_wrong() {
    assert_all_pass(1, SEEDS_OF_TWO, &Setting::brokers(2), true);
}

#[test]
#[ignore = "run it by `cargo xtask test`, or `cargo xtask simulate --fixed`"]
fn three_brokers_lose_double_and_reorder_nothing_whatever_goes_wrong() {
    assert_all_pass(1, SEEDS_OF_THREE, &Setting::brokers(3), true);
}

#[test]
#[ignore = "run it by `cargo xtask test`, or `cargo xtask simulate --fixed`"]
fn equal_seeds_give_equal_traces_with_three_brokers() {
    let setting = Setting::brokers(3);
    let first = run_in_process(1, &setting);
    assert!(!first.summary.is_empty(), "{}", first.output);
    assert_eq!(first.summary, run_in_process(1, &setting).summary);
}
