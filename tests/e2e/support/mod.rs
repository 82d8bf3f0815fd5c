//! What the tests share: a sandbox with its own data directory, the processes in it, and checks.

pub mod collector;
pub mod counting;
pub mod plugins;
pub mod process;
pub mod random;
pub mod records;
pub mod sandbox;
pub mod service;

pub use process::{Finished, Running};
pub use random::Random;
pub use records::Consumed;
pub use sandbox::Sandbox;
pub use service::{Answer, Service};

/// Says something about a test's run; `cargo test` shows it if the test fails, or with `--nocapture`.
#[expect(
    clippy::print_stderr,
    reason = "the test harness captures it, and shows it when a test fails"
)]
pub fn note(text: impl std::fmt::Display) {
    eprintln!("{text}");
}
