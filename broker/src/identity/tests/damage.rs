//! Each file, damaged at each place: the broker is who it was, or the file is named.

use super::*;
use crate::identity::certificates::broker_named;

/// What makes a broker who it is.
#[derive(Debug, PartialEq, Eq)]
struct Who {
    id: BrokerId,
    membership: Membership,
    authority: [u8; 32],
    authority_key: Vec<u8>,
}

impl Who {
    fn of(identity: &Identity) -> Self {
        let key = identity.certificates.ca_key.as_ref().unwrap();
        let key = rcgen::KeyPair::from_pem(key).unwrap();
        let membership = match identity.membership() {
            Membership::Bootstrap => Membership::Bootstrap,
            // Where others may be found is learned anew.
            Membership::Joined { cluster, .. } => Membership::Joined {
                cluster: *cluster,
                members: Vec::new(),
            },
        };
        Self {
            id: identity.broker_id(),
            membership,
            authority: identity.authority_fingerprint().unwrap(),
            authority_key: rcgen::PublicKeyData::der_bytes(&key).to_vec(),
        }
    }
}

const FILES: [&str; 9] = [
    "version",
    "broker.toml",
    "identity.made",
    "client.toml",
    "tokens",
    "tls/ca.pem",
    "tls/ca.key",
    "tls/broker.pem",
    "tls/broker.key",
];

/// A directory that is in use, of a founder or of one that has joined.
struct Used {
    dir: tempfile::TempDir,
    files: Vec<(&'static str, Vec<u8>)>,
    who: Who,
    token: String,
}

impl Used {
    fn new(joined: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut files = FILES.to_vec();
        if joined {
            let members = "[[members]]\nid = 7\naddress = \"10.0.0.7:4650\"\n";
            let text = format!("id = \"3c970b1a75891cb5332e685e651393d6\"\n\n{members}");
            fs::write(dir.path().join("cluster.toml"), text).unwrap();
            fs::write(dir.path().join("version"), "1\n").unwrap();
            files.push("cluster.toml");
        }
        let identity = open(dir.path()).unwrap();
        identity.write_profile(&addresses()).unwrap();
        let read = |file| (file, fs::read(dir.path().join(file)).unwrap());
        Self {
            files: files.into_iter().map(read).collect(),
            who: Who::of(&identity),
            token: identity.tokens.operator().to_owned(),
            dir,
        }
    }

