//! Guests for tests, assembled from text, so that they need no toolchain and can break every rule.

use std::fmt::Write as _;

use bytes::Bytes;

/// A consumer whose `process` is given in WebAssembly text.
#[derive(Default)]
pub(crate) struct Guest {
    /// Instructions of `process`: `$batch` is the batch, the result the reply.
    process: String,
    /// Instructions of `open`, which return the reply; none: no lifecycle.
    open: Option<String>,
    /// Instructions of `on-timers`: `$timers` is the number of timers, the result the reply; none: no
    /// timer handler.
    on_timers: Option<String>,
    /// Imported interfaces, each with a function.
    imports: Vec<Import>,
    /// Text added to the component.
    extra: String,
    /// An import in its own words.
    raw: RawImport,
}

/// An import that is more than one function of simple types.
#[derive(Default, Clone, Copy)]
pub(crate) struct RawImport {
    /// Imports and lowered functions.
    pub(crate) component: &'static str,
    /// Imports of the core module, from "host".
    pub(crate) core: &'static str,
    /// The exports of the instance that is "host".
    pub(crate) with: &'static str,
}

/// An imported function, `$name` in the guest's code.
struct Import {
    interface: &'static str,
    name: &'static str,
    /// Its component type.
    component_type: &'static str,
    /// Its core type.
    core_type: &'static str,
}

impl Guest {
    pub(crate) fn new(process: &str) -> Self {
        Self {
            process: process.to_owned(),
            ..Self::default()
        }
    }

    /// Returns every record as it came.
    pub(crate) fn passthrough() -> Self {
        Self::new("(call $pass (local.get $batch))")
    }

    pub(crate) fn open(mut self, open: &str) -> Self {
        self.open = Some(open.to_owned());
        self
    }

    pub(crate) fn on_timers(mut self, on_timers: &str) -> Self {
        self.on_timers = Some(on_timers.to_owned());
        self
    }

    pub(crate) fn import(
        mut self,
        interface: &'static str,
        name: &'static str,
        component_type: &'static str,
        core_type: &'static str,
    ) -> Self {
        self.imports.push(Import {
            interface,
            name,
            component_type,
            core_type,
        });
        self
    }

    pub(crate) fn raw_import(mut self, import: RawImport) -> Self {
        self.raw = import;
        self
    }

    pub(crate) fn extra(mut self, text: &str) -> Self {
        self.extra = text.to_owned();
        self
    }

    pub(crate) fn build(&self) -> Bytes {
        let mut text = format!("(component\n{TYPES}\n{LIBC}\n");
        text.push_str(self.raw.component);
        let mut core_imports = self.raw.core.to_owned();
        let mut with = self.raw.with.to_owned();
        for (n, import) in self.imports.iter().enumerate() {
            let Import {
                interface,
                name,
                component_type,
                core_type,
            } = import;
            write!(
                text,
                r#"(import "{interface}" (instance $import{n} (export "{name}" (func {component_type}))))
                (core func $lowered{n} (canon lower (func $import{n} "{name}")
                  (memory $memory) (realloc $realloc)))
                "#
            )
            .unwrap();
            write!(
                core_imports,
                r#"(import "host" "{name}" (func ${name} {core_type}))"#
            )
            .unwrap();
            write!(with, r#"(export "{name}" (func $lowered{n}))"#).unwrap();
        }
        let open = self.open.as_deref().unwrap_or("unreachable");
        let on_timers = self.on_timers.as_deref().unwrap_or("unreachable");
        write!(
            text,
            r#"(core module $main
              (import "libc" "memory" (memory 1))
              {core_imports}
              {HELPERS}
              (func (export "process") (param $batch i32) (result i32) {process})
              (func (export "on-timers") (param $keys i32) (param i32 i32 i32 i32) (param $timers i32)
                (param i32 i32 i32 i32 i32 i32) (result i32) {on_timers})
              (func (export "open") (param i32 i32) (result i32) {open}))
            (core instance $main (instantiate $main
              (with "libc" (instance $libc))
              (with "host" (instance {with}))))
            {CONSUMER}
            {lifecycle}
            {timer_handler}
            {extra})"#,
            process = self.process,
            lifecycle = if self.open.is_some() { LIFECYCLE } else { "" },
            timer_handler = if self.on_timers.is_some() {
                TIMER_HANDLER
            } else {
                ""
            },
            extra = self.extra,
        )
        .unwrap();
        assemble(&text)
    }
}

/// Assembles text.
pub(crate) fn assemble(text: &str) -> Bytes {
    match wat::parse_str(text) {
        Ok(wasm) => wasm.into(),
        Err(error) => panic!("{error}"),
    }
}

