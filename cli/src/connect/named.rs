//! Profiles that have a name are copies, which the brokers do not keep in step: the commands do
//! that. Otherwise the way to a cluster is lost with the broker that was its first.

use std::{env, fmt::Display};

use anyhow::anyhow;
use flumen_client::{
    Client, Profile, Profiles,
    profile::{PROFILE_VARIABLE, is_path},
};

/// A profile that was found by its name.
#[derive(Debug)]
pub(super) struct NamedProfile {
    profiles: Profiles,
    name: String,
    loaded: Profile,
}

impl NamedProfile {
    /// The profile that was loaded as [`Profile::load`] does; none if it is a file that was named.
    pub(super) fn of(wanted: Option<&str>, loaded: Profile) -> Option<Self> {
        let profiles = Profiles::of_user().ok()?;
        let from_environment = env::var(PROFILE_VARIABLE).ok();
        let from_environment = from_environment.filter(|value| !value.trim().is_empty());
        let name = match wanted.map(str::to_owned).or(from_environment) {
            Some(wanted) if is_path(&wanted) => return None,
            Some(name) => name,
            None => profiles.default_name().ok()??,
        };
        Some(Self {
            profiles,
            name,
            loaded,
        })
    }

    /// Has the profile name the brokers that there are now. A command does not fail for it: where
    /// a home directory cannot be written to, the profile stays as it is.
    pub(super) fn keep_up_with(&self, client: &Client) {
        let Self {
            profiles,
            name,
            loaded,
        } = self;
        if let Err(error) = profiles.refresh(name, loaded, client.addresses()) {
            tracing::debug!(%error, "profile {name} does not name all brokers");
        }
    }
}

/// The error that no broker can be used, with all who were asked, and with the way to others.
pub(super) fn explain_silence(
    error: &impl Display,
    tried: &[String],
    named: Option<&NamedProfile>,
) -> anyhow::Error {
    let all = match tried {
        [_] | [] => String::new(),
        several => format!(" None of {} could be used.", several.join(", ")),
    };
    let again = match named {
        Some(NamedProfile { name, .. }) => format!(
            " If the brokers are elsewhere now, `flumen profile add {name} FILE --force` takes the \
             client.toml in the data directory of one that runs"
        ),
        None => String::new(),
    };
    let more = all + &again;
    let error = error.to_string();
    let stop = if more.is_empty() || error.ends_with(['?', '.']) {
        ""
    } else {
        "."
    };
    anyhow!("{error}{stop}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_ails_the_last_broker_all_are_named_that_were_tried() {
        let tried = ["a:1".to_owned(), "b:1".to_owned()];
        let explained = |error: &str| explain_silence(&error, &tried, None).to_string();
        let all = "None of a:1, b:1 could be used.";
        assert_eq!(explained("no such host"), format!("no such host. {all}"));
        assert_eq!(explained("is it there?"), format!("is it there? {all}"));
        let alone = explain_silence(&"no such host", &tried[..1], None);
        assert_eq!(alone.to_string(), "no such host");
    }
}
