//! From flags, variables and profiles to a connected client.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use flumen_broker::config::Interval;
use flumen_client::{Admin, AdminError, Client, ConnectError, Profile, ProfileError, Profiles};

use crate::{
    failure::usage,
    hint::{Named, similar},
    number::time_above_zero,
};

/// Which cluster, and with which credential.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The profile to use, by name or file; default: as `flumen profile use` or `flumen dev` chose
    #[arg(
        long,
        value_name = "NAME|FILE",
        env = "FLUMEN_PROFILE",
        conflicts_with = "brokers"
    )]
    profile: Option<String>,
    /// Brokers to connect to without a profile; needs --ca, and --token or --cert and --key
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        requires = "ca",
        env = "FLUMEN_BROKERS"
    )]
    brokers: Option<Vec<String>>,
    /// The authority that signs the brokers' certificates (PEM)
    #[arg(long, value_name = "FILE", requires = "brokers", env = "FLUMEN_CA")]
    ca: Option<PathBuf>,
    /// A client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key", env = "FLUMEN_CERT")]
    cert: Option<PathBuf>,
    /// The private key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert", env = "FLUMEN_KEY")]
    key: Option<PathBuf>,
    /// A token that the brokers accept
    #[arg(
        long,
        value_name = "TOKEN",
        conflicts_with = "cert",
        hide_env_values = true,
        env = "FLUMEN_TOKEN"
    )]
    token: Option<String>,
    /// Give up when there is no answer after so long, connecting included [default: 5s to
    /// connect, 30s for the answer]
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = time_above_zero,
        env = "FLUMEN_REQUEST_TIMEOUT"
    )]
    request_timeout: Option<Interval>,
}

/// What is added to a time-out before the command gives up by itself: the client's own error
/// says more.
const CLIENT_FIRST: Duration = Duration::from_millis(200);

impl Connection {
    /// A connection by the profile in a file.
    pub(crate) fn by_profile_file(path: &std::path::Path) -> Self {
        Self {
            profile: Some(path.display().to_string()),
            ..Self::default()
        }
    }

    /// Whether the user said which cluster to use.
    pub(crate) fn is_given(&self) -> bool {
        self.profile.is_some() || self.brokers.is_some()
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
        let Some(after) = self.request_timeout else {
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
        let mut builder = Client::builder();
        if let (Some(brokers), Some(ca)) = (&self.brokers, &self.ca) {
            if self.token.is_none() && self.cert.is_none() {
                return Err(usage(
                    "--brokers needs a credential: --token TOKEN, or --cert FILE and --key FILE",
                ));
            }
            builder = builder.brokers(brokers.iter().cloned()).ca_file(ca)?;
        } else {
            builder = builder.profile(load_profile(self.profile.as_deref())?);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            builder = builder.certificate_files(cert, key)?;
        }
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        if let Some(zone) = zone {
            builder = builder.zone(zone);
        }
        if let Some(after) = self.request_timeout.map(Interval::duration) {
            builder = builder.connect_timeout(after).request_timeout(after);
        }
        match self.unless_late(Instant::now(), builder.connect()).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error @ ConnectError::Unauthenticated { .. })) => {
                Err(anyhow!("{error}; {OTHER_CREDENTIALS}"))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(after) => Err(anyhow!(
                "no broker answered within {after}: is one running, and is UDP let through? \
                 --request-timeout waits longer"
            )),
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
    let ProfileError::NotFound { path } = &error else {
        return error.into();
    };
    let there = Profiles::of_user().and_then(|profiles| profiles.list());
    let there = there.unwrap_or_default();
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    match similar(&name, there.iter().map(String::as_str)) {
        Some(meant) => anyhow!("{error}; did you mean {meant}?"),
        None => error.into(),
    }
}
