//! Where and how a client connects.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use flumen_protocol::{
    ALPN_CLIENT, error::ErrorCode, limits::BATCH_BYTES_MAX, profile::Profile as Contents,
};
use flumen_transport::{
    endpoint::{Network, Udp},
    quinn,
    tls::{self, Identity},
    tuning,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Client, Inner};
use crate::{
    cluster::Cluster,
    config::{
        ClientConfig, HEDGE_DELAY, RECONNECT_DELAY_MIN, STREAMS_FROM_BROKER_MAX, TIMEOUT_MAX,
    },
    connection::{ConnectError, Dialer, Token, bad_address, split_address},
    producer::Deliveries,
    profile::{Profile, ProfileError},
    request::RequestError,
};

/// Says where and how a [`Client`] connects.
///
/// ```no_run
/// use std::time::Duration;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = flumen_client::Client::builder()
///     .brokers(["broker-1:4650", "broker-2:4650"])
///     .ca_file("/etc/flumen/ca.pem")?
///     .token("d3b07384…")
///     .request_timeout(Duration::from_secs(10))
///     .connect()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct ClientBuilder {
    profile: Contents,
    config: ClientConfig,
    network: Option<Arc<dyn Network>>,
}

impl ClientBuilder {
    /// Takes everything that a profile says.
    #[must_use]
    pub fn profile(mut self, profile: impl Into<Profile>) -> Self {
        self.profile = profile.into().into();
        self
    }

    /// Sets the brokers to try first, each `host:port`; they tell of the others.
    #[must_use]
    pub fn brokers(mut self, brokers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.profile.brokers = brokers.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the authority that signs the brokers' certificates, as PEM text.
    #[must_use]
    pub fn ca(mut self, pem: impl Into<String>) -> Self {
        self.profile.ca = pem.into();
        self
    }

    /// As [`ClientBuilder::ca`], from a file.
    pub fn ca_file(self, path: impl AsRef<Path>) -> Result<Self, ProfileError> {
        let pem = read_pem(path.as_ref())?;
        Ok(self.ca(pem))
    }

    /// Sets where the client stands, as brokers are told with `--zone`. Consumers then read from a
    /// broker of this zone that has a copy, and from the leader where there is none.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.profile.zone = Some(zone.into());
        self
    }

    /// Sets the token that is shown to brokers.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.profile.token = Some(token.into());
        self
    }

    /// Sets the client certificate that is shown to brokers, and its key, as PEM texts.
    #[must_use]
    pub fn certificate(mut self, cert: impl Into<String>, key: impl Into<String>) -> Self {
        self.profile.cert = Some(cert.into());
        self.profile.key = Some(key.into());
        self
    }

    /// As [`ClientBuilder::certificate`], from files.
    pub fn certificate_files(
        self,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, ProfileError> {
        let cert = read_pem(cert.as_ref())?;
        let key = read_pem(key.as_ref())?;
        Ok(self.certificate(cert, key))
    }

    /// Sets how long a connection may take, TLS and authentication included. Default:
    /// [`CONNECT_TIMEOUT`](crate::config::CONNECT_TIMEOUT); at most [`TIMEOUT_MAX`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Sets how long a request may take, connecting and repeating included. Default:
    /// [`REQUEST_TIMEOUT`](crate::config::REQUEST_TIMEOUT); at most [`TIMEOUT_MAX`].
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Sets the first and the longest wait between attempts to connect. Defaults:
    /// [`RECONNECT_DELAY`](crate::config::RECONNECT_DELAY) and
    /// [`RECONNECT_DELAY_MAX`](crate::config::RECONNECT_DELAY_MAX); at most [`TIMEOUT_MAX`]. Less than
    /// [`RECONNECT_DELAY_MIN`](crate::config::RECONNECT_DELAY_MIN) counts as that.
    #[must_use]
    pub fn reconnect_delay(mut self, first: Duration, max: Duration) -> Self {
        let first = first.max(RECONNECT_DELAY_MIN);
        self.config.reconnect.first = first;
        self.config.reconnect.max = max.max(first);
        self
    }

    /// Sets how often producers and consumers look for new partitions of their topics.
    /// Default: [`METADATA_REFRESH`](crate::config::METADATA_REFRESH).
    #[must_use]
    pub fn metadata_refresh(mut self, interval: Duration) -> Self {
        self.config.metadata_refresh = interval.max(Duration::from_millis(10));
        self
    }

    /// Takes sockets from another network than the system's: for simulations.
    #[doc(hidden)]
    #[must_use]
    pub fn network(mut self, network: Arc<dyn Network>) -> Self {
        self.network = Some(network);
        self
    }

    /// Checks what can be checked without connecting: that there are brokers, with addresses
    /// that can be such, that authority and certificate can be used, a token is not empty, and no
    /// time-out is longer than [`TIMEOUT_MAX`].
    pub fn check(&self) -> Result<(), ConnectError> {
        if self.profile.brokers.is_empty() {
            return Err(ConnectError::NoBrokers);
        }
        for address in &self.profile.brokers {
            if split_address(address).is_none() {
                return Err(bad_address(address));
            }
        }
        check_token(&self.profile)?;
        check_timeouts(&self.config)?;
        client_tls(&self.profile).map(drop)
    }

    /// Connects to the first broker that answers.
    ///
    /// # Errors
    /// The failure of the last broker that was tried, when none can be reached.
    ///
    /// # Cancel safety
    /// A call that is dropped leaves nothing behind.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let client = self.unconnected()?;
        client.reach_one().await?;
        client.learn_brokers().await
    }

    /// A client that has not connected yet.
    pub(super) fn unconnected(self) -> Result<Client, ConnectError> {
        let Self {
            profile,
            mut config,
            network,
        } = self;
        if profile.brokers.is_empty() {
            return Err(ConnectError::NoBrokers);
        }
        check_token(&profile)?;
        check_timeouts(&config)?;
        config.zone.clone_from(&profile.zone);
        let dialer = Dialer {
            config,
            tls: client_tls(&profile)?,
            token: profile.token.map(Token),
            network: network.unwrap_or_else(|| Arc::new(Udp)),
            endpoints: Mutex::default(),
            closed: watch::Sender::new(false),
        };
        Ok(Client {
            inner: Arc::new(Inner {
                dialer: Arc::new(dialer),
                seeds: profile.brokers,
                brokers: Mutex::default(),
                cluster: Cluster::default(),
                searchers: Arc::default(),
                batch_bytes_max: AtomicUsize::new(BATCH_BYTES_MAX),
                deliveries: Deliveries::default(),
            }),
        })
    }
}

