//! Turns the lines of an input into records of a topic or messages of a queue.

use std::time::{Duration, Instant};

use serde::de::IgnoredAny;

use super::sink::{self, Sink};
use super::{LineFormat, ProduceArgs};
use crate::cli::exit::Ending;
use crate::cli::input::{Chunk, Input};
use crate::cli::interrupt::Interrupt;
use crate::cli::json_line::{Selection, shorten};
use crate::cli::progress::{self, Progress};
use crate::clock::Clock;
use crate::model::{HeadersBuf, HeadersRef};
use crate::server::json_record::JsonRecord;
use crate::server::mistake::Mistake;

/// How long records wait for more of them before they are sent.
const LINGER: Duration = Duration::from_millis(5);

/// Turns lines into records.
pub(super) struct Import {
    pub(super) sink: Sink,
    clock: Clock,
    format: LineFormat,
    selection: Selection,
    allow_null_key: bool,
    repartition: bool,
    headers: HeadersBuf,
    /// Lines read, the one in hand included.
    line: u64,
    /// Records of the input to pass over still.
    to_skip: u64,
    /// Whether any was passed over.
    has_skipped: bool,
    /// Records to hand to the sink at most.
    max: u64,
    /// Records handed to the sink.
    sent: u64,
    /// Acknowledged records that have been shown.
    shown: u64,
}

impl Import {
    /// An import into a topic or a queue.
    pub(super) fn new(sink: Sink, clock: Clock, args: &ProduceArgs) -> Self {
        Self {
            sink,
            clock,
            format: args.format,
            selection: Selection {
                key: args.key_field.clone(),
                timestamp: args.timestamp_field.clone(),
                attributes: args.message.fields(),
            },
            allow_null_key: args.allow_null_key,
            repartition: args.repartition,
            headers: HeadersBuf::new(),
            line: 0,
            to_skip: args.skip,
            has_skipped: false,
            max: args.max.unwrap_or(u64::MAX),
            sent: 0,
            shown: 0,
        }
    }

    /// Sends all lines of an input.
    pub(super) async fn copy(
        &mut self,
        input: &mut Input,
        bar: &mut Progress,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Ending> {
        let started = Instant::now();
        loop {
            let acknowledged = self.sink.acknowledged();
            let next = tokio::select! {
                biased;
                () = interrupt.requested() => return Ok(Ending::Interrupted),
                next = input.next() => next,
                // Whoever writes to our standard input waits for an acknowledgement.
                () = tokio::time::sleep(LINGER), if input.is_live() && acknowledged + self.sink.left_out() < self.sent => {
                    self.sink.flush().await?;
                    continue;
                }
                () = bar.due(), if self.shown < acknowledged => {
                    self.show(input, bar, started);
                    continue;
                }
            };
            if self.sent >= self.max {
                return Ok(Ending::Done);
            }
            let chunk = match next {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Ending::Done),
                Err(error) => {
                    let (name, line) = (input.name(), self.line + 1);
                    anyhow::bail!("{name}:{line}: cannot read the input: {error}");
                }
            };
            self.send(&chunk, input.name()).await?;
            input.recycle(chunk);
            if bar.is_due() {
                self.show(input, bar, started);
            }
        }
    }

    fn show(&mut self, input: &Input, bar: &mut Progress, started: Instant) {
        let acknowledged = self.sink.acknowledged();
        let elapsed = started.elapsed();
        let text = match bar.is_drawn() {
            true => format!(
                "{} acknowledged, {}",
                indicatif::HumanCount(acknowledged),
                progress::rate(acknowledged, elapsed)
            ),
            // Without separators: scripts read this.
            false => format!(
                "acknowledged {acknowledged} records, {} records/s",
                progress::per_second(acknowledged, elapsed)
            ),
        };
        bar.show(input.read_bytes(), None, text);
        self.shown = acknowledged;
    }

