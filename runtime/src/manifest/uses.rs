//! At which places a pipeline uses topics and queues.

use std::fmt;

use super::resolved::PipelineSpec;
use super::retry::DeadLetter;
use crate::model::{PortName, QueueName, Target};

/// A place at which a pipeline uses a topic or a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPlace {
    /// It reads it.
    Input,
    /// This output of it leads there.
    Output(PortName),
    /// What it gives up on goes there.
    DeadLetters,
}

impl fmt::Display for TargetPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input => f.write_str("input"),
            Self::Output(port) => write!(f, "output `{port}`"),
            Self::DeadLetters => f.write_str("dead letters"),
        }
    }
}

impl PipelineSpec {
    /// The queue of its dead letters; `None` if it has none: a producer, or a pipeline that stops instead.
    pub fn dead_letter_queue(&self) -> Option<&QueueName> {
        match &self.dead_letter {
            DeadLetter::Queue(name) if !self.is_producer() => Some(name),
            DeadLetter::Queue(_) | DeadLetter::Stop => None,
        }
    }

    /// At which places the pipeline uses a topic or a queue; empty if it does not.
    pub fn places_of(&self, target: &Target) -> Vec<TargetPlace> {
        let is_read = self.inputs.contains(target);
        let ports = self.ports.iter().filter(|port| port.target == *target);
        let takes_dead_letters =
            target.queue().is_some() && self.dead_letter_queue() == target.queue();
        let input = is_read.then_some(TargetPlace::Input).into_iter();
        let outputs = ports.map(|port| TargetPlace::Output(port.name.clone()));
        let dead_letters = takes_dead_letters.then_some(TargetPlace::DeadLetters);
        input.chain(outputs).chain(dead_letters).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::manifest::resolve_uploaded;

    #[test]
    fn a_pipeline_uses_what_it_reads_what_it_writes_and_where_its_dead_letters_go() {
        let manifest = resolve_uploaded(
            Path::new("m"),
            r#"
name = "m"
[topics.in]
[topics.out]
[topics.spare]
[queues.jobs]
[queues.out]
[plugins.p]
[pipelines.work]
from = ["topic:in", "queue:jobs"]
plugin = "p"
to = { good = "topic:out", bad = "queue:out" }
[pipelines.strict]
from = "topic:in"
plugin = "p"
dead-letter = "stop"
[pipelines.shared]
from = "topic:in"
plugin = "p"
to = { bad = "queue:out" }
dead-letter = "queue:out"
[pipelines.make]
plugin = "p"
to = "topic:out"
"#,
        )
        .unwrap();
        for (pipeline, target, expected) in [
            ("work", "topic:in", "input"),
            ("work", "queue:jobs", "input"),
            ("work", "topic:out", "output `good`"),
            ("work", "queue:out", "output `bad`"),
            ("work", "queue:work.dead-letters", "dead letters"),
            ("work", "topic:work.dead-letters", ""),
            ("work", "topic:jobs", ""),
            ("work", "topic:spare", ""),
            ("strict", "queue:strict.dead-letters", ""),
            ("shared", "queue:out", "output `bad`, dead letters"),
            ("make", "topic:out", "output `default`"),
            ("make", "queue:make.dead-letters", ""),
        ] {
            let spec = manifest.pipeline(pipeline).unwrap();
            let places = spec.places_of(&target.parse().unwrap()).into_iter();
            let places: Vec<_> = places.map(|place| place.to_string()).collect();
            assert_eq!(places.join(", "), expected, "{pipeline}, {target}");
        }
    }
}
