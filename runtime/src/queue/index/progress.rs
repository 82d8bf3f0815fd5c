//! Which messages are done with: a bit for each, from the first batch that is stored to the end.

use std::collections::VecDeque;

use crate::queue::offset_set::{offset_at, place};
use crate::queue::visits::Visits;
use crate::storage::schema::positions::Positions;

/// A done-with prefix of this many messages is removed from the store…
const TRIM_MESSAGES: u64 = 64 * 1024;
/// …or of this many bytes, if that is less.
const TRIM_BYTES: u64 = 8 << 20;

/// A hole is made of this many messages in a row that are done with…
const HOLE_MESSAGES: u64 = 8 * 1024;
/// …or of this many bytes, if that is less: each costs readers a range deletion.
const HOLE_BYTES: u64 = 1 << 20;

/// What of a prefix can be removed from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) struct Trim {
    /// The new start: the base offset of a batch, or the end.
    pub(in crate::queue) to: u64,
    /// Bytes of the batches before it.
    pub(in crate::queue) freed_bytes: u64,
    /// Of those, bytes in the chunk that `to` lies in.
    freed_in_last_bytes: u64,
}

/// Batches between others of which nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) struct Hole {
    /// The base offset of the first of them.
    pub(in crate::queue) from: u64,
    /// The base offset of the batch behind them.
    pub(in crate::queue) to: u64,
    /// Their bytes.
    pub(in crate::queue) freed_bytes: u64,
}

/// The messages of a queue from its start on, done with or not.
#[derive(Debug)]
pub(super) struct Progress {
    start: u64,
    /// Everything below is done with.
    prefix: u64,
    end: u64,
    live: u64,
    first_chunk: u64,
    chunks: VecDeque<Chunk>,
    /// The chunk of `prefix` when a trim was last considered.
    considered_chunk: u64,
    visits: Visits,
}

#[derive(Debug, Default)]
struct Chunk {
    done: Done,
    /// Base offset of the first batch that begins in the chunk.
    first_base: Option<u64>,
    /// Bytes of the batches that begin in the chunk.
    bytes: u64,
}

/// Boxed, so that chunks of which nothing or everything is done take little.
#[derive(Debug, Default)]
enum Done {
    #[default]
    Nothing,
    Some(Box<Positions>),
    All,
}

impl Progress {
    /// Nothing is known yet from `start` on.
    pub(super) fn new(start: u64) -> Self {
        let (first_chunk, position) = place(start);
        let mut progress = Self {
            start,
            prefix: start,
            end: start,
            live: 0,
            first_chunk,
            chunks: VecDeque::new(),
            considered_chunk: first_chunk,
            visits: Visits::default(),
        };
        if position > 0 {
            let mut before = Positions::default();
            before.insert_range(0, position);
            progress.chunks.push_back(Chunk {
                done: Done::Some(Box::new(before)),
                ..Chunk::default()
            });
        }
        progress
    }

    /// The offset after the last message.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Messages that are not done with.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    /// Adds a batch at the end. What lies between that and the batch is a hole: done with, and not stored any more.
    pub(super) fn append(&mut self, base_offset: u64, next_offset: u64, bytes: u64) {
        self.skip(base_offset);
        self.extend(next_offset.saturating_sub(1).max(base_offset));
        if let Some(chunk) = self.chunk_mut(place(base_offset).0) {
            chunk.first_base.get_or_insert(base_offset);
            chunk.bytes += bytes;
        }
        self.end = next_offset;
        self.live += next_offset - base_offset;
    }

    /// Makes chunks up to that of an offset.
    fn extend(&mut self, last: u64) {
        let needed = place(last).0 - self.first_chunk + 1;
        while (self.chunks.len() as u64) < needed {
            self.chunks.push_back(Chunk::default());
        }
    }

    /// Adds offsets up to `to` that are done with.
    fn skip(&mut self, to: u64) {
        let mut at = self.end;
        if at >= to {
            return;
        }
        self.extend(to - 1);
        while at < to {
            let (number, position) = place(at);
            let next = to.min(offset_at(number + 1, 0));
            let Some(chunk) = self.chunk_mut(number) else {
                break;
            };
            let mut positions = match std::mem::take(&mut chunk.done) {
                Done::Some(positions) => positions,
                Done::Nothing | Done::All => Box::default(),
            };
            positions.insert_range(position, position + (next - at) as usize);
            chunk.done = match positions.is_full() {
                true => Done::All,
                false => Done::Some(positions),
            };
            at = next;
        }
        let has_no_live = self.prefix == self.end;
        self.end = to;
        if has_no_live {
            self.advance();
        }
    }

