//! What is wrong with a manifest, told so that its author can mend it.
//!
//! A [`Problem`] points at one place in the file and renders as
//!
//! ```text
//! millstream.toml:4:1: error: unknown key `partition` in `[topics.flights]`
//!   4 | partition = 4
//!     | ^^^^^^^^^
//! help: did you mean `partitions`?
//! ```
//!
//! An [`Error`] holds every problem found, in the order of the file.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The longest part of a source line that is shown, in characters.
const MAX_SHOWN_CHARS: usize = 160;
/// Characters shown before the marked place when a line has to be cut.
const SHOWN_BEFORE_CHARS: usize = 60;

/// Why a manifest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{path}: error: cannot read the manifest: {source}{}", Help(help.as_deref()))]
    Read {
        /// The path as it was given.
        path: PathBuf,
        /// The reason the operating system gave.
        source: std::io::Error,
        /// What to do about it, if that is clear.
        help: Option<String>,
    },
    /// The file is larger than a manifest may be.
    #[error("{path}: error: the manifest is larger than {max_bytes} bytes")]
    TooLarge {
        /// The path as it was given.
        path: PathBuf,
        /// The largest size allowed, in bytes.
        max_bytes: u64,
    },
    /// The manifest was read and is wrong; never empty, in the order of the file.
    #[error("{}", Joined(.0))]
    Invalid(Vec<Problem>),
}

impl Error {
    /// The problems found in the text; empty when the file could not be read at all.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid(problems) => problems,
            Self::Read { .. } | Self::TooLarge { .. } => &[],
        }
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

/// A place in a manifest, with the line it is on, so that a later check can point at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Line, the first being 1.
    pub line: usize,
    /// Column in characters, the first being 1.
    pub column: usize,
    /// The line's text as it is shown: cut when very long.
    shown: String,
    /// Characters of `shown` before the mark.
    mark_start: usize,
    /// Width of the mark in characters, at least 1.
    mark_width: usize,
}

/// One thing that is wrong in a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    path: PathBuf,
    place: Place,
    message: String,
    help: Option<String>,
}

impl Problem {
    /// A problem at a place; `message` says what was expected and what was found.
    pub fn new(path: &Path, place: &Place, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            place: place.clone(),
            message: message.into(),
            help: None,
        }
    }

    /// Adds what the author can do about it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What was expected and what was found, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the author can do about it.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { line, column, .. } = self.place;
        write!(
            f,
            "{}:{line}:{column}: error: {}",
            self.path.display(),
            self.message
        )?;
        let number = line.to_string();
        let gutter = number.len();
        write!(f, "\n  {number} | {}", self.place.shown)?;
        write!(f, "\n  {:gutter$} | ", "")?;
        // Tabs are kept, so that the mark stands under the text however wide a tab is shown.
        for c in self.place.shown.chars().take(self.place.mark_start) {
            f.write_str(if c == '\t' { "\t" } else { " " })?;
        }
        f.write_str(&"^".repeat(self.place.mark_width))?;
        write!(f, "{}", Help(self.help.as_deref()))
    }
}

/// A help line after the text it belongs to, or nothing.
struct Help<'a>(Option<&'a str>);

impl fmt::Display for Help<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(help) => write!(f, "\nhelp: {help}"),
            None => Ok(()),
        }
    }
}

/// Problems with an empty line between them.
struct Joined<'a>(&'a [Problem]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// Collects problems while a manifest is read, turning byte ranges into places.
pub(super) struct Report<'a> {
    path: &'a Path,
    text: &'a str,
    /// Where the lines begin, in bytes: a place is looked up for much of what a manifest names.
    line_starts: Vec<usize>,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        let behind_ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            path,
            text,
            line_starts: std::iter::once(0).chain(behind_ends).collect(),
            problems: Vec::new(),
        }
    }

    /// Notes a problem at a byte range of the text: what is wrong, and what to do about it.
    pub(super) fn error(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let place = self.place(&span);
        let problem = Problem::new(self.path, &place, message).with_help(help);
        self.problems.push(problem);
    }

    /// The place of a byte range of the text.
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        place(self.text, &self.line_starts, span)
    }

    /// `Ok` if there was no problem, else all of them.
    pub(super) fn finish(self) -> Result<(), Error> {
        if self.problems.is_empty() {
            Ok(())
        } else {
            Err(self.into_error())
        }
    }

    /// All problems in the order of the file. There has to be one.
    pub(super) fn into_error(mut self) -> Error {
        // Stable: of two problems at one place the one found first comes first.
        self.problems
            .sort_by_key(|problem| (problem.place.line, problem.place.column));
        Error::Invalid(self.problems)
    }
}

