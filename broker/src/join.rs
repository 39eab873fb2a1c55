//! Joining a cluster: a new broker shows a token to one that is a member, and gets all that it
//! needs to be one itself.
//!
//! ```text
//! new broker                                    member
//!   data directory: key, joining.toml
//!   ── QUIC; the chain leads to the authority whose fingerprint is in the token ──>
//!   ── Enrol: secret, public key, hosts ──────────> checks, registers the broker in the catalog
//!   <──────── Enrolled: certificate, authority, tokens, members ──
//!   data directory: tls/, tokens, client.toml, cluster.toml
//! ```
//!
//! The secret is sent only to who has a certificate of that authority. A crash anywhere leaves a
//! data directory that can join again.

#[cfg(test)]
mod tests;

use std::{
    net::{SocketAddr, UdpSocket},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use flumen_protocol::{
    ALPN_CLIENT,
    error::WireError,
    join::{Enrolled, Enrolment, JoinToken},
    message::{BrokerInfo, Reply, Request, Response, StreamOpen},
};
use flumen_transport::{
    endpoint::Network,
    quinn::{ClientConfig, Connection, VarInt},
    stream::{FrameReader, FrameWriter, Payload, REPLY_LIMITS},
    tls, tuning,
};
use tokio::time::Instant;

use crate::{
    config::{BrokerConfig, ConfigError},
    executor,
    identity::{Candidate, IdentityError},
};

/// How long a broker tries to join: as machines may be started all at once, the others may not be
/// there yet.
const JOIN_TIMEOUT: Duration = Duration::from_mins(1);

/// How long one broker may take to answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// When it is said that somebody does not answer: who waits in front of it should know for whom.
const ATTEMPT_SLOW: Duration = Duration::from_secs(2);

/// Brokers of a cluster, this one among them, that have one replica of each shard by default.
const MEMBERS_WITH_SINGLE_COPIES: usize = 2;

/// The rest between attempts.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// Streams that the other side may open: none.
const STREAMS_MAX: u32 = 0;

/// Why a broker did not join a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be taken.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster does not want it.
    #[error("the cluster does not let this broker in: {0}")]
    Refused(WireError),
    /// Nobody has answered.
    #[error(
        "no broker of the cluster let this one in within {}: {reason}; check that {} can be reached \
         (UDP), or make another token with `flumen cluster token`",
        humantime::format_duration(JOIN_TIMEOUT),
        addresses.join(", ")
    )]
    Unreachable {
        /// Who was asked.
        addresses: Vec<String>,
        /// What the last one said, or why it did not.
        reason: String,
    },
    /// The answer does not fit the token.
    #[error(
        "{address} has answered for another cluster than that of the token; nothing was changed"
    )]
    WrongCluster {
        /// Who has answered.
        address: String,
    },
    /// The address of this broker cannot be taken.
    #[error("cannot listen on {address} (UDP): {source}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Why one attempt has failed.
enum Failed {
    /// It may succeed later, or elsewhere.
    ForNow(String),
    ForGood(WireError),
}

