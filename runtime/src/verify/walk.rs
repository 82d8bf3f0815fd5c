//! Walks all entries of a region, also past what cannot be read.

use crate::storage::schema::Region;
use crate::storage::{Error, ReadOnlyStore, Scan};

use super::place;
use super::problem::{Problem, ProblemKind};
use super::{Report, catalog::Catalog};

/// Bytes of a key that a skip counts in: a batch's key is as long.
const COUNTED_BYTES: usize = 17;
/// What cannot be read at one place is passed over in steps of 1, 2, 4, … keys.
const MAX_STEPS: u32 = 8 * COUNTED_BYTES as u32;

/// An entry, or a place where none could be read.
pub(super) enum Visit<'a> {
    /// A key and its value.
    Entry(&'a [u8], &'a [u8]),
    /// What follows the last entry could not be read, and is passed over.
    Gap,
}

/// Visits the entries of a region in order. Where RocksDB fails that is reported, and the walk goes on
/// behind it as far as there is something that can be read.
pub(super) fn region(
    store: &ReadOnlyStore,
    region: Region,
    catalog: &Catalog,
    report: &mut Report,
    mut visit: impl FnMut(Visit<'_>, &mut Report),
) {
    // No key of the region is before it.
    let first = [*region.codes().start()];
    let mut from = Vec::new();
    // The last key that was read, and how far was skipped from there.
    let mut last: Vec<u8> = Vec::new();
    let mut steps = 0;
    // Told once it is known what it lies before.
    let mut failure: Option<Error> = None;
    loop {
        let mut read = 0_u64;
        let walked = store.scan_region(region, &from, |key, value| {
            if let Some(error) = failure.take() {
                let problem = unreadable(region, &last, Some(key), catalog, &error);
                report.problems.add(problem);
            }
            read += 1;
            last.clear();
            last.extend_from_slice(key);
            visit(Visit::Entry(key, value), report);
            Ok(Scan::Continue)
        });
        let Err(error) = walked else { break };
        if read > 0 {
            steps = 0;
        }
        if steps == 0 {
            failure = Some(error);
            visit(Visit::Gap, report);
        }
        let from_there = match last.is_empty() {
            true => &first[..],
            false => &last[..],
        };
        match key_after(from_there, steps) {
            Some(key) if steps < MAX_STEPS => from = key,
            _ => break,
        }
        steps += 1;
    }
    if let Some(error) = failure {
        let problem = unreadable(region, &last, None, catalog, &error);
        report.problems.add(problem);
    }
}

/// What cannot be read lies between the last key that was and the next one that is.
fn unreadable(
    region: Region,
    last: &[u8],
    next: Option<&[u8]>,
    catalog: &Catalog,
    error: &Error,
) -> Box<Problem> {
    let region = region.name();
    let (reason, key) = match (last, next) {
        ([], None) => (format!("nothing of region `{region}` can be read"), last),
        ([], Some(next)) => (
            format!("the entries of region `{region}` before this one cannot be read"),
            next,
        ),
        _ => (
            format!("entries of region `{region}` that follow this one cannot be read"),
            last,
        ),
    };
    let mut problem = Problem::new(ProblemKind::Unreadable, format!("{reason}: {error}"));
    place::of_key(key, catalog, &mut problem);
    problem
}

/// The key that is 2^`steps` behind `last`, its first bytes taken as a number; `None` if there is none.
fn key_after(last: &[u8], steps: u32) -> Option<Vec<u8>> {
    let mut key = last.to_vec();
    key.resize(COUNTED_BYTES, 0);
    let byte = COUNTED_BYTES.checked_sub(1 + (steps / 8) as usize)?;
    let mut carry = 1_u16 << (steps % 8);
    for digit in key[..=byte].iter_mut().rev() {
        let sum = u16::from(*digit) + carry;
        *digit = (sum & 0xff) as u8;
        carry = sum >> 8;
        if carry == 0 {
            return Some(key);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::schema::{batch, queue_chunk};

    #[test]
    fn a_step_from_a_batch_is_an_offset() {
        let last = batch::key(3, 1, 512);
        for (steps, offset) in [(0, 513), (1, 514), (9, 1024), (20, 512 + (1 << 20))] {
            let key = key_after(&last, steps).unwrap();
            assert_eq!(batch::parse(&key), Some((3, 1, offset)));
        }
    }

    #[test]
    fn every_step_goes_on_until_there_is_no_key() {
        for last in [&b""[..], &[0x40], &queue_chunk::key(7, 9), &[0x30; 40]] {
            let mut before = last.to_vec();
            for steps in 0..MAX_STEPS {
                let Some(key) = key_after(last, steps) else {
                    break;
                };
                assert!(key > before, "{last:?} {steps}");
                before = key;
            }
        }
        assert_eq!(key_after(&[0xff; 17], 0), None);
    }
}
