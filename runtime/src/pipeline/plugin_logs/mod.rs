//! What the plugins of pipelines log: the last lines in memory, and more of them in files (`files.rs`), which are there
//! also when nothing runs.

mod files;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use self::files::LogFiles;
use self::writer::{Sink, Writer};
use super::{Error, registry};
use crate::model::PipelineName;
use crate::plugin::{LineSink, LogLimit, LogLine, TailLines};
use crate::storage::{self, Store};

/// How long the end of a process waits for the last lines to be written.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long whoever asks for older lines waits until they are stored.
const QUEUE_PATIENCE: Duration = Duration::from_secs(1);

/// The lines that are stored of what a pipeline's plugin has logged, after the one with this number, oldest first: for a
/// process that runs no pipelines.
///
/// # Errors
/// [`Error::UnknownPipeline`]; [`Error::Storage`] if they cannot be read.
pub fn stored_log_lines(
    store: &Store,
    name: &PipelineName,
    number: u64,
) -> Result<Vec<Arc<LogLine>>, Error> {
    registry::find(store, name)?;
    let files = LogFiles::of(store.path());
    Ok(read(&files, name, number, u64::MAX)?)
}

/// What the plugins of a data directory's pipelines log.
pub(super) struct PluginLogs {
    writer: Writer,
    logs: Mutex<HashMap<PipelineName, Log>>,
}

/// What a pipeline's plugin logs.
struct Log {
    limit: Arc<LogLimit>,
    sink: Arc<Sink>,
}

impl PluginLogs {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self {
            writer: Writer::new(LogFiles::of(data_dir)),
            logs: Mutex::default(),
        }
    }

    /// Where a pipeline's plugin logs, whichever version it is.
    pub(super) fn of(&self, name: &PipelineName) -> Arc<LogLimit> {
        let mut logs = self.logs.lock();
        if let Some(log) = logs.get(name) {
            return Arc::clone(&log.limit);
        }
        let last = self.writer.with_files(|files| files.last_number(name));
        let last = last.unwrap_or_else(|error| {
            tracing::warn!(pipeline = %name, %error, "what the plugin has logged before cannot be read");
            0
        });
        let sink = Arc::new(self.writer.sink(name));
        let limit = LogLimit::with_sink(Arc::clone(&sink) as Arc<dyn LineSink>, last);
        let limit = Arc::new(limit);
        let log = Log {
            limit: Arc::clone(&limit),
            sink,
        };
        logs.insert(name.clone(), log);
        limit
    }

    /// The lines of a pipeline after the one with this number, oldest first.
    pub(super) fn after(
        &self,
        name: &PipelineName,
        number: u64,
    ) -> Result<Vec<Arc<LogLine>>, storage::Error> {
        let tail = self.known(name).map(|limit| limit.tail().after(number));
        let (lines, last) = match tail {
            Some(TailLines { lines, forgotten }) if number >= forgotten => return Ok(lines),
            Some(TailLines { lines, forgotten }) => (lines, forgotten),
            None => (Vec::new(), u64::MAX),
        };
        // What is only in the queue yet would be missing between the two.
        if !self.writer.flush(QUEUE_PATIENCE) {
            tracing::warn!(pipeline = %name, "the disk is slow: lines that are not stored yet may be missing in between");
        }
        let mut stored = self
            .writer
            .with_files(|files| read(files, name, number, last))?;
        stored.extend(lines);
        Ok(stored)
    }

    /// Changes with each line of a pipeline from now on; `None` if it has not been opened.
    pub(super) fn news(&self, name: &PipelineName) -> Option<watch::Receiver<u64>> {
        Some(self.known(name)?.tail().news())
    }

    /// Deletes what a pipeline has logged.
    pub(super) fn delete(&self, name: &PipelineName) {
        if let Some(log) = self.logs.lock().remove(name) {
            log.sink.close();
        }
        if let Err(error) = self.writer.with_files(|files| files.delete(name)) {
            tracing::warn!(pipeline = %name, %error, "what the plugin has logged could not be deleted");
        }
    }

    /// Waits until everything has been written, for a while.
    pub(super) fn flush(&self) {
        if !self.writer.flush(PATIENCE) {
            tracing::warn!("the last log lines of plugins could not be stored in time");
        }
    }

    /// Logs a line as the plugin of a pipeline does.
    #[cfg(test)]
    pub(super) fn log(&self, name: &PipelineName, message: &str) {
        self.of(name);
        if let Some(log) = self.logs.lock().get(name) {
            log.sink.add(&tests::line(1, message));
        }
    }

    fn known(&self, name: &PipelineName) -> Option<Arc<LogLimit>> {
        let logs = self.logs.lock();
        Some(Arc::clone(&logs.get(name)?.limit))
    }
}

fn read(
    files: &LogFiles,
    name: &PipelineName,
    after: u64,
    last: u64,
) -> Result<Vec<Arc<LogLine>>, storage::Error> {
    let lines = files
        .read(name, after, last)
        .map_err(|error| storage::Error::Io {
            action: "read what plugins have logged in",
            path: files.folder().to_owned(),
            reason: error.to_string(),
        })?;
    Ok(lines.into_iter().map(Arc::new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn line(number: u64, message: &str) -> Arc<LogLine> {
        Arc::new(LogLine {
            number,
            time_ms: number,
            level: tracing::Level::INFO,
            partition: 0,
            context: String::new(),
            message: message.to_owned(),
        })
    }

    fn messages(lines: &[Arc<LogLine>]) -> Vec<&str> {
        lines.iter().map(|line| line.message.as_str()).collect()
    }

    #[test]
    fn what_was_logged_before_is_there_and_numbers_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let name: PipelineName = "a".parse().unwrap();
        // Of a process whose clock was ahead.
        let earlier = 1 << 52;
        let files = LogFiles::of(folder.path());
        files.append(&name, &[line(earlier, "earlier")]).unwrap();

        let logs = PluginLogs::new(folder.path());
        assert_eq!(messages(&logs.after(&name, 0).unwrap()), ["earlier"]);
        assert!(logs.news(&name).is_none());
        let limit = logs.of(&name);
        assert!(Arc::ptr_eq(&limit, &logs.of(&name)));
        let log = logs.logs.lock().remove(&name).unwrap();
        // As the tail hands it on.
        log.sink.add(&line(earlier + 1, "now"));
        logs.flush();
        assert_eq!(messages(&logs.after(&name, 0).unwrap()), ["earlier", "now"]);
        assert_eq!(messages(&logs.after(&name, earlier).unwrap()), ["now"]);
        // What is about to be written is waited for.
        log.sink.add(&line(earlier + 2, "at once"));
        let lines = logs.after(&name, earlier).unwrap();
        assert_eq!(messages(&lines), ["now", "at once"]);
        assert_eq!(limit.tail().after(0).forgotten, earlier);

        logs.logs.lock().insert(name.clone(), log);
        logs.delete(&name);
        assert!(logs.after(&name, 0).unwrap().is_empty());
    }
}
