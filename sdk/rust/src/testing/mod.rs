//! A host in memory, for unit tests of plugins with plain `cargo test`.
//!
//! ```
//! use millstream_sdk::prelude::*;
//! use millstream_sdk::testing::{Harness, Input};
//!
//! fn count(record: Record<'_>, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
//!     let key = record.key().or_reject("the record has no key")?;
//!     out.emit(state.add(key, 1).to_string());
//!     Ok(())
//! }
//!
//! let mut harness = Harness::new().consumer_fn(count);
//! let outcome = harness.process([Input::new("a", ""), Input::new("a", ""), Input::value("x")]);
//! assert_eq!(outcome.values(), ["1", "2"]);
//! assert_eq!(outcome.failures[0].reason, "the record has no key");
//! assert_eq!(harness.state("a"), Some(&2u64.to_le_bytes()[..]));
//! ```
//!
//! A plugin with timers is opened with [`Harness::timer_consumer`] or [`Harness::timer_consumer_fn`],
//! and called with those that are due by [`Running::fire_timers`].
//!
//! The harness checks every reply by the rules the real host checks it by.

mod check;
pub(crate) mod host;
mod input;
mod outcome;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use crate::columns::{Batch, Output, TimerBatch};
use crate::config::Config;
use crate::failure::Failure;
use crate::http;
use crate::outputs::Outputs;
use crate::plugin::{
    BatchConsumer, BatchDriver, Consumer, ConsumerDriver, Producer, ProducerDriver, TimerHandler,
};
use crate::record::Record;
use crate::state::State;
use crate::stateless::{StatelessConsumer, StatelessDriver};
use crate::timers::{Timer, to_batch};
use host::{Installed, MemoryHost};
pub use host::{LogLevel, LogLine};
pub use input::Input;
pub use outcome::{FailedInput, Outcome, OutputRecord};

/// Describes where the plugin is to run; the last step opens it.
///
/// Unless told otherwise there is one input `input`, one port `default`, partition 0, pipeline
/// `test`, no configuration and no state.
#[derive(Default)]
pub struct Harness {
    host: MemoryHost,
    config: BTreeMap<String, String>,
}

impl Harness {
    /// A harness with everything as described above.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an entry of the plugin's configuration.
    #[must_use]
    pub fn config(mut self, key: &str, value: impl ToString) -> Self {
        self.config.insert(key.to_owned(), value.to_string());
        self
    }

