//! Where dead letters go, over the whole manifest: one that comes back to where it failed would fail there without end.

use std::collections::BTreeSet;

use super::error::Report;
use super::retry::DeadLetter;
use super::{pipeline, queue};
use crate::model::{QueueName, Target};

const ELSEWHERE: &str = "name a queue whose own dead letters go elsewhere, or nowhere";

/// Notes queues and pipelines whose dead letters would come back to them.
pub(super) fn check(queues: &[queue::Read], pipelines: &[pipeline::Read], report: &mut Report<'_>) {
    for read in queues {
        let name = &read.spec.name;
        if reached(name, |from| of_queue(queues, from)).contains(name) {
            report.error(
                read.dead_letter_span.clone(),
                format!("the dead letters of `{name}` would come back to it"),
                ELSEWHERE,
            );
        }
    }
    for read in pipelines {
        let DeadLetter::Queue(target) = &read.spec.dead_letter else {
            continue;
        };
        let mut from_target = reached(target, |from| {
            let mut targets = of_queue(queues, from);
            targets.extend(of_pipelines(pipelines, from));
            targets
        });
        from_target.insert(target);
        let inputs = read.spec.inputs.iter();
        if let Some(input) = inputs
            .filter_map(Target::queue)
            .find(|it| from_target.contains(it))
        {
            let advice = match input == target {
                true => "name another queue, or leave `dead-letter` out",
                false => ELSEWHERE,
            };
            report.error(
                read.dead_letter_span.clone(),
                format!(
                    "the dead letters of the pipeline would come back to the queue `{input}`, which it reads: it would \
                     fail on them without end"
                ),
                advice,
            );
        }
    }
}

/// The queues that messages come to from this one, over and over; itself only if they come back.
fn reached<'a>(
    start: &'a QueueName,
    targets: impl Fn(&QueueName) -> Vec<&'a QueueName>,
) -> BTreeSet<&'a QueueName> {
    let mut reached = BTreeSet::new();
    let mut next = targets(start);
    while let Some(queue) = next.pop() {
        if reached.insert(queue) {
            next.extend(targets(queue));
        }
    }
    reached
}

/// Where a queue itself sends what is delivered too often.
fn of_queue<'a>(queues: &'a [queue::Read], name: &QueueName) -> Vec<&'a QueueName> {
    let queue = queues.iter().filter(|read| read.spec.name == *name);
    queue
        .filter_map(|read| read.spec.dead_letter.as_ref())
        .collect()
}

/// Where the pipelines that read a queue send what they give up on.
fn of_pipelines<'a>(
    pipelines: &'a [pipeline::Read],
    name: &QueueName,
) -> impl Iterator<Item = &'a QueueName> {
    let reads_it = move |read: &&pipeline::Read| {
        let mut inputs = read.spec.inputs.iter().filter_map(Target::queue);
        inputs.any(|input| input == name)
    };
    let readers = pipelines.iter().filter(reads_it);
    readers.filter_map(|read| match &read.spec.dead_letter {
        DeadLetter::Queue(queue) => Some(queue),
        DeadLetter::Stop => None,
    })
}
