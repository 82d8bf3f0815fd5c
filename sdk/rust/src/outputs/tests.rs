use super::*;
use crate::Reject;
use crate::prelude::{Failure, State};
use crate::testing::{Harness, Input, Outcome};

type Process = fn(Record<'_>, &mut Outputs, &mut State) -> Result<(), Failure>;

fn three() -> [Input; 3] {
    [
        Input::new("k0", "v0").header("h", "0").timestamp_ms(10),
        Input::value("v1").timestamp_ms(11),
        Input::tombstone("k2").timestamp_ms(12),
    ]
}

fn run(process: Process) -> Outcome {
    Harness::new()
        .ports(["main", "side"])
        .consumer_fn(process)
        .process(three())
}

/// The reply itself, to see which columns are empty.
fn reply(process: Process) -> Output {
    let batch = Batch {
        keys: b"ab".to_vec(),
        key_ends: vec![1, 2],
        values: b"xy".to_vec(),
        value_ends: vec![1, 2],
        timestamps: vec![1, 2],
        offsets: vec![0, 1],
        ..Batch::empty()
    };
    let (mut outputs, mut state) = (Outputs::new(), State::new());
    outputs.begin(Rc::new(batch.clone()));
    for record in batch.records() {
        outputs.enter(record.index());
        process(record, &mut outputs, &mut state).unwrap();
    }
    outputs.finish().unwrap()
}

#[test]
fn forwarding_fills_no_column() {
    let output = reply(|record, out, _| {
        out.forward(record);
        Ok(())
    });
    assert_eq!(output.source, [0, 1]);
    assert!(output.value_ends.is_empty() && output.key_ends.is_empty() && output.port.is_empty());
    assert!(output.header_ends.is_empty() && output.timestamps.is_empty());
}

#[test]
fn a_new_value_fills_the_values_only() {
    let output = reply(|record, out, _| {
        out.emit(record.value().to_ascii_uppercase());
        Ok(())
    });
    assert_eq!(
        (output.values.as_slice(), output.value_ends.as_slice()),
        (&b"XY"[..], &[1, 2][..])
    );
    assert!(output.key_ends.is_empty() && output.port.is_empty() && output.timestamps.is_empty());
}

#[test]
fn late_columns_take_the_sources_fields() {
    let outcome = run(|record, out, _| {
        out.forward(record);
        if record.index() == 1 {
            out.message()
                .key("new")
                .header("seen-by", "me")
                .timestamp_ms(99)
                .value("changed")
                .send();
            out.to("side").emit_keyed("side-key", "side-value");
        }
        Ok(())
    });
    let keys: Vec<_> = outcome.outputs.iter().map(|o| o.key.as_deref()).collect();
    let expected: [Option<&[u8]>; 5] = [
        Some(b"k0"),
        None,
        Some(b"new"),
        Some(b"side-key"),
        Some(b"k2"),
    ];
    assert_eq!(keys, expected);
    let values: Vec<_> = outcome.outputs.iter().map(|o| o.value.as_deref()).collect();
    let expected: [Option<&[u8]>; 5] = [
        Some(b"v0"),
        Some(b"v1"),
        Some(b"changed"),
        Some(b"side-value"),
        None,
    ];
    assert_eq!(values, expected);
    let times: Vec<_> = outcome.outputs.iter().map(|o| o.timestamp_ms).collect();
    assert_eq!(times, [Some(10), Some(11), Some(99), Some(11), Some(12)]);
    let headers: Vec<_> = outcome.outputs.iter().map(|o| o.headers.len()).collect();
    assert_eq!(headers, [1, 0, 1, 0, 0]);
    let ports: Vec<_> = outcome.outputs.iter().map(|o| o.port.as_str()).collect();
    assert_eq!(ports, ["main", "main", "main", "side", "main"]);
}

#[test]
fn headers_are_added_to_the_sources() {
    let outcome = run(|_, out, _| {
        out.message().header("a", "1").null_header("b").send();
        out.message().without_headers().header("c", "2").send();
        Ok(())
    });
    let names = |index: usize| -> Vec<&str> {
        outcome.outputs[index]
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .collect()
    };
    assert_eq!(names(0), ["h", "a", "b"]);
    assert_eq!(names(1), ["c"]);
    assert_eq!(names(2), ["a", "b"]);
}

#[test]
fn a_failing_record_emits_nothing() {
    let outcome = run(|record, out, _| {
        out.message()
            .key("x")
            .value(record.value())
            .timestamp_ms(1)
            .send();
        out.to("side")
            .message()
            .null_value()
            .header("h", "2")
            .send();
        if record.index() == 1 {
            return Err(Reject::new("no"));
        }
        Ok(())
    });
    let sources: Vec<_> = outcome.outputs.iter().map(|o| o.source).collect();
    assert_eq!(sources, [Some(0), Some(0), Some(2), Some(2)]);
    assert_eq!(outcome.failures.len(), 1);
    assert_eq!(
        (outcome.failures[0].index, outcome.failures[0].is_rejected()),
        (1, true)
    );
    assert_eq!(outcome.outputs[2].value.as_deref(), Some(&b""[..]));
    assert_eq!(outcome.outputs[3].value, None);
}

#[test]
fn a_written_value_that_fails_is_taken_back() {
    let outcome = run(|record, out, _| {
        out.emit_with(|writer| {
            writer.push("half");
            match record.index() {
                0 => Err(Reject::new("stopped halfway")),
                _ => Ok(()),
            }
        })
    });
    assert_eq!(outcome.values(), ["half", "half"]);
    assert_eq!(outcome.failures[0].reason, "stopped halfway");
}

#[test]
fn a_value_writer_shows_its_own_value_only() {
    let outcome = run(|record, out, _| {
        out.emit_with(|writer| {
            use std::fmt::Write as _;
            writer.push(record.value());
            assert_eq!(&**writer, record.value());
            writer.make_ascii_uppercase();
            write!(writer, "-{}", record.index())
        })?;
        Ok(())
    });
    assert_eq!(outcome.values(), ["V0-0", "V1-1", "-2"]);
}

#[test]
fn an_unknown_port_fails_the_batch_and_says_which_there_are() {
    let mut harness = Harness::new().ports(["stats"]).consumer_fn(|_, out, _| {
        out.to("sats").emit("x");
        Ok(())
    });
    let reason = harness.try_process(three()).unwrap_err();
    assert_eq!(
        reason,
        "the plugin sends to port `sats`, which the manifest's `to` does not have; it has `stats`"
    );
}

#[test]
fn messages_without_a_source_stand_alone() {
    let outcome = run(|record, out, _| {
        if record.index() == 0 {
            out.message()
                .without_source()
                .header("a", "1")
                .value("v")
                .send();
            out.message().without_source().key("k").send();
        }
        Ok(())
    });
    assert_eq!(
        (outcome.outputs[0].source, outcome.outputs[0].timestamp_ms),
        (None, None)
    );
    assert_eq!(outcome.outputs[0].headers.len(), 1);
    assert_eq!(
        (
            outcome.outputs[1].key_str(),
            outcome.outputs[1].value.as_ref()
        ),
        ("k", None)
    );
}