impl Client {
    /// Connects to one broker, and to each further one when those before have failed or are
    /// slow; one that answers is enough.
    async fn reach_one(&self) -> Result<(), ConnectError> {
        let brokers: Vec<_> = self.inner.seeds.iter().map(|a| self.broker_at(a)).collect();
        let mut waiting = brokers.iter();
        let mut connecting = FuturesUnordered::new();
        let mut last = ConnectError::NoBrokers;
        loop {
            match waiting.next() {
                Some(broker) => connecting.push(broker.connection()),
                None if connecting.is_empty() => return Err(last),
                None => {}
            }
            let has_more = waiting.len() > 0;
            tokio::select! {
                Some(connected) = connecting.next() => match connected {
                    Ok(_) => return Ok(()),
                    Err(error) => last = error,
                },
                () = tokio::time::sleep(HEDGE_DELAY), if has_more => {}
            }
        }
    }

    /// Shows that the broker really answers and accepts the credential.
    async fn learn_brokers(self) -> Result<Self, ConnectError> {
        let address = || self.candidates()[0].address().to_owned();
        let after = self.config().connect_timeout;
        let Ok(answer) = tokio::time::timeout(after, self.metadata(Vec::new())).await else {
            // One that has gone since says why to who connects again.
            self.reach_one().await?;
            let address = address();
            return Err(ConnectError::TimedOut { address, after });
        };
        match answer {
            Ok(_) => Ok(self),
            Err(RequestError::Connect(error)) => Err(error),
            Err(RequestError::Refused {
                code: ErrorCode::Unauthenticated,
                text,
                ..
            }) => {
                let address = address();
                Err(ConnectError::Unauthenticated { address, text })
            }
            Err(error) => Err(ConnectError::Unreachable {
                address: address(),
                text: error.to_string(),
            }),
        }
    }
}

/// An empty token is a variable that was not set, and would only be refused.
fn check_token(profile: &Contents) -> Result<(), ConnectError> {
    match &profile.token {
        Some(token) if token.trim().is_empty() => Err(ConnectError::EmptyToken),
        _ => Ok(()),
    }
}

/// What is too long cannot be added to the present moment.
fn check_timeouts(config: &ClientConfig) -> Result<(), ConnectError> {
    let timeouts = [
        ("connect time-out", config.connect_timeout),
        ("request time-out", config.request_timeout),
        ("wait between attempts to connect", config.reconnect.max),
    ];
    match timeouts.into_iter().find(|(_, set)| *set > TIMEOUT_MAX) {
        Some((what, set)) => Err(ConnectError::Timeout { what, set }),
        None => Ok(()),
    }
}

fn client_tls(profile: &Contents) -> Result<quinn::ClientConfig, ConnectError> {
    let identity = match (&profile.cert, &profile.key) {
        (Some(cert_pem), Some(key_pem)) => Some(Identity { cert_pem, key_pem }),
        (None, None) => None,
        _ => {
            let text = "a client certificate and its key belong together".to_owned();
            return Err(ConnectError::Tls { text });
        }
    };
    let crypto = tls::client_config(&profile.ca, identity, ALPN_CLIENT).map_err(|error| {
        ConnectError::Tls {
            text: error.to_string(),
        }
    })?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(tuning::client_transport_config(STREAMS_FROM_BROKER_MAX));
    Ok(config)
}

fn read_pem(path: &Path) -> Result<String, ProfileError> {
    std::fs::read_to_string(path).map_err(|source| ProfileError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_pause_between_attempts_to_connect() {
        let builder = Client::builder().reconnect_delay(Duration::ZERO, Duration::ZERO);
        let set = builder.config.reconnect;
        assert_eq!(
            (set.first, set.max),
            (RECONNECT_DELAY_MIN, RECONNECT_DELAY_MIN)
        );
    }
}
