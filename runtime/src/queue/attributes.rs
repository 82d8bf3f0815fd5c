//! What a queue understands of a message: headers with fixed names.
//!
//! Whoever enqueues sets them, a plugin too. The relative ones are replaced by absolute ones when a
//! message is enqueued, since they count from then and not from the record's timestamp. All values
//! are text; numbers are decimal.

use std::hash::{BuildHasher, Hasher};

use sha2::{Digest, Sha256};

use super::letter::REASON;
use super::{Error, GroupBy, QueueConfig};
use crate::model::{HeadersBuf, HeadersRef, RecordRef};

/// The priority, `0` to `9`; 9 is delivered first.
pub const PRIORITY: &str = "millstream-priority";
/// The FIFO group, 1 to 128 bytes.
pub const GROUP: &str = "millstream-group";
/// How long the message waits before its first delivery, in ms; stored as [`NOT_BEFORE`].
pub const DELAY: &str = "millstream-delay";
/// The time before which the message is not delivered, in ms since the epoch.
pub const NOT_BEFORE: &str = "millstream-not-before";
/// How long the message is of use, in ms; stored as [`EXPIRES_AT`].
pub const TIME_TO_LIVE: &str = "millstream-time-to-live";
/// The time from which the message is of no use, in ms since the epoch.
pub const EXPIRES_AT: &str = "millstream-expires-at";
/// Within the queue's window, one message with this id is enqueued and others are ignored; 1 to 128
/// bytes.
pub const DEDUPLICATION_ID: &str = "millstream-deduplication-id";

/// What the names of all headers that mean something to Millstream start with.
const PREFIX: &str = "millstream-";
/// The highest priority.
pub(super) const MAX_PRIORITY: u8 = 9;
/// SQS's limit for groups and deduplication ids.
const MAX_ID_BYTES: usize = 128;

const EXPECTED_PRIORITY: &str = "a digit from 0 to 9";
const EXPECTED_ID: &str = "1 to 128 bytes";
const EXPECTED_MS: &str = "a number of ms";

/// The attributes of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// The priority, if the message says one.
    pub priority: Option<u8>,
    /// The FIFO group.
    pub group: Option<&'a [u8]>,
    /// How long the message is to wait, in ms from when it is enqueued.
    pub delay_ms: Option<u64>,
    /// When the message may be delivered, in ms since the epoch.
    pub not_before_ms: Option<u64>,
    /// How long the message is of use, in ms from when it is enqueued.
    pub time_to_live_ms: Option<u64>,
    /// When the message expires, in ms since the epoch.
    pub expires_at_ms: Option<u64>,
    /// The deduplication id.
    pub deduplication_id: Option<&'a [u8]>,
    /// Whether the message is a dead letter.
    pub is_dead_letter: bool,
}

impl<'a> Attributes<'a> {
    /// Reads the attributes among the headers of a message. Of several of one name, the last counts.
    ///
    /// # Errors
    /// [`Error::Attribute`]
    pub fn parse(headers: HeadersRef<'a>) -> Result<Self, Error> {
        let mut attributes = Self::default();
        for (name, value) in headers {
            if name.starts_with(PREFIX) {
                attributes.read(name, value.unwrap_or_default())?;
            }
        }
        Ok(attributes)
    }

    /// As [`parse`](Self::parse) of what is stored, where a bad value counts as none.
    pub(super) fn parse_stored(headers: HeadersRef<'a>) -> Self {
        let mut attributes = Self::default();
        for (name, value) in headers {
            if name.starts_with(PREFIX) {
                let _ = attributes.read(name, value.unwrap_or_default());
            }
        }
        attributes
    }

    fn read(&mut self, name: &str, value: &'a [u8]) -> Result<(), Error> {
        match name {
            PRIORITY => self.priority = Some(priority(value)?),
            GROUP => self.group = Some(id(GROUP, value)?),
            DELAY => self.delay_ms = Some(ms(DELAY, value)?),
            NOT_BEFORE => self.not_before_ms = Some(ms(NOT_BEFORE, value)?),
            TIME_TO_LIVE => self.time_to_live_ms = Some(ms(TIME_TO_LIVE, value)?),
            EXPIRES_AT => self.expires_at_ms = Some(ms(EXPIRES_AT, value)?),
            DEDUPLICATION_ID => self.deduplication_id = Some(id(DEDUPLICATION_ID, value)?),
            REASON => self.is_dead_letter = true,
            _ => {}
        }
        Ok(())
    }

