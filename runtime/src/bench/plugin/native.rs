//! The other side: a closure in native code, called for every record of the same columns.

use crate::plugin::Columns;

/// A record as a native function sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    index: u32,
    /// The value; empty if it is null.
    pub(super) value: &'a [u8],
    /// The key, `None` if it is null. The shipped functions leave it alone, as the plugins do; it
    /// is looked up all the same, since a function that is handed records is handed their keys.
    #[expect(dead_code, reason = "part of the record that a function is handed")]
    pub(super) key: Option<&'a [u8]>,
}

/// Output columns, as a plugin returns them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Output {
    /// Index of the input record that each output record derives from.
    pub(super) source: Vec<u32>,
    /// New values, one after another; none when all are those of their sources.
    pub(super) values: Vec<u8>,
    /// Cumulative ends of the new values.
    pub(super) value_ends: Vec<u32>,
}

impl Output {
    /// Sends a record on as it is.
    #[inline]
    fn forward(&mut self, record: &Record<'_>) {
        self.source.push(record.index);
    }

    /// Sends a record on with another value, which `write` appends.
    #[inline]
    fn emit_with(&mut self, record: &Record<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        self.source.push(record.index);
        write(&mut self.values);
        self.value_ends.push(self.values.len() as u32);
    }

    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.source.len()
    }

    /// The value of output record `index`.
    pub(super) fn value<'a>(&'a self, index: usize, source: &'a Columns) -> Option<&'a [u8]> {
        if self.value_ends.is_empty() {
            return source.value(*self.source.get(index)? as usize);
        }
        let end = *self.value_ends.get(index)? as usize;
        let start = index
            .checked_sub(1)
            .and_then(|before| self.value_ends.get(before));
        self.values
            .get(start.map_or(0, |&start| start as usize)..end)
    }
}

/// A function over one record.
pub(super) type Function = Box<dyn FnMut(&Record<'_>, &mut Output)>;

/// Sends every record on.
pub(super) fn passthrough() -> Function {
    Box::new(|record, output| output.forward(record))
}

/// Sends on the records whose value begins with an even byte.
pub(super) fn filter() -> Function {
    Box::new(|record, output| {
        if record
            .value
            .first()
            .is_some_and(|byte| byte.is_multiple_of(2))
        {
            output.forward(record);
        }
    })
}

/// Turns the ASCII letters of each value into capitals.
pub(super) fn map() -> Function {
    Box::new(|record, output| {
        output.emit_with(record, |values| {
            let start = values.len();
            values.extend_from_slice(record.value);
            if let Some(value) = values.get_mut(start..) {
                value.make_ascii_uppercase();
            }
        });
    })
}

/// Calls the function for every record of a batch.
pub(super) fn process(function: &mut Function, batch: &Columns) -> Output {
    let mut output = Output {
        source: Vec::with_capacity(batch.len()),
        ..Output::default()
    };
    for index in 0..batch.len() {
        let record = Record {
            index: index as u32,
            value: batch.value(index).unwrap_or_default(),
            key: batch.key(index),
        };
        function(&record, &mut output);
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{HeadersRef, RecordRef};

    fn batch(values: &[&str]) -> Columns {
        let mut columns = Columns::new();
        for (offset, value) in (0..).zip(values) {
            columns.push(&RecordRef {
                offset,
                timestamp_ms: 0,
                key: Some(b"k"),
                value: Some(value.as_bytes()),
                headers: HeadersRef::EMPTY,
            });
        }
        columns
    }

    #[test]
    fn functions_do_what_the_plugins_do() {
        let batch = batch(&["a", "b", "Cc", "d"]);
        let values = |mut function: Function| {
            let output = process(&mut function, &batch);
            let values = (0..output.len()).map(|at| output.value(at, &batch).unwrap().to_vec());
            values
                .map(|value| String::from_utf8(value).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(values(passthrough()), ["a", "b", "Cc", "d"]);
        assert_eq!(values(filter()), ["b", "d"]);
        assert_eq!(values(map()), ["A", "B", "CC", "D"]);
    }
}
