//! What holds for every batch: it reads as it was written, and damage is an error, not a panic.

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    tests::{build, iterate, read},
    *,
};

/// A record with every field present or not, small or not.
fn any_record() -> impl Strategy<Value = Record> {
    let bytes =
        || prop::option::of(prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from));
    let header = ("[a-zé]{0,9}", bytes()).prop_map(|(name, value)| Header::new(name, value));
    let time = prop_oneof![
        0..=limits::MAX_TIMESTAMP_MS,
        1_700_000_000_000..1_700_000_100_000u64
    ];
    (bytes(), bytes(), prop::collection::vec(header, 0..4), time).prop_map(
        |(key, value, headers, timestamp_ms)| Record {
            key,
            value,
            headers,
            timestamp_ms,
        },
    )
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(&Compression::ALL[..])
}

proptest! {
    #[test]
    fn round_trips(
        records in prop::collection::vec(any_record(), 1..60),
        compression in any_compression(),
        base_offset in 0..limits::MAX_OFFSET - 100,
    ) {
        let batch = build(compression, &records).assign(base_offset);
        prop_assert_eq!(read(&batch), records.clone());
        let parsed = RecordBatch::parse(batch.as_bytes().clone()).unwrap();
        prop_assert_eq!(parsed.validate_records(), Ok(()));
        prop_assert_eq!(parsed.next_offset(), base_offset + records.len() as u64);
        let latest = records.iter().map(|r| r.timestamp_ms).max();
        prop_assert_eq!(Some(parsed.max_timestamp_ms()), latest);
        let rebuilt = EncodedBatch::from_wire(batch.as_bytes().clone()).unwrap();
        let rebuilt = rebuilt.assign(base_offset);
        prop_assert_eq!(rebuilt.as_bytes(), batch.as_bytes());
    }

    #[test]
    fn iteration_resumes_anywhere(
        records in prop::collection::vec(any_record(), 1..20),
        compression in any_compression(),
        stop: prop::sample::Index,
    ) {
        let batch = build(compression, &records).assign(1);
        let whole = batch.records().unwrap();
        let stop = stop.index(records.len() + 1);
        let mut first = whole.iter();
        let before: Vec<_> = first.by_ref().take(stop).map(Result::unwrap).collect();
        let after = whole.resume(first.position()).map(Result::unwrap);
        let all: Vec<_> = before.into_iter().chain(after).collect();
        prop_assert_eq!(all, whole.iter().map(Result::unwrap).collect::<Vec<_>>());
        prop_assert_eq!(whole.resume(RecordPosition::default()).count(), records.len());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, header: bool) {
        let mut bytes = bytes;
        if header {
            // Past the first checks, into the records.
            let count = bytes.len() as u32;
            bytes.splice(0..0, [0; HEADER_BYTES]);
            BatchHeader::without_producer(Compression::None, false, 0, 0, count / 7, count)
                .write(&mut bytes);
        }
        if let Ok(batch) = RecordBatch::parse(bytes.into()) {
            let _ = iterate(&batch);
        }
    }

    #[test]
    fn damage_is_found(
        records in prop::collection::vec(any_record(), 1..20),
        compression in any_compression(),
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let bytes = build(compression, &records).assign(5).as_bytes().to_vec();
        let truncated = bytes[..at.index(bytes.len())].to_vec();
        prop_assert!(RecordBatch::parse(truncated.into()).is_err());

        let mut flipped = bytes;
        let at = at.index(flipped.len());
        flipped[at] ^= 1 << bit;
        let stored = RecordBatch::from_stored(flipped.clone().into());
        // Base offset and leader epoch are not covered by the CRC, on purpose.
        if !(0..8).contains(&at) && !(12..16).contains(&at) {
            prop_assert!(RecordBatch::parse(flipped.into()).is_err());
        }
        // Without the check of the CRC: an error or other records, never a panic.
        if let Ok(batch) = stored {
            let _ = iterate(&batch);
        }
    }

    #[test]
    fn damaged_records_with_a_good_crc_never_panic(
        records in prop::collection::vec(any_record(), 1..20),
        compression in any_compression(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = build(compression, &records).assign(5).as_bytes().to_vec();
        for (at, byte) in changes {
            let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
            bytes[at] = byte;
        }
        let crc = header::computed_crc(&bytes);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let batch = RecordBatch::parse(bytes.into()).unwrap();
        if let Ok(count) = iterate(&batch) {
            prop_assert_eq!(count, batch.record_count());
        }
    }
}
