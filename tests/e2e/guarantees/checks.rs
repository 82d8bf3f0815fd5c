//! What must be so of a ledger: at any time, and when everything has come to its end.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Entry, Ledger, Letter, Outcome, PIPELINES, Place, Stage, Told, When};
use super::scene::{MAX_ATTEMPTS, MAX_RECORDS, VERSIONS_WITH_STATE};
use super::workload::Workload;

/// Violations of a check that are told.
const MAX_TOLD: usize = 4;

/// A check: its name, and what it finds amiss.
type Check = (&'static str, fn(&Ledger<'_>) -> Vec<String>);

const CHECKS: [Check; 8] = [
    ("one_outcome_each", one_outcome_each),
    ("order_of_each_key", order_of_each_key),
    ("state_is_a_fold", state_is_a_fold),
    ("nothing_doubled", nothing_doubled),
    ("nothing_lost", nothing_lost),
    ("queue_counts_add_up", queue_counts_add_up),
    ("both_versions_did_something", both_versions_did_something),
    ("some_were_in_time", some_were_in_time),
];

/// Holds all checks against a ledger.
#[track_caller]
pub fn assert_holds(ledger: &Ledger<'_>, seed: u64) {
    let violations = violations(ledger);
    let Told {
        setting,
        kill_count,
        ..
    } = &ledger.told;
    assert!(
        violations.is_empty(),
        "MILLSTREAM_SEED={seed}, {setting:?}, {kill_count} kills:\n{}",
        violations.join("\n")
    );
}

/// What is amiss.
fn violations(ledger: &Ledger<'_>) -> Vec<String> {
    let mut told = Vec::new();
    for (name, check) in CHECKS {
        let found = check(ledger);
        let count = found.len();
        let some = found.into_iter().take(MAX_TOLD);
        told.extend(some.map(|what| format!("{name}: {what}")));
        if count > MAX_TOLD {
            told.push(format!("{name}: … {count} in all"));
        }
    }
    told
}

/// Every record of `in`, and every record that `first` has sent, has at most one outcome, and one when everything
/// is done: the outputs or the dead letter that its word says.
fn one_outcome_each(ledger: &Ledger<'_>) -> Vec<String> {
    let mut amiss = Vec::new();
    if ledger.told.setting.is_at_least_once() {
        return amiss;
    }
    for stage in ledger.stages() {
        let pipeline = PIPELINES[stage.number];
        for (place, outcomes) in &stage.outcomes {
            let Some(input) = stage.inputs.get(place) else {
                amiss.push(format!("{pipeline}: {} came from nowhere", outcomes[0]));
                continue;
            };
            if outcomes.len() > 1 {
                amiss.push(format!("{pipeline}: {input} has {}", several(outcomes)));
            }
            let word = ledger.told.sent[input.number as usize].words[stage.number];
            for outcome in outcomes {
                let text = match outcome {
                    Outcome::Output(entry) => &entry.text,
                    Outcome::Letter(letter) => &letter.entry.text,
                };
                if !text.starts_with(&input.text) || outcome_key(outcome) != input.key {
                    amiss.push(format!("{pipeline}: {outcome} is not of {input}"));
                }
                if let Some(expected) = unexpected(ledger, &stage, word, outcome) {
                    amiss.push(format!("{pipeline}: {outcome}, expected {expected}"));
                }
            }
        }
        if ledger.is_idle() && !ledger.told.setting.is_at_most_once() {
            let without = without_outcome(&stage);
            amiss.extend(without.map(|input| format!("{pipeline}: {input} has no outcome")));
        }
    }
    amiss
}

