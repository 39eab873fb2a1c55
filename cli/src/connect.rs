//! From flags, variables and profiles to a connected client.

use std::path::PathBuf;

use anyhow::{Context, Result};
use flumen_client::{Admin, AdminError, Client, Profile};

use crate::failure::usage;

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
}

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

    /// Connects, makes an administrative call, and closes in order.
    pub(crate) async fn admin<T>(
        &self,
        call: impl AsyncFnOnce(Admin) -> Result<T, AdminError>,
    ) -> Result<T> {
        let client = self.connect().await?;
        let outcome = call(client.admin()).await;
        client.close().await;
        Ok(outcome?)
    }

    /// Connects. Close the client in the end: a broker that is not told waits for it.
    pub(crate) async fn connect(&self) -> Result<Client> {
        let mut builder = Client::builder();
        if let (Some(brokers), Some(ca)) = (&self.brokers, &self.ca) {
            if self.token.is_none() && self.cert.is_none() {
                return Err(usage(
                    "--brokers needs a credential: --token TOKEN, or --cert FILE and --key FILE",
                ));
            }
            builder = builder.brokers(brokers.iter().cloned()).ca_file(ca)?;
        } else {
            builder = builder.profile(Profile::load(self.profile.as_deref())?);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            builder = builder.certificate_files(cert, key)?;
        }
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        builder.connect().await.context("cannot connect")
    }
}
