//! Writes the first inputs of the corpus for what this repository can encode in the open:
//! `cargo run -p flumen-fuzz-targets --example seed`.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use bytes::BytesMut;
use flumen_protocol::{
    batch::{BatchBuilder, Codec, Headers, RecordRef, encode_headers},
    error::{ErrorCode, WireError},
    frame::{PREFIX_LEN, append_head},
    ids::Offset,
    message::{
        ConsumeEvent, ConsumeOpen, PartitionStart, ProduceAcks, ProduceOpen, ProduceReceipt, Reply,
        Request, Response, StartAt, StreamOpen,
    },
    plugin::BindingConfig,
    topic::TopicConfig,
};
use serde::Serialize;

fn main() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new();
        builder.set_content_type("application/json").unwrap();
        for number in 0_u8..12 {
            let headers = encode_headers([("n", &[number][..])]);
            let record = RecordRef {
                timestamp_ms: i64::from(number),
                key: number.is_multiple_of(2).then_some(&b"key"[..]),
                value: (number % 5 != 0).then_some(&b"a value that repeats"[..]),
                headers: Headers::from_encoded(&headers),
            };
            builder.push(&record).unwrap();
        }
        write(
            "batch",
            &codec.to_string(),
            &builder.build(codec).unwrap().to_bytes(),
        );
    }
    let name = || "orders".parse().unwrap();
    message(
        "request-create",
        &StreamOpen::Control(Request::CreateTopic {
            name: name(),
            config: TopicConfig::default(),
        }),
    );
    message(
        "request-bind",
        &StreamOpen::Control(Request::Bind {
            topic: name(),
            binding: BindingConfig::new("redact".parse().unwrap()),
        }),
    );
    message(
        "produce",
        &StreamOpen::Produce(ProduceOpen {
            topic: name(),
            partition: 3,
        }),
    );
    message(
        "consume",
        &StreamOpen::Consume(ConsumeOpen {
            topic: name(),
            topic_id: None,
            partitions: vec![(0, StartAt::Beginning), (1, StartAt::Time(-5))],
        }),
    );
    message("reply-done", &Reply::Ok(Response::Done));
    message(
        "reply-error",
        &Reply::Err(WireError::new(ErrorCode::NoSpace, "full")),
    );
    message(
        "acks",
        &ProduceAcks {
            outcomes: vec![Ok(ProduceReceipt {
                base_offset: Some(Offset(9)),
                stored: 2,
                append_time_ms: 1,
                duplicate: false,
            })],
        },
    );
    message(
        "started",
        &ConsumeEvent::Started(vec![PartitionStart {
            partition: 0,
            start_offset: Offset(1),
            end_offset: Some(Offset(2)),
        }]),
    );
    answer();
}

/// Three records, one of them without a key, and one with a header that goes to another topic.
fn answer() {
    let header = encode_headers([("n", &b"1"[..])]);
    let end = header.len() as u32;
    let keys = (vec![1_u32, 2, 2], b"ab".to_vec(), Some(vec![0b011_u8]));
    let values = (vec![3_u32, 3, 6], b"onetwo".to_vec(), None::<Vec<u8>>);
    let headers = (vec![0, 0, end], header, None::<Vec<u8>>);
    let deltas = Some(vec![0_u32, 5, 7]);
    let records = (3_u32, Some(keys), values, Some(headers), 1_000_i64, deltas);
    let routes = Some((vec!["errors"], vec![0_u32, 0, 1]));
    let failures = vec![(1_u32, 1_u32)];
    let sketch = (4_u16, vec![0b1101_u8], records, routes, failures);
    encoded("plugin_answer", "three", &sketch);
}

fn message<M: Serialize>(name: &str, message: &M) {
    encoded("messages", name, message);
}

fn encoded<M: Serialize>(target: &str, name: &str, message: &M) {
    let mut frame = BytesMut::new();
    append_head(&mut frame, message, 0);
    write(target, name, &frame[PREFIX_LEN..]);
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../corpus")
        .join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}