/// The types of `wit/plugin.wit`, as every component imports them.
const TYPES: &str = r#"
(import "millstream:plugin/types@0.1.0" (instance $types
  (type $bytes (list u8)) (type $words (list u32)) (type $longs (list u64))
  (type $batch' (record (field "input" u32) (field "partition" u32)
    (field "keys" $bytes) (field "key-ends" $words) (field "null-keys" $words)
    (field "values" $bytes) (field "value-ends" $words) (field "null-values" $words)
    (field "headers" $bytes) (field "header-ends" $words)
    (field "timestamps" $longs) (field "offsets" $longs) (field "delivery-counts" $words)))
  (export "batch" (type $batch (eq $batch')))
  (type $kind' (variant (case "retry" (option u32)) (case "reject")))
  (export "failure-kind" (type $kind (eq $kind')))
  (type $failure' (record (field "index" u32) (field "kind" $kind) (field "reason" string)))
  (export "failure" (type $failure (eq $failure')))
  (type $output' (record (field "processed" u32) (field "source" $words) (field "port" $words)
    (field "values" $bytes) (field "value-ends" $words) (field "null-values" $words)
    (field "keys" $bytes) (field "key-ends" $words) (field "null-keys" $words)
    (field "headers" $bytes) (field "header-ends" $words)
    (field "timestamps" $longs) (field "failed" (list $failure))))
  (export "output" (type $output (eq $output')))
  (type $timer-batch' (record (field "keys" $bytes) (field "key-ends" $words)
    (field "due-ms" $longs) (field "payloads" $bytes) (field "payload-ends" $words)
    (field "delivery-counts" $words)))
  (export "timer-batch" (type $timer-batch (eq $timer-batch')))))
(alias export $types "timer-batch" (type $timer-batch))
(alias export $types "batch" (type $batch))
(alias export $types "output" (type $output))
"#;

/// A memory, and an allocator that never frees and grows the memory as far as it can.
const LIBC: &str = r#"
(core module $libc
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 16384))
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
        (br $grow)))
    (local.get $at)))
(core instance $libc (instantiate $libc))
(alias core export $libc "memory" (core memory $memory))
(alias core export $libc "cabi_realloc" (core func $realloc))
"#;

/// `$count`: how many records the batch has. `$pass`: the reply that passes them through, at
/// address 0: 0 = ok, then `processed` at 4, and a pointer and a length for each column from
/// `source` at 8 on. The source indexes are at 4096. `$pass-all`: the same for a number of records or
/// timers. `$error`: an error reply with the text "no".
const HELPERS: &str = r#"
(func $count (param $batch i32) (result i32) (i32.load offset=76 (local.get $batch)))
(func $pass (param $batch i32) (result i32) (call $pass-all (call $count (local.get $batch))))
(func $pass-all (param $n i32) (result i32) (local $i i32)
  (memory.fill (i32.const 0) (i32.const 0) (i32.const 104))
  (i32.store (i32.const 4) (local.get $n))
  (i32.store (i32.const 8) (i32.const 4096))
  (i32.store (i32.const 12) (local.get $n))
  (block $done (loop $next
    (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
    (i32.store offset=4096 (i32.mul (local.get $i) (i32.const 4)) (local.get $i))
    (local.set $i (i32.add (local.get $i) (i32.const 1)))
    (br $next)))
  (i32.const 0))
(func $error (result i32)
  (i32.store (i32.const 0) (i32.const 1))
  (i32.store (i32.const 4) (i32.const 2048))
  (i32.store (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 2048) (i32.const 0x6f6e))
  (i32.const 0))
"#;

const CONSUMER: &str = r#"
(func $process (param "batch" $batch) (result (result $output (error string)))
  (canon lift (core func $main "process") (memory $memory) (realloc $realloc)))
(instance $consumer (export "process" (func $process)))
(export "millstream:plugin/consumer@0.1.0" (instance $consumer))
"#;

const TIMER_HANDLER: &str = r#"
(func $on-timers (param "batch" $timer-batch) (result (result $output (error string)))
  (canon lift (core func $main "on-timers") (memory $memory) (realloc $realloc)))
(instance $timer-handler (export "on-timers" (func $on-timers)))
(export "millstream:plugin/timer-handler@0.1.0" (instance $timer-handler))
"#;

const LIFECYCLE: &str = r#"
(func $open (param "config" (list (tuple string string))) (result (result (error string)))
  (canon lift (core func $main "open") (memory $memory) (realloc $realloc)))
(instance $lifecycle (export "open" (func $open)))
(export "millstream:plugin/lifecycle@0.1.0" (instance $lifecycle))
"#;
