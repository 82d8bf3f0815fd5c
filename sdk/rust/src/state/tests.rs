use std::collections::BTreeMap;

use super::*;
use crate::prelude::{Config, Consumer, Failure, Outputs, Record, Records, Reject};
use crate::testing::{Harness, Input};

fn puts(count: usize) -> impl Iterator<Item = Input> {
    (0..count).map(|number| Input::new(format!("k{number:05}"), format!("v{number}")))
}

fn store(record: Record<'_>, _: &mut Outputs, state: &mut State) -> Result<(), Failure> {
    match record.nullable_value() {
        Some(value) => state.put(record.key().unwrap_or_default(), value),
        None => state.delete(record.key().unwrap_or_default()),
    }
    match record.value() {
        b"poison" => Err(Reject::new("poison")),
        _ => Ok(()),
    }
}

#[test]
fn a_batch_writes_once_and_reads_nothing_to_write() {
    let mut harness = Harness::new().consumer_fn(store);
    harness.process(puts(512));
    assert_eq!(harness.state_calls(), (0, 1));
    assert_eq!(harness.state("k00511"), Some(&b"v511"[..]));
    harness.process([Input::tombstone("k00000"), Input::new("k00001", "again")]);
    assert_eq!(
        harness.state_calls(),
        (0, 3),
        "one put-many and one delete-many"
    );
    assert_eq!(
        (harness.state("k00000"), harness.state("k00001")),
        (None, Some(&b"again"[..]))
    );
}

#[test]
fn a_failing_record_changes_nothing() {
    let mut harness = Harness::new().initial_state("old", "1").consumer_fn(store);
    let records = [
        Input::new("a", "1"),
        Input::new("a", "poison"),
        Input::new("b", "poison"),
        Input::new("old", "poison"),
        Input::new("c", "2"),
    ];
    let outcome = harness.process(records);
    assert_eq!(outcome.failures.len(), 3);
    let entries: Vec<_> = harness.state_entries().collect();
    let expected: [(&[u8], &[u8]); 3] = [(b"a", b"1"), (b"c", b"2"), (b"old", b"1")];
    assert_eq!(entries, expected);
    // What was taken back can be changed again, in the same instance.
    harness.process([Input::new("b", "3"), Input::new("old", "4")]);
    assert_eq!(
        (harness.state("b"), harness.state("old")),
        (Some(&b"3"[..]), Some(&b"4"[..]))
    );
}

#[test]
fn reads_see_own_writes_and_what_was_taken_back_is_asked_for_again() {
    let mut harness = Harness::new()
        .initial_state("n", 5u64.to_le_bytes())
        .consumer_fn(|record, out, state| {
            if record.value() == b"poison" {
                state.put("n", 99u64.to_le_bytes());
                assert_eq!(state.count("n"), 99);
                return Err(Reject::new("poison"));
            }
            out.emit(state.add("n", 1).to_string());
            Ok(())
        });
    let outcome = harness.process([
        Input::value("poison"),
        Input::value(""),
        Input::value("poison"),
        Input::value(""),
    ]);
    assert_eq!(outcome.values(), ["6", "7"]);
    assert_eq!(harness.state_calls(), (1, 1));
}

#[test]
fn a_failed_batch_is_forgotten() {
    struct FailsAtTheEnd;
    impl Consumer for FailsAtTheEnd {
        fn open(_: &Config) -> Result<Self, Failure> {
            Ok(Self)
        }
        fn process(
            &mut self,
            record: Record<'_>,
            out: &mut Outputs,
            state: &mut State,
        ) -> Result<(), Failure> {
            out.emit(state.add("n", 1).to_string());
            state.put("last", record.value());
            Ok(())
        }
        fn finish_batch(&mut self, _: &mut Outputs, state: &mut State) -> Result<(), Failure> {
            match state.get("last") {
                Some(b"poison") => Err(Reject::new("poisoned")),
                _ => Ok(()),
            }
        }
    }
    let mut harness = Harness::new().consumer::<FailsAtTheEnd>().unwrap();
    assert_eq!(harness.process([Input::value("a")]).values(), ["1"]);
    assert_eq!(
        harness.try_process([Input::value("poison")]).unwrap_err(),
        "poisoned"
    );
    assert_eq!(harness.process([Input::value("b")]).values(), ["2"]);
}

#[test]
fn named_keys_are_read_in_one_call() {
    struct Named;
    impl Consumer for Named {
        fn open(_: &Config) -> Result<Self, Failure> {
            Ok(Self)
        }
        fn process(
            &mut self,
            record: Record<'_>,
            out: &mut Outputs,
            state: &mut State,
        ) -> Result<(), Failure> {
            out.emit(state.get(record.value()).unwrap_or(b"none"));
            Ok(())
        }
        fn state_keys(&self, records: Records<'_>, keys: &mut StateKeys) {
            for record in records {
                keys.push(record.value());
            }
        }
    }
    let mut harness = Harness::new()
        .initial_state("a", "1")
        .initial_state("b", "2");
    harness = harness.initial_state("empty", "");
    let mut harness = harness.consumer::<Named>().unwrap();
    let records = ["a", "x", "b", "a", "empty"].map(Input::value);
    assert_eq!(
        harness.process(records).values(),
        ["1", "none", "2", "1", ""]
    );
    assert_eq!(harness.state_calls(), (1, 0));
}

