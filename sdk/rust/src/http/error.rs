//! Why there is no response.

use std::fmt::{self, Display};

use crate::failure::{Failure, Reject, Retry};

/// Why a call has no whole response. With `?` it becomes a [`Failure`]: another attempt, but for what no
/// attempt can help ([`ErrorKind::Denied`], [`ErrorKind::Invalid`]), which rejects the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The manifest's `allow.http` does not list the host.
    Denied,
    /// The request is none: a URL, a method or a header that is wrong, a body that is too large.
    Invalid,
    /// The service, or the way there, took too long.
    Timeout,
    /// There is no connection to the service: its name, its address, its certificate.
    Connect,
    /// The connection broke, or the response is none.
    Broken,
    /// The response is larger than one may be.
    TooLarge,
}

impl Error {
    /// An error, for handlers of [`Harness::http`](crate::testing).
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, message }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(super) fn context(mut self, context: &str) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// No `std::error::Error`: those reject.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind {
            ErrorKind::Denied | ErrorKind::Invalid => Reject::new(error),
            _ => Retry::new(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::FailureKind;

    #[test]
    fn what_may_go_better_is_tried_again() {
        fn call(kind: ErrorKind) -> Result<(), Failure> {
            Err(Error::new(kind, "no"))?
        }
        for kind in [ErrorKind::Timeout, ErrorKind::Connect, ErrorKind::Broken] {
            let failure = call(kind).unwrap_err();
            assert!(matches!(failure.kind(), FailureKind::Retry(None)));
        }
        for kind in [ErrorKind::Denied, ErrorKind::Invalid] {
            let failure = call(kind).unwrap_err();
            assert!(matches!(failure.kind(), FailureKind::Reject));
        }
    }
}
