//! The format, from both sides: what holds for good bytes and for bad ones.

use std::ops::Range;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::ids::ProducerId;

#[derive(Clone, Debug)]
struct Owned {
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
}

fn any_record() -> impl Strategy<Value = Owned> {
    let bytes = || vec(any::<u8>(), 0..40);
    let headers = vec(("[a-z]{0,8}", vec(any::<u8>(), 0..8)), 0..3);
    (
        0_i64..10_000,
        option::of(bytes()),
        option::of(bytes()),
        headers,
    )
        .prop_map(|(timestamp_ms, key, value, headers)| Owned {
            timestamp_ms,
            key,
            value,
            headers,
        })
}

fn any_codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)]
}

fn build(records: &[Owned], codec: Codec) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.set_content_type("application/json").unwrap();
    for record in records {
        let pairs = record.headers.iter();
        let headers = encode_headers(pairs.map(|(name, value)| (name.as_str(), &value[..])));
        builder
            .push(&RecordRef {
                timestamp_ms: record.timestamp_ms,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: Headers::from_encoded(&headers),
            })
            .unwrap();
    }
    let producer = ProducerSequence {
        producer_id: ProducerId(7),
        epoch: 1,
        sequence: 99,
    };
    builder.build_sequenced(codec, producer).unwrap()
}

