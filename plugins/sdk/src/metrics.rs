//! Counters that the broker exports. They are summed in the plugin and handed over once per
//! call, as a call into the host costs more than a record.
use std::cell::RefCell;

thread_local! {
    static COUNTS: RefCell<Vec<(&'static str, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Adds to a counter, which the broker exports as `flumen_plugin_counter_total` with the
/// labels `plugin`, `topic` and `name`. A name has 1 to 64 characters of `a-z`, `0-9` and `_`;
/// a binding may have 64 names.
pub fn count(name: &'static str, amount: u64) {
    COUNTS.with_borrow_mut(
        |counts| match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += amount,
            None => counts.push((name, amount)),
        },
    );
}

/// Hands over what has been counted since the last time.
pub(crate) fn flush() {
    COUNTS.with_borrow_mut(|counts| {
        for (name, sum) in counts.drain(..) {
            hand_over(name, sum);
        }
    });
}

#[cfg(target_family = "wasm")]
fn hand_over(name: &str, sum: u64) {
    crate::bindings::host::count(name, sum);
}

#[cfg(not(target_family = "wasm"))]
fn hand_over(_: &str, _: u64) {}