/// What was to be expected, if an outcome is not what the word says.
fn unexpected(
    ledger: &Ledger<'_>,
    stage: &Stage<'_>,
    word: &str,
    outcome: &Outcome<'_>,
) -> Option<String> {
    let expected = match word {
        "reject" => Some(("rejected", 1)),
        "poison-trap" => Some(("trap", MAX_ATTEMPTS)),
        "poison-loop" => Some(("deadline", MAX_ATTEMPTS)),
        "poison-memory" => Some(("memory", MAX_ATTEMPTS)),
        "retry-9" => Some(("max-attempts", MAX_ATTEMPTS)),
        _ => None,
    };
    match (outcome, expected) {
        (Outcome::Letter(letter), _) if has_expired(letter, ledger) => {
            let is_message = stage.number == 1 && letter.origin.0 == "queue:work";
            (!is_message).then(|| "to live for ever".to_owned())
        }
        (Outcome::Output(_), None) => None,
        (Outcome::Output(_), Some((reason, _))) => Some(format!("a dead letter: {reason}")),
        // A fault takes its whole batch with it, and nothing is tried again.
        (Outcome::Letter(letter), _) if ledger.told.setting.is_at_most_once() => {
            let is_first = letter.attempts == 1 && is_of(letter, ledger, stage);
            (!is_first).then(|| "a letter after one attempt".to_owned())
        }
        (Outcome::Letter(_), None) => Some("an output".to_owned()),
        (Outcome::Letter(letter), Some((reason, attempts))) => {
            // A call that was not given the processor in time is an attempt, too, on a machine that is busy.
            let was_late = letter.reason == "deadline" && letter.attempts == MAX_ATTEMPTS;
            let is_as_expected =
                letter.reason == reason && (attempts..=MAX_ATTEMPTS).contains(&letter.attempts);
            let is_right = (was_late || is_as_expected) && is_of(letter, ledger, stage);
            (!is_right).then(|| format!("{reason} after {attempts} attempts"))
        }
    }
}

/// Whether that is what has become of a message, in a history in which messages expire.
fn has_expired(letter: &Letter, ledger: &Ledger<'_>) -> bool {
    ledger.told.setting.time_to_live.is_some() && letter.reason == "expired"
}

/// Whether a letter names the pipeline and what the pipeline reads.
fn is_of(letter: &Letter, ledger: &Ledger<'_>, stage: &Stage<'_>) -> bool {
    let source = ledger.told.setting.input(stage.number);
    letter.origin.0 == source && letter.pipeline == PIPELINES[stage.number]
}

/// What a pipeline sends of a key is in the order in which it was given.
fn order_of_each_key(ledger: &Ledger<'_>) -> Vec<String> {
    let mut amiss = Vec::new();
    if !ledger.told.setting.is_ordered() {
        return amiss;
    }
    for outputs in &ledger.outputs {
        for of_key in by_key(outputs).values() {
            for pair in of_key.windows(2) {
                let [before, after] = [0, 1].map(|at| {
                    let proofs = pair[at].proofs.iter();
                    proofs.map(|proof| proof.place).collect::<Vec<Place>>()
                });
                let mut places = before.iter().zip(&after);
                let is_ordered = match ledger.told.setting.is_at_least_once() {
                    true => places.all(|(before, after)| before <= after),
                    false => places.all(|(before, after)| before < after),
                };
                if !is_ordered {
                    amiss.push(format!("{} comes after {}", pair[1], pair[0]));
                }
            }
        }
    }
    amiss
}

/// The state that each output proves is that of the output of its key before, with its record.
fn state_is_a_fold(ledger: &Ledger<'_>) -> Vec<String> {
    let mut amiss = Vec::new();
    if !ledger.told.setting.keeps_state {
        return amiss;
    }
    for outputs in &ledger.outputs {
        for of_key in by_key(outputs).values() {
            let mut state = (0, 0);
            for entry in of_key {
                state = fold(state, entry.number);
                let proof = entry.proofs.last().map(|proof| (proof.count, proof.hash));
                if proof != Some(state) {
                    amiss.push(format!("{entry}: the fold is {}:{:016x}", state.0, state.1));
                    break;
                }
            }
        }
    }
    amiss
}

/// As the plugin does it.
fn fold((count, hash): (u64, u64), number: u64) -> (u64, u64) {
    let mixed = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (count + 1, mixed.rotate_left(29))
}

