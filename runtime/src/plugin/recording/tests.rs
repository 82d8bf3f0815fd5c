//! Tests of recordings: what is written reads as the same, whatever is read never panics, and what was
//! read of a state says of it what it was.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    ".{0,8}"
}

fn field() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from)
}

fn state() -> impl Strategy<Value = StateReads> {
    let value = (field(), prop::option::of(field()));
    let range = (field(), prop::option::of(field()), any::<bool>());
    let parts = (
        prop::collection::vec(value, 0..6),
        prop::collection::vec(range, 0..3),
    );
    parts.prop_map(|(values, ranges)| {
        let mut state = StateReads::default();
        for (key, value) in &values {
            state.note_value(key, value.as_ref());
        }
        for (from, to, is_whole) in &ranges {
            let entries = [(from.clone(), Bytes::from_static(b"v"))];
            state.note_range(from, to.as_deref(), *is_whole, &entries);
        }
        state
    })
}

fn seen() -> impl Strategy<Value = Result<Seen, NotKept>> {
    let numbers = || prop::collection::vec(any::<u64>(), 0..5);
    let other = prop::option::of((text(), text()));
    let seen = (numbers(), numbers(), state(), other).prop_map(
        |(wall_ns, monotonic_ns, state, other_outcome)| Seen {
            readings: Readings {
                wall_ns,
                monotonic_ns,
            },
            state,
            other_outcome,
        },
    );
    prop_oneof![
        4 => seen.prop_map(Ok),
        1 => Just(Err(NotKept::TooLarge)),
        1 => Just(Err(NotKept::TooMany)),
        1 => Just(Err(NotKept::NoInstance)),
        1 => Just(Err(NotKept::CallsServices)),
    ]
}

