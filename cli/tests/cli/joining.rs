//! Brokers that join a cluster, as a user starts them.

use std::{fs, net::UdpSocket};

use flumen_protocol::join::JoinToken;

use crate::support::{User, wait_for};

#[test]
fn a_broker_joins_with_a_token_and_may_keep_the_flag() {
    let user = User::new();
    let profile = user.data_dir().join("client.toml");
    let _one = user.start(&["serve", "--bootstrap"], &profile);
    let profile = profile.to_str().unwrap();
    let arguments = ["cluster", "token", "--ttl", "10min", "--profile", profile];
    let made = user.run(&arguments);
    assert!(made.stderr.contains("10min"), "{made:?}");
    let token = made.ok();
    assert!(token.trim().starts_with("flumen-join-1."), "{token}");
    assert_eq!(token.trim().lines().count(), 1);
    let json = user
        .run(&[&arguments[..], &["--output", "json"]].concat())
        .json();
    assert_eq!(json["valid_for_ms"], 10 * 60 * 1000);
    fs::write(user.path("join.token"), token).unwrap();

    let dir = user.path("two");
    for _ in 0..2 {
        // Written before it serves: what is awaited is the whole start.
        let _ = fs::remove_file(dir.join("client.toml"));
        let join = ["serve", "--join", "@join.token", "--zone", "east"];
        let two = user.start_in(&dir, &join, &dir.join("cluster.toml"));
        two.signal("KILL");
        two.wait();
    }
    let [ours, theirs] = [user.data_dir(), dir.clone()].map(|dir| dir.join("tls/ca.pem"));
    assert_eq!(
        fs::read_to_string(ours).unwrap(),
        fs::read_to_string(theirs).unwrap()
    );
    // A variable that is set to nothing says nothing.
    for nothing in ["", " ", " \t\n"] {
        let mut bootstrap = user.command();
        bootstrap
            .args(["serve", "--bootstrap", "--data-dir"])
            .arg(&dir);
        let output = bootstrap.env("FLUMEN_JOIN", nothing).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{nothing:?}: {said}");
        assert!(said.contains("--bootstrap"), "{nothing:?}: {said}");
    }
}

#[test]
fn a_join_token_that_cannot_be_used_is_refused_and_not_repeated() {
    let user = User::new();
    let dir = user.data_dir();
    let serve = |join: &str| {
        let dir = dir.to_str().unwrap();
        user.run(&["serve", "--data-dir", dir, "--join", join])
    };
    let said = serve("flumen-join-1.c2VjcmV0").fails(2);
    assert!(said.contains("flumen cluster token"), "{said}");
    assert!(!said.contains("c2VjcmV0"), "{said}");
    let said = serve("flumen-join-9.c2VjcmV0").fails(2);
    assert!(said.contains("version"), "{said}");
    assert!(serve("@nowhere").fails(1).contains("nowhere"));
    let both = ["serve", "--bootstrap", "--join", "x"];
    assert!(user.run(&both).fails(2).contains("give one of them"));
    assert!(!dir.exists());
}

#[test]
fn a_broker_whom_nobody_lets_in_says_for_whom_it_waits() {
    let user = User::new();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let token = JoinToken {
        cluster: 7,
        addresses: vec![address.clone()],
        authority: [1; 32],
        id: 9,
        secret: [2; 32],
    };
    let log = user.path("broker.log");
    let broker = user.start(&["serve", "--join", &token.to_string()], &log);
    let waits = format!("waiting for {address} to let this broker in");
    wait_for("it says so", || user.log().contains(&waits));
    assert!(!user.log().contains("did not answer within"));
    // The first process of a container is ended by no signal that it does not listen to.
    broker.signal("TERM");
    assert_eq!(broker.wait(), Some(0), "{}", user.log());
}

#[test]
fn what_too_few_brokers_cannot_keep_is_warned_of() {
    let user = User::new();
    let first = user.data_dir().join("client.toml");
    let _first = user.start(&["serve", "--bootstrap"], &first);
    let file = user.profile_file();
    let run = |arguments: &[&str]| {
        let with_profile = [arguments, &["--profile", &file]].concat();
        user.run(&with_profile)
    };
    let others = user.start_another("two");
    assert!(
        user.log().contains("replication-factor 2"),
        "{}",
        user.log()
    );
    let status = ["cluster", "status", "--output", "json"];
    wait_for("both are one cluster", || {
        let status = run(&status);
        status.code == Some(0) && status.json()["brokers"].as_array().unwrap().len() == 2
    });
    let warnings = run(&status).json()["warnings"].to_string();
    assert!(warnings.contains("one of the 2 brokers only"), "{warnings}");
    let told = run(&["cluster", "status"]).ok();
    assert!(told.contains("warning:"), "{told}");

    let others = [others, user.start_another("three")];
    wait_for("all three are one cluster", || {
        let status = run(&status);
        status.code == Some(0) && status.json()["brokers"].as_array().unwrap().len() == 3
    });
    let now = run(&status).json();
    assert_eq!(now["warnings"], serde_json::json!([]));
    let broker = now["brokers"][0]["broker"].to_string();
    let short = &broker.trim_matches('"')[..3];
    let said = run(&["cluster", "drain", short]).fails(2);
    assert!(said.contains("4 digits of it at least"), "{said}");
    let address = now["brokers"][1]["address"].as_str().unwrap();
    let drained = run(&["cluster", "drain", address, "--wait"]);
    assert!(
        drained.stderr.contains("warning: 2 brokers are left"),
        "{drained:?}"
    );
    let told = drained.ok();
    assert!(
        told.contains("fewer than 3 replicas complete") && !told.contains("may be stopped"),
        "{told}"
    );
    drop(others);
}