    /// What counts of them when somebody enqueues the message who may have kept it meanwhile. A dead letter has the id and
    /// the times of queues that it was in: others may have had the same id there, and its time may be over.
    pub(super) fn of_kept(self) -> Self {
        match self.is_dead_letter {
            false => self,
            true => Self {
                deduplication_id: None,
                not_before_ms: None,
                expires_at_ms: None,
                ..self
            },
        }
    }

    /// What is to be stored instead of the relative ones, under the queue's settings:
    /// not before, expires at.
    pub(super) fn resolve(&self, config: &QueueConfig, now_ms: u64) -> (Option<u64>, Option<u64>) {
        let after = |ms: u64| now_ms.saturating_add(ms);
        let delayed = self.delay_ms.map(after).or(self.not_before_ms);
        let default_delay = (config.delay_ms > 0).then(|| after(config.delay_ms));
        let expires = self.time_to_live_ms.map(after).or(self.expires_at_ms);
        (
            delayed.or(default_delay),
            expires.or(config.time_to_live_ms.map(after)),
        )
    }
}

/// Whether headers say any of the times that a message is stored with.
pub(super) fn has_times(headers: HeadersRef<'_>) -> bool {
    headers.iter().any(|(name, _)| is_time(name))
}

/// Whether this header tells something of a message that counts only in the queue that it is in: its deduplication id and
/// its times. What is made of the message does not take it over.
pub fn stays(header: &str) -> bool {
    header == DEDUPLICATION_ID || is_time(header)
}

fn is_time(header: &str) -> bool {
    matches!(header, DELAY | NOT_BEFORE | TIME_TO_LIVE | EXPIRES_AT)
}

/// Copies headers, with the times that a message is stored with instead of those that it came with.
pub(super) fn with_times(
    headers: HeadersRef<'_>,
    times: (Option<u64>, Option<u64>),
    into: &mut HeadersBuf,
) -> Result<(), Error> {
    into.clear();
    for (name, value) in headers {
        if !is_time(name) {
            into.push(name, value)?;
        }
    }
    for (name, at_ms) in [(NOT_BEFORE, times.0), (EXPIRES_AT, times.1)] {
        if let Some(at_ms) = at_ms {
            into.push(name, Some(at_ms.to_string().as_bytes()))?;
        }
    }
    Ok(())
}

/// What the index needs of a stored message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) priority: u8,
    /// A hash of the group; 0 = none.
    pub(super) group: u64,
    /// 0 = at once.
    pub(super) not_before_ms: u64,
    /// `u64::MAX` = never.
    pub(super) expires_at_ms: u64,
}

impl Placement {
    /// Of a message without attributes.
    pub(super) fn plain(config: &QueueConfig) -> Self {
        Self {
            priority: config.default_priority.min(MAX_PRIORITY),
            group: 0,
            not_before_ms: 0,
            expires_at_ms: u64::MAX,
        }
    }

    pub(super) fn of(
        record: &RecordRef<'_>,
        config: &QueueConfig,
        hasher: &impl BuildHasher,
    ) -> Self {
        let plain = Self::plain(config);
        let attributes = Attributes::parse_stored(record.headers);
        let key = record.key.filter(|_| config.groups == GroupBy::Key);
        Self {
            priority: attributes.priority.unwrap_or(plain.priority),
            group: attributes
                .group
                .or(key)
                .map_or(0, |group| group_hash(group, hasher)),
            not_before_ms: attributes.not_before_ms.unwrap_or(0),
            expires_at_ms: attributes.expires_at_ms.unwrap_or(u64::MAX),
        }
    }
}

/// Groups are told apart by a hash with a random key, so that nobody can make two collide; should it
/// happen all the same, the two wait for each other and nothing else.
fn group_hash(group: &[u8], hasher: &impl BuildHasher) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write(group);
    hasher.finish().max(1)
}

