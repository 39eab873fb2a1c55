//! Brokers that join a cluster, as a user starts them.

use std::fs;

use crate::support::User;

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
