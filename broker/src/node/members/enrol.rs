//! Letting other brokers in: join tokens, and those who come with one.

use std::{net::SocketAddr, time::Duration};

use flumen_protocol::{
    error::{ErrorCode, WireError},
    join::{CERTIFICATE_HOSTS_MAX, Enrolment, JOIN_ADDRESSES_MAX, JoinToken, ZONE_CHARS_MAX},
    message::{BrokerInfo, JoinTokenText, Reply, Response},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::node::Node;
use crate::{
    catalog::{CatalogState, ClusterId, KnownJoinToken},
    clock::now_ms,
    config::Interval,
    identity::equal_in_constant_time,
};

/// The shortest life of a join token.
const TOKEN_TTL_MIN: Duration = Duration::from_secs(1);

/// The longest life of a join token.
const TOKEN_TTL_MAX: Duration = Duration::from_hours(30 * 24);

/// Brokers that are let in at the same time; the others come again.
const ENROLMENTS_AT_ONCE_MAX: usize = 4;

/// What a wrong secret costs. With [`ENROLMENTS_AT_ONCE_MAX`] it bounds how many can be tried.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);

/// Characters of a broker's address.
const ADDRESS_CHARS_MAX: usize = 300;

/// Bounds what is done for those who have shown nothing yet.
#[derive(Debug)]
pub(in crate::node) struct Enrolments {
    at_once: Semaphore,
}

impl Default for Enrolments {
    fn default() -> Self {
        Self {
            at_once: Semaphore::new(ENROLMENTS_AT_ONCE_MAX),
        }
    }
}

impl Node {
    /// Makes a token with which brokers can join for a while.
    pub(crate) async fn create_join_token(&self, ttl_ms: u64) -> Reply {
        let ttl = Duration::from_millis(ttl_ms);
        if !(TOKEN_TTL_MIN..=TOKEN_TTL_MAX).contains(&ttl) {
            let text = format!(
                "a join token can be valid for {} to {}, and not for {}",
                Interval::from(TOKEN_TTL_MIN),
                Interval::from(TOKEN_TTL_MAX),
                Interval::from(ttl)
            );
            return Err(WireError::new(ErrorCode::InvalidRequest, text));
        }
        let internal =
            |error: &dyn ToString| WireError::new(ErrorCode::Internal, error.to_string());
        let state = self.catalog.snapshot();
        let token = JoinToken {
            cluster: cluster_of(&state)?.0,
            addresses: self.addresses(&state),
            authority: self
                .identity
                .authority_fingerprint()
                .map_err(|error| internal(&error))?,
            id: rand::random(),
            secret: rand::random(),
        };
        let known = KnownJoinToken {
            secret_digest: Sha256::digest(token.secret).into(),
            expires_ms: now_ms().saturating_add(ttl_ms),
        };
        self.catalog.create_join_token(token.id, known).await?;
        Ok(Response::JoinToken(JoinTokenText(token.to_string())))
    }

    fn addresses(&self, state: &CatalogState) -> Vec<String> {
        let mut addresses = self.addresses_in(state);
        addresses.truncate(JOIN_ADDRESSES_MAX);
        addresses
    }

    /// Lets a broker in that shows a join token, or says why not.
    pub(crate) async fn enrol(&self, from: SocketAddr, enrolment: &Enrolment) -> Reply {
        let Ok(_permit) = self.enrolments.at_once.try_acquire() else {
            let text = "too many brokers want to join at once; try again";
            return Err(WireError::new(ErrorCode::Overloaded, text));
        };
        let outcome = self.let_in(enrolment).await;
        match &outcome {
            Ok(_) => tracing::info!(
                %from,
                broker = %enrolment.broker.id,
                address = enrolment.broker.address,
                "a broker has joined the cluster"
            ),
            Err(error) => tracing::warn!(
                %from,
                broker = %enrolment.broker.id,
                %error,
                "a broker that wants to join is refused"
            ),
        }
        outcome
    }

    async fn let_in(&self, enrolment: &Enrolment) -> Reply {
        let cluster = cluster_of(&self.catalog.snapshot())?;
        let is_valid = |state: &CatalogState| check_token(state, enrolment);
        if let Err(error) = self.catalog.find(is_valid).await {
            tokio::time::sleep(WRONG_TOKEN_DELAY).await;
            return Err(error);
        }
        let state = self.catalog.snapshot();
        check(cluster, enrolment)?;
        let mut members = state.brokers.clone();
        let this = self.identity.broker_id();
        members.entry(this).or_insert_with(|| BrokerInfo {
            id: this,
            address: self.address.read().clone(),
            zone: self.zone.clone(),
        });
        members.insert(enrolment.broker.id, enrolment.broker.clone());
        let members = members.into_values().collect();
        let enrolled = self.identity.enrol(cluster.0, enrolment, members);
        let enrolled = enrolled
            .map_err(|error| WireError::new(ErrorCode::InvalidRequest, error.to_string()))?;
        // Last, so that nobody is known to the cluster who has got nothing of it.
        self.catalog
            .register_broker(enrolment.broker.clone())
            .await?;
        Ok(Response::Enrolled(Box::new(enrolled)))
    }
}

fn cluster_of(state: &CatalogState) -> Result<ClusterId, WireError> {
    state.cluster_id.ok_or_else(|| {
        let text = "this broker does not know its cluster yet; try again soon";
        WireError::new(ErrorCode::Unavailable, text)
    })
}

fn check_token(state: &CatalogState, enrolment: &Enrolment) -> Result<(), WireError> {
    let refused = |text: &str| Err(WireError::new(ErrorCode::Unauthenticated, text));
    let shown = Sha256::digest(enrolment.secret).into();
    let known = state.join_tokens.get(&enrolment.token_id);
    // Of an unknown token, too, a secret is compared.
    let digest = known.map_or([0; 32], |known| known.secret_digest);
    let is_right = equal_in_constant_time(&shown, &digest);
    match known {
        Some(known) if is_right && known.expires_ms > now_ms() => Ok(()),
        Some(_) if is_right => {
            refused("the join token has expired; make another one with `flumen cluster token`")
        }
        _ => refused(
            "the join token is none of this cluster, or has expired; make another one with \
             `flumen cluster token`",
        ),
    }
}

fn check(cluster: ClusterId, enrolment: &Enrolment) -> Result<(), WireError> {
    let refused = |code, text: String| Err(WireError::new(code, text));
    let Enrolment {
        cluster: wanted,
        broker,
        hosts,
        version,
        ..
    } = enrolment;
    let ours = env!("CARGO_PKG_VERSION");
    if ClusterId(*wanted) != cluster {
        let text = format!(
            "the broker wants to join cluster {}, but this is cluster {cluster}",
            ClusterId(*wanted)
        );
        return refused(ErrorCode::Conflict, text);
    }
    if !are_compatible(ours, version) {
        let text = format!(
            "the broker runs version {version}, and the cluster {ours}; they may be one minor \
             version apart at most"
        );
        return refused(ErrorCode::Conflict, text);
    }
    let zone_chars = broker.zone.as_ref().map_or(0, |zone| zone.chars().count());
    if hosts.len() > CERTIFICATE_HOSTS_MAX
        || zone_chars > ZONE_CHARS_MAX
        || broker.address.chars().count() > ADDRESS_CHARS_MAX
    {
        let text = "the broker has too many hosts, or an address or a zone that is too long";
        return refused(ErrorCode::TooLarge, text.to_owned());
    }
    Ok(())
}

/// Whether brokers of two versions can be in one cluster: the same major version, and minor
/// versions next to each other, so that a cluster can be upgraded broker by broker.
fn are_compatible(ours: &str, theirs: &str) -> bool {
    let parts = |version: &str| -> Option<(u64, u64)> {
        let mut parts = version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    match (parts(ours), parts(theirs)) {
        (Some(ours), Some(theirs)) => ours.0 == theirs.0 && ours.1.abs_diff(theirs.1) <= 1,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_minor_versions_are_compatible_and_others_are_not() {
        assert!(are_compatible("0.1.0", "0.1.7"));
        assert!(are_compatible("0.1.0", "0.2.0"));
        assert!(are_compatible("1.3.0", "1.2.9-beta"));
        assert!(!are_compatible("0.1.0", "0.3.0"));
        assert!(!are_compatible("1.0.0", "2.0.0"));
        assert!(!are_compatible("1.0.0", ""));
        assert!(!are_compatible("1.0.0", "one"));
    }
}
