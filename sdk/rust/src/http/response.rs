//! A response.

use std::str::Utf8Error;

use super::date;
use crate::failure::{Failure, Reject, Retry};

/// How much of a response's body its failure quotes, in bytes.
const MAX_QUOTED_BYTES: usize = 200;

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Response {
    /// A response, for handlers of [`Harness::http`](crate::testing).
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// The response with one more header, for handlers of [`Harness::http`](crate::testing).
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The status: 200, 404 and the like.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status says that all is well: 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of that name, in whatever case, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// All headers.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let headers = self.headers.iter();
        headers.map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body, taken out.
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// The body as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.body)
    }

    /// The response if all is well (2xx), else what is to be done with the record.
    ///
    /// # Errors
    /// Another attempt for what may go better later (5xx, 408, 425, 429), when `Retry-After` says if
    /// it does; a rejection for everything else. The reason quotes the start of the body.
    pub fn success(self) -> Result<Self, Failure> {
        if self.is_success() {
            return Ok(self);
        }
        let reason = self.reason();
        Err(match self.status {
            408 | 425 | 429 | 500..=599 => match self.retry_after_ms() {
                Some(delay_ms) => Retry::after_ms(delay_ms, reason),
                None => Retry::new(reason),
            },
            _ => Reject::new(reason),
        })
    }

    fn reason(&self) -> String {
        let quoted = &self.body[..self.body.len().min(MAX_QUOTED_BYTES)];
        let quoted = String::from_utf8_lossy(quoted);
        match quoted.trim() {
            "" => format!("the service answered {}", self.status),
            text => format!("the service answered {}: {text}", self.status),
        }
    }

    /// What `Retry-After` says: seconds, or a date, which the response's own `Date` is held against.
    fn retry_after_ms(&self) -> Option<u32> {
        let text = self.header("retry-after")?.trim();
        let seconds = match text.parse::<u64>() {
            Ok(seconds) => seconds,
            Err(_) => {
                let now = date::parse(self.header("date")?)?;
                date::parse(text)?.saturating_sub(now)
            }
        };
        Some(u32::try_from(seconds.saturating_mul(1000)).unwrap_or(u32::MAX))
    }
}

/// The first header of a name, in whatever case, if it is text.
pub(super) fn find<'a>(headers: &'a [(String, Vec<u8>)], name: &str) -> Option<&'a str> {
    let mut named = headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    named
        .next()
        .and_then(|(_, value)| std::str::from_utf8(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::FailureKind;

    fn failure(response: Response) -> (FailureKind, String) {
        let failure = response.success().unwrap_err();
        (failure.kind(), failure.reason().to_owned())
    }

    #[test]
    fn a_status_says_what_becomes_of_the_record() {
        assert!(Response::new(204, "").success().is_ok());
        for status in [408, 425, 429, 500, 503, 599] {
            let (kind, reason) = failure(Response::new(status, " busy\n"));
            assert!(matches!(kind, FailureKind::Retry(None)), "{status}");
            assert_eq!(reason, format!("the service answered {status}: busy"));
        }
        for status in [302, 400, 404, 409, 600] {
            let (kind, reason) = failure(Response::new(status, ""));
            assert!(matches!(kind, FailureKind::Reject), "{status}");
            assert_eq!(reason, format!("the service answered {status}"));
        }
    }

    #[test]
    fn retry_after_is_kept() {
        let after = |retry_after: &str| {
            let response = Response::new(503, "")
                .with_header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .with_header("retry-AFTER", retry_after);
            match failure(response).0 {
                FailureKind::Retry(delay_ms) => delay_ms,
                FailureKind::Reject => panic!("rejected"),
            }
        };
        assert_eq!(after("120"), Some(120_000));
        assert_eq!(after("0"), Some(0));
        assert_eq!(after("99999999999"), Some(u32::MAX));
        assert_eq!(after("Sun, 06 Nov 1994 08:50:07 GMT"), Some(30_000));
        assert_eq!(after("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(after("soon"), None);
    }
}
