//! Plugins from the command line: tried out, deployed, bound, upgraded, rolled back, removed.

use std::{fs, path::Path};

use serde_json::json;

use crate::support::User;

const FILTER: &str = r#"{"field":"magnitude","op":">=","value":4.5}"#;

fn earthquakes() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/earthquakes.ndjson");
    fs::read_to_string(path).unwrap()
}

/// A user with the sample filter as a file.
fn user_with_plugin() -> User {
    let user = User::new();
    user.write_filter();
    user
}

#[test]
fn a_plugin_is_tried_out_without_a_broker() {
    let user = user_with_plugin();
    fs::write(user.path("quakes.ndjson"), earthquakes()).unwrap();
    let test = [
        "plugin",
        "test",
        "filter.wasm",
        "quakes.ndjson",
        "--timeout",
        "10s",
        "--config",
    ];
    let outcome = user.run(&[&test[..], &[FILTER]].concat());
    assert!(
        outcome.stderr.contains("85 kept, 1,622 dropped, 0 failed"),
        "{outcome:?}"
    );
    assert_eq!(outcome.ok().lines().count(), 85);
    let report = user
        .run(&[&test[..], &[FILTER, "--output", "json"]].concat())
        .json();
    assert_eq!(
        (&report["kept"], &report["records"]),
        (&85.into(), &1_707.into())
    );

    fs::write(
        user.path("bad.json"),
        r#"{"field":"magnitude","op":"~","value":4.5}"#,
    )
    .unwrap();
    let said = user.run(&[&test[..], &["@bad.json"]].concat()).fails(1);
    assert!(said.contains('~'), "{said}");
    let said = user
        .run_with_input(
            &[
                "plugin",
                "test",
                "filter.wasm",
                "-",
                "--timeout",
                "10s",
                "--config",
                FILTER,
            ],
            "{\"magnitude\":5}\nnot JSON\n",
        )
        .fails(1);
    assert!(
        said.contains("failed on 1 of 2 records") && said.contains("not JSON"),
        "{said}"
    );
    // The key is no part of the value, and bytes are no text.
    let mut keyed = test.to_vec();
    keyed.extend([FILTER, "--key-separator", "=", "--output", "json"]);
    keyed[3] = "-";
    let report = user.run_with_input(&keyed, "a={\"magnitude\":5}\nb={\"magnitude\":1}\n");
    let report = report.json();
    assert_eq!(report["output"], json!(["{\"magnitude\":5}"]));
    let mut child = user.command();
    child.args(&keyed[..8]).args(["--output", "json"]);
    fs::write(user.path("bytes"), [0xff, 0xfe]).unwrap();
    child.stdin(fs::File::open(user.path("bytes")).unwrap());
    let report = child.output().unwrap().stdout;
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["failed"][0]["value"], json!({"base64": "//4="}));
}

