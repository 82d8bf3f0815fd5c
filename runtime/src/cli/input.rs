//! Lines from a file or from standard input, read and decompressed on a thread of their own.
//!
//! The reader hands over chunks of whole lines and gets their memory back, so that memory stays
//! bounded and nothing is allocated for each line. From standard input, lines are handed over as
//! soon as they are there.

use std::fs::File;
use std::io::{self, BufRead as _, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::exit::Usage;
use crate::model::limits;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks on their way at a time.
const CHUNKS: usize = 4;
/// The longest line: a record's largest value with room for its encoding.
const MAX_LINE_BYTES: usize = 2 * limits::MAX_RECORD_BYTES;

/// Whole lines.
#[derive(Debug)]
pub(super) struct Chunk {
    buffer: Vec<u8>,
    len: usize,
}

impl Chunk {
    /// The lines without their ends (`\n` or `\r\n`).
    pub(super) fn lines(&self) -> ChunkLines<'_> {
        ChunkLines {
            rest: self.buffer.get(..self.len).unwrap_or_default(),
        }
    }
}

/// Iterator over the lines of a chunk.
#[derive(Debug)]
pub(super) struct ChunkLines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for ChunkLines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let mut after = self.rest;
        // Reading from memory does not fail.
        let len = after.skip_until(b'\n').unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(len);
        self.rest = rest;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// The lines of an input.
pub(super) struct Input {
    name: String,
    is_live: bool,
    chunks: mpsc::Receiver<io::Result<Chunk>>,
    used: std::sync::mpsc::Sender<Vec<u8>>,
    read_bytes: Arc<AtomicU64>,
    total_bytes: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input for `-` and `None`. A file that ends in `.zst` or `.gz` is
    /// decompressed.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let read_bytes = Arc::new(AtomicU64::new(0));
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            if io::IsTerminal::is_terminal(&io::stdin()) {
                super::progress::note("reading records from the terminal, Ctrl-D ends");
            }
            return Self::start("<stdin>".to_owned(), io::stdin(), true, read_bytes, None);
        };
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot read {name}"))?;
        if metadata.is_dir() {
            return Err(Usage(format!(
                "{name} is a folder; expected a file of records, or `-`"
            ))
            .into());
        }
        // A named pipe is like standard input: somebody writes to it while it is read.
        let is_file = metadata.is_file();
        let total_bytes = is_file.then_some(metadata.len());
        let counted = Counted {
            inner: file,
            read_bytes: Arc::clone(&read_bytes),
        };
        let extension = path.extension().and_then(std::ffi::OsStr::to_str);
        match extension {
            Some("zst") => {
                let decoder = zstd::stream::read::Decoder::new(counted)
                    .with_context(|| format!("cannot decompress {name}"))?;
                Self::start(name, decoder, false, read_bytes, total_bytes)
            }
            Some("gz") => {
                let decoder = flate2::read::MultiGzDecoder::new(counted);
                Self::start(name, decoder, false, read_bytes, total_bytes)
            }
            _ => Self::start(name, counted, !is_file, read_bytes, total_bytes),
        }
    }

    fn start(
        name: String,
        source: impl Read + Send + 'static,
        is_live: bool,
        read_bytes: Arc<AtomicU64>,
        total_bytes: Option<u64>,
    ) -> anyhow::Result<Self> {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let (used, free) = std::sync::mpsc::channel();
        let mut reader = Reader {
            source,
            is_live,
            free,
            carried: Vec::new(),
        };
        std::thread::Builder::new()
            .name("millstream-input".to_owned())
            .spawn(move || {
                while let Some(chunk) = reader.next().transpose() {
                    let is_last = chunk.is_err();
                    if sender.blocking_send(chunk).is_err() || is_last {
                        return;
                    }
                }
            })
            .context("cannot start a thread to read the input")?;
        Ok(Self {
            name,
            is_live,
            chunks,
            used,
            read_bytes,
            total_bytes,
        })
    }

    /// Its name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether somebody may be writing to it while it is read: it is no file.
    pub(super) fn is_live(&self) -> bool {
        self.is_live
    }

    /// The next lines; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Chunk>> {
        self.chunks.recv().await.transpose()
    }

    /// Gives a chunk's memory back.
    pub(super) fn recycle(&self, chunk: Chunk) {
        if chunk.buffer.len() == CHUNK_BYTES {
            // The reader may be gone, and its memory with it.
            let _ = self.used.send(chunk.buffer);
        }
    }

    /// Bytes read of the file, as it is stored.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the file, as it is stored.
    pub(super) fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }
}

/// Cuts a source into chunks.
struct Reader<R> {
    source: R,
    /// Whether lines come one by one, while somebody waits for them.
    is_live: bool,
    free: std::sync::mpsc::Receiver<Vec<u8>>,
    /// The start of a line whose end has not been read yet.
    carried: Vec<u8>,
}