/// The hash under which a deduplication id is stored.
pub(super) fn deduplication_hash(id: &[u8]) -> u128 {
    let digest = Sha256::digest(id);
    digest
        .iter()
        .take(16)
        .fold(0, |hash, byte| hash << 8 | u128::from(*byte))
}

fn priority(value: &[u8]) -> Result<u8, Error> {
    match value {
        [digit @ b'0'..=b'9'] => Ok(digit - b'0'),
        _ => Err(invalid(PRIORITY, value, EXPECTED_PRIORITY)),
    }
}

fn id<'a>(header: &'static str, value: &'a [u8]) -> Result<&'a [u8], Error> {
    if value.is_empty() || value.len() > MAX_ID_BYTES {
        return Err(invalid(header, value, EXPECTED_ID));
    }
    Ok(value)
}

fn ms(header: &'static str, value: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(value).ok();
    text.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid(header, value, EXPECTED_MS))
}

fn invalid(header: &'static str, value: &[u8], expected: &'static str) -> Error {
    let shown = value.get(..MAX_ID_BYTES).unwrap_or(value);
    Error::Attribute {
        header,
        value: String::from_utf8_lossy(shown).into_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(of: &[(&str, &str)]) -> HeadersBuf {
        let mut headers = HeadersBuf::new();
        for (name, value) in of {
            headers.push(name, Some(value.as_bytes())).unwrap();
        }
        headers
    }

    #[test]
    fn reads_what_it_knows_and_leaves_the_rest() {
        let all = headers(&[
            ("other", "1"),
            (PRIORITY, "9"),
            (GROUP, "customer-7"),
            (DELAY, "1500"),
            (TIME_TO_LIVE, "60000"),
            (DEDUPLICATION_ID, "order-1"),
            ("millstream-origin", "x"),
        ]);
        let attributes = Attributes::parse(all.as_headers()).unwrap();
        assert_eq!(attributes.priority, Some(9));
        assert_eq!(attributes.group, Some(&b"customer-7"[..]));
        assert_eq!(attributes.deduplication_id, Some(&b"order-1"[..]));
        let times = attributes.resolve(&QueueConfig::default(), 1_000);
        assert_eq!(times, (Some(2_500), Some(61_000)));
        let mut stored = HeadersBuf::new();
        with_times(all.as_headers(), times, &mut stored).unwrap();
        let names: Vec<_> = stored.as_headers().iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "other",
                PRIORITY,
                GROUP,
                DEDUPLICATION_ID,
                "millstream-origin",
                NOT_BEFORE,
                EXPIRES_AT
            ]
        );
        let stored = Attributes::parse(stored.as_headers()).unwrap();
        assert_eq!(stored.not_before_ms, Some(2_500));
        assert_eq!(stored.expires_at_ms, Some(61_000));
    }

    #[test]
    fn bad_values_are_errors() {
        let long = "x".repeat(129);
        for (name, value, expected) in [
            (PRIORITY, "10", EXPECTED_PRIORITY),
            (PRIORITY, "", EXPECTED_PRIORITY),
            (GROUP, "", EXPECTED_ID),
            (DEDUPLICATION_ID, long.as_str(), EXPECTED_ID),
            (DELAY, "5s", EXPECTED_MS),
            (NOT_BEFORE, "-1", EXPECTED_MS),
            (NOT_BEFORE, "+1", EXPECTED_MS),
            (TIME_TO_LIVE, "", EXPECTED_MS),
            (EXPIRES_AT, "99999999999999999999", EXPECTED_MS),
        ] {
            let bad = headers(&[(name, value)]);
            let error = Attributes::parse(bad.as_headers()).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(
                Attributes::parse_stored(bad.as_headers()),
                Attributes::default()
            );
        }
    }

    #[test]
    fn the_queues_settings_are_defaults() {
        let config = QueueConfig {
            delay_ms: 10,
            time_to_live_ms: Some(20),
            ..QueueConfig::default()
        };
        assert_eq!(
            Attributes::default().resolve(&config, 100),
            (Some(110), Some(120))
        );
        let own = Attributes {
            delay_ms: Some(0),
            expires_at_ms: Some(105),
            ..Attributes::default()
        };
        assert_eq!(own.resolve(&config, 100), (Some(100), Some(105)));
    }
}
