//! What a plugin implements, and what calls it.

use std::rc::Rc;

use crate::columns::{Batch, FailedRecord, Output, TimerBatch};
use crate::config::Config;
use crate::failure::Failure;
use crate::metrics;
use crate::outputs::Outputs;
use crate::record::{Record, Records, StateKeys};
use crate::state::State;
use crate::timers::{Timer, to_batch};

/// A plugin that takes records one by one. Exported with [`consumer!`](crate::consumer).
pub trait Consumer: Sized {
    /// Makes the plugin; called once for each instance, before anything else.
    ///
    /// # Errors
    /// A failure stops the pipeline and is shown to its owner.
    fn open(config: &Config) -> Result<Self, Failure>;

    /// Processes one record.
    ///
    /// # Errors
    /// A failure is that record's: what it emitted and changed in `state` is taken back, its
    /// neighbours stand. Fields of the plugin itself are not taken back: change them last.
    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure>;

    /// Called after the last record, or timer, of a batch. [`State::changes`] tells what the batch changed.
    ///
    /// # Errors
    /// A failure is the whole batch's: nothing of it is kept.
    fn finish_batch(&mut self, out: &mut Outputs, state: &mut State) -> Result<(), Failure> {
        let _ = (out, state);
        Ok(())
    }

    /// Names the state keys that `process` will want for a batch's records. They are then read in
    /// one call to the host instead of one each; it is never wrong to name too few or too many.
    fn state_keys(&self, records: Records<'_>, keys: &mut StateKeys) {
        let _ = (records, keys);
    }
}

/// A consumer that sets timers, with [`State::timers`], and is called when they are due. Exported with
/// `consumer!(type PLUGIN, timers)`.
pub trait TimerHandler: Consumer {
    /// Handles one timer that is due. What it emits takes over the timer's key, and the time at which
    /// the timer was due.
    ///
    /// Timers of one batch are handled in the order of their times; one that is cancelled, or set
    /// again, while those before it are handled is left out.
    ///
    /// # Errors
    /// A failure is that timer's, as it is a record's: what it emitted and changed is taken back, and
    /// it is tried again or becomes a dead letter.
    fn on_timer(
        &mut self,
        timer: Timer<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure>;
}

/// A plugin that takes whole batches as columns. Exported with
/// [`batch_consumer!`](crate::batch_consumer).
pub trait BatchConsumer: Sized {
    /// Makes the plugin; called once for each instance, before anything else.
    ///
    /// # Errors
    /// A failure stops the pipeline and is shown to its owner.
    fn open(config: &Config) -> Result<Self, Failure>;

    /// Processes one batch. `processed` of the reply must be the batch's length.
    ///
    /// # Errors
    /// A failure is the whole batch's: nothing of it is kept.
    fn process(&mut self, batch: Batch, state: &mut State) -> Result<Output, Failure>;
}

/// A plugin that makes records. Exported with [`producer!`](crate::producer).
pub trait Producer: Sized {
    /// Makes the plugin; called once for each instance, before anything else.
    ///
    /// # Errors
    /// A failure stops the pipeline and is shown to its owner.
    fn open(config: &Config) -> Result<Self, Failure>;

    /// Makes at most `max_records` records; called only when there is room for them. Making none
    /// means "nothing now".
    ///
    /// Keep the position in `state`, which is committed with the records: then a restart makes
    /// none twice and leaves none out.
    ///
    /// # Errors
    /// A failure is the whole call's: nothing of it is kept.
    fn produce(
        &mut self,
        max_records: u32,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure>;
}

/// Calls a [`Consumer`] for each record of a batch and puts the reply together.
pub struct ConsumerDriver<P> {
    plugin: P,
    outputs: Outputs,
    state: State,
    keys: StateKeys,
}

impl<P: Consumer> ConsumerDriver<P> {
    /// Opens the plugin.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn open(config: &Config) -> Result<Self, String> {
        Ok(Self::with(
            P::open(config).map_err(|failure| failure.to_string())?,
        ))
    }

    /// Calls a plugin that is open already.
    pub(crate) fn with(plugin: P) -> Self {
        let (outputs, state) = (Outputs::new(), State::new());
        Self {
            plugin,
            outputs,
            state,
            keys: StateKeys::default(),
        }
    }

    /// Processes a batch.
    ///
    /// # Errors
    /// If the batch failed as a whole; the instance's view of the state is then forgotten.
    pub fn process(&mut self, batch: Batch) -> Result<Output, String> {
        let batch = Rc::new(batch);
        self.outputs.begin(Rc::clone(&batch));
        self.load_state(&batch);
        let failed = self.each(&batch, |plugin, index, out, state| {
            plugin.process(Record::at(&batch, index), out, state)
        });
        self.finish(failed)
    }

