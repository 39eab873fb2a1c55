//! A filter that returns what does not fit, as its configuration says.
use std::cell::RefCell;

use flumen_plugin::bindings::{
    filter::{
        self,
        exports::flumen::plugin::filtering::{Guest, Verdicts},
    },
    types::{Failure, Records},
};

struct Liar;

thread_local! {
    static LIE: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Guest for Liar {
    fn init(config: String) -> Result<(), String> {
        LIE.set(config);
        Ok(())
    }

    fn filter(records: Records) -> Result<Verdicts, String> {
        let count = records.count;
        let bytes = count.div_ceil(8) as usize;
        let keep = vec![0xff; bytes];
        let failure = |index| Failure {
            index,
            message: "a lie".to_owned(),
        };
        let (keep, failures) = match LIE.with_borrow(String::clone).as_str() {
            "short bitmap" => (vec![0xff; bytes - 1], vec![]),
            "long bitmap" => (vec![0xff; bytes + 1], vec![]),
            "huge bitmap" => (vec![0xff; 20_000_000], vec![]),
            "failure out of range" => (keep, vec![failure(count)]),
            "failures out of order" => (keep, vec![failure(1), failure(0)]),
            "failure twice" => (keep, vec![failure(0), failure(0)]),
            "error" => return Err("not today".to_owned()),
            "long message" => (
                keep,
                vec![Failure {
                    index: 0,
                    message: "ü".repeat(1_000_000),
                }],
            ),
            _ => (keep, vec![]),
        };
        Ok(Verdicts { keep, failures })
    }
}

filter::export!(Liar with_types_in filter);