    /// Marks a message as done with; `false` if it was, or is not known.
    pub(super) fn finish(&mut self, offset: u64) -> bool {
        if offset < self.prefix || offset >= self.end {
            return false;
        }
        let (chunk, position) = place(offset);
        let Some(chunk) = self.chunk_mut(chunk) else {
            return false;
        };
        let is_new = match &mut chunk.done {
            Done::All => false,
            Done::Some(positions) => positions.insert(position),
            done @ Done::Nothing => {
                let mut positions = Positions::default();
                positions.insert(position);
                *done = Done::Some(Box::new(positions));
                true
            }
        };
        if matches!(&chunk.done, Done::Some(positions) if positions.is_full()) {
            chunk.done = Done::All;
        }
        self.live -= u64::from(is_new);
        if offset == self.prefix {
            self.advance();
        }
        is_new
    }

    fn advance(&mut self) {
        while self.prefix < self.end {
            let (number, position) = place(self.prefix);
            let absent = match self.chunk_mut(number).map(|chunk| &chunk.done) {
                Some(Done::All) => None,
                Some(Done::Some(positions)) => positions.first_absent_from(position),
                Some(Done::Nothing) | None => Some(position),
            };
            match absent {
                Some(absent) => {
                    self.prefix = offset_at(number, absent).min(self.end);
                    return;
                }
                None => self.prefix = offset_at(number + 1, 0).min(self.end),
            }
        }
    }

    /// The first message from `offset` on that is not done with.
    pub(super) fn next_live(&self, offset: u64) -> Option<u64> {
        let mut at = offset.max(self.prefix);
        while at < self.end {
            let (number, position) = place(at);
            let absent = match self.chunk(number).map(|chunk| &chunk.done) {
                Some(Done::All) => None,
                Some(Done::Some(positions)) => positions.first_absent_from(position),
                Some(Done::Nothing) | None => Some(position),
            };
            match absent {
                Some(position) => at = offset_at(number, position),
                None => {
                    at = offset_at(number + 1, 0);
                    continue;
                }
            }
            return (at < self.end).then_some(at);
        }
        None
    }

    /// A prefix that is worth removing now. Looks only when a chunk has come to its end since the
    /// last time.
    pub(super) fn worth_trimming(&mut self) -> Option<Trim> {
        let chunk = place(self.prefix).0;
        if chunk == self.considered_chunk {
            return None;
        }
        self.considered_chunk = chunk;
        self.trim()
            .filter(|trim| trim.to - self.start >= TRIM_MESSAGES || trim.freed_bytes >= TRIM_BYTES)
    }

    /// The prefix that can be removed.
    pub(super) fn trim(&self) -> Option<Trim> {
        let mut trim = Trim {
            to: self.start,
            freed_bytes: 0,
            freed_in_last_bytes: 0,
        };
        let mut bytes = 0;
        let last = (place(self.prefix).0 - self.first_chunk) as usize;
        for chunk in self.chunks.iter().take(last + 1) {
            self.visits.note();
            if let Some(base) = chunk.first_base.filter(|base| *base <= self.prefix) {
                trim.to = base;
                trim.freed_bytes = bytes;
            }
            bytes += chunk.bytes;
        }
        if self.prefix == self.end {
            let in_last = self.chunks.get(last).map_or(0, |chunk| chunk.bytes);
            trim = Trim {
                to: self.end,
                freed_bytes: bytes,
                freed_in_last_bytes: in_last,
            };
        }
        (trim.to > self.start).then_some(trim)
    }

    /// The first hole behind `from` that can be made, and is worth it: a message that stays for long, since it is
    /// delayed or its group waits, must not keep what has come after it.
    pub(super) fn hole(&self, from: u64) -> Option<Hole> {
        let mut number = place(from.max(self.prefix)).0;
        loop {
            let chunk = self.chunk(number)?;
            let Some(base) = chunk.first_base.filter(|base| *base >= from) else {
                number += 1;
                continue;
            };
            let live = self.next_live(base).unwrap_or(self.end);
            let hole = self.widest_hole(base, live);
            let is_worth_it =
                hole.to - hole.from >= HOLE_MESSAGES || hole.freed_bytes >= HOLE_BYTES;
            if is_worth_it && hole.freed_bytes > 0 {
                return Some(hole);
            }
            number = place(live).0.max(number + 1);
        }
    }

