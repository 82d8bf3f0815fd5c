//! `millstream completions` and `millstream man`: what shells and `man` need, made of the arguments
//! themselves.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use super::exit::Ending;
use super::output::Output;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// The folder for the pages, such as /usr/local/share/man/man1; it is created if it is missing
    dir: PathBuf,
}

/// Writes the completion script of a shell to standard output.
pub(super) fn completions(args: &CompletionsArgs, output: &mut Output) -> anyhow::Result<Ending> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "millstream", &mut script);
    output.write(&script)?;
    Ok(Ending::Done)
}

/// Writes one manual page for the program and one for each verb.
pub(super) fn man(args: &ManArgs, output: &mut Output) -> anyhow::Result<Ending> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot create {}", args.dir.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let count = pages(&command, &args.dir)?;
    output.line(format_args!("{count} pages in {}", args.dir.display()))?;
    Ok(Ending::Done)
}

fn pages(command: &Command, dir: &std::path::Path) -> anyhow::Result<u32> {
    let page = clap_mangen::Man::new(command.clone());
    let path = dir.join(page.get_filename());
    page.generate_to(dir)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let mut count = 1;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        count += pages(verb, dir)?;
    }
    Ok(count)
}
