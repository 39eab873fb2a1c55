//! Which broker commands talk to, and what they say when it does not let them in.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use serde_json::Value;

use crate::support::{User, wait_for};

#[test]
fn a_second_data_directory_has_a_profile_of_its_own_and_takes_nothing_away() {
    let user = User::new();
    let _first = user.start_broker();
    user.run(&["topic", "create", "first"]).ok();
    let profile = user.path(".config/flumen/profiles/dev-other.toml");
    let _second = user.start_in(&user.path("other"), &["dev"], &profile);
    wait_for("the second broker tells its profile", || {
        user.log().contains("dev-other")
    });
    let told = user.log();
    assert!(
        told.contains("`flumen profile use dev-data` goes back"),
        "{told}"
    );
    assert!(!told.contains("warning"), "{told}");

    let topics = |profile: &str| {
        let list = ["topic", "list", "--output", "json", "--profile", profile];
        user.run(&list).json().as_array().unwrap().len()
    };
    assert_eq!((topics("dev-data"), topics("dev-other")), (1, 0));
    user.run(&["profile", "use", "dev-data"]).ok();
    assert!(user.run(&["topic", "list"]).ok().contains("first"));
}

#[test]
fn a_profile_that_led_to_another_broker_is_not_replaced_without_a_word() {
    let user = User::new();
    let _first = user.start_broker();
    let elsewhere = user.path("elsewhere/data");
    let _second = user.start_in(&elsewhere, &["dev"], &elsewhere.join("client.toml"));
    wait_for("the second broker warns", || user.log().contains("warning"));
    let told = user.log();
    assert!(
        told.contains("profile dev-data led to another broker"),
        "{told}"
    );
    let file = user.data_dir().join("client.toml");
    user.run(&["status", "--profile", file.to_str().unwrap()])
        .ok();
}