    /// Starts with a file as it should not be; `None` removes it. Returns what is said of it, if it
    /// is refused.
    fn start_with(&self, file: &str, bytes: Option<&[u8]>) -> Option<String> {
        let path = self.dir.path().join(file);
        match bytes {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let what = format!("{file}: {:?}", bytes.map(String::from_utf8_lossy));
        let opened = open(self.dir.path());
        let said = match &opened {
            Ok(identity) => {
                assert_eq!(Who::of(identity), self.who, "{what}");
                identity.server_tls().unwrap();
                let certificates = &identity.certificates;
                let named = broker_named(&certificates.broker_pem);
                assert_eq!(named, Some(self.who.id), "{what}");
                let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
                tls::check_signed(identity.ca_pem(), &certificates.broker_pem, now).unwrap();
                let is_revoked = file == "client.toml" && bytes.is_none();
                if file != "tokens" {
                    assert_eq!(identity.accepts_token(&self.token), !is_revoked, "{what}");
                }
                let operators = identity.profile(&[]).token.unwrap();
                assert!(identity.accepts_token(&operators), "{what}");
                identity.write_profile(&addresses()).unwrap();
                None
            }
            Err(error) => {
                let said = error.to_string();
                let is_too_new = matches!(error, IdentityError::TooNew { .. });
                let is_named = said.contains(path.to_str().unwrap());
                assert!(is_named || is_too_new, "{what}: {said}");
                let advice = ["backup", "write `", "use the version"];
                let advises = advice.iter().any(|advice| said.contains(advice));
                assert!(advises, "{what}: {said}");
                let left = fs::read(&path).ok();
                assert_eq!(left.as_deref(), bytes, "{what} was replaced");
                Some(said)
            }
        };
        drop(opened);
        for (file, bytes) in &self.files {
            fs::write(self.dir.path().join(file), bytes).unwrap();
        }
        said
    }
}

/// Whether the broker goes on when the file is removed, emptied, or no text.
fn is_healed(file: &str) -> [bool; 3] {
    match file {
        "client.toml" | "tls/broker.pem" | "tls/broker.key" => [true, true, true],
        // Whoever removes it wants it.
        "identity.made" => [true, false, false],
        _ => [false, false, false],
    }
}

#[test]
fn a_file_that_is_removed_emptied_or_no_text_is_named_or_made_anew() {
    for joined in [false, true] {
        let used = Used::new(joined);
        for (file, bytes) in &used.files {
            let no_text = [&[0xff, 0xfe], &bytes[..]].concat();
            let went_on =
                [None, Some(&b""[..]), Some(&no_text)].map(|b| used.start_with(file, b).is_none());
            assert_eq!(went_on, is_healed(file), "{file}");
        }
    }
}

#[test]
fn a_file_that_is_cut_anywhere_is_named_or_made_anew() {
    for joined in [false, true] {
        let used = Used::new(joined);
        for (file, bytes) in &used.files {
            // The last cuts take a line end, or a part of the last line.
            let ends = (bytes.len().saturating_sub(8)..bytes.len()).rev();
            for end in ends.chain((0..bytes.len()).step_by(29)) {
                used.start_with(file, Some(&bytes[..end]));
            }
        }
    }
}

#[test]
fn a_file_with_a_flipped_bit_is_named_or_harmless() {
    let used = Used::new(true);
    for (file, bytes) in &used.files {
        // Each place of a short file; all places of all files take minutes.
        let step = if bytes.len() > 200 { 11 } else { 1 };
        for (turn, at) in (0..bytes.len()).step_by(step).enumerate() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (turn % 8);
            used.start_with(file, Some(&flipped));
        }
    }
}

#[test]
fn a_profile_that_is_damaged_keeps_the_token_that_can_still_be_read_in_it() {
    let used = Used::new(false);
    let path = used.dir.path().join("client.toml");
    let text = fs::read(&path).unwrap();
    fs::write(&path, [&text[..], &[0xff]].concat()).unwrap();
    let identity = open(used.dir.path()).unwrap();
    assert!(identity.accepts_token(&used.token));
    assert_eq!(identity.profile(&[]).token, Some(used.token));
    identity.write_profile(&addresses()).unwrap();
    assert_eq!(fs::read(&path).unwrap(), text);
}

#[test]
fn a_profile_whose_token_is_damaged_gets_another_and_revokes_none_until_it_is_removed() {
    let used = Used::new(false);
    let path = used.dir.path().join("client.toml");
    let text = fs::read_to_string(&path).unwrap();
    let mut digits = used.token.clone().into_bytes();
    digits[0] ^= 1;
    let flipped = String::from_utf8(digits).unwrap();
    fs::write(&path, text.replace(&used.token, &flipped)).unwrap();
    let identity = open(used.dir.path()).unwrap();
    let second = identity.profile(&[]).token.unwrap();
    assert!(identity.accepts_token(&used.token) && identity.accepts_token(&second));
    assert!(!identity.accepts_token(&flipped));
    identity.write_profile(&addresses()).unwrap();
    drop(identity);

    let identity = open(used.dir.path()).unwrap();
    assert_eq!(identity.profile(&[]).token.as_ref(), Some(&second));
    assert!(identity.accepts_token(&used.token));
    drop(identity);

    fs::remove_file(&path).unwrap();
    let identity = open(used.dir.path()).unwrap();
    assert!(!identity.accepts_token(&used.token) && !identity.accepts_token(&second));
}

#[test]
fn a_start_that_ends_early_after_the_profile_was_damaged_leaves_no_token_that_nobody_has() {
    let used = Used::new(false);
    let path = used.dir.path().join("client.toml");
    let operators = || read(used.dir.path(), "tokens").matches("operator ").count();
    let with_another_token = fs::read_to_string(&path)
        .unwrap()
        .replace(&used.token, &"0".repeat(64));
    for (round, damaged) in ["", "no profile", &with_another_token]
        .into_iter()
        .enumerate()
    {
        fs::write(&path, damaged).unwrap();
        // None of the starts gets as far as to write the profile.
        let handed_out = [(); 3].map(|()| open(used.dir.path()).unwrap().profile(&[]).token);
        assert_eq!(handed_out[0], handed_out[2]);
        assert_eq!(operators(), 2 + round, "{damaged:?}");
        let profile: Profile = toml::from_str(&read(used.dir.path(), "client.toml")).unwrap();
        assert_eq!(profile.token, handed_out[0]);
        assert_eq!(profile.brokers.is_empty(), damaged.len() < 64);
    }
    // Where not even the list of tokens can be written, nothing is accepted that was not.
    let tokens = read(used.dir.path(), "tokens");
    fs::write(&path, "").unwrap();
    let in_the_way = used.dir.path().join("tokens.tmp");
    fs::create_dir(&in_the_way).unwrap();
    for _ in 0..3 {
        open(used.dir.path()).unwrap_err();
    }
    fs::remove_dir(in_the_way).unwrap();
    assert_eq!(read(used.dir.path(), "tokens"), tokens);
    let identity = open(used.dir.path()).unwrap();
    assert!(identity.accepts_token(&used.token));
    assert_eq!(operators(), 5);
}

#[test]
fn a_profile_that_is_a_link_to_nothing_is_not_one_that_was_removed() {
    let used = Used::new(false);
    let path = used.dir.path().join("client.toml");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(used.dir.path().join("gone"), &path).unwrap();
    let identity = open(used.dir.path()).unwrap();
    assert!(identity.accepts_token(&used.token));
    assert!(identity.accepts_token(&identity.profile(&[]).token.unwrap()));
}

#[test]
fn of_two_ids_the_one_that_the_certificate_has_is_right() {
    let used = Used::new(false);
    let id = used.who.id.0;
    let marked = format!("broker = {}\njoined = false\n", id + 1);
    let said = used.start_with("identity.made", Some(marked.as_bytes()));
    assert!(said.unwrap().contains(&format!("write `broker = {id}`")));
    let other = format!("id = {}\n", id + 1);
    let said = used.start_with("broker.toml", Some(other.as_bytes()));
    assert!(said.unwrap().contains(&format!("write `id = {id}`")));
}
