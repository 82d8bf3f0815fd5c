//! Fills the input topic.

use crate::bench::synthetic::Records;
use crate::log::{Log, Producer, Topic};
use crate::model::HeadersRef;
use crate::storage;

/// When every record happened, in ms since the epoch.
const TIMESTAMP_MS: u64 = 1_700_000_000_000;

/// Sends made-up records to a topic, by key.
pub(super) async fn fill(
    log: &Log,
    topic: &Topic,
    records: u64,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let mut source = Records::new(value_bytes, 1);
    let mut producer = Producer::new(log.clone(), topic.clone());
    for _ in 0..records {
        let (key, value) = source.next();
        producer
            .send(
                None,
                TIMESTAMP_MS,
                Some(key),
                Some(value),
                HeadersRef::EMPTY,
            )
            .await?;
    }
    let acknowledged = producer.flush().await?;
    anyhow::ensure!(
        acknowledged.records == records,
        "only {} records are in",
        acknowledged.records
    );
    let store = log.store().clone();
    tokio::task::spawn_blocking(move || -> Result<(), storage::Error> { store.flush() }).await??;
    Ok(())
}
