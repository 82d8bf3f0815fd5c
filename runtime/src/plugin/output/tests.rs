//! Tests of the checks on guest output, one for each rule.

use super::*;
use crate::plugin::reply::ReplyFailure;
use crate::plugin::text::MAX_REASON_BYTES;
use proptest::prelude::*;

const EXPECTED: Expected = Expected {
    inputs: 3,
    ports: 2,
    max_bytes: 64,
    max_records: 8,
};

fn passthrough() -> Reply {
    Reply {
        processed: 3,
        source: vec![0, 1, 2],
        ..Reply::default()
    }
}

fn full() -> Reply {
    Reply {
        port: vec![0, 1, 0],
        values: b"abc".to_vec(),
        value_ends: vec![1, 1, 3],
        null_values: vec![1],
        keys: b"k".to_vec(),
        key_ends: vec![0, 0, 1],
        null_keys: vec![0],
        headers: vec![1, 0, 0, 0, b'n', 0xff, 0xff, 0xff, 0xff],
        header_ends: vec![9, 9, 9],
        timestamps: vec![1, 2, 3],
        source: vec![0, 1, NO_SOURCE],
        ..passthrough()
    }
}

fn failure(index: u32) -> ReplyFailure {
    ReplyFailure {
        index,
        kind: FailureKind::Retry { delay_ms: Some(5) },
        reason: "x".repeat(2000),
    }
}

fn reason(raw: Reply) -> String {
    Output::check(raw, &EXPECTED).unwrap_err()
}

#[test]
fn empty_columns_stand_for_the_source() {
    let output = Output::check(passthrough(), &EXPECTED).unwrap();
    assert_eq!(
        (output.len(), output.source(2), output.port(1)),
        (3, Some(2), 0)
    );
    assert_eq!(
        (output.key(0), output.value(0)),
        (Field::AsSource, Field::AsSource)
    );
    assert_eq!(output.headers(0), HeadersField::AsSource);
    assert_eq!(output.timestamp_ms(0), None);
}

#[test]
fn columns_are_read_back() {
    let output = Output::check(full(), &EXPECTED).unwrap();
    assert_eq!([0, 1, 2].map(|i| output.port(i)), [0, 1, 0]);
    assert_eq!(
        [0, 1, 2].map(|i| output.value(i)),
        [Field::Bytes(b"a"), Field::Null, Field::Bytes(b"bc")]
    );
    assert_eq!(
        [0, 1, 2].map(|i| output.key(i)),
        [Field::Null, Field::Bytes(b""), Field::Bytes(b"k")]
    );
    let HeadersField::Encoded(headers) = output.headers(0) else {
        panic!("headers expected")
    };
    assert_eq!(headers.collect::<Vec<_>>(), [("n", None)]);
    assert_eq!(
        output.headers(2),
        HeadersField::Encoded(EncodedHeaders::EMPTY)
    );
    assert_eq!(output.timestamp_ms(1), Some(2));
    assert_eq!(output.source(2), None);
}

#[test]
fn a_record_without_source_has_defaults() {
    let raw = Reply {
        processed: 3,
        source: vec![NO_SOURCE],
        values: b"v".to_vec(),
        value_ends: vec![1],
        ..Reply::default()
    };
    let output = Output::check(raw, &EXPECTED).unwrap();
    assert_eq!(output.key(0), Field::Null);
    assert_eq!(
        output.headers(0),
        HeadersField::Encoded(EncodedHeaders::EMPTY)
    );
}

#[test]
fn failures_are_cut_and_ascend() {
    let raw = Reply {
        source: vec![1],
        failed: vec![failure(0), failure(2)],
        ..passthrough()
    };
    let output = Output::check(raw, &EXPECTED).unwrap();
    assert_eq!(output.failed()[1].index, 2);
    assert_eq!(
        output.failed()[1].kind,
        FailureKind::Retry { delay_ms: Some(5) }
    );
    assert!(output.failed()[0].reason.len() <= MAX_REASON_BYTES + '…'.len_utf8());
}

