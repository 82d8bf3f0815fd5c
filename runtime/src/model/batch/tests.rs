//! The codec against batches that other implementations wrote, and rule by rule. What holds for all
//! batches is in `property_tests`.

use bytes::Bytes;

use super::*;

/// Decodes hex, white space allowed.
fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A batch written out field by field; the bytes are those of Sarama's tests ("one record").
const ONE_RECORD: &str = "
    0000000000000000    00000046  00000000  02  547961fd  0000  00000000
    000001588dcd5938    0000000000000000    0000000000000000    0000      00000000  00000001
    28  00  0a  00      08 01020304         06 050607           02
    06 08090a           04 0b0c";

/// Three records as the `kafka-protocol` crate encodes them, in every compression.
const BY_KAFKA_PROTOCOL: [(Compression, &str); 5] = [
    (
        Compression::None,
        "00000000000000000000008c00000000022ac560700000000000020000018bcfe568000000018bcfe5a5\
         deffffffffffffffffffffffffffff00000003260000000a6b65792d301076616c7565203020003c00de\
         7b020a6b65792d311876616c756520312061626320020468300476314e00bcf701040a6b65792d322076\
         616c756520322061626320616263200404683004763204683101",
    ),
    (
        Compression::Gzip,
        "000000000000000000000095000000000277d104c10001000000020000018bcfe568000000018bcfe5a5\
         deffffffffffffffffffffffffffff000000031f8b08000000000000ff25ca310a80301044d149d8caca\
         d2722b3b21bbb567f00e5102016d0d8857f32c5ec356b229a6f96f4600dd9eae29f4251e67e2c098f1de\
         dea20c2d0ac775634f39509105cfe7c85cb9b99ad7917d94b2b81f0eab21215b000000",
    ),
    (
        Compression::Snappy,
        "00000000000000000000009600000000027164db350002000000020000018bcfe568000000018bcfe5a5\
         deffffffffffffffffffffffffffff0000000382534e41505059000000000100000001000000515b6026\
         0000000a6b65792d301076616c7565203020003c00de7b02051504311809154831206162632002046830\
         0476314e00bcf70104052004322009200032052038616263200404683004763204683101",
    ),
    (
        Compression::Lz4,
        "0000000000000000000000990000000002f2a42c650003000000020000018bcfe568000000018bcfe5a5\
         deffffffffffffffffffffffffffff0000000304224d187440bd51000000f10a260000000a6b65792d30\
         1076616c7565203020003c00de7b0215002231181500f104312061626320020468300476314e00bcf701\
         042000223220200011322000000400b0040468300476320468310117cbccd600000000596a0e81",
    ),
    (
        Compression::Zstd,
        "0000000000000000000000870000000002cc116ccf0004000000020000018bcfe568000000018bcfe5a5\
         deffffffffffffffffffffffffffff0000000328b52ffd00586d0200b403260000000a6b65792d301076\
         616c7565203020003c00de7b023118312061626320020468300476314e00bcf701043220326162632004\
         32046831010600478982cbc0b4435d0ba685d7c403",
    ),
];

/// The records of [`BY_KAFKA_PROTOCOL`].
fn three_records() -> Vec<Record> {
    let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    let record = |key, value, headers, timestamp_ms| Record {
        key: text(key),
        value: text(value),
        headers,
        timestamp_ms,
    };
    vec![
        record("key-0", "value 0 ", vec![], 1_700_000_000_000),
        record(
            "key-1",
            "value 1 abc ",
            vec![Header::new("h0", text("v1"))],
            1_700_000_007_919,
        ),
        record(
            "key-2",
            "value 2 abc abc ",
            vec![Header::new("h0", text("v2")), Header::new("h1", None)],
            1_700_000_015_838,
        ),
    ]
}

pub(super) fn build(compression: Compression, records: &[Record]) -> EncodedBatch {
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        builder.push_record(record).unwrap();
    }
    builder.build().unwrap().unwrap()
}

pub(super) fn read(batch: &RecordBatch) -> Vec<Record> {
    let records = batch.records().unwrap();
    records
        .iter()
        .map(|record| record.unwrap().to_record())
        .collect()
}

/// The record iterator's verdict on a batch whose CRC does not count.
pub(super) fn iterate(batch: &RecordBatch) -> Result<u32, Error> {
    let records = batch.records()?;
    let mut count = 0;
    for record in &records {
        record?;
        count += 1;
    }
    Ok(count)
}

