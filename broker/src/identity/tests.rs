//! What a data directory holds after the first start, and what a later start makes of it.

mod damage;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::*;

fn config(dir: &Path) -> BrokerConfig {
    BrokerConfig {
        data_dir: dir.to_owned(),
        ..BrokerConfig::default()
    }
}

fn open(dir: &Path) -> Result<Identity, IdentityError> {
    Identity::load_or_create(&config(dir))
}

fn addresses() -> Vec<String> {
    vec!["127.0.0.1:4650".to_owned()]
}

fn read(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap()
}

#[test]
fn the_second_start_finds_what_the_first_one_made() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    first.write_profile(&addresses()).unwrap();
    let (id, profile) = (first.broker_id(), first.profile(&addresses()));
    let certificate = read(dir.path(), "tls/broker.pem");
    drop(first);

    let second = open(dir.path()).unwrap();
    assert_eq!(second.broker_id(), id);
    assert_eq!(second.profile(&addresses()), profile);
    assert_eq!(read(dir.path(), "tls/broker.pem"), certificate);
    second.server_tls().unwrap();
}

#[test]
fn the_profile_on_disk_is_accepted_and_another_token_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let identity = open(dir.path()).unwrap();
    let path = identity.write_profile(&addresses()).unwrap();
    let profile: Profile = toml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let token = profile.token.unwrap();
    assert!(identity.accepts_token(&token));
    assert!(!identity.accepts_token(""));
    assert!(!identity.accepts_token(&token[1..]));
    assert!(!identity.accepts_token(&token.replace(&token[..1], "x")));
    assert!(!read(dir.path(), "tokens").contains(&token));
    assert!(!format!("{identity:?}").contains(&token));
}

#[test]
fn only_the_owner_can_read_what_is_secret() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    let identity = open(&data).unwrap();
    identity.write_profile(&addresses()).unwrap();
    let mode = |file: &str| fs::metadata(data.join(file)).unwrap().permissions().mode() & 0o777;
    for dir in ["", "tls"] {
        assert_eq!(mode(dir), 0o700, "{dir}");
    }
    for file in ["client.toml", "tokens", "tls/ca.key", "tls/broker.key"] {
        assert_eq!(mode(file), 0o600, "{file}");
    }
    drop(identity);
    fs::set_permissions(data.join("tokens"), fs::Permissions::from_mode(0o644)).unwrap();
    let _identity = open(&data).unwrap();
    assert_eq!(mode("tokens"), 0o600);
}

#[test]
fn a_second_broker_is_refused_and_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, IdentityError::InUse { pid: Some(p), .. } if p == pid));
    assert!(error.to_string().contains(&format!("process {pid}")));
}

#[test]
fn a_directory_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    fs::write(dir.path().join("version"), "2\n").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::TooNew { found: 2, .. }));
    fs::write(dir.path().join("version"), "what\n").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }));
}

#[test]
fn a_directory_of_somebody_else_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let mode = fs::metadata(dir.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn deleting_the_profile_revokes_the_operators_token() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let old = first.profile(&[]).token.unwrap();
    let profile = first.write_profile(&addresses()).unwrap();
    drop(first);
    fs::remove_file(profile).unwrap();
    let second = open(dir.path()).unwrap();
    assert!(!second.accepts_token(&old));
    assert!(second.accepts_token(&second.profile(&[]).token.unwrap()));
}

#[test]
fn a_new_host_gets_a_new_certificate_from_the_same_authority() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let (ca, broker) = (
        read(dir.path(), "tls/ca.pem"),
        read(dir.path(), "tls/broker.pem"),
    );
    let mut config = config(dir.path());
    config.advertise = Some("b1.example.com".parse().unwrap());
    drop(Identity::load_or_create(&config).unwrap());
    let reissued = read(dir.path(), "tls/broker.pem");
    assert_eq!(read(dir.path(), "tls/ca.pem"), ca);
    assert_ne!(reissued, broker);
    drop(Identity::load_or_create(&config).unwrap());
    assert_eq!(read(dir.path(), "tls/broker.pem"), reissued);
}

#[test]
fn a_first_start_that_was_interrupted_anywhere_is_completed() {
    let whole = tempfile::tempdir().unwrap();
    open(whole.path())
        .unwrap()
        .write_profile(&addresses())
        .unwrap();
    // The files in the order in which they are written.
    let files = [
        "version",
        "broker.toml",
        "tls/ca.key",
        "tls/ca.pem",
        "tls/broker.key",
        "tls/broker.pem",
        "tokens",
        "client.toml",
    ];
    for written in 0..=files.len() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tls")).unwrap();
        if written == 0 {
            fs::remove_dir(dir.path().join("tls")).unwrap();
        }
        for file in &files[..written] {
            fs::copy(whole.path().join(file), dir.path().join(file)).unwrap();
        }
        let identity = open(dir.path()).unwrap_or_else(|error| panic!("{written}: {error}"));
        identity.server_tls().unwrap();
        assert!(identity.accepts_token(&identity.profile(&[]).token.unwrap()));
    }
}

