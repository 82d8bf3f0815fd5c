//! Writes what plugins log to files, on a thread of its own: a plugin never waits for the disk. What does not fit into the
//! queue to that thread, or cannot be written, is counted, and the count is stored in its place as soon as it can be.

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
/// How long it is waited, after a file has refused lines, before it is told how many are missing, unless others come.
const RETRY: Duration = Duration::from_secs(10);
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
    /// Those of which lines are missing.
    behind: Vec<Arc<Destination>>,
    /// They are not tried before, unless there are lines.
    retry_at: Option<Instant>,
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
        while queue.is_writing || queue.has_work() {
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
        if has_room && self.shared.has_thread(&mut queue) {
            queue.bytes += bytes;
            let destination = Arc::clone(&self.destination);
            queue.lines.push((destination, Arc::clone(line)));
        } else {
            queue.miss(&self.destination, line, 1);
        }
        drop(queue);
        self.shared.added.notify_one();
    }
}

impl Queue {
    fn has_work(&self) -> bool {
        // Nobody tells of what is missing where no thread can be had.
        let is_told = self.has_thread && self.retry_at.is_none();
        !self.lines.is_empty() || (is_told && !self.behind.is_empty())
    }

    /// Counts lines that are not stored, from this one on.
    fn miss(&mut self, destination: &Arc<Destination>, first: &Arc<LogLine>, count: u64) {
        if !destination.miss(first, count) {
            self.behind.push(Arc::clone(destination));
        }
    }
}

impl Destination {
    /// Counts lines that are not stored, from this one on. Returns whether others were missing before.
    fn miss(&self, first: &Arc<LogLine>, count: u64) -> bool {
        let mut missing = self.missing.lock();
        let others_were = missing.is_some();
        let missing = missing.get_or_insert_with(|| Missing {
            first: Arc::clone(first),
            count: 0,
        });
        if first.number < missing.first.number {
            missing.first = Arc::clone(first);
        }
        missing.count += count;
        others_were
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
            let (lines, behind) = {
                let mut queue = self.queue.lock();
                queue.bytes = 0;
                queue.is_writing = true;
                queue.retry_at = None;
                let lines = std::mem::take(&mut queue.lines);
                (lines, std::mem::take(&mut queue.behind))
            };
            self.write(lines, behind, &mut warned_at);
            let mut queue = self.queue.lock();
            queue.is_writing = false;
            drop(queue);
            self.written.notify_all();
        }
    }

    /// Waits for something to write. Returns false if nothing will come.
    fn wait(&self) -> bool {
        let mut queue = self.queue.lock();
        while !queue.has_work() {
            if queue.is_closed {
                return false;
            }
            match queue.retry_at {
                None => self.added.wait(&mut queue),
                Some(at) => {
                    if self.added.wait_until(&mut queue, at).timed_out() {
                        queue.retry_at = None;
                    }
                }
            }
        }
        true
    }

    fn write(
        &self,
        lines: Vec<(Arc<Destination>, Arc<LogLine>)>,
        behind: Vec<Arc<Destination>>,
        warned_at: &mut Option<Instant>,
    ) {
        let mut by_pipeline: HashMap<PipelineName, (Arc<Destination>, Vec<Arc<LogLine>>)> =
            HashMap::new();
        let lines = lines.into_iter().map(|(it, line)| (it, Some(line)));
        let behind = behind.into_iter().map(|it| (it, None));
        for (destination, line) in lines.chain(behind) {
            // One that was deleted may be there again, under the same name.
            if !destination.is_deleted.load(Ordering::Relaxed) {
                let entry = by_pipeline.entry(destination.name.clone());
                let (_, lines) = entry.or_insert_with(|| (destination, Vec::new()));
                lines.extend(line);
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
        destination: &Arc<Destination>,
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
                    let mut queue = self.queue.lock();
                    queue.miss(destination, first, count);
                    queue.retry_at = Some(Instant::now() + RETRY);
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
        // Also if no other line follows.
        let lines = messages(&writer, &name);
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[4].ends_with(": 996"), "{lines:?}");
        sink.add(&line(1_001, "later"));
        assert_eq!(messages(&writer, &name)[5..], ["later"]);
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
    fn what_a_disk_has_refused_is_told_when_it_takes_lines_again() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("logs");
        std::fs::write(&in_the_way, "").unwrap();
        let writer = Writer::new(LogFiles::of(folder.path()));
        let name: PipelineName = "a".parse().unwrap();
        writer.sink(&name).add(&line(1, "lost"));
        assert!(writer.flush(PATIENCE));
        std::fs::remove_file(&in_the_way).unwrap();
        {
            let mut queue = writer.shared.queue.lock();
            // Time has passed.
            queue.retry_at = queue.retry_at.and_then(|at| at.checked_sub(RETRY));
        }
        writer.shared.added.notify_one();
        let is_told = || writer.shared.queue.lock().behind.is_empty();
        while !is_told() {
            std::thread::yield_now();
        }
        let lines = messages(&writer, &name);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].ends_with(": 1"), "{lines:?}");
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