#[test]
fn header_layout_is_kafkas() {
    let batch = RecordBatch::parse(hex(ONE_RECORD)).unwrap();
    assert_eq!(
        (
            batch.base_offset(),
            batch.last_offset(),
            batch.next_offset()
        ),
        (0, 0, 1)
    );
    assert_eq!(batch.record_count(), 1);
    assert_eq!(batch.first_timestamp_ms(), 1_479_847_795_000);
    assert_eq!(batch.max_timestamp_ms(), 0);
    assert_eq!(batch.compression(), Compression::None);
    assert_eq!(
        (
            batch.producer_id(),
            batch.producer_epoch(),
            batch.base_sequence()
        ),
        (0, 0, 0)
    );
    assert!(!batch.is_control() && !batch.is_transactional());
    let records = batch.records().unwrap();
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!(record.offset, 0);
    assert_eq!(record.timestamp_ms, 1_479_847_795_005);
    assert_eq!(record.key, Some(&[1, 2, 3, 4][..]));
    assert_eq!(record.value, Some(&[5, 6, 7][..]));
    let headers: Vec<_> = record.headers.iter().collect();
    assert_eq!(headers, [("\u{8}\t\n", Some(&[11, 12][..]))]);
    assert_eq!(iterate(&batch), Ok(1));
}

#[test]
fn gaps_and_partial_batches_are_read() {
    // From the documentation of the `kafka-protocol` crate: one record at delta 1 of 0 to 3, its
    // own attributes not 0.
    let batch = RecordBatch::parse(hex(
        "0000000000000000000000430000000002736d297b000000000003000000000000000000000100000000\
         000000000000000000000000000000000000012201d00f020a68656c6c6f0a776f726c6400",
    ))
    .unwrap();
    assert_eq!((batch.record_count(), batch.last_offset()), (1, 3));
    let records = batch.records().unwrap();
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!((record.offset, record.timestamp_ms), (1, 1000));
    assert_eq!(record.key, Some(&b"hello"[..]));
    assert_eq!(record.value, Some(&b"world"[..]));
    let error = EncodedBatch::from_wire(batch.as_bytes().clone()).unwrap_err();
    assert_eq!(
        error,
        Error::NotAppendable {
            reason: "its offsets have gaps"
        }
    );
}

#[test]
fn reads_what_kafka_protocol_writes() {
    for (compression, bytes) in BY_KAFKA_PROTOCOL {
        let batch = EncodedBatch::from_wire(hex(bytes)).unwrap();
        assert_eq!((batch.record_count(), batch.offset_count()), (3, 3));
        assert_eq!(batch.compression(), compression);
        let batch = batch.assign(1000);
        assert_eq!(batch.verify_crc(), Ok(()));
        assert_eq!(read(&batch), three_records(), "{compression}");
        let offsets: Vec<u64> = batch
            .records()
            .unwrap()
            .iter()
            .map(|r| r.unwrap().offset)
            .collect();
        assert_eq!(offsets, [1000, 1001, 1002]);
    }
}

#[test]
fn writes_what_kafka_protocol_writes() {
    // Uncompressed there is one right answer, byte for byte.
    let ours = build(Compression::None, &three_records()).assign(0);
    assert_eq!(ours.as_bytes(), &hex(BY_KAFKA_PROTOCOL[0].1));
}

#[test]
fn a_batch_that_does_not_shrink_is_stored_as_it_is() {
    let records = vec![Record {
        value: Some(Bytes::from_static(b"x")),
        ..Record::default()
    }];
    for compression in Compression::ALL {
        let batch = build(compression, &records).assign(7);
        assert_eq!(batch.compression(), Compression::None);
        assert_eq!(read(&batch), records);
    }
}

#[test]
fn assign_leaves_the_crc_valid() {
    let batch = build(Compression::None, &three_records()).assign(u64::from(u32::MAX) * 1000);
    assert_eq!(batch.next_offset(), u64::from(u32::MAX) * 1000 + 3);
    let parsed = RecordBatch::parse(batch.as_bytes().clone()).unwrap();
    assert_eq!(parsed.base_offset(), batch.base_offset());
    assert_eq!(format!("{parsed:?}"), format!("{batch:?}"));
}

