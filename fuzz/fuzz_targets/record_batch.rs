//! Bytes from outside as a record batch: parse, read all records, write them again.
//!
//! The input is tried as it is, and once more with length, magic and CRC made good, since the
//! fuzzer would hardly get past those. Nothing may panic, and what was read and written again must
//! read the same.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream_fuzz::model::{
    BatchBuilder, Compression, EncodedBatch, HeadersBuf, RecordBatch, RecordRef, Records,
};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, batch)) = data.split_first() else {
        return;
    };
    let compression = Compression::ALL[usize::from(choice) % Compression::ALL.len()];
    check(Bytes::copy_from_slice(batch), compression);
    if let Some(repaired) = repair(batch) {
        check(repaired, compression);
    }
});

/// Makes length, magic and CRC what they should be.
fn repair(batch: &[u8]) -> Option<Bytes> {
    let mut batch = batch.to_vec();
    let length = u32::try_from(batch.len().checked_sub(12)?).ok()?;
    batch.get_mut(8..12)?.copy_from_slice(&length.to_be_bytes());
    *batch.get_mut(16)? = 2;
    let crc = crc32c::crc32c(batch.get(21..)?);
    batch.get_mut(17..21)?.copy_from_slice(&crc.to_be_bytes());
    Some(batch.into())
}

fn check(bytes: Bytes, compression: Compression) {
    let wire = EncodedBatch::from_wire(bytes.clone());
    let Ok(batch) = RecordBatch::parse(bytes) else {
        assert!(wire.is_err(), "accepted from the wire, but not as a batch");
        return;
    };
    let valid = batch.validate_records();
    if let Ok(wire) = wire {
        assert_eq!(valid, Ok(()));
        assert_eq!(wire.offset_count(), wire.record_count());
        let assigned = wire.assign(batch.base_offset());
        assert_eq!(assigned.verify_crc(), Ok(()));
        assert_eq!(assigned.next_offset(), batch.next_offset());
    }
    let Ok(records) = batch.records() else {
        assert!(valid.is_err());
        return;
    };
    let Ok(read) = records.iter().collect::<Result<Vec<_>, _>>() else {
        assert!(valid.is_err());
        return;
    };
    assert_eq!(read.len(), batch.record_count() as usize);
    rewrite(&batch, &read, compression);
}

/// Writes the records that were read, and compares what reads back.
fn rewrite(batch: &RecordBatch, read: &[RecordRef<'_>], compression: Compression) {
    let mut builder = BatchBuilder::new(compression);
    let mut headers = HeadersBuf::new();
    for record in read {
        headers.clear();
        for (name, value) in record.headers {
            if headers.push(name, value).is_err() {
                return;
            }
        }
        let delta = u32::try_from(record.offset - batch.base_offset()).expect("offset in range");
        let (timestamp_ms, key, value) = (record.timestamp_ms, record.key, record.value);
        // Beyond the limits that hold for writing.
        if builder
            .push_at(delta, timestamp_ms, key, value, headers.as_headers())
            .is_err()
        {
            return;
        }
    }
    let built = builder.build().expect("compression works");
    let Some(built) = built.map(|built| built.assign(batch.base_offset())) else {
        assert!(read.is_empty());
        return;
    };
    let reparsed = RecordBatch::parse(built.as_bytes().clone()).expect("own batch parses");
    let records: Records = reparsed.records().expect("own batch decompresses");
    let mut again = records.iter();
    for expected in read {
        let actual = again
            .next()
            .expect("same count")
            .expect("own record is well-formed");
        assert_eq!(
            (actual.offset, actual.timestamp_ms),
            (expected.offset, expected.timestamp_ms)
        );
        assert_eq!((actual.key, actual.value), (expected.key, expected.value));
        assert!(actual.headers.iter().eq(expected.headers.iter()));
    }
    assert!(again.next().is_none());
}
