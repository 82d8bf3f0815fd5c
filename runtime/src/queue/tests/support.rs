//! What the tests of queues share: a data directory with its queues, messages, short forms.

use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::model::{Header, QueueName, Record};
use crate::queue::{
    Enqueued, Error, LeaseRequest, LeasedMessage, Queue, QueueConfig, Queues, Receipt,
};
pub(super) use crate::storage::tests::support::{START_MS, TestStore, block_on, cases};

/// Longer than anything takes that happens at all.
const SOON: Duration = Duration::from_secs(20);

/// A data directory with a manual clock and its queues.
pub(super) struct Fixture {
    pub(super) clock: Clock,
    queues: Option<Queues>,
    pub(super) directory: TestStore,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::of(TestStore::new())
    }

    pub(super) fn of(directory: TestStore) -> Self {
        let mut fixture = Self {
            clock: directory.clock.clone(),
            queues: None,
            directory,
        };
        fixture.reopen();
        fixture
    }

    pub(super) fn queues(&self) -> &Queues {
        self.queues.as_ref().unwrap()
    }

    /// What somebody gets who waits for a message that becomes ready after that time, and not before.
    pub(super) async fn woken<T: Send + 'static>(
        &self,
        queue: &Queue,
        after_ms: u64,
        waiting: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let waiting = tokio::spawn(waiting);
        // It waits from here on.
        tokio::task::yield_now().await;
        assert!(!queue.has_ready().unwrap());
        self.clock.advance_ms(after_ms);
        let woken = tokio::time::timeout(SOON, waiting).await;
        woken.expect("it is woken").unwrap()
    }

    /// Closes and opens the data directory; fails if a queue is still around.
    pub(super) fn reopen(&mut self) {
        self.queues = None;
        self.directory.reopen();
        self.queues = Some(Queues::open(self.directory.store().clone()).unwrap());
    }

    pub(super) fn create(&self, queue: &str, config: QueueConfig) -> Queue {
        block_on(self.queues().create_queue(&name(queue), config)).unwrap()
    }

    /// A queue named `q` with the default settings.
    pub(super) fn queue(&self) -> Queue {
        self.create("q", QueueConfig::default())
    }

    pub(super) fn find(&self, queue: &str) -> Queue {
        self.queues().queue(&name(queue)).unwrap()
    }
}

pub(super) fn name(name: &str) -> QueueName {
    name.parse().unwrap()
}

/// A message with headers, dated [`START_MS`].
pub(super) fn message(value: &str, headers: &[(&str, &str)]) -> Record {
    let header = |(name, value): &(&str, &str)| {
        Header::new(*name, Some(Bytes::copy_from_slice(value.as_bytes())))
    };
    Record {
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: headers.iter().map(header).collect(),
        timestamp_ms: START_MS,
    }
}

/// Enqueues messages without headers.
pub(super) fn enqueue(queue: &Queue, values: &[&str]) -> Enqueued {
    let messages: Vec<_> = values.iter().map(|value| message(value, &[])).collect();
    block_on(queue.enqueue(&messages)).unwrap()
}

/// Enqueues one message.
pub(super) fn enqueue_with(
    queue: &Queue,
    value: &str,
    headers: &[(&str, &str)],
) -> Result<Enqueued, Error> {
    block_on(queue.enqueue(&[message(value, headers)]))
}

pub(super) fn lease(queue: &Queue, max_messages: usize) -> Vec<LeasedMessage> {
    let request = LeaseRequest {
        max_messages,
        ..LeaseRequest::default()
    };
    block_on(queue.lease(&request)).unwrap()
}

pub(super) fn value(message: &LeasedMessage) -> String {
    let record = message.record().unwrap();
    String::from_utf8(record.value.unwrap().to_vec()).unwrap()
}

/// Leases messages; their values and delivery counts.
pub(super) fn leased(queue: &Queue, max_messages: usize) -> Vec<(String, u32)> {
    let messages = lease(queue, max_messages);
    messages
        .iter()
        .map(|message| (value(message), message.delivery_count()))
        .collect()
}

/// Leases messages; their values.
pub(super) fn values(queue: &Queue, max_messages: usize) -> Vec<String> {
    let messages = leased(queue, max_messages);
    messages.into_iter().map(|(value, _)| value).collect()
}

pub(super) fn receipts(messages: &[LeasedMessage]) -> Vec<Receipt> {
    messages.iter().map(LeasedMessage::receipt).collect()
}

/// Acknowledges messages, all of which count.
pub(super) fn acknowledge(queue: &Queue, messages: &[LeasedMessage]) {
    let settled = block_on(queue.acknowledge(&receipts(messages))).unwrap();
    assert_eq!(settled.stale, []);
}

/// Waiting, delayed and leased messages.
pub(super) fn counts(queue: &Queue) -> (u64, u64, u64) {
    let described = block_on(queue.describe()).unwrap();
    (
        described.waiting_count,
        described.delayed_count,
        described.leased_count,
    )
}

/// Leases and acknowledges until nothing is there; the values.
pub(super) fn drain(queue: &Queue) -> Vec<String> {
    let mut values = Vec::new();
    loop {
        let messages = lease(queue, 10);
        if messages.is_empty() {
            return values;
        }
        acknowledge(queue, &messages);
        values.extend(messages.iter().map(value));
    }
}

/// The text of a header of a leased message.
pub(super) fn header(message: &LeasedMessage, name: &str) -> Option<String> {
    let record = message.record().unwrap();
    let mut headers = record.headers.iter();
    let (_, value) = headers.find(|(known, _)| *known == name)?;
    Some(String::from_utf8(value.unwrap().to_vec()).unwrap())
}
