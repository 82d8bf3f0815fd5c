//! Counts, in tests, what is visited of an index: what a lease costs must not grow with what waits.

/// How many entries, or chunks of them, were visited; nothing outside of tests.
#[derive(Debug, Default)]
pub(super) struct Visits {
    #[cfg(test)]
    count: std::cell::Cell<u64>,
}

impl Visits {
    /// Counts one.
    #[inline]
    pub(super) fn note(&self) {
        #[cfg(test)]
        self.count.set(self.count.get() + 1);
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }
}
