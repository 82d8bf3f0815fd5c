//! What a component imports and exports, held against what a plugin may import and must export.
//!
//! wasmtime would refuse a wrong component, too, but with the first difference it meets and in its
//! own words. Here every difference is found, and each comes with what to do about it.
//!
//! # Imports that need a grant
//!
//! A plain Rust component imports what `std` may need: `wasi:io`, `wasi:cli`, `wasi:filesystem`
//! and, for `HashMap`, `wasi:random/insecure-seed`. These are always linked, and empty: no
//! arguments, no environment, no files, nothing on stdin, a fixed seed. It does not import a clock
//! or a random number unless its own code reads one. So these are refused before the plugin runs
//! when the pipeline does not grant them, and what counts is an imported *function*: the file
//! system interface drags in the type of a timestamp from `wasi:clocks/wall-clock`, which reads
//! no clock.

use std::{fmt, sync::Arc};

use wasmtime::{
    Engine,
    component::{Component, types::ComponentFunc, types::ComponentInstance, types::ComponentItem},
};

use super::boundary::{
    OnTimersParams, OpenParams, OpenResult, ProcessParams, ProduceParams, ReplyResult,
};
use crate::model::HttpHostPattern;

/// The interface that takes records.
pub(super) const CONSUMER: &str = "millstream:plugin/consumer@0.1.0";
/// The interface that makes records.
pub(super) const PRODUCER: &str = "millstream:plugin/producer@0.1.0";
/// The interface that is called when timers are due.
pub(super) const TIMER_HANDLER: &str = "millstream:plugin/timer-handler@0.1.0";
/// The interface that is told the configuration.
pub(super) const LIFECYCLE: &str = "millstream:plugin/lifecycle@0.1.0";

/// The interface of plugins, with its version: all that plugins can be built against.
pub const CONTRACT: &str = "millstream:plugin@0.1.0";

const OUR_PACKAGE: &str = "millstream:plugin";
const OUR_VERSION: &str = "0.1.0";

/// What a pipeline grants its plugin beyond what every plugin has. Nothing by default but state
/// and timers, which are the task's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// Keyed state (`millstream:plugin/state`). On by default.
    pub state: bool,
    /// Timers (`millstream:plugin/timers`). On by default; a pipeline that makes records has none.
    pub timers: bool,
    /// Reading clocks and sleeping (`wasi:clocks`).
    pub clocks: bool,
    /// Random numbers (`wasi:random`).
    pub random: bool,
    /// Outgoing requests (`wasi:http`), and the hosts that they may go to.
    pub http: Option<Arc<[HttpHostPattern]>>,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            state: true,
            timers: true,
            clocks: false,
            random: false,
            http: None,
        }
    }
}

/// An interface that a plugin imports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedInterface {
    /// Its name with package and version.
    pub name: String,
    /// The functions of it that the plugin imports.
    pub functions: Vec<String>,
}

/// Something that a manifest grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Capability {
    State,
    Timers,
    Clocks,
    Random,
    Http,
}

impl Capability {
    fn is_granted(self, grants: &Grants) -> bool {
        match self {
            Self::State => grants.state,
            Self::Timers => grants.timers,
            Self::Clocks => grants.clocks,
            Self::Random => grants.random,
            Self::Http => grants.http.is_some(),
        }
    }

    /// What to write into the manifest.
    pub(super) fn remedy(self) -> &'static str {
        match self {
            Self::State => "this pipeline gives its plugin no state",
            Self::Timers => {
                "a pipeline without a `from` has no timers: what makes records is asked for them again and again"
            }
            Self::Clocks => {
                "add `allow = { clocks = true }` to the pipeline, or do not read clocks"
            }
            Self::Random => {
                "add `allow = { random = true }` to the pipeline, or do not read random numbers"
            }
            Self::Http => {
                "add the hosts that it calls to the pipeline, such as `allow = { http = \
                 [\"api.example.com\"] }`, or do not call services"
            }
        }
    }
}

