//! Every transport setting, with its reason. Client and broker use the same, so that a
//! benchmark of bare QUIC with these settings is the limit of what either can reach.

use std::{sync::Arc, time::Duration};

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

/// Bytes that a peer may have in flight on one stream. Large enough for several batches of
/// 1 MiB at the bandwidth-delay product of a fast network.
pub const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// Bytes that a peer may have in flight on one connection; the bound of what a connection
/// that sends without being read costs in memory.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// As [`CONNECTION_WINDOW_BYTES`], between brokers: more than many streams together take, each of
/// which nobody reads. A broker without room reads no entries of any shard, and what others tell it
/// meanwhile, heartbeats before all, must not wait for that. Also the bound of what it costs then.
pub const PEER_CONNECTION_WINDOW_BYTES: u32 = 128 * STREAM_WINDOW_BYTES;

/// Bytes that may wait for acknowledgement on one connection; the bound of what a peer that
/// never reads costs the sender.
pub const SEND_WINDOW_BYTES: u64 = 16 * 1024 * 1024;

/// The largest UDP payload that path discovery tries. A burst handed to the kernel holds up
/// to ten packets and must stay below 64 KiB, or the path falls back to its smallest size.
pub const MTU_MAX_BYTES: u16 = 6_000;

/// A connection that hears nothing for this long is dead.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// An idle connection is kept alive by a packet this often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// A client's connection that hears nothing for this long is dead. Clients do not wait for it
/// where they have a choice: they ask other brokers as soon as one is silent.
pub const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// As [`KEEP_ALIVE`], from a client: so often that silence tells soon.
pub const CLIENT_KEEP_ALIVE: Duration = Duration::from_millis(250);

/// A connection between brokers that hears nothing for this long is dead: soon enough that calls
/// to a broker that is gone fail, and not so soon that a busy machine looks like a dead one.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// As [`KEEP_ALIVE`], between brokers: several within [`PEER_IDLE_TIMEOUT`], as packets get lost.
pub const PEER_KEEP_ALIVE: Duration = Duration::from_millis(500);

/// What is taken for the round trip to a broker that was not heard yet, by clients and by brokers. The first
/// packet of a handshake is repeated after three times this, so that a broker that has just come
/// back is found soon.
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(50);

/// Size asked for the UDP socket buffers; the kernel may grant less.
pub const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Packets of one round trip that may stay unacknowledged where the path is known to keep
/// their order: fewer acknowledgements leave more time for data.
const ACK_ELICITING_THRESHOLD: u32 = 20;

/// The settings of every connection; `streams_max` bounds the streams that the peer may open.
pub fn transport_config(streams_max: u32) -> Arc<TransportConfig> {
    Arc::new(common(streams_max))
}

/// The settings of a connection that a client makes to a broker.
/// The idle time-out of a connection is the shorter of what both ends say.
pub fn client_transport_config(streams_max: u32) -> Arc<TransportConfig> {
    let idle = IdleTimeout::try_from(CLIENT_IDLE_TIMEOUT).expect("the idle time-out fits a VarInt");
    let mut config = common(streams_max);
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(CLIENT_KEEP_ALIVE))
        .initial_rtt(INITIAL_ROUND_TRIP);
    Arc::new(config)
}

/// The settings of a connection that a broker makes to another one, which opens no streams on it.
/// The idle time-out of a connection is the shorter of what both ends say.
pub fn peer_transport_config() -> Arc<TransportConfig> {
    let idle = IdleTimeout::try_from(PEER_IDLE_TIMEOUT).expect("the idle time-out fits a VarInt");
    let mut config = common(0);
    config
        .receive_window(VarInt::from_u32(PEER_CONNECTION_WINDOW_BYTES))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(PEER_KEEP_ALIVE))
        .initial_rtt(INITIAL_ROUND_TRIP);
    Arc::new(config)
}

fn common(streams_max: u32) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX_BYTES);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_ELICITING_THRESHOLD));
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("the idle time-out fits a VarInt");
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(streams_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    config
}
