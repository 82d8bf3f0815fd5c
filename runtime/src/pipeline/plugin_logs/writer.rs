//! Writes what plugins log to files, on a thread of its own: a plugin never waits for the disk. What does not fit into the
//! queue to that thread, or cannot be written, is counted, and the count is stored in its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::files::LogFiles;
use crate::model::PipelineName;
use crate::plugin::{LineSink, LogLine};

/// Bytes of lines that wait to be written, those of all pipelines together.
const MAX_QUEUED_BYTES: usize = 8 << 20;
/// What a line takes besides its text.
const LINE_BYTES: usize = 128;
/// How often it is told that nothing can be stored.
const WARN_INTERVAL: Duration = Duration::from_secs(600);
/// How long the thread waits for more lines before it writes, so that many become one write.
const GATHER: Duration = Duration::from_millis(5);

/// The way to the files. Its thread starts with the first line, and ends with it.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: Mutex<LogFiles>,
    queue: Mutex<Queue>,
    /// There is something to write, or nothing ever will be.
    added: Condvar,
    /// Everything has been written.
    written: Condvar,
    max_queued_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    lines: Vec<(Arc<Destination>, Arc<LogLine>)>,
    bytes: usize,
    has_thread: bool,
    is_writing: bool,
    is_closed: bool,
}

/// Where the lines of a pipeline go.
#[derive(Debug)]
struct Destination {
    name: PipelineName,
    is_deleted: AtomicBool,
    missing: Mutex<Option<Missing>>,
}

/// Lines that were not stored, and of which nothing is stored yet.
#[derive(Debug)]
struct Missing {
    /// The first of them.
    first: Arc<LogLine>,
    count: u64,
}

/// Puts the lines of a pipeline into the queue.
#[derive(Debug)]
pub(super) struct Sink {
    shared: Arc<Shared>,
    destination: Arc<Destination>,
}

impl Writer {
    pub(super) fn new(files: LogFiles) -> Self {
        Self::bounded(files, MAX_QUEUED_BYTES)
    }

    pub(super) fn bounded(files: LogFiles, max_queued_bytes: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                files: Mutex::new(files),
                queue: Mutex::default(),
                added: Condvar::new(),
                written: Condvar::new(),
                max_queued_bytes,
            }),
        }
    }

    /// What takes the lines of a pipeline.
    pub(super) fn sink(&self, name: &PipelineName) -> Sink {
        Sink {
            shared: Arc::clone(&self.shared),
            destination: Arc::new(Destination {
                name: name.clone(),
                is_deleted: AtomicBool::new(false),
                missing: Mutex::default(),
            }),
        }
    }

    /// Does something with the files while nothing is written to them.
    pub(super) fn with_files<T>(&self, work: impl FnOnce(&LogFiles) -> T) -> T {
        work(&self.shared.files.lock())
    }

    /// Waits until everything that was logged has been written, at most so long. Returns whether it has.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let shared = &self.shared;
        let mut queue = shared.queue.lock();
        while queue.is_writing || !queue.lines.is_empty() {
            if shared.written.wait_until(&mut queue, deadline).timed_out() {
                return false;
            }
        }
        true
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.queue.lock().is_closed = true;
        self.shared.added.notify_all();
    }
}

impl Sink {
    /// Nothing of what was logged, or is yet to be, is written from now on.
    pub(super) fn close(&self) {
        self.destination.is_deleted.store(true, Ordering::Relaxed);
    }
}

impl LineSink for Sink {
    fn add(&self, line: &Arc<LogLine>) {
        let bytes = LINE_BYTES + line.context.len() + line.message.len();
        let mut queue = self.shared.queue.lock();
        if queue.is_closed {
            return;
        }
        let has_room = queue.bytes + bytes <= self.shared.max_queued_bytes;
        if !has_room || !self.shared.has_thread(&mut queue) {
            drop(queue);
            self.destination.miss(line, 1);
            return;
        }
        queue.bytes += bytes;
        let destination = Arc::clone(&self.destination);
        queue.lines.push((destination, Arc::clone(line)));
        drop(queue);
        self.shared.added.notify_one();
    }
}

impl Destination {
    /// Counts lines that are not stored, from this one on.
    fn miss(&self, first: &Arc<LogLine>, count: u64) {
        let mut missing = self.missing.lock();
        let missing = missing.get_or_insert_with(|| Missing {
            first: Arc::clone(first),
            count: 0,
        });
        if first.number < missing.first.number {
            missing.first = Arc::clone(first);
        }
        missing.count += count;
    }
}

impl Missing {
    /// The line that is stored in their place.
    fn line(&self) -> LogLine {
        let count = self.count;
        LogLine {
            number: self.first.number,
            time_ms: self.first.time_ms,
            level: Level::WARN,
            partition: self.first.partition,
            context: "millstream".to_owned(),
            message: format!(
                "log lines are missing from here on, which could not be stored: {count}"
            ),
        }
    }
}

impl Shared {
    /// Whether there is a thread that writes; starts it.
    fn has_thread(self: &Arc<Self>, queue: &mut Queue) -> bool {
        if !queue.has_thread {
            let shared = Arc::clone(self);
            let thread = std::thread::Builder::new().name("plugin-logs".to_owned());
            // What is not stored without it is counted, and the next line tries again.
            queue.has_thread = thread.spawn(move || shared.write_all()).is_ok();
        }
        queue.has_thread
    }

