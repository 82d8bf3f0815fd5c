//! Counts requests and the time until their answers begin, for `/metrics`.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State as StateOf};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::state::State;

/// Upper bounds of the buckets, in seconds; a long poll takes as long as it was asked to wait.
const BOUNDS_SECONDS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// The route of a path that is none: paths are as many as clients like.
const NO_ROUTE: &str = "none";

/// Methods beside those of the API are as many as clients like, too.
const OTHER_METHOD: &str = "other";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

/// What was asked for, by route.
#[derive(Clone, Debug)]
pub(super) struct RequestMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BOUNDS_SECONDS)),
        }
    }
}

impl RequestMetrics {
    fn note(&self, method: &Method, route: Option<String>, status: StatusCode, taken: Duration) {
        let method = known(method);
        let route = route.unwrap_or_else(|| NO_ROUTE.to_owned());
        let of_route = RouteLabels {
            method,
            route: route.clone(),
        };
        let seconds = self.seconds.get_or_create(&of_route);
        seconds.observe(taken.as_secs_f64());
        // It holds the family's lock.
        drop(seconds);
        let labels = RequestLabels {
            method,
            route,
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> std::fmt::Result {
        let counts = encoder.encode_descriptor(
            "millstream_http_requests",
            "Requests that were answered",
            None,
            <Family<RequestLabels, Counter>>::TYPE,
        )?;
        self.requests.encode(counts)?;
        let seconds = encoder.encode_descriptor(
            "millstream_http_request_seconds",
            "Time until the answer to a request begins",
            None,
            <Family<RouteLabels, Histogram>>::TYPE,
        )?;
        self.seconds.encode(seconds)
    }
}

fn known(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let mut known = known.into_iter();
    known
        .find(|it| *it == method.as_str())
        .unwrap_or(OTHER_METHOD)
}

/// Counts a request: among those under way, which a server that goes down waits for, and then among those that were
/// answered.
pub(super) async fn count(
    StateOf(state): StateOf<State>,
    request: Request,
    next: Next,
) -> Response {
    let _under_way = state.request_started();
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>();
    let route = path.map(|path| path.as_str().to_owned());
    let began = Instant::now();
    let answer = next.run(request).await;
    state
        .request_metrics
        .note(&method, route, answer.status(), began.elapsed());
    answer
}
