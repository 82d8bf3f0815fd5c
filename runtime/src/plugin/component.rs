//! A plugin that is compiled and checked, from which instances are made.

use std::sync::Arc;

use wasmtime::component::InstancePre;

use super::{
    conditions::Conditions,
    contract::{Contract, Grants, ImportedInterface},
    difference::{self, Difference},
    digest::Digest,
    engine::Shared,
    error::Error,
    fault::Fault,
    host::{HostState, state::StateReader},
    instance::{Instance, InstanceContext},
    limits::Limits,
};

/// A compiled plugin. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    inner: Arc<Compiled>,
}

struct Compiled {
    name: String,
    digest: Digest,
    contract: Contract,
    /// Imports are resolved once; an instance only needs its memories.
    pre: InstancePre<HostState>,
    shared: Arc<Shared>,
}

impl Plugin {
    pub(super) fn new(
        name: String,
        digest: Digest,
        contract: Contract,
        pre: InstancePre<HostState>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            inner: Arc::new(Compiled {
                name,
                digest,
                contract,
                pre,
                shared,
            }),
        }
    }

    /// The name it was loaded with.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// SHA-256 of the component.
    pub fn digest(&self) -> &Digest {
        &self.inner.digest
    }

    /// Whether it takes records.
    pub fn is_consumer(&self) -> bool {
        self.inner.contract.is_consumer
    }

    /// Whether it makes records.
    pub fn is_producer(&self) -> bool {
        self.inner.contract.is_producer
    }

    /// Whether it keeps state, or timers.
    pub fn keeps_state(&self) -> bool {
        self.inner.contract.keeps_state
    }

    /// Whether it calls services.
    pub fn calls_services(&self) -> bool {
        self.inner.contract.calls_services
    }

    /// Whether it can be told that timers are due.
    pub fn handles_timers(&self) -> bool {
        self.inner.contract.handles_timers
    }

    /// Whether it wants to be told its configuration.
    pub fn has_lifecycle(&self) -> bool {
        self.inner.contract.has_lifecycle
    }

    /// The interfaces that it imports functions of.
    pub fn imports(&self) -> &[ImportedInterface] {
        &self.inner.contract.imports
    }

    /// The interfaces that it exports, and whatever else it does, by name.
    pub fn exports(&self) -> &[String] {
        &self.inner.contract.exports
    }

    /// What is different about this version of a plugin to whoever runs an earlier one: what it imports and
    /// exports, and what to do about that. Empty if nothing is.
    pub fn differences_to(&self, earlier: &Plugin) -> Vec<Difference> {
        difference::differences(&earlier.inner.contract, &self.inner.contract)
    }

    /// Whether `grants` cover what it imports.
    ///
    /// # Errors
    /// [`Error::Denied`] with the imports that they do not cover, and what grants them.
    pub fn check_grants(&self, grants: &Grants) -> Result<(), Error> {
        let checked = self.inner.contract.check_grants(grants);
        checked.map_err(|denied| Error::Denied {
            name: self.inner.name.clone(),
            denied,
        })
    }

    /// Makes an instance and opens it.
    ///
    /// # Errors
    /// [`Fault::Denied`] when `grants` do not cover its imports, [`Fault::Open`] when it refuses to
    /// open, otherwise what went wrong in making or opening it.
    pub fn instantiate(
        &self,
        context: InstanceContext,
        grants: &Grants,
        limits: &Limits,
        state: Box<dyn StateReader>,
    ) -> Result<Instance, Fault> {
        self.open_under(context, grants, limits, state, &Conditions::Live)
    }

    /// Makes an instance whose time and random numbers come from `conditions`.
    pub(super) fn open_under(
        &self,
        context: InstanceContext,
        grants: &Grants,
        limits: &Limits,
        state: Box<dyn StateReader>,
        conditions: &Conditions,
    ) -> Result<Instance, Fault> {
        let checked = self.inner.contract.check_grants(grants);
        checked.map_err(Fault::Denied)?;
        Instance::open(
            self.clone(),
            context,
            grants.clone(),
            *limits,
            state,
            conditions,
        )
    }

    pub(super) fn contract(&self) -> &Contract {
        &self.inner.contract
    }

    pub(super) fn pre(&self) -> &InstancePre<HostState> {
        &self.inner.pre
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.inner.shared
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("name", &self.inner.name)
            .field("digest", &self.inner.digest)
            .finish_non_exhaustive()
    }
}