    fn write_all(&self) {
        let mut warned_at = None;
        while self.wait() {
            std::thread::sleep(GATHER);
            let lines = {
                let mut queue = self.queue.lock();
                queue.bytes = 0;
                queue.is_writing = true;
                std::mem::take(&mut queue.lines)
            };
            self.write(lines, &mut warned_at);
            let mut queue = self.queue.lock();
            queue.is_writing = false;
            drop(queue);
            self.written.notify_all();
        }
    }

    /// Waits for lines. Returns false if none will come.
    fn wait(&self) -> bool {
        let mut queue = self.queue.lock();
        while queue.lines.is_empty() {
            if queue.is_closed {
                return false;
            }
            self.added.wait(&mut queue);
        }
        true
    }

    fn write(&self, lines: Vec<(Arc<Destination>, Arc<LogLine>)>, warned_at: &mut Option<Instant>) {
        let mut by_pipeline: HashMap<PipelineName, (Arc<Destination>, Vec<Arc<LogLine>>)> =
            HashMap::new();
        for (destination, line) in lines {
            // One that was deleted may be there again, under the same name.
            if !destination.is_deleted.load(Ordering::Relaxed) {
                let entry = by_pipeline.entry(destination.name.clone());
                let (_, lines) = entry.or_insert_with(|| (destination, Vec::new()));
                lines.push(line);
            }
        }
        for (destination, lines) in by_pipeline.into_values() {
            let Err(error) = self.append(&destination, lines) else {
                continue;
            };
            if warned_at.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
                tracing::warn!(pipeline = %destination.name, %error, "what plugins log cannot be stored; pipelines go on without");
                *warned_at = Some(Instant::now());
            }
        }
    }

    /// Appends lines to those of a pipeline, and the line about those that are missing.
    fn append(
        &self,
        destination: &Destination,
        mut lines: Vec<Arc<LogLine>>,
    ) -> std::io::Result<()> {
        let files = self.files.lock();
        if destination.is_deleted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let missing = destination.missing.lock().take();
        if let Some(missing) = &missing {
            lines.push(Arc::new(missing.line()));
            lines.sort_by_key(|line| line.number);
        }
        let appended = files.append(&destination.name, &lines);
        drop(files);
        match (&appended, missing) {
            (Ok(()), None) => {}
            (Ok(()), Some(missing)) => {
                tracing::warn!(pipeline = %destination.name, lines = missing.count, "log lines of the plugin were not stored");
            }
            (Err(_), missing) => {
                // The line about those that are missing is none of the plugin.
                let count = match missing {
                    Some(missing) => missing.count + lines.len() as u64 - 1,
                    None => lines.len() as u64,
                };
                if let Some(first) = lines.first() {
                    destination.miss(first, count);
                }
            }
        }
        appended
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::line;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn messages(writer: &Writer, name: &PipelineName) -> Vec<String> {
        assert!(writer.flush(PATIENCE));
        let lines = writer.with_files(|files| files.read(name, 0, u64::MAX));
        lines.unwrap().into_iter().map(|it| it.message).collect()
    }

    #[test]
    fn what_does_not_fit_is_counted_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles::of(folder.path());
        let writer = Writer::bounded(files, 3 * LINE_BYTES);
        let name: PipelineName = "a".parse().unwrap();
        let sink = writer.sink(&name);
        {
            // A disk on which nothing goes on: nobody waits for it.
            let _files = writer.shared.files.lock();
            sink.add(&line(1, ""));
            let taken = || writer.shared.queue.lock().is_writing;
            while !taken() {
                std::thread::yield_now();
            }
            for number in 2..=1_000 {
                sink.add(&line(number, ""));
            }
            assert!(!writer.flush(Duration::from_millis(1)));
        }
        assert!(writer.flush(PATIENCE));
        sink.add(&line(1_001, "later"));
        let lines = messages(&writer, &name);
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert!(lines[4].ends_with(": 996"), "{lines:?}");
        assert_eq!(lines[5], "later");
    }

    #[test]
    fn a_disk_that_refuses_harms_nobody() {
        let folder = tempfile::tempdir().unwrap();
        // No folder can be made here.
        let in_the_way = folder.path().join("logs");
        std::fs::write(&in_the_way, "").unwrap();
        let writer = Writer::new(LogFiles::of(folder.path()));
        let name: PipelineName = "a".parse().unwrap();
        let sink = writer.sink(&name);
        for number in 1..=5 {
            sink.add(&line(number, "lost"));
            assert!(writer.flush(PATIENCE));
        }
        std::fs::remove_file(&in_the_way).unwrap();
        sink.add(&line(6, "kept"));
        let lines = messages(&writer, &name);
        assert!(lines[0].ends_with(": 5"), "{lines:?}");
        assert_eq!(lines[1..], ["kept"]);
    }

    #[test]
    fn what_is_closed_writes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(LogFiles::of(folder.path()));
        let name: PipelineName = "a".parse().unwrap();
        let (old, new) = (writer.sink(&name), writer.sink(&name));
        old.add(&line(1, "old"));
        old.close();
        old.add(&line(2, "old"));
        new.add(&line(3, "new"));
        assert_eq!(messages(&writer, &name), ["new"]);
        drop(writer);
        new.add(&line(4, "late"));
    }
}