/// What is done about an imported interface.
enum Rule {
    /// Linked for every plugin.
    Always,
    /// Linked, and needs a grant when one of its functions is imported.
    Needs(Capability),
    /// Never linked: the reason, and what to do.
    Never(&'static str),
}

/// The rule for an imported interface; none if it is unknown.
fn rule(interface: &Interface<'_>) -> Option<Rule> {
    let wasi_p2 = interface
        .version
        .is_some_and(|version| version.starts_with("0.2."));
    let rule = match (interface.package, interface.name) {
        (OUR_PACKAGE, "types" | "context" | "metrics") => Rule::Always,
        (OUR_PACKAGE, "state") => Rule::Needs(Capability::State),
        (OUR_PACKAGE, "timers") => Rule::Needs(Capability::Timers),
        ("wasi:logging", "logging") | ("wasi:config", "store") => Rule::Always,
        ("wasi:sockets", _) => Rule::Never(
            "plugins get no sockets, and a manifest cannot grant them: receive and send records \
             through topics instead",
        ),
        _ if !wasi_p2 => return None,
        // By themselves the types reach nobody.
        ("wasi:http", "types") => Rule::Always,
        ("wasi:http", "outgoing-handler") => Rule::Needs(Capability::Http),
        ("wasi:http", "incoming-handler") => Rule::Never(
            "a plugin passes no request on to a server: it takes records, and calls services with \
             `wasi:http/outgoing-handler`",
        ),
        ("wasi:io", "poll" | "error" | "streams") => Rule::Always,
        ("wasi:cli", "environment" | "exit" | "stdin" | "stdout" | "stderr") => Rule::Always,
        ("wasi:cli", name) if name.starts_with("terminal-") => Rule::Always,
        ("wasi:filesystem", "types" | "preopens") => Rule::Always,
        ("wasi:random", "insecure-seed") => Rule::Always,
        ("wasi:random", "random" | "insecure") => Rule::Needs(Capability::Random),
        ("wasi:clocks", "monotonic-clock" | "wall-clock") => Rule::Needs(Capability::Clocks),
        _ => return None,
    };
    Some(rule)
}

/// A difference between a component and what a plugin must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is missing, unexpected or different.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Imports that a plugin may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Each import with the reason and what to do.
    pub imports: Vec<Problem>,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the plugin imports what it is not granted: ")?;
        // Interfaces of one package have one reason, which is said once.
        let same_remedy = |a: &Problem, b: &Problem| a.remedy == b.remedy;
        for (at, imports) in self.imports.chunk_by(same_remedy).enumerate() {
            f.write_str(if at == 0 { "" } else { "; " })?;
            for (at, import) in imports.iter().enumerate() {
                write!(f, "{}{}", if at == 0 { "" } else { ", " }, import.what)?;
            }
            if let Some(import) = imports.first() {
                write!(f, ": {}", import.remedy)?;
            }
        }
        Ok(())
    }
}

/// What a component has of the plugin interface.
#[derive(Debug, Clone, Default)]
pub(super) struct Contract {
    pub(super) is_consumer: bool,
    pub(super) is_producer: bool,
    pub(super) has_lifecycle: bool,
    pub(super) handles_timers: bool,
    /// Whether it may ask for idempotency keys, which need a copy of each batch's offsets.
    pub(super) uses_idempotency_key: bool,
    /// Whether it keeps state, or timers.
    pub(super) keeps_state: bool,
    /// Whether it calls services.
    pub(super) calls_services: bool,
    /// Imports with functions that need a grant.
    needs: Vec<(Capability, String)>,
    /// The interfaces that it imports functions of.
    pub(super) imports: Vec<ImportedInterface>,
    /// What it exports, by name.
    pub(super) exports: Vec<String>,
}

/// Why a component is no plugin.
#[derive(Debug)]
pub(super) enum Mismatch {
    /// It does not fit the interface.
    Contract(Vec<Problem>),
    /// It fits, and imports what cannot be granted.
    Denied(Denied),
}

/// An interface's name in its parts: `package/name@version`.
struct Interface<'a> {
    package: &'a str,
    name: &'a str,
    version: Option<&'a str>,
}

impl<'a> Interface<'a> {
    fn parse(full: &'a str) -> Self {
        let (path, version) = match full.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (full, None),
        };
        let (package, name) = path.split_once('/').unwrap_or(("", path));
        Self {
            package,
            name,
            version,
        }
    }
}

