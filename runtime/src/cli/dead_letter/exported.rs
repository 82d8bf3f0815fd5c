//! Finds a dead letter in a file that `dead-letter export` has written.

use std::path::Path;

use serde::Deserialize;

use crate::cli::input::Input;
use crate::model::{HeadersBuf, RecordRef};
use crate::server::json_record::JsonRecord;
use crate::server::mistake::Mistake;

/// A dead letter of a file.
#[derive(Debug)]
pub(super) struct Exported {
    id: u64,
    timestamp_ms: u64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: HeadersBuf,
}

/// The part of a line that says which letter it is.
#[derive(Deserialize)]
struct Id {
    offset: u64,
}

impl Exported {
    /// The letter as it was in its queue.
    pub(super) fn record(&self) -> RecordRef<'_> {
        RecordRef {
            offset: self.id,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: self.headers.as_headers(),
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(line: &[u8], id: u64) -> Result<Self, Mistake> {
        let read = JsonRecord::read(line)?;
        let mut headers = HeadersBuf::new();
        read.encode_headers(&mut headers)?;
        Ok(Self {
            id,
            timestamp_ms: read.timestamp.unwrap_or_default(),
            key: read.key().map(<[u8]>::to_vec),
            value: read.value().map(<[u8]>::to_vec),
            headers,
        })
    }
}

/// Finds the letter with an id; the first one, if the file has letters of several queues.
pub(super) async fn find(file: &Path, id: u64) -> anyhow::Result<Exported> {
    let name = file.display();
    let mut input = Input::open(Some(file))?;
    let (mut number, mut range) = (0u64, None);
    while let Some(chunk) = input.next().await? {
        for line in chunk.lines().filter(|line| !line.trim_ascii().is_empty()) {
            number += 1;
            let found: Id = serde_json::from_slice(line).map_err(|error| {
                anyhow::anyhow!("{name}: record {number} is no exported dead letter: {error}")
            })?;
            if found.offset == id {
                let read = Exported::read(line, id);
                return read.map_err(|error| anyhow::anyhow!("{name}: record {number}: {error}"));
            }
            let (first, last) = range.unwrap_or((found.offset, found.offset));
            range = Some((first.min(found.offset), last.max(found.offset)));
        }
        input.recycle(chunk);
    }
    match range {
        None => anyhow::bail!("{name} holds no dead letters"),
        Some((first, last)) => {
            anyhow::bail!("{name} holds no dead letter {id}; its ids are from {first} to {last}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn find_in(text: &str, id: u64) -> Result<Exported, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("letters.jsonl");
        std::fs::write(&path, text).unwrap();
        find(&path, id).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_letter_is_found_by_its_id() {
        let lines = "\
{\"queue\":\"d\",\"offset\":3,\"delivery_count\":0,\"timestamp\":1,\"key\":null,\"value\":\"a\",\"headers\":[]}
{\"queue\":\"d\",\"offset\":7,\"delivery_count\":0,\"timestamp\":2,\"key\":\"k\",\"value\":{\"base64\":\"/w==\"},\"headers\":[[\"h\",\"1\"]]}
";
        let found = find_in(lines, 7).await.unwrap();
        let record = found.record();
        assert_eq!((record.offset, record.timestamp_ms), (7, 2));
        assert_eq!(
            (record.key, record.value),
            (Some(&b"k"[..]), Some(&b"\xff"[..]))
        );
        assert_eq!(record.headers.len(), 1);
        let missing = find_in(lines, 4).await.unwrap_err();
        assert!(
            missing.ends_with("holds no dead letter 4; its ids are from 3 to 7"),
            "{missing}"
        );
    }

    #[tokio::test]
    async fn what_is_no_export_is_told() {
        let empty = find_in("\n", 0).await.unwrap_err();
        assert!(empty.ends_with("holds no dead letters"), "{empty}");
        for text in ["x", "{\"value\":1}", "{\"offset\":0,\"value\":1}"] {
            let error = find_in(text, 0).await.unwrap_err();
            assert!(error.contains("record 1"), "{text}: {error}");
        }
    }
}
