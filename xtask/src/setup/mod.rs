//! Set-up: everything a build needs beyond cargo, brought once per machine.
//!
//! Each step knows whether its thing is there, what is missing, and which command brings it; the
//! same answers drive `cargo xtask doctor` (which only looks) and every verb that builds (which
//! brings what is missing and says so).

pub mod guest;
pub mod packages;
pub mod plugins;
pub mod rocksdb;
pub mod schemathesis;
pub mod toolchain;

use anyhow::{Context as _, Result, bail};

use crate::context::Context;

/// One thing that must be there.
pub trait Step {
    /// What it is called in messages.
    fn name(&self) -> &'static str;

    /// Looks; changes nothing and asks no network.
    fn state(&self, context: &Context) -> Result<State>;

    /// Brings what [`Step::state`] found missing.
    fn bring(&self, context: &Context) -> Result<()>;
}

/// What a look at a step found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It is there: which one, and where.
    Ready(String),
    /// It is not there.
    Missing {
        /// What exactly.
        what: String,
        /// What one types to bring it.
        command: String,
    },
}

/// For verbs that build and lint the host's code only.
pub const HOST: &[&dyn Step] = &[
    &toolchain::RustToolchain,
    &packages::NativePackages,
    &rocksdb::RocksDb,
];

/// For verbs that build a plugin.
pub const GUEST: &[&dyn Step] = &[&guest::GuestToolchain];

/// For verbs that run what is built, plugins included.
pub const RUN: &[&dyn Step] = &[
    &toolchain::RustToolchain,
    &packages::NativePackages,
    &guest::GuestToolchain,
    &rocksdb::RocksDb,
    &plugins::Plugins,
];

/// Everything, in the order in which it is needed.
pub const ALL: &[&dyn Step] = &[
    &toolchain::RustToolchain,
    &packages::NativePackages,
    &guest::GuestToolchain,
    &rocksdb::RocksDb,
    &plugins::Plugins,
    &schemathesis::Schemathesis,
];

/// Brings what is missing of `steps`, in order, and says what it does; silent for what is there.
pub fn ensure(context: &Context, steps: &[&dyn Step]) -> Result<()> {
    for step in steps {
        ensure_step(context, *step).with_context(|| format!("set-up: {}", step.name()))?;
    }
    Ok(())
}

fn ensure_step(context: &Context, step: &dyn Step) -> Result<()> {
    let State::Missing { what, command } = step.state(context)? else {
        return Ok(());
    };
    println!("set-up: {}: {what}", step.name());
    println!("set-up: {}: bringing it (by hand: {command})", step.name());
    step.bring(context)?;
    match step.state(context)? {
        State::Ready(found) => {
            println!("set-up: {}: there now: {found}", step.name());
            Ok(())
        }
        State::Missing { what, command } => bail!("still missing: {what}; try `{command}` by hand"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A step that counts how often it is brought, and may fail to bring anything.
    struct Counting {
        brought: Cell<u32>,
        works: bool,
    }

    impl Step for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn state(&self, _: &Context) -> Result<State> {
            Ok(if self.works && self.brought.get() > 0 {
                State::Ready("counted".to_owned())
            } else {
                State::Missing {
                    what: "a count".to_owned(),
                    command: "count".to_owned(),
                }
            })
        }

        fn bring(&self, _: &Context) -> Result<()> {
            self.brought.set(self.brought.get() + 1);
            Ok(())
        }
    }

    #[test]
    fn nothing_is_brought_twice() {
        let context = Context::from_env().unwrap();
        let step = Counting {
            brought: Cell::new(0),
            works: true,
        };
        ensure(&context, &[&step]).unwrap();
        ensure(&context, &[&step]).unwrap();
        assert_eq!(step.brought.get(), 1);
    }

    #[test]
    fn what_could_not_be_brought_is_an_error_that_names_the_step() {
        let context = Context::from_env().unwrap();
        let step = Counting {
            brought: Cell::new(0),
            works: false,
        };
        let error = ensure(&context, &[&step]).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "set-up: counting: still missing: a count; try `count` by hand"
        );
    }
}