impl Contract {
    /// Reads the contract of a component.
    ///
    /// # Errors
    /// Every difference there is.
    pub(super) fn read(engine: &Engine, component: &Component) -> Result<Self, Mismatch> {
        let mut contract = Self::default();
        let mut problems = Vec::new();
        let mut denied = Vec::new();
        let component_type = component.component_type();
        for (name, import) in component_type.imports(engine) {
            contract.read_import(engine, name, &import.ty, &mut problems, &mut denied);
        }
        let mut others = Vec::new();
        for (name, export) in component_type.exports(engine) {
            contract.exports.push(name.to_owned());
            let checked = match name {
                CONSUMER => {
                    contract.is_consumer = true;
                    check_function::<ProcessParams<'_>, ReplyResult>(
                        engine, component, &export.ty, name, "process",
                    )
                }
                PRODUCER => {
                    contract.is_producer = true;
                    check_function::<ProduceParams, ReplyResult>(
                        engine, component, &export.ty, name, "produce",
                    )
                }
                TIMER_HANDLER => {
                    contract.handles_timers = true;
                    check_function::<OnTimersParams<'_>, ReplyResult>(
                        engine,
                        component,
                        &export.ty,
                        name,
                        "on-timers",
                    )
                }
                LIFECYCLE => {
                    contract.has_lifecycle = true;
                    check_function::<OpenParams<'_>, OpenResult>(
                        engine, component, &export.ty, name, "open",
                    )
                }
                _ => {
                    others.push(name.to_owned());
                    Ok(())
                }
            };
            problems.extend(checked.err());
        }
        contract.check_exports(&others, &mut problems);
        contract.check_timers(&mut problems);
        if !problems.is_empty() {
            // What cannot be granted is a difference like the others when there are others.
            problems.extend(denied);
            return Err(Mismatch::Contract(problems));
        }
        if !denied.is_empty() {
            return Err(Mismatch::Denied(Denied { imports: denied }));
        }
        Ok(contract)
    }

    /// What it imports that needs a grant.
    pub(super) fn capabilities(&self) -> impl Iterator<Item = (Capability, &str)> {
        let needs = self.needs.iter();
        needs.map(|(capability, import)| (*capability, import.as_str()))
    }

    /// Whether `grants` cover what the component imports.
    ///
    /// # Errors
    /// The imports that they do not cover.
    pub(super) fn check_grants(&self, grants: &Grants) -> Result<(), Denied> {
        let imports: Vec<_> = self
            .needs
            .iter()
            .filter(|(capability, _)| !capability.is_granted(grants))
            .map(|(capability, import)| Problem {
                what: import.clone(),
                remedy: capability.remedy().to_owned(),
            })
            .collect();
        if imports.is_empty() {
            Ok(())
        } else {
            Err(Denied { imports })
        }
    }

    fn read_import(
        &mut self,
        engine: &Engine,
        name: &str,
        item: &ComponentItem,
        problems: &mut Vec<Problem>,
        denied: &mut Vec<Problem>,
    ) {
        let interface = Interface::parse(name);
        let ComponentItem::ComponentInstance(instance) = item else {
            problems.push(Problem {
                what: format!("imports `{name}`, which is not an interface"),
                remedy: "a plugin imports interfaces of the WIT package only".to_owned(),
            });
            return;
        };
        let functions = function_names(engine, instance);
        if !functions.is_empty() {
            self.imports.push(ImportedInterface {
                name: name.to_owned(),
                functions: functions.clone(),
            });
        }
        if interface.package == OUR_PACKAGE && interface.version != Some(OUR_VERSION) {
            problems.push(other_version("imports", name));
            return;
        }
        match rule(&interface) {
            Some(Rule::Always) => {
                self.uses_idempotency_key |= interface.package == OUR_PACKAGE
                    && functions
                        .iter()
                        .any(|function| function == "idempotency-key");
            }
            Some(Rule::Needs(capability)) => {
                if !functions.is_empty() {
                    self.keeps_state |=
                        matches!(capability, Capability::State | Capability::Timers);
                    self.calls_services |= matches!(capability, Capability::Http);
                    self.needs
                        .push((capability, format!("`{name}` ({})", functions.join(", "))));
                }
            }
            Some(Rule::Never(reason)) => {
                denied.push(Problem {
                    what: format!("`{name}`"),
                    remedy: reason.to_owned(),
                });
            }
            None => problems.push(unknown_import(name, &interface)),
        }
    }

    /// Checks that there is someone whom the timers that it sets can fire to.
    fn check_timers(&self, problems: &mut Vec<Problem>) {
        if self.handles_timers {
            return;
        }
        let imported = self
            .needs
            .iter()
            .find(|(capability, _)| *capability == Capability::Timers);
        if let Some((_, import)) = imported {
            problems.push(Problem {
                what: format!("imports {import} without exporting `{TIMER_HANDLER}`"),
                remedy:
                    "the timers that it sets would fire to nobody: export the handler; in Rust, \
                         name it in `millstream_sdk::consumer!(process, on_timer)`, or write \
                         `consumer!(type PLUGIN, timers)`"
                        .to_owned(),
            });
        }
    }

    /// Checks that something of the interface is exported.
    fn check_exports(&self, others: &[String], problems: &mut Vec<Problem>) {
        if self.is_consumer || self.is_producer {
            return;
        }
        let mut hinted = false;
        for name in others {
            let interface = Interface::parse(name);
            let remedy = match (interface.package, interface.name) {
                (OUR_PACKAGE, _) => {
                    problems.push(other_version("exports", name));
                    hinted = true;
                    continue;
                }
                ("wasi:cli", "run") => {
                    "it is a command with a `main`: make it a library with `crate-type = \
                     [\"cdylib\"]` that exports the plugin interface"
                }
                ("wasi:messaging", "incoming-handler") => {
                    "this version runs plugins of the Millstream interface only: export `consumer`"
                }
                ("wasi:http", "incoming-handler") => {
                    "it is an HTTP handler: a plugin takes records, export `consumer`"
                }
                _ => continue,
            };
            hinted = true;
            problems.push(Problem {
                what: format!("exports `{name}`"),
                remedy: remedy.to_owned(),
            });
        }
        if !hinted {
            let found = if others.is_empty() {
                "it exports nothing".to_owned()
            } else {
                format!("it exports {}", others.join(", "))
            };
            problems.push(Problem {
                what: format!("exports neither `{CONSUMER}` nor `{PRODUCER}`"),
                remedy: format!(
                    "{found}; in Rust, build on the millstream SDK, which exports them for you"
                ),
            });
        }
    }
}

