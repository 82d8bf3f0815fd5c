//! A recording as bytes: a version, and then its fields in order.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::reads::{KnownRange, RangeEnd, StateReads};
use super::wire::{Reader, Writer};
use super::{
    Allowance, MAX_READINGS, MAX_RECORDING_BYTES, Moment, NotKept, Place, Readings, Recording, Seen,
};
use crate::plugin::headers;

/// The version that is written. Whoever changes what follows takes the next one.
const VERSION: u8 = 1;

const STATE: u64 = 1;
const CLOCKS: u64 = 2;
const RANDOM: u64 = 4;
const HTTP: u64 = 8;

const SEEN: u8 = 0;
const TOO_LARGE: u8 = 1;
const TOO_MANY: u8 = 2;
const NO_INSTANCE: u8 = 3;
const CALLS_SERVICES: u8 = 4;

const OPEN: u8 = 0;
const BEFORE: u8 = 1;
const THROUGH: u8 = 2;

/// Why bytes are no recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are of a version that this program does not know.
    #[error("it is of version {0}, which a later version of Millstream has written")]
    Version(u8),
    /// They are damaged.
    #[error("its {0} is malformed")]
    Malformed(&'static str),
}

impl Recording {
    /// The recording as bytes; without what was seen if that is too much. None if it is too much even so.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![VERSION];
        self.write_call(&mut Writer(&mut bytes));
        let call_bytes = bytes.len();
        match &self.seen {
            Ok(seen) if seen.state.is_too_large() => bytes.push(TOO_LARGE),
            Ok(seen) => {
                bytes.push(SEEN);
                seen.write(&mut Writer(&mut bytes));
            }
            Err(NotKept::TooLarge) => bytes.push(TOO_LARGE),
            Err(NotKept::TooMany) => bytes.push(TOO_MANY),
            Err(NotKept::NoInstance) => bytes.push(NO_INSTANCE),
            Err(NotKept::CallsServices) => bytes.push(CALLS_SERVICES),
        }
        if bytes.len() > MAX_RECORDING_BYTES {
            bytes.truncate(call_bytes);
            bytes.push(TOO_LARGE);
        }
        (bytes.len() <= MAX_RECORDING_BYTES).then_some(bytes)
    }

    /// Reads what [`Recording::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader(bytes);
        match reader.byte() {
            Some(VERSION) => {}
            Some(version) => return Err(DecodeError::Version(version)),
            None => return Err(DecodeError::Malformed("version")),
        }
        let malformed = DecodeError::Malformed;
        let read = Self {
            partition: reader.number32().ok_or(malformed("partition"))?,
            inputs: texts(&mut reader).ok_or(malformed("list of inputs"))?,
            ports: texts(&mut reader).ok_or(malformed("list of ports"))?,
            config: config(&mut reader).ok_or(malformed("configuration"))?,
            allowance: Allowance::read(&mut reader).ok_or(malformed("limits"))?,
            place: Place::read(&mut reader).ok_or(malformed("place of the record"))?,
            moment: Moment::read(&mut reader).ok_or(malformed("time and seed"))?,
            seen: match reader.byte() {
                Some(SEEN) => Ok(Seen::read(&mut reader)?),
                Some(TOO_LARGE) => Err(NotKept::TooLarge),
                Some(TOO_MANY) => Err(NotKept::TooMany),
                Some(NO_INSTANCE) => Err(NotKept::NoInstance),
                Some(CALLS_SERVICES) => Err(NotKept::CallsServices),
                _ => return Err(malformed("mark of what was seen")),
            },
        };
        match reader.0.is_empty() {
            true => Ok(read),
            false => Err(malformed("end")),
        }
    }

    /// Everything but what was seen.
    fn write_call(&self, writer: &mut Writer<'_>) {
        writer.number(self.partition.into());
        for names in [&self.inputs, &self.ports] {
            writer.number(names.len() as u64);
            for name in names {
                writer.bytes(name.as_bytes());
            }
        }
        writer.number(self.config.len() as u64);
        for (key, value) in &self.config {
            writer.bytes(key.as_bytes());
            writer.bytes(value.as_bytes());
        }
        self.allowance.write(writer);
        self.place.write(writer);
        writer.number(self.moment.wall_ns);
        writer.number(self.moment.monotonic_ns);
        writer.0.extend_from_slice(&self.moment.seed);
    }
}

fn texts(reader: &mut Reader<'_>) -> Option<Vec<String>> {
    (0..reader.count()?).map(|_| reader.text()).collect()
}

fn config(reader: &mut Reader<'_>) -> Option<Vec<(String, String)>> {
    (0..reader.count()?)
        .map(|_| Some((reader.text()?, reader.text()?)))
        .collect()
}

