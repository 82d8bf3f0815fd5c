//! Everything that can be read of a history, put together.

use std::collections::BTreeMap;
use std::fmt;

use super::read;
use super::scene::{Setting, Through};
use super::workload::Sent;
use crate::support::Sandbox;

/// The pipelines, in the order in which a record passes them.
pub const PIPELINES: [&str; 2] = ["first", "second"];

/// A partition and an offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub partition: u32,
    pub offset: u64,
}

/// What a plugin says of a record that it has processed.
#[derive(Clone, Copy, Debug)]
pub struct Proof {
    /// Where the record was that it processed.
    pub place: Place,
    /// Records of the key in the state, with this one.
    pub count: u64,
    /// What their numbers hash to.
    pub hash: u64,
    /// The number of the plugin's version among the scene's.
    pub version: usize,
}

/// A record wherever it was found.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it was found, for messages.
    pub seen: String,
    /// Where it was found.
    pub place: Place,
    pub key: String,
    /// The value.
    pub text: String,
    pub number: u64,
    /// One for each pipeline that it has passed.
    pub proofs: Vec<Proof>,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    pub entry: Entry,
    /// Topic or queue, and the place there.
    pub origin: (String, Place),
    pub reason: String,
    pub attempts: u64,
    pub pipeline: String,
}

/// What became of a record in a pipeline.
#[derive(Clone, Debug)]
pub enum Outcome<'a> {
    Output(&'a Entry),
    Letter(&'a Letter),
}

/// A queue that a pipeline reads.
#[derive(Debug)]
pub struct InputQueue {
    /// Its name.
    pub name: &'static str,
    /// The messages that it holds.
    pub messages: Vec<Entry>,
    /// What `queue describe` says that it holds, in any state.
    pub described: u64,
    /// What `pipeline describe` says.
    pub described_by_pipeline: u64,
}

/// When a ledger is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// After a kill: some records may be on their way.
    Killed,
    /// Nothing is left to do.
    Idle,
    /// At the end of the history.
    Over,
}

/// What the history knows of itself.
pub struct Told<'a> {
    pub setting: Setting,
    /// By number; all of them are acknowledged.
    pub sent: &'a [Sent],
    /// How many of them were sent before there was a pipeline, of which it is to have none.
    pub early_count: u64,
    /// Runs that were killed so far.
    pub kill_count: u64,
    pub when: When,
}

/// A ledger of a history.
pub struct Ledger<'a> {
    pub told: Told<'a>,
    /// The topic `in`; of a queue what waits there, and what has an outcome.
    pub inputs: Vec<Entry>,
    /// What each pipeline has sent: the topics `audit` and `out`, in order.
    pub outputs: [Vec<Entry>; 2],
    /// Each pipeline's dead letters.
    pub letters: [Vec<Letter>; 2],
    /// What `queue describe` says that each dead-letter queue holds.
    pub described_letters: [u64; 2],
    /// What has expired in the queue `work`.
    pub expired: Vec<Letter>,
    /// The topic `work`, if it is one.
    pub work_topic: Vec<Entry>,
    /// The queue `in`, if it is one.
    pub source_queue: Option<InputQueue>,
    /// The queue `work`, if it is one.
    pub work_queue: Option<InputQueue>,
}

/// One pipeline as the ledger shows it. A record is known by its place in `in`.
pub struct Stage<'a> {
    /// The pipeline's number.
    pub number: usize,
    /// What it was given.
    pub inputs: BTreeMap<Place, &'a Entry>,
    /// What became of it.
    pub outcomes: BTreeMap<Place, Vec<Outcome<'a>>>,
}

