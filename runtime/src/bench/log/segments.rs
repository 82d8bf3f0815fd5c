//! The plain side: one file for each partition, batch after batch.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;

use crate::bench::latency::LatencyRecorder;
use crate::model::RecordBatch;
use crate::storage::Durability;

/// Bytes read at a time, as a cursor of the log fetches them.
const READ_BYTES: u64 = 1 << 20;
/// Where a batch's length field lies, and what it does not count.
const LENGTH_AT: std::ops::Range<usize> = 8..12;
/// Bytes of a batch before what its length field counts.
const UNCOUNTED_BYTES: usize = 12;

/// The files of a run.
pub(super) struct Segments {
    files: Vec<File>,
    paths: Vec<PathBuf>,
}

impl Segments {
    /// Creates the files of `partitions` partitions in a folder.
    pub(super) fn create(folder: &Path, partitions: u32) -> anyhow::Result<Self> {
        let paths: Vec<_> = (0..partitions)
            .map(|partition| folder.join(format!("{partition}.log")))
            .collect();
        let files = paths.iter().map(|path| {
            File::create(path).with_context(|| format!("cannot create {}", path.display()))
        });
        Ok(Self {
            files: files.collect::<Result<_, _>>()?,
            paths,
        })
    }

    /// Writes the batches, one after another, and makes them as durable as asked for. Returns the
    /// time it took; `latency` gets that of each batch.
    pub(super) fn append(
        &self,
        batches: &[(u32, RecordBatch)],
        durability: Durability,
        latency: &mut LatencyRecorder,
    ) -> anyhow::Result<Duration> {
        std::thread::scope(|scope| {
            // Ends the thread when it goes.
            let mut stop_sync = None;
            if let Durability::Interval(every) = durability {
                let (stop, stopped) = mpsc::channel::<()>();
                scope.spawn(move || self.sync_every(every, &stopped));
                stop_sync = Some(stop);
            }
            let begin = Instant::now();
            for (partition, batch) in batches {
                let mut file = self
                    .files
                    .get(*partition as usize)
                    .context("no such partition")?;
                let start = Instant::now();
                file.write_all(batch.as_bytes())?;
                if durability == Durability::Sync {
                    file.sync_data()?;
                }
                latency.record(start.elapsed());
            }
            let taken = begin.elapsed();
            drop(stop_sync);
            Ok(taken)
        })
    }

    fn sync_every(&self, every: Duration, stopped: &mpsc::Receiver<()>) {
        while stopped.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout) {
            for file in &self.files {
                if let Err(error) = file.sync_data() {
                    tracing::warn!(%error, "a segment file could not be synced");
                }
            }
        }
    }

    /// Visits every batch of every file, in order.
    pub(super) fn scan(
        &self,
        mut visit: impl FnMut(RecordBatch) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for path in &self.paths {
            scan_file(path, &mut visit).with_context(|| format!("in {}", path.display()))?;
        }
        Ok(())
    }
}

/// Reads a file piece by piece; a batch that is cut off by the end of a piece starts the next one.
fn scan_file(
    path: &Path,
    visit: &mut impl FnMut(RecordBatch) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let len_bytes = file.metadata()?.len();
    let (mut position, mut wanted) = (0, READ_BYTES);
    while position < len_bytes {
        let mut piece = Vec::with_capacity(wanted as usize);
        file.seek(SeekFrom::Start(position))?;
        (&mut file).take(wanted).read_to_end(&mut piece)?;
        let mut piece = Bytes::from(piece);
        let read = piece.len();
        while let Some(batch_len) = batch_len(&piece).filter(|len| *len <= piece.len()) {
            visit(RecordBatch::from_stored(piece.split_to(batch_len))?)?;
        }
        let used = (read - piece.len()) as u64;
        if used == 0 && wanted > len_bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // A batch larger than a piece needs a larger piece.
        wanted = if used == 0 { wanted * 2 } else { READ_BYTES };
        position += used;
    }
    Ok(())
}

/// The length of the batch that starts here.
fn batch_len(bytes: &[u8]) -> Option<usize> {
    let field: [u8; 4] = bytes.get(LENGTH_AT)?.try_into().ok()?;
    Some(UNCOUNTED_BYTES + usize::try_from(i32::from_be_bytes(field)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::Shape;
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        // Batches that do not divide a piece, and one shape with batches larger than a piece.
        for (value_bytes, batch_records) in [(700, 100), (3_000, 512)] {
            let shape = Shape {
                partitions: 2,
                value_bytes,
                batch_records,
                total_bytes: 5 << 20,
            };
            let batches = shape.load().unwrap().into_stored(&shape);
            let interval = Durability::Interval(Duration::from_millis(1));
            for durability in [Durability::Os, interval, Durability::Sync] {
                let segments = Segments::create(folder.path(), 2).unwrap();
                let mut latency = LatencyRecorder::new().unwrap();
                segments.append(&batches, durability, &mut latency).unwrap();
                assert_eq!(latency.summary().count, batches.len() as u64);
                let mut expected: Vec<_> = batches.iter().filter(|(of, _)| *of == 0).collect();
                expected.extend(batches.iter().filter(|(of, _)| *of == 1));
                let mut expected = expected.into_iter();
                segments
                    .scan(|batch| {
                        assert_eq!(batch.as_bytes(), expected.next().unwrap().1.as_bytes());
                        Ok(())
                    })
                    .unwrap();
                assert!(expected.next().is_none());
            }
        }
    }

    #[test]
    fn a_cut_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        std::fs::write(&path, [0; 30]).unwrap();
        assert!(scan_file(&path, &mut |_| Ok(())).is_err());
        std::fs::write(&path, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]).unwrap();
        assert!(scan_file(&path, &mut |_| Ok(())).is_err());
    }
}
