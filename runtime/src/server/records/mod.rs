//! `/v1/topics/{topic}/records`: produce and fetch records, and follow a topic as server-sent events.

mod fetch;
mod follow;
mod position;
mod produce;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::State;

pub(crate) use fetch::NEXT_OFFSETS;
pub use position::PlaceView;
pub use produce::ProducedView;

/// One JSON object a line.
pub(super) const JSON_LINES: &str = "application/x-ndjson";

pub(super) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(produce::produce, fetch::fetch))
        .routes(routes!(position::offsets))
        .routes(routes!(follow::follow))
}