/// No record has two outcomes, and none waits in the queue that has one. What was sent with a deduplication id is
/// there once, whoever has repeated it.
fn nothing_doubled(ledger: &Ledger<'_>) -> Vec<String> {
    let mut amiss = Vec::new();
    if ledger.told.setting.is_at_least_once() {
        return amiss;
    }
    let stages = ledger.stages();
    for stage in &stages {
        let doubled = stage
            .outcomes
            .values()
            .filter(|outcomes| outcomes.len() > 1);
        let pipeline = PIPELINES[stage.number];
        amiss.extend(doubled.map(|outcomes| format!("{pipeline}: {}", several(outcomes))));
    }
    if ledger.source_queue.is_some() {
        let mut numbers = BTreeMap::new();
        for input in &ledger.inputs {
            if let Some(other) = numbers.insert(input.number, input) {
                amiss.push(format!("{other}, and {input}"));
            }
        }
    }
    let in_queue = ledger.work_queue.iter().flat_map(|queue| &queue.messages);
    let mut waiting = BTreeSet::new();
    for message in in_queue.chain(&ledger.work_topic) {
        if !waiting.insert(message.place_in_in(1)) {
            amiss.push(format!("{message} is there twice"));
        }
        if ledger.work_queue.is_some()
            && let Some(outcomes) = stages[1].outcomes.get(&message.place_in_in(1))
        {
            amiss.push(format!(
                "{message} waits, and there is {}",
                several(outcomes)
            ));
        }
    }
    amiss
}

/// What was acknowledged is there as it was sent; what is there has an outcome when everything is done. At-most-once
/// loses one batch of each instance with each kill at most.
fn nothing_lost(ledger: &Ledger<'_>) -> Vec<String> {
    let mut amiss = Vec::new();
    let mut stored = vec![false; ledger.told.sent.len()];
    for input in &ledger.inputs {
        let sent = &ledger.told.sent[input.number as usize];
        if input.text != Workload::value(input.number, sent) || input.key != sent.key {
            amiss.push(format!("{input} is not what was sent: {sent:?}"));
        }
        stored[input.number as usize] = true;
    }
    let source = ledger.told.setting.input(0);
    let numbered = (0..).zip(&stored);
    let lost = numbered.filter(|(_, is_stored)| !**is_stored);
    // A message that is tried again later is in no place that can be read.
    if ledger.source_queue.is_none() || ledger.is_idle() {
        amiss.extend(lost.map(|(number, _): (u64, _)| {
            format!("record {number} was acknowledged and is not in {source}")
        }));
    }
    if ledger.work_queue.is_none() && ledger.work_topic.len() != ledger.outputs[0].len() {
        let [work, audit] = [ledger.work_topic.len(), ledger.outputs[0].len()];
        amiss.push(format!(
            "{work} records in topic:work, {audit} in topic:audit"
        ));
    }
    if !ledger.is_idle() {
        return amiss;
    }
    for stage in ledger.stages() {
        let pipeline = PIPELINES[stage.number];
        let lost = without_outcome(&stage).map(|input| format!("{pipeline}: {input}"));
        let lost: Vec<String> = lost.collect();
        let bound = match ledger.told.setting.is_at_most_once() {
            true => {
                let at_a_time = ledger.told.setting.batches_at_a_time(stage.number);
                ledger.told.kill_count * at_a_time * MAX_RECORDS
            }
            false => 0,
        };
        if lost.len() as u64 > bound {
            amiss.extend(lost);
        }
    }
    amiss
}