    /// From the base offset of the first batch that begins in a chunk to the last such one up to `live`.
    fn widest_hole(&self, from: u64, live: u64) -> Hole {
        let mut hole = Hole {
            from,
            to: from,
            freed_bytes: 0,
        };
        let mut bytes = 0;
        for number in place(from).0..=place(live).0 {
            let Some(chunk) = self.chunk(number) else {
                break;
            };
            if let Some(base) = chunk.first_base.filter(|base| *base <= live) {
                hole.to = base;
                hole.freed_bytes = bytes;
            }
            bytes += chunk.bytes;
        }
        hole
    }

    /// Takes note that a hole has been made.
    pub(super) fn hollowed(&mut self, hole: Hole) {
        for number in place(hole.from).0..place(hole.to).0 {
            if let Some(chunk) = self.chunk_mut(number) {
                chunk.first_base = None;
                chunk.bytes = 0;
            }
        }
    }

    /// Takes note that a prefix has been removed.
    pub(super) fn trimmed(&mut self, trim: Trim) {
        let number = place(trim.to).0;
        while self.first_chunk < number {
            self.chunks.pop_front();
            self.first_chunk += 1;
        }
        let has_more = self.end > trim.to;
        if let Some(chunk) = self.chunks.front_mut() {
            chunk.bytes -= trim.freed_in_last_bytes;
            if chunk.first_base.is_some_and(|base| base < trim.to) {
                chunk.first_base = has_more.then_some(trim.to);
            }
        }
        self.start = trim.to;
    }

    #[cfg(test)]
    pub(super) fn visit_count(&self) -> u64 {
        self.visits.count()
    }

    fn chunk(&self, number: u64) -> Option<&Chunk> {
        self.visits.note();
        let index = number.checked_sub(self.first_chunk)?;
        self.chunks.get(usize::try_from(index).ok()?)
    }

