//! The rules that a plugin's reply must keep.

use crate::model::limits::{MAX_RECORD_BYTES, MAX_TIMESTAMP_MS};

use super::super::{
    ends::range_of,
    headers,
    reply::Reply,
    text::{MAX_REASON_BYTES, cut},
};
use super::{Failure, NO_SOURCE};

/// What a reply is checked against.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Expected {
    /// How many records the plugin was given.
    pub(in super::super) inputs: usize,
    /// How many ports the pipeline has.
    pub(in super::super) ports: usize,
    /// Most bytes of keys, values and headers together.
    pub(in super::super) max_bytes: usize,
    /// Most output records.
    pub(in super::super) max_records: usize,
}

/// Checks a reply, and takes its failures.
///
/// # Errors
/// The first rule that it breaks, and where.
pub(super) fn check(reply: &mut Reply, expected: &Expected) -> Result<Vec<Failure>, String> {
    let inputs = expected.inputs;
    if reply.processed as usize != inputs {
        return Err(format!(
            "`processed` is {}, expected {inputs}",
            reply.processed
        ));
    }
    let records = reply.source.len();
    if records > expected.max_records {
        return Err(format!(
            "{records} records, at most {} are allowed in one call",
            expected.max_records
        ));
    }
    let bytes = reply.values.len() + reply.keys.len() + reply.headers.len();
    if bytes > expected.max_bytes {
        return Err(format!(
            "{bytes} bytes of keys, values and headers, at most {} are allowed in one call (limits.output)",
            expected.max_bytes
        ));
    }
    check_sources(reply, inputs)?;
    check_ports(reply, expected.ports)?;
    let nulls = &reply.null_values;
    check_column("value", &reply.values, &reply.value_ends, nulls, records)?;
    let nulls = &reply.null_keys;
    check_column("key", &reply.keys, &reply.key_ends, nulls, records)?;
    check_column("header", &reply.headers, &reply.header_ends, &[], records)?;
    check_headers(reply)?;
    check_record_sizes(reply)?;
    check_timestamps(&reply.timestamps, records)?;
    check_failed(reply, inputs)
}

fn check_sources(reply: &Reply, inputs: usize) -> Result<(), String> {
    // Without a branch, so that it is vectorised: this runs for every record.
    let inputs_u32 = u32::try_from(inputs).unwrap_or(NO_SOURCE);
    let valid = reply.source.iter().fold(true, |valid, &source| {
        valid & ((source < inputs_u32) | (source == NO_SOURCE))
    });
    if !valid {
        let at = reply
            .source
            .iter()
            .position(|&s| s >= inputs_u32 && s != NO_SOURCE);
        let at = at.unwrap_or_default();
        let source = reply.source.get(at).copied().unwrap_or_default();
        return Err(format!(
            "`source[{at}]` is {source}, but the batch has {inputs} records; a record without a \
             source has 4294967295"
        ));
    }
    if reply.value_ends.is_empty()
        && let Some(at) = reply.source.iter().position(|&source| source == NO_SOURCE)
    {
        return Err(format!(
            "record {at} has no source, so that `values` may not be left empty"
        ));
    }
    Ok(())
}

fn check_ports(reply: &Reply, ports: usize) -> Result<(), String> {
    if reply.port.is_empty() {
        return if ports == 0 && !reply.source.is_empty() {
            Err("there are records, but the pipeline has no output to send them to".into())
        } else {
            Ok(())
        };
    }
    if reply.port.len() != reply.source.len() {
        return Err(length_mismatch(
            "port",
            reply.port.len(),
            reply.source.len(),
        ));
    }
    match reply.port.iter().position(|&port| port as usize >= ports) {
        None => Ok(()),
        Some(at) => {
            let port = reply.port.get(at).copied().unwrap_or_default();
            Err(format!(
                "`port[{at}]` is {port}, but the pipeline has {ports} ports"
            ))
        }
    }
}

/// Checks a column: `ends` ascend to the end of `bytes`, and null values are empty.
fn check_column(
    name: &str,
    bytes: &[u8],
    ends: &[u32],
    nulls: &[u32],
    records: usize,
) -> Result<(), String> {
    if ends.is_empty() {
        if !bytes.is_empty() && records > 0 {
            return Err(format!(
                "`{name}s` has {} bytes, but `{name}-ends` is empty",
                bytes.len()
            ));
        }
        if !bytes.is_empty() {
            return Err(format!(
                "`{name}s` has {} bytes, but there are no records",
                bytes.len()
            ));
        }
        if !nulls.is_empty() {
            return Err(format!(
                "`null-{name}s` is given, but `{name}-ends` is empty"
            ));
        }
        return Ok(());
    }
    if ends.len() != records {
        return Err(length_mismatch(
            &format!("{name}-ends"),
            ends.len(),
            records,
        ));
    }
    // Without a branch, so that it is vectorised: this runs for every record.
    let ascending = ends
        .iter()
        .zip(ends.iter().skip(1))
        .fold(true, |valid, (before, end)| valid & (before <= end));
    if !ascending {
        return Err(format!("`{name}-ends` does not ascend"));
    }
    let last = ends.last().copied().unwrap_or_default() as usize;
    if last != bytes.len() {
        return Err(format!(
            "`{name}-ends` ends at {last}, but `{name}s` has {} bytes",
            bytes.len()
        ));
    }
    check_nulls(name, ends, nulls)
}