impl<'a> Ledger<'a> {
    /// Reads everything.
    #[track_caller]
    pub fn read(sandbox: &Sandbox, told: Told<'a>) -> Self {
        let Setting {
            source,
            through,
            time_to_live,
            ..
        } = told.setting;
        let queue = |name, pipeline| read::queue(sandbox, name, pipeline);
        let source_queue = (source == Through::Queue).then(|| queue("in", PIPELINES[0]));
        let is_queue = through == Through::Queue;
        let work_queue = is_queue.then(|| queue("work", PIPELINES[1]));
        let outputs = ["audit", "out"].map(|topic| read::topic(sandbox, topic));
        let letters = PIPELINES.map(|pipeline| read::letters(sandbox, pipeline));
        let inputs = match &source_queue {
            None => read::topic(sandbox, "in"),
            Some(queue) => read::of_source_queue(queue, &outputs[0], &letters[0]),
        };
        Self {
            told,
            inputs,
            outputs,
            letters,
            expired: match time_to_live {
                None => Vec::new(),
                Some(_) => read::expired(sandbox),
            },
            described_letters: PIPELINES
                .map(|pipeline| read::held(sandbox, &format!("{pipeline}.dead-letters"))),
            work_topic: match is_queue {
                true => Vec::new(),
                false => read::topic(sandbox, "work"),
            },
            source_queue,
            work_queue,
        }
    }

    /// Whether everything must have its outcome.
    pub fn is_idle(&self) -> bool {
        self.told.when != When::Killed
    }

    /// The pipelines.
    pub fn stages(&self) -> [Stage<'_>; 2] {
        [0, 1].map(|number| {
            let inputs = match number {
                0 => &self.inputs,
                _ => &self.outputs[0],
            };
            let mut outcomes: BTreeMap<Place, Vec<Outcome<'_>>> = BTreeMap::new();
            for entry in &self.outputs[number] {
                let found = outcomes.entry(entry.place_in_in(number + 1)).or_default();
                found.push(Outcome::Output(entry));
            }
            let expired = match number {
                0 => &[][..],
                _ => &self.expired,
            };
            for letter in self.letters[number].iter().chain(expired) {
                let place = match number {
                    0 => letter.origin.1,
                    _ => letter.entry.place_in_in(number),
                };
                let found = outcomes.entry(place).or_default();
                found.push(Outcome::Letter(letter));
            }
            Stage {
                number,
                inputs: inputs
                    .iter()
                    .filter(|entry| entry.number >= self.told.early_count)
                    .map(|entry| (entry.place_in_in(number), entry))
                    .collect(),
                outcomes,
            }
        })
    }
}

impl Entry {
    #[track_caller]
    pub fn new(seen: String, place: Place, key: &str, text: &str) -> Self {
        let mut fields = text.split(' ');
        let number = fields.next().and_then(|number| number.parse().ok());
        let proofs = fields.skip(2).map(Proof::parse).collect::<Option<_>>();
        let (Some(number), Some(proofs)) = (number, proofs) else {
            panic!("{seen}: `{text}` is no value of a history");
        };
        Self {
            seen,
            place,
            key: key.to_owned(),
            text: text.to_owned(),
            number,
            proofs,
        }
    }

    /// Where a record that has passed so many pipelines was in `in`.
    #[track_caller]
    pub fn place_in_in(&self, passed: usize) -> Place {
        assert_eq!(self.proofs.len(), passed, "{self}");
        self.proofs.first().map_or(self.place, |proof| proof.place)
    }
}

impl Proof {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let mut next = || parts.next();
        let (partition, offset) = next()?.split_once('/')?;
        Some(Self {
            place: Place {
                partition: partition.parse().ok()?,
                offset: offset.parse().ok()?,
            },
            count: next()?.parse().ok()?,
            hash: u64::from_str_radix(next()?, 16).ok()?,
            version: {
                let name = next()?;
                let mut versions = super::scene::VERSIONS.iter();
                versions.position(|(_, of_it)| *of_it == name)?
            },
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` of {}, seen in {}", self.text, self.key, self.seen)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output(entry) => entry.fmt(f),
            Self::Letter(letter) => write!(
                f,
                "{}: {} after {} attempts",
                letter.entry, letter.reason, letter.attempts
            ),
        }
    }
}
