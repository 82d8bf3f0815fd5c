//! `cargo xtask env`: what people export who call cargo directly.

use anyhow::Result;

use crate::context::Context;
use crate::process::shell_quote;
use crate::setup::{self, State, Step as _};

/// Prints the exports; on standard error, what is not there yet.
pub fn run(context: &Context) -> Result<()> {
    for (name, value) in context.host_env()? {
        println!("export {name}={}", shell_quote(&value.to_string_lossy()));
    }
    match setup::plugins::Plugins.state(context)? {
        State::Ready(_) => {
            let folder = setup::plugins::built_components(context)?;
            println!(
                "export MILLSTREAM_TEST_PLUGINS={}",
                shell_quote(&folder.to_string_lossy())
            );
        }
        State::Missing { what, command } => eprintln!("plugins: {what} (`{command}`)"),
    }
    if let State::Missing { what, command } = setup::rocksdb::RocksDb.state(context)? {
        eprintln!("RocksDB library: {what} (`{command}`)");
    }
    context.claim_target()?;
    Ok(())
}
