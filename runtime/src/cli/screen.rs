//! The whole terminal, for a table that changes: its other screen, which leaves what was on the first one, and what has
//! scrolled off it, as they were.

use std::io;

use rustix::termios::tcgetwinsize;

use super::output::{Error, Format, Output, Table};

const ENTER: &[u8] = b"\x1b[?1049h";
const LEAVE: &[u8] = b"\x1b[?1049l";
/// Goes to the first line, and clears what is on the screen from there on.
const CLEAR: &str = "\x1b[H\x1b[J";

/// The other screen of a terminal, until this is dropped. In a pipe, and for JSON, there is none: everything is written one
/// after the other.
pub(super) struct Screen<'a> {
    output: &'a mut Output,
    is_entered: bool,
}

impl<'a> Screen<'a> {
    /// Goes to the other screen.
    pub(super) fn enter(output: &'a mut Output) -> Result<Self, Error> {
        let is_entered = output.is_terminal() && output.format() == Format::Table;
        let screen = Self { output, is_entered };
        if is_entered {
            screen.output.write(ENTER)?;
        }
        Ok(screen)
    }

    /// Shows a table in the place of the one before; or a sentence if it is empty. `row` is what one of its rows is.
    pub(super) fn show(&mut self, table: &Table, empty: &str, row: &str) -> Result<(), Error> {
        if !self.is_entered {
            self.output.table_or(table, empty)?;
        } else if table.is_empty() {
            self.output.write(frame(&[empty.to_owned()]).as_bytes())?;
        } else {
            let lines = fit(table, height(), row);
            self.output.write(frame(&lines).as_bytes())?;
        }
        self.output.flush()
    }

    /// What is written beside tables.
    pub(super) fn output(&mut self) -> &mut Output {
        self.output
    }

    /// Goes back to the first screen: what is shown from now on stays there.
    pub(super) fn leave(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_entered) {
            self.output.write(LEAVE)?;
            self.output.flush()?;
        }
        Ok(())
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // The terminal is gone if this fails.
        let _ = self.leave();
    }
}

/// Lines of the terminal; as many as there may be if it does not say.
fn height() -> usize {
    match tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_row > 0 => usize::from(size.ws_row),
        _ => usize::MAX,
    }
}

/// What draws lines on a cleared screen. After the last one nothing follows, so that nothing scrolls.
fn frame(lines: &[String]) -> String {
    format!("{CLEAR}{}", lines.join("\r\n"))
}

/// A table, or as much of it as fits: then the last line says how many rows do not.
fn fit(table: &Table, height: usize, row: &str) -> Vec<String> {
    let all = table.drawn_lines(table.len());
    if all.len() <= height {
        return all;
    }
    let room = height.saturating_sub(1);
    // A row may take several lines where the terminal is narrow.
    let (mut fitting, mut too_many) = (0, table.len());
    while too_many - fitting > 1 {
        let middle = fitting.midpoint(too_many);
        match table.drawn_lines(middle).len() <= room {
            true => fitting = middle,
            false => too_many = middle,
        }
    }
    let mut lines = table.drawn_lines(fitting);
    lines.truncate(room);
    lines.push(match table.len() - fitting {
        1 => format!("… and 1 more {row}"),
        left_out => format!("… and {left_out} more {row}s"),
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Column;

    fn table(rows: u32) -> Table {
        let mut table = Table::new(&[Column::Text("pipeline")]);
        for row in 0..rows {
            table.row([format!("p{row}")]);
        }
        table
    }

    #[test]
    fn a_table_that_fits_is_shown_whole() {
        let whole = table(5).drawn_lines(5);
        assert_eq!(fit(&table(5), whole.len(), "pipeline"), whole);
        assert_eq!(fit(&table(5), usize::MAX, "pipeline"), whole);
    }

    #[test]
    fn a_table_that_does_not_fit_says_what_is_missing() {
        let whole = table(50).drawn_lines(50).len();
        for height in 6..whole {
            let lines = fit(&table(50), height, "pipeline");
            assert_eq!(lines.len(), height, "{lines:?}");
            let shown = lines.iter().filter(|line| line.contains("│ p")).count();
            let left_out = 50 - (shown - 1);
            let last = &lines[height - 1];
            let expected = match left_out {
                1 => "… and 1 more pipeline".to_owned(),
                count => format!("… and {count} more pipelines"),
            };
            assert_eq!(*last, expected);
        }
        // No terminal is so low.
        for height in 0..6 {
            assert!(fit(&table(50), height, "pipeline").len() <= height.max(1));
        }
    }

    #[test]
    fn a_frame_clears_the_screen_and_not_what_has_scrolled_off() {
        let drawn = frame(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(drawn, "\x1b[H\x1b[Ja\r\nb");
    }
}