    /// Names the ports, as the manifest's `to` does.
    #[must_use]
    pub fn ports<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.host.ports = names.into_iter().map(str::to_owned).collect();
        self
    }

    /// Names the inputs, as the manifest's `from` does; [`Input::input`] is an index into them.
    #[must_use]
    pub fn inputs<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.host.inputs = names.into_iter().map(str::to_owned).collect();
        self
    }

    /// Sets the partition.
    #[must_use]
    pub fn partition(mut self, partition: u32) -> Self {
        self.host.partition = partition;
        self
    }

    /// Sets a key of the state the plugin starts with.
    #[must_use]
    pub fn initial_state(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.host
            .state
            .insert(key.as_ref().to_vec(), value.as_ref().to_vec());
        self
    }

    /// Answers the plugin's HTTP requests. Without it a request panics.
    ///
    /// ```
    /// use millstream_sdk::http::Response;
    /// use millstream_sdk::testing::Harness;
    ///
    /// let harness = Harness::new().http(|request| match request.url() {
    ///     "https://api.example.com/prices" => Ok(Response::new(200, "17")),
    ///     _ => Ok(Response::new(404, "")),
    /// });
    /// ```
    #[must_use]
    pub fn http(
        mut self,
        answer: impl FnMut(&http::Request) -> Result<http::Response, http::Error> + 'static,
    ) -> Self {
        self.host.http = Some(Box::new(answer));
        self
    }

    /// Opens a consumer.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn consumer<P: Consumer + 'static>(self) -> Result<Running<Consumes>, String> {
        self.open(|config| {
            let mut driver = ConsumerDriver::<P>::open(config)?;
            Ok(Box::new(move |call| match call {
                Call::Process(batch) => driver.process(*batch),
                Call::Timers(_) => Err(NO_TIMERS.to_owned()),
                Call::Produce(_) => unreachable!("a consumer's harness only processes"),
            }))
        })
    }

    /// Opens a consumer that is a function.
    pub fn consumer_fn<F>(self, process: F) -> Running<Consumes>
    where
        F: FnMut(Record<'_>, &mut Outputs, &mut State) -> Result<(), Failure> + Clone + 'static,
    {
        let opened = self.open(move |_| {
            let mut driver = ConsumerDriver::with(FunctionConsumer(process.clone()));
            Ok(Box::new(move |call| match call {
                Call::Process(batch) => driver.process(*batch),
                Call::Timers(_) => Err(NO_TIMERS.to_owned()),
                Call::Produce(_) => unreachable!("a consumer's harness only processes"),
            }))
        });
        opened.unwrap_or_else(|_| unreachable!("opening a function does not fail"))
    }

    /// Opens a consumer that has timers.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn timer_consumer<P: TimerHandler + 'static>(self) -> Result<Running<Consumes>, String> {
        self.open(|config| {
            let mut driver = ConsumerDriver::<P>::open(config)?;
            Ok(Box::new(move |call| call_with_timers(&mut driver, call)))
        })
    }

    /// Opens a consumer that has timers and is two functions.
    pub fn timer_consumer_fn<F, T>(self, process: F, on_timer: T) -> Running<Consumes>
    where
        F: FnMut(Record<'_>, &mut Outputs, &mut State) -> Result<(), Failure> + Clone + 'static,
        T: FnMut(Timer<'_>, &mut Outputs, &mut State) -> Result<(), Failure> + Clone + 'static,
    {
        let opened = self.open(move |_| {
            let functions = TimerFunctions(FunctionConsumer(process.clone()), on_timer.clone());
            let mut driver = ConsumerDriver::with(functions);
            Ok(Box::new(move |call| call_with_timers(&mut driver, call)))
        });
        opened.unwrap_or_else(|_| unreachable!("opening a function does not fail"))
    }

    /// Opens a consumer that is a function and keeps no state.
    pub fn stateless_fn<F>(self, process: F) -> Running<Consumes>
    where
        F: FnMut(Record<'_>, &mut Outputs) -> Result<(), Failure> + Clone + 'static,
    {
        let opened = self.open(move |_| {
            let mut driver = StatelessDriver::with(StatelessFunction(process.clone()));
            Ok(Box::new(move |call| match call {
                Call::Process(batch) => driver.process(*batch),
                Call::Timers(_) => Err(NO_TIMERS.to_owned()),
                Call::Produce(_) => unreachable!("a consumer's harness only processes"),
            }))
        });
        opened.unwrap_or_else(|_| unreachable!("opening a function does not fail"))
    }

    /// Opens a consumer without state.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn stateless_consumer<P: StatelessConsumer + 'static>(
        self,
    ) -> Result<Running<Consumes>, String> {
        self.open(|config| {
            let mut driver = StatelessDriver::<P>::open(config)?;
            Ok(Box::new(move |call| match call {
                Call::Process(batch) => driver.process(*batch),
                Call::Timers(_) => Err(NO_TIMERS.to_owned()),
                Call::Produce(_) => unreachable!("a consumer's harness only processes"),
            }))
        })
    }

    /// Opens a consumer of whole batches.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn batch_consumer<P: BatchConsumer + 'static>(self) -> Result<Running<Consumes>, String> {
        self.open(|config| {
            let mut driver = BatchDriver::<P>::open(config)?;
            Ok(Box::new(move |call| match call {
                Call::Process(batch) => driver.process(*batch),
                Call::Timers(_) => Err(NO_TIMERS.to_owned()),
                Call::Produce(_) => unreachable!("a consumer's harness only processes"),
            }))
        })
    }

    /// Opens a producer.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn producer<P: Producer + 'static>(self) -> Result<Running<Produces>, String> {
        self.open(|config| {
            let mut driver = ProducerDriver::<P>::open(config)?;
            Ok(Box::new(move |call| match call {
                Call::Produce(max_records) => driver.produce(max_records),
                Call::Process(_) | Call::Timers(_) => {
                    unreachable!("a producer's harness only produces")
                }
            }))
        })
    }

    fn open<K>(
        self,
        open: impl Fn(&Config) -> Result<Instance, String> + 'static,
    ) -> Result<Running<K>, String> {
        let mut running = Running {
            config: Config::new(self.config.into_iter().collect()),
            host: self.host,
            open: Box::new(open),
            instance: None,
            kind: PhantomData,
        };
        running.restart()?;
        Ok(running)
    }
}

