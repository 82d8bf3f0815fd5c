//! Leasing: messages are chosen, their delivery is committed, and only then are they handed out.

use std::sync::Arc;
use std::time::Duration;

use super::Error;
use super::dead_letter::Reason;
use super::index::Selection;
use super::message::{LeasedMessage, Receipt, Stored};
use super::settle::Changes;
use super::shared::Queue;
use crate::storage::Commit;

/// Messages that are given up on in one commit.
const MAX_RETIRED: u64 = 1_000;
/// Messages of one lease at most, whatever is asked for.
const MAX_LEASED: usize = 10_000;
/// How often a lease begins anew because a purge came in between.
const MAX_ATTEMPTS: u32 = 1_000;

/// What is asked of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Messages at most; never more than 10,000.
    pub max_messages: usize,
    /// Bytes of keys, values and headers at most; one message is leased in any case.
    pub max_bytes: usize,
    /// How long the lease lasts, in ms; `None` = the queue's `visibility-timeout`.
    pub visibility_timeout_ms: Option<u64>,
    /// How long to wait when there is no message.
    pub wait: Duration,
}

impl Default for LeaseRequest {
    /// Up to 100 messages and 1 MiB, without waiting.
    fn default() -> Self {
        Self {
            max_messages: 100,
            max_bytes: 1 << 20,
            visibility_timeout_ms: None,
            wait: Duration::ZERO,
        }
    }
}

/// What one attempt brought.
enum Attempt {
    Leased(Vec<LeasedMessage>),
    /// Nothing, but messages were given up on, and others may be ready behind them.
    Again,
}

impl Queue {
    /// Leases the next messages: those of the highest priority first, the oldest of them first. Empty
    /// if there were none until `wait` was over.
    ///
    /// That they are delivered is stored before they are returned, so that the count survives
    /// everything. If this future is dropped while that happens they stay leased until the visibility
    /// timeout.
    ///
    /// # Errors
    /// [`Error::Deleted`], [`Error::Storage`], [`Error::Batch`]
    pub async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedMessage>, Error> {
        let timeout = tokio::time::sleep(request.wait);
        tokio::pin!(timeout);
        let mut overtaken = 0;
        loop {
            let changed = self.state.changed.notified();
            tokio::pin!(changed);
            // Registered before the attempt: what becomes ready in between is not missed.
            changed.as_mut().enable();
            match self.try_lease(request).await {
                Err(error) if error.is_overtaken() && overtaken < MAX_ATTEMPTS => {
                    overtaken += 1;
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => return Err(error),
                Ok(Attempt::Again) => continue,
                Ok(Attempt::Leased(messages)) if !messages.is_empty() || request.wait.is_zero() => {
                    return Ok(messages);
                }
                Ok(Attempt::Leased(_)) => {}
            }
            let (indexed_to, next_ms) = {
                let index = self.state.index.lock();
                (index.indexed_to(), index.next_event_ms())
            };
            let until_next = next_ms.map_or(Duration::from_secs(3600), |next_ms| {
                Duration::from_millis(next_ms.saturating_sub(self.now_ms()).max(1))
            });
            tokio::select! {
                () = &mut timeout => return Ok(Vec::new()),
                () = self.partition().wait_beyond(indexed_to) => {}
                () = changed => {}
                () = tokio::time::sleep(until_next) => {}
            }
        }
    }

    async fn try_lease(&self, request: &LeaseRequest) -> Result<Attempt, Error> {
        if self.partition().is_deleted() {
            return Err(Error::Deleted {
                name: self.name().clone(),
            });
        }
        self.catch_up().await?;
        self.drop_expired().await?;
        let config = self.config();
        // A limit counts as long as there is a queue to take what is beyond it.
        let max_deliveries = config
            .effective_max_deliveries()
            .filter(|_| self.dead_letter().is_some());
        let timeout_ms = request
            .visibility_timeout_ms
            .unwrap_or(config.visibility_timeout_ms);
        let now_ms = self.now_ms();
        let deadline_ms = now_ms.saturating_add(timeout_ms);
        let selection = {
            let mut index = self.state.index.lock();
            index.advance(now_ms);
            let max_messages = request.max_messages.min(MAX_LEASED);
            index.lease(max_messages, max_deliveries, deadline_ms)
        };
        if selection.leased.is_empty() && selection.exhausted.is_empty() {
            return Ok(Attempt::Leased(Vec::new()));
        }
        let Selection { leased, exhausted } = selection;
        let (leased, stored) = match self.read_leased(leased, request.max_bytes) {
            Ok(read) => read,
            Err(error) => {
                let mut index = self.state.index.lock();
                for offset in exhausted {
                    index.undo_settle(offset, now_ms);
                }
                return Err(error);
            }
        };
        let mut commit = Commit::new();
        self.deliver_in(&leased, &mut commit);
        self.retire_in(exhausted, Reason::MaxDeliveries, 0, &mut commit)?;
        self.commit(commit).await?;
        if leased.is_empty() {
            return Ok(Attempt::Again);
        }
        let messages = leased.iter().zip(stored);
        let messages = messages
            .map(|(receipt, stored)| LeasedMessage::new(*receipt, deadline_ms, stored))
            .collect();
        Ok(Attempt::Leased(messages))
    }

    /// Reads leased messages, and gives those back that are too many bytes.
    fn read_leased(
        &self,
        mut leased: Vec<Receipt>,
        max_bytes: usize,
    ) -> Result<(Vec<Receipt>, Vec<Stored>), Error> {
        let offsets: Vec<_> = leased.iter().map(|receipt| receipt.offset).collect();
        let stored = self.read_up_to(&offsets, max_bytes);
        let kept = stored.as_ref().map_or(0, Vec::len);
        if kept < leased.len() {
            let now_ms = self.now_ms();
            let mut index = self.state.index.lock();
            // The last first, so that each finds its place in its group at the front.
            for receipt in leased.drain(kept..).rev() {
                index.undo_lease(receipt, now_ms);
            }
            drop(index);
            self.state.changed.notify_waiters();
        }
        Ok((leased, stored?))
    }

    /// Adds to a commit that messages, which are leased, are delivered.
    fn deliver_in(&self, leased: &[Receipt], commit: &mut Commit) {
        if leased.is_empty() {
            return;
        }
        let mut changes = Changes::default();
        for receipt in leased {
            changes.deliver(*receipt, 0);
        }
        changes.add_to(self, commit);
        commit.require_partition(self.partition());
        let (state, clock) = (Arc::clone(&self.state), self.store.clock().clone());
        let leased: Vec<Receipt> = leased.to_vec();
        commit.on_outcome(move |happened| {
            if !happened {
                let mut index = state.index.lock();
                let now_ms = clock.now_ms();
                for receipt in leased.into_iter().rev() {
                    index.undo_lease(receipt, now_ms);
                }
                drop(index);
                state.changed.notify_waiters();
            }
        });
    }

    /// Gives up on messages that have expired.
    pub(super) async fn drop_expired(&self) -> Result<(), Error> {
        loop {
            let now_ms = self.now_ms();
            let expired = {
                let mut index = self.state.index.lock();
                index.advance(now_ms);
                index.take_expired(MAX_RETIRED, now_ms)
            };
            if expired.is_empty() {
                return Ok(());
            }
            let mut commit = Commit::new();
            self.retire_in(expired, Reason::Expired, 0, &mut commit)?;
            self.commit(commit).await?;
        }
    }
}
