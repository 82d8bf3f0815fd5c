//! A live plugin: one store, one set of linear memories, reused from batch to batch.
//!
//! A call is: lower the batch's columns into the guest, one copy each; run; lift the output's
//! columns, one copy each; check them. Nothing is allocated per record. After any fault the
//! instance is spent: every further call returns the same fault.

use std::{sync::Arc, time::Instant};

use wasmtime::{
    Store, StoreContextMut, Trap, UpdateDeadline, WasmBacktrace,
    component::{ComponentNamedList, Func, Instance as WasmInstance, Lift, Lower, TypedFunc},
};

use crate::model::PipelineName;

use super::{
    boundary::{OnTimersParams, OpenParams, OpenResult, ProcessParams, ProduceParams, ReplyResult},
    call_stack::CallStack,
    columns::Columns,
    component::Plugin,
    conditions::Conditions,
    contract::{CONSUMER, Denied, Grants, LIFECYCLE, PRODUCER, Problem, TIMER_HANDLER},
    fault::Fault,
    host::{
        HostFault, HostState,
        guest_log::LogLimit,
        metrics::PluginMetrics,
        state::{StateChanges, StateReader},
        timers::TimerChange,
    },
    limits::Limits,
    output::{Expected, Output},
    recording::{Moment, Readings},
    slot::ComputeSlot,
    text::{MAX_REASON_BYTES, cut},
    ticker,
};

/// Most handles to streams and the like that an instance may hold.
const MAX_HANDLES: usize = 10_000;

/// Where an instance runs.
#[derive(Debug, Clone)]
pub struct InstanceContext {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The partition that the instance works on.
    pub partition: u32,
    /// Names of the inputs (topics), in the order of the manifest's `from`.
    pub inputs: Vec<String>,
    /// Names of the output ports, in the order of the manifest's `to`.
    pub ports: Vec<String>,
    /// The manifest's `config` in the order of its keys; values that are not strings as JSON.
    pub config: Vec<(String, String)>,
    /// Where the plugin's own metrics go: one for all instances of a pipeline.
    pub metrics: Arc<PluginMetrics>,
    /// How much it logs: one for all instances of a pipeline.
    pub log_limit: Arc<LogLimit>,
    /// The right to compute that whoever calls the instance holds meanwhile; none if nobody counts.
    pub slot: Option<Arc<dyn ComputeSlot>>,
}

/// A live instance of a plugin.
pub struct Instance {
    store: Store<HostState>,
    plugin: Plugin,
    process: Option<Func>,
    on_timers: Option<Func>,
    produce: Option<Func>,
    limits: Limits,
    deadline_ticks: u64,
    ports: usize,
    /// The fault that ended it.
    spent: Option<Fault>,
}