enum Call {
    Process(Box<Batch>),
    Timers(Box<TimerBatch>),
    Produce(u32),
}

type Instance = Box<dyn FnMut(Call) -> Result<Output, String>>;

type Open = Box<dyn Fn(&Config) -> Result<Instance, String>>;

/// Marks the harness of a plugin that takes records.
pub struct Consumes;

/// Marks the harness of a plugin that makes records.
pub struct Produces;

/// A plugin that runs in the in-memory host.
pub struct Running<K> {
    host: MemoryHost,
    config: Config,
    open: Open,
    instance: Option<Instance>,
    kind: PhantomData<K>,
}

impl<K> Running<K> {
    /// Starts the plugin anew on the state it has kept, as after a restart of the server.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn restart(&mut self) -> Result<(), String> {
        self.instance = None;
        let _installed = Installed::new(&mut self.host);
        self.instance = Some((self.open)(&self.config)?);
        Ok(())
    }

    /// The value the host holds for a key of the state.
    pub fn state(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.host.state.get(key.as_ref()).map(Vec::as_slice)
    }

    /// Everything the host holds of the state, in ascending order of the keys.
    pub fn state_entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.host
            .state
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// The timers that are set, in the order in which they fire: key, due time in ms since the Unix
    /// epoch, payload.
    pub fn timers(&self) -> impl Iterator<Item = (&[u8], u64, &[u8])> {
        let timers = self.host.timers.iter();
        timers.map(|((due_ms, key), payload)| (key.as_slice(), *due_ms, payload.as_slice()))
    }

    /// What the plugin has logged so far.
    pub fn logs(&self) -> &[LogLine] {
        &self.host.logs
    }

    /// What the plugin has added to a counter so far.
    pub fn counter(&self, name: &str) -> u64 {
        self.host.counters.get(name).copied().unwrap_or_default()
    }

    /// What the plugin has set a gauge to last.
    pub fn gauge(&self, name: &str) -> Option<f64> {
        self.host.gauges.get(name).copied()
    }

    /// What the plugin has recorded in a histogram so far.
    pub fn recorded_values(&self, name: &str) -> &[u64] {
        self.host.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// The HTTP requests that the plugin has sent so far.
    pub fn http_requests(&self) -> &[http::Request] {
        &self.host.http_requests
    }

    /// How often the plugin's state has called the host, to read and to write.
    pub fn state_calls(&self) -> (u64, u64) {
        (self.host.state_reads, self.host.state_writes)
    }

    /// Calls the instance. As the real host does, keeps nothing of a call that fails, drops the
    /// instance then, and opens a new one for the next call.
    fn call(&mut self, call: Call) -> Result<Output, String> {
        if self.instance.is_none() {
            self.restart()?;
        }
        let Some(instance) = &mut self.instance else {
            unreachable!("it was just started")
        };
        let before = (self.host.state.clone(), self.host.timers.clone());
        let reply = {
            let _installed = Installed::new(&mut self.host);
            instance(call)
        };
        if reply.is_err() {
            (self.host.state, self.host.timers) = before;
            self.instance = None;
        }
        reply
    }
}

impl Running<Consumes> {
    /// Processes one batch.
    ///
    /// # Panics
    /// If the plugin fails the batch as a whole, or if its reply breaks the rules of the interface.
    pub fn process(&mut self, records: impl IntoIterator<Item = Input>) -> Outcome {
        match self.try_process(records) {
            Ok(outcome) => outcome,
            Err(reason) => panic!("the plugin failed the batch: {reason}"),
        }
    }

