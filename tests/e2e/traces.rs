//! Traces: what comes in with a trace goes on in it, from pipeline to pipeline.

use std::collections::HashSet;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use serde_json::json;

use crate::server::Server;
use crate::support::collector::{Collector, attribute, hex, trace_parent};
use crate::support::{Consumed, Sandbox, records};

const MANIFEST: &str = r#"
name = "traced"

[topics.in]
partitions = 1

[topics.between]
partitions = 1

[topics.out]
partitions = 1

[plugins.first]
path = "{passthrough}"

[plugins.second]
path = "{testing-traps}"

[pipelines.first]
from = "topic:in"
plugin = "first"
to = "topic:between"

[pipelines.second]
from = "topic:between"
plugin = "second"
to = "topic:out"
retry = { max-attempts = 1 }
"#;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

fn wire() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.manifest(MANIFEST);
    sandbox
}

fn header(record: &Consumed, name: &str) -> Option<String> {
    let mut named = record.headers.iter().filter(|(known, _)| known == name);
    let found = named.next();
    assert!(named.next().is_none(), "{name} is there twice");
    match found?.1.as_ref().unwrap() {
        records::Value::Text(text) => Some(text.clone()),
        records::Value::Bytes { base64 } => panic!("{base64}"),
    }
}

#[track_caller]
fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let named: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(named.len(), 1, "{name}: {spans:#?}");
    named.first().unwrap()
}

/// Runs the manifest to its end, with traces; others than those of the records are not exported.
fn run(sandbox: &Sandbox, collector: &Collector) {
    let mut command = sandbox.command(&["run", "millstream.toml", "--until-idle"]);
    command
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .env("OTEL_SERVICE_NAME", "flights")
        .env("OTEL_TRACES_SAMPLER", "parentbased_always_off");
    sandbox.start_command(command).wait().expect_code(0);
}

/// Writes records with these `traceparent`s into the first topic.
fn produce(sandbox: &Sandbox, parents: &[Option<&str>]) {
    let lines = parents.iter().enumerate().map(|(at, parent)| {
        let headers = parent.iter().map(|parent| json!(["traceparent", parent]));
        let headers: Vec<_> = headers.collect();
        json!({"key": at.to_string(), "value": "v", "headers": headers}).to_string()
    });
    let file = sandbox.write_lines("records.jsonl", lines);
    sandbox.produce_records("in", &file);
}

#[test]
fn a_trace_goes_from_the_request_through_both_pipelines() {
    let (sandbox, collector) = (wire(), Collector::start());
    let server = Server::start(&sandbox, &["--otlp-endpoint", &collector.url()]);
    sandbox.succeed(&["apply", "millstream.toml"]);
    let parent = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "vendor=1")];
    server
        .send_with("/v1/topics/in/records", &headers, "{\"value\":\"v\"}")
        .expect(200);
    server
        .get("/v1/topics/out/records?wait_ms=30000")
        .expect(200);
    server.stop();

    assert_eq!(collector.resource("service.name").unwrap(), "millstream");
    let spans = collector.spans();
    let (request, first, second) = (
        one(&spans, "POST /v1/topics/{topic}/records"),
        one(&spans, "process in"),
        one(&spans, "process between"),
    );
    for (span, parent_id) in [
        (request, CLIENT_SPAN),
        (first, &hex(&request.span_id)),
        (second, &hex(&first.span_id)),
    ] {
        assert_eq!(hex(&span.trace_id), TRACE, "{span:#?}");
        assert_eq!(hex(&span.parent_span_id), parent_id, "{span:#?}");
        assert_eq!(span.trace_state, "vendor=1");
        assert!(span.links.is_empty());
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    }
    assert_eq!(request.kind(), SpanKind::Server);
    assert_eq!(
        attribute(request, "http.response.status_code").unwrap(),
        "200"
    );
    assert_eq!(first.kind(), SpanKind::Consumer);
    for (name, value) in [
        ("messaging.system", "millstream"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "in"),
        ("messaging.destination.partition.id", "0"),
        ("messaging.consumer.group.name", "first"),
        ("messaging.batch.message_count", "1"),
        ("millstream.plugin", "first"),
    ] {
        assert_eq!(attribute(first, name).as_deref(), Some(value), "{name}");
    }
    let out = sandbox.consume("out");
    let parent = header(out.first().unwrap(), "traceparent").unwrap();
    assert_eq!(parent, format!("{}-01", trace_parent(second)));
    assert_eq!(
        header(out.first().unwrap(), "tracestate").unwrap(),
        "vendor=1"
    );
}

