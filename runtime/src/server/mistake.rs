//! What is wrong with a line of input.

use std::fmt;

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// In which column (in bytes, the first is 1), if that is known.
    column: Option<usize>,
    /// What was expected, and what was found.
    message: String,
}

impl Mistake {
    /// A mistake of the line as a whole.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            column: None,
            message: message.into(),
        }
    }

    /// A mistake in a column.
    pub(crate) fn at(column: usize, message: impl Into<String>) -> Self {
        Self {
            column: Some(column),
            message: message.into(),
        }
    }

    /// What the JSON parser found.
    pub(crate) fn of_json(error: &serde_json::Error, expected: &str) -> Self {
        let text = error.to_string();
        // The parser sees a single line and names it; which one of the file it is, its reader knows.
        let reason = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(reason, _)| reason);
        // A field that is missing or of a wrong type is told in full; a syntax error is not.
        let is_data = error.classify() == serde_json::error::Category::Data;
        let message = match (is_data, reason) {
            (true, _) => reason.to_owned(),
            (false, "expected ident") => format!("expected {expected}: invalid literal"),
            (false, _) => format!("expected {expected}: {reason}"),
        };
        Self {
            column: (error.column() > 0).then(|| error.column()),
            message,
        }
    }
}

impl fmt::Display for Mistake {
    /// `12: what` or ` what`, to follow the line's number and a colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "{column}: {}", self.message),
            None => write!(f, " {}", self.message),
        }
    }
}
