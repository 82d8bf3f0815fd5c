//! Says in the log which records a pipeline gives up on, without drowning everything else: the first ones
//! one by one, and under a stream of them how many there were each second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::Letter;
use crate::model::{PipelineName, QueueName};
use crate::plugin::{LinePermit, LineRate};

/// Records that are told one by one; after that, one a second.
const BURST: u32 = 10;
/// How often it is told how many there were besides.
const PAUSE: Duration = Duration::from_secs(1);

/// The log of the records that a pipeline gives up on, for all of its tasks. What is still to be told is told
/// when it goes.
pub(in crate::pipeline) struct GiveUpLog {
    shared: Arc<Shared>,
}

struct Shared {
    pipeline: PipelineName,
    queue: QueueName,
    rate: Mutex<LineRate>,
    /// Whether a summary is on its way.
    is_summary_due: AtomicBool,
}

impl GiveUpLog {
    /// A log of what goes to a queue.
    pub(in crate::pipeline) fn new(pipeline: &PipelineName, queue: &QueueName) -> Self {
        Self {
            shared: Arc::new(Shared {
                pipeline: pipeline.clone(),
                queue: queue.clone(),
                rate: Mutex::new(LineRate::new(BURST, 1, Instant::now())),
                is_summary_due: AtomicBool::new(false),
            }),
        }
    }

    /// Says that a record is given up on, or counts it for the next summary.
    pub(in crate::pipeline) fn note(&self, letter: &Letter<'_>) {
        let shared = &self.shared;
        let permit = shared.rate.lock().take(Instant::now());
        let LinePermit::Granted { dropped } = permit else {
            self.summarise_later();
            return;
        };
        shared.say_dropped(dropped);
        tracing::warn!(pipeline = %shared.pipeline, origin = letter.origin, reason = letter.cause.word(), error = letter.cause.text(), attempts = letter.attempt_count, queue = %shared.queue, "gave up on a record");
    }

    fn summarise_later(&self) {
        if self.shared.is_summary_due.swap(true, Ordering::AcqRel) {
            return;
        }
        // Without a runtime it is told at the end.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let shared = Arc::downgrade(&self.shared);
        runtime.spawn(async move {
            tokio::time::sleep(PAUSE).await;
            if let Some(shared) = shared.upgrade() {
                shared.is_summary_due.store(false, Ordering::Release);
                shared.summarise();
            }
        });
    }
}

impl Shared {
    fn summarise(&self) {
        let dropped = self.rate.lock().take_dropped();
        self.say_dropped(dropped);
    }

    fn say_dropped(&self, records: u64) {
        if records > 0 {
            tracing::warn!(pipeline = %self.pipeline, queue = %self.queue, records, "… and gave up on more records");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.summarise();
    }
}
