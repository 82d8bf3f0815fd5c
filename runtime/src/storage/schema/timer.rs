//! Key kind `Timer`: `(pipeline id, task, due at ms, key)` → the timer's payload.
//!
//! The order of the bytes is the order in which a task's timers fire: by their due times, and at the
//! same time by their keys. The plugin's key comes last, so that it needs no length.
//!
//! The value: version (`u8`, 1), then the payload.

use bytes::Bytes;

use super::{KeyKind, read_u32, read_u64};

/// Length in bytes of what stands before the plugin's key.
pub const PREFIX_LEN_BYTES: usize = 17;
const VERSION: u8 = 1;

/// The start of all keys of a pipeline.
pub fn pipeline_prefix(pipeline_id: u32) -> [u8; 5] {
    let mut prefix = [0; 5];
    prefix[0] = KeyKind::Timer as u8;
    prefix[1..5].copy_from_slice(&pipeline_id.to_be_bytes());
    prefix
}

/// The start of all keys of a task.
pub fn task_prefix(pipeline_id: u32, task: u32) -> [u8; 9] {
    let mut prefix = [0; 9];
    prefix[..5].copy_from_slice(&pipeline_prefix(pipeline_id));
    prefix[5..9].copy_from_slice(&task.to_be_bytes());
    prefix
}

/// The key of a timer.
pub fn key(pipeline_id: u32, task: u32, due_ms: u64, timer_key: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_LEN_BYTES + timer_key.len());
    key.extend_from_slice(&task_prefix(pipeline_id, task));
    key.extend_from_slice(&due_ms.to_be_bytes());
    key.extend_from_slice(timer_key);
    key
}

/// Pipeline id, task, due time in ms and the plugin's key; `None` if it is not a timer's key.
pub fn parse_key(key: &[u8]) -> Option<(u32, u32, u64, &[u8])> {
    if key.len() < PREFIX_LEN_BYTES || key[0] != KeyKind::Timer as u8 {
        return None;
    }
    Some((
        read_u32(key, 1)?,
        read_u32(key, 5)?,
        read_u64(key, 9)?,
        &key[PREFIX_LEN_BYTES..],
    ))
}

/// Encodes a timer's value.
pub fn value(payload: &[u8]) -> Bytes {
    let mut value = Vec::with_capacity(1 + payload.len());
    value.push(VERSION);
    value.extend_from_slice(payload);
    value.into()
}

/// The payload in a timer's value; `None` if the bytes are none.
pub fn parse_value(value: &[u8]) -> Option<&[u8]> {
    match value.split_first() {
        Some((&VERSION, payload)) => Some(payload),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_come_back_and_are_in_firing_order(
            a in any::<(u32, u32, u64, Vec<u8>)>(), b in any::<(u32, u32, u64, Vec<u8>)>(),
        ) {
            let (ka, kb) = (key(a.0, a.1, a.2, &a.3), key(b.0, b.1, b.2, &b.3));
            prop_assert_eq!(parse_key(&ka), Some((a.0, a.1, a.2, a.3.as_slice())));
            prop_assert_eq!(ka.cmp(&kb), a.cmp(&b));
            prop_assert!(ka.starts_with(&task_prefix(a.0, a.1)));
        }

        #[test]
        fn payloads_come_back(payload: Vec<u8>) {
            let encoded = value(&payload);
            prop_assert_eq!(parse_value(&encoded), Some(payload.as_slice()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_key(&bytes);
            let _ = parse_value(&bytes);
        }
    }

    #[test]
    fn other_versions_are_no_value() {
        assert_eq!(parse_value(&[]), None);
        assert_eq!(parse_value(&[2, 7]), None);
    }
}