#[test]
fn a_broker_says_in_json_where_it_is() {
    let user = User::new();
    for (command, profile) in [("dev", Value::from("mine")), ("serve", Value::Null)] {
        let mut arguments = vec![command, "--data-dir", command, "--output", "json"];
        arguments.extend(["--listen", "127.0.0.1:0", "--admin", "none"]);
        if command == "dev" {
            arguments.extend(["--profile", "mine"]);
        }
        let mut child = user
            .command()
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let read = stdout.read_line(&mut line);
        let outcome = read.map(|_| {
            let started: Value = serde_json::from_str(&line).unwrap();
            let file = started["profile_file"].as_str().unwrap();
            let status = ["status", "--output", "json", "--profile", file];
            (started.clone(), user.run(&status))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let (started, status) = outcome.unwrap();
        assert_eq!(started["action"], "started");
        assert_eq!(started["profile"], profile);
        assert_eq!(started["admin"], Value::Null);
        assert_eq!(status.json()["address"], started["address"]);
    }
}

#[test]
fn a_credential_that_is_refused_is_named_with_what_to_show_instead() {
    let user = User::new();
    let _broker = user.start_broker();
    let data_dir = user.data_dir();
    let mut profile: toml::Table =
        toml::from_str(&fs::read_to_string(data_dir.join("client.toml")).unwrap()).unwrap();
    let broker = profile["brokers"][0].as_str().unwrap().to_owned();
    profile.remove("token");
    profile.remove("cert");
    profile.remove("key");
    fs::write(user.path("bare.toml"), toml::to_string(&profile).unwrap()).unwrap();

    let stranger = rcgen::generate_simple_self_signed(["stranger".to_owned()]).unwrap();
    fs::write(user.path("cert.pem"), stranger.cert.pem()).unwrap();
    fs::write(user.path("key.pem"), stranger.signing_key.serialize_pem()).unwrap();
    let ca = data_dir.join("tls/ca.pem");
    let direct = ["status", "--brokers", &broker, "--ca", ca.to_str().unwrap()];
    let certificate = ["--cert", "cert.pem", "--key", "key.pem"];
    for (line, refused) in [
        (&["status", "--profile", "bare.toml"][..], "no credential"),
        (
            &[&direct[..], &["--token", "wrong"]].concat(),
            "the token is not one of this cluster",
        ),
        (
            &[&direct[..], &certificate].concat(),
            "the client certificate",
        ),
    ] {
        let said = user.run(line).fails(1);
        for part in [
            refused,
            "refuses the credential",
            &broker,
            "--profile NAME|FILE, --token TOKEN, or --cert FILE and --key FILE",
        ] {
            assert!(said.contains(part), "{line:?}: {said}");
        }
    }
}

#[test]
fn the_profile_of_a_broker_elsewhere_is_added_under_a_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let user = User::new();
    let _broker = user.start_broker();
    let file = user.data_dir().join("client.toml");
    let file = file.to_str().unwrap();
    let added = user
        .run(&["profile", "add", "prod", file, "--output", "json"])
        .json();
    assert_eq!(
        (&added["action"], &added["profile"]),
        (&"added".into(), &"prod".into())
    );
    let copy = user.path(".config/flumen/profiles/prod.toml");
    assert_eq!(added["profile_file"], copy.to_str().unwrap());
    assert_eq!(
        fs::metadata(&copy).unwrap().permissions().mode() & 0o777,
        0o600
    );
    user.run(&["status", "--profile", "prod"]).ok();
    assert!(user.run(&["profile", "list"]).ok().contains("prod"));

    let again = ["profile", "add", "prod", file];
    let said = user.run(&again).fails(1);
    assert!(
        said.contains("exists already") && said.contains("--force"),
        "{said}"
    );
    let said = user.run(&[&again[..], &["--force"]].concat()).ok();
    assert!(
        said.contains("`flumen profile use prod` makes it the default"),
        "{said}"
    );
    let text = fs::read_to_string(file).unwrap();
    user.run_with_input(&["profile", "add", "piped", "-"], &text)
        .ok();
    user.run(&["status", "--profile", "piped"]).ok();
}

#[test]
fn what_leads_to_no_broker_is_not_added() {
    let user = User::new();
    let said = user.run(&["profile", "add", "a", "absent.toml"]).fails(1);
    assert!(said.contains("absent.toml does not exist"), "{said}");
    for (text, part) in [
        ("text", "text.toml is not valid"),
        ("brokers = []\nca = \"x\"", "names none"),
        ("brokers = [\"a\"]\nca = \"x\"", "host:port"),
        (
            "brokers = [\"a:1\"]\nca = \"x\"\ntoken = \"t\"",
            "cannot set up TLS",
        ),
        (
            "brokers = [\"a:1\"]\nca = \"x\"\ntoken = \"\"",
            "the token is empty: write one",
        ),
    ] {
        fs::write(user.path("text.toml"), text).unwrap();
        let said = user.run(&["profile", "add", "a", "text.toml"]).fails(1);
        assert!(said.contains(part), "{said}");
    }
    let authority = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
    let bare = format!(
        "brokers = [\"a:1\"]\nca = \"\"\"\n{}\"\"\"",
        authority.cert.pem()
    );
    let said = user
        .run_with_input(&["profile", "add", "a", "-"], &bare)
        .fails(1);
    assert!(
        said.contains("standard input cannot be used: it has no credential"),
        "{said}"
    );
    assert!(!user.path(".config/flumen/profiles/a.toml").exists());
}

#[test]
fn a_name_and_a_file_that_are_taken_for_each_other_come_with_the_line_that_was_meant() {
    let user = User::new();
    for (arguments, meant) in [
        (&["prod.toml"][..], "`flumen profile add prod prod.toml`"),
        (
            &["./client.toml"],
            "`flumen profile add NAME ./client.toml`",
        ),
        (&["-"], "`flumen profile add NAME -`"),
        (&["prod"], "`flumen profile add prod FILE`"),
        (
            &["./client.toml", "prod"],
            "the name comes first, then the file: `flumen profile add prod ./client.toml`",
        ),
        (
            &["a/prod.toml", "b.toml"],
            "`flumen profile add prod b.toml`",
        ),
    ] {
        let said = user
            .run(&[&["profile", "add"], arguments].concat())
            .fails(2);
        assert!(said.contains(meant), "{arguments:?}: {said}");
    }
    for arguments in [
        &["status", "--profile", "/nope"][..],
        &["profile", "add", "nope", "/nope"],
    ] {
        let said = user.run(arguments).fails(1);
        assert!(said.contains("the file /nope does not exist"), "{said}");
        assert!(!said.contains("profile /nope"), "{said}");
    }
}

#[test]
fn a_profile_may_be_named_before_the_command() {
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders"]).ok();
    let file = user.data_dir().join("client.toml");
    let file = file.to_str().unwrap();
    user.run(&["profile", "remove", "dev-data"]).ok();
    user.run(&["topic", "list"]).fails(1);
    for line in [
        &["--profile", file, "topic", "list"][..],
        &["topic", "--profile", file, "list"],
        &["--output", "text", "--profile", file, "topic", "list"],
    ] {
        assert!(user.run(line).ok().contains("orders"), "{line:?}");
    }
    let produce = ["--profile", file, "produce", "orders"];
    user.run_with_input(&produce, "x\n").ok();
    let said = user
        .run(&["--profile", file, "completions", "bash"])
        .fails(2);
    assert!(said.contains("unexpected argument '--profile'"), "{said}");
    let said = user.run(&["--profile", file, "topc", "list"]).fails(2);
    assert!(
        said.contains("topc") && !said.contains("--profile"),
        "{said}"
    );
}

#[test]
fn a_named_profile_leads_to_the_cluster_also_without_the_broker_it_was_taken_from() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let user = User::new();
    let first = user.start_broker();
    let file = user.data_dir().join("client.toml");
    let text = fs::read_to_string(&file).unwrap();
    for name in ["used", "unused"] {
        user.run_with_input(&["profile", "add", name, "-"], &text)
            .ok();
    }
    fs::write(user.path("copy.toml"), &text).unwrap();
    let _others = user.grow();
    let saved = |name: &str| user.path(&format!(".config/flumen/profiles/{name}.toml"));
    let brokers = |name: &str| {
        let text = fs::read_to_string(saved(name)).unwrap();
        let profile: toml::Table = toml::from_str(&text).unwrap();
        profile["brokers"].as_array().unwrap().len()
    };
    // The profile of `flumen dev` needs no command to go through it.
    wait_for("the profile of dev names all brokers", || {
        brokers("dev-data") == 3
    });

    assert_eq!(brokers("used"), 1);
    user.run(&["topic", "list", "--profile", "used"]).ok();
    assert_eq!(brokers("used"), 3);
    let written = fs::metadata(saved("used")).unwrap();
    assert_eq!(written.permissions().mode() & 0o777, 0o600);
    user.run(&["topic", "list", "--profile", "used"]).ok();
    assert_eq!(fs::metadata(saved("used")).unwrap().ino(), written.ino());
    user.run(&["topic", "list", "--profile", "copy.toml"]).ok();
    assert_eq!(fs::read_to_string(user.path("copy.toml")).unwrap(), text);

    first.signal("KILL");
    first.wait();
    for name in ["dev-data", "used"] {
        user.run(&["topic", "list", "--profile", name]).ok();
    }
    let said = user.run(&["topic", "list", "--profile", "unused"]).fails(1);
    assert!(
        said.contains("`flumen profile add unused FILE --force`"),
        "{said}"
    );
}

