//! A transform that returns what does not fit, as its configuration says.
use std::cell::RefCell;

use flumen_plugin::bindings::{
    transform::{
        self,
        exports::flumen::plugin::transforming::{Guest, Misplaced, Routes, Transformed},
    },
    types::{Column, Failure, Records},
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

    fn transform(records: Records) -> Result<Transformed, String> {
        let count = records.count as usize;
        let mut answer = Transformed {
            records,
            routes: None,
            failures: vec![],
        };
        let records = &mut answer.records;
        let failure = |index, position| Misplaced {
            failure: Failure {
                index,
                message: "a lie".to_owned(),
            },
            position,
        };
        match LIE.with_borrow(String::clone).as_str() {
            "count too high" => records.count += 1,
            "count too low" => records.count -= 1,
            "count enormous" => records.count = u32::MAX,
            "ends fall" => records.values.ends[0] = u32::MAX,
            "ends stop short" => records.values.bytes.push(0),
            "ends go beyond" => {
                records.values.bytes.pop();
            }
            "ends missing" => {
                records.values.ends.pop();
            }
            "validity short" => records.values.validity = Some(vec![]),
            "validity long" => records.values.validity = Some(vec![0xff; count]),
            "keys without ends" => {
                records.keys = Some(Column {
                    ends: vec![],
                    bytes: vec![1, 2, 3],
                    validity: None,
                });
            }
            "key too long" => {
                records.keys = Some(Column {
                    ends: vec![100_000; count],
                    bytes: vec![1; 100_000],
                    validity: None,
                });
            }
            "headers are garbage" => {
                records.headers = Some(Column {
                    ends: vec![5; count],
                    bytes: vec![0xff; 5],
                    validity: None,
                });
            }
            "too many headers" => {
                records.headers = Some(Column {
                    ends: vec![6_000; count],
                    bytes: vec![0; 6_000],
                    validity: None,
                });
            }
            "timestamps missing" => records.timestamp_deltas = Some(vec![]),
            "output bomb" => records.values.bytes.resize(20_000_000, 0),
            "topic bomb" => {
                answer.routes = Some(Routes {
                    topics: vec!["x".repeat(1_000_000); 20],
                    targets: vec![0; count],
                });
            }
            "targets missing" => {
                answer.routes = Some(Routes {
                    topics: vec!["elsewhere".to_owned()],
                    targets: vec![],
                });
            }
            "target out of range" => {
                answer.routes = Some(Routes {
                    topics: vec!["elsewhere".to_owned()],
                    targets: vec![2; count],
                });
            }
            "topic with a bad name" => {
                answer.routes = Some(Routes {
                    topics: vec!["../etc".to_owned()],
                    targets: vec![1; count],
                });
            }
            "failure out of range" => answer.failures = vec![failure(count as u32, 0)],
            "failure misplaced" => answer.failures = vec![failure(0, u32::MAX)],
            "failures fall" => answer.failures = vec![failure(0, 1), failure(1, 0)],
            "more than a batch" => {
                let copies = 70_000 / count + 1;
                let ends = &mut records.values.ends;
                ends.resize(count * copies, *ends.last().unwrap());
                records.count = ends.len() as u32;
                records.keys = None;
                records.headers = None;
                records.timestamp_deltas = None;
                records.values.validity = None;
            }
            _ => {}
        }
        Ok(answer)
    }
}

transform::export!(Liar with_types_in transform);
