//! Stream credit: how many more streams the other end may open.

use quinn::{Connection, VarInt};

/// Tells the other end of all streams that it may open again since others have ended, where at most
/// `streams_max` may be open. quinn tells of them once they are more than an eighth of the limit: an
/// end that has fewer left, the others being in use, would never hear of them.
pub fn announce_freed_streams(connection: &Connection, streams_max: u32) {
    // quinn looks at it anew when the limit changes, and with a limit of 0 any number is enough. What
    // is announced is not taken back.
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(0));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams_max));
}
