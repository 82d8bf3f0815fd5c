//! Key kind `Parked`: `(pipeline id, task, group, sequence)` → a record that waits to be tried again.
//!
//! A group is what must be tried in order: the records of one key, all of a task, or one record
//! alone, as the pipeline's `retry.order` says. Within a group the sequence is the order of arrival.
//!
//! The value: version (`u8`, 1), flags (`u8`: 1 = it has faulted, so it is tried alone), number of the
//! input in the pipeline's entry (`u32`; `0xffffffff` = it is a timer, with its key, its payload as the value, and its due time as
//! the timestamp), attempts (`u32`; 0 = it only waits behind another or,
//! if it has failed, a trial holds it for the version that comes next), when it is due, first failed and
//! last failed (`u64` each, in ms since the epoch), the reason (`u16` length, UTF-8), then the record as
//! a batch of one in Kafka's format, with its own offset. Numbers are big-endian.

use bytes::Bytes;

use super::{KeyKind, read_u32, read_u64};
use crate::model::RecordBatch;
use crate::storage::Error;

/// Length of a key in bytes.
pub const KEY_LEN_BYTES: usize = 25;
const VERSION: u8 = 1;
const FAULTED: u8 = 1;
/// Length in bytes of what stands before the reason.
const FIXED_LEN_BYTES: usize = 36;

/// A record that waits to be tried again.
#[derive(Clone, Debug)]
pub struct ParkedRecord {
    /// Number of the pipeline's input that it came from, as its entry lists them, or [`TIMERS_INPUT`](crate::model::TIMERS_INPUT).
    pub input: u32,
    /// How often it has failed; 0 if it waits behind another record or is [held](Self::is_held).
    pub attempt_count: u32,
    /// Whether it made the plugin fault, so that it is tried alone.
    pub has_faulted: bool,
    /// When it is tried again, in ms since the epoch.
    pub due_ms: u64,
    /// When it first failed, in ms since the epoch; 0 if it has not.
    pub first_failed_ms: u64,
    /// When it last failed, in ms since the epoch; 0 if it has not.
    pub last_failed_ms: u64,
    /// Why it last failed; at most 1,024 bytes are kept.
    pub reason: String,
    /// The record, with its offset, as a batch of one.
    pub record: RecordBatch,
}

impl ParkedRecord {
    /// A record that has not run yet, and is due at once. `record` is a batch of one.
    pub fn new(input: u32, record: RecordBatch) -> Self {
        Self {
            input,
            attempt_count: 0,
            has_faulted: false,
            due_ms: 0,
            first_failed_ms: 0,
            last_failed_ms: 0,
            reason: String::new(),
            record,
        }
    }

    /// Whether a trial of another version has given up on it, and left it to the version that comes next.
    pub fn is_held(&self) -> bool {
        self.attempt_count == 0 && self.first_failed_ms > 0
    }

    /// Whether it has not run, but waits behind another one, or did when it was parked.
    pub fn has_only_waited(&self) -> bool {
        self.attempt_count == 0 && !self.is_held()
    }
}

/// The start of all keys of a pipeline.
pub fn pipeline_prefix(pipeline_id: u32) -> [u8; 5] {
    let mut prefix = [0; 5];
    prefix[0] = KeyKind::Parked as u8;
    prefix[1..].copy_from_slice(&pipeline_id.to_be_bytes());
    prefix
}

/// The start of all keys of a task.
pub fn task_prefix(pipeline_id: u32, task: u32) -> [u8; 9] {
    let mut prefix = [0; 9];
    prefix[..5].copy_from_slice(&pipeline_prefix(pipeline_id));
    prefix[5..9].copy_from_slice(&task.to_be_bytes());
    prefix
}