impl<R: Read> Reader<R> {
    fn next(&mut self) -> io::Result<Option<Chunk>> {
        let mut buffer = self
            .free
            .try_recv()
            .unwrap_or_else(|_| vec![0; CHUNK_BYTES]);
        let mut len = self.carried.len();
        if len >= buffer.len() {
            buffer.resize(2 * len, 0);
        }
        if let Some(start) = buffer.get_mut(..len) {
            start.copy_from_slice(&self.carried);
        }
        self.carried.clear();
        // The end of the last whole line read so far.
        let mut end = 0;
        loop {
            let read = match self.source.read(buffer.get_mut(len..).unwrap_or_default()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if read == 0 {
                // The last line may lack its end.
                return Ok((len > 0).then_some(Chunk { buffer, len }));
            }
            let new = buffer.get(len..len + read).unwrap_or_default();
            if let Some(at) = new.iter().rposition(|byte| *byte == b'\n') {
                end = len + at + 1;
            }
            len += read;
            if end > 0 && (self.is_live || len == buffer.len()) {
                self.carried
                    .extend_from_slice(buffer.get(end..len).unwrap_or_default());
                return Ok(Some(Chunk { buffer, len: end }));
            }
            if len == buffer.len() {
                if len >= MAX_LINE_BYTES {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the line is longer than {MAX_LINE_BYTES} bytes"),
                    ));
                }
                buffer.resize((2 * len).min(MAX_LINE_BYTES), 0);
            }
        }
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    read_bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// A source that returns a few bytes at a time.
    struct Trickle<'a> {
        bytes: &'a [u8],
        step: usize,
    }

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.step.min(buffer.len()).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.bytes = later;
            Ok(count)
        }
    }

    fn lines(bytes: &[u8], step: usize, is_live: bool) -> io::Result<Vec<Vec<u8>>> {
        let (used, free) = std::sync::mpsc::channel();
        let mut reader = Reader {
            source: Trickle { bytes, step },
            is_live,
            free,
            carried: Vec::new(),
        };
        let mut all = Vec::new();
        while let Some(chunk) = reader.next()? {
            all.extend(chunk.lines().map(<[u8]>::to_vec));
            used.send(chunk.buffer).unwrap();
        }
        Ok(all)
    }

    #[test]
    fn both_line_ends_and_a_missing_one() {
        let expected = [b"a".to_vec(), b"".to_vec(), b"b\rc".to_vec(), b"d".to_vec()];
        for is_live in [false, true] {
            assert_eq!(lines(b"a\r\n\nb\rc\nd", 2, is_live).unwrap(), expected);
            assert_eq!(lines(b"a\r\n\nb\rc\nd\n", 100, is_live).unwrap(), expected);
            assert!(lines(b"", 1, is_live).unwrap().is_empty());
        }
    }

    #[test]
    fn lines_longer_than_a_chunk() {
        let long = vec![b'x'; 3 * CHUNK_BYTES + 7];
        let text = [b"a\n", long.as_slice(), b"\nb\n"].concat();
        let found = lines(&text, 100_000, false).unwrap();
        assert_eq!(found, [b"a".to_vec(), long, b"b".to_vec()]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let text = vec![b'x'; MAX_LINE_BYTES + 1];
        let error = lines(&text, 1 << 20, false).unwrap_err();
        assert!(error.to_string().contains("longer than"), "{error}");
    }

    #[test]
    fn compressed_files_are_read_as_what_they_hold() {
        let folder = tempfile::tempdir().unwrap();
        let text = "one\ntwo\n".repeat(100_000);
        let plain = folder.path().join("f.txt");
        std::fs::write(&plain, &text).unwrap();
        let gz = folder.path().join("f.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gz).unwrap(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap();
        let zst = folder.path().join("f.zst");
        std::fs::write(&zst, zstd::encode_all(text.as_bytes(), 1).unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for path in [plain, gz, zst] {
            let mut input = Input::open(Some(&path)).unwrap();
            let mut count = 0;
            while let Some(chunk) = runtime.block_on(input.next()).unwrap() {
                count += chunk.lines().count();
                input.recycle(chunk);
            }
            assert_eq!(count, 200_000, "{}", path.display());
            assert_eq!(Some(input.read_bytes()), input.total_bytes());
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.zst");
        std::fs::write(&path, "no zstd").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut input = Input::open(Some(&path)).unwrap();
        assert!(runtime.block_on(input.next()).is_err());
    }

    proptest! {
        #[test]
        fn no_line_is_lost(text in "([a-z]{0,5}\n?){0,40}", step in 1usize..9, is_live: bool) {
            let expected: Vec<_> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(lines(text.as_bytes(), step, is_live).unwrap(), expected);
        }
    }
}
