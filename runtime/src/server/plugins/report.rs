//! What was found out about a version while it was deployed, as the API shows it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::deploy::{CanaryReport, Difference, Missing, Report, Sample, ShadowReport, Unsent};
use crate::model::{PipelineName, Target, TopicName};

/// What was found out about a version while it was tried out, or what a rollback could not take back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ReportView {
    /// By a canary.
    Canary {
        /// The old version, on the other partitions meanwhile; before the canary if there are none.
        old: SampleView,
        /// The new version.
        new: SampleView,
        /// Records that the new version has given up on, and that were tried again afterwards.
        held: u64,
    },
    /// By a shadow.
    Shadow {
        /// For each pipeline.
        pipelines: Vec<ShadowView>,
    },
    /// What a rollback with state could not take back.
    Unsent {
        /// Outputs to which something was written since.
        outputs: Vec<UnsentView>,
        /// Records that were to be processed again, and that retention has deleted since.
        #[serde(default)]
        missing: Vec<MissingView>,
    },
}

/// What tasks have done in a stretch of time.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SampleView {
    /// Records handed to the plugin.
    pub records: u64,
    /// Retries, dead letters, and calls that faulted.
    pub failures: u64,
    /// Time in the plugin.
    pub time_ns: u64,
}

/// What a shadow has found in a pipeline.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ShadowView {
    /// The pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// Records and timers that both versions have run.
    pub records: u64,
    /// Those for which they did different things.
    pub different_records: u64,
    /// Calls of the new version that faulted; their records count as different.
    pub faults: u64,
    /// Time in the new version.
    pub time_ns: u64,
    /// The first differences.
    pub first: Vec<RecordDifferenceView>,
    /// Why the shadow, or that of a task, has ended early; null if none has.
    pub ended_early: Option<String>,
}

/// A record for which two versions do different things.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RecordDifferenceView {
    /// Where the record comes from, as `topic:NAME` or `queue:NAME`; null for a timer.
    #[schema(value_type = Option<String>)]
    pub input: Option<Target>,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// What is different.
    pub what: String,
}

/// Records that were written to an output since the checkpoint to which its pipelines went back.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UnsentView {
    /// Where they lie, as `topic:NAME` or `queue:NAME`.
    #[schema(value_type = String)]
    pub target: Target,
    /// How many, whoever wrote them.
    pub records: u64,
}

/// Records of an input to which a pipeline has gone back, and that retention has deleted since.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MissingView {
    /// The pipeline.
    #[schema(value_type = String)]
    pub pipeline: PipelineName,
    /// The topic.
    #[schema(value_type = String)]
    pub topic: TopicName,
    /// Its partition.
    pub partition: u32,
    /// The first offset that is missing.
    pub from_offset: u64,
    /// The first offset that is still there.
    pub to_offset: u64,
}

impl From<Report> for ReportView {
    fn from(report: Report) -> Self {
        match report {
            Report::Canary(CanaryReport { old, new, held }) => Self::Canary {
                old: old.into(),
                new: new.into(),
                held,
            },
            Report::Shadow { pipelines } => Self::Shadow {
                pipelines: pipelines.into_iter().map(ShadowView::from).collect(),
            },
            Report::Unsent { outputs, missing } => Self::Unsent {
                outputs: outputs.into_iter().map(UnsentView::from).collect(),
                missing: missing.into_iter().map(MissingView::from).collect(),
            },
        }
    }
}

impl From<Sample> for SampleView {
    fn from(sample: Sample) -> Self {
        Self {
            records: sample.records,
            failures: sample.failures,
            time_ns: sample.time_ns,
        }
    }
}

impl From<ShadowReport> for ShadowView {
    fn from(report: ShadowReport) -> Self {
        let first = report.first.into_iter();
        Self {
            pipeline: report.pipeline,
            records: report.records,
            different_records: report.different_records,
            faults: report.faults,
            time_ns: report.time_ns,
            first: first.map(RecordDifferenceView::from).collect(),
            ended_early: report.ended_early,
        }
    }
}

impl From<Difference> for RecordDifferenceView {
    fn from(difference: Difference) -> Self {
        Self {
            input: difference.input,
            partition: difference.partition,
            offset: difference.offset,
            what: difference.what,
        }
    }
}

impl From<Missing> for MissingView {
    fn from(missing: Missing) -> Self {
        Self {
            pipeline: missing.pipeline,
            topic: missing.topic,
            partition: missing.partition,
            from_offset: missing.from_offset,
            to_offset: missing.to_offset,
        }
    }
}

impl From<Unsent> for UnsentView {
    fn from(unsent: Unsent) -> Self {
        Self {
            target: unsent.target,
            records: unsent.records,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything in the API is in snake case, and what is stored is not.
    #[test]
    fn keys_are_those_of_the_api() {
        let report = ShadowReport {
            pipeline: "p".parse().unwrap(),
            records: 2,
            different_records: 1,
            faults: 0,
            time_ns: 3,
            first: vec![Difference {
                input: Some("topic:t".parse().unwrap()),
                partition: 0,
                offset: 7,
                what: "w".to_owned(),
            }],
            ended_early: None,
        };
        let report = Report::Shadow {
            pipelines: vec![report],
        };
        let view = ReportView::from(report);
        assert_eq!(
            serde_json::to_value(view).unwrap(),
            serde_json::json!({"kind": "shadow", "pipelines": [{
                "pipeline": "p", "records": 2, "different_records": 1, "faults": 0, "time_ns": 3, "ended_early": null,
                "first": [{"input": "topic:t", "partition": 0, "offset": 7, "what": "w"}],
            }]})
        );
        let missing = Missing {
            pipeline: "p".parse().unwrap(),
            topic: "t".parse().unwrap(),
            partition: 1,
            from_offset: 5,
            to_offset: 9,
        };
        let report = Report::Unsent {
            outputs: Vec::new(),
            missing: vec![missing],
        };
        assert_eq!(
            serde_json::to_value(ReportView::from(report)).unwrap(),
            serde_json::json!({"kind": "unsent", "outputs": [], "missing": [
                {"pipeline": "p", "topic": "t", "partition": 1, "from_offset": 5, "to_offset": 9},
            ]})
        );
    }
}