#[test]
fn what_was_there_once_is_missed_and_not_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let identity = open(dir.path()).unwrap();
    let id = identity.broker_id();
    drop(identity);
    for missing in ["version", "broker.toml", "tls", "tls/ca.pem", "tokens"] {
        let path = dir.path().join(missing);
        let elsewhere = dir.path().with_extension("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        let error = open(dir.path()).unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, IdentityError::Missing { .. }), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
        assert!(said.contains("backup"), "{said}");
        assert!(!path.exists(), "{missing} was made anew");
        fs::rename(&elsewhere, &path).unwrap();
        assert_eq!(open(dir.path()).unwrap().broker_id(), id);
    }
    fs::remove_file(dir.path().join("broker.toml")).unwrap();
    let said = open(dir.path()).unwrap_err().to_string();
    let line = format!("id = {id}");
    assert!(said.contains(&line), "{said}");
    fs::write(dir.path().join("broker.toml"), line).unwrap();
    assert_eq!(open(dir.path()).unwrap().broker_id(), id);
}

#[test]
fn an_id_that_was_cut_short_is_not_taken_for_another_broker() {
    let dir = tempfile::tempdir().unwrap();
    let id = open(dir.path()).unwrap().broker_id();
    let path = dir.path().join("broker.toml");
    let whole = fs::read_to_string(&path).unwrap();
    let cut = whole.trim_end().len() - 1;
    fs::write(&path, &whole[..cut]).unwrap();
    let error = open(dir.path()).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{said}");
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    let line = format!("id = {id}");
    assert!(said.contains(&line), "{said}");
    fs::write(&path, line).unwrap();
    assert_eq!(open(dir.path()).unwrap().broker_id(), id);
}

#[test]
fn whoever_removes_the_mark_gets_a_new_authority_and_a_new_token() {
    let dir = tempfile::tempdir().unwrap();
    let identity = open(dir.path()).unwrap();
    let (id, ca) = (identity.broker_id(), identity.ca_pem().to_owned());
    drop(identity);
    fs::remove_dir_all(dir.path().join("tls")).unwrap();
    fs::remove_file(dir.path().join("tokens")).unwrap();
    let said = open(dir.path()).unwrap_err().to_string();
    let mark = dir.path().join("identity.made");
    assert!(said.contains(mark.to_str().unwrap()), "{said}");
    fs::remove_file(mark).unwrap();
    let identity = open(dir.path()).unwrap();
    assert_eq!(identity.broker_id(), id);
    assert_ne!(identity.ca_pem(), ca);
}

/// Makes a directory whose authority is another one: that of another directory.
fn of_another_authority() -> tempfile::TempDir {
    let [dir, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    drop(open(dir.path()).unwrap());
    drop(open(other.path()).unwrap());
    fs::remove_file(dir.path().join("tls/ca.key")).unwrap();
    for file in ["tls/ca.pem", "tls/broker.pem", "tls/broker.key"] {
        fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
    }
    dir
}

#[test]
fn certificates_of_another_authority_are_used_as_they_are() {
    let dir = of_another_authority();
    for _ in 0..2 {
        open(dir.path()).unwrap().server_tls().unwrap();
        assert!(!dir.path().join("tls/ca.key").exists());
    }
    fs::remove_file(dir.path().join("tls/broker.pem")).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(error.to_string().contains("ca.key"), "{error}");
}

#[test]
fn certificates_of_another_authority_that_are_damaged_are_named() {
    let dir = of_another_authority();
    for file in ["tls/ca.pem", "tls/broker.pem", "tls/broker.key"] {
        let path = dir.path().join(file);
        let whole = fs::read_to_string(&path).unwrap();
        // In the middle of what is signed, or of the key, and then nothing.
        for damaged in [whole.replacen('A', "B", 9), String::new()] {
            fs::write(&path, damaged).unwrap();
            let said = open(dir.path()).unwrap_err().to_string();
            assert!(
                said.contains(dir.path().join("tls").to_str().unwrap()),
                "{file}: {said}"
            );
            assert!(said.contains("backup"), "{file}: {said}");
        }
        fs::write(&path, whole).unwrap();
        open(dir.path()).unwrap();
    }
}

#[test]
fn the_authoritys_key_is_missed_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    let path = dir.path().join("tls/ca.key");
    fs::remove_file(&path).unwrap();
    let said = open(dir.path()).unwrap_err().to_string();
    assert!(said.contains(path.to_str().unwrap()), "{said}");
    assert!(
        said.contains("is missing") && said.contains("line `authority`"),
        "{said}"
    );
    let mark = read(dir.path(), "identity.made");
    let lines = mark.lines().filter(|line| !line.starts_with("authority"));
    let without: Vec<_> = lines.collect();
    fs::write(dir.path().join("identity.made"), without.join("\n")).unwrap();
    open(dir.path()).unwrap().server_tls().unwrap();
}
