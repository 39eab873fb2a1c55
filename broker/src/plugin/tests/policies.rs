//! What becomes of records that a plugin fails on.
use super::*;

fn failing(on_error: ErrorPolicy, deed: &str) -> BindingConfig {
    BindingConfig {
        on_error,
        ..settings("misbehave", &format!(r#"{{"do": "{deed}"}}"#))
    }
}

fn dead_letter() -> ErrorPolicy {
    ErrorPolicy::DeadLetter(name("dead"))
}

#[test]
fn an_error_concerns_its_record_alone() {
    let batch = batch(&["good", "bad", "good", "worse"]);
    let run = |policy| hook_with([failing(policy, "error")]).run_blocking(batch.clone());

    let rejection = run(ErrorPolicy::Reject).unwrap_err();
    assert_eq!(rejection.record, Some(1));
    assert_eq!(
        rejection.text,
        "plugin misbehave cannot take record 1: cannot stand bad"
    );
    let skipped = run(ErrorPolicy::Skip).unwrap();
    assert_eq!(passed(&skipped, &batch), ["good", "bad", "good", "worse"]);
    let dropped = run(ErrorPolicy::Drop).unwrap();
    assert_eq!(passed(&dropped, &batch), ["good", "good"]);
    assert_eq!(dropped.dropped, 2);
    let buried = run(dead_letter()).unwrap();
    assert_eq!(passed(&buried, &batch), ["good", "good"]);
    assert_eq!(buried.dropped, 0);
    assert_eq!(buried.dead_letters.len(), 1);
    assert_eq!(values(&buried.dead_letters[0].1), ["bad", "worse"]);
}

#[test]
fn errors_do_not_cost_further_calls_nor_suspend_the_plugin() {
    let hook = hook_with([failing(ErrorPolicy::Drop, "error")]);
    for _ in 0..2 * FAILURES_IN_A_ROW_MAX {
        hook.run_blocking(batch(&["bad", "bad"])).unwrap();
    }
    let report = hook.bindings()[0].report();
    assert_eq!(report.calls, u64::from(2 * FAILURES_IN_A_ROW_MAX));
    assert_eq!(report.failures, 0);
    let failed = 2 * u64::from(2 * FAILURES_IN_A_ROW_MAX);
    assert_eq!(report.failed_records, failed);
    assert_eq!(report.last_failure.as_deref(), Some("cannot stand bad"));
    assert_eq!(report.suspended_for, None);
    assert_eq!(report.idle_instances, 1);
}

#[test]
fn a_dead_letter_says_why_and_keeps_the_record() {
    let headers = encode_headers([("trace", &b"7f"[..])]);
    let record = RecordRef {
        key: Some(b"k"),
        headers: Headers::from_encoded(&headers),
        ..RecordRef::new(9, b"bad")
    };
    let hook = hook_with([failing(dead_letter(), "panic")]);
    let outcome = hook.run_blocking(batch_of(&[record], Codec::None)).unwrap();
    assert_eq!(outcome.batch, HookBatch::Empty);
    let (topic, letters) = &outcome.dead_letters[0];
    assert_eq!(topic.as_str(), "dead");
    let columns = letters.columns().unwrap();
    let letter = columns.record(0);
    assert_eq!(
        (letter.key, letter.value, letter.timestamp_ms),
        (Some(&b"k"[..]), Some(&b"bad"[..]), 9)
    );
    assert_eq!(letter.headers.get("trace"), Some(&b"7f"[..]));
    assert_eq!(letter.headers.get(HEADER_PLUGIN), Some(&b"misbehave"[..]));
    assert_eq!(letter.headers.get(HEADER_TOPIC), Some(&b"orders"[..]));
    let error = String::from_utf8_lossy(letter.headers.get(HEADER_ERROR).unwrap());
    assert!(error.contains("cannot bear bad"), "{error}");
    assert_eq!(columns.content_type(), "text/plain");
    assert_eq!(letters.header().producer, ProducerSequence::default());
}

#[test]
fn a_dead_letter_with_headers_up_to_the_limit_still_goes_through() {
    let many = vec![("h", &b"1"[..]); 64];
    let headers = encode_headers(many);
    let record = RecordRef {
        headers: Headers::from_encoded(&headers),
        ..RecordRef::new(9, b"bad")
    };
    let hook = hook_with([failing(dead_letter(), "error")]);
    let outcome = hook.run_blocking(batch_of(&[record], Codec::None)).unwrap();
    let columns = outcome.dead_letters[0].1.columns().unwrap();
    assert_eq!(columns.record(0).headers.into_iter().count(), 3);
}

#[test]
fn a_panic_costs_only_the_record_that_it_names() {
    let batch = batch(&["good", "bad", "good", "bad", "good"]);
    let hook = hook_with([failing(ErrorPolicy::Drop, "panic")]);
    let outcome = hook.run_blocking(batch.clone()).unwrap();
    assert_eq!(passed(&outcome, &batch), ["good", "good", "good"]);
    assert_eq!(outcome.dropped, 2);
    // The batch, what is left of it twice, and the records before each that panicked.
    let report = hook.bindings()[0].report();
    assert_eq!((report.calls, report.failures), (5, 2));
}

#[test]
fn a_trap_without_a_name_is_found_by_halving() {
    let mut texts = vec!["good"; 1_000];
    texts[777] = "bad";
    let batch = batch(&texts);
    let hook = hook_with([failing(dead_letter(), "abort")]);
    let outcome = hook.run_blocking(batch.clone()).unwrap();
    assert_eq!(passed(&outcome, &batch).len(), 999);
    assert_eq!(values(&outcome.dead_letters[0].1), ["bad"]);
    let report = hook.bindings()[0].report();
    assert!(report.calls <= 21, "{}", report.calls);
}

#[test]
fn the_search_for_many_bad_records_ends() {
    let texts = vec!["bad"; 5_000];
    let batch = batch(&texts);
    let hook = hook_with([failing(ErrorPolicy::Skip, "abort")]);
    let outcome = hook.run_blocking(batch).unwrap();
    assert_eq!(outcome.batch, HookBatch::Unchanged);
    let report = hook.bindings()[0].report();
    // The budget, and what was still to be tried once when it ran out.
    assert!(report.calls <= 300, "{}", report.calls);

    let started = Instant::now();
    let hook = hook_with([failing(ErrorPolicy::Drop, "loop")]);
    let outcome = hook.run_blocking(super::batch(&texts)).unwrap();
    assert_eq!(outcome.batch, HookBatch::Empty);
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_failed_record_of_a_transform_stays_in_its_place_under_skip() {
    let batch = batch(&["say a", "fail", "twice b", "panic", "say c", "fail"]);
    let config = |on_error| BindingConfig {
        on_error,
        ..settings("plain", "")
    };
    let outcome = hook_with([config(ErrorPolicy::Skip)])
        .run_blocking(batch.clone())
        .unwrap();
    assert_eq!(
        passed(&outcome, &batch),
        ["a", "fail", "b", "b", "panic", "c", "fail"]
    );
    let outcome = hook_with([config(dead_letter())])
        .run_blocking(batch.clone())
        .unwrap();
    assert_eq!(passed(&outcome, &batch), ["a", "b", "b", "c"]);
    assert_eq!(
        values(&outcome.dead_letters[0].1),
        ["fail", "panic", "fail"]
    );
}

#[test]
fn an_error_for_the_whole_call_concerns_all_its_records() {
    let batch = batch(&["one", "two"]);
    let config = |on_error| BindingConfig {
        on_error,
        ..settings("lying-filter", "error")
    };
    let rejection = hook_with([config(ErrorPolicy::Reject)])
        .run_blocking(batch.clone())
        .unwrap_err();
    assert_eq!(rejection.record, None);
    assert_eq!(
        rejection.text,
        "plugin lying-filter cannot take the batch: not today"
    );
    let hook = hook_with([config(ErrorPolicy::Drop)]);
    let outcome = hook.run_blocking(batch).unwrap();
    assert_eq!((outcome.batch, outcome.dropped), (HookBatch::Empty, 2));
    assert_eq!(hook.bindings()[0].report().calls, 1);
}

#[test]
fn a_rejection_names_the_record_of_the_producers_batch() {
    let hook = hook_with([
        settings("misbehave", r#"{"do": "first-byte"}"#),
        failing(ErrorPolicy::Reject, "error"),
    ]);
    let rejection = hook.run_blocking(batch(&["d", "d", "k"])).unwrap_err();
    assert_eq!(rejection.record, Some(2));
    // After a transform there is no telling.
    let hook = hook_with([settings("plain", ""), failing(ErrorPolicy::Reject, "error")]);
    let rejection = hook.run_blocking(batch(&["drop", "stay"])).unwrap_err();
    assert_eq!(rejection.record, None);
}

#[test]
fn nothing_of_a_rejected_batch_goes_anywhere() {
    let hook = hook_with([
        BindingConfig {
            on_error: dead_letter(),
            ..settings("plain", "")
        },
        failing(ErrorPolicy::Reject, "error"),
    ]);
    assert!(
        hook.run_blocking(batch(&["fail", "to elsewhere", "stay"]))
            .is_err()
    );
}

#[test]
fn a_plugin_that_keeps_failing_is_suspended_and_the_policy_holds() {
    for (policy, expected) in [
        (ErrorPolicy::Reject, None),
        (ErrorPolicy::Skip, Some(vec!["bad"])),
        (ErrorPolicy::Drop, Some(vec![])),
        (dead_letter(), Some(vec![])),
    ] {
        let hook = hook_with([failing(policy.clone(), "abort")]);
        let batch = batch(&["bad"]);
        for _ in 0..FAILURES_IN_A_ROW_MAX {
            assert_eq!(hook.bindings()[0].report().suspended_for, None);
            let _ = hook.run_blocking(batch.clone());
        }
        let report = hook.bindings()[0].report();
        assert!(
            report
                .suspended_for
                .is_some_and(|time| time <= BACK_OFF_MIN),
            "{report:?}"
        );
        assert!(
            report
                .last_failure
                .is_some_and(|text| text.contains("trapped"))
        );
        let calls = report.calls;
        let outcome = hook.run_blocking(batch.clone());
        if hook.bindings()[0].report().suspended_for.is_none() {
            continue; // A slow machine: the suspension was over.
        }
        assert_eq!(hook.bindings()[0].report().calls, calls, "it is not called");
        match (outcome, expected) {
            (Ok(outcome), Some(expected)) => assert_eq!(passed(&outcome, &batch), expected),
            (Err(rejection), None) => {
                assert_eq!(rejection.code, ErrorCode::Unavailable);
                assert!(rejection.text.contains("suspended"), "{rejection}");
                assert!(rejection.code.retryable());
            }
            (outcome, _) => panic!("{policy}: {outcome:?}"),
        }
        assert_others_are_served();
    }
}

#[test]
fn a_suspended_plugin_comes_back_when_it_works_again() {
    let hook = hook_with([failing(ErrorPolicy::Reject, "abort")]);
    for _ in 0..FAILURES_IN_A_ROW_MAX {
        assert!(hook.run_blocking(batch(&["bad"])).is_err());
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while hook.run_blocking(batch(&["good"])).is_err() {
        assert!(Instant::now() < deadline, "the suspension ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(hook.bindings()[0].report().suspended_for, None);
    assert!(hook.run_blocking(batch(&["bad"])).is_err());
    assert_eq!(
        hook.bindings()[0].report().suspended_for,
        None,
        "the count starts anew"
    );
}
