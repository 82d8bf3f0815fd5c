//! The clients: one thread a connection.

use std::io::Read as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use ureq::Agent;

use super::{LatencyRecorder, NEXT_OFFSETS};
use crate::bench::synthetic::Records;

/// The topic that is written and read.
pub(super) const TOPIC: &str = "events";
/// Requests that differ; they are sent over and over.
const DIFFERENT_BODIES: u64 = 64;

/// What is sent: bodies of JSON lines, made before anything is measured.
pub(super) struct Batches {
    bodies: Vec<Vec<u8>>,
    records_a_body: u64,
    bodies_a_connection: u64,
    connections: u32,
}

impl Batches {
    /// As many records as are asked for, rounded up so that every connection sends the same.
    pub(super) fn new(
        records: u64,
        records_a_body: u64,
        value_bytes: usize,
        connections: u32,
    ) -> Self {
        let mut source = Records::new(value_bytes, 1);
        let bodies = (0..DIFFERENT_BODIES).map(|_| {
            let mut body = Vec::new();
            for _ in 0..records_a_body {
                let (key, value) = source.next();
                // Keys and values are letters, digits and dashes.
                for part in [b"{\"key\":\"", key, b"\",\"value\":\"", value, b"\"}\n"] {
                    body.extend_from_slice(part);
                }
            }
            body
        });
        Self {
            bodies: bodies.collect(),
            records_a_body,
            bodies_a_connection: records.div_ceil(records_a_body * u64::from(connections)),
            connections,
        }
    }

    /// Records of a round.
    pub(super) fn record_count(&self) -> u64 {
        self.records_a_connection() * u64::from(self.connections)
    }

    /// Records of one connection.
    pub(super) fn records_a_connection(&self) -> u64 {
        self.bodies_a_connection * self.records_a_body
    }

    /// Records of a request.
    pub(super) fn records_a_body(&self) -> u64 {
        self.records_a_body
    }

    /// One of the bodies.
    pub(super) fn body(&self, number: u64) -> &[u8] {
        let at = number as usize % self.bodies.len().max(1);
        self.bodies.get(at).map_or(&[], Vec::as_slice)
    }
}

/// What the clients of a round have done together.
pub(super) struct Round {
    /// Records that were acknowledged, or received.
    pub(super) records: u64,
    took: Duration,
    /// Of the requests.
    pub(super) latencies: LatencyRecorder,
}

impl Round {
    pub(super) fn records_per_s(&self) -> f64 {
        self.records as f64 / self.took.as_secs_f64()
    }
}

#[derive(Deserialize)]
struct Produced {
    acknowledged: u64,
}

/// Sends everything.
pub(super) fn produce(url: &str, batches: &Batches) -> anyhow::Result<Round> {
    let url = format!("{url}/v1/topics/{TOPIC}/records");
    at_once(batches, |agent, connection, latencies| {
        let mut acknowledged = 0;
        for number in 0..batches.bodies_a_connection {
            let body = batches.body(u64::from(connection) + number);
            let start = Instant::now();
            let mut response = agent
                .post(&url)
                .content_type("application/x-ndjson")
                .send(body)
                .with_context(|| format!("cannot produce to {url}"))?;
            let answer = response.body_mut().read_to_vec()?;
            latencies.record(start.elapsed());
            acknowledged += serde_json::from_slice::<Produced>(&answer)?.acknowledged;
        }
        Ok(acknowledged)
    })
}

/// Reads everything, each connection the partition that has its number. The partitions have different numbers
/// of records, as their keys go, so that some end before others.
pub(super) fn consume(url: &str, batches: &Batches) -> anyhow::Result<Round> {
    at_once(batches, |agent, connection, latencies| {
        let (mut received, mut at) = (0, format!("{connection}:0"));
        let mut lines = Vec::new();
        loop {
            let most = batches.records_a_body();
            let url = format!(
                "{url}/v1/topics/{TOPIC}/records?offsets={at}&max_records={most}&max_bytes=16777216"
            );
            let start = Instant::now();
            let mut response = agent
                .get(&url)
                .call()
                .with_context(|| format!("cannot consume from {url}"))?;
            lines.clear();
            response.body_mut().as_reader().read_to_end(&mut lines)?;
            latencies.record(start.elapsed());
            let next = response.headers().get(NEXT_OFFSETS);
            let Some(next) = next.and_then(|value| value.to_str().ok()) else {
                bail!("an answer does not say where to go on");
            };
            next.clone_into(&mut at);
            if lines.is_empty() {
                return Ok(received);
            }
            ensure!(lines.ends_with(b"\n"), "an answer ends within a line");
            received += memchr::memchr_iter(b'\n', &lines).count() as u64;
        }
    })
}

/// Runs a client for each connection, and adds up what they return.
fn at_once(
    batches: &Batches,
    client: impl Fn(&Agent, u32, &mut LatencyRecorder) -> anyhow::Result<u64> + Sync,
) -> anyhow::Result<Round> {
    let start = Instant::now();
    let clients = thread::scope(|scope| {
        let threads: Vec<_> = (0..batches.connections)
            .map(|connection| {
                let client = &client;
                scope.spawn(move || {
                    let mut latencies = LatencyRecorder::new()?;
                    let agent = Agent::config_builder().proxy(None).build().new_agent();
                    let records = client(&agent, connection, &mut latencies)?;
                    anyhow::Ok((records, latencies))
                })
            })
            .collect();
        let clients = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => bail!("a client panicked"),
        });
        clients.collect::<anyhow::Result<Vec<_>>>()
    })?;
    let took = start.elapsed();
    let mut round = Round {
        records: 0,
        took,
        latencies: LatencyRecorder::new()?,
    };
    for (records, latencies) in clients {
        round.records += records;
        round.latencies.add(&latencies)?;
    }
    Ok(round)
}
