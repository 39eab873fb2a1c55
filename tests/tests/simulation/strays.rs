//! First packets of connections that their receiver knows nothing of, because it was started anew:
//! they are decrypted with keys that are not theirs. What comes out follows from the random bytes
//! of the cryptography, which not every build takes from the seed (`system`), and so does which of
//! two ways quinn refuses them: three of four times by two bits that must be zero, otherwise
//! because they are not authentic. Here those bits are zero, so that every run of a seed goes the
//! second way. Those of packets that are authentic are zero already.

use std::sync::Arc;

use flumen_transport::quinn::{
    ConnectionId,
    crypto::{HeaderKey, Keys, ServerConfig, Session, UnsupportedVersion},
};
use quinn_proto::transport_parameters::TransportParameters;

/// The reserved bits of a long header (RFC 9000, section 17.2).
const RESERVED_BITS: u8 = 0x0c;

/// A server's cryptography that refuses strays always in the same way.
pub(crate) struct EvenHanded(pub(crate) Arc<dyn ServerConfig>);

impl ServerConfig for EvenHanded {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        let mut keys = self.0.initial_keys(version, dst_cid)?;
        keys.header.remote = Box::new(WithoutReservedBits(keys.header.remote));
        Ok(keys)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.0.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        Arc::clone(&self.0).start_session(version, params)
    }
}

struct WithoutReservedBits(Box<dyn HeaderKey>);

impl HeaderKey for WithoutReservedBits {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.decrypt(pn_offset, packet);
        packet[0] &= !RESERVED_BITS;
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        self.0.encrypt(pn_offset, packet);
    }

    fn sample_size(&self) -> usize {
        self.0.sample_size()
    }
}
