//! Record batches: each by itself, and whether they are a whole partition together.

use std::collections::BTreeSet;
use std::ops::Range;

use super::Report;
use super::catalog::{Catalog, Owner, malformed_key};
use super::place;
use super::problem::{Problem, ProblemKind};
use super::queues;
use super::walk::{self, Visit};
use crate::model::RecordBatch;
use crate::storage::ReadOnlyStore;
use crate::storage::schema::partition_head::PartitionHead;
use crate::storage::schema::{Region, batch as batch_key};

/// The partition that is being looked at.
struct Walked {
    id: u32,
    index: u32,
    /// `None` if there is none: then its batches belong nowhere.
    head: Option<PartitionHead>,
    may_have_gaps: bool,
    /// What lies between batches, if that is to be looked at: a queue removes what is done with behind what stays.
    holes: Option<Vec<Range<u64>>>,
    /// The offset after the batches so far.
    next_offset: u64,
    size_bytes: u64,
    /// Whether something could not be read since the last batch.
    after_gap: bool,
    /// Whether something is wrong with it already, so that sums say nothing.
    is_damaged: bool,
}

/// Looks at all batches.
pub(super) fn look_at(store: &ReadOnlyStore, catalog: &Catalog, report: &mut Report) {
    let mut walked: Option<Walked> = None;
    let mut seen = BTreeSet::new();
    let mut after_gap = false;
    walk::region(store, Region::Log, catalog, report, |visit, report| {
        let Visit::Entry(key, value) = visit else {
            after_gap = true;
            return;
        };
        let Some((id, index, base_offset)) = batch_key::parse(key) else {
            report.problems.add(malformed_key().at(key, catalog));
            return;
        };
        if after_gap && let Some(walked) = &mut walked {
            walked.pass_over();
        }
        if walked
            .as_ref()
            .is_none_or(|at| (at.id, at.index) != (id, index))
        {
            if let Some(before) = walked.take() {
                before.end(store, catalog, report);
            }
            seen.insert((id, index));
            walked = Some(Walked::begin_at(key, (id, index), catalog, report));
        }
        if let Some(walked) = &mut walked {
            if std::mem::take(&mut after_gap) {
                walked.pass_over();
            }
            if let Err(problem) = walked.take(base_offset, value, report) {
                walked.is_damaged = true;
                report.problems.add(problem.at(key, catalog));
            }
        }
    });
    if let Some(mut last) = walked {
        if after_gap {
            last.pass_over();
        }
        last.end(store, catalog, report);
    }
    for (&(id, index), head) in &catalog.heads {
        if !seen.contains(&(id, index)) && head.start_offset < head.next_offset {
            Walked::begin(id, index, catalog).end(store, catalog, report);
        }
    }
}

impl Walked {
    fn begin(id: u32, index: u32, catalog: &Catalog) -> Self {
        let head = catalog.heads.get(&(id, index)).copied();
        let head = head.filter(|_| catalog.has_partition(id, index));
        let is_compacted = matches!(
            catalog.owner(id),
            Owner::Topic {
                is_compacted: true,
                ..
            }
        );
        Self {
            id,
            index,
            head,
            // It may have been a compacted topic once.
            may_have_gaps: is_compacted || head.is_some_and(|head| head.cleaned_offset > 0),
            holes: (catalog.owner(id) == Owner::Queue).then(Vec::new),
            next_offset: head.map_or(0, |head| head.start_offset),
            size_bytes: 0,
            after_gap: false,
            is_damaged: false,
        }
    }

    /// Begins with the partition that a batch belongs to.
    fn begin_at(
        key: &[u8],
        (id, index): (u32, u32),
        catalog: &Catalog,
        report: &mut Report,
    ) -> Self {
        let begun = Self::begin(id, index, catalog);
        if begun.head.is_none() && !catalog.is_incomplete {
            let reason = "there are batches of a partition that there is not";
            let problem = Problem::new(ProblemKind::Orphan, reason);
            report.problems.add(problem.at(key, catalog));
        }
        begun
    }

