//! The files of what plugins have logged: `PIPELINE.jsonl` in the folder `logs/` of the data directory, one line as a JSON
//! object on each of theirs, and one of the same name in `logs/earlier/` with those before.
//!
//! Nothing is synced: after a crash of the machine the last lines may be missing, and one may be cut off, which readers
//! pass over. Files are opened for each write, so that however many pipelines log, none holds on to a descriptor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::PipelineName;
use crate::plugin::LogLine;
use crate::storage::layout;

/// Where the lines before those of a file are. Not a longer name: that of a pipeline may be as long as a file's can be.
const EARLIER: &str = "earlier";
/// Bytes after which a file is set aside, over the one before it.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// Where the last line is looked for, from the end of a file on: the longest line is a fraction of it.
const TAIL_BYTES: u64 = 256 << 10;
/// Greatest number that a line can have: what JSON numbers hold exactly everywhere. A greater one is damage.
const MAX_NUMBER: u64 = 1 << 53;

/// The folder. One writes to it at a time.
#[derive(Debug)]
pub(super) struct LogFiles {
    folder: PathBuf,
    max_file_bytes: u64,
}

impl LogFiles {
    pub(super) fn of(data_dir: &Path) -> Self {
        Self::bounded(data_dir, MAX_FILE_BYTES)
    }

    pub(super) fn bounded(data_dir: &Path, max_file_bytes: u64) -> Self {
        Self {
            folder: data_dir.join(layout::LOGS),
            max_file_bytes,
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Appends lines to what a pipeline has logged.
    pub(super) fn append(&self, name: &PipelineName, lines: &[Arc<LogLine>]) -> io::Result<()> {
        create_dir(&self.folder)?;
        let path = self.current(name);
        let (mut file, mut size_bytes) = append_to(&path)?;
        let mut text = Vec::new();
        for line in lines {
            let start = text.len();
            serde_json::to_writer(&mut text, &**line)?;
            text.push(b'\n');
            let is_full = size_bytes + text.len() as u64 > self.max_file_bytes;
            if is_full && size_bytes + start as u64 > 0 {
                let next = text.split_off(start);
                file.write_all(&text)?;
                create_dir(&self.folder.join(EARLIER))?;
                fs::rename(&path, self.earlier(name))?;
                (file, size_bytes) = append_to(&path)?;
                text = next;
            }
        }
        // One write for all: those of a process that is killed are whole, or not there.
        file.write_all(&text)
    }

    /// The lines of a pipeline whose numbers are greater than `after` and at most `last`, in their order.
    pub(super) fn read(
        &self,
        name: &PipelineName,
        after: u64,
        last: u64,
    ) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for path in [self.earlier(name), self.current(name)] {
            let Some(text) = read_end(&path, u64::MAX)? else {
                continue;
            };
            let asked = parsed(&text).filter(|line| line.number > after && line.number <= last);
            lines.extend(asked);
        }
        lines.sort_by_key(|line| line.number);
        Ok(lines)
    }

    /// The greatest number of a pipeline's last lines; 0 if there are none.
    pub(super) fn last_number(&self, name: &PipelineName) -> io::Result<u64> {
        for path in [self.current(name), self.earlier(name)] {
            let text = read_end(&path, TAIL_BYTES)?.unwrap_or_default();
            if let Some(number) = parsed(&text).map(|line| line.number).max() {
                return Ok(number);
            }
        }
        Ok(0)
    }

    /// Deletes what a pipeline has logged.
    pub(super) fn delete(&self, name: &PipelineName) -> io::Result<()> {
        for path in [self.earlier(name), self.current(name)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn current(&self, name: &PipelineName) -> PathBuf {
        self.folder.join(format!("{name}.jsonl"))
    }

    fn earlier(&self, name: &PipelineName) -> PathBuf {
        self.folder.join(EARLIER).join(format!("{name}.jsonl"))
    }
}

/// Creates a folder, if it is not there.
fn create_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Opens a file to append to, and returns its size. A line that was cut off in it is ended.
fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).read(true).append(true).open(path)?;
    let mut size_bytes = file.metadata()?.len();
    if size_bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size_bytes += 1;
        }
    }
    Ok((file, size_bytes))
}

/// At most so many bytes of the end of a file; `None` if there is no such file.
fn read_end(path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let start = file.metadata()?.len().saturating_sub(max_bytes);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(Some(text))
}