/// Every message that was ever enqueued waits, is parked, or has an outcome; and what is told of queues is so.
fn queue_counts_add_up(ledger: &Ledger<'_>) -> Vec<String> {
    let mut amiss = Vec::new();
    for (at, pipeline) in PIPELINES.iter().enumerate() {
        let (letters, described) = (ledger.letters[at].len(), ledger.described_letters[at]);
        if letters as u64 != described {
            amiss.push(format!(
                "{pipeline} has {letters} dead letters, its queue says {described}"
            ));
        }
    }
    for queue in ledger.source_queue.iter().chain(&ledger.work_queue) {
        let (name, waiting) = (queue.name, queue.messages.len() as u64);
        if (waiting, waiting) != (queue.described, queue.described_by_pipeline) {
            amiss.push(format!(
                "{waiting} messages are in queue:{name}; it says {}, its pipeline {}",
                queue.described, queue.described_by_pipeline
            ));
        }
        if ledger.is_idle() {
            let messages = queue.messages.iter();
            amiss.extend(messages.map(|message| format!("{message} still waits")));
        }
    }
    let Some(queue) = &ledger.work_queue else {
        return amiss;
    };
    let waiting = queue
        .messages
        .iter()
        .map(|message| (message.place, message));
    let sent = ledger.outputs[1].iter();
    let sent = sent.map(|entry| (entry.proofs[1].place, entry));
    let letters = ledger.letters[1].iter().chain(&ledger.expired);
    let letters = letters.map(|letter| (letter.origin.1, &letter.entry));
    let mut at: BTreeMap<u64, &Entry> = BTreeMap::new();
    for (place, entry) in waiting.chain(sent).chain(letters) {
        if let Some(other) = at.insert(place.offset, entry) {
            amiss.push(format!("message {}: {entry}, and {other}", place.offset));
        }
    }
    let enqueued = ledger.outputs[0].len() as u64;
    if let Some((offset, entry)) = at.last_key_value()
        && *offset >= enqueued
    {
        amiss.push(format!("message {offset}: {entry}, of {enqueued} messages"));
    }
    if ledger.is_idle() && !ledger.told.setting.is_at_most_once() {
        let missing = (0..enqueued).filter(|offset| !at.contains_key(offset));
        amiss.extend(missing.map(|offset| format!("message {offset} of {enqueued} is nowhere")));
    }
    amiss
}

/// How often a pipeline has gone on with another version, as its outputs show: in the order of the partitions that it
/// reads.
pub fn version_changes(ledger: &Ledger<'_>, pipeline: usize) -> usize {
    let outputs = ledger.outputs[pipeline].iter();
    let proofs = outputs.filter_map(|entry| entry.proofs.last());
    let mut versions: Vec<_> = proofs.map(|proof| (proof.place, proof.version)).collect();
    versions.sort_unstable();
    let pairs = versions.windows(2);
    let changes = pairs.filter(|pair| {
        let [(before, was), (after, is)] = [pair[0], pair[1]];
        before.partition == after.partition && was != is
    });
    changes.count()
}

/// A deploy is one: the state went through the hands of both versions.
fn both_versions_did_something(ledger: &Ledger<'_>) -> Vec<String> {
    let mut amiss = Vec::new();
    if ledger.told.when != When::Over || !ledger.told.setting.keeps_state {
        return amiss;
    }
    for (at, outputs) in ledger.outputs.iter().enumerate() {
        let proofs = outputs.iter().filter_map(|entry| entry.proofs.last());
        let versions: BTreeSet<usize> = proofs.map(|proof| proof.version).collect();
        if versions.len() < VERSIONS_WITH_STATE {
            amiss.push(format!("{}: versions {versions:?} only", PIPELINES[at]));
        }
    }
    amiss
}

/// A time to live is one: whatever has expired, other messages were processed.
fn some_were_in_time(ledger: &Ledger<'_>) -> Vec<String> {
    if ledger.told.when != When::Over || ledger.told.setting.time_to_live.is_none() {
        return Vec::new();
    }
    match ledger.outputs[1].len() {
        0 => vec![format!(
            "{} messages have expired, none was processed",
            ledger.expired.len()
        )],
        _ => Vec::new(),
    }
}

fn by_key(entries: &[Entry]) -> BTreeMap<&str, Vec<&Entry>> {
    let mut by_key: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        by_key.entry(&entry.key).or_default().push(entry);
    }
    by_key
}

fn without_outcome<'a>(stage: &'a Stage<'_>) -> impl Iterator<Item = &'a Entry> {
    let inputs = stage.inputs.iter();
    let without = inputs.filter(|(place, _)| !stage.outcomes.contains_key(place));
    without.map(|(_, input)| *input)
}

fn outcome_key<'a>(outcome: &'a Outcome<'_>) -> &'a str {
    match outcome {
        Outcome::Output(entry) => &entry.key,
        Outcome::Letter(letter) => &letter.entry.key,
    }
}

fn several(outcomes: &[Outcome<'_>]) -> String {
    let told: Vec<String> = outcomes.iter().map(ToString::to_string).collect();
    told.join(" AND ")
}
