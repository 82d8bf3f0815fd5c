//! Consumers that keep no state.
//!
//! Their components do not import `state`. With `concurrency` the host then gives a record to whichever
//! instance is free; the records of a plugin that keeps state go to the instance that has their key's.

use std::rc::Rc;

use crate::columns::{Batch, FailedRecord, Output};
use crate::config::Config;
use crate::failure::Failure;
use crate::metrics;
use crate::outputs::Outputs;
use crate::record::Record;

/// A plugin that takes records one by one and keeps no state. Exported with
/// [`stateless_consumer!`](crate::stateless_consumer).
pub trait StatelessConsumer: Sized {
    /// Makes the plugin; called once for each instance, before anything else.
    ///
    /// # Errors
    /// A failure stops the pipeline and is shown to its owner.
    fn open(config: &Config) -> Result<Self, Failure>;

    /// Processes one record.
    ///
    /// # Errors
    /// A failure is that record's: what it emitted is taken back, its neighbours stand.
    fn process(&mut self, record: Record<'_>, out: &mut Outputs) -> Result<(), Failure>;
}

/// Calls a [`StatelessConsumer`] for each record of a batch and puts the reply together.
pub struct StatelessDriver<P> {
    plugin: P,
    outputs: Outputs,
}

impl<P: StatelessConsumer> StatelessDriver<P> {
    /// Opens the plugin.
    ///
    /// # Errors
    /// What the plugin's `open` says.
    pub fn open(config: &Config) -> Result<Self, String> {
        let plugin = P::open(config).map_err(|failure| failure.to_string())?;
        Ok(Self::with(plugin))
    }

    /// Calls a plugin that is open already.
    pub(crate) fn with(plugin: P) -> Self {
        Self {
            plugin,
            outputs: Outputs::new(),
        }
    }

    /// Processes a batch.
    ///
    /// # Errors
    /// If the batch failed as a whole.
    pub fn process(&mut self, batch: Batch) -> Result<Output, String> {
        let batch = Rc::new(batch);
        self.outputs.begin(Rc::clone(&batch));
        let mut failed = Vec::new();
        for record in batch.records() {
            let mark = self.outputs.enter(record.index());
            if let Err(failure) = self.plugin.process(record, &mut self.outputs) {
                self.outputs.truncate(mark);
                let (kind, reason) = failure.into_parts();
                failed.push(FailedRecord {
                    index: record.index(),
                    kind,
                    reason,
                });
            }
        }
        self.outputs.leave();
        metrics::flush();
        let mut output = self.outputs.finish()?;
        output.failed = failed;
        Ok(output)
    }
}

/// Exports a consumer that keeps no state: a function, or a type that implements
/// [`StatelessConsumer`](crate::StatelessConsumer).
///
/// ```
/// use millstream_sdk::prelude::*;
///
/// millstream_sdk::stateless_consumer!(process);
///
/// fn process(record: Record<'_>, out: &mut Outputs) -> Result<(), Failure> {
///     out.forward(record);
///     Ok(())
/// }
/// ```
///
/// With a type: `millstream_sdk::stateless_consumer!(type Lookup);`
#[macro_export]
macro_rules! stateless_consumer {
    (type $plugin:ty) => {
        $crate::__export!(consumer, $crate::stateless::StatelessDriver<$plugin>);
    };
    ($process:path) => {
        const _: () = {
            // Outside a component nothing calls it, and it is in use all the same.
            let _ = $process;
            struct MillstreamFunction;
            impl $crate::StatelessConsumer for MillstreamFunction {
                fn open(_: &$crate::Config) -> ::core::result::Result<Self, $crate::Failure> {
                    ::core::result::Result::Ok(Self)
                }
                #[inline]
                fn process(
                    &mut self,
                    record: $crate::Record<'_>,
                    out: &mut $crate::Outputs,
                ) -> ::core::result::Result<(), $crate::Failure> {
                    $process(record, out)
                }
            }
    $crate::stateless_consumer!(type MillstreamFunction);
        };
    };
}
