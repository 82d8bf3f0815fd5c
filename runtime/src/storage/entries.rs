//! Reading entries: of the open store, and of one that is open for reading only.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{BoundColumnFamily, ReadOptions};

use super::schema::{Family, KeyKind, kind_prefix, prefix_end};
use super::{Error, Scan, Step};

pub(super) type Rocks = rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>;

/// The handle of a family; all are opened with the database.
pub(super) fn family(rocks: &Rocks, family: Family) -> Arc<BoundColumnFamily<'_>> {
    #[expect(
        clippy::expect_used,
        reason = "every family is opened with the database"
    )]
    rocks.cf_handle(family.name()).expect("the family is open")
}

/// The value of a key.
pub(super) fn get(rocks: &Rocks, kind: KeyKind, key: &[u8]) -> Result<Option<Bytes>, Error> {
    let value = rocks
        .get_pinned_cf(&family(rocks, kind.family()), key)
        .map_err(Error::engine("read a key"))?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

/// Visits the entries of a kind with `from <= key`, and `key < to` if given, in order.
pub(super) fn scan(
    rocks: &Rocks,
    kind: KeyKind,
    from: &[u8],
    to: Option<&[u8]>,
    mut options: ReadOptions,
    visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
) -> Result<(), Error> {
    if let Some(to) = to
        .map(<[u8]>::to_vec)
        .or_else(|| prefix_end(&kind_prefix(kind)))
    {
        options.set_iterate_upper_bound(to);
    }
    scan_family(rocks, kind.family(), from, options, visit)
}

/// Visits entries of a kind between two keys: those to which `visit` goes, from `first` on.
pub(super) fn walk(
    rocks: &Rocks,
    kind: KeyKind,
    (from, to): (&[u8], Option<&[u8]>),
    first: Step,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<Step, Error>,
) -> Result<(), Error> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    let to = to.map(<[u8]>::to_vec);
    if let Some(to) = to.or_else(|| prefix_end(&kind_prefix(kind))) {
        options.set_iterate_upper_bound(to);
    }
    let mut iterator = rocks.raw_iterator_cf_opt(&family(rocks, kind.family()), options);
    let mut step = first;
    loop {
        match step {
            Step::Next => iterator.next(),
            Step::To(key) => iterator.seek(key),
            Step::LastTo(key) => iterator.seek_for_prev(key),
            Step::Back => iterator.prev(),
            Step::Stop => return Ok(()),
        }
        step = match iterator.item() {
            Some((key, value)) => visit(key, value)?,
            None => return iterator.status().map_err(Error::engine("walk")),
        };
    }
}

/// Visits the entries of a family with `from <= key`, within the bounds of the options, in order.
pub(super) fn scan_family(
    rocks: &Rocks,
    of: Family,
    from: &[u8],
    options: ReadOptions,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
) -> Result<(), Error> {
    let mut iterator = rocks.raw_iterator_cf_opt(&family(rocks, of), options);
    iterator.seek(from);
    while let Some((key, value)) = iterator.item() {
        if visit(key, value)? == Scan::Stop {
            return Ok(());
        }
        iterator.next();
    }
    iterator.status().map_err(Error::engine("scan"))
}