    fn chunk_mut(&mut self, number: u64) -> Option<&mut Chunk> {
        self.visits.note();
        let index = number.checked_sub(self.first_chunk)?;
        self.chunks.get_mut(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(u64),
        Finish(u64),
        FinishMany(u64),
        /// A run somewhere.
        FinishRun(u64, u64),
        Hollow,
        /// Read again from what is stored.
        Reopen,
        Trim,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..900_u64).prop_map(Step::Append),
            any::<u64>().prop_map(Step::Finish),
            (1..1500_u64).prop_map(Step::FinishMany),
            (any::<u64>(), 500..5000_u64).prop_map(|(seed, count)| Step::FinishRun(seed, count)),
            Just(Step::Hollow),
            Just(Step::Reopen),
            Just(Step::Trim),
        ]
    }

    proptest! {
        #[test]
        fn is_what_a_simple_model_says(start in 0..3_000_u64, steps in proptest::collection::vec(step(), 1..60)) {
            let mut progress = Progress::new(start);
            let (mut live, mut batches) = (BTreeSet::new(), Vec::new());
            let mut end = start;
            for step in steps {
                match step {
                    Step::Append(count) => {
                        progress.append(end, end + count, count * 7);
                        batches.push((end, count * 7));
                        live.extend(end..end + count);
                        end += count;
                    }
                    Step::Finish(seed) => {
                        let offset = start + seed % (end - start + 10);
                        prop_assert_eq!(progress.finish(offset), live.remove(&offset));
                    }
                    Step::FinishMany(count) => {
                        for _ in 0..count {
                            let Some(offset) = live.pop_first() else { break };
                            prop_assert!(progress.finish(offset));
                        }
                    }
                    Step::FinishRun(seed, count) => {
                        let from = start + seed % (end - start + 1);
                        for offset in from..end.min(from + count) {
                            prop_assert_eq!(progress.finish(offset), live.remove(&offset));
                        }
                    }
                    Step::Hollow => {
                        let Some(hole) = progress.widest_hole_of_all() else { continue };
                        prop_assert_eq!(live.range(hole.from..hole.to).next(), None);
                        for edge in [hole.from, hole.to] {
                            prop_assert!(batches.iter().any(|(base, _)| *base == edge));
                        }
                        let is_in = |base: u64| (hole.from..hole.to).contains(&base);
                        let freed: u64 = batches.iter().filter(|(base, _)| is_in(*base)).map(|(_, bytes)| bytes).sum();
                        prop_assert_eq!(hole.freed_bytes, freed);
                        batches.retain(|(base, _)| !is_in(*base));
                        progress.hollowed(hole);
                    }
                    Step::Reopen => {
                        let stored_from = progress.start;
                        progress = Progress::new(stored_from);
                        for (index, (base, bytes)) in batches.iter().enumerate() {
                            // Each step appends 7 bytes for each message.
                            let next = base + bytes / 7;
                            progress.append(*base, next, *bytes);
                            let is_last = index + 1 == batches.len();
                            prop_assert_eq!(is_last, next == end);
                            for offset in *base..next {
                                if !live.contains(&offset) {
                                    progress.finish(offset);
                                }
                            }
                        }
                    }
                    Step::Trim => {
                        let prefix = live.first().copied().unwrap_or(end);
                        if let Some(trim) = progress.trim() {
                            prop_assert!(trim.to <= prefix);
                            let is_boundary = trim.to == end || batches.iter().any(|(base, _)| *base == trim.to);
                            prop_assert!(is_boundary);
                            let freed: u64 = batches.iter().filter(|(base, _)| *base < trim.to).map(|(_, bytes)| bytes).sum();
                            prop_assert_eq!(trim.freed_bytes, freed);
                            batches.retain(|(base, _)| *base >= trim.to);
                            progress.trimmed(trim);
                        }
                        if prefix == end {
                            prop_assert!(batches.is_empty());
                        }
                    }
                }
                prop_assert_eq!(progress.live(), live.len() as u64);
                prop_assert_eq!(progress.prefix, live.first().copied().unwrap_or(end));
                let middle = (start + end) / 2;
                prop_assert_eq!(progress.next_live(middle), live.range(middle..).next().copied());
            }
        }
    }

    impl Progress {
        /// A hole, however little it is worth.
        fn widest_hole_of_all(&self) -> Option<Hole> {
            let bases = self.chunks.iter().filter_map(|chunk| chunk.first_base);
            let holes = bases
                .filter(|base| *base >= self.prefix)
                .map(|base| self.widest_hole(base, self.next_live(base).unwrap_or(self.end)));
            holes
                .filter(|hole| hole.from < hole.to)
                .max_by_key(|hole| hole.freed_bytes)
        }
    }

    #[test]
    fn holes_are_made_when_they_are_worth_it() {
        const BATCH: u64 = 1000;
        let mut progress = Progress::new(0);
        let append = |progress: &mut Progress, count| {
            for _ in 0..count {
                let end = progress.end();
                progress.append(end, end + BATCH, 50_000);
            }
        };
        append(&mut progress, 200);
        let finish = |progress: &mut Progress, offsets: std::ops::Range<u64>| {
            for offset in offsets {
                progress.finish(offset);
            }
        };
        finish(&mut progress, 1..8_000);
        assert_eq!(progress.hole(0), None);
        finish(&mut progress, 8_000..70_000);
        let hole = progress.hole(0).unwrap();
        // The first batch has a live message, and holes end where the first batch of a chunk begins.
        assert!(hole.from > 0 && hole.from <= 2 * BATCH, "{hole:?}");
        assert!(hole.to > 68_000 && hole.to <= 70_000, "{hole:?}");
        assert_eq!(hole.freed_bytes, (hole.to - hole.from) / BATCH * 50_000);
        progress.hollowed(hole);
        assert_eq!(progress.hole(0), None);
        // A second message that stays, and a second hole behind it.
        finish(&mut progress, 71_000..200_000);
        let second = progress.hole(0).unwrap();
        assert!(second.from >= 71_000 && second.to > 198_000, "{second:?}");
        assert_eq!(progress.hole(second.to), None);
    }

    #[test]
    fn done_with_chunks_take_little() {
        let mut progress = Progress::new(0);
        progress.append(0, 1 << 20, 1);
        for offset in 1..1 << 20 {
            progress.finish(offset);
        }
        assert!(
            progress
                .chunks
                .iter()
                .skip(1)
                .all(|chunk| matches!(chunk.done, Done::All))
        );
        assert_eq!(progress.trim(), None);
    }
}