#[test]
fn assign_does_not_touch_shared_bytes() {
    let wire = hex(BY_KAFKA_PROTOCOL[0].1);
    let shared = wire.clone();
    let batch = EncodedBatch::from_wire(wire).unwrap().assign(5);
    assert_eq!(batch.base_offset(), 5);
    assert_eq!(shared, hex(BY_KAFKA_PROTOCOL[0].1));
}

#[test]
fn a_builder_is_reusable_and_keeps_nothing() {
    for compression in Compression::ALL {
        let mut builder = BatchBuilder::new(compression);
        assert!(builder.build().unwrap().is_none());
        for round in 0..3u64 {
            assert_eq!((builder.len(), builder.size_bytes()), (0, 0));
            let value = round.to_string().repeat(200);
            builder
                .push(5 - round, None, Some(value.as_bytes()), HeadersRef::EMPTY)
                .unwrap();
            assert_eq!(builder.len(), 1);
            let batch = builder.build().unwrap().unwrap().assign(round);
            assert_eq!(
                (batch.record_count(), batch.max_timestamp_ms()),
                (1, 5 - round)
            );
            assert_eq!(read(&batch)[0].value.as_deref(), Some(value.as_bytes()));
        }
        builder.push(1, None, None, HeadersRef::EMPTY).unwrap();
        builder.clear();
        assert!(builder.is_empty() && builder.build().unwrap().is_none());
    }
}

#[test]
fn timestamps_may_descend_and_span_everything() {
    let times = [5, 0, limits::MAX_TIMESTAMP_MS, 1];
    let mut builder = BatchBuilder::new(Compression::None);
    for timestamp_ms in times {
        builder
            .push(timestamp_ms, None, None, HeadersRef::EMPTY)
            .unwrap();
    }
    let error = builder.push(limits::MAX_TIMESTAMP_MS + 1, None, None, HeadersRef::EMPTY);
    assert!(matches!(error, Err(Error::Timestamp { .. })));
    let batch = builder.build().unwrap().unwrap().assign(0);
    let records = batch.records().unwrap();
    let read: Vec<u64> = records.iter().map(|r| r.unwrap().timestamp_ms).collect();
    assert_eq!(read, times);
    assert_eq!(
        (batch.first_timestamp_ms(), batch.max_timestamp_ms()),
        (5, times[2])
    );
}

#[test]
fn sparse_offsets_survive() {
    let mut builder = BatchBuilder::new(Compression::None);
    for delta in [3, 4, 100_000, i32::MAX as u32] {
        builder
            .push_at(delta, 9, Some(b"k"), None, HeadersRef::EMPTY)
            .unwrap();
    }
    for delta in [0, i32::MAX as u32, u32::MAX] {
        let error = builder.push_at(delta, 9, None, None, HeadersRef::EMPTY);
        assert!(matches!(error, Err(Error::OffsetOrder { .. })), "{delta}");
    }
    let batch = builder.build().unwrap().unwrap();
    assert_eq!((batch.record_count(), batch.offset_count()), (4, 1 << 31));
    let batch = batch.assign(10);
    let records = batch.records().unwrap();
    let offsets: Vec<u64> = records.iter().map(|r| r.unwrap().offset).collect();
    assert_eq!(offsets, [13, 14, 100_010, 10 + i32::MAX as u64]);
    assert_eq!(batch.last_offset(), 10 + i32::MAX as u64);
    assert_eq!(
        RecordBatch::parse(batch.as_bytes().clone())
            .unwrap()
            .record_count(),
        4
    );
}

#[test]
fn delete_horizon_travels_and_keeps_timestamps() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_delete_horizon_ms(Some(5_000));
    builder
        .push(100, Some(b"k"), None, HeadersRef::EMPTY)
        .unwrap();
    let marked = builder.build().unwrap().unwrap().assign(0);
    assert_eq!(marked.delete_horizon_ms(), Some(5_000));
    assert_eq!(read(&marked)[0].timestamp_ms, 100);
    builder.set_delete_horizon_ms(None);
    builder
        .push(5_000, Some(b"k"), None, HeadersRef::EMPTY)
        .unwrap();
    assert_eq!(
        builder
            .build()
            .unwrap()
            .unwrap()
            .assign(1)
            .delete_horizon_ms(),
        None
    );
}

