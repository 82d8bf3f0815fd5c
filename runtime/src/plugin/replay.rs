//! Runs a record in a fresh instance and notes what it sees, and runs it again with what it saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    columns::Columns,
    component::Plugin,
    conditions::Conditions,
    contract::Grants,
    fault::Fault,
    headers::EncodedHeaders,
    host::state::{RangeLimit, StateChanges, StateReader},
    instance::InstanceContext,
    limits::Limits,
    output::Output,
    recording::{Allowance, Moment, Place, Readings, Recording, StateReads},
};
use crate::model::{HeadersBuf, PipelineName, RecordRef, batch};

/// A call into a fresh instance, and what it saw.
pub struct RecordedCall {
    /// What it led to.
    pub result: Result<Output, Fault>,
    /// What it would change of the state; nothing after a fault.
    pub changes: StateChanges,
    /// What its clocks said.
    pub readings: Readings,
    /// What it read of the state.
    pub state: StateReads,
}

/// A call with what another one saw.
pub struct ReplayedCall {
    /// What it led to.
    pub result: Result<Output, Fault>,
    /// What it would change of the state; nothing after a fault.
    pub changes: StateChanges,
    /// How many of its reads of the state asked for what is not known: there they found nothing.
    pub unknown_read_count: usize,
}

impl Plugin {
    /// Runs a batch in a fresh instance, with the time and the random numbers of a call that has been, and
    /// notes what it sees. Its log lines are dropped, and nothing of
    /// what it does has an effect, unless the caller sees to that.
    pub fn record(
        &self,
        context: InstanceContext,
        grants: &Grants,
        limits: &Limits,
        state: Box<dyn StateReader>,
        moment: (Moment, &Readings),
        batch: &Columns,
    ) -> RecordedCall {
        let reads = Arc::new(Mutex::new(StateReads::default()));
        let state = Box::new(StateRecorder {
            state,
            reads: Arc::clone(&reads),
        });
        let (moment, readings) = moment;
        let conditions = Conditions::Recorded(moment, readings.clone());
        let opened = self.open_under(context, grants, limits, state, &conditions);
        let (result, changes, readings) = match opened {
            Err(fault) => (Err(fault), Vec::new(), Readings::default()),
            Ok(mut instance) => {
                let result = instance.process(batch);
                let changes = instance.take_state_changes();
                let mut readings = Readings::default();
                instance.swap_readings(&mut readings);
                (result, changes, readings)
            }
        };
        let state = std::mem::take(&mut *reads.lock());
        RecordedCall {
            result,
            changes,
            readings,
            state,
        }
    }

    /// Runs a record with what a recording says that it saw.
    pub fn replay(
        &self,
        pipeline: &PipelineName,
        recording: &Recording,
        batch: &Columns,
    ) -> ReplayedCall {
        let context = InstanceContext {
            pipeline: pipeline.clone(),
            partition: recording.partition,
            inputs: recording.inputs.clone(),
            ports: recording.ports.clone(),
            config: recording.config.clone(),
            metrics: Arc::default(),
            log_limit: std::sync::Arc::default(),
            slot: None,
        };
        let (readings, reads) = match &recording.seen {
            Ok(seen) => (seen.readings.clone(), seen.state.clone()),
            Err(_) => Default::default(),
        };
        let unknown = Arc::new(AtomicUsize::new(0));
        let state = Box::new(StateReplay {
            reads,
            unknown: Arc::clone(&unknown),
        });
        let (grants, limits) = (recording.allowance.grants(), recording.allowance.limits());
        let conditions = Conditions::Replayed(recording.moment, readings);
        let (result, changes) = match self.open_under(context, &grants, &limits, state, &conditions)
        {
            Err(fault) => (Err(fault), Vec::new()),
            Ok(mut instance) => {
                let result = instance.process(batch);
                (result, instance.take_state_changes())
            }
        };
        ReplayedCall {
            result,
            changes,
            unknown_read_count: unknown.load(Ordering::Relaxed),
        }
    }
}

/// Notes what is read of a state.
struct StateRecorder {
    state: Box<dyn StateReader>,
    reads: Arc<Mutex<StateReads>>,
}

impl StateReader for StateRecorder {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        let value = self.state.get(key)?;
        self.reads.lock().note_value(key, value.as_ref());
        Ok(value)
    }

    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        let entries = self.state.range(from, to, limit)?;
        let bytes: usize = entries.iter().map(|(k, v)| k.len() + v.len()).sum();
        let is_whole = entries.len() < limit.entries && bytes <= limit.bytes;
        let mut reads = self.reads.lock();
        reads.note_range(from, to, is_whole, &entries);
        Ok(entries)
    }
}

/// Answers with what was read, and counts what was not.
struct StateReplay {
    reads: StateReads,
    unknown: Arc<AtomicUsize>,
}

impl StateReplay {
    fn count_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }
}

impl StateReader for StateReplay {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, String> {
        let known = self.reads.value(key);
        if known.is_none() {
            self.count_unknown();
        }
        Ok(known.flatten())
    }

    fn range(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        limit: RangeLimit,
    ) -> Result<Vec<(Bytes, Bytes)>, String> {
        let (entries, is_known) = self.reads.range(from, to, limit.entries, limit.bytes);
        if !is_known {
            self.count_unknown();
        }
        Ok(entries)
    }
}

impl Allowance {
    /// What a pipeline grants its plugin, and its limits.
    pub fn new(grants: &Grants, limits: &Limits) -> Self {
        Self {
            state: grants.state,
            clocks: grants.clocks,
            random: grants.random,
            http: grants.http.is_some(),
            memory_bytes: limits.memory_bytes as u64,
            // 64 bits are 584 years.
            deadline_ns: u64::try_from(limits.deadline.as_nanos()).unwrap_or(u64::MAX),
            output_bytes: limits.output_bytes as u64,
            output_records: limits.output_records as u64,
            state_bytes: limits.state_bytes as u64,
        }
    }

    fn grants(&self) -> Grants {
        Grants {
            state: self.state,
            clocks: self.clocks,
            random: self.random,
            // A replay calls no services.
            http: self.http.then(Arc::default),
            // Those that the pipeline does not grant are not imported.
            timers: true,
        }
    }

    fn limits(&self) -> Limits {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Limits {
            memory_bytes: bytes(self.memory_bytes),
            deadline: Duration::from_nanos(self.deadline_ns),
            output_bytes: bytes(self.output_bytes),
            output_records: bytes(self.output_records),
            state_bytes: bytes(self.state_bytes),
        }
    }
}

impl Place {
    /// The place of record `index` of a batch, with its headers or without.
    pub fn of(batch: &Columns, index: usize, with_headers: bool) -> Self {
        let headers = with_headers.then(|| batch.headers(index).0.to_vec());
        Self {
            input: batch.input(),
            partition: batch.partition(),
            offset: batch.offset(index),
            delivery_count: batch.delivery_count(index),
            headers,
        }
    }

    /// The batch that has a record of this place only.
    ///
    /// # Errors
    /// More or larger headers than a record takes.
    pub fn batch_of(&self, record: &RecordRef<'_>) -> Result<Columns, batch::Error> {
        let mut own = HeadersBuf::new();
        let headers = match &self.headers {
            None => record.headers,
            Some(encoded) => {
                EncodedHeaders(encoded).write_to(&mut own)?;
                own.as_headers()
            }
        };
        let mut batch = Columns::new();
        batch.start(self.input, self.partition);
        let record = RecordRef {
            offset: self.offset,
            headers,
            ..*record
        };
        batch.push_delivery(&record, self.delivery_count);
        Ok(batch)
    }
}
