//! The WebAssembly engine that all plugins of a process share.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails,
    component::{Component, Linker},
};

use super::{
    cache::CodeCache,
    component::Plugin,
    contract::{Contract, Mismatch},
    digest::Digest,
    error::{Error, MAX_COMPONENT_BYTES},
    host::{self, HostState},
    ticker::Ticker,
    wasi::{self, HttpClient},
};

/// Most instances that an engine can be asked for: 32 TiB of the 128 TiB of address space that a
/// process has.
pub const MAX_INSTANCES: u32 = 8_192;

/// How a [`PluginEngine`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Where compiled code is kept; it is created if it is not there. None: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// Most instances that live at the same time, at most [`MAX_INSTANCES`]. Each reserves 4 GiB of
    /// address space, and takes memory only for what its plugin uses.
    pub max_instances: u32,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            cache_dir: None,
            max_instances: 1_000,
        }
    }
}

/// Loads plugins. Cheap to clone.
#[derive(Clone)]
pub struct PluginEngine {
    shared: Arc<Shared>,
}

/// What an engine's plugins and their instances share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    linker: Linker<HostState>,
    cache: OnceLock<CodeCache>,
    max_instances: u32,
    pub(super) ticker: Ticker,
    /// The client of all plugins that call services.
    pub(super) http: HttpClient,
}

impl PluginEngine {
    /// Starts an engine. A cache that cannot be used is logged and done without.
    ///
    /// # Errors
    /// [`Error::Engine`] when the system does not support it.
    pub fn new(options: EngineOptions) -> Result<Self, Error> {
        let max_instances = options.max_instances.min(MAX_INSTANCES);
        let engine = new_engine(max_instances).map_err(engine_error)?;
        let mut linker = Linker::new(&engine);
        host::add_to_linker(&mut linker).map_err(engine_error)?;
        wasi::add_to_linker(&mut linker).map_err(engine_error)?;
        let ticker = Ticker::start(&engine).map_err(|error| Error::Engine {
            reason: format!("no thread for the watchdog: {error}"),
        })?;
        let this = Self {
            shared: Arc::new(Shared {
                engine,
                linker,
                cache: OnceLock::new(),
                max_instances,
                ticker,
                http: HttpClient::new(),
            }),
        };
        if let Some(dir) = &options.cache_dir {
            this.use_cache(dir, []);
        }
        Ok(this)
    }

    /// Keeps compiled code in `dir` from now on, and that of `loaded` at once. A cache that cannot
    /// be used is logged and done without; an engine that has one keeps it.
    pub fn use_cache<'a>(&self, dir: &Path, loaded: impl IntoIterator<Item = &'a Plugin>) {
        let cache = match CodeCache::open(dir, &self.shared.engine) {
            Ok(cache) => self.shared.cache.get_or_init(|| cache),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "compiled plugins are not cached");
                return;
            }
        };
        for plugin in loaded {
            store(
                cache,
                plugin.name(),
                plugin.digest(),
                plugin.pre().component(),
            );
        }
    }

    /// Most instances that live at the same time.
    pub fn max_instances(&self) -> u32 {
        self.shared.max_instances
    }

    /// Compiles a component, or takes it from the cache, and checks that it is a plugin. `name` is
    /// for messages: the file, or the plugin's name.
    ///
    /// # Errors
    /// What is wrong with it, and what to do about it.
    pub fn load(&self, wasm: Bytes, name: &str) -> Result<Plugin, Error> {
        check_is_component(&wasm, name)?;
        let digest = Digest::of(&wasm);
        let component = self.compile(&wasm, name, &digest)?;
        let shared = &self.shared;
        let contract =
            Contract::read(&shared.engine, &component).map_err(|mismatch| match mismatch {
                Mismatch::Contract(problems) => Error::Contract {
                    name: name.to_owned(),
                    problems,
                },
                Mismatch::Denied(denied) => Error::Denied {
                    name: name.to_owned(),
                    denied,
                },
            })?;
        let pre = shared.linker.instantiate_pre(&component).map_err(|error| Error::Invalid {
            name: name.to_owned(),
            reason: format!(
                "its imports differ from those of the plugin interface; rebuild it with the SDK of \
                 this version ({error:#})"
            ),
        })?;
        Ok(Plugin::new(
            name.to_owned(),
            digest,
            contract,
            pre,
            Arc::clone(shared),
        ))
    }

    fn compile(&self, wasm: &[u8], name: &str, digest: &Digest) -> Result<Component, Error> {
        let Shared { engine, cache, .. } = &*self.shared;
        if let Some(component) = cache.get().and_then(|cache| cache.load(engine, digest)) {
            return Ok(component);
        }
        let component = Component::from_binary(engine, wasm).map_err(|error| Error::Invalid {
            name: name.to_owned(),
            reason: format!("{error:#}"),
        })?;
        if let Some(cache) = cache.get() {
            store(cache, name, digest, &component);
        }
        Ok(component)
    }
}

