//! Where an instance's time and random numbers come from: from the machine, or from what a call saw
//! earlier.

use super::recording::{Moment, Readings};

/// Where an instance's time and random numbers come from.
#[derive(Debug, Clone, Default)]
pub(super) enum Conditions {
    /// The machine's clock, and random numbers that nobody can foresee.
    #[default]
    Live,
    /// From a call that has been: once the instance is open, its clocks say what they said then, and go on
    /// from there; random numbers follow from the call's seed.
    Recorded(Moment, Readings),
    /// From a call that was recorded, and from opening the instance for it.
    Replayed(Moment, Readings),
}
