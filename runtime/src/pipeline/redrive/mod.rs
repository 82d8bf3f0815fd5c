//! Redrive: dead letters go back to where they come from.
//!
//! First everything is planned: all letters that a filter selects, sorted so that the records of a
//! partition go back in the order in which they were there, whatever order they were given up on in. Then
//! they are sent, batch by batch, and each batch is one commit that takes the letters out of the queue and
//! puts the records where they belong.
//!
//! A letter of a pipeline is *parked* in that pipeline (`destination.rs`): nobody else sees the record
//! again, it keeps its offset, and it stands behind those of its key that are being tried again already.

mod destination;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use self::destination::{Destination, Outgoing};
use self::plan::Planned;
use super::Error;
use super::registry::{self, StoredPipeline};
use crate::log::Log;
use crate::model::PipelineName;
use crate::queue::letter::Filter;
use crate::queue::{self, Queue, Queues};
use crate::storage::Commit;

/// Bytes of letters in one commit.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Where the letters of a pipeline go. (Those of a queue always go back to it.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedriveTo {
    /// To the pipeline that gave up on them, if it is known and still reads the topic; else to the topic.
    #[default]
    Pipeline,
    /// To the end of the partition that they come from, where every reader of the topic sees them.
    Topic,
}

/// Why letters stay where they are, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranded {
    /// One sentence for people.
    pub reason: String,
    /// Letters that it applies to.
    pub count: u64,
}

/// What one batch has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Letters that were sent back.
    pub sent_count: u64,
    /// Letters that were not, since somebody else has leased or taken them meanwhile.
    pub held_count: u64,
}

/// A redrive, planned and under way.
///
/// The pipelines that letters go back to must not run in this process: a task reads what is parked when
/// it starts.
pub struct Redrive {
    log: Log,
    source: Queue,
    destinations: Vec<Destination>,
    planned: Vec<Planned>,
    next: usize,
    stranded: BTreeMap<String, u64>,
    /// The pipelines that there were when it was planned.
    pipelines: HashMap<PipelineName, StoredPipeline>,
    /// What is known of the destination that the next letters go to.
    outgoing: Option<(u32, Outgoing)>,
}

impl Redrive {
    /// Plans to send back the letters that a filter selects, at most `max_records` of them. Holds 24 bytes
    /// for each, and changes nothing.
    ///
    /// # Errors
    /// [`Error::Queue`], [`Error::Storage`]
    pub async fn plan(
        log: &Log,
        queues: &Queues,
        source: &Queue,
        filter: Filter,
        to: RedriveTo,
        max_records: u64,
    ) -> Result<Self, Error> {
        let mut plan = plan::read(log, queues, source, filter, to).await?;
        plan.planned.sort_unstable();
        plan.planned
            .truncate(usize::try_from(max_records).unwrap_or(usize::MAX));
        Ok(Self {
            log: log.clone(),
            source: source.clone(),
            destinations: plan.destinations,
            planned: plan.planned,
            next: 0,
            stranded: plan.stranded,
            pipelines: plan.pipelines,
            outgoing: None,
        })
    }

    /// How many letters are still to be sent back.
    pub fn left_count(&self) -> u64 {
        (self.planned.len() - self.next) as u64
    }

