//! What belongs to the tasks of pipelines: state, changelog, parked records, timers.

use bytes::Bytes;

use super::catalog::{Catalog, malformed_key};
use super::place;
use super::problem::{Problem, ProblemKind};
use super::walk::{self, Visit};
use super::{Counts, Report};
use crate::storage::ReadOnlyStore;
use crate::storage::schema::{KeyKind, Region, changelog, parked, parked_group, state, timer};

/// Looks at all of it.
pub(super) fn look_at(store: &ReadOnlyStore, catalog: &Catalog, report: &mut Report) {
    walk::region(store, Region::Tasks, catalog, report, |visit, report| {
        if let Visit::Entry(key, value) = visit
            && let Err(problem) = entry(key, value, catalog, &mut report.counts)
        {
            report.problems.add(problem.at(key, catalog));
        }
    });
}

fn entry(
    key: &[u8],
    value: &[u8],
    catalog: &Catalog,
    counts: &mut Counts,
) -> Result<(), Box<Problem>> {
    let kind = key.first().copied();
    let is = |wanted: KeyKind| kind == Some(wanted as u8);
    if is(KeyKind::State) {
        counts.state_entries += 1;
        state::parse_key(key).ok_or_else(malformed_key)?;
    } else if is(KeyKind::Changelog) {
        counts.changelog_entries += 1;
        changelog::parse_key(key).ok_or_else(malformed_key)?;
        if changelog::parse_value(&Bytes::copy_from_slice(value)).is_none() {
            return Err(malformed("the changes of state of a checkpoint are"));
        }
    } else if is(KeyKind::Parked) {
        counts.parked_records += 1;
        parked::parse_key(key).ok_or_else(malformed_key)?;
        let Some(parked) = parked::parse_value(&Bytes::copy_from_slice(value)) else {
            return Err(malformed("a record that waits to be tried again is"));
        };
        let record = &parked.record;
        if let Err(error) = record.verify_crc().and_then(|()| record.validate_records()) {
            let reason = format!("a record that waits to be tried again is damaged: {error}");
            return Err(Problem::new(ProblemKind::PipelineData, reason));
        }
    } else if is(KeyKind::ParkedGroup) {
        parked_group::parse_key(key).ok_or_else(malformed_key)?;
        if parked_group::parse_value(value).is_none() {
            return Err(malformed(
                "how many records of a key wait to be tried again is",
            ));
        }
    } else if is(KeyKind::Timer) {
        counts.timers += 1;
        timer::parse_key(key).ok_or_else(malformed_key)?;
        if timer::parse_value(value).is_none() {
            return Err(malformed("a timer is"));
        }
    } else {
        return Err(malformed_key());
    }
    match place::task_of(key) {
        Some((id, _)) if !catalog.has_pipeline(id) && !catalog.is_incomplete => Err(Problem::new(
            ProblemKind::Orphan,
            "there is no pipeline of this id",
        )),
        _ => Ok(()),
    }
}

fn malformed(what: &str) -> Box<Problem> {
    Problem::new(ProblemKind::PipelineData, format!("{what} malformed"))
}