impl Instance {
    pub(super) fn open(
        plugin: Plugin,
        context: InstanceContext,
        grants: Grants,
        limits: Limits,
        state: Box<dyn StateReader>,
        conditions: &Conditions,
    ) -> Result<Self, Fault> {
        let config = context.config.clone();
        let ports = context.ports.len();
        let digest = plugin.digest().clone();
        let http = plugin.shared().http.clone();
        let data = HostState::new(context, digest, grants, &limits, state, conditions, http);
        let mut store = Store::try_new(&plugin.shared().engine, data).map_err(instantiate_fault)?;
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.hostcall_bytes());
        store.set_max_component_handles(MAX_HANDLES);
        store.epoch_deadline_callback(interrupt_or_go_on);
        let deadline_ticks = ticker::ticks(limits.deadline);
        let mut instance = Self {
            store,
            plugin,
            process: None,
            on_timers: None,
            produce: None,
            limits,
            deadline_ticks,
            ports,
            spent: None,
        };
        instance.start(&config)?;
        Ok(instance)
    }

    /// Instantiates the component, finds its functions and opens it.
    fn start(&mut self, config: &[(String, String)]) -> Result<(), Fault> {
        let plugin = self.plugin.clone();
        self.start_call();
        let made = {
            let _running = plugin.shared().ticker.run();
            plugin.pre().instantiate(&mut self.store)
        };
        let instance = made.map_err(|error| match self.classify(error) {
            // Nothing has been returned yet: what is no fault of the guest is one of the host.
            Fault::Output { reason } => Fault::Instantiate { reason },
            fault => fault,
        })?;
        let contract = plugin.contract();
        if contract.is_consumer {
            let function = self
                .function::<ProcessParams<'static>, ReplyResult>(&instance, CONSUMER, "process")?;
            self.process = Some(function);
        }
        if contract.handles_timers {
            let function = self.function::<OnTimersParams<'static>, ReplyResult>(
                &instance,
                TIMER_HANDLER,
                "on-timers",
            )?;
            self.on_timers = Some(function);
        }
        if contract.is_producer {
            let function =
                self.function::<ProduceParams, ReplyResult>(&instance, PRODUCER, "produce")?;
            self.produce = Some(function);
        }
        if contract.has_lifecycle {
            let open =
                self.function::<OpenParams<'static>, OpenResult>(&instance, LIFECYCLE, "open")?;
            let (opened,) = self.call::<OpenParams<'_>, OpenResult>(open, (config,))?;
            opened.map_err(|reason| Fault::Open {
                reason: cut(reason, MAX_REASON_BYTES),
            })?;
        }
        Ok(())
    }

    /// An exported function, whose type was checked when the plugin was loaded and is checked again.
    fn function<Params, Return>(
        &mut self,
        instance: &WasmInstance,
        interface: &str,
        name: &str,
    ) -> Result<Func, Fault>
    where
        Params: ComponentNamedList + Lower,
        Return: ComponentNamedList + Lift,
    {
        let missing = || Fault::Instantiate {
            reason: format!("`{interface}` has no `{name}`"),
        };
        let store = &mut self.store;
        let interface = instance
            .get_export_index(&mut *store, None, interface)
            .ok_or_else(missing)?;
        let index = instance
            .get_export_index(&mut *store, Some(&interface), name)
            .ok_or_else(missing)?;
        let function = instance.get_typed_func::<Params, Return>(&mut *store, &index);
        Ok(*function.map_err(instantiate_fault)?.func())
    }

    /// Processes a batch, of records or of timers that are due.
    ///
    /// # Errors
    /// What went wrong. The instance is spent then, and its changes of state and timers are gone.
    pub fn process(&mut self, batch: &Columns) -> Result<Output, Fault> {
        if batch.are_timers() {
            return self.on_timers(batch);
        }
        self.check_usable()?;
        let Some(process) = self.process else {
            return Err(self.spend(not_exported("consumer")));
        };
        self.start_call();
        if self.plugin.contract().uses_idempotency_key {
            self.store.data_mut().remember_records(batch);
        }
        let reply = self.call::<ProcessParams<'_>, ReplyResult>(process, (batch.lower(),));
        self.check_reply(reply, batch.len(), self.limits.output_records)
    }

    fn on_timers(&mut self, batch: &Columns) -> Result<Output, Fault> {
        self.check_usable()?;
        let Some(on_timers) = self.on_timers else {
            return Err(self.spend(not_exported("timer-handler")));
        };
        self.start_call();
        if self.plugin.contract().uses_idempotency_key {
            self.store.data_mut().remember_timers(batch);
        }
        let params = (batch.lower_timers(),);
        let reply = self.call::<OnTimersParams<'_>, ReplyResult>(on_timers, params);
        self.check_reply(reply, batch.len(), self.limits.output_records)
    }

    /// Makes at most `max_records` records.
    ///
    /// # Errors
    /// What went wrong. The instance is spent then, and its state changes are gone.
    pub fn produce(&mut self, max_records: u32) -> Result<Output, Fault> {
        self.check_usable()?;
        let Some(produce) = self.produce else {
            return Err(self.spend(not_exported("producer")));
        };
        self.start_call();
        let reply = self.call::<ProduceParams, ReplyResult>(produce, (max_records,));
        self.check_reply(
            reply,
            0,
            self.limits.output_records.min(max_records as usize),
        )
    }

    /// Drops, or no longer drops, what the guest writes to stderr.
    pub fn mute_stderr(&mut self, is_muted: bool) {
        self.store.data().log.lock().mute_stderr(is_muted);
    }

    /// Takes the changes of state since the last call: each key once, in the order in which they
    /// were first written; no value means that the key is removed.
    pub fn take_state_changes(&mut self) -> StateChanges {
        self.store.data_mut().state.take_changes()
    }

    /// Takes what was set and cancelled since the last call, in that order.
    pub fn take_timer_changes(&mut self) -> Vec<TimerChange> {
        self.store.data_mut().timers.take_changes()
    }

    /// The index of the record on which the guest has said, in the last call, that it traps. It may be wrong.
    pub fn trapping_at(&self) -> Option<usize> {
        self.store.data().call.trapping_at.map(|at| at as usize)
    }

    /// What the clocks and the random numbers of the last call started from.
    pub fn moment(&self) -> Moment {
        self.store.data().moment()
    }

    /// Exchanges what the clocks have said in the last call for other memory.
    pub fn swap_readings(&mut self, readings: &mut Readings) {
        self.store.data_mut().swap_readings(readings);
    }

    /// What the instance's linear memories take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.store.data().limiter.used_bytes()
    }

    /// The plugin's metrics, shared by all instances that were made with the same ones.
    pub fn metrics(&self) -> &Arc<PluginMetrics> {
        &self.store.data().metrics
    }

    /// The plugin it is an instance of.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    fn check_usable(&self) -> Result<(), Fault> {
        self.spent.clone().map_or(Ok(()), Err)
    }

    fn start_call(&mut self) {
        let now = Instant::now();
        // A deadline that far away never comes.
        let deadline = now.checked_add(self.limits.deadline).unwrap_or(now);
        self.store.data_mut().start_call(deadline);
        self.store.set_epoch_deadline(self.deadline_ticks);
    }

    fn call<Params, Return>(&mut self, function: Func, params: Params) -> Result<Return, Fault>
    where
        Params: ComponentNamedList + Lower,
        Return: ComponentNamedList + Lift,
    {
        // SAFETY: `function` found that this export has these types, up to the lifetime of the
        // borrowed columns, which lowering does not depend on.
        let function = unsafe { TypedFunc::<Params, Return>::new_unchecked(function) };
        let returned = {
            let _running = self.plugin.shared().ticker.run();
            function.call(&mut self.store, params)
        };
        self.store.data().log.lock().flush();
        returned.map_err(|error| {
            let fault = self.classify(error);
            self.spend(fault)
        })
    }

    fn check_reply(
        &mut self,
        reply: Result<ReplyResult, Fault>,
        inputs: usize,
        max_records: usize,
    ) -> Result<Output, Fault> {
        let output = match reply?.0 {
            Ok(output) => output,
            Err(reason) => {
                let reason = cut(reason, MAX_REASON_BYTES);
                return Err(self.spend(Fault::PluginError { reason }));
            }
        };
        let max_bytes = self.limits.output_bytes;
        let expected = Expected {
            inputs,
            ports: self.ports,
            max_bytes,
            max_records,
        };
        Output::check(output.into(), &expected)
            .map_err(|reason| self.spend(Fault::Output { reason }))
    }

    /// Ends the instance: what it wrote is dropped.
    fn spend(&mut self, fault: Fault) -> Fault {
        self.take_state_changes();
        self.take_timer_changes();
        self.spent = Some(fault.clone());
        fault
    }

    /// What a failed call means.
    fn classify(&self, error: wasmtime::Error) -> Fault {
        let classified = self.classify_untraced(&error);
        classified.unwrap_or_else(|message| Fault::Trap {
            message,
            backtrace: CallStack::of(error),
        })
    }

    /// What a failed call means, or the message of a trap.
    fn classify_untraced(&self, error: &wasmtime::Error) -> Result<Fault, String> {
        let state = self.store.data();
        if let Some(fault) = error.downcast_ref::<HostFault>() {
            return self.classify_host_fault(fault);
        }
        let trap = error.downcast_ref::<Trap>();
        if trap == Some(&Trap::Interrupt) {
            return Ok(Fault::Deadline {
                limit: self.limits.deadline,
            });
        }
        if let Some(wanted_bytes) = state.limiter.refused_bytes() {
            let limit_bytes = self.limits.memory_bytes;
            return Ok(Fault::Memory {
                limit_bytes,
                wanted_bytes,
            });
        }
        if is_hostcall_limit(error) {
            let reason = format!(
                "more data than fits the limits on a call ({} bytes and {} records of output, {} \
                 bytes of state)",
                self.limits.output_bytes, self.limits.output_records, self.limits.state_bytes
            );
            return Ok(Fault::Output { reason });
        }
        let cause = error.root_cause().to_string();
        if trap.is_none() && error.downcast_ref::<WasmBacktrace>().is_none() {
            // Not while the guest ran: what it returned cannot be read.
            return Ok(Fault::Output { reason: cause });
        }
        Err(match state.log.lock().last_words() {
            Some(words) => format!("{words} ({cause})"),
            None => cause,
        })
    }

    fn classify_host_fault(&self, fault: &HostFault) -> Result<Fault, String> {
        Ok(match fault {
            HostFault::State(reason) => Fault::State {
                reason: reason.clone(),
            },
            HostFault::Timers(reason) => Fault::Timers {
                reason: reason.clone(),
            },
            HostFault::Deadline => Fault::Deadline {
                limit: self.limits.deadline,
            },
            HostFault::Denied(what) => Fault::Denied(Denied {
                imports: vec![Problem {
                    what: format!("`{what}`"),
                    remedy: "the pipeline's `allow` does not grant it".to_owned(),
                }],
            }),
            HostFault::Argument(_) | HostFault::Exit(_) => return Err(fault.to_string()),
        })
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("plugin", &self.plugin)
            .field("spent", &self.spent)
            .finish_non_exhaustive()
    }
}

/// Stops the guest at its deadline, unless that has moved since the epoch's was set.
fn interrupt_or_go_on(context: StoreContextMut<'_, HostState>) -> wasmtime::Result<UpdateDeadline> {
    let deadline = context.data().call.deadline();
    let left = deadline.saturating_duration_since(Instant::now());
    Ok(match left.is_zero() {
        true => UpdateDeadline::Interrupt,
        false => UpdateDeadline::Continue(ticker::ticks(left)),
    })
}

fn not_exported(export: &'static str) -> Fault {
    Fault::NotExported { export }
}

fn instantiate_fault(error: wasmtime::Error) -> Fault {
    Fault::Instantiate {
        reason: format!("{error:#}"),
    }
}

/// Whether the guest handed over more than `set_hostcall_fuel` allows: wasmtime's error type for
/// that is private, so that its text has to do.
fn is_hostcall_limit(error: &wasmtime::Error) -> bool {
    error
        .root_cause()
        .to_string()
        .contains("fuel allocated for hostcalls has been exhausted")
}
