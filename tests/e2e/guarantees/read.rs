//! Reads what a history has left, place by place.

use serde_json::Value as Json;

use super::ledger::{Entry, InputQueue, Letter, Place};
use crate::support::{Consumed, Sandbox};

/// The records of a topic, partition after partition.
#[track_caller]
pub fn topic(sandbox: &Sandbox, topic: &str) -> Vec<Entry> {
    let records = sandbox.consume(topic);
    crate::support::records::assert_dense(&records);
    let entry = |record: &Consumed| {
        let place = Place {
            partition: record.partition,
            offset: record.offset,
        };
        Entry::new(
            format!("topic:{topic}/{place}"),
            place,
            record.key_text(),
            record.value_text(),
        )
    };
    records.iter().map(entry).collect()
}

/// How many messages a queue says that it holds, in any state.
#[track_caller]
pub fn held(sandbox: &Sandbox, queue: &str) -> u64 {
    let described = sandbox.json(&["queue", "describe", queue]);
    ["waiting", "delayed", "leased"]
        .iter()
        .map(|count| number_of(&described[*count]))
        .sum()
}

/// The messages of a queue, as `consume --peek` prints them.
#[track_caller]
fn peek(sandbox: &Sandbox, queue: &str) -> Vec<Json> {
    let source = format!("queue:{queue}");
    let printed = sandbox.succeed(&["consume", &source, "--peek", "--output", "json"]);
    let messages = printed.lines().map(serde_json::from_str);
    messages.collect::<Result<_, _>>().unwrap()
}

#[track_caller]
fn message_of(queue: &str, message: &Json) -> Entry {
    let place = Place {
        partition: 0,
        offset: number_of(&message["offset"]),
    };
    let seen = format!("queue:{queue}/{}", place.offset);
    Entry::new(
        seen,
        place,
        text_of(&message["key"]),
        text_of(&message["value"]),
    )
}

/// A queue, and what the pipeline that reads it says of it.
#[track_caller]
pub fn queue(sandbox: &Sandbox, name: &'static str, pipeline: &str) -> InputQueue {
    let messages = peek(sandbox, name);
    let pipeline = sandbox.json(&["pipeline", "describe", pipeline]);
    InputQueue {
        name,
        messages: messages.iter().map(|it| message_of(name, it)).collect(),
        described: held(sandbox, name),
        described_by_pipeline: number_of(&pipeline["queues"][0]["messages"]),
    }
}

/// Everything that is known to have been enqueued in `in`: as an outcome tells it, it was the value without the proof.
pub fn of_source_queue(queue: &InputQueue, outputs: &[Entry], letters: &[Letter]) -> Vec<Entry> {
    let outputs = outputs.iter().map(|entry| {
        let (text, _) = entry.text.rsplit_once(' ').unwrap();
        let seen = format!("what is {}", entry.seen);
        Entry::new(seen, entry.proofs[0].place, &entry.key, text)
    });
    let letters = letters.iter().map(|letter| Entry {
        place: letter.origin.1,
        ..letter.entry.clone()
    });
    let waiting = queue.messages.iter().cloned();
    waiting.chain(outputs).chain(letters).collect()
}

/// What the queue `work` has given up on.
#[track_caller]
pub fn expired(sandbox: &Sandbox) -> Vec<Letter> {
    let messages = peek(sandbox, "expired");
    let letters = messages.iter().map(|message| {
        let headers = message["headers"].as_array().unwrap().iter();
        let find = |name: &str| headers.clone().find(|header| header[0] == name);
        let header = |name: &str| text_of(&find(name).unwrap_or_else(|| panic!("{message}"))[1]);
        let origin = header("millstream-origin");
        let (queue, offset) = origin.rsplit_once('/').unwrap();
        Letter {
            entry: message_of("expired", message),
            origin: (
                queue.to_owned(),
                Place {
                    partition: 0,
                    offset: offset.parse().unwrap(),
                },
            ),
            reason: header("millstream-reason").to_owned(),
            attempts: header("millstream-attempts").parse().unwrap(),
            pipeline: String::new(),
        }
    });
    letters.collect()
}

/// What a pipeline has given up on.
#[track_caller]
pub fn letters(sandbox: &Sandbox, pipeline: &str) -> Vec<Letter> {
    let listed = sandbox.json(&["dead-letter", "list", pipeline, "--max", "1000000"]);
    let letters = listed.as_array().unwrap().iter().map(|letter| {
        let origin = text_of(&letter["origin"]);
        let (name, offset) = origin.rsplit_once('/').unwrap();
        let (name, partition) = match name.starts_with("topic:") {
            true => name.rsplit_once('/').unwrap(),
            false => (name, "0"),
        };
        let of_origin = Place {
            partition: partition.parse().unwrap(),
            offset: offset.parse().unwrap(),
        };
        let id = number_of(&letter["id"]);
        let place = Place {
            partition: 0,
            offset: id,
        };
        let seen = format!("dead letter {id} of {pipeline}");
        Letter {
            entry: Entry::new(
                seen,
                place,
                text_of(&letter["key"]),
                text_of(&letter["value"]),
            ),
            origin: (name.to_owned(), of_origin),
            reason: text_of(&letter["reason"]).to_owned(),
            attempts: number_of(&letter["attempts"]),
            pipeline: text_of(&letter["pipeline"]).to_owned(),
        }
    });
    letters.collect()
}

#[track_caller]
fn text_of(json: &Json) -> &str {
    json.as_str().unwrap_or_else(|| panic!("{json} is no text"))
}

#[track_caller]
fn number_of(json: &Json) -> u64 {
    json.as_u64()
        .unwrap_or_else(|| panic!("{json} is no number"))
}