/// Checks the indexes of null values: they ascend, exist, and have no bytes.
fn check_nulls(name: &str, ends: &[u32], nulls: &[u32]) -> Result<(), String> {
    let records = ends.len();
    let mut next = 0;
    for (at, &null) in nulls.iter().enumerate() {
        if (null as usize) < next {
            return Err(format!("`null-{name}s` does not ascend at index {at}"));
        }
        next = null as usize + 1;
        match range_of(ends, null as usize) {
            None => {
                return Err(format!(
                    "`null-{name}s[{at}]` is {null}, but there are {records} records"
                ));
            }
            Some(range) if !range.is_empty() => {
                return Err(format!(
                    "{name} {null} is null, but has {} bytes",
                    range.len()
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_headers(reply: &Reply) -> Result<(), String> {
    if reply.headers.is_empty() {
        return Ok(());
    }
    for index in 0..reply.header_ends.len() {
        let encoded =
            range_of(&reply.header_ends, index).and_then(|range| reply.headers.get(range));
        headers::validate(encoded.unwrap_or_default())
            .map_err(|reason| format!("headers of record {index}: {reason}"))?;
    }
    Ok(())
}

/// What the record's own columns have must fit a record; what it takes over from its source is
/// checked when it is written.
fn check_record_sizes(reply: &Reply) -> Result<(), String> {
    if reply.values.len() + reply.keys.len() + reply.headers.len() <= MAX_RECORD_BYTES {
        return Ok(());
    }
    let columns = [&reply.value_ends, &reply.key_ends, &reply.header_ends];
    for index in 0..reply.source.len() {
        let size: usize = columns
            .iter()
            .filter_map(|ends| range_of(ends, index))
            .map(|range| range.len())
            .sum();
        if size > MAX_RECORD_BYTES {
            return Err(format!(
                "record {index} has {size} bytes, at most {MAX_RECORD_BYTES} are allowed"
            ));
        }
    }
    Ok(())
}

fn check_timestamps(timestamps: &[u64], records: usize) -> Result<(), String> {
    if timestamps.is_empty() {
        return Ok(());
    }
    if timestamps.len() != records {
        return Err(length_mismatch("timestamps", timestamps.len(), records));
    }
    match timestamps
        .iter()
        .position(|&timestamp_ms| timestamp_ms > MAX_TIMESTAMP_MS)
    {
        None => Ok(()),
        Some(at) => Err(format!(
            "`timestamps[{at}]` is later than {MAX_TIMESTAMP_MS} ms"
        )),
    }
}

fn check_failed(reply: &mut Reply, inputs: usize) -> Result<Vec<Failure>, String> {
    let mut failed = Vec::with_capacity(reply.failed.len());
    let mut next = 0;
    for (at, failure) in std::mem::take(&mut reply.failed).into_iter().enumerate() {
        let index = failure.index as usize;
        if index >= inputs {
            return Err(format!(
                "`failed[{at}]` names record {index}, but the batch has {inputs}"
            ));
        }
        if index < next {
            return Err(format!("`failed` does not ascend at index {at}"));
        }
        next = index + 1;
        failed.push(Failure {
            index,
            kind: failure.kind,
            reason: cut(failure.reason, MAX_REASON_BYTES),
        });
    }
    check_failed_have_no_output(&failed, &reply.source)?;
    Ok(failed)
}

/// A record that failed is delivered again, or is a dead letter: what it has put out would be
/// there twice, or in spite of its failure.
fn check_failed_have_no_output(failed: &[Failure], source: &[u32]) -> Result<(), String> {
    if failed.is_empty() {
        return Ok(());
    }
    for (at, &source) in source.iter().enumerate() {
        if failed
            .binary_search_by_key(&(source as usize), |failure| failure.index)
            .is_ok()
        {
            return Err(format!(
                "record {at} derives from record {source}, which is in `failed`"
            ));
        }
    }
    Ok(())
}

fn length_mismatch(column: &str, len: usize, records: usize) -> String {
    format!("`{column}` has {len} entries, but there are {records} records")
}
