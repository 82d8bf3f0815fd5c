//! What each problem means, as `docs/errors.md` says it.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::problem::{Code, Problem};

/// The page.
const PAGE: &str = include_str!("../../../docs/errors.md");

/// The section of a code, without its heading.
pub(super) fn section(code: &str) -> Option<&'static str> {
    let heading = format!("\n## {code}\n");
    let start = PAGE.find(&heading)? + heading.len();
    let rest = PAGE.get(start..)?;
    let end = rest.find("\n## ").unwrap_or(rest.len());
    rest.get(..end).map(str::trim)
}

/// `GET /errors/{code}`
pub(super) async fn show(Path(code): Path<String>) -> Result<Response, Problem> {
    let text = section(&code)
        .ok_or_else(|| Problem::new(Code::UnknownPath, format!("there is no code `{code}`")))?;
    let media_type = [(header::CONTENT_TYPE, "text/markdown; charset=utf-8")];
    Ok((media_type, text).into_response())
}