    /// Calls the plugin for each record or timer of a batch; returns those that failed.
    #[inline]
    fn each(
        &mut self,
        batch: &Batch,
        mut call: impl FnMut(&mut P, usize, &mut Outputs, &mut State) -> Result<(), Failure>,
    ) -> Vec<FailedRecord> {
        let mut failed = Vec::new();
        for index in 0..batch.len() {
            let mark = self.outputs.enter(index as u32);
            self.state.enter();
            let called = call(&mut self.plugin, index, &mut self.outputs, &mut self.state);
            if let Err(failure) = called {
                self.outputs.truncate(mark);
                self.state.roll_back();
                let (kind, reason) = failure.into_parts();
                failed.push(FailedRecord {
                    index: index as u32,
                    kind,
                    reason,
                });
            }
        }
        failed
    }

    /// Ends a batch and puts the reply together.
    fn finish(&mut self, failed: Vec<FailedRecord>) -> Result<Output, String> {
        self.outputs.leave();
        self.state.enter();
        let finished = self.plugin.finish_batch(&mut self.outputs, &mut self.state);
        metrics::flush();
        let reply = finished.map_err(|failure| failure.to_string());
        let reply = reply.and_then(|()| self.outputs.finish());
        match reply {
            Ok(mut output) => {
                self.state.flush();
                output.failed = failed;
                Ok(output)
            }
            Err(reason) => {
                self.state.discard();
                Err(reason)
            }
        }
    }

    #[inline]
    fn load_state(&mut self, batch: &Batch) {
        self.keys.clear();
        self.plugin.state_keys(batch.records(), &mut self.keys);
        if !self.keys.ends.is_empty() {
            self.state.load(&self.keys);
        }
    }
}

impl<P: TimerHandler> ConsumerDriver<P> {
    /// Handles timers that are due.
    ///
    /// # Errors
    /// If the batch failed as a whole; the instance's view of the state is then forgotten.
    pub fn on_timers(&mut self, timers: TimerBatch) -> Result<Output, String> {
        let batch = Rc::new(to_batch(timers));
        self.outputs.begin(Rc::clone(&batch));
        let failed = self.each(&batch, |plugin, index, out, state| {
            let timer = Timer::at(&batch, index);
            if state.timers.is_changed(timer) {
                return Ok(());
            }
            plugin.on_timer(timer, out, state)
        });
        self.finish(failed)
    }
}

/// Calls a [`BatchConsumer`].
pub struct BatchDriver<P> {
    plugin: P,
    state: State,
}

impl<P: BatchConsumer> BatchDriver<P> {
    /// Opens the plugin.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn open(config: &Config) -> Result<Self, String> {
        let plugin = P::open(config).map_err(|failure| failure.to_string())?;
        Ok(Self {
            plugin,
            state: State::new(),
        })
    }

    /// Processes a batch.
    ///
    /// # Errors
    /// What the plugin's `process` says.
    pub fn process(&mut self, batch: Batch) -> Result<Output, String> {
        self.state.enter();
        let reply = self.plugin.process(batch, &mut self.state);
        settle(reply, &mut self.state)
    }
}

/// Calls a [`Producer`].
pub struct ProducerDriver<P> {
    plugin: P,
    outputs: Outputs,
    state: State,
}

impl<P: Producer> ProducerDriver<P> {
    /// Opens the plugin.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn open(config: &Config) -> Result<Self, String> {
        let plugin = P::open(config).map_err(|failure| failure.to_string())?;
        Ok(Self {
            plugin,
            outputs: Outputs::new(),
            state: State::new(),
        })
    }

    /// Makes records.
    ///
    /// # Errors
    /// What the plugin's `produce` says.
    pub fn produce(&mut self, max_records: u32) -> Result<Output, String> {
        self.outputs.begin(Rc::new(Batch::empty()));
        self.state.enter();
        let made = self
            .plugin
            .produce(max_records, &mut self.outputs, &mut self.state);
        let reply = made.and_then(|()| self.outputs.finish().map_err(crate::Reject::new));
        settle(reply, &mut self.state)
    }
}

/// Ends a call: the state's changes go to the host, or are forgotten.
fn settle(reply: Result<Output, Failure>, state: &mut State) -> Result<Output, String> {
    metrics::flush();
    match reply {
        Ok(output) => {
            state.flush();
            Ok(output)
        }
        Err(failure) => {
            state.discard();
            Err(failure.to_string())
        }
    }
}
