//! `cargo xtask doctor`: looks at every step of the set-up and changes nothing.

use std::process::ExitCode;

use anyhow::Result;

use crate::context::Context;
use crate::setup::{self, State};

/// Prints the table; exit code 1 when something is missing.
pub fn run(context: &Context) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for step in setup::ALL {
        rows.push((step.name(), step.state(context)));
    }
    let width = rows
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default();
    let mut is_complete = true;
    for (name, state) in &rows {
        is_complete &= matches!(state, Ok(State::Ready(_)));
        print!("{}", row(name, width, state));
    }
    println!("\ncache folder: {}", context.cache.display());
    println!("target folder: {}", context.target_dir().display());
    if !is_complete {
        println!("\n`cargo xtask setup` brings all of what is missing.");
    }
    Ok(if is_complete {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn row(name: &str, width: usize, state: &Result<State>) -> String {
    match state {
        Ok(State::Ready(found)) => format!("ok       {name:width$}  {found}\n"),
        Ok(State::Missing { what, command }) => {
            format!(
                "missing  {name:width$}  {what}\n         {:width$}  bring it: {command}\n",
                ""
            )
        }
        Err(error) => format!("failed   {name:width$}  {error:#}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_say_what_is_missing_and_how_to_bring_it() {
        let missing = Ok(State::Missing {
            what: "no libclang".to_owned(),
            command: "apt-get".to_owned(),
        });
        assert_eq!(
            row("a", 4, &missing),
            "missing  a     no libclang\n               bring it: apt-get\n"
        );
        assert_eq!(
            row("a", 4, &Ok(State::Ready("14".to_owned()))),
            "ok       a     14\n"
        );
        assert_eq!(
            row("a", 1, &Err(anyhow::anyhow!("no rustc"))),
            "failed   a  no rustc\n"
        );
    }
}