#[test]
fn ranges_see_own_changes() {
    let mut harness = Harness::new()
        .initial_state("a", "1")
        .initial_state("b", "2")
        .initial_state("c", "3")
        .initial_state("d", "4")
        .consumer_fn(|_, out, state| {
            state.delete("b");
            state.put("bb", "new");
            state.put("c", "changed");
            let text = |entries: Vec<Entry>| {
                let entry = |(key, value): (Vec<u8>, Vec<u8>)| [key, b"=".into(), value].concat();
                entries
                    .into_iter()
                    .map(entry)
                    .collect::<Vec<_>>()
                    .join(&b' ')
            };
            out.emit(text(state.range(b"a", None, 10)));
            out.emit(text(state.range(b"b", Some(b"d"), 10)));
            out.emit(text(state.range(b"a", None, 2)));
            Ok(())
        });
    let outcome = harness.process([Input::value("")]);
    assert_eq!(
        outcome.values(),
        ["a=1 bb=new c=changed d=4", "bb=new c=changed", "a=1 bb=new"]
    );
}

#[test]
fn long_ranges_are_read_in_pages() {
    let mut harness = Harness::new();
    for number in 0..70_000u32 {
        harness = harness.initial_state(number.to_be_bytes(), "x");
    }
    let mut harness = harness.consumer_fn(|_, out, state| {
        let entries = state.range(&[], None, u32::MAX);
        assert!(entries.is_sorted());
        out.emit(entries.len().to_string());
        Ok(())
    });
    assert_eq!(harness.process([Input::value("")]).values(), ["70000"]);
    assert_eq!(harness.state_calls(), (2, 0));
}

#[test]
fn changes_tell_each_changed_key_once() {
    struct Latest;
    impl Consumer for Latest {
        fn open(_: &Config) -> Result<Self, Failure> {
            Ok(Self)
        }
        fn process(
            &mut self,
            record: Record<'_>,
            out: &mut Outputs,
            state: &mut State,
        ) -> Result<(), Failure> {
            store(record, out, state)
        }
        fn finish_batch(&mut self, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
            for (key, value) in state.changes() {
                match value {
                    Some(value) => out.emit_keyed(key, value),
                    None => out.message().key(key).null_value().send(),
                }
            }
            Ok(())
        }
    }
    let mut harness = Harness::new().consumer::<Latest>().unwrap();
    let records = [
        Input::new("a", "1"),
        Input::new("b", "1"),
        Input::new("a", "2"),
        Input::new("c", "poison"),
        Input::tombstone("b"),
    ];
    let outcome = harness.process(records);
    let pairs: Vec<_> = outcome
        .outputs
        .iter()
        .map(|o| (o.key_str(), o.value.as_deref()))
        .collect();
    assert_eq!(pairs, [("a", Some(&b"2"[..])), ("b", None)]);
    assert!(harness.process([]).outputs.is_empty());
}

/// Random operations against a plain map, with an instance so small that it always evicts.
#[test]
fn behaves_as_a_map_however_small_it_is() {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut harness = Harness::new().consumer_fn(|record, out, state| {
        state.set_limits(2_000, 10);
        let key = record.key().unwrap_or_default();
        out.emit_keyed(key, state.get(key).unwrap_or(b"none"));
        store(record, out, state)
    });
    let mut model = BTreeMap::new();
    for _ in 0..200 {
        let (mut records, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let key = format!("k{}", random() % 40);
            let value = match random() % 4 {
                0 => None,
                1 => Some("poison".to_owned()),
                _ => Some(format!("{:x}", random() >> (random() % 60))),
            };
            if value.as_deref() != Some("poison") {
                let now = model.get(&key).cloned().unwrap_or("none".to_owned());
                expected.push((key.clone(), now));
                match value.clone() {
                    Some(value) => model.insert(key.clone(), value),
                    None => model.remove(&key),
                };
            }
            records.push(match value {
                Some(value) => Input::new(key, value),
                None => Input::tombstone(key),
            });
        }
        let outcome = harness.process(records);
        let seen = outcome.outputs.iter();
        let seen: Vec<_> = seen
            .map(|o| (o.key_str().to_owned(), o.value_str().to_owned()))
            .collect();
        assert_eq!(seen, expected);
    }
    let held: BTreeMap<_, _> = harness
        .state_entries()
        .map(|(key, value)| {
            (
                String::from_utf8_lossy(key).into(),
                String::from_utf8_lossy(value).into(),
            )
        })
        .collect();
    assert_eq!(held, model);
}
