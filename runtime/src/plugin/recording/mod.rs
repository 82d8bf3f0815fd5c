//! What a plugin saw in a call, so that the call can be run again elsewhere with the same outcome.
//!
//! A plugin is a function of what the host gives it: its configuration, the records, the state that it
//! reads, what its clocks say and the random numbers it draws. A [`Recording`] holds all of that but the
//! record itself, for a call with one record into a fresh instance. [`Recording::encode`] makes it bytes;
//! `docs/data-format.md` describes them.
//!
//! Nothing here needs a WebAssembly engine, so that the decoder can be fuzzed without one.

mod codec;
mod reads;
mod wire;

#[cfg(test)]
mod tests;

pub use codec::DecodeError;
#[doc(hidden)]
pub use codec::check_arbitrary;
pub use reads::StateReads;

/// Largest recording, encoded, in bytes.
pub const MAX_RECORDING_BYTES: usize = 256 << 10;
/// Most readings of the two clocks that are kept, together.
pub const MAX_READINGS: usize = 4096;
/// Bytes of the seed of a call's random numbers.
pub const SEED_BYTES: usize = 32;

/// What the clocks and the random numbers of a call start from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, in ns since the epoch.
    pub wall_ns: u64,
    /// The instance's monotonic clock, in ns.
    pub monotonic_ns: u64,
    /// The seed of its random numbers.
    pub seed: [u8; SEED_BYTES],
}

/// What clocks said, in the order in which they were read; at most [`MAX_READINGS`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readings {
    /// The time of day, in ns since the epoch.
    pub wall_ns: Vec<u64>,
    /// The monotonic clock, in ns.
    pub monotonic_ns: Vec<u64>,
}

/// What a plugin may do and take, in a form that is independent of this program's version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Whether it has keyed state.
    pub state: bool,
    /// Whether it may read clocks.
    pub clocks: bool,
    /// Whether it may draw random numbers.
    pub random: bool,
    /// Whether it may call services.
    pub http: bool,
    /// Its linear memories, in bytes.
    pub memory_bytes: u64,
    /// The longest a call may take, in ns.
    pub deadline_ns: u64,
    /// Bytes that a call may return.
    pub output_bytes: u64,
    /// Records that a call may return.
    pub output_records: u64,
    /// Bytes of state that a call may write.
    pub state_bytes: u64,
}

/// What the record of a call does not say itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Index of its input.
    pub input: u32,
    /// Its partition.
    pub partition: u32,
    /// Its offset.
    pub offset: u64,
    /// How often it had been delivered, this time included.
    pub delivery_count: u32,
    /// Its headers, encoded as plugins get them, if they are not those that the dead letter shows.
    pub headers: Option<Vec<u8>>,
}

/// A call and what the plugin saw in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Partition that the instance works on.
    pub partition: u32,
    /// Names of the inputs.
    pub inputs: Vec<String>,
    /// Names of the output ports.
    pub ports: Vec<String>,
    /// The configuration.
    pub config: Vec<(String, String)>,
    /// What it may do and take.
    pub allowance: Allowance,
    /// Where the record is from.
    pub place: Place,
    /// When the call was.
    pub moment: Moment,
    /// What it saw, or why that is not known.
    pub seen: Result<Seen, NotKept>,
}

/// What a plugin saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// What its clocks said.
    pub readings: Readings,
    /// What it read of its state.
    pub state: StateReads,
    /// What the call that was recorded led to, if not to what the call led to that failed: a word for it,
    /// and a sentence.
    pub other_outcome: Option<(String, String)>,
}

/// Why it is not known what a plugin saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// It is too much.
    #[error("it is more than {} KiB", MAX_RECORDING_BYTES >> 10)]
    TooLarge,
    /// Too many records failed at the time.
    #[error("too many records failed at the time")]
    TooMany,
    /// No further instance could be made.
    #[error("there was no room for another instance of the plugin")]
    NoInstance,
    /// To see it again, services would be called again.
    #[error("the plugin calls services, and would have called them again")]
    CallsServices,
}

impl Readings {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.wall_ns.len() + self.monotonic_ns.len()
    }

    /// Whether no clock was read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
