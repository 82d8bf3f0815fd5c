//! `cargo xtask deploy-plugin`: builds a plugin project and gives it to a running server.

use std::path::Path;

use anyhow::{Result, bail};

use crate::context::Context;
use crate::process::Cmd;
use crate::{plugin, setup};

/// Builds the plugin in `dir`, uploads it under its package's name, or that after `--name`, and deploys it. The other
/// arguments go to `millstream plugin upload`: `--server URL`, `--sign KEY`, `--canary PARTITIONS --for DURATION`, ….
pub fn run(context: &Context, dir: &str, args: &[&str]) -> Result<()> {
    setup::ensure(context, setup::RUN)?;
    with(context, &context.millstream()?, Path::new(dir), args)
}

/// The same with the command `millstream`, everything else being there.
pub fn with(context: &Context, millstream: &Cmd, dir: &Path, args: &[&str]) -> Result<()> {
    let (name, args) = split_name(args)?;
    let component = plugin::build(context, dir)?;
    let stem = component.file_stem().and_then(|stem| stem.to_str());
    let Some(name) = name.or_else(|| stem.map(|stem| stem.replace('_', "-"))) else {
        bail!("{} has no name; give --name NAME", component.display());
    };
    println!("deploying {} as plugin `{name}`", component.display());
    let mut upload = millstream.clone();
    upload
        .args(["plugin", "upload", &name])
        .arg(&component)
        .arg("--deploy")
        .args(args);
    upload.run()
}

/// What follows `--name`, and the other arguments.
fn split_name<'a>(args: &[&'a str]) -> Result<(Option<String>, Vec<&'a str>)> {
    let mut others = Vec::new();
    let mut name = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match (*arg, arg.strip_prefix("--name=")) {
            ("--name", _) => match args.next() {
                Some(given) => name = Some((*given).to_owned()),
                None => bail!("--name needs a name after it"),
            },
            (_, Some(given)) => name = Some(given.to_owned()),
            _ => others.push(*arg),
        }
    }
    Ok((name, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_taken_out_of_the_arguments() {
        let split = |args: &[&'static str]| split_name(args).unwrap();
        let others = vec!["--server", "u"];
        let name = Some("n".to_owned());
        assert_eq!(
            split(&["--server", "--name", "n", "u"]),
            (name.clone(), others.clone())
        );
        assert_eq!(
            split(&["--name=n", "--server", "u"]),
            (name, others.clone())
        );
        assert_eq!(split(&["--server", "u"]), (None, others));
        assert!(split_name(&["--name"]).is_err());
    }
}
