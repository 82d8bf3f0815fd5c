//! The plugin's own metrics; at most 100 names a plugin.

use std::cell::RefCell;

use crate::host;

thread_local! {
    /// What was added since the last flush: a counter is often raised once a record, and a call to
    /// the host costs more than the record.
    static ADDED: RefCell<Vec<(String, u64)>> = const { RefCell::new(Vec::new()) };
}

/// Adds to a counter. The host hears of it at the end of the batch. Counters are not part of the
/// checkpoint: what a failed or repeated record added stays added.
pub fn add(name: &str, amount: u64) {
    ADDED.with_borrow_mut(
        |added| match added.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum = sum.saturating_add(amount),
            None => added.push((name.to_owned(), amount)),
        },
    );
}

/// Sets a gauge.
pub fn gauge(name: &str, value: f64) {
    host::gauge(name, value);
}

/// Records a value in a histogram. Calls the host, which costs about 0.2 µs.
pub fn record_value(name: &str, value: u64) {
    host::record_value(name, value);
}

/// Hands the host what was added. Names and their order stay, so that the next batch finds them.
pub(crate) fn flush() {
    ADDED.with_borrow_mut(|added| {
        for (name, sum) in added {
            if *sum > 0 {
                host::add(name, std::mem::take(sum));
            }
        }
    });
}
