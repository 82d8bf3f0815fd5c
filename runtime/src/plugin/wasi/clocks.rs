//! `wasi:clocks` for those who are granted them.

use std::{
    collections::HashMap,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use wasmtime::component::Resource;
use wasmtime_wasi::p2::{DynPollable, Pollable, bindings::clocks, subscribe};

use super::{
    super::{
        conditions::Conditions,
        host::{HostFault, HostState},
        recording::{MAX_READINGS, Moment, Readings},
    },
    streams::Ready,
};

/// Added to a deadline it is past it.
const FAR_AWAY: Duration = Duration::from_secs(1);

/// An instance's clocks.
pub(in crate::plugin) struct Clocks {
    source: Source,
    /// When the instance was made.
    opened_at: Instant,
    /// What the two clocks said when the current call started.
    call_start: (u64, u64),
    /// What they have said in the current call, or, where a call is recorded, in all so far.
    readings: Readings,
    /// Until when the pollables that wait for time wait, by their index in the table.
    timers: HashMap<u32, Instant>,
}

/// Where the time comes from.
enum Source {
    /// The machine.
    Live,
    /// What the clocks said in an earlier call.
    Given {
        wall: GivenClock,
        monotonic: GivenClock,
        /// What they say from the first call on; until then, while the instance opens, they stand still.
        /// It did not open in that earlier call.
        after_opening: Option<Readings>,
    },
}

/// A clock that says what it is given, and goes on from there.
struct GivenClock {
    left: std::vec::IntoIter<u64>,
    /// What it said last, and when it was asked; no time if it stands still.
    last: (u64, Option<Instant>),
}

impl GivenClock {
    fn read(&mut self, now: Instant) -> u64 {
        if let Some(reading) = self.left.next() {
            self.last = (reading, Some(now));
            return reading;
        }
        let (last, at) = self.last;
        let since = at.map(|at| now.saturating_duration_since(at));
        last.saturating_add(nanoseconds(since.unwrap_or_default()))
    }

    fn start(&mut self, readings: Vec<u64>, now: Instant) {
        self.left = readings.into_iter();
        self.last.1 = Some(now);
    }
}

impl Clocks {
    pub(in crate::plugin) fn new(conditions: &Conditions) -> Self {
        let now = Instant::now();
        let standing = |start_ns| GivenClock {
            left: Vec::new().into_iter(),
            last: (start_ns, None),
        };
        let given = |moment: &Moment, after_opening| Source::Given {
            wall: standing(moment.wall_ns),
            monotonic: standing(moment.monotonic_ns),
            after_opening,
        };
        let mut clocks = Self {
            source: Source::Live,
            opened_at: now,
            call_start: (0, 0),
            readings: Readings::default(),
            timers: HashMap::new(),
        };
        match conditions {
            Conditions::Live => {}
            Conditions::Recorded(moment, readings) => {
                clocks.source = given(moment, Some(readings.clone()));
            }
            Conditions::Replayed(moment, readings) => {
                clocks.source = given(moment, None);
                clocks.start_given(readings.clone(), now);
            }
        }
        clocks
    }

    /// Starts a call; the first one opens the instance.
    pub(in crate::plugin) fn start_call(&mut self, is_opening: bool) {
        let now = Instant::now();
        self.call_start = (time_of_day(), self.since_opening(now));
        match &mut self.source {
            Source::Live => {
                self.readings.wall_ns.clear();
                self.readings.monotonic_ns.clear();
            }
            Source::Given { after_opening, .. } => {
                if let Some(readings) = after_opening.take_if(|_| !is_opening) {
                    self.start_given(readings, now);
                }
            }
        }
    }

    fn start_given(&mut self, readings: Readings, now: Instant) {
        if let Source::Given {
            wall, monotonic, ..
        } = &mut self.source
        {
            wall.start(readings.wall_ns, now);
            monotonic.start(readings.monotonic_ns, now);
        }
    }

    /// What the time of day and the monotonic clock were when the current call started, in ns.
    pub(in crate::plugin) fn call_start(&self) -> (u64, u64) {
        self.call_start
    }

    /// Exchanges what the clocks have said for other memory.
    pub(in crate::plugin) fn swap_readings(&mut self, readings: &mut Readings) {
        std::mem::swap(&mut self.readings, readings);
    }

    fn since_opening(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.opened_at))
    }

    /// The time of day in ns since the epoch.
    fn wall_ns(&mut self) -> u64 {
        let reading = match &mut self.source {
            Source::Live => time_of_day(),
            Source::Given { wall, .. } => wall.read(Instant::now()),
        };
        if self.readings.len() < MAX_READINGS {
            self.readings.wall_ns.push(reading);
        }
        reading
    }

    /// The monotonic clock in ns.
    fn monotonic_ns(&mut self) -> u64 {
        let now = Instant::now();
        let elapsed = self.since_opening(now);
        let reading = match &mut self.source {
            Source::Live => elapsed,
            Source::Given { monotonic, .. } => monotonic.read(now),
        };
        if self.readings.len() < MAX_READINGS {
            self.readings.monotonic_ns.push(reading);
        }
        reading
    }
}

