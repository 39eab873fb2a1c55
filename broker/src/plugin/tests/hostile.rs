//! After every misdeed the engine serves other bindings undisturbed, and the producer is told
//! what happened.
use super::*;

fn deed(deed: &str) -> BindingConfig {
    settings("misbehave", &format!(r#"{{"do": "{deed}"}}"#))
}

/// Runs a batch whose second record triggers the misdeed, under the policy `reject`.
fn rejected_by(config: BindingConfig) -> Rejection {
    let hook = hook_with([config]);
    let rejection = hook
        .run_blocking(batch(&["good", "bad", "good"]))
        .unwrap_err();
    assert_eq!(rejection.code, ErrorCode::Rejected);
    let report = hook.bindings()[0].report();
    assert_eq!((report.calls, report.failures), (1, 1));
    assert_eq!(report.idle_instances, 0, "its instance is thrown away");
    assert_others_are_served();
    rejection
}

#[test]
fn an_endless_loop_ends_at_its_time_out() {
    let started = Instant::now();
    let rejection = rejected_by(deed("loop"));
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(rejection.text.contains("time-out of 50 ms"), "{rejection}");
}

#[test]
fn an_endless_loop_lets_others_run_meanwhile() {
    let looping = hook_with([BindingConfig {
        timeout_ms: 60_000,
        ..deed("loop")
    }]);
    // More of them than there are plugin threads.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let loops: Vec<_> = (0..6)
        .map(|_| {
            let looping = looping.clone();
            runtime.spawn(async move { looping.run(batch(&["bad"])).await })
        })
        .collect();
    let started = Instant::now();
    for _ in 0..10 {
        assert_others_are_served();
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(loops.iter().all(|task| !task.is_finished()));
    runtime.shutdown_background();
}

#[test]
fn a_sleep_ends_at_the_time_out_too() {
    let rejection = rejected_by(deed("sleep"));
    assert!(rejection.text.contains("time-out of 50 ms"), "{rejection}");
}

#[test]
fn endless_recursion_ends_at_the_stack_limit() {
    let rejection = rejected_by(BindingConfig {
        timeout_ms: 10_000,
        ..deed("recurse")
    });
    assert!(rejection.text.contains("512 KiB of stack"), "{rejection}");
}

#[test]
fn a_memory_bomb_ends_at_the_memory_limit() {
    let rejection = rejected_by(BindingConfig {
        timeout_ms: 10_000,
        ..deed("eat-memory")
    });
    assert!(
        rejection.text.contains("more than its 16 MiB of memory"),
        "{rejection}"
    );
}

#[test]
fn a_panic_reaches_the_producer_with_its_text_and_its_record() {
    let rejection = rejected_by(deed("panic"));
    assert_eq!(rejection.record, Some(1));
    assert_eq!(rejection.plugin.as_deref(), Some("misbehave"));
    assert!(rejection.text.contains("cannot bear bad"), "{rejection}");
    assert!(rejection.text.contains("record 1"), "{rejection}");
    let wire = flumen_protocol::error::WireError::from(rejection);
    assert_eq!(wire.code, ErrorCode::Rejected);
    assert!(!wire.retryable);
}

#[test]
fn an_abort_and_an_exit_are_traps() {
    assert!(rejected_by(deed("abort")).text.contains("unreachable"));
    assert!(rejected_by(deed("exit")).text.contains("exit"));
}

#[test]
fn a_trap_in_the_third_call_does_not_touch_the_calls_before_and_after() {
    let hook = hook_with([deed("trap-in-third-call")]);
    for round in 0..3 {
        for call in 0..2 {
            let outcome = hook.run_blocking(batch(&["bad"])).unwrap();
            assert_eq!(outcome.batch, HookBatch::Unchanged, "{round} {call}");
        }
        let rejection = hook.run_blocking(batch(&["bad"])).unwrap_err();
        assert!(rejection.text.contains("trapped"), "{rejection}");
        assert_others_are_served();
    }
}

#[test]
fn a_flood_of_output_is_swallowed() {
    for flood in ["print", "log", "count"] {
        let hook = hook_with([BindingConfig {
            timeout_ms: 30_000,
            ..deed(flood)
        }]);
        let outcome = hook.run_blocking(batch(&["bad"])).unwrap();
        assert_eq!(outcome.batch, HookBatch::Unchanged, "{flood}");
        assert_others_are_served();
        let counters = hook.bindings()[0].report().counters;
        assert_eq!(
            counters.len(),
            if flood == "count" {
                COUNTERS_PER_BINDING_MAX
            } else {
                0
            }
        );
        assert!(counters.values().all(|sum| *sum == 2));
    }
}

#[test]
fn nothing_of_the_host_can_be_reached() {
    let rejection = rejected_by_error(deed("look-around"));
    assert!(
        rejection
            .text
            .ends_with("clocks true true, 0 variables, 0 arguments, root false, file false"),
        "{rejection}"
    );
}

fn rejected_by_error(config: BindingConfig) -> Rejection {
    hook_with([config])
        .run_blocking(batch(&["bad"]))
        .unwrap_err()
}

#[test]
fn misdeeds_in_init_refuse_the_binding() {
    let refused = |config| bind_with(config).unwrap_err().to_string();
    assert!(refused(deed("loop-in-init")).contains("1000 ms"));
    assert!(refused(deed("panic-in-init")).contains("no configuration pleases me"));
    assert!(refused(deed("eat-memory-in-init")).contains("16 MiB of memory"));
    assert!(refused(deed("unheard-of")).contains("unknown variant `unheard-of`"));
    let error = bind_with(settings("misbehave", "{}")).unwrap_err();
    assert!(matches!(error, BindError::Config { .. }), "{error}");
    assert!(error.to_string().contains("missing field `do`"));
    assert_others_are_served();
}

#[test]
fn a_memory_too_small_to_start_is_said() {
    let error = bind_with(BindingConfig {
        memory_bytes_max: 64 * 1024,
        ..deed("nothing")
    })
    .unwrap_err();
    assert!(
        error.to_string().contains("more than its 64 KiB of memory"),
        "{error}"
    );
}

#[test]
fn a_bitmap_or_failures_that_do_not_fit_are_told_apart_from_traps() {
    for (lie, text) in [
        ("short bitmap", "a bitmap of 0 bytes for 3 records"),
        ("long bitmap", "a bitmap of 2 bytes for 3 records"),
        ("failure out of range", "a failure of record 3 of 3"),
        ("failures out of order", "out of order"),
        ("failure twice", "out of order"),
    ] {
        let rejection = rejected_by(settings("lying-filter", lie));
        assert!(
            rejection.text.contains("does not fit"),
            "{lie}: {rejection}"
        );
        assert!(rejection.text.contains(text), "{lie}: {rejection}");
    }
}

#[test]
fn an_output_bomb_ends_at_the_output_limit() {
    for (plugin, lie) in [
        ("lying-filter", "huge bitmap"),
        ("lying-transform", "output bomb"),
        ("lying-transform", "topic bomb"),
    ] {
        let rejection = rejected_by(BindingConfig {
            memory_bytes_max: 128 * 1024 * 1024,
            timeout_ms: 10_000,
            ..settings(plugin, lie)
        });
        assert!(
            rejection.text.contains("returned more than"),
            "{lie}: {rejection}"
        );
    }
}

#[test]
fn a_long_message_is_cut() {
    let config = settings("lying-filter", "long message");
    let rejection = rejected_by_error(BindingConfig {
        timeout_ms: 10_000,
        ..config
    });
    assert!(rejection.text.len() < 1_200);
    assert_eq!(rejection.record, Some(0));
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    for lie in [
        "count too high",
        "count too low",
        "count enormous",
        "ends fall",
        "ends stop short",
        "ends go beyond",
        "ends missing",
        "validity short",
        "keys without ends",
        "key too long",
        "headers are garbage",
        "too many headers",
        "timestamps missing",
        "targets missing",
        "target out of range",
        "topic with a bad name",
        "failure out of range",
        "failure misplaced",
        "failures fall",
        "more than a batch",
    ] {
        let rejection = rejected_by(settings("lying-transform", lie));
        assert!(
            rejection.text.contains("does not fit"),
            "{lie}: {rejection}"
        );
    }
    let hook = hook_with([settings("lying-transform", "the truth")]);
    let batch = batch(&["one", "two"]);
    let outcome = hook.run_blocking(batch.clone()).unwrap();
    assert_eq!(passed(&outcome, &batch), ["one", "two"]);
}
