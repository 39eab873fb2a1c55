//! Every limit of the formats, by name. They are part of the protocol: both sides check
//! them, and each has an error of its own that names it.

/// Records in one batch.
pub const RECORDS_PER_BATCH_MAX: u32 = 65_536;

/// Bytes of one encoded batch, its header included, before and after compression.
pub const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of one record: its key, its value and its headers together.
pub const RECORD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of one record's key.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// Headers of one record.
pub const HEADERS_PER_RECORD_MAX: usize = 64;

/// Bytes of one header's name.
pub const HEADER_NAME_BYTES_MAX: usize = 256;

/// Bytes of one header's value.
pub const HEADER_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a batch's content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Bytes of a frame's postcard header on a produce or consume stream.
pub const FRAME_HEADER_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a frame's payload: a batch, or the bytes of a plugin.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Bytes of a reply's postcard header on a control stream, such as the partitions of a topic.
pub const CONTROL_REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Characters of a topic's or a plugin's name.
pub const NAME_CHARS_MAX: usize = 200;

/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 100_000;

/// Partitions that one consume stream may carry: the places of so many fit into one frame. A
/// consumer of more opens several streams.
pub const PARTITIONS_PER_CONSUMER_MAX: usize = 8_192;

/// Bindings on one topic.
pub const BINDINGS_PER_TOPIC_MAX: usize = 16;

/// Bytes of a binding's configuration.
pub const BINDING_CONFIG_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a plugin's WebAssembly component.
pub const PLUGIN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of the text of an error.
pub const ERROR_TEXT_BYTES_MAX: usize = 8 * 1024;
