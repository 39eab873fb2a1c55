//! Commands against a real broker, as a user types them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
};

use crate::support::{Broker, User, wait_for};

#[test]
fn topics_are_made_shown_changed_and_deleted() {
    let user = User::new();
    let _broker = user.start_broker();
    let empty = user.run(&["topic", "list"]);
    assert!(empty.stderr.contains("flumen topic create"), "{empty:?}");
    assert_eq!(
        user.run(&["topic", "list", "--output", "json"]).json(),
        serde_json::json!([])
    );

    user.run(&[
        "topic",
        "create",
        "orders",
        "--partitions",
        "3",
        "--retention-age",
        "30d",
    ])
    .ok();
    let again = ["topic", "create", "orders", "--partitions", "7"];
    let again = [&again[..], &["--if-not-exists", "--output", "json"]].concat();
    let kept = serde_json::json!({"action": "exists", "topic": "orders"});
    assert_eq!(user.run(&again).json(), kept);
    let said = user.run(&["topic", "create", "orders"]).fails(1);
    assert!(said.contains("orders"), "{said}");
    let topic = user
        .run(&["topic", "describe", "orders", "--output", "json"])
        .json();
    assert_eq!(topic["config"]["partitions"], 3);
    assert_eq!(
        topic["config"]["retention_age_ms"],
        30_u64 * 24 * 60 * 60 * 1000
    );
    assert_eq!(topic["partitions"].as_array().unwrap().len(), 3);

    user.run(&[
        "topic",
        "alter",
        "orders",
        "--retention-age",
        "forever",
        "--partitions",
        "5",
    ])
    .ok();
    let topic = user
        .run(&["topic", "describe", "orders", "--output", "json"])
        .json();
    assert!(topic["config"]["retention_age_ms"].is_null());
    assert_eq!(topic["config"]["partitions"], 5);
    assert!(user.run(&["topic", "list"]).ok().contains("forever"));
    assert!(
        user.run(&["topic", "describe", "orders"])
            .ok()
            .contains("PARTITION")
    );

    user.run(&["topic", "delete", "orders"]).ok();
    user.run(&["topic", "describe", "orders"]).fails(1);
}

#[test]
fn lines_that_are_produced_are_consumed_from_wherever_one_starts() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "lines"]).ok();
    let lines: Vec<_> = (0..2_000).map(|n| format!("{{\"id\":{n}}}\n")).collect();
    let lines = lines.concat();
    let summary = user
        .run_with_input(
            &[
                "produce",
                "lines",
                "--key-json",
                "id",
                "--header",
                "from=test",
                "--output",
                "json",
            ],
            &lines,
        )
        .json();
    assert_eq!(summary["records"], 2_000);

    let all = user
        .run(&["consume", "lines", "--from", "beginning", "--until-end"])
        .ok();
    assert_eq!(all, lines);
    let tail = user
        .run(&[
            "consume",
            "lines",
            "--from",
            "1990",
            "--until-end",
            "--partition",
            "0",
        ])
        .ok();
    assert_eq!(tail.lines().count(), 10);
    let recent = user
        .run(&["consume", "lines", "--from", "-1h", "--count", "3"])
        .ok();
    assert_eq!(recent, "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\n");
    let none = user
        .run(&["consume", "lines", "--from", "end", "--until-end"])
        .ok();
    assert_eq!(none, "");
    let json = user
        .run(&[
            "consume", "lines", "--from", "7", "--count", "1", "--output", "json",
        ])
        .json();
    assert_eq!(json["value"]["id"], 7);
    assert_eq!((&json["offset"], &json["key"]), (&7.into(), &"7".into()));
    assert_eq!(json["headers"], serde_json::json!([["from", "test"]]));
    let pairs = user
        .run(&[
            "consume",
            "lines",
            "--from",
            "7",
            "--count",
            "1",
            "--format",
            "key-value",
        ])
        .ok();
    assert_eq!(pairs, "7\t{\"id\":7}\n");
}