    /// Where they go, and how many to each place.
    pub fn destinations(&self) -> Vec<(String, u64)> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for planned in self.planned.get(self.next..).unwrap_or_default() {
            if let Some(destination) = self.destinations.get(planned.destination as usize) {
                *counts.entry(destination.to_string()).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    /// The pipelines to which letters go back that are still to be sent.
    pub fn pipelines(&self) -> Vec<PipelineName> {
        let rest = self.planned.get(self.next..).unwrap_or_default();
        let numbers: BTreeSet<u32> = rest.iter().map(|planned| planned.destination).collect();
        let destinations = numbers
            .iter()
            .filter_map(|number| self.destinations.get(*number as usize));
        let names: BTreeSet<PipelineName> = destinations
            .filter_map(Destination::pipeline)
            .cloned()
            .collect();
        names.into_iter().collect()
    }

    /// Forgets what is known of the place that letters go to; to be called whenever others may have parked records there,
    /// or deleted it.
    pub fn look_again(&mut self) {
        self.outgoing = None;
    }

    /// The letters that stay, by reason; more may be added by each batch.
    pub fn stranded(&self) -> Vec<Stranded> {
        let stranded = self.stranded.iter();
        stranded
            .map(|(reason, count)| Stranded {
                reason: reason.clone(),
                count: *count,
            })
            .collect()
    }

    /// Sends the next letters back, at most `max_records` and all to one place, and waits until that is
    /// stored; `None` when all are.
    ///
    /// # Errors
    /// [`Error::Queue`], [`Error::Storage`]; the batch's letters are where they were.
    pub async fn next_batch(&mut self, max_records: usize) -> Result<Option<Sent>, Error> {
        let batch = self.next_planned(max_records);
        let Some(number) = batch.first().map(|planned| planned.destination) else {
            return Ok(None);
        };
        let Some(destination) = self.destinations.get(number as usize) else {
            return Ok(None);
        };
        let mut outgoing = match self.outgoing.take() {
            Some((of, outgoing)) if of == number => outgoing,
            _ => {
                if let Some(reason) = self.gone(destination)? {
                    self.strand(number, reason);
                    return Ok(Some(Sent::default()));
                }
                destination.open(self.log.store())?
            }
        };
        if let Some(reason) = outgoing.no_room() {
            self.strand(number, reason);
            return Ok(Some(Sent::default()));
        }
        let mut commit = Commit::new();
        let offsets: Vec<u64> = batch.iter().map(|planned| planned.letter).collect();
        let taken = self
            .source
            .take_in(&offsets, MAX_BATCH_BYTES, &mut commit)
            .await?;
        let mut planned = batch.iter();
        for message in &taken.messages {
            if let Some(planned) = planned.find(|planned| planned.letter == message.offset) {
                outgoing.push(planned, &self.source, &message.record()?, &mut commit)?;
            }
        }
        match outgoing.finish(&mut commit) {
            Ok(()) => {}
            // Dropping the commit puts the letters back.
            Err(Error::Queue(queue::Error::RoomFirst { .. })) => {
                drop(commit);
                return match outgoing.make_room().await {
                    // Others have filled it meanwhile: the next attempt finds it full.
                    Ok(()) | Err(Error::Queue(queue::Error::Full { .. })) => {
                        Ok(Some(Sent::default()))
                    }
                    Err(error) => Err(error),
                };
            }
            Err(Error::Queue(error @ queue::Error::Full { .. })) => {
                self.strand(number, error.to_string());
                return Ok(Some(Sent::default()));
            }
            Err(error) => return Err(error),
        }
        if !taken.messages.is_empty() {
            self.log.store().commit(commit).await?;
        }
        let sent_count = taken.messages.len();
        self.next += taken.decided_count;
        self.outgoing = Some((number, outgoing));
        Ok(Some(Sent {
            sent_count: sent_count as u64,
            held_count: (taken.decided_count - sent_count) as u64,
        }))
    }

    /// Why letters cannot go to a pipeline any more that was there when this was planned. What is parked under an id that
    /// no pipeline has, or under that of another one, is lost.
    fn gone(&self, destination: &Destination) -> Result<Option<String>, Error> {
        let Some(name) = destination.pipeline() else {
            return Ok(None);
        };
        let stored = registry::stored(self.log.store())?;
        let now = stored.iter().find(|(known, _)| known == name);
        let is_there = match (self.pipelines.get(name), now) {
            // One that was created anew has a name, and may have the id, of the one before.
            (Some(then), Some((_, now))) => {
                now.id == then.id && now.numbered_inputs().starts_with(then.numbered_inputs())
            }
            _ => false,
        };
        Ok((!is_there).then(|| {
            format!("its origin, the pipeline `{name}`, was deleted after the redrive had begun")
        }))
    }

    /// The next letters that go to one place.
    fn next_planned(&self, max_records: usize) -> Vec<Planned> {
        let rest = self.planned.get(self.next..).unwrap_or_default();
        let Some(first) = rest.first() else {
            return Vec::new();
        };
        let next = rest.iter().take(max_records.max(1));
        next.take_while(|planned| planned.destination == first.destination)
            .copied()
            .collect()
    }

    /// Leaves all letters that go to one place where they are.
    fn strand(&mut self, destination: u32, reason: String) {
        let rest = self.planned.get(self.next..).unwrap_or_default();
        let same = rest
            .iter()
            .take_while(|planned| planned.destination == destination);
        let count = same.count();
        self.next += count;
        *self.stranded.entry(reason).or_default() += count as u64;
    }
}
