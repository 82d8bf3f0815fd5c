//! Batches to process: made up, or from a file.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::bench::synthetic::Records;
use crate::model::{HeadersRef, RecordRef};
use crate::plugin::Columns;

/// When every made-up record happened, in ms since the epoch.
const TIMESTAMP_MS: u64 = 1_700_000_000_000;

/// Collects records into batches of `batch_records`.
struct Batches {
    batch_records: usize,
    full: Vec<Columns>,
    open: Columns,
    offset: u64,
}

impl Batches {
    fn new(batch_records: usize) -> Self {
        Self {
            batch_records,
            full: Vec::new(),
            open: Columns::new(),
            offset: 0,
        }
    }

    fn push(&mut self, key: Option<&[u8]>, value: &[u8]) {
        self.open.push(&RecordRef {
            offset: self.offset,
            timestamp_ms: TIMESTAMP_MS,
            key,
            value: Some(value),
            headers: HeadersRef::EMPTY,
        });
        self.offset += 1;
        if self.open.len() >= self.batch_records {
            self.full.push(std::mem::take(&mut self.open));
        }
    }

    fn finish(mut self) -> Vec<Columns> {
        if !self.open.is_empty() {
            self.full.push(self.open);
        }
        self.full
    }
}

/// `batches` batches of `batch_records` made-up records.
pub(super) fn synthetic(value_bytes: usize, batch_records: usize, batches: usize) -> Vec<Columns> {
    synthetic_records(value_bytes, batch_records, batch_records * batches)
}

/// `records` made-up records.
pub(super) fn synthetic_records(
    value_bytes: usize,
    batch_records: usize,
    records: usize,
) -> Vec<Columns> {
    let mut source = Records::new(value_bytes, 1);
    let mut batches = Batches::new(batch_records);
    for _ in 0..records {
        let (key, value) = source.next();
        batches.push(Some(key), value);
    }
    batches.finish()
}

/// At most `records` records of a file, one a line; the key is a field of the line's JSON object,
/// if one is named.
pub(super) fn from_file(
    path: &Path,
    key_field: Option<&str>,
    batch_records: usize,
    records: usize,
) -> anyhow::Result<Vec<Columns>> {
    let cannot_read = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot_read)?;
    let mut batches = Batches::new(batch_records);
    for (number, line) in (1..).zip(BufReader::new(file).lines()).take(records) {
        let line = line.with_context(cannot_read)?;
        if line.is_empty() {
            continue;
        }
        let key = key_field
            .map(|field| key_of(&line, field))
            .transpose()
            .with_context(|| format!("{}:{number}", path.display()))?;
        batches.push(key.as_deref().map(str::as_bytes), line.as_bytes());
    }
    let batches = batches.finish();
    if batches.is_empty() {
        bail!("{} has no records", path.display());
    }
    Ok(batches)
}

/// A field of a JSON object as a key: a string as it is, anything else as JSON.
fn key_of(line: &str, field: &str) -> anyhow::Result<String> {
    let object: serde_json::Value = serde_json::from_str(line).context("the line is not JSON")?;
    match object.get(field) {
        Some(serde_json::Value::String(text)) => Ok(text.clone()),
        Some(value) => Ok(value.to_string()),
        None => bail!("the line has no field `{field}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jsonl");
        std::fs::write(&path, "{\"k\":\"a\"}\n\n{\"k\":1}\n{\"k\":\"c\"}\n").unwrap();
        let batches = from_file(&path, Some("k"), 2, 100).unwrap();
        assert_eq!(batches.iter().map(Columns::len).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(batches[0].key(1), Some(b"1".as_slice()));
        assert_eq!(batches[1].value(0), Some(b"{\"k\":\"c\"}".as_slice()));
        assert_eq!(batches[1].offset(0), 2);
        assert_eq!(from_file(&path, None, 9, 3).unwrap()[0].len(), 2);
        let error = format!("{:#}", from_file(&path, Some("z"), 2, 100).unwrap_err());
        assert!(
            error.ends_with("in.jsonl:1: the line has no field `z`"),
            "{error}"
        );
    }

    #[test]
    fn made_up_batches_are_full() {
        let batches = synthetic(100, 64, 3);
        assert_eq!(
            batches.iter().map(Columns::len).collect::<Vec<_>>(),
            [64, 64, 64]
        );
        let lengths = [
            synthetic_records(1, 64, 65)[1].len(),
            batches[0].value(9).unwrap().len(),
        ];
        assert_eq!(lengths, [1, 100]);
    }
}