#[test]
fn a_plugin_lives_from_deployment_to_removal() {
    let user = user_with_plugin();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "quakes"]).ok();
    let deployed = user
        .run(&[
            "plugin",
            "deploy",
            "strong",
            "filter.wasm",
            "--version",
            "1.2.0",
            "--output",
            "json",
        ])
        .json();
    assert_eq!(deployed["version"], "1.2.0");
    let said = user
        .run(&["plugin", "deploy", "strong", "filter.wasm"])
        .fails(1);
    let attempted = "cannot deploy filter.wasm as plugin strong: plugin strong exists already";
    assert!(said.contains(attempted), "{said}");
    let bind = [
        "plugin",
        "bind",
        "quakes",
        "strong",
        "--timeout",
        "10s",
        "--config",
    ];
    user.run(&[&bind[..], &["{}"]].concat()).fails(1);
    user.run(&[&bind[..], &[FILTER]].concat()).ok();

    user.run_with_input(&["produce", "quakes"], &earthquakes())
        .ok();
    let kept = user
        .run(&["consume", "quakes", "--from", "beginning", "--until-end"])
        .ok();
    assert_eq!(kept.lines().count(), 85);
    a_refused_line_is_found_by_its_number(&user);

    assert!(user.run(&["plugin", "list"]).ok().contains("strong"));
    assert!(
        user.run(&["plugin", "describe", "strong"])
            .ok()
            .contains("quakes")
    );
    user.run(&["plugin", "remove", "strong"]).fails(1);
    let said = user.run(&["plugin", "rollback", "strong"]).fails(1);
    let reason = "cannot roll back plugin strong: plugin strong has no version to go back to";
    assert!(said.contains(reason), "{said}");
    let said = user.run(&["plugin", "rollback", "storng"]).fails(1);
    assert!(said.contains("did you mean strong?"), "{said}");
    user.run(&[
        "plugin",
        "upgrade",
        "strong",
        "filter.wasm",
        "--version",
        "1.3.0",
    ])
    .ok();
    let described = user
        .run(&["plugin", "describe", "strong", "--output", "json"])
        .json();
    assert_eq!(described["version"], "1.3.0");
    let said = user.run(&["plugin", "rollback", "strong"]).ok();
    assert!(
        said.contains("rolled plugin strong back to 1.2.0 (filter, "),
        "{said}"
    );
    let again = user.run(&["plugin", "rollback", "strong", "--output", "json"]);
    let again = again.json();
    assert_eq!(again["version"], "1.3.0");
    assert_eq!(again["bindings"][0]["topic"], "quakes");
    let said = user
        .run(&["plugin", "upgrade", "strong", "filter.wasm"])
        .ok();
    assert!(said.contains("upgraded plugin strong to 1.3.0 ("), "{said}");
    assert!(said.contains("it keeps its version, --version"), "{said}");
    user.run(&["plugin", "unbind", "quakes", "strong"]).ok();
    user.run(&["plugin", "remove", "strong"]).ok();
    assert_eq!(
        user.run(&["plugin", "list", "--output", "json"]).json(),
        serde_json::json!([])
    );
}

#[test]
fn nothing_is_sent_behind_a_record_of_another_content_type_that_was_refused() {
    let user = User::new();
    user.write_filter();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "quakes"]).ok();
    user.run(&["plugin", "deploy", "strong", "filter.wasm"])
        .ok();
    let bind = ["plugin", "bind", "quakes", "strong", "--timeout", "10s"];
    user.run(&[&bind[..], &["--config", FILTER]].concat()).ok();
    let record = |value: &str, content_type: &str| {
        let record = serde_json::json!({ "value": value, "content_type": content_type });
        record.to_string() + "\n"
    };
    let lines = [
        record("{\"magnitude\":8}", "a"),
        record("not JSON", "b"),
        record("{\"magnitude\":9}", "a"),
    ];
    let produce = ["produce", "quakes", "--format", "json"];
    let said = user.run_with_input(&produce, &lines.concat()).fails(1);
    assert!(
        said.contains("of 2 records sent to topic quakes, 1 is stored, 1 is not"),
        "{said}"
    );
    let kept = ["consume", "quakes", "--from", "beginning", "--until-end"];
    assert_eq!(user.run(&kept).ok(), "{\"magnitude\":8}\n");
}

/// Which of its neighbours go with line 2 depends on which of them share its batch.
fn a_refused_line_is_found_by_its_number(user: &User) {
    let lines = "{\"magnitude\":1}\nnot JSON\n{\"magnitude\":2}\n";
    let said = user.run_with_input(&["produce", "quakes"], lines).fails(1);
    for part in [
        "the first that is not stored is line ",
        "line 2: message",
        "strong cannot take it: ",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let outcome = user.run_with_input(&["produce", "quakes", "--output", "json"], lines);
    let summary: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(outcome.code, Some(1));
    assert_eq!(summary["line_at_fault"], 2, "{summary}");
    let first = summary["first_failed_line"].as_u64().unwrap();
    assert!((1..=2).contains(&first), "{summary}");
    assert!(summary["failed"].as_u64().unwrap() >= 1, "{summary}");
    let error = summary["error"].as_str().unwrap();
    assert!(error.contains("strong"), "{summary}");
}

#[test]
fn the_sample_plugin_is_measured_from_any_directory() {
    flumen_guests::guest("starts-with");
    let user = User::new();
    let bench = "bench plugin --rounds 1 --records 100 --batch-records 10 --round-time 50ms \
                 --warm-up 10ms --temporary-dir . --output json";
    let report = user
        .run(&bench.split_whitespace().collect::<Vec<_>>())
        .json();
    assert_eq!(report["bench"], "plugin");
}
