//! The rules a reply keeps, which the real host checks too.

use crate::columns::{Batch, NO_SOURCE, Output};
use crate::record::Headers;

/// Says which rule of `wit/plugin.wit` the reply breaks.
pub(super) fn check(batch: &Batch, output: &Output, ports: usize) -> Result<(), String> {
    let (count, emitted) = (batch.len(), output.source.len());
    if output.processed as usize != count {
        return Err(format!(
            "`processed` is {}, the batch has {count} records",
            output.processed
        ));
    }
    for &source in &output.source {
        if source != NO_SOURCE && source as usize >= count {
            return Err(format!(
                "`source` {source} is out of range: {count} records"
            ));
        }
    }
    if !output.port.is_empty() && output.port.len() != emitted {
        return Err(format!("{} ports for {emitted} records", output.port.len()));
    }
    let default_port = if output.port.is_empty() && emitted > 0 {
        Some(0)
    } else {
        None
    };
    for port in output.port.iter().copied().chain(default_port) {
        if port as usize >= ports {
            return Err(format!("port {port} is out of range: {ports} ports"));
        }
    }
    column(
        "values",
        output.values.len(),
        &output.value_ends,
        &output.null_values,
        emitted,
    )?;
    column(
        "keys",
        output.keys.len(),
        &output.key_ends,
        &output.null_keys,
        emitted,
    )?;
    column(
        "headers",
        output.headers.len(),
        &output.header_ends,
        &[],
        emitted,
    )?;
    if !output.timestamps.is_empty() && output.timestamps.len() != emitted {
        return Err(format!(
            "{} timestamps for {emitted} records",
            output.timestamps.len()
        ));
    }
    if output.value_ends.is_empty() && output.source.contains(&NO_SOURCE) {
        return Err("a record without a source has no value".to_owned());
    }
    headers(output)?;
    failures(output, count)
}

fn column(
    name: &str,
    len_bytes: usize,
    ends: &[u32],
    nulls: &[u32],
    emitted: usize,
) -> Result<(), String> {
    if ends.is_empty() {
        if len_bytes > 0 || !nulls.is_empty() {
            return Err(format!("{name} without ends"));
        }
        return Ok(());
    }
    if ends.len() != emitted {
        return Err(format!(
            "{} ends of {name} for {emitted} records",
            ends.len()
        ));
    }
    if !ends.is_sorted() || ends.last().is_some_and(|&last| last as usize != len_bytes) {
        return Err(format!("the ends of {name} do not ascend to their length"));
    }
    if !nulls.is_sorted_by(|a, b| a < b) || nulls.last().is_some_and(|&i| i as usize >= emitted) {
        return Err(format!(
            "the nulls of {name} do not ascend, or are out of range"
        ));
    }
    Ok(())
}

fn headers(output: &Output) -> Result<(), String> {
    let mut start = 0;
    for &end in &output.header_ends {
        let encoded = &output.headers[start..end as usize];
        let len = |header: crate::record::Header<'_>| {
            8 + header.name.len() + header.value.map_or(0, <[u8]>::len)
        };
        if Headers::from_encoded(encoded).map(len).sum::<usize>() != encoded.len() {
            return Err("headers are not encoded as they should be".to_owned());
        }
        start = end as usize;
    }
    Ok(())
}

fn failures(output: &Output, count: usize) -> Result<(), String> {
    let indexes = || output.failed.iter().map(|failure| failure.index);
    if !indexes().is_sorted_by(|a, b| a < b) || indexes().any(|index| index as usize >= count) {
        return Err("the failures' indexes do not ascend, or are out of range".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(change: impl FnOnce(&mut Output)) -> String {
        let batch = Batch {
            values: b"ab".to_vec(),
            value_ends: vec![1, 2],
            timestamps: vec![0, 0],
            offsets: vec![0, 1],
            ..Batch::empty()
        };
        let mut output = Output::forward_all(&batch);
        assert_eq!(check(&batch, &output, 1), Ok(()));
        change(&mut output);
        check(&batch, &output, 1).unwrap_err()
    }

    #[test]
    fn each_rule_has_its_sentence() {
        assert!(broken(|o| o.processed = 1).contains("`processed` is 1"));
        assert!(broken(|o| o.source[1] = 2).contains("`source` 2 is out of range"));
        assert!(broken(|o| o.source[1] = NO_SOURCE).contains("has no value"));
        assert!(broken(|o| o.port = vec![0]).contains("1 ports for 2 records"));
        assert!(broken(|o| o.port = vec![0, 1]).contains("port 1 is out of range"));
        assert!(broken(|o| o.values = vec![1]).contains("without ends"));
        assert!(broken(|o| o.value_ends = vec![0, 1]).contains("do not ascend to their length"));
        assert!(broken(|o| o.key_ends = vec![0]).contains("1 ends of keys for 2 records"));
        assert!(broken(|o| o.timestamps = vec![0]).contains("1 timestamps"));
        let wrong_headers = broken(|o| (o.headers, o.header_ends) = (vec![1], vec![0, 1]));
        assert!(wrong_headers.contains("headers are not encoded"));
    }
}