/// Finds line and column of a byte range. A range that is outside the text or splits a character is
/// moved back to the nearest one that is not.
fn place(text: &str, line_starts: &[usize], span: &Range<usize>) -> Place {
    let start = text.floor_char_boundary(span.start);
    let end = text.floor_char_boundary(span.end).max(start);
    let line = line_starts.partition_point(|line_start| *line_start <= start);
    let line_start = line_starts.get(line.saturating_sub(1)).map_or(0, |at| *at);
    let line_end = line_starts.get(line).map_or(text.len(), |at| at - 1);
    let source_line = text.get(line_start..line_end).unwrap_or_default();
    let column_chars = text
        .get(line_start..start)
        .map_or(0, |prefix| prefix.chars().count());
    let width_chars = text
        .get(start..end.min(line_end).max(start))
        .map_or(0, |marked| marked.trim_end().chars().count());

    let line_chars = source_line.chars().count();
    let skipped = if line_chars > MAX_SHOWN_CHARS {
        column_chars.saturating_sub(SHOWN_BEFORE_CHARS)
    } else {
        0
    };
    let shown: String = source_line
        .trim_end()
        .chars()
        .skip(skipped)
        .take(MAX_SHOWN_CHARS)
        // A stray control character must not reach the terminal.
        .map(|c| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect();
    let mark_start = column_chars - skipped;
    Place {
        line,
        column: column_chars + 1,
        shown,
        mark_start,
        mark_width: width_chars.clamp(1, MAX_SHOWN_CHARS.saturating_sub(mark_start).max(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, span: Range<usize>) -> String {
        let mut report = Report::new(Path::new("m.toml"), text);
        report.error(span, "wrong", "mend it");
        report.finish().unwrap_err().to_string()
    }

    #[test]
    fn points_at_the_marked_text() {
        assert_eq!(
            rendered("a = 1\n\tbé = 22\r\nc = 3\n", 13..15),
            "m.toml:2:7: error: wrong\n  2 | \tbé = 22\n    | \t     ^^\nhelp: mend it"
        );
    }

    #[test]
    fn the_end_of_the_text_and_ranges_outside_it_are_fine() {
        assert_eq!(
            rendered("", 0..0),
            "m.toml:1:1: error: wrong\n  1 | \n    | ^\nhelp: mend it"
        );
        assert!(rendered("a\n", 50..60).starts_with("m.toml:2:1:"));
        // In the middle of a two-byte character.
        assert!(rendered("é", 1..1).starts_with("m.toml:1:1:"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("a = \"{}\"", "x".repeat(1000));
        let shown = rendered(&text, 500..1000);
        assert!(shown.lines().all(|line| line.chars().count() <= 170));
        assert!(shown.starts_with("m.toml:1:501:"));
    }

    #[test]
    fn control_characters_are_not_shown() {
        assert!(!rendered("a = \u{1b}[31m", 0..1).contains('\u{1b}'));
    }

    #[test]
    fn problems_come_in_the_order_of_the_file() {
        let mut report = Report::new(Path::new("m.toml"), "a\nb\n");
        report.error(2..3, "second", "mend it");
        report.error(0..1, "first", "mend it");
        let error = report.finish().unwrap_err();
        let messages: Vec<_> = error.problems().iter().map(Problem::message).collect();
        assert_eq!(messages, ["first", "second"]);
    }
}