#[test]
fn log_append_time_overrides_record_timestamps() {
    let batch = build(Compression::None, &three_records()).assign(0);
    let mut bytes = batch.as_bytes().to_vec();
    bytes[22] |= 1 << 3;
    bytes[35..43].copy_from_slice(&77i64.to_be_bytes());
    let batch = RecordBatch::from_stored(bytes.into()).unwrap();
    assert!(batch.verify_crc().is_err());
    assert!(read(&batch).iter().all(|record| record.timestamp_ms == 77));
}

#[test]
fn headers_are_passed_on_as_they_are() {
    let headers: [(&str, Option<&[u8]>); 4] = [
        ("a", Some(b"1")),
        ("a", Some(b"")),
        ("", None),
        ("ü", Some(&[0xff; 300])),
    ];
    let mut first = BatchBuilder::new(Compression::None);
    let mut encoded = HeadersBuf::new();
    for (name, value) in headers {
        encoded.push(name, value).unwrap();
    }
    first
        .push(1, Some(b"k"), None, encoded.as_headers())
        .unwrap();
    let batch = first.build().unwrap().unwrap().assign(0);
    let records = batch.records().unwrap();
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!(record.headers.iter().collect::<Vec<_>>(), headers);

    let mut second = BatchBuilder::new(Compression::None);
    second
        .push(1, record.key, record.value, record.headers)
        .unwrap();
    let copy = second.build().unwrap().unwrap().assign(0);
    assert_eq!(copy.as_bytes(), batch.as_bytes());
}

#[test]
fn limits_hold() {
    let mut builder = BatchBuilder::new(Compression::None);
    let big = vec![0; limits::MAX_RECORD_BYTES];
    let push = |builder: &mut BatchBuilder, value: &[u8]| {
        builder.push(0, None, Some(value), HeadersRef::EMPTY)
    };
    let one_more = vec![0; limits::MAX_RECORD_BYTES + 1];
    assert!(matches!(
        push(&mut builder, &one_more),
        Err(Error::RecordTooLarge { .. })
    ));
    push(&mut builder, &big).unwrap();
    let size_bytes = builder.size_bytes();
    assert_eq!(push(&mut builder, &big), Err(Error::BatchFull));
    assert_eq!((builder.len(), builder.size_bytes()), (1, size_bytes));
    let batch = builder.build().unwrap().unwrap().assign(0);
    assert!(RecordBatch::parse(batch.as_bytes().clone()).is_ok());

    for _ in 0..limits::MAX_RECORDS_PER_BATCH {
        push(&mut builder, b"").unwrap();
    }
    assert_eq!(push(&mut builder, b""), Err(Error::BatchFull));
    assert_eq!(
        builder.build().unwrap().unwrap().record_count(),
        limits::MAX_RECORDS_PER_BATCH
    );

    let mut headers = HeadersBuf::new();
    for _ in 0..limits::MAX_HEADERS {
        headers.push("h", None).unwrap();
    }
    assert_eq!(headers.push("h", None), Err(Error::TooManyHeaders));
    builder.push(0, None, None, headers.as_headers()).unwrap();
    headers.clear();
    assert!(headers.as_headers().is_empty());
    assert!(matches!(
        headers.push("h", Some(&big)),
        Err(Error::RecordTooLarge { .. })
    ));
}