    /// What follows could not be read, and that has been said.
    fn pass_over(&mut self) {
        self.after_gap = true;
        self.is_damaged = true;
    }

    /// Looks at the next batch.
    fn take(
        &mut self,
        base_offset: u64,
        value: &[u8],
        report: &mut Report,
    ) -> Result<(), Box<Problem>> {
        self.size_bytes += value.len() as u64;
        let expected = self.next_offset;
        let after_gap = std::mem::take(&mut self.after_gap);
        let damaged =
            |error: crate::model::batch::Error| Problem::new(ProblemKind::Batch, error.to_string());
        let batch = RecordBatch::from_stored(value.to_vec().into()).map_err(|error| {
            // Where the batch ends is not known, so that the next one cannot be missed.
            self.after_gap = true;
            damaged(error)
        })?;
        if batch.base_offset() != base_offset {
            self.after_gap = true;
            let found = batch.base_offset();
            let reason = format!(
                "the batch says that it starts at offset {found}, its key says {base_offset}"
            );
            return Err(Problem::new(ProblemKind::Batch, reason));
        }
        self.next_offset = batch.next_offset().max(expected);
        report.counts.batches += 1;
        report.counts.batch_bytes += value.len() as u64;
        report.counts.records += u64::from(batch.record_count());
        batch.verify_crc().map_err(damaged)?;
        batch.validate_records().map_err(damaged)?;
        self.place(&batch, expected, after_gap)
    }

    /// That a batch follows the one before it, and is within the partition.
    fn place(
        &mut self,
        batch: &RecordBatch,
        expected: u64,
        after_gap: bool,
    ) -> Result<(), Box<Problem>> {
        let Some(head) = self.head else { return Ok(()) };
        let (base, next) = (batch.base_offset(), batch.next_offset());
        if base < expected {
            let reason = match base < head.start_offset {
                true => format!(
                    "the batch lies before the partition's start at {}",
                    head.start_offset
                ),
                false => {
                    format!("the batch starts at {base}, and the one before it ends at {expected}")
                }
            };
            return Err(Problem::new(ProblemKind::Offsets, reason));
        }
        if next > head.next_offset {
            let end = head.next_offset;
            let reason =
                format!("the batch ends at offset {next}, beyond the partition's end at {end}");
            return Err(Problem::new(ProblemKind::Head, reason));
        }
        if base > expected && !self.may_have_gaps && !after_gap {
            if let Some(holes) = &mut self.holes {
                holes.push(expected..base);
                return Ok(());
            }
            let reason = format!("there are no records from offset {expected} up to {base}");
            return Err(Problem::new(ProblemKind::Offsets, reason));
        }
        Ok(())
    }

    /// That nothing is missing at the end, and the sum is right.
    fn end(self, store: &ReadOnlyStore, catalog: &Catalog, report: &mut Report) {
        let Some(head) = self.head else { return };
        for hole in self.holes.iter().flatten() {
            queues::look_at_hole(store, self.id, hole, catalog, report);
        }
        let mut add = |kind, reason: String, offset| {
            let mut problem = Problem::new(kind, reason);
            place::of_partition(self.id, self.index, catalog, &mut problem);
            problem.offset = offset;
            report.problems.add(problem);
        };
        if self.next_offset < head.next_offset && !self.may_have_gaps && !self.after_gap {
            let (from, to) = (self.next_offset, head.next_offset);
            let reason = format!("there are no records from offset {from} up to the end at {to}");
            add(ProblemKind::Offsets, reason, Some(from));
        } else if self.size_bytes != head.size_bytes && !self.is_damaged {
            let (found, said) = (self.size_bytes, head.size_bytes);
            let reason =
                format!("the batches have {found} bytes, the partition's head says {said}");
            add(ProblemKind::Head, reason, None);
        }
    }
}