fn sample() -> Batch {
    let record = |n: u8| Owned {
        timestamp_ms: i64::from(n),
        key: n.is_multiple_of(2).then(|| vec![n]),
        value: (!n.is_multiple_of(3)).then(|| vec![n; 9]),
        headers: vec![("n".to_owned(), vec![n])],
    };
    build(&(1..=5).map(record).collect::<Vec<_>>(), Codec::None)
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_equal(
        records in vec(any_record(), 0..50),
        codec in any_codec(),
    ) {
        let batch = build(&records, codec);
        let decoded = Batch::decode(batch.to_bytes()).unwrap();
        prop_assert_eq!(&decoded, &batch);
        let columns = decoded.columns().unwrap();
        prop_assert_eq!(columns.content_type(), "application/json");
        prop_assert_eq!(columns.len(), records.len());
        for (record, expected) in columns.records().zip(&records) {
            prop_assert_eq!(record.timestamp_ms, expected.timestamp_ms);
            prop_assert_eq!(record.key, expected.key.as_deref());
            prop_assert_eq!(record.value, expected.value.as_deref());
            let headers: Vec<_> = record
                .headers
                .into_iter()
                .map(|header| (header.name.to_owned(), header.value.to_vec()))
                .collect();
            prop_assert_eq!(&headers, &expected.headers);
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_and_never_a_panic(bytes in vec(any::<u8>(), 0..400)) {
        let mut bytes = bytes;
        if bytes.len() > 24 {
            bytes[24] = header::VERSION;
        }
        if let Ok(batch) = Batch::decode_unchecked_crc(bytes.into()) {
            let _ = batch.columns().map(|columns| columns.records().count());
        }
    }

    /// A hostile peer computes a valid CRC over whatever it likes.
    #[test]
    fn a_changed_byte_under_a_valid_crc_never_panics(at in 24_usize..400, to in any::<u8>()) {
        let mut bytes = sample().to_bytes().to_vec();
        let at = 24 + at % (bytes.len() - 24);
        bytes[at] = to;
        if let Ok(batch) = Batch::decode_unchecked_crc(bytes.into())
            && let Ok(columns) = batch.columns()
        {
            for record in columns.records() {
                let _ = (record.len(), record.headers.into_iter().count());
            }
        }
    }
}

#[test]
fn every_flipped_byte_behind_the_placement_is_an_error() {
    let good = sample().to_bytes().to_vec();
    for at in PLACEMENT_LEN..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert!(Batch::decode(bytes.into()).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let good = sample().to_bytes();
    for len in 0..good.len() {
        assert!(Batch::decode(good.slice(..len)).is_err(), "{len} bytes");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert_eq!(
        Batch::decode(longer.into()),
        Err(BatchError::TrailingBytes(1))
    );
}

#[test]
fn a_header_that_announces_too_much_is_refused_before_anything_is_allocated() {
    let good = sample().to_bytes().to_vec();
    let fields: [(Range<usize>, &str); 3] = [
        (20..24, "body length"),
        (64..68, "decompressed length"),
        (28..32, "record count"),
    ];
    for (field, what) in fields {
        let mut bytes = good.clone();
        bytes[field].fill(0xff);
        let error = Batch::decode_unchecked_crc(bytes.into()).unwrap_err();
        assert!(
            matches!(error, BatchError::LimitExceeded { what: w, .. } if w == what),
            "{what}: {error}"
        );
    }
}

#[test]
fn placing_a_batch_keeps_its_crc_valid() {
    let placed = sample().placed(Offset(1000), 42);
    let decoded = Batch::decode(placed.to_bytes()).unwrap();
    assert_eq!(decoded.base_offset(), Offset(1000));
    assert_eq!(decoded.end_offset(), Offset(1005));
    assert_eq!(decoded.columns().unwrap().offset(4), Offset(1004));
}

#[test]
fn a_later_version_is_named_in_the_error() {
    let mut bytes = sample().to_bytes().to_vec();
    bytes[24] = 9;
    let error = Batch::decode(bytes.into()).unwrap_err();
    assert_eq!(error, BatchError::UnknownVersion(9));
    assert!(error.to_string().contains("version 9"));
}

#[test]
fn absent_columns_take_no_bytes() {
    let mut builder = BatchBuilder::new();
    for _ in 0..10 {
        builder.push(&RecordRef::new(5, b"0123456789")).unwrap();
    }
    let batch = builder.build(Codec::None).unwrap();
    assert_eq!(batch.encoded_len(), HEADER_LEN + 10 * (10 + 4));
}

#[test]
fn a_batch_refuses_what_exceeds_a_limit_by_name() {
    use crate::limits::{KEY_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_PER_BATCH_MAX};
    let mut builder = BatchBuilder::new();
    let large = vec![0; RECORD_BYTES_MAX + 1];
    assert!(matches!(
        builder.push(&RecordRef::new(0, &large)),
        Err(PushError::RecordTooLarge { .. })
    ));
    let key = RecordRef {
        key: Some(&large[..=KEY_BYTES_MAX]),
        ..RecordRef::default()
    };
    assert!(matches!(
        builder.push(&key),
        Err(PushError::KeyTooLarge { .. })
    ));
    for _ in 0..RECORDS_PER_BATCH_MAX {
        builder.push(&RecordRef::new(0, b"")).unwrap();
    }
    assert_eq!(
        builder.push(&RecordRef::new(0, b"")),
        Err(PushError::BatchFull)
    );
    assert!(builder.build(Codec::None).unwrap().columns().is_ok());
}

#[test]
fn compacted_batches_keep_the_offsets_of_their_records() {
    let mut builder = BatchBuilder::new();
    for delta in [1, 4, 5] {
        builder.push_at(delta, &RecordRef::new(0, b"x")).unwrap();
    }
    let batch = builder
        .build_spanning(Codec::None, ProducerSequence::default(), Offset(10), 8)
        .unwrap();
    let decoded = Batch::decode(batch.to_bytes()).unwrap();
    let columns = decoded.columns().unwrap();
    let offsets: Vec<_> = (0..3).map(|index| columns.offset(index).0).collect();
    assert_eq!(offsets, [11, 14, 15]);
    assert_eq!(decoded.end_offset(), Offset(18));
}

#[test]
fn an_empty_batch_carries_a_sequence_and_nothing_else() {
    let producer = ProducerSequence {
        producer_id: ProducerId(3),
        epoch: 2,
        sequence: 1,
    };
    let batch = Batch::decode(Batch::empty(producer).to_bytes()).unwrap();
    assert_eq!(batch.header().producer, producer);
    assert!(batch.columns().unwrap().is_empty());
}
