//! What can go wrong while a plugin runs.
//!
//! A fault is about one call into one instance. It always ends that instance: what the guest holds
//! in memory may no longer agree with the state that the host has kept, so the task drops it, and
//! its state changes with it, and makes a new one.

use std::time::Duration;

use super::{call_stack::CallStack, contract::Denied};

/// Why a call into a plugin failed. `Display` is one sentence for the pipeline's owner.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The guest trapped: a panic, an index out of bounds, a stack overflow, an exit.
    #[error("the plugin trapped: {message}")]
    Trap {
        /// The panic message where the guest printed one, and the kind of trap.
        message: String,
        /// The guest's call stack.
        backtrace: CallStack,
    },
    /// The guest ran, or slept, longer than a call may.
    #[error("the plugin ran past its deadline of {} and was stopped (limits.deadline)", humantime::format_duration(*.limit))]
    Deadline {
        /// The deadline of one call.
        limit: Duration,
    },
    /// The guest asked for more memory than it may have, and did not survive the refusal.
    #[error(
        "the plugin needs more memory than its limit of {limit_bytes} bytes (limits.memory): \
         it asked for {wanted_bytes} bytes"
    )]
    Memory {
        /// The limit on all linear memories of the instance together.
        limit_bytes: usize,
        /// What they would have taken.
        wanted_bytes: usize,
    },
    /// The guest's answer breaks a rule of the interface.
    #[error("the plugin returned bad output: {reason}")]
    Output {
        /// Which rule, and where.
        reason: String,
    },
    /// `process` or `produce` returned an error.
    #[error("the plugin returned an error: {reason}")]
    PluginError {
        /// As the plugin put it, cut at 1,024 bytes.
        reason: String,
    },
    /// `lifecycle.open` returned an error.
    #[error("the plugin refused to open: {reason}")]
    Open {
        /// As the plugin put it, cut at 1,024 bytes.
        reason: String,
    },
    /// The plugin imports, or called, what its pipeline does not grant.
    #[error("{0}")]
    Denied(Denied),
    /// State could not be read, or the plugin broke a limit on it.
    #[error("the plugin's state failed: {reason}")]
    State {
        /// What happened.
        reason: String,
    },
    /// The plugin broke a limit on timers.
    #[error("the plugin's timers failed: {reason}")]
    Timers {
        /// What happened.
        reason: String,
    },
    /// No instance could be made for a reason that is not the guest's doing.
    #[error("the plugin could not be instantiated: {reason}")]
    Instantiate {
        /// What happened.
        reason: String,
    },
    /// The plugin does not export what was called.
    #[error("the plugin does not export {export}")]
    NotExported {
        /// The interface.
        export: &'static str,
    },
}

impl Fault {
    /// The words for all kinds of faults.
    pub const KINDS: [&'static str; 11] = [
        "trap",
        "deadline",
        "memory",
        "output",
        "plugin-error",
        "open",
        "denied",
        "state",
        "timers",
        "instantiate",
        "not-exported",
    ];

    /// A stable word for the kind of fault, one of [`KINDS`](Self::KINDS), for metrics and dead letters.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trap { .. } => "trap",
            Self::Deadline { .. } => "deadline",
            Self::Memory { .. } => "memory",
            Self::Output { .. } => "output",
            Self::PluginError { .. } => "plugin-error",
            Self::Open { .. } => "open",
            Self::Denied(_) => "denied",
            Self::State { .. } => "state",
            Self::Timers { .. } => "timers",
            Self::Instantiate { .. } => "instantiate",
            Self::NotExported { .. } => "not-exported",
        }
    }

    /// The guest's call stack, innermost first, if there is one.
    pub fn backtrace(&self) -> Option<String> {
        match self {
            Self::Trap { backtrace, .. } => backtrace.text(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_one_sentence() {
        let faults = [
            Fault::Trap {
                message: "unreachable".into(),
                backtrace: CallStack::default(),
            },
            Fault::Deadline {
                limit: Duration::from_secs(2),
            },
            Fault::Memory {
                limit_bytes: 1024,
                wanted_bytes: 2048,
            },
            Fault::Output {
                reason: "processed is 3, expected 4".into(),
            },
            Fault::PluginError {
                reason: "no".into(),
            },
        ];
        for fault in faults {
            let text = fault.to_string();
            assert!(text.starts_with("the plugin "), "{text}");
            assert!(!text.contains('\n'), "{text}");
            assert!(Fault::KINDS.contains(&fault.kind()), "{}", fault.kind());
        }
        assert_eq!(
            Fault::Deadline {
                limit: Duration::from_secs(2)
            }
            .to_string(),
            "the plugin ran past its deadline of 2s and was stopped (limits.deadline)"
        );
    }
}