/// The key of a parked record.
pub fn key(pipeline_id: u32, task: u32, group: u64, sequence: u64) -> [u8; KEY_LEN_BYTES] {
    let mut key = [0; KEY_LEN_BYTES];
    key[..9].copy_from_slice(&task_prefix(pipeline_id, task));
    key[9..17].copy_from_slice(&group.to_be_bytes());
    key[17..25].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Pipeline id, task, group and sequence of a key; `None` if it is not one.
pub fn parse_key(key: &[u8]) -> Option<(u32, u32, u64, u64)> {
    if key.len() != KEY_LEN_BYTES || key[0] != KeyKind::Parked as u8 {
        return None;
    }
    Some((
        read_u32(key, 1)?,
        read_u32(key, 5)?,
        read_u64(key, 9)?,
        read_u64(key, 17)?,
    ))
}

/// Encodes a parked record.
pub fn value(parked: &ParkedRecord) -> Bytes {
    let reason = cut(&parked.reason, 1024).as_bytes();
    let record = parked.record.as_bytes();
    let mut value = Vec::with_capacity(FIXED_LEN_BYTES + reason.len() + record.len());
    value.extend([VERSION, if parked.has_faulted { FAULTED } else { 0 }]);
    value.extend(parked.input.to_be_bytes());
    value.extend(parked.attempt_count.to_be_bytes());
    value.extend(parked.due_ms.to_be_bytes());
    value.extend(parked.first_failed_ms.to_be_bytes());
    value.extend(parked.last_failed_ms.to_be_bytes());
    value.extend((reason.len() as u16).to_be_bytes());
    value.extend_from_slice(reason);
    value.extend_from_slice(record);
    value.into()
}

/// As [`parse_value`], of bytes that are copied.
///
/// # Errors
/// [`Error::Damaged`] if they are no parked record.
pub(crate) fn read(value: &[u8]) -> Result<ParkedRecord, Error> {
    parse_value(&Bytes::copy_from_slice(value)).ok_or_else(damaged)
}

/// Something parked is not what was stored.
pub(crate) fn damaged() -> Error {
    Error::Damaged {
        what: "a parked record".to_owned(),
        reason: "malformed".to_owned(),
    }
}

/// Decodes a parked record; `None` if the bytes are none.
pub fn parse_value(bytes: &Bytes) -> Option<ParkedRecord> {
    let fixed = bytes.get(..FIXED_LEN_BYTES)?;
    if fixed[0] != VERSION || fixed[1] > FAULTED {
        return None;
    }
    let reason_len = usize::from(u16::from_be_bytes([fixed[34], fixed[35]]));
    let reason_end = FIXED_LEN_BYTES + reason_len;
    let reason = std::str::from_utf8(bytes.get(FIXED_LEN_BYTES..reason_end)?).ok()?;
    let record = RecordBatch::from_stored(bytes.slice(reason_end..)).ok()?;
    (record.record_count() == 1).then_some(())?;
    Some(ParkedRecord {
        input: read_u32(fixed, 2)?,
        attempt_count: read_u32(fixed, 6)?,
        has_faulted: fixed[1] == FAULTED,
        due_ms: read_u64(fixed, 10)?,
        first_failed_ms: read_u64(fixed, 18)?,
        last_failed_ms: read_u64(fixed, 26)?,
        reason: reason.to_owned(),
        record,
    })
}

/// The longest start of `text` with at most `len` bytes.
fn cut(text: &str, len: usize) -> &str {
    &text[..text.floor_char_boundary(len)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BatchBuilder, Compression, HeadersRef};
    use proptest::prelude::*;

    fn record(offset: u64, value: &[u8]) -> RecordBatch {
        let mut builder = BatchBuilder::new(Compression::None);
        builder
            .push(7, Some(b"key"), Some(value), HeadersRef::EMPTY)
            .unwrap();
        builder.build().unwrap().unwrap().assign(offset)
    }

    proptest! {
        #[test]
        fn keys_come_back_and_are_in_order(a in any::<(u32, u32, u64, u64)>(), b in any::<(u32, u32, u64, u64)>()) {
            let (ka, kb) = (key(a.0, a.1, a.2, a.3), key(b.0, b.1, b.2, b.3));
            prop_assert_eq!(parse_key(&ka), Some(a));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
            prop_assert!(ka.starts_with(&task_prefix(a.0, a.1)));
        }

        #[test]
        fn records_come_back(
            numbers in any::<(u32, u32, bool, u64, u64, u64)>(), reason in ".{0,40}",
            offset in 0..u64::MAX / 4, content in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let parked = ParkedRecord {
                input: numbers.0, attempt_count: numbers.1, has_faulted: numbers.2,
                due_ms: numbers.3, first_failed_ms: numbers.4, last_failed_ms: numbers.5,
                reason, record: record(offset, &content),
            };
            let encoded = value(&parked);
            let decoded = parse_value(&encoded).unwrap();
            prop_assert_eq!(decoded.record.as_bytes(), parked.record.as_bytes());
            prop_assert_eq!(value(&decoded), encoded);
            prop_assert_eq!((decoded.input, decoded.attempt_count, decoded.has_faulted), (numbers.0, numbers.1, numbers.2));
            prop_assert_eq!((decoded.due_ms, decoded.first_failed_ms, decoded.last_failed_ms), (numbers.3, numbers.4, numbers.5));
            prop_assert_eq!(decoded.reason, parked.reason);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_key(&bytes);
            let _ = parse_value(&bytes.clone().into());
            let mut changed = value(&ParkedRecord {
                input: 0, attempt_count: 1, has_faulted: false, due_ms: 0, first_failed_ms: 0,
                last_failed_ms: 0, reason: "r".to_owned(), record: record(3, b"v"),
            }).to_vec();
            for (at, byte) in bytes.iter().enumerate() {
                let index = at * 7 % changed.len();
                changed[index] ^= *byte;
            }
            let _ = parse_value(&changed.into());
        }
    }
}
