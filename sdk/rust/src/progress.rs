//! At which record of a batch the plugin is: if it panics there, the host is told.

use std::sync::atomic::{AtomicU32, Ordering};

/// The index of no record.
const NONE: u32 = u32::MAX;

static CURRENT: AtomicU32 = AtomicU32::new(NONE);

/// The plugin has the record, or timer, with this index from here on.
#[inline]
pub(crate) fn enter(index: u32) {
    CURRENT.store(index, Ordering::Relaxed);
}

/// It has none.
pub(crate) fn leave() {
    enter(NONE);
}

/// Tells the host, before a trap, which record it is about.
#[cfg(target_arch = "wasm32")]
pub(crate) fn tell_host() {
    let index = CURRENT.load(Ordering::Relaxed);
    if index != NONE {
        crate::host::trapping_at(index);
    }
}
