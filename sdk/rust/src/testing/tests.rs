use super::*;
use crate::columns::FailureKind;
use crate::prelude::{Reject, context, log, metrics};

struct Settings {
    factor: u64,
}

impl Consumer for Settings {
    fn open(config: &Config) -> Result<Self, Failure> {
        log::info("opened");
        Ok(Self {
            factor: config.require("factor")?,
        })
    }

    fn process(
        &mut self,
        record: Record<'_>,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        metrics::add("records", 1);
        metrics::gauge("last", record.index().into());
        metrics::record_value("size", record.value().len() as u64);
        let sum = state.add("sum", self.factor);
        out.emit(format!("{sum} {}", context::idempotency_key(record)));
        Ok(())
    }
}

#[test]
fn config_state_metrics_logs_and_context() {
    let mut harness = Harness::new()
        .config("factor", 3)
        .partition(7)
        .consumer::<Settings>()
        .unwrap();
    let outcome = harness.process([Input::value("abc"), Input::value("")]);
    assert_eq!(outcome.values(), ["3 test/input/7/0", "6 test/input/7/1"]);
    harness.restart().unwrap();
    assert_eq!(
        harness.process([Input::value("")]).values(),
        ["9 test/input/7/2"]
    );
    assert_eq!(harness.counter("records"), 3);
    assert_eq!(harness.gauge("last"), Some(0.0));
    assert_eq!(harness.recorded_values("size"), [3, 0, 0]);
    let lines: Vec<_> = harness
        .logs()
        .iter()
        .map(|line| line.message.as_str())
        .collect();
    assert_eq!(lines, ["opened", "opened"]);
}

#[test]
fn a_plugin_that_does_not_open() {
    let error = Harness::new().consumer::<Settings>().err();
    assert_eq!(error.as_deref(), Some("config `factor` is missing"));
}

#[test]
fn delivery_counts_and_inputs() {
    let mut harness = Harness::new()
        .inputs(["a", "b"])
        .consumer_fn(|record, out, _| {
            out.emit(format!(
                "{} {}",
                context::inputs()[record.input() as usize],
                record.delivery_count()
            ));
            Ok(())
        });
    let records = [
        Input::value("").input(1),
        Input::value("").input(1).delivery_count(4),
    ];
    assert_eq!(harness.process(records).values(), ["b 1", "b 4"]);
}

struct Numbers;

impl Producer for Numbers {
    fn open(_: &Config) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn produce(
        &mut self,
        max_records: u32,
        out: &mut Outputs,
        state: &mut State,
    ) -> Result<(), Failure> {
        for _ in 0..max_records {
            match state.add("n", 1) {
                8 => return Err(Reject::new("enough")),
                number => out.message().key("k").value(number.to_string()).send(),
            }
        }
        Ok(())
    }
}

#[test]
fn a_producer_goes_on_where_it_was() {
    let mut harness = Harness::new().producer::<Numbers>().unwrap();
    assert_eq!(harness.produce(3).unwrap().values(), ["1", "2", "3"]);
    harness.restart().unwrap();
    assert_eq!(harness.produce(2).unwrap().values(), ["4", "5"]);
    assert_eq!(harness.produce(5).unwrap_err(), "enough");
    assert_eq!(harness.produce(1).unwrap().values(), ["6"]);
}

struct Raw;

impl BatchConsumer for Raw {
    fn open(_: &Config) -> Result<Self, Failure> {
        Ok(Self)
    }

    fn process(&mut self, batch: Batch, _: &mut State) -> Result<Output, Failure> {
        let long = batch.records().filter(|record| record.value().len() > 2);
        Ok(Output::forward(&batch, long.map(|record| record.index())))
    }
}

#[test]
fn whole_batches() {
    let mut harness = Harness::new().batch_consumer::<Raw>().unwrap();
    let outcome = harness.process([Input::value("ab"), Input::new("k", "abc")]);
    assert_eq!(outcome.values(), ["abc"]);
    assert_eq!(outcome.outputs[0].key_str(), "k");
}

#[test]
fn services_answer_and_fail() {
    fn call(record: Record<'_>, out: &mut Outputs, _: &mut State) -> Result<(), Failure> {
        let answer = http::post("http://api/v1", record.value())
            .idempotent(record)
            .send()?
            .success()?;
        out.emit(answer.body());
        Ok(())
    }
    let mut answered = 0;
    let mut harness = Harness::new()
        .http(move |request| {
            answered += 1;
            match request.body_bytes() {
                b"slow" => Err(http::Error::new(http::ErrorKind::Timeout, "too slow")),
                b"busy" => Ok(http::Response::new(503, "busy").with_header("Retry-After", "2")),
                b"wrong" => Ok(http::Response::new(422, "")),
                _ => Ok(http::Response::new(200, format!("answer {answered}"))),
            }
        })
        .consumer_fn(call);
    let values = ["a", "slow", "busy", "wrong", "b"];
    let outcome = harness.process(values.map(Input::value));
    assert_eq!(outcome.values(), ["answer 1", "answer 5"]);
    let failures: Vec<_> = outcome
        .failures
        .iter()
        .map(|failure| (failure.kind, failure.reason.as_str()))
        .collect();
    assert!(matches!(
        failures[..],
        [
            (FailureKind::Retry(None), "POST http://api: too slow"),
            (
                FailureKind::Retry(Some(2_000)),
                "the service answered 503: busy"
            ),
            (FailureKind::Reject, "the service answered 422"),
        ]
    ));
    let keys = harness.http_requests().iter();
    let keys: Vec<_> = keys
        .filter_map(|request| request.header_value("idempotency-key"))
        .collect();
    assert_eq!(keys[..2], ["test/input/0/0", "test/input/0/1"]);
}
