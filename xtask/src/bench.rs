//! `cargo xtask bench`: set-up, a release build, and `millstream bench` with its results kept.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::context::Context;
use crate::setup;

const BENCHES: &[&str] = &[
    "plugin", "log", "queue", "pipeline", "poison", "service", "deploy", "server", "http",
];
/// Those that run no plugin.
const WITHOUT_PLUGINS: &[&str] = &["log", "queue", "http"];

/// Runs the benchmark `which`; `args` go to `millstream bench WHICH` as they are.
pub fn run(context: &Context, which: &str, args: &[&str]) -> Result<()> {
    if !BENCHES.contains(&which) {
        bail!(
            "there is no benchmark `{which}`; there are {}",
            BENCHES.join(", ")
        );
    }
    setup::ensure(context, setup::RUN)?;
    let folder = context.cache.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let json = folder.join(format!("{which}.json"));
    let mut bench = context.millstream()?;
    bench.args(["bench", which]).arg("--json").arg(&json);
    if !WITHOUT_PLUGINS.contains(&which) {
        bench
            .arg("--plugins")
            .arg(setup::plugins::built_components(context)?);
    }
    bench.args(args).run()?;
    // `--help` among the arguments leaves none.
    if json.is_file() {
        println!("\nas JSON: {}", json.display());
    }
    Ok(())
}
