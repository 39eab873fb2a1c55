//! Comparing a schema with the file that it is pinned by.

use std::{collections::BTreeSet, fs, path::Path};

use super::Schema;

/// Where the files are.
const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/protocols");

/// With this variable the file is written anew.
const UPDATE: &str = "FLUMEN_UPDATE_SCHEMA";

impl Schema {
    /// Checks that the messages of `protocol`, such as `flumen/1`, are what its file says.
    ///
    /// # Panics
    /// If they are not; the text says what has changed, and what to do.
    pub fn assert_pinned(&self, protocol: &[u8]) {
        let protocol = String::from_utf8_lossy(protocol);
        let path = Path::new(DIR).join(format!("{}.txt", protocol.replace('/', "-")));
        let now = self.to_string();
        if std::env::var_os(UPDATE).is_some() {
            fs::write(&path, now).expect("the schema can be written");
            return;
        }
        let pinned = fs::read_to_string(&path).unwrap_or_default();
        let changes = changes(&pinned, &now);
        assert!(
            changes.is_empty() && pinned == now,
            "messages of {protocol} have changed, and peers of earlier builds cannot read them:\n\
             {changes}\n\
             If a release speaks {protocol}, raise the version, which is the number in the ALPN \
             (protocol/src/lib.rs). Then write {} anew: run this test with {UPDATE}=1.",
            path.display()
        );
    }
}

/// The lines that are gone, and those that are new.
fn changes(before: &str, now: &str) -> String {
    let (before, now): (BTreeSet<_>, BTreeSet<_>) =
        (before.lines().collect(), now.lines().collect());
    let gone = before.difference(&now).map(|line| format!("- {line}\n"));
    let new = now.difference(&before).map(|line| format!("+ {line}\n"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_and_what_is_new_is_named() {
        assert_eq!(
            changes("a: u8\nb: u8\n", "a: u8\nb: str\n"),
            "- b: u8\n+ b: str\n"
        );
        assert_eq!(changes("a: u8\n", "a: u8\n"), "");
    }
}