prop_compose! {
    fn recording()(
        (partition, input, offset) in any::<(u32, u32, u64)>(),
        (state, clocks, random, http) in any::<(bool, bool, bool, bool)>(),
        numbers in any::<[u64; 7]>(),
        inputs in prop::collection::vec(text(), 0..3),
        ports in prop::collection::vec(text(), 0..3),
        config in prop::collection::vec((text(), text()), 0..3),
        headers in prop::option::of(Just(b"\x01\0\0\0h\xff\xff\xff\xff".to_vec())),
        seed: [u8; SEED_BYTES],
        seen in seen(),
    ) -> Recording {
        Recording {
            partition, inputs, ports, config,
            allowance: Allowance {
                state, clocks, random, http,
                memory_bytes: numbers[0], deadline_ns: numbers[1], output_bytes: numbers[2],
                output_records: numbers[3], state_bytes: numbers[4],
            },
            place: Place { input, partition: partition ^ 1, offset, delivery_count: input ^ 1, headers },
            moment: Moment { wall_ns: numbers[5], monotonic_ns: numbers[6], seed },
            seen,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same(recording in recording()) {
        let bytes = recording.encode().unwrap();
        prop_assert_eq!(Recording::decode(&bytes), Ok(recording));
    }

    #[test]
    fn a_recording_that_is_cut_off_is_an_error(recording in recording(), cut in any::<prop::sample::Index>()) {
        let bytes = recording.encode().unwrap();
        let cut = cut.index(bytes.len());
        prop_assert!(Recording::decode(&bytes[..cut]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        check_arbitrary(&bytes);
        check_arbitrary(&[&[1], &bytes[..]].concat());
    }

    #[test]
    fn changed_bytes_never_panic(
        recording in recording(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut bytes = recording.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check_arbitrary(&bytes);
    }
}

#[test]
fn a_later_version_is_told() {
    assert_eq!(Recording::decode(&[7, 1, 2]), Err(DecodeError::Version(7)));
    assert_eq!(
        Recording::decode(&[]),
        Err(DecodeError::Malformed("version"))
    );
}

fn with_value(value_bytes: usize) -> Recording {
    let mut seen = Seen::default();
    let value = Bytes::from(vec![7; value_bytes]);
    seen.state.note_value(b"k", Some(&value));
    Recording {
        config: vec![("window".to_owned(), "1h".to_owned())],
        ..Recording::of(Ok(seen))
    }
}

impl Recording {
    fn of(seen: Result<Seen, NotKept>) -> Self {
        Self {
            partition: 0,
            inputs: Vec::new(),
            ports: Vec::new(),
            config: Vec::new(),
            allowance: Allowance::default(),
            place: Place::default(),
            moment: Moment::default(),
            seen,
        }
    }
}

/// What is too much is left out, and that is said; the rest is kept.
#[test]
fn what_is_too_large_is_left_out() {
    for (value_bytes, is_kept) in [
        (MAX_RECORDING_BYTES / 2, true),
        (MAX_RECORDING_BYTES - 20, false),
        (MAX_RECORDING_BYTES * 2, false),
    ] {
        let bytes = with_value(value_bytes).encode().unwrap();
        assert!(bytes.len() <= MAX_RECORDING_BYTES);
        let decoded = Recording::decode(&bytes).unwrap();
        assert_eq!(decoded.seen.is_ok(), is_kept, "{value_bytes}");
        if !is_kept {
            assert_eq!(decoded.seen, Err(NotKept::TooLarge));
        }
        assert_eq!(decoded.config.len(), 1);
    }
    let mut hopeless = with_value(0);
    hopeless.config[0].1 = "x".repeat(MAX_RECORDING_BYTES);
    assert_eq!(hopeless.encode(), None);
}

/// What one query of a range reads, as a task does it.
fn read_range(
    model: &BTreeMap<Bytes, Bytes>,
    from: &[u8],
    to: Option<&[u8]>,
    max_entries: usize,
) -> Vec<(Bytes, Bytes)> {
    if to.is_some_and(|to| to <= from) {
        return Vec::new();
    }
    let to = to.map_or(Bound::Unbounded, Bound::Excluded);
    let range = model.range::<[u8], _>((Bound::Included(from), to));
    let entries = range.map(|(key, value)| (key.clone(), value.clone()));
    entries.take(max_entries).collect()
}

#[derive(Debug, Clone)]
enum Query {
    Get(u8),
    Range(u8, Option<u8>, usize),
}

fn query() -> impl Strategy<Value = Query> {
    prop_oneof![
        (0u8..12).prop_map(Query::Get),
        (0u8..12, prop::option::of(0u8..14), 0usize..6).prop_map(|(f, t, n)| Query::Range(f, t, n)),
    ]
}

proptest! {
    /// What was read is answered as it was then; of what was not, an answer that claims to be known is
    /// right.
    #[test]
    fn what_was_read_is_known(
        model in prop::collection::btree_map(0u8..12, any::<u8>(), 0..10),
        asked in prop::collection::vec(query(), 0..8),
        others in prop::collection::vec(query(), 0..12),
    ) {
        let key = |key: u8| Bytes::copy_from_slice(&[key]);
        let model: BTreeMap<Bytes, Bytes> = model.into_iter().map(|(k, v)| (key(k), key(v))).collect();
        let mut reads = StateReads::default();
        for query in &asked {
            match query {
                Query::Get(k) => reads.note_value(&[*k], model.get(&key(*k))),
                Query::Range(from, to, limit) => {
                    let to = to.map(|to| [to]);
                    let to = to.as_ref().map(|to| &to[..]);
                    let entries = read_range(&model, &[*from], to, *limit);
                    let is_whole = entries.len() < *limit;
                    reads.note_range(&[*from], to, is_whole, &entries);
                }
            }
        }
        let all = asked.iter().map(|query| (query, true)).chain(others.iter().map(|query| (query, false)));
        for (query, must_be_known) in all {
            match query {
                Query::Get(k) => match reads.value(&[*k]) {
                    Some(value) => prop_assert_eq!(value.as_ref(), model.get(&key(*k))),
                    None => prop_assert!(!must_be_known),
                },
                Query::Range(from, to, limit) => {
                    let to = to.map(|to| [to]);
                    let to = to.as_ref().map(|to| &to[..]);
                    let (entries, is_known) = reads.range(&[*from], to, *limit, usize::MAX);
                    prop_assert!(is_known || !must_be_known, "{:?}", query);
                    if is_known {
                        prop_assert_eq!(entries, read_range(&model, &[*from], to, *limit));
                    }
                }
            }
        }
    }
}

#[test]
fn a_range_ends_where_its_bytes_do() {
    let mut reads = StateReads::default();
    let entry = |key: &'static str| (Bytes::from(key), Bytes::from_static(b"12345678"));
    let entries = [entry("a"), entry("b"), entry("c")];
    reads.note_range(b"a", None, true, &entries);
    // Nine bytes each: the entry that goes beyond is the last.
    let (found, is_known) = reads.range(b"a", None, 10, 10);
    assert_eq!((&found[..], is_known), (&entries[..2], true));
}
