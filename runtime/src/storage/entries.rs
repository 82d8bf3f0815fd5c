//! Reading entries: of the open store, and of one that is open for reading only.

use bytes::Bytes;
use rocksdb::ReadOptions;

use super::schema::{KeyKind, Region, is_of_kind, kind_prefix, prefix_end};
use super::{Error, Scan, Step};

pub(super) type Rocks = rocksdb::DBWithThreadMode<rocksdb::MultiThreaded>;

/// The value of a key, which is of the kind.
pub(super) fn get(rocks: &Rocks, kind: KeyKind, key: &[u8]) -> Result<Option<Bytes>, Error> {
    debug_assert!(is_of_kind(kind, key), "{kind:?}: {key:?}");
    let value = rocks.get_pinned(key).map_err(Error::engine("read a key"))?;
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
    debug_assert!(is_of_kind(kind, from), "{kind:?}: {from:?}");
    if let Some(to) = to
        .map(<[u8]>::to_vec)
        .or_else(|| prefix_end(&kind_prefix(kind)))
    {
        options.set_iterate_upper_bound(to);
    }
    scan_within(rocks, from, options, visit)
}

/// Visits the entries of a region with `from <= key`, of whatever kind, in order.
pub(super) fn scan_region(
    rocks: &Rocks,
    region: Region,
    from: &[u8],
    mut options: ReadOptions,
    visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
) -> Result<(), Error> {
    let codes = region.codes();
    if let Some(to) = prefix_end(&[*codes.end()]) {
        options.set_iterate_upper_bound(to);
    }
    scan_within(rocks, from.max(&[*codes.start()]), options, visit)
}

/// Visits entries of a kind between two keys: those to which `visit` goes, from `first` on.
pub(super) fn walk(
    rocks: &Rocks,
    kind: KeyKind,
    (from, to): (&[u8], Option<&[u8]>),
    first: Step,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<Step, Error>,
) -> Result<(), Error> {
    debug_assert!(is_of_kind(kind, from), "{kind:?}: {from:?}");
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    let to = to.map(<[u8]>::to_vec);
    if let Some(to) = to.or_else(|| prefix_end(&kind_prefix(kind))) {
        options.set_iterate_upper_bound(to);
    }
    let mut iterator = rocks.raw_iterator_opt(options);
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

fn scan_within(
    rocks: &Rocks,
    from: &[u8],
    options: ReadOptions,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<Scan, Error>,
) -> Result<(), Error> {
    let mut iterator = rocks.raw_iterator_opt(options);
    iterator.seek(from);
    while let Some((key, value)) = iterator.item() {
        if visit(key, value)? == Scan::Stop {
            return Ok(());
        }
        iterator.next();
    }
    iterator.status().map_err(Error::engine("scan"))
}