fn store(cache: &CodeCache, name: &str, digest: &Digest, component: &Component) {
    if let Err(error) = cache.store(digest, component) {
        tracing::warn!(plugin = name, %error, "compiled plugin could not be cached");
    }
}

fn engine_error(error: wasmtime::Error) -> Error {
    Error::Engine {
        reason: format!("{error:#}"),
    }
}

fn new_engine(max_instances: u32) -> wasmtime::Result<Engine> {
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling(max_instances)));
    Engine::new(&config).or_else(|error| {
        // Where address space is limited (`ulimit -v`), instances are allocated one by one and
        // reserve little; their code checks the bounds of its memory, which makes it slower.
        tracing::warn!(error = %format!("{error:#}"), "no memory pool for plugins: allocating one by one");
        config
            .allocation_strategy(InstanceAllocationStrategy::OnDemand)
            .memory_reservation(0)
            .memory_guard_size(64 * 1024)
            .memory_reservation_for_growth(1024 * 1024);
        Engine::new(&config)
    })
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        // The watchdog.
        .epoch_interruption(true)
        // Plugins are called synchronously; without this a call costs a third.
        .concurrency_support(false)
        // Wasmtime walks the guest's stack by its frame pointers, and debuggers are not served.
        .native_unwind_info(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Enable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(32));
    config
}

/// The pool of memories and tables that instances are made from. It is address space until an
/// instance uses it, and an instance that goes gives its pages back.
fn pooling(max_instances: u32) -> PoolingAllocationConfig {
    let mut pooling = PoolingAllocationConfig::new();
    pooling
        .total_component_instances(max_instances)
        // A Rust component has three core instances, one memory and two tables; composed ones and
        // those of interpreted languages have some more.
        .total_core_instances(max_instances.saturating_mul(8))
        .total_memories(max_instances)
        .total_tables(max_instances.saturating_mul(2))
        .max_tables_per_module(4)
        .table_elements(20_000)
        // Calls are synchronous: no instance has a stack of its own.
        .total_stacks(0)
        .linear_memory_keep_resident(0)
        .max_unused_warm_slots(16);
    pooling
}

/// Tells what is not a component from what is.
fn check_is_component(wasm: &[u8], name: &str) -> Result<(), Error> {
    /// Version and layer of a core module, after the magic number.
    const MODULE: [u8; 4] = [1, 0, 0, 0];
    let name = || name.to_owned();
    if wasm.len() > MAX_COMPONENT_BYTES {
        return Err(Error::TooLarge {
            name: name(),
            len_bytes: wasm.len(),
        });
    }
    let Some(header) = wasm.strip_prefix(b"\0asm") else {
        return Err(Error::NotWebAssembly {
            name: name(),
            found: looks_like(wasm),
        });
    };
    if header.starts_with(&MODULE) {
        return Err(Error::CoreModule { name: name() });
    }
    Ok(())
}

fn looks_like(bytes: &[u8]) -> String {
    let text = bytes.trim_ascii_start();
    if bytes.is_empty() {
        "the file is empty".to_owned()
    } else if text.starts_with(b"(module") || text.starts_with(b"(component") {
        "it is WebAssembly text: assemble it with `wasm-tools parse`".to_owned()
    } else if bytes.starts_with(b"\x7fELF") {
        "it is a native program or library: build it with `--target wasm32-wasip2`".to_owned()
    } else {
        let start = String::from_utf8_lossy(bytes.get(..bytes.len().min(16)).unwrap_or_default());
        format!("it starts with {start:?}, and a component starts with \"\\0asm\"")
    }
}
