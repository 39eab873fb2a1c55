//! Tokens: random secrets of which the broker keeps only the SHA-256.

use std::{
    fmt::{self, Write as _},
    fs,
    hint::black_box,
    io,
    path::Path,
};

use flumen_protocol::profile::Profile;
use sha2::{Digest as _, Sha256};

use super::{
    IdentityError, PROFILE_FILE,
    files::{failed, read_private, write_private},
    made, profile,
};

/// The file that keeps them, in the data directory.
pub(super) const TOKENS_FILE: &str = "tokens";

/// The name of the operator's lines in the file.
const OPERATOR: &str = "operator";

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

type Sha256Digest = [u8; 32];

/// The tokens that a broker accepts.
pub(super) struct Tokens {
    accepted: Vec<Accepted>,
    operator: String,
}

struct Accepted {
    name: String,
    digest: Sha256Digest,
}

/// Names alone: nothing secret reaches a log.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.accepted.iter().map(|accepted| &accepted.name))
            .finish()
    }
}

impl Tokens {
    /// Reads the accepted tokens. What is accepted stands in `tokens` alone; `client.toml` is a copy
    /// of the operator's token for those who use it. Where that cannot be read, or is not what was
    /// accepted, the operator gets another one beside the first, which others may still show. Only
    /// who removes `client.toml` revokes what the operator had.
    ///
    /// `ca_pem` is the authority of the profile that hands another token out.
    pub(super) fn load_or_issue(dir: &Path, ca_pem: &str) -> Result<Self, IdentityError> {
        let path = dir.join(TOKENS_FILE);
        let mut accepted = match read_private(&path)? {
            Some(text) => parse(&path, &text)?,
            None => Vec::new(),
        };
        if accepted.is_empty() && made::is_made(dir)? {
            return Err(damaged(&path, "it holds no token"));
        }
        let profile_path = dir.join(PROFILE_FILE);
        if let Some(operator) = operator_in(&profile_path, &accepted)? {
            return Ok(Self { accepted, operator });
        }
        let is_removed = is_absent(&profile_path)?;
        let operator = hex(&rand::random::<[u8; TOKEN_BYTES]>());
        if is_removed {
            accepted.retain(|accepted| accepted.name != OPERATOR);
        } else {
            tracing::warn!(
                path = %profile_path.display(),
                "the profile holds no token that is accepted: it gets a new one, and the operator's \
                 earlier token stays accepted until the profile is removed"
            );
            // Before it is accepted: a start that ends in between must not leave a token accepted
            // that nobody has, one more each time. Of a profile that was removed nothing may be
            // there before the earlier tokens are gone: it would no longer count as removed.
            let profile = Profile {
                brokers: brokers_in(&profile_path),
                ca: ca_pem.to_owned(),
                token: Some(operator.clone()),
                ..Profile::default()
            };
            profile::write(&profile_path, &profile)?;
        }
        accepted.push(Accepted {
            name: OPERATOR.to_owned(),
            digest: sha256(&operator),
        });
        let tokens = Self { accepted, operator };
        write_private(&path, tokens.to_text().as_bytes())?;
        Ok(tokens)
    }

    /// The text of the file.
    pub(super) fn to_text(&self) -> String {
        let mut text = "# name, SHA-256 of the token\n".to_owned();
        for Accepted { name, digest } in &self.accepted {
            let _ = writeln!(text, "{name} {}", hex(digest));
        }
        text
    }

    pub(super) fn operator(&self) -> &str {
        &self.operator
    }

    pub(super) fn accepts(&self, token: &str) -> bool {
        accepts(&self.accepted, token)
    }
}

fn accepts(accepted: &[Accepted], token: &str) -> bool {
    let shown = sha256(token);
    let mut found = false;
    for accepted in accepted {
        found |= equal_in_constant_time(&shown, &accepted.digest);
    }
    found
}

/// Looks at every byte whatever the outcome.
pub(crate) fn equal_in_constant_time(left: &Sha256Digest, right: &Sha256Digest) -> bool {
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |difference, (left, right)| difference | (left ^ right));
    black_box(difference) == 0
}

fn sha256(token: &str) -> Sha256Digest {
    Sha256::digest(token.as_bytes()).into()
}

/// The operator's token in a profile. Of a damaged one, any text that is long enough is tried.
fn operator_in(path: &Path, accepted: &[Accepted]) -> Result<Option<String>, IdentityError> {
    let text = match read_private(path) {
        Ok(None) => return Ok(None),
        Ok(Some(text)) => text,
        Err(IdentityError::Damaged { .. }) => {
            let bytes = fs::read(path).map_err(failed("read", path))?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Err(error) => return Err(error),
    };
    let is_accepted = |token: &String| accepts(accepted, token);
    if let Ok(profile) = toml::from_str::<Profile>(&text) {
        return Ok(profile.token.filter(is_accepted));
    }
    tracing::warn!(path = %path.display(), "the profile is damaged, and is written anew");
    let words = text.split(|c: char| !c.is_ascii_hexdigit());
    let tokens = words.filter(|word| word.len() == 2 * TOKEN_BYTES);
    let mut tokens = tokens.map(str::to_owned);
    Ok(tokens.find(is_accepted))
}

/// The addresses in a profile that can be read; the broker writes those of now once it serves.
fn brokers_in(path: &Path) -> Vec<String> {
    let text = read_private(path).ok().flatten().unwrap_or_default();
    toml::from_str::<Profile>(&text).map_or_else(|_| Vec::new(), |profile| profile.brokers)
}

/// Whether nothing has this name. A link to nothing is something: nobody removed it.
fn is_absent(path: &Path) -> Result<bool, IdentityError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn damaged(path: &Path, what: &str) -> IdentityError {
    IdentityError::Damaged {
        path: path.to_owned(),
        reason: format!("{what}; put it back from a backup, or from another broker of the cluster"),
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<Accepted>, IdentityError> {
    text.lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(index, line)| {
            parse_line(line).ok_or_else(|| {
                let line = index + 1;
                damaged(
                    path,
                    &format!("line {line} is not a name and 64 hexadecimal digits"),
                )
            })
        })
        .collect()
}

fn parse_line(line: &str) -> Option<Accepted> {
    let (name, digits) = line.split_once(' ')?;
    let digest = flumen_protocol::plugin::Digest::try_from(digits.trim().to_owned()).ok()?;
    Some(Accepted {
        name: name.to_owned(),
        digest: digest.0,
    })
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