#[test]
fn every_broken_rule_is_named() {
    let cases: Vec<(Reply, &str)> = vec![
        (
            Reply {
                processed: 2,
                ..passthrough()
            },
            "`processed` is 2, expected 3",
        ),
        (
            Reply {
                source: vec![0; 9],
                ..passthrough()
            },
            "9 records, at most 8 are allowed in one call",
        ),
        (
            Reply {
                source: vec![0, 3],
                ..passthrough()
            },
            "`source[1]` is 3, but the batch has 3",
        ),
        (
            Reply {
                source: vec![0, NO_SOURCE],
                ..passthrough()
            },
            "record 1 has no source",
        ),
        (
            Reply {
                port: vec![0],
                ..full()
            },
            "`port` has 1 entries, but there are 3 records",
        ),
        (
            Reply {
                port: vec![0, 2, 0],
                ..full()
            },
            "`port[1]` is 2, but the pipeline has 2 ports",
        ),
        (
            Reply {
                value_ends: vec![1, 3],
                ..full()
            },
            "`value-ends` has 2 entries",
        ),
        (
            Reply {
                value_ends: vec![2, 1, 3],
                ..full()
            },
            "`value-ends` does not ascend",
        ),
        (
            Reply {
                value_ends: vec![1, 1, 2],
                ..full()
            },
            "`value-ends` ends at 2, but `values` has 3",
        ),
        (
            Reply {
                value_ends: vec![1, 1, 9],
                ..full()
            },
            "`value-ends` ends at 9",
        ),
        (
            Reply {
                values: b"a".to_vec(),
                ..passthrough()
            },
            "`values` has 1 bytes, but `value-ends` is empty",
        ),
        (
            Reply {
                null_values: vec![0],
                ..passthrough()
            },
            "`null-values` is given",
        ),
        (
            Reply {
                null_values: vec![1, 1],
                ..full()
            },
            "`null-values` does not ascend at index 1",
        ),
        (
            Reply {
                null_values: vec![3],
                ..full()
            },
            "`null-values[0]` is 3",
        ),
        (
            Reply {
                null_values: vec![0],
                ..full()
            },
            "value 0 is null, but has 1 bytes",
        ),
        (
            Reply {
                null_keys: vec![2],
                ..full()
            },
            "key 2 is null, but has 1 bytes",
        ),
        (
            Reply {
                header_ends: vec![4, 9, 9],
                ..full()
            },
            "headers of record 0: ",
        ),
        (
            Reply {
                timestamps: vec![1],
                ..full()
            },
            "`timestamps` has 1 entries",
        ),
        (
            Reply {
                timestamps: vec![1, u64::MAX, 3],
                ..full()
            },
            "`timestamps[1]` is later than",
        ),
        (
            Reply {
                values: vec![0; 70],
                value_ends: vec![0, 0, 70],
                ..full()
            },
            "80 bytes of keys",
        ),
        (
            Reply {
                failed: vec![failure(3)],
                ..passthrough()
            },
            "`failed[0]` names record 3",
        ),
        (
            Reply {
                source: vec![],
                failed: vec![failure(1), failure(1)],
                ..passthrough()
            },
            "`failed` does not ascend",
        ),
        (
            Reply {
                failed: vec![failure(1)],
                ..passthrough()
            },
            "record 1 derives from record 1, which is in `failed`",
        ),
    ];
    for (raw, expected) in cases {
        let reason = reason(raw);
        assert!(
            reason.starts_with(expected),
            "got: {reason}\nexpected: {expected}"
        );
    }
}

#[test]
fn no_ports_no_records() {
    let expected = Expected {
        ports: 0,
        ..EXPECTED
    };
    let none = Reply {
        processed: 3,
        ..Reply::default()
    };
    assert!(Output::check(none, &expected).unwrap().is_empty());
    assert!(
        Output::check(passthrough(), &expected)
            .unwrap_err()
            .contains("no output")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]
    #[test]
    fn arbitrary_output_never_panics(bytes in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..120)) {
        check_arbitrary(&bytes);
    }
}