/// The machine's time of day in ns since the epoch.
fn time_of_day() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    nanoseconds(now.unwrap_or_default())
}

impl Clocks {
    /// Until when a pollable waits; none if it does not wait for time.
    pub(super) fn timer(&self, pollable: u32) -> Option<Instant> {
        self.timers.get(&pollable).copied()
    }

    /// Forgets a pollable.
    pub(super) fn forget(&mut self, pollable: u32) {
        self.timers.remove(&pollable);
    }
}

impl HostState {
    fn require_clocks(&self) -> wasmtime::Result<()> {
        self.require(self.grants.clocks, "wasi:clocks")
    }

    /// Waits until `until`, or fails at the call's deadline.
    pub(super) fn wait(&self, until: Instant) -> wasmtime::Result<()> {
        let deadline = self.call.deadline();
        let duration = until
            .min(deadline)
            .saturating_duration_since(Instant::now());
        self.call.outside.run(|| thread::sleep(duration));
        if until > deadline {
            return Err(wasmtime::Error::new(HostFault::Deadline));
        }
        Ok(())
    }

    /// A pollable that becomes ready after `duration`.
    fn timer(&mut self, duration: Duration) -> wasmtime::Result<Resource<DynPollable>> {
        let resource = self.table.push(Timer)?;
        let pollable = subscribe(&mut self.table, resource)?;
        // A time too far away to be represented is past every deadline.
        let until = Instant::now()
            .checked_add(duration)
            .unwrap_or_else(|| self.call.deadline() + FAR_AWAY);
        self.clocks.timers.insert(pollable.rep(), until);
        Ok(pollable)
    }
}

/// What stands behind a pollable that waits for time.
struct Timer;

impl Pollable for Timer {
    fn ready<'s, 'a>(&'s mut self) -> Ready<'a>
    where
        's: 'a,
        Self: 'a,
    {
        // Not used: `poll` looks at the timers themselves.
        Box::pin(std::future::ready(()))
    }
}

impl clocks::wall_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        self.require_clocks()?;
        let now = Duration::from_nanos(self.clocks.wall_ns());
        Ok(clocks::wall_clock::Datetime {
            seconds: now.as_secs(),
            nanoseconds: now.subsec_nanos(),
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<clocks::wall_clock::Datetime> {
        self.require_clocks()?;
        Ok(clocks::wall_clock::Datetime {
            seconds: 0,
            nanoseconds: 1,
        })
    }
}

impl clocks::monotonic_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.require_clocks()?;
        Ok(self.clocks.monotonic_ns())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.require_clocks()?;
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.require_clocks()?;
        let now = self.clocks.monotonic_ns();
        self.timer(Duration::from_nanos(when.saturating_sub(now)))
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.require_clocks()?;
        self.timer(Duration::from_nanos(duration))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    // 64 bits are 584 years.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(numbers: &[u64]) -> Readings {
        Readings {
            wall_ns: numbers.to_vec(),
            monotonic_ns: numbers.to_vec(),
        }
    }

    /// While the instance opens for a recording the clocks stand; then they say what they said in the call,
    /// and go on. In a replay they say it from the start.
    #[test]
    fn given_clocks_say_what_they_are_given() {
        let moment = Moment {
            wall_ns: 100,
            monotonic_ns: 7,
            ..Moment::default()
        };
        let mut recorded = Clocks::new(&Conditions::Recorded(moment, readings(&[150, 160])));
        recorded.start_call(true);
        assert_eq!((recorded.wall_ns(), recorded.wall_ns()), (100, 100));
        recorded.start_call(false);
        let read: Vec<u64> = (0..3).map(|_| recorded.wall_ns()).collect();
        assert_eq!(read[..2], [150, 160]);
        assert!(read[2] >= 160);
        let mut noted = Readings::default();
        recorded.swap_readings(&mut noted);
        assert_eq!(noted.wall_ns, [&[100, 100], &read[..]].concat());

        let mut replayed = Clocks::new(&Conditions::Replayed(moment, noted.clone()));
        replayed.start_call(true);
        let again: Vec<u64> = noted.wall_ns.iter().map(|_| replayed.wall_ns()).collect();
        assert_eq!(again, noted.wall_ns);
        assert!(replayed.monotonic_ns() >= 7);
    }

    #[test]
    fn what_clocks_said_is_noted_within_bounds_and_for_a_call() {
        let mut clocks = Clocks::new(&Conditions::Live);
        clocks.start_call(true);
        for _ in 0..MAX_READINGS + 10 {
            clocks.wall_ns();
        }
        assert_eq!(clocks.readings.len(), MAX_READINGS);
        clocks.start_call(false);
        assert!(clocks.readings.is_empty());
        let (wall_ns, _) = clocks.call_start();
        assert!(clocks.wall_ns() >= wall_ns);
    }
}
