//! A record whose effects are known from itself.
//!
//! A value is `NUMBER WORD WORD`, one word for each pipeline that the record passes, and then a proof by each
//! pipeline that it has passed. The word of the pipeline whose turn it is says what becomes of the record:
//!
//! | word | |
//! |---|---|
//! | `fine` | processed and sent on, with a proof, to every port |
//! | `retry-N`, `trap-N` | asks N times for another attempt, or panics N times, and then is as `fine` |
//! | `poison-trap`, `poison-loop`, `poison-memory` | panics; loops forever; allocates without end |
//! | `reject` | is rejected |
//!
//! A proof is `PARTITION/OFFSET:COUNT:HASH:VERSION:DELIVERY`: where the record was, how many of its key the
//! state has with it, a hash of their numbers in order, who says so, and the delivery count.

use millstream_sdk::prelude::*;

/// Fields of a value before the proofs.
const FIELDS_BEFORE_PROOFS: usize = 3;

/// A record, taken apart.
pub(crate) struct Entry<'a> {
    text: &'a str,
    pub(crate) number: u64,
    word: &'a str,
}

impl<'a> Entry<'a> {
    pub(crate) fn of(record: Record<'a>) -> Result<Self, Failure> {
        let text = record.value_str().or_reject("the value is not text")?;
        let fields: Vec<&str> = text.split(' ').collect();
        let passed = fields.len().checked_sub(FIELDS_BEFORE_PROOFS);
        let word = passed.and_then(|passed| fields.get(1 + passed));
        Ok(Self {
            text,
            number: fields[0].parse()?,
            word: word.or_reject("no word for this pipeline")?,
        })
    }

    /// Fails if the word says so.
    pub(crate) fn obey(&self, record: Record<'_>) -> Result<(), Failure> {
        let delivery = record.delivery_count();
        match self.word {
            "fine" => return Ok(()),
            "reject" => return Err(Reject::new("the record says so")),
            "poison-trap" => panic!("the record says so"),
            "poison-loop" => loop_forever(record),
            "poison-memory" => allocate_without_end(),
            _ => {}
        }
        let (how, failures) = self.word.split_once('-').or_reject("not a word")?;
        if delivery > failures.parse::<u32>()? {
            return Ok(());
        }
        match how {
            "trap" => panic!("delivery {delivery} is too early"),
            _ => Err(Retry::new(format!("delivery {delivery} is too early"))),
        }
    }

    /// Sends the record on to every port, with a proof of this count and this hash.
    pub(crate) fn send(
        &self,
        version: &str,
        record: Record<'_>,
        (count, hash): (u64, u64),
        out: &mut Outputs,
    ) {
        let (text, delivery) = (self.text, record.delivery_count());
        let (partition, offset) = (record.partition(), record.offset());
        let value = format!("{text} {partition}/{offset}:{count}:{hash:016x}:{version}:{delivery}");
        for port in context::ports() {
            out.to(&port).emit(&value);
        }
    }
}

fn loop_forever(record: Record<'_>) -> ! {
    loop {
        // Something the compiler cannot leave out.
        std::hint::black_box(record.offset());
    }
}

fn allocate_without_end() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
    }
}
