//! From flags, variables and profiles to a connected client.

mod flags;
mod named;

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use clap::{Args as _, FromArgMatches as _};
use flumen_broker::config::Interval;
use flumen_client::{Admin, AdminError, Client, ConnectError, Profile, ProfileError, Profiles};

use self::{flags::Flags, named::NamedProfile};
use crate::{
    arguments::without_empty_variables,
    failure::usage,
    hint::{Named, similar},
};

/// Which cluster, and with which credential.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connection(Flags);

/// What is added to a time-out before the command gives up by itself: the client's own error
/// says more.
const CLIENT_FIRST: Duration = Duration::from_millis(200);

impl Connection {
    /// A connection by the profile in a file.
    pub(crate) fn by_profile_file(path: &std::path::Path) -> Self {
        Self(Flags {
            profile: Some(path.display().to_string()),
            ..Flags::default()
        })
    }

    /// By the flags on a line that is not finished; none if they make no sense by themselves.
    pub(crate) fn of_unfinished(flags: &[String]) -> Option<Self> {
        let command = clap::Command::new("flumen").no_binary_name(true);
        let command = without_empty_variables(Self::augment_args(command));
        let matches = command.try_get_matches_from(flags).ok()?;
        Self::from_arg_matches(&matches).ok()
    }

    /// Whether the user said which cluster to use.
    pub(crate) fn is_given(&self) -> bool {
        self.0.profile.is_some() || self.0.brokers.is_some()
    }

    /// How long an answer may take, if the user said so.
    pub(crate) fn request_timeout(&self) -> Option<Duration> {
        self.0.request_timeout.map(Interval::duration)
    }

    /// Connects, makes an administrative call, and closes in order. An error about a name
    /// that is not there comes with the name that was meant.
    pub(crate) async fn admin<T>(
        &self,
        named: Named<'_>,
        call: impl AsyncFnOnce(Admin) -> Result<T, AdminError>,
    ) -> Result<T> {
        let started = Instant::now();
        let client = self.connect().await?;
        let answer = async {
            match call(client.admin()).await {
                Ok(value) => Ok(value),
                Err(error) => Err(named.explain(&client, error).await),
            }
        };
        let outcome = self
            .unless_late(started, answer)
            .await
            .unwrap_or_else(|after| {
                Err(anyhow!(
                    "no answer within {after}, so that it is not known whether it was done; \
                 --request-timeout waits longer"
                ))
            });
        client.close().await;
        outcome
    }

    /// Awaits `future`; an error with the time-out if that passes first, counted from `started`.
    async fn unless_late<R>(
        &self,
        started: Instant,
        future: impl Future<Output = R>,
    ) -> Result<R, Interval> {
        let Some(after) = self.0.request_timeout else {
            return Ok(future.await);
        };
        let deadline = started + after.duration() + CLIENT_FIRST;
        let in_time = tokio::time::timeout_at(deadline.into(), future).await;
        in_time.map_err(|_| after)
    }

    /// Connects. Close the client in the end: a broker that is not told waits for it.
    pub(crate) async fn connect(&self) -> Result<Client> {
        self.connect_in(None).await
    }

    /// As [`Connection::connect`], in a zone; without one, in that of the profile.
    pub(crate) async fn connect_in(&self, zone: Option<&str>) -> Result<Client> {
        let Flags {
            profile,
            brokers,
            ca,
            cert,
            key,
            token,
            ..
        } = &self.0;
        self.0.check()?;
        let mut builder = Client::builder();
        let mut named = None;
        let tried = if let (Some(brokers), Some(ca)) = (brokers, ca) {
            builder = builder.brokers(brokers.iter().cloned()).ca_file(ca)?;
            brokers.clone()
        } else {
            let loaded = load_profile(profile.as_deref())?;
            let tried = loaded.contents().brokers.clone();
            builder = builder.profile(loaded.clone());
            named = NamedProfile::of(profile.as_deref(), loaded);
            tried
        };
        if let (Some(cert), Some(key)) = (cert, key) {
            builder = builder.certificate_files(cert, key)?;
        }
        if let Some(token) = token {
            builder = builder.token(token);
        }
        if let Some(zone) = zone {
            builder = builder.zone(zone);
        }
        if let Some(after) = self.request_timeout() {
            builder = builder.connect_timeout(after).request_timeout(after);
        }
        if let (Some(_), Err(error @ ConnectError::Address { .. })) = (brokers, builder.check()) {
            return Err(usage(format!("--brokers: {error}")));
        }
        match self.unless_late(Instant::now(), builder.connect()).await {
            Ok(Ok(client)) => {
                if let Some(named) = named {
                    named.keep_up_with(&client);
                }
                Ok(client)
            }
            Ok(Err(
                error @ (ConnectError::Unreachable { .. }
                | ConnectError::TimedOut { .. }
                | ConnectError::Address { .. }
                | ConnectError::Refused { .. }),
            )) => Err(named::explain_silence(&error, &tried, named.as_ref())),
            Ok(Err(error @ ConnectError::Unauthenticated { .. })) => {
                Err(anyhow!("{error}; {OTHER_CREDENTIALS}"))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(after) => {
                let error = anyhow!(
                    "no broker answered within {after}: is one running, and is UDP let through? \
                     --request-timeout waits longer"
                );
                Err(named::explain_silence(&error, &tried, named.as_ref()))
            }
        }
    }
}

/// What to do when a credential is refused.
const OTHER_CREDENTIALS: &str =
    "show another one with --profile NAME|FILE, --token TOKEN, or --cert FILE and --key FILE";

/// The profile; if there is none of that name, with the name that was meant.
fn load_profile(wanted: Option<&str>) -> Result<Profile> {
    Profile::load(wanted).map_err(explain_profile)
}

/// An error about a profile; if it is not there, with the name that was meant.
pub(crate) fn explain_profile(error: ProfileError) -> anyhow::Error {
    let path = match &error {
        ProfileError::NotFound { path } | ProfileError::NoFile { path } => path,
        ProfileError::Name(_) | ProfileError::NamedAsFile { .. } => {
            return usage(error.to_string());
        }
        _ => return error.into(),
    };
    let there = Profiles::of_user().and_then(|profiles| profiles.list());
    let there = there.unwrap_or_default();
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    match similar(&name, there.iter().map(String::as_str)) {
        Some(meant) => anyhow!("{error}; did you mean {meant}?"),
        None => error.into(),
    }
}