    async fn send(&mut self, chunk: &Chunk, name: &str) -> anyhow::Result<()> {
        let now_ms = self.clock.now_ms();
        for line in chunk.lines() {
            self.line += 1;
            let is_record = self.format == LineFormat::Lines || !line.trim_ascii().is_empty();
            if is_record && self.to_skip > 0 {
                self.to_skip -= 1;
                self.has_skipped = true;
                continue;
            }
            if self.sent >= self.max {
                return Ok(());
            }
            if let Err(refusal) = self.send_line(line, now_ms).await {
                return Err(self.error(refusal, name, line));
            }
        }
        Ok(())
    }

    /// Why the line in hand could not be sent, with its place.
    fn error(&self, refusal: Refusal, name: &str, text: &[u8]) -> anyhow::Error {
        let line = self.line;
        match refusal {
            Refusal::Line(mistake) => {
                let stored = match self.sent {
                    0 => "nothing is stored",
                    _ => "the lines before it are acknowledged, nothing from it on is stored",
                };
                let found = self.what_is_no_json(text).unwrap_or_default();
                anyhow::anyhow!("{name}:{line}:{mistake}{found}; {stored}")
            }
            // Writing failed: no line is to blame.
            Refusal::Sink(error) if error.is_storage() => error.into(),
            Refusal::Sink(error) => anyhow::anyhow!("{name}:{line}: {error}"),
        }
    }

    /// What stands in a line that is no JSON, and what to do if that is so from the first line on.
    fn what_is_no_json(&self, line: &[u8]) -> Option<String> {
        serde_json::from_slice::<IgnoredAny>(line).err()?;
        let found = printable(&shorten(&String::from_utf8_lossy(line)));
        let mut text = format!("; found `{found}`, which is no JSON");
        if self.sent == 0 && !self.has_skipped {
            text.push_str("; lines of anything are stored as they are with `--format lines`");
            if self.selection != Selection::default() {
                text.push_str(", without the options that name fields");
            }
        }
        Some(text)
    }

    async fn send_line(&mut self, line: &[u8], now_ms: u64) -> Result<(), Refusal> {
        let is_blank = || line.trim_ascii().is_empty();
        match self.format {
            LineFormat::Lines => {
                let none = HeadersRef::EMPTY;
                self.sink.send(None, now_ms, None, Some(line), none).await?;
            }
            _ if is_blank() => return Ok(()),
            LineFormat::Json => {
                let fields = self.selection.read(line)?;
                let key = self.selection.key(&fields, self.allow_null_key)?;
                let key = key.as_ref().map(|key| key.as_bytes());
                let timestamp_ms = self.selection.timestamp_ms(&fields)?.unwrap_or(now_ms);
                self.headers.clear();
                for (header, value) in self.selection.attributes(&fields)? {
                    let pushed = self.headers.push(header, Some(value.as_bytes()));
                    pushed.map_err(|error| Mistake::new(error.to_string()))?;
                }
                let headers = self.headers.as_headers();
                self.sink
                    .send(None, timestamp_ms, key, Some(line), headers)
                    .await?;
            }
            LineFormat::Record => {
                let record = JsonRecord::read(line)?;
                record.encode_headers(&mut self.headers)?;
                let partition = record.partition.filter(|_| !self.repartition);
                let timestamp_ms = record.timestamp.unwrap_or(now_ms);
                let headers = self.headers.as_headers();
                self.sink
                    .send(
                        partition,
                        timestamp_ms,
                        record.key(),
                        record.value(),
                        headers,
                    )
                    .await?;
            }
        }
        self.sent += 1;
        Ok(())
    }
}

/// A text without what a terminal would obey instead of showing it. Quotes stay as they are: most lines have some.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    printable
}

/// Why a line could not be sent.
enum Refusal {
    /// It is not what a line must be.
    Line(Mistake),
    /// The record is not what its target takes, or writing failed.
    Sink(sink::Error),
}

impl From<Mistake> for Refusal {
    fn from(mistake: Mistake) -> Self {
        Self::Line(mistake)
    }
}

impl From<sink::Error> for Refusal {
    fn from(error: sink::Error) -> Self {
        Self::Sink(error)
    }
}