#[test]
fn a_batch_of_several_traces_links_to_them_and_each_goes_on() {
    let (sandbox, collector) = (wire(), Collector::start());
    let trace = |digit: &str, flags: &str| format!("00-{}-{CLIENT_SPAN}-{flags}", digit.repeat(32));
    let (a, b, silent) = (trace("a", "01"), trace("b", "01"), trace("c", "00"));
    produce(
        &sandbox,
        &[Some(&a), Some(&b), None, Some(&silent), Some(&a)],
    );
    run(&sandbox, &collector);

    assert_eq!(collector.resource("service.name").unwrap(), "flights");
    let spans = collector.spans();
    let first: Vec<&Span> = spans.iter().filter(|it| it.name == "process in").collect();
    // The call's own, and as it appears in the two traces, under the same id.
    assert_eq!(first.len(), 3, "{first:#?}");
    let own = first
        .iter()
        .find(|span| span.parent_span_id.is_empty())
        .unwrap();
    assert!(first.iter().all(|span| span.span_id == own.span_id));
    let linked: Vec<_> = own.links.iter().map(|link| hex(&link.trace_id)).collect();
    assert_eq!(linked, ["a".repeat(32), "b".repeat(32), "a".repeat(32)]);
    assert_eq!(
        attribute(own, "messaging.batch.message_count").unwrap(),
        "5"
    );
    for (digit, records) in [("a", "2"), ("b", "1")] {
        let of_trace = |span: &&&Span| hex(&span.trace_id) == digit.repeat(32);
        let span = first.iter().find(of_trace).unwrap();
        assert_eq!(hex(&span.parent_span_id), CLIENT_SPAN);
        let count = attribute(span, "messaging.batch.message_count");
        assert_eq!(count.as_deref(), Some(records));
        let links = span.links.iter().map(|link| &link.trace_id);
        assert!(links.eq([&own.trace_id]));
    }
    // The second pipeline continues each of them from the first one's span.
    let second = spans.iter().filter(|it| it.name == "process between");
    let continued = second.filter(|span| span.parent_span_id == own.span_id);
    assert_eq!(continued.count(), 2);

    let out = sandbox.consume("out");
    let parents: Vec<_> = out.iter().map(|it| header(it, "traceparent")).collect();
    let trace_of = |at: usize| parents[at].as_deref().map(|it| it[3..35].to_owned());
    assert_eq!(trace_of(0), Some("a".repeat(32)));
    assert_eq!(trace_of(1), Some("b".repeat(32)));
    assert_ne!(parents[0].as_deref(), Some(a.as_str()));
    assert_eq!(parents[0], parents[4]);
    // Nobody traces these.
    assert_eq!(
        (parents[2].as_deref(), parents[3].as_deref()),
        (None, Some(silent.as_str()))
    );
}

#[test]
fn links_are_bounded_and_what_is_left_out_is_counted() {
    let (sandbox, collector) = (wire(), Collector::start());
    let parents: Vec<String> = (1..=200)
        .map(|at| format!("00-{at:032x}-{at:016x}-01"))
        .collect();
    let parents: Vec<_> = parents.iter().map(|parent| Some(parent.as_str())).collect();
    produce(&sandbox, &parents);
    run(&sandbox, &collector);
    let spans = collector.spans();
    let roots = spans.iter().filter(|it| it.parent_span_id.is_empty());
    let roots: Vec<_> = roots.filter(|it| it.name == "process in").collect();
    let linked: usize = roots.iter().map(|it| it.links.len()).sum();
    let dropped: u32 = roots.iter().map(|it| it.dropped_links_count).sum();
    assert!(roots.iter().all(|it| it.links.len() <= 128));
    assert_eq!(linked + dropped as usize, 200, "{} calls", roots.len());
    assert!(dropped > 0);
    let appearances = spans.iter().filter(|it| it.name == "process in").count() - roots.len();
    assert!(
        appearances <= 16 * roots.len(),
        "{appearances} in {} calls",
        roots.len()
    );
    // Whatever trace an output belongs to, the span that it names is there.
    let names: HashSet<String> = spans.iter().map(trace_parent).collect();
    let out = sandbox.consume("out");
    let named = out
        .iter()
        .map(|record| header(record, "traceparent").unwrap());
    let known = named.filter(|parent| names.contains(&parent[..52]));
    assert_eq!(known.count(), 200);
}

#[test]
fn a_call_that_faults_says_why() {
    let (sandbox, collector) = (wire(), Collector::start());
    let parent = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    let record = json!({"value": "poison", "headers": [["traceparent", parent]]});
    let file = sandbox.write_lines("records.jsonl", [record.to_string()]);
    sandbox.produce_records("in", &file);
    run(&sandbox, &collector);
    let spans = collector.spans();
    let failed = one(&spans, "process between");
    assert_eq!(attribute(failed, "error.type").unwrap(), "trap");
    let Some(Status { code, message }) = &failed.status else {
        panic!("{failed:#?}");
    };
    assert_eq!(*code, StatusCode::Error as i32);
    assert!(message.contains("a poisoned record"), "{message}");
}

#[test]
fn without_an_endpoint_nothing_is_traced_and_headers_stay_as_they_are() {
    let (sandbox, collector) = (wire(), Collector::start());
    let parent = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    produce(&sandbox, &[Some(&parent), None]);
    sandbox.run_until_idle();
    let out = sandbox.consume("out");
    let parents: Vec<_> = out.iter().map(|it| header(it, "traceparent")).collect();
    assert_eq!(parents, [Some(parent), None]);
    assert!(collector.spans().is_empty());
}

#[test]
fn settings_that_are_wrong_are_named() {
    let sandbox = wire();
    sandbox
        .run(&[
            "run",
            "millstream.toml",
            "--otlp-endpoint",
            "localhost:4318",
        ])
        .expect_failure()
        .expect_error(&["such as http://localhost:4318"]);
    let mut command = sandbox.command(&["serve", "--otlp-endpoint", "http://localhost:4318"]);
    command.env("OTEL_TRACES_SAMPLER", "sometimes");
    sandbox
        .start_command(command)
        .wait()
        .expect_failure()
        .expect_error(&["OTEL_TRACES_SAMPLER is `sometimes`"]);
}