/// Makes the data directory of `config` one of a member of the token's cluster. Where it is one
/// already, its brokers are also looked for at the token's addresses, and nothing else is done. Where the port is chosen by the system, it is chosen now.
pub(crate) async fn join(
    config: &mut BrokerConfig,
    token: &JoinToken,
    network: &dyn Network,
) -> Result<(), JoinError> {
    config.validate()?;
    let (prepared, wanted) = (config.clone(), token.clone());
    let candidate = blocking(move || Candidate::open(&prepared, &wanted)).await?;
    let Some(candidate) = candidate else {
        tracing::info!(
            "this broker belongs to the cluster already; the join token only says where to look for \
             the others, too"
        );
        look_for_others(config, token);
        return Ok(());
    };
    choose_port(config)?;
    let enrolment = Enrolment {
        cluster: token.cluster,
        token_id: token.id,
        secret: token.secret,
        broker: BrokerInfo {
            id: candidate.broker(),
            address: config.advertised(config.listen),
            zone: config.zone.as_ref().map(ToString::to_string),
        },
        public_key: candidate.public_key(),
        hosts: candidate.hosts().to_vec(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let enrolled = enrol(token, &enrolment, network).await?;
    tracing::info!(
        broker = %enrolment.broker.id,
        by = %enrolled.enrolled_by,
        members = enrolled.members.len(),
        "let into the cluster"
    );
    if enrolled.members.len() <= MEMBERS_WITH_SINGLE_COPIES {
        tracing::warn!(
            "two brokers keep one copy of each record, unless they were told otherwise, and lose it \
             with the broker that has it: a third broker makes it three copies, `flumen cluster \
             replication-factor 2` two"
        );
    }
    blocking(move || candidate.complete(&enrolled)).await?;
    Ok(())
}

/// Has the brokers that a token names looked for beside those that are known: all of these may have
/// been replaced while this one was away.
fn look_for_others(config: &mut BrokerConfig, token: &JoinToken) {
    if let Ok(addresses) = token.addresses.join(",").parse() {
        config
            .seed_brokers
            .get_or_insert_default()
            .extend(addresses);
    }
}

/// Others are told an address before the broker listens on it.
fn choose_port(config: &mut BrokerConfig) -> Result<(), JoinError> {
    let address = config.listen;
    if address.port() == 0 {
        let bound = UdpSocket::bind(address).and_then(|socket| socket.local_addr());
        config.listen = bound.map_err(|source| JoinError::Listen { address, source })?;
    }
    Ok(())
}

/// Asks the brokers of the token, one after the other, until one has answered.
async fn enrol(
    token: &JoinToken,
    enrolment: &Enrolment,
    network: &dyn Network,
) -> Result<Enrolled, JoinError> {
    let deadline = Instant::now() + JOIN_TIMEOUT;
    let mut reason = String::new();
    for round in 0.. {
        if Instant::now() >= deadline {
            break;
        }
        for address in &token.addresses {
            let attempt = ask(token, address, round, enrolment, network);
            let attempt = tell_if_slow(address, attempt);
            match tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await {
                Ok(Ok(enrolled)) if fits(&enrolled, token) => return Ok(enrolled),
                Ok(Ok(_)) => {
                    return Err(JoinError::WrongCluster {
                        address: address.clone(),
                    });
                }
                Ok(Err(Failed::ForGood(error))) => return Err(JoinError::Refused(error)),
                Ok(Err(Failed::ForNow(error))) => reason = format!("{address}: {error}"),
                Err(_) => {
                    reason = format!("{address} did not answer within {ATTEMPT_TIMEOUT:?}");
                }
            }
            tracing::info!(reason, "not in the cluster yet");
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
    Err(JoinError::Unreachable {
        addresses: token.addresses.clone(),
        reason,
    })
}

/// Says for whom it waits when that takes long.
async fn tell_if_slow<T>(address: &str, attempt: impl Future<Output = T>) -> T {
    let mut attempt = pin!(attempt);
    tokio::select! {
        outcome = &mut attempt => return outcome,
        () = tokio::time::sleep(ATTEMPT_SLOW) => {}
    }
    tracing::info!("waiting for {address} to let this broker into the cluster: no answer yet");
    attempt.await
}

/// Whether an answer is of the cluster that the token is for.
fn fits(enrolled: &Enrolled, token: &JoinToken) -> bool {
    let authority = tls::certificate_der(&enrolled.authority);
    let is_authority = authority.is_ok_and(|der| tls::fingerprint(&der) == token.authority);
    is_authority && enrolled.cluster == token.cluster
}

/// Asks at one address; of those that a name leads to, which may be dead, at the next each round.
async fn ask(
    token: &JoinToken,
    address: &str,
    round: usize,
    enrolment: &Enrolment,
    network: &dyn Network,
) -> Result<Enrolled, Failed> {
    let for_now = |error: &dyn ToString| Failed::ForNow(error.to_string());
    let target = match address.parse() {
        Ok(target) => target,
        Err(_) => {
            let found = tokio::net::lookup_host(address).await;
            let found: Vec<_> = found.map_err(|error| for_now(&error))?.collect();
            let next = found.get(round % found.len().max(1));
            *next.ok_or_else(|| for_now(&"the name leads to no address"))?
        }
    };
    let tls = tls::joiner_config(token.authority, ALPN_CLIENT).map_err(|error| for_now(&error))?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(tuning::transport_config(STREAMS_MAX));
    let endpoint = network.client(target).map_err(|error| for_now(&error))?;
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let connecting = endpoint
        .connect_with(config, target, host.trim_matches(['[', ']']))
        .map_err(|error| for_now(&error))?;
    let connection = connecting.await.map_err(|error| for_now(&error))?;
    let reply = exchange(&connection, enrolment).await;
    connection.close(VarInt::from_u32(0), b"done");
    // The other side should hear of it; it must not hold us up.
    let _ = tokio::time::timeout(Duration::from_millis(100), endpoint.wait_idle()).await;
    match reply? {
        Ok(Response::Enrolled(enrolled)) => Ok(*enrolled),
        Ok(_) => Err(for_now(&"it gave another answer than the one expected")),
        Err(error) if error.retryable => Err(for_now(&error)),
        Err(error) => Err(Failed::ForGood(error)),
    }
}

async fn exchange(connection: &Connection, enrolment: &Enrolment) -> Result<Reply, Failed> {
    let for_now = |error: &dyn ToString| Failed::ForNow(error.to_string());
    let (send, receive) = connection
        .open_bi()
        .await
        .map_err(|error| for_now(&error))?;
    let mut writer = FrameWriter::new(send);
    let mut reader = FrameReader::new(receive, REPLY_LIMITS);
    let open = StreamOpen::Control(Request::Enrol(Box::new(enrolment.clone())));
    let sent = writer.send(&open, Payload::None).await;
    sent.map_err(|error| for_now(&error))?;
    writer.finish();
    match reader.next::<Reply>().await {
        Ok(Some((reply, _))) => Ok(reply),
        Ok(None) => Err(for_now(&"it ended the conversation")),
        Err(error) => Err(for_now(&error)),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IdentityError> + Send + 'static,
) -> Result<T, IdentityError> {
    match executor::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