    /// Processes one batch that may fail as a whole.
    ///
    /// # Errors
    /// What the plugin says; nothing of the batch is kept.
    ///
    /// # Panics
    /// If the reply breaks the rules of the interface.
    pub fn try_process(
        &mut self,
        records: impl IntoIterator<Item = Input>,
    ) -> Result<Outcome, String> {
        let records: Vec<Input> = records.into_iter().collect();
        let batch = self
            .host
            .number(input::to_batch(&records, self.host.partition));
        let output = self.call(Call::Process(Box::new(batch.clone())))?;
        Ok(Outcome::new(&batch, &output, &self.host.ports))
    }
}

impl Running<Consumes> {
    /// Hands the plugin the timers that are due at a time, in ms since the Unix epoch, as one batch. A
    /// timer that it sets meanwhile waits for the next call, and one that fails is not tried again.
    ///
    /// # Panics
    /// If the plugin was opened without timers, if it fails the batch as a whole, or if its reply breaks
    /// the rules of the interface.
    pub fn fire_timers(&mut self, now_ms: u64) -> Outcome {
        let timers = self.host.take_due(now_ms);
        let batch = to_batch(timers.clone());
        match self.call(Call::Timers(Box::new(timers))) {
            Ok(output) => Outcome::new(&batch, &output, &self.host.ports),
            Err(reason) => panic!("the plugin failed the timers: {reason}"),
        }
    }
}

impl Running<Produces> {
    /// Asks for at most `max_records` records.
    ///
    /// # Errors
    /// What the plugin says; nothing of the call is kept.
    ///
    /// # Panics
    /// If the reply breaks the rules of the interface, or has more records than that.
    pub fn produce(&mut self, max_records: u32) -> Result<Outcome, String> {
        let output = self.call(Call::Produce(max_records))?;
        assert!(
            output.len() <= max_records as usize,
            "asked for at most {max_records} records, the plugin made {}",
            output.len()
        );
        Ok(Outcome::new(&Batch::empty(), &output, &self.host.ports))
    }
}

fn call_with_timers<P: TimerHandler>(
    driver: &mut ConsumerDriver<P>,
    call: Call,
) -> Result<Output, String> {
    match call {
        Call::Process(batch) => driver.process(*batch),
        Call::Timers(timers) => driver.on_timers(*timers),
        Call::Produce(_) => unreachable!("a consumer's harness does not produce"),
    }
}

const NO_TIMERS: &str = "open it with `timer_consumer` or `timer_consumer_fn`";

struct StatelessFunction<F>(F);

impl<F> StatelessConsumer for StatelessFunction<F>
where
    F: FnMut(Record<'_>, &mut Outputs) -> Result<(), Failure>,
{
    fn open(_: &Config) -> Result<Self, Failure> {
        unreachable!("the harness makes it")
    }

    fn process(&mut self, record: Record<'_>, out: &mut Outputs) -> Result<(), Failure> {
        (self.0)(record, out)
    }
}

struct FunctionConsumer<F>(F);

impl<F> Consumer for FunctionConsumer<F>
where
    F: FnMut(Record<'_>, &mut Outputs, &mut State) -> Result<(), Failure>,
{
    fn open(_: &Config) -> Result<Self, Failure> {
        unreachable!("the harness makes it")
    }

    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        (self.0)(record, out, state)
    }
}

struct TimerFunctions<F, T>(FunctionConsumer<F>, T);

impl<F, T> Consumer for TimerFunctions<F, T>
where
    F: FnMut(Record<'_>, &mut Outputs, &mut State) -> Result<(), Failure>,
{
    fn open(_: &Config) -> Result<Self, Failure> {
        unreachable!("the harness makes it")
    }

    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        self.0.process(record, out, state)
    }
}

impl<F, T> TimerHandler for TimerFunctions<F, T>
where
    F: FnMut(Record<'_>, &mut Outputs, &mut State) -> Result<(), Failure>,
    T: FnMut(Timer<'_>, &mut Outputs, &mut State) -> Result<(), Failure>,
{
    fn on_timer(
        &mut self,
        timer: Timer<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        (self.1)(timer, out, state)
    }
}

#[cfg(test)]
mod tests;
