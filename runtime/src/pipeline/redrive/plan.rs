//! Which letters go where, and in which order.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

use super::RedriveTo;
use super::destination::{Destination, Place};
use crate::log::Log;
use crate::model::{PipelineName, QueueName, TIMERS_INPUT, Target, TimerId, TopicName};
use crate::pipeline::Error;
use crate::pipeline::registry::{self, StoredPipeline};
use crate::pipeline::retry::timer_offset;
use crate::queue::letter::{DeadLetter, Filter, Origin};
use crate::queue::{Queue, Queues};

/// A letter that is to be sent back. Sorted: by destination, and for each as the records were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Planned {
    /// Its index among the destinations.
    pub(super) destination: u32,
    /// The index of the pipeline's input that it comes from; 0 where there is none.
    pub(super) input: u32,
    /// The record's offset where it comes from.
    pub(super) offset: u64,
    /// The letter's offset in the dead-letter queue.
    pub(super) letter: u64,
    /// Whether it comes from a queue, in which it may have named its group.
    pub(super) is_message: bool,
}

/// What a redrive does.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) destinations: Vec<Destination>,
    pub(super) planned: Vec<Planned>,
    /// Letters that have to stay, by reason.
    pub(super) stranded: BTreeMap<String, u64>,
    /// The pipelines that there were.
    pub(super) pipelines: HashMap<PipelineName, StoredPipeline>,
}

/// Reads the letters and decides where each of them goes.
pub(super) async fn read(
    log: &Log,
    queues: &Queues,
    source: &Queue,
    filter: Filter,
    to: RedriveTo,
) -> Result<Plan, Error> {
    let resolver = Resolver {
        log,
        queues,
        to,
        pipelines: registry::stored(log.store())?.into_iter().collect(),
    };
    let mut plan = Plan::default();
    let mut numbers: HashMap<Place, u32> = HashMap::new();
    let mut letters = source.letters(filter);
    while let Some(page) = letters.next_page().await? {
        for message in &page {
            let letter = DeadLetter::read(message.record()?.headers);
            let resolved = match resolver.resolve(&letter) {
                Ok(resolved) => resolved,
                Err(reason) => {
                    *plan.stranded.entry(reason).or_default() += 1;
                    continue;
                }
            };
            let place = resolved.destination.place();
            let destinations = &mut plan.destinations;
            let destination = *numbers.entry(place).or_insert_with(|| {
                destinations.push(resolved.destination);
                (destinations.len() - 1) as u32
            });
            plan.planned.push(Planned {
                destination,
                input: resolved.input,
                offset: resolved.offset,
                letter: message.offset,
                is_message: matches!(letter.origin, Some(Origin::Queue { .. })),
            });
        }
    }
    plan.pipelines = resolver.pipelines;
    Ok(plan)
}

/// Knows what there is on the data directory.
struct Resolver<'a> {
    log: &'a Log,
    queues: &'a Queues,
    to: RedriveTo,
    pipelines: HashMap<PipelineName, StoredPipeline>,
}

struct Resolved {
    destination: Destination,
    input: u32,
    offset: u64,
}

impl Resolver<'_> {
    /// Where a letter goes, or why it has to stay.
    fn resolve(&self, letter: &DeadLetter<'_>) -> Result<Resolved, String> {
        match &letter.origin {
            None => Err("it does not say where it comes from".to_owned()),
            Some(Origin::Queue { queue, offset }) => self.to_queue(letter, queue, *offset),
            Some(Origin::Topic {
                topic,
                partition,
                offset,
            }) => self.to_topic(letter, topic, *partition, *offset),
            Some(Origin::Timer(timer)) => self.to_timers(timer),
        }
    }

    fn to_timers(&self, timer: &TimerId) -> Result<Resolved, String> {
        if self.to == RedriveTo::Topic {
            return Err("it was a timer, and comes from no topic".to_owned());
        }
        let name = &timer.pipeline;
        let pipeline = self.pipelines.get(name);
        let pipeline =
            pipeline.ok_or_else(|| format!("its origin, the pipeline `{name}`, does not exist"))?;
        Ok(Resolved {
            destination: Destination::Timers {
                name: name.clone(),
                id: pipeline.id,
                order: pipeline.retry_order,
                task: timer.task,
            },
            input: TIMERS_INPUT,
            offset: timer_offset(timer.due_ms, &timer.key),
        })
    }

    fn to_queue(
        &self,
        letter: &DeadLetter<'_>,
        name: &QueueName,
        offset: u64,
    ) -> Result<Resolved, String> {
        let queue = self.queues.queue(name);
        let queue = queue.map_err(|_| format!("its origin, the queue `{name}`, does not exist"))?;
        let taker = self.taker(letter, &Target::Queue(name.clone()));
        Ok(
            match taker.filter(|_| matches!(self.to, RedriveTo::Pipeline)) {
                Some((name, pipeline, input)) => Resolved {
                    destination: Destination::Task {
                        name: name.clone(),
                        id: pipeline.id,
                        order: pipeline.retry_order,
                        partition: Arc::clone(queue.partition()),
                    },
                    input,
                    offset,
                },
                None => Resolved {
                    destination: Destination::Queue(queue),
                    input: 0,
                    offset,
                },
            },
        )
    }

    fn to_topic(
        &self,
        letter: &DeadLetter<'_>,
        name: &TopicName,
        partition: u32,
        offset: u64,
    ) -> Result<Resolved, String> {
        let topic = self.log.topic(name);
        let topic = topic.map_err(|_| format!("its origin, the topic `{name}`, does not exist"))?;
        let Ok(found) = topic.partition(partition) else {
            return Err(format!(
                "its origin, partition {partition} of the topic `{name}`, does not exist"
            ));
        };
        let partition = Arc::clone(found);
        let taker = match self.to {
            RedriveTo::Pipeline => self.taker(letter, &Target::Topic(name.clone())),
            RedriveTo::Topic => None,
        };
        Ok(match taker {
            Some((name, pipeline, input)) => Resolved {
                destination: Destination::Task {
                    name: name.clone(),
                    id: pipeline.id,
                    order: pipeline.retry_order,
                    partition,
                },
                input,
                offset,
            },
            None => Resolved {
                destination: Destination::Partition { topic, partition },
                input: 0,
                offset,
            },
        })
    }

    /// The pipeline that gave up on a letter, and by which number it knows the origin.
    fn taker(
        &self,
        letter: &DeadLetter<'_>,
        origin: &Target,
    ) -> Option<(&PipelineName, &StoredPipeline, u32)> {
        let (name, pipeline) = self.pipelines.get_key_value(letter.pipeline?)?;
        // One that it does not read any more would never be tried.
        pipeline.inputs.contains(origin).then_some(())?;
        let mut numbered = pipeline.numbered_inputs().iter();
        let input = numbered.position(|input| input == origin)?;
        Some((name, pipeline, u32::try_from(input).ok()?))
    }
}