#[test]
fn dev_keeps_what_its_profile_names_besides_itself_when_it_is_started_again() {
    let user = User::new();
    let broker = user.start_broker();
    let file = user.path(".config/flumen/profiles/dev-data.toml");
    let read = || -> toml::Table { toml::from_str(&fs::read_to_string(&file).unwrap()).unwrap() };
    let mut profile = read();
    let own = profile["brokers"][0].clone();
    let learnt = toml::Value::from("127.0.0.1:1");
    profile["brokers"] = toml::Value::Array(vec![own, learnt.clone()]);
    fs::write(&file, toml::to_string(&profile).unwrap()).unwrap();
    broker.signal("TERM");
    broker.wait();

    fs::remove_file(user.path(".config/flumen/default")).unwrap();
    let _again = user.start_broker();
    let status = user.run(&["status", "--output", "json"]).json();
    let own = toml::Value::from(status["address"].as_str().unwrap());
    // The address that it had before is not among them.
    assert_eq!(read()["brokers"].as_array().unwrap()[..], [own, learnt]);
}

#[test]
fn all_addresses_that_were_tried_are_named_when_nobody_answers() {
    let user = User::new();
    let broker = user.start_broker();
    let file = user.data_dir().join("client.toml");
    let mut profile: toml::Table = toml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let alive = profile["brokers"][0].as_str().unwrap().to_owned();
    drop(broker);
    profile["brokers"] = toml::Value::from(vec![alive.as_str(), "127.0.0.1:1"]);
    fs::write(user.path("a.toml"), toml::to_string(&profile).unwrap()).unwrap();
    user.run(&["profile", "add", "a", "a.toml"]).ok();
    for profile in ["a", "./a.toml"] {
        let said = user.run(&["topic", "list", "--profile", profile]).fails(1);
        let all = format!("None of {alive}, 127.0.0.1:1 could be used");
        assert!(said.contains(&all), "{said}");
        assert_eq!(
            said.contains("profile add a FILE"),
            profile == "a",
            "{said}"
        );
    }

    // Also where the host of the last one is not known.
    profile["brokers"] = toml::Value::from(vec!["nowhere.invalid:1", "elsewhere.invalid:1"]);
    let text = toml::to_string(&profile).unwrap();
    user.run_with_input(&["profile", "add", "b", "-"], &text)
        .ok();
    let said = user.run(&["topic", "list", "--profile", "b"]).fails(1);
    assert!(said.contains("could be used. If the brokers"), "{said}");
    assert!(said.contains("profile add b FILE"), "{said}");
}