#[test]
fn a_line_without_a_key_stops_the_command_and_says_how_far_it_came() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "pairs"]).ok();
    let said = user
        .run_with_input(
            &["produce", "pairs", "--key-separator", ":"],
            "a:1\nb:2\nc\n",
        )
        .fails(1);
    let tells_how_far = said.contains("of 2 records sent to topic pairs, 2 are stored");
    let tells_where = said.contains("the first that is not stored is line 3:");
    assert!(tells_how_far && tells_where, "{said}");
    let stored = user
        .run(&["consume", "pairs", "--from", "beginning", "--until-end"])
        .ok();
    assert_eq!(stored, "1\n2\n");
    user.run_with_input(&["produce", "absent"], "x\n").fails(1);

    let too_long = format!("d:4\ne:{}\n", "5".repeat((8 << 20) + 16));
    let said = user
        .run_with_input(&["produce", "pairs", "--key-separator", ":"], &too_long)
        .fails(1);
    let tells_where = said.contains("the first that is not stored is line 2:");
    assert!(tells_where, "{said}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "many"]).ok();
    let lines = "a line of some length, over and over again\n".repeat(20_000);
    user.run_with_input(&["produce", "many"], &lines).ok();
    let mut child = user
        .command()
        .args(["consume", "many", "--from", "beginning"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn consuming_ends_in_order_when_it_is_interrupted() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "live"]).ok();
    let mut child = user
        .command()
        .args(["consume", "live", "--from", "beginning"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    user.run_with_input(&["produce", "live"], "now\n").ok();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "now\n");
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-s", "INT", &id])
        .status()
        .unwrap();
    assert!(sent.success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_state_of_the_broker_and_the_profiles_are_shown() {
    let user = User::new();
    let _broker = user.start_broker();
    let status = user.run(&["status", "--output", "json"]).json();
    assert_eq!(status["wal_sync"], "always");
    assert!(user.run(&["status"]).ok().contains("healthy"));
    let profiles = user.run(&["profile", "list", "--output", "json"]).json();
    assert_eq!(
        (&profiles[0]["profile"], &profiles[0]["default"]),
        (&"dev-data".into(), &true.into())
    );
    user.run(&["profile", "use", "dev-data"]).ok();
    let file = user.data_dir().join("client.toml");
    let file = file.to_str().unwrap();
    user.run(&["status", "--profile", file]).ok();

    let profile: toml::Table = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let (broker, token) = (
        profile["brokers"][0].as_str().unwrap(),
        profile["token"].as_str().unwrap(),
    );
    let ca = user.data_dir().join("tls/ca.pem");
    let direct = ["status", "--brokers", broker, "--ca", ca.to_str().unwrap()];
    user.run(&[&direct[..], &["--token", token]].concat()).ok();
    let said = user
        .run(&[&direct[..], &["--token", "wrong"]].concat())
        .fails(1);
    for word in ["token", "--profile NAME|FILE", "--cert FILE"] {
        assert!(said.contains(word), "{said}");
    }
    user.run(&direct).fails(2);
}

#[test]
fn a_broker_stops_in_order_on_sigterm_and_on_ctrl_c_and_keeps_what_it_has() {
    let user = User::new();
    let profile = user.data_dir().join("client.toml");
    let profile_flag = profile.to_str().unwrap().to_owned();
    for (round, signal) in ["TERM", "INT"].into_iter().enumerate() {
        let _ = std::fs::remove_file(&profile);
        let broker = user.start(&["serve", "--log-format", "json"], &profile);
        if round == 0 {
            user.run(&["topic", "create", "kept", "--profile", &profile_flag])
                .ok();
        }
        user.run_with_input(&["produce", "kept", "--profile", &profile_flag], "x\n")
            .ok();
        let all = user
            .run(&[
                "consume",
                "kept",
                "--from",
                "beginning",
                "--until-end",
                "--profile",
                &profile_flag,
            ])
            .ok();
        assert_eq!(all.lines().count(), round + 1);
        broker.signal(signal);
        assert_eq!(broker.wait(), Some(0), "{}", user.log());
        for line in user.log().lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}

#[test]
fn a_second_broker_on_the_same_directory_is_refused() {
    let user = User::new();
    let _broker = user.start_broker();
    let dir = user.data_dir();
    let said = user
        .run(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "none",
            "--data-dir",
            dir.to_str().unwrap(),
        ])
        .fails(1);
    assert!(said.contains("in use by another broker (process"), "{said}");
}

#[test]
fn the_addresses_that_dev_prints_answer() {
    let user = User::new();
    let _broker = user.start_broker();
    wait_for("dev says where it is", || user.log().contains("/metrics"));
    let log = user.log();
    let address = log
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let mut http = TcpStream::connect(address).unwrap();
    write!(http, "GET /readyz HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_is_told_when_a_broker_serves_and_when_it_stops() {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    };
    let user = User::new();
    let path = user.path("notify");
    let name = format!("flumen-test-{}", std::process::id());
    let of_path = SocketAddr::from_pathname(&path).unwrap();
    let of_name = SocketAddr::from_abstract_name(&name).unwrap();
    for (variable, address) in [
        (path.display().to_string(), of_path),
        (format!("@{name}"), of_name),
    ] {
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        manager
            .set_read_timeout(Some(std::time::Duration::from_mins(1)))
            .unwrap();
        let told = || {
            let mut text = [0; 64];
            let len = manager.recv(&mut text).unwrap();
            String::from_utf8(text[..len].to_vec()).unwrap()
        };
        let mut serve = user.command();
        serve
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "none"])
            .env("NOTIFY_SOCKET", variable)
            .stderr(Stdio::null());
        let broker = Broker::of(serve.spawn().unwrap());
        assert_eq!(told(), "READY=1");
        assert!(user.path("flumen-data/client.toml").exists());
        broker.signal("TERM");
        assert_eq!(told(), "STOPPING=1");
        assert_eq!(broker.wait(), Some(0));
    }
}

#[test]
fn the_default_profile_that_is_removed_is_told_with_the_way_to_another() {
    let user = User::new();
    let _broker = user.start_broker();
    let file = user.profile_file();
    user.run(&["profile", "add", "other", &file]).ok();
    let said = user.run(&["profile", "remove", "dev-data"]).ok();
    assert!(
        said.contains("which was the default") && said.contains("`flumen profile use other`"),
        "{said}"
    );
    let said = user.run(&["profile", "remove", "other"]).ok();
    assert_eq!(said, "removed profile other\n");
}
