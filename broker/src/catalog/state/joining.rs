//! Who may join the cluster, and who never again.

use flumen_protocol::{ids::BrokerId, message::BrokerInfo};
use serde::{Deserialize, Serialize};

use super::CatalogState;
use crate::catalog::{CatalogError, command::CatalogResponse};

/// Join tokens that are valid at the same time.
pub const JOIN_TOKENS_MAX: usize = 100;

/// A token with which brokers may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownJoinToken {
    /// SHA-256 of its secret.
    pub secret_digest: [u8; 32],
    /// When it ends, in milliseconds since the epoch.
    pub expires_ms: u64,
}

impl CatalogState {
    /// Whether a broker was removed. Its id never comes back.
    pub fn is_removed(&self, broker: BrokerId) -> bool {
        self.removed_brokers.contains(&broker)
    }

    pub(super) fn register_broker(
        &mut self,
        broker: BrokerInfo,
    ) -> Result<CatalogResponse, CatalogError> {
        if self.is_removed(broker.id) {
            return Err(CatalogError::BrokerRemoved(broker.id));
        }
        self.brokers.insert(broker.id, broker);
        Ok(CatalogResponse::Done)
    }

    pub(super) fn remove_broker(&mut self, broker: BrokerId) -> CatalogResponse {
        self.brokers.remove(&broker);
        self.removed_brokers.insert(broker);
        CatalogResponse::Done
    }

    pub(super) fn create_join_token(
        &mut self,
        id: u64,
        token: KnownJoinToken,
        time_ms: u64,
    ) -> Result<CatalogResponse, CatalogError> {
        let is_valid = |token: &KnownJoinToken| token.expires_ms > time_ms;
        let valid = self.join_tokens.values().filter(|known| is_valid(known));
        if valid.count() >= JOIN_TOKENS_MAX {
            return Err(CatalogError::TooManyJoinTokens);
        }
        self.join_tokens.retain(|_, known| is_valid(known));
        self.join_tokens.insert(id, token);
        Ok(CatalogResponse::Done)
    }
}
