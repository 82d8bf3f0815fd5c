//! The `millstream` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The crash tests say in FAILPOINTS at which step of a commit something happens.
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    millstream::cli::main()
}
