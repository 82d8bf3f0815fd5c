//! Columns of bytes and their cumulative ends.

/// The range of value `index` in a column with cumulative `ends`; none when there is no such value.
#[inline]
pub(super) fn range_of(ends: &[u32], index: usize) -> Option<std::ops::Range<usize>> {
    let end = *ends.get(index)? as usize;
    let start = match index.checked_sub(1) {
        Some(before) => *ends.get(before)? as usize,
        None => 0,
    };
    Some(start..end)
}
