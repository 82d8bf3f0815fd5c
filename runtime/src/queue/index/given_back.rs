//! Deliveries that do not count, since whoever had the message gave it back and nothing had gone wrong with it.

use hashbrown::HashMap;

use super::{Index, State};
use crate::queue::Receipt;
use crate::queue::visits::Visits;
use crate::storage::schema::queue_chunk::GivenBack;

/// Which deliveries of messages were given back, by offset; of few messages any ever are.
#[derive(Debug, Default)]
pub(super) struct GivenBackByOffset {
    by_offset: HashMap<u64, GivenBack>,
    pub(super) visits: Visits,
}

impl GivenBackByOffset {
    pub(super) fn get(&self, offset: u64) -> GivenBack {
        self.visits.note();
        self.by_offset.get(&offset).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, offset: u64, given_back: GivenBack) {
        self.visits.note();
        if given_back.count > 0 {
            self.by_offset.insert(offset, given_back);
        }
    }

    pub(super) fn forget(&mut self, offset: u64) {
        self.visits.note();
        self.by_offset.remove(&offset);
    }
}

impl Index {
    /// As [`settle`](Self::settle), but only of a message whose lease has not ended; right after
    /// [`advance`](Self::advance).
    pub(in crate::queue) fn settle_leased(&mut self, receipt: Receipt) -> bool {
        let message = self.messages.get(receipt.offset);
        let is_leased =
            message.is_some_and(|message| matches!(message.state, State::Leased { .. }));
        is_leased && self.settle(receipt)
    }

    /// Lets a message that is held wait again, of which these deliveries do not count.
    pub(in crate::queue) fn give_back(&mut self, offset: u64, given_back: GivenBack, now_ms: u64) {
        let message = self.messages.get(offset);
        if message.is_some_and(|message| message.state.is_held()) {
            self.given_back.set(offset, given_back);
            self.put_back(offset, 0, now_ms);
        }
    }

    /// Which deliveries of a message do not count.
    pub(in crate::queue) fn given_back(&self, offset: u64) -> GivenBack {
        self.given_back.get(offset)
    }

    /// How many deliveries of a message count so far.
    pub(in crate::queue) fn counted_deliveries(&self, offset: u64) -> u32 {
        let (delivery_count, _) = self.state(offset);
        delivery_count.saturating_sub(self.given_back.get(offset).count)
    }
}
