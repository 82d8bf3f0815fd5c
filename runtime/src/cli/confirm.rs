//! Asks before something is deleted.

use std::io::{self, IsTerminal as _, Write as _};

use super::exit::Usage;

/// Asks on the terminal.
///
/// # Errors
/// There is nobody to ask.
pub(super) fn confirm(question: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Usage(format!(
            "{question} There is no terminal to ask on; give --yes"
        ))
        .into());
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
