//! Names that a shell completes.

use std::{fs, net::UdpSocket};

use crate::support::{User, has_program};

/// What a shell is told of an unfinished line. Nothing is ever said on standard error.
fn offered(user: &User, shell: &str, line: &str) -> Vec<String> {
    let words: Vec<_> = ["__complete", shell, "flumen"]
        .into_iter()
        .chain(line.split(' '))
        .collect();
    let outcome = user.run(&words);
    assert_eq!(
        (outcome.code, &*outcome.stderr),
        (Some(0), ""),
        "{outcome:?}"
    );
    outcome.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn names_are_offered_where_they_may_stand() {
    let user = User::new();
    user.write_filter();
    let _broker = user.start_broker();
    for topic in ["orders", "orders-failed", "payments"] {
        user.run(&["topic", "create", topic]).ok();
    }
    user.run(&["plugin", "deploy", "keep", "filter.wasm"]).ok();
    let status = user.run(&["status", "--output", "json"]).json();
    let id = status["broker"].to_string();
    for (line, names) in [
        ("topic describe or", &["orders", "orders-failed"][..]),
        ("consume ", &["orders", "orders-failed", "payments"]),
        ("plugin bind orders ", &["keep"]),
        ("profile use ", &["dev-data"]),
        ("--profile dev-data produce pay", &["payments"]),
        ("topic list --profile d", &["dev-data"]),
        ("cluster drain ", &[&id, "127.0.0.1"]),
        ("topic create ", &[]),
        ("topic describe x", &[]),
        ("--profile absent topic describe ", &[]),
        ("topic describe --brokers a:1 ", &[]),
    ] {
        assert_eq!(offered(&user, "bash", line), names, "{line}");
    }
    assert_eq!(
        offered(&user, "zsh", "plugin describe "),
        ["keep:a filter, version 0.0.0"]
    );
    let broker = format!("{id}\t{}", status["address"].as_str().unwrap());
    assert_eq!(offered(&user, "fish", "cluster remove ")[0], broker);
}

#[test]
fn nothing_is_offered_or_said_where_no_broker_answers() {
    let user = User::new();
    assert!(offered(&user, "bash", "topic describe ").is_empty());
    assert!(offered(&user, "bash", "profile use ").is_empty());
    let broker = user.start_broker();
    let file = user.profile_file();
    drop(broker);
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut profile: toml::Table = toml::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    profile["brokers"] = toml::Value::from(vec![address]);
    fs::write(user.path("silent.toml"), toml::to_string(&profile).unwrap()).unwrap();
    let line = "topic describe --profile ./silent.toml ";
    assert!(offered(&user, "bash", line).is_empty());
}

#[test]
fn bash_completes_names_and_all_else_as_before() {
    if !has_program("bash") {
        return;
    }
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders"]).ok();
    let script = user.run(&["completions", "bash"]).ok();
    fs::write(user.path("flumen.bash"), script).unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_flumen"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    for (words, offered) in [
        ("flumen topic describe or", "orders"),
        ("flumen topic descr", "describe"),
        ("flumen topic describe --outp", "--output"),
    ] {
        let complete = format!(
            "source flumen.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _flumen_names flumen \"${{COMP_WORDS[COMP_CWORD]}}\" ''; \
             echo \"${{COMPREPLY[@]}}\""
        );
        let mut bash = std::process::Command::new("bash");
        for (name, value) in user.command().get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        let output = bash
            .args(["-c", &complete])
            .env("PATH", &path)
            .current_dir(user.path(""))
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.trim(), offered, "{words}: {:?}", output.stderr);
    }
}

#[test]
fn elvish_completes_names_and_all_else_as_before() {
    if !has_program("elvish") {
        return;
    }
    let user = User::new();
    let _broker = user.start_broker();
    user.run(&["topic", "create", "orders"]).ok();
    let script = user.run(&["completions", "elvish"]).ok();
    // Only a terminal has an editor: what the script takes of it is made here.
    let script = script.replace("edit:completion:", "").replace("edit:", "");
    let editor = "var arg-completer = [&]\nfn complex-candidate {|text &display=''| put $text }\n";
    let program = env!("CARGO_BIN_EXE_flumen");
    for (line, offered) in [
        ("topic describe or", "orders"),
        ("profile use ''", "dev-data"),
        ("topic describe --profile absent ''", "--output"),
    ] {
        let complete = format!(
            "{editor}{script}\n\
             $arg-completer[flumen] {program} {line} | to-lines\n"
        );
        fs::write(user.path("complete.elv"), complete).unwrap();
        let mut elvish = std::process::Command::new("elvish");
        for (name, value) in user.command().get_envs() {
            match value {
                Some(value) => elvish.env(name, value),
                None => elvish.env_remove(name),
            };
        }
        let output = elvish
            .arg("complete.elv")
            .current_dir(user.path(""))
            .output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(
            said.lines().any(|name| name == offered),
            "{line}: {said:?}, {:?}",
            output.stderr
        );
    }
}