/// A batch with one field overwritten and the CRC made good again.
fn patched(at: usize, field: &[u8]) -> Bytes {
    let mut bytes = build(Compression::None, &three_records())
        .assign(0)
        .as_bytes()
        .to_vec();
    bytes[at..at + field.len()].copy_from_slice(field);
    let crc = header::computed_crc(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn inconsistent_headers_are_refused() {
    let parse = |at, field: &[u8]| RecordBatch::parse(patched(at, field)).unwrap_err();
    assert!(RecordBatch::parse(patched(0, &[])).is_ok());
    assert!(matches!(
        parse(0, &[0xff; 8]),
        Error::Offsets {
            base_offset: -1,
            ..
        }
    ));
    assert!(matches!(
        parse(0, &i64::MAX.to_be_bytes()),
        Error::Offsets { .. }
    ));
    assert!(matches!(
        parse(8, &[0xff; 4]),
        Error::Length {
            declared_bytes: -1,
            ..
        }
    ));
    assert!(matches!(parse(8, &[0; 4]), Error::Length { .. }));
    assert!(matches!(parse(16, &[1]), Error::Magic { magic: 1 }));
    assert!(matches!(
        parse(22, &[5]),
        Error::CompressionCode { code: 5 }
    ));
    assert!(matches!(
        parse(23, &[0xff; 4]),
        Error::Offsets {
            last_offset_delta: -1,
            ..
        }
    ));
    assert!(matches!(
        parse(23, &[0, 0, 0, 1]),
        Error::RecordCount { .. }
    ));
    assert!(matches!(
        parse(57, &[0xff; 4]),
        Error::RecordCount { count: -1, .. }
    ));
    // More records than 79 bytes can hold, within the offsets.
    let mut bytes = patched(23, &[0, 0, 1, 0]).to_vec();
    bytes[57..61].copy_from_slice(&[0, 0, 0, 100]);
    assert!(matches!(
        RecordBatch::from_stored(bytes.into()),
        Err(Error::RecordCount { count: 100, .. })
    ));
    assert!(matches!(
        RecordBatch::parse(vec![0; 60].into()),
        Err(Error::TooShort { len_bytes: 60 })
    ));
    assert!(matches!(
        RecordBatch::parse(vec![0; limits::MAX_BATCH_BYTES + 1].into()),
        Err(Error::TooLarge { .. })
    ));
}

#[test]
fn clients_may_not_append_everything() {
    let control = EncodedBatch::from_wire(patched(22, &[1 << 5])).unwrap_err();
    assert!(matches!(control, Error::NotAppendable { .. }));
    let empty = patched(57, &[0; 4]).slice(..HEADER_BYTES).to_vec();
    let mut empty = [&empty[..8], &49i32.to_be_bytes(), &empty[12..]].concat();
    let crc = header::computed_crc(&empty);
    empty[17..21].copy_from_slice(&crc.to_be_bytes());
    let empty = Bytes::from(empty);
    assert_eq!(iterate(&RecordBatch::parse(empty.clone()).unwrap()), Ok(0));
    assert!(matches!(
        EncodedBatch::from_wire(empty),
        Err(Error::NotAppendable { .. })
    ));
    // One record less than there are.
    let fewer = patched(57, &[0, 0, 0, 2]);
    let batch = RecordBatch::parse(fewer).unwrap();
    assert_eq!(
        batch.validate_records(),
        Err(Error::Record {
            index: 2,
            reason: "bytes after the last record"
        })
    );
}

#[test]
fn malformed_records_are_refused() {
    let record = |bytes: &[u8]| {
        let mut batch = vec![0; HEADER_BYTES];
        batch.extend_from_slice(bytes);
        BatchHeader::without_producer(Compression::None, false, 10, 10, 1, 0).write(&mut batch);
        iterate(&RecordBatch::parse(batch.into()).unwrap())
    };
    let good = [0x0c, 0, 0, 0, 0x01, 0x01, 0];
    assert_eq!(record(&good), Ok(1));
    let bad: [(&[u8], &str); 12] = [
        (&[0x80; 7], "malformed record length"),
        (&[0x01; 7], "negative record length"),
        (&[0x0e, 0, 0, 0, 1, 1, 0], "record longer than its batch"),
        (&[0x00, 0, 0, 0, 1, 1, 0], "empty record"),
        (&[0x0a, 0, 0, 0, 1, 1, 0], "malformed header count"),
        (
            &[0x0c, 0, 0, 2, 1, 1, 0],
            "offset out of order or outside of its batch",
        ),
        (
            &[0x0c, 0, 0, 1, 1, 1, 0],
            "offset out of order or outside of its batch",
        ),
        (&[0x0c, 0, 0, 0, 3, 1, 0], "negative field length"),
        (&[0x0c, 0, 0, 0, 1, 4, 0], "field longer than its record"),
        (&[0x0c, 0, 0, 0, 1, 1, 1], "negative header count"),
        (&[0x0c, 0, 0, 0, 1, 1, 2], "malformed field length"),
        (
            &[0x12, 0, 0, 0, 1, 1, 2, 2, 0xff, 1],
            "header name is not UTF-8",
        ),
    ];
    for (bytes, reason) in bad {
        assert_eq!(
            record(bytes),
            Err(Error::Record { index: 0, reason }),
            "{bytes:x?}"
        );
    }
    let far = [
        0x1e, 0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 1, 1, 0,
    ];
    let reason = "timestamp out of range";
    assert_eq!(record(&far), Err(Error::Record { index: 0, reason }));
}