fn function_names(engine: &Engine, instance: &ComponentInstance) -> Vec<String> {
    instance
        .exports(engine)
        .filter(|(_, export)| matches!(export.ty, ComponentItem::ComponentFunc(_)))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Checks that an exported interface has a function of the right type.
fn check_function<Params, Return>(
    engine: &Engine,
    component: &Component,
    item: &ComponentItem,
    interface: &str,
    function: &str,
) -> Result<(), Problem>
where
    Params: wasmtime::component::ComponentNamedList + wasmtime::component::Lower,
    Return: wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
{
    let rebuild =
        || format!("rebuild it against version {OUR_VERSION} of the WIT package `{OUR_PACKAGE}`");
    let ComponentItem::ComponentInstance(instance) = item else {
        return Err(Problem {
            what: format!("exports `{interface}`, which is not an interface"),
            remedy: rebuild(),
        });
    };
    let exported = instance
        .get_export(engine, function)
        .map(|export| export.ty);
    let Some(ComponentItem::ComponentFunc(exported)) = exported else {
        return Err(Problem {
            what: format!("exports `{interface}` without its function `{function}`"),
            remedy: rebuild(),
        });
    };
    typecheck::<Params, Return>(&exported, component).map_err(|reason| Problem {
        what: format!("exports `{interface}` with a different `{function}` ({reason})"),
        remedy: rebuild(),
    })
}

fn typecheck<Params, Return>(function: &ComponentFunc, component: &Component) -> Result<(), String>
where
    Params: wasmtime::component::ComponentNamedList + wasmtime::component::Lower,
    Return: wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
{
    if function.async_() {
        return Err("it is async".to_owned());
    }
    let component_type = component.component_type();
    function
        .typecheck::<Params, Return>(&component_type.instance_type())
        .map_err(|error| format!("{error:#}"))
}

fn other_version(verb: &str, name: &str) -> Problem {
    Problem {
        what: format!("{verb} `{name}`"),
        remedy: format!(
            "this Millstream has version {OUR_VERSION} of `{OUR_PACKAGE}`: rebuild the plugin \
             with the SDK of that version"
        ),
    }
}

fn unknown_import(name: &str, interface: &Interface<'_>) -> Problem {
    let remedy = match interface.package {
        OUR_PACKAGE => "no version of the plugin interface has it".to_owned(),
        package if package.starts_with("wasi:") => {
            let version = interface.version.unwrap_or("none");
            format!(
                "Millstream provides WASI 0.2 (io, cli, clocks, random, outgoing http, an empty \
                 filesystem), and not this (version {version}): build for the target wasm32-wasip2, without it"
            )
        }
        _ => "Millstream does not provide it: link it into the component (`wasm-tools compose`, \
              `wac plug`) or do without"
            .to_owned(),
    };
    Problem {
        what: format!("imports `{name}`"),
        remedy,
    }
}
