//! The parts of a batch that are still to run, in the order of their records: how the record is found on which the
//! plugin faults.
//!
//! A part that faults is halved. If its first half is fine the second one is known to be bad, and is halved again
//! without a call. If it is said on which record the plugin faults, that one is tried alone. Who says so may be wrong:
//! then what is before the record faults, too, or the record is fine, and nobody is asked again in this batch, so that
//! a lie costs two calls at most.

use std::ops::Range;

/// The parts of a batch that are still to run.
pub(super) struct Parts {
    /// The next one is the last.
    stack: Vec<Part>,
    /// The record on which a part of the batch was last said to fault.
    suspect: Option<usize>,
    /// Whether that was wrong.
    is_misled: bool,
    has_faulted: bool,
}

struct Part {
    range: Range<usize>,
    /// Where the part begins that ends where it begins: if that one is fine it is itself known to be bad.
    left_start: Option<usize>,
    /// Whether the plugin is known to fault on it.
    is_bad: bool,
}

impl Part {
    fn new(range: Range<usize>) -> Self {
        Self {
            range,
            left_start: None,
            is_bad: false,
        }
    }
}

impl Parts {
    /// A batch of so many records, in one part.
    pub(super) fn of_batch(len: usize) -> Self {
        Self {
            stack: vec![Part::new(0..len)],
            suspect: None,
            is_misled: false,
            has_faulted: false,
        }
    }

    /// The part that is to run next.
    pub(super) fn pop(&mut self) -> Option<Range<usize>> {
        loop {
            let Part { range, is_bad, .. } = self.stack.pop()?;
            if !is_bad || range.len() == 1 {
                return Some(range);
            }
            self.halve(range);
        }
    }

    /// A part could not run now, and is the next one again.
    pub(super) fn push_back(&mut self, range: Range<usize>) {
        self.stack.push(Part::new(range));
    }

    /// Whether the plugin has faulted on a part.
    pub(super) fn has_faulted(&self) -> bool {
        self.has_faulted
    }

    /// A part has run, and the plugin has not faulted on it.
    pub(super) fn note_fine(&mut self, range: &Range<usize>) {
        self.is_misled |= range.len() == 1 && self.suspect == Some(range.start);
        if let Some(right) = self.stack.last_mut() {
            // Both together faulted.
            right.is_bad |= right.left_start == Some(range.start) && right.range.start == range.end;
        }
    }

    /// The plugin has faulted on a part.
    pub(super) fn note_fault(&mut self, range: &Range<usize>) {
        self.has_faulted = true;
        if let Some(index) = self.suspect.take_if(|index| range.end <= *index) {
            // It is, or was, another one.
            self.is_misled = true;
            self.join(index);
        }
    }

    /// Splits a part on which the plugin has faulted: at the record that is `said`, if that counts, or into halves.
    /// Returns that record.
    pub(super) fn split(&mut self, range: Range<usize>, said: Option<usize>) -> Option<usize> {
        let suspect = said.filter(|_| !self.is_misled);
        match suspect {
            Some(index) => {
                self.suspect = suspect;
                self.isolate_with(range, index, suspect);
            }
            None => self.halve(range),
        }
        suspect
    }

    /// Splits a part into what is before a record, the record alone, and what is after it.
    pub(super) fn isolate(&mut self, range: Range<usize>, index: usize) {
        self.isolate_with(range, index, None);
    }

    /// `left_start` is that of what is after the record.
    fn isolate_with(&mut self, range: Range<usize>, index: usize, left_start: Option<usize>) {
        let after = Part {
            left_start,
            ..Part::new(index + 1..range.end)
        };
        let pieces = [
            after,
            Part::new(index..index + 1),
            Part::new(range.start..index),
        ];
        let pieces = pieces.into_iter().filter(|piece| !piece.range.is_empty());
        self.stack.extend(pieces);
    }

    fn halve(&mut self, range: Range<usize>) {
        let middle = range.start + range.len() / 2;
        self.stack.push(Part {
            left_start: Some(range.start),
            ..Part::new(middle..range.end)
        });
        self.stack.push(Part::new(range.start..middle));
    }

    /// Makes the record that was suspected and what is after it one part again, of which nothing is known.
    fn join(&mut self, index: usize) {
        let alone = self.stack.iter().rposition(|it| it.range.start == index);
        let Some((alone, after)) = alone.and_then(|at| Some((at, at.checked_sub(1)?))) else {
            return;
        };
        if let Some(after) = self.stack.get_mut(after)
            && after.left_start == Some(index)
        {
            *after = Part::new(index..after.range.end);
            self.stack.remove(alone);
        }
    }
}
