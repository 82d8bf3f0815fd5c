//! The batches that both sides write, encoded before the clock starts.

use anyhow::Context as _;

use super::Shape;
use crate::bench::synthetic::Records;
use crate::model::{BatchBuilder, Compression, EncodedBatch, HeadersRef, RecordBatch};

/// When every record happened, in ms since the epoch.
const TIMESTAMP_MS: u64 = 1_700_000_000_000;

/// Batches for the partitions in turn: batch `i` goes to partition `i % partitions`.
pub(super) struct Load {
    pub(super) batches: Vec<EncodedBatch>,
    pub(super) bytes: u64,
    pub(super) records: u64,
}

impl Shape {
    /// Makes batches up to the shape's size, at least one for each partition.
    pub(super) fn load(&self) -> anyhow::Result<Load> {
        let mut records = Records::new(self.value_bytes, 1);
        let mut builder = BatchBuilder::new(Compression::None);
        let mut load = Load {
            batches: Vec::new(),
            bytes: 0,
            records: 0,
        };
        while load.bytes < self.total_bytes || load.batches.len() < self.partitions as usize {
            for _ in 0..self.batch_records {
                let (key, value) = records.next();
                builder.push(TIMESTAMP_MS, Some(key), Some(value), HeadersRef::EMPTY)?;
            }
            let batch = builder.build()?.context("a batch without records")?;
            load.bytes += batch.len_bytes() as u64;
            load.records += u64::from(batch.record_count());
            load.batches.push(batch);
        }
        Ok(load)
    }

    /// The partition of batch number `batch`.
    pub(super) fn partition_of(&self, batch: usize) -> u32 {
        (batch % self.partitions.max(1) as usize) as u32
    }
}

impl Load {
    /// The batches with their offsets, as a log stores them.
    pub(super) fn into_stored(self, shape: &Shape) -> Vec<(u32, RecordBatch)> {
        let mut next_offsets = vec![0; shape.partitions.max(1) as usize];
        let batches = self.batches.into_iter().enumerate();
        let stored = batches.map(|(number, batch)| {
            let partition = shape.partition_of(number);
            let mut stored = None;
            if let Some(next_offset) = next_offsets.get_mut(partition as usize) {
                let assigned = batch.assign(*next_offset);
                *next_offset = assigned.next_offset();
                stored = Some((partition, assigned));
            }
            stored
        });
        stored.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_dense_in_each_partition() {
        let shape = Shape {
            partitions: 3,
            value_bytes: 10,
            batch_records: 5,
            total_bytes: 2_000,
        };
        let load = shape.load().unwrap();
        assert!(load.bytes >= 2_000 && load.records == 5 * load.batches.len() as u64);
        let stored = load.into_stored(&shape);
        for partition in 0..3 {
            let of_it = stored
                .iter()
                .filter(|(of, _)| *of == partition)
                .map(|(_, batch)| batch);
            let mut next_offset = 0;
            for batch in of_it {
                assert_eq!(batch.base_offset(), next_offset);
                batch.verify_crc().unwrap();
                next_offset = batch.next_offset();
            }
            assert!(next_offset > 0);
        }
    }
}
