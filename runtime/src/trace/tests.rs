use std::time::SystemTime;

use super::*;

fn options(endpoint: &str) -> TraceOptions {
    TraceOptions {
        endpoint: endpoint.to_owned(),
        service_name: "test".to_owned(),
        sampler: Sampler::default(),
    }
}

fn span(tracer: &Tracer) -> FinishedSpan {
    FinishedSpan {
        context: tracer.root().unwrap(),
        parent: None,
        state: None,
        kind: SpanKind::Consumer,
        name: "process".into(),
        began: SystemTime::now(),
        ended: SystemTime::now(),
        attributes: Vec::new(),
        links: Vec::new(),
        dropped_links: 0,
        error: None,
    }
}

#[test]
fn what_is_no_url_is_refused() {
    let refused = Tracer::new(&options("localhost:4318")).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("such as http://localhost:4318")
    );
}

#[test]
fn a_collector_that_is_not_there_costs_spans_and_no_time() {
    // Nobody is given this port, and nothing listens there.
    let tracer = Tracer::new(&options("http://127.0.0.1:1/")).unwrap();
    for _ in 0..3 {
        tracer.export(span(&tracer));
    }
    assert!(tracer.queue.flush(Duration::from_secs(30)));
    let counts = tracer.queue.counts();
    assert_eq!((counts.exported, counts.dropped), (0, 3));
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    // Takes connections, and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let tracer = Tracer::new(&options(&format!("http://{address}"))).unwrap();
    let began = std::time::Instant::now();
    for _ in 0..20_000 {
        tracer.export(span(&tracer));
    }
    assert!(tracer.queue.counts().dropped > 10_000);
    assert!(!tracer.queue.flush(Duration::from_millis(100)));
    assert!(began.elapsed() < Duration::from_secs(9), "it has waited");
}