impl Allowance {
    fn write(&self, writer: &mut Writer<'_>) {
        let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
        writer.number(
            flag(self.state, STATE)
                | flag(self.clocks, CLOCKS)
                | flag(self.random, RANDOM)
                | flag(self.http, HTTP),
        );
        for number in [
            self.memory_bytes,
            self.deadline_ns,
            self.output_bytes,
            self.output_records,
            self.state_bytes,
        ] {
            writer.number(number);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let flags = reader.number()?;
        if flags > STATE | CLOCKS | RANDOM | HTTP {
            return None;
        }
        Some(Self {
            state: flags & STATE != 0,
            clocks: flags & CLOCKS != 0,
            random: flags & RANDOM != 0,
            http: flags & HTTP != 0,
            memory_bytes: reader.number()?,
            deadline_ns: reader.number()?,
            output_bytes: reader.number()?,
            output_records: reader.number()?,
            state_bytes: reader.number()?,
        })
    }
}

impl Place {
    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(self.input.into());
        writer.number(self.partition.into());
        writer.number(self.offset);
        writer.number(self.delivery_count.into());
        writer.optional(self.headers.as_deref());
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            input: reader.number32()?,
            partition: reader.number32()?,
            offset: reader.number()?,
            delivery_count: reader.number32()?,
            headers: match reader.optional()? {
                Some(encoded) => {
                    headers::validate(encoded).ok()?;
                    Some(encoded.to_vec())
                }
                None => None,
            },
        })
    }
}

impl Moment {
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            wall_ns: reader.number()?,
            monotonic_ns: reader.number()?,
            seed: reader.array()?,
        })
    }
}

impl Seen {
    fn write(&self, writer: &mut Writer<'_>) {
        writer.ascending(&self.readings.wall_ns);
        writer.ascending(&self.readings.monotonic_ns);
        self.state.write(writer);
        writer.number(self.other_outcome.is_some().into());
        if let Some((word, text)) = &self.other_outcome {
            writer.bytes(word.as_bytes());
            writer.bytes(text.as_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let malformed = DecodeError::Malformed;
        let readings = Readings {
            wall_ns: reader.ascending().ok_or(malformed("clock"))?,
            monotonic_ns: reader.ascending().ok_or(malformed("clock"))?,
        };
        if readings.len() > MAX_READINGS {
            return Err(malformed("clock"));
        }
        let state = StateReads::read(reader).ok_or(malformed("state"))?;
        let outcome = malformed("outcome");
        let other_outcome = match reader.byte().ok_or(outcome)? {
            0 => None,
            1 => {
                let word = reader.text().ok_or(outcome)?;
                Some((word, reader.text().ok_or(outcome)?))
            }
            _ => return Err(outcome),
        };
        Ok(Self {
            readings,
            state,
            other_outcome,
        })
    }
}

impl StateReads {
    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(self.values.len() as u64);
        for (key, value) in &self.values {
            writer.bytes(key);
            writer.optional(value.as_deref());
        }
        writer.number(self.ranges.len() as u64);
        for KnownRange { from, end } in &self.ranges {
            writer.bytes(from);
            let (kind, key) = match end {
                RangeEnd::Open => (OPEN, None),
                RangeEnd::Before(key) => (BEFORE, Some(key)),
                RangeEnd::Through(key) => (THROUGH, Some(key)),
            };
            writer.0.push(kind);
            if let Some(key) = key {
                writer.bytes(key);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let owned = Bytes::copy_from_slice;
        let mut values = BTreeMap::new();
        for _ in 0..reader.count()? {
            let key = owned(reader.bytes()?);
            // Each key once, in order: there is one way only to say the same.
            if values
                .last_key_value()
                .is_some_and(|(last, _)| *last >= key)
            {
                return None;
            }
            values.insert(key, reader.optional()?.map(owned));
        }
        let mut ranges = Vec::new();
        for _ in 0..reader.count()? {
            let from = owned(reader.bytes()?);
            let end = match reader.byte()? {
                OPEN => RangeEnd::Open,
                BEFORE => RangeEnd::Before(owned(reader.bytes()?)),
                THROUGH => RangeEnd::Through(owned(reader.bytes()?)),
                _ => return None,
            };
            ranges.push(KnownRange { from, end });
        }
        Some(Self::from_parts(values, ranges))
    }
}

/// Decodes arbitrary bytes and, if they are a recording, writes it again and asks it things: for fuzzing.
#[doc(hidden)]
pub fn check_arbitrary(bytes: &[u8]) {
    let Ok(recording) = Recording::decode(bytes) else {
        return;
    };
    if let Ok(seen) = &recording.seen {
        for (key, value) in &seen.state.values {
            assert_eq!(seen.state.value(key).as_ref(), Some(value));
        }
        let (all, _) = seen.state.range(b"", None, usize::MAX, usize::MAX);
        assert_eq!(all.len(), seen.state.key_counts().1);
    }
    if let Some(again) = recording.encode() {
        let decoded = Recording::decode(&again);
        assert!(decoded.is_ok(), "{decoded:?}");
    }
}