/// The lines of a text. What is none, or was cut off, is passed over.
fn parsed(text: &[u8]) -> impl Iterator<Item = LogLine> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<LogLine>(line).ok())
        .filter(|line| line.number <= MAX_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::super::tests::line;
    use super::*;
    use crate::model::limits;

    fn name(name: &str) -> PipelineName {
        name.parse().unwrap()
    }

    fn numbers(files: &LogFiles, pipeline: &str) -> Vec<u64> {
        let lines = files.read(&name(pipeline), 0, u64::MAX).unwrap();
        lines.iter().map(|line| line.number).collect()
    }

    #[test]
    fn lines_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles::of(folder.path());
        assert_eq!(numbers(&files, "a"), [0; 0]);
        assert_eq!(files.last_number(&name("a")).unwrap(), 0);
        let odd = Arc::new(LogLine {
            level: tracing::Level::ERROR,
            partition: 7,
            context: "part".to_owned(),
            message: "two\nlines, \u{1b}[31m and \"quotes\"".to_owned(),
            ..LogLine::clone(&line(2, ""))
        });
        files
            .append(&name("a"), &[line(1, "one"), odd.clone()])
            .unwrap();
        files.append(&name("a"), &[line(3, "three")]).unwrap();
        files.append(&name("a.jsonl"), &[line(9, "nine")]).unwrap();
        let lines = files.read(&name("a"), 1, 2).unwrap();
        assert_eq!(lines, [LogLine::clone(&odd)]);
        assert_eq!(numbers(&files, "a"), [1, 2, 3]);
        assert_eq!(files.last_number(&name("a")).unwrap(), 3);
        files.delete(&name("a")).unwrap();
        files.delete(&name("a")).unwrap();
        assert_eq!(numbers(&files, "a"), [0; 0]);
        assert_eq!(numbers(&files, "a.jsonl"), [9]);
    }

    #[test]
    fn a_pipeline_keeps_no_more_than_two_files() {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles::bounded(folder.path(), 10_000);
        let message = "x".repeat(100);
        let all: Vec<_> = (1..=1_000).map(|number| line(number, &message)).collect();
        // As one write and as many.
        let (many, few) = all.split_at(900);
        files.append(&name("a"), many).unwrap();
        for line in few.chunks(7) {
            files.append(&name("a"), line).unwrap();
        }
        for folder in [files.folder(), &files.folder().join(EARLIER)] {
            let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
            let files: Vec<_> = entries
                .filter(|it| it.file_type().unwrap().is_file())
                .collect();
            assert_eq!(files.len(), 1);
            assert!(files[0].metadata().unwrap().len() <= 10_000);
        }
        let kept = numbers(&files, "a");
        let count = kept.len() as u64;
        assert!((40..=110).contains(&count), "{count}");
        let last: Vec<u64> = (1_001 - count..=1_000).collect();
        assert_eq!(kept, last);
        // One that is longer than a file is kept all the same.
        let long = line(2_000, &"y".repeat(20_000));
        files.append(&name("a"), &[long]).unwrap();
        assert_eq!(files.last_number(&name("a")).unwrap(), 2_000);
    }

    #[test]
    fn the_longest_name_is_no_longer_than_that_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles::bounded(folder.path(), 1_000);
        let longest = "x".repeat(limits::MAX_NAME_BYTES);
        let lines: Vec<_> = (1..=30).map(|number| line(number, "a line")).collect();
        files.append(&name(&longest), &lines).unwrap();
        assert!(files.earlier(&name(&longest)).exists());
        assert_eq!(numbers(&files, &longest).last(), Some(&30));
        files.delete(&name(&longest)).unwrap();
        assert_eq!(numbers(&files, &longest), [0; 0]);
    }

    #[test]
    fn a_line_that_was_cut_off_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let files = LogFiles::of(folder.path());
        let lines = [line(1, "one"), line(2, "two")];
        files.append(&name("a"), &lines).unwrap();
        let path = files.current(&name("a"));
        let whole = fs::read(&path).unwrap();
        for cut in 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let before = files.last_number(&name("a")).unwrap();
            files.append(&name("a"), &[line(3, "three")]).unwrap();
            let kept = numbers(&files, "a");
            assert_eq!(kept.last(), Some(&3), "cut at {cut}");
            assert_eq!(kept.iter().rev().nth(1).copied().unwrap_or(0), before);
        }
        fs::write(&path, b"\xff{}\n[]\n{\"number\":1}\n").unwrap();
        assert_eq!(files.last_number(&name("a")).unwrap(), 0);
    }
}
