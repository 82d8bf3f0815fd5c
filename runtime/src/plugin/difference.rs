//! What a new version of a plugin asks for that the one before did not, and what it no longer does.

use std::fmt;

use super::contract::{CONSUMER, Capability, Contract, LIFECYCLE, PRODUCER, TIMER_HANDLER};

/// A difference between two versions of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What the new version does, or no longer does.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// What it means for a pipeline that runs the old version.
    pub effect: Effect,
}

/// What a difference means for a pipeline that runs the old version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The pipeline cannot run the new version before something is done.
    Breaks,
    /// The pipeline runs, and something that it has is of no use to the new version.
    Loses,
    /// Nothing has to be done.
    Harmless,
}

impl Effect {
    /// The effect as a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Breaks => "breaks",
            Self::Loses => "loses",
            Self::Harmless => "harmless",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// All differences, those of imports first.
pub(super) fn differences(earlier: &Contract, later: &Contract) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (capability, import) in later.capabilities() {
        let was_needed = earlier.capabilities().any(|(it, _)| it == capability);
        if !was_needed {
            differences.push(gained(capability, import));
        }
    }
    for (capability, import) in earlier.capabilities() {
        let is_needed = later.capabilities().any(|(it, _)| it == capability);
        if !is_needed {
            differences.push(dropped(capability, import));
        }
    }
    exports(earlier, later, &mut differences);
    differences
}

fn gained(capability: Capability, import: &str) -> Difference {
    // Every pipeline that takes records has state and timers.
    let effect = match capability {
        Capability::State | Capability::Timers => Effect::Harmless,
        Capability::Clocks | Capability::Random | Capability::Http => Effect::Breaks,
    };
    let remedy = match effect {
        Effect::Harmless => {
            "nothing to do: a pipeline that takes records gives it to its plugin; it starts empty"
        }
        Effect::Breaks | Effect::Loses => capability.remedy(),
    };
    Difference {
        what: format!("now imports {import}"),
        remedy: remedy.to_owned(),
        effect,
    }
}

fn dropped(capability: Capability, import: &str) -> Difference {
    let (remedy, effect) = match capability {
        Capability::State => (
            "the state that is stored stays where it is, and is not read by this version; roll back to use it again",
            Effect::Loses,
        ),
        Capability::Timers => (
            "this version sets no timers; those that are set still fire if it exports the handler",
            Effect::Loses,
        ),
        Capability::Clocks | Capability::Random | Capability::Http => (
            "the grant for it in the pipeline's `allow` can be removed",
            Effect::Harmless,
        ),
    };
    Difference {
        what: format!("no longer imports {import}"),
        remedy: remedy.to_owned(),
        effect,
    }
}

fn exports(earlier: &Contract, later: &Contract, differences: &mut Vec<Difference>) {
    let roles = [
        (
            CONSUMER,
            earlier.is_consumer,
            later.is_consumer,
            "it takes no records: pipelines with a `from` cannot run it; export the consumer again, or upload it under another name",
            Effect::Breaks,
        ),
        (
            PRODUCER,
            earlier.is_producer,
            later.is_producer,
            "it makes no records: pipelines without a `from` cannot run it; export the producer again, or upload it under another name",
            Effect::Breaks,
        ),
        (
            TIMER_HANDLER,
            earlier.handles_timers,
            later.handles_timers,
            "timers that are set wait until a version that handles them runs; export the handler until they have fired, or cancel them first",
            Effect::Loses,
        ),
        (
            LIFECYCLE,
            earlier.has_lifecycle,
            later.has_lifecycle,
            "it is not told the pipeline's `config` when it opens; remove `config` if nothing else reads it",
            Effect::Loses,
        ),
    ];
    for (interface, had, has, remedy, effect) in roles {
        if had && !has {
            differences.push(Difference {
                what: format!("no longer exports `{interface}`"),
                remedy: remedy.to_owned(),
                effect,
            });
        } else if has && !had {
            let remedy = match interface {
                LIFECYCLE => {
                    "it is told the pipeline's `config`, and may refuse to open with it: nothing is swapped then"
                }
                _ => "nothing to do for pipelines that run",
            };
            differences.push(Difference {
                what: format!("now exports `{interface}`"),
                remedy: remedy.to_owned(),
                effect: Effect::Harmless,
            });
        }
    }
}
