//! The engine: compiles plugins, keeps their code, and owns the threads that they run on.
use std::{
    collections::HashMap,
    future::Future,
    path::Path,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use flumen_protocol::plugin::{Digest, World};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use wasmtime::{
    Config, Engine, OptLevel,
    component::{Component, InstancePre, Linker},
};

use super::{
    cache::CodeCache,
    error::{DeployError, EngineError},
    host::{self, HostState},
    inspect,
    instance::Instance,
    limits::{CALL_STACK_BYTES, STACK_BYTES_MAX},
    ticker::Ticker,
    wit::{filtering, transforming},
};
use crate::executor::is_simulated;

/// Fewest plugin threads: with one, an endless loop would have it to itself until its time-out.
const THREADS_MIN: usize = 2;

/// How long a new plugin may take to compile, in which the client that deploys it still waits.
pub(super) const COMPILE_TIMEOUT: Duration = Duration::from_secs(20);

/// New plugins that are compiled at the same time. Compiling cannot be broken off: one that takes
/// for ever keeps its place, and a processor, until the broker ends.
const EXAMINATIONS_MAX: usize = 2;

/// Runs plugins. Cheap to clone.
#[derive(Clone)]
pub struct PluginEngine(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) wasmtime: Engine,
    linker: Linker<HostState>,
    cache: Option<CodeCache>,
    /// Plugins in use, so that the bindings of one share its code.
    loaded: Mutex<HashMap<Digest, Weak<Loaded>>>,
    examining: Arc<Semaphore>,
    pub(super) ticker: Ticker,
    /// Runs the calls that take longer than a tick. They give way to each other at every
    /// tick, so that a few threads serve any number of calls fairly.
    threads: Option<Runtime>,
}

/// A component that has been examined and compiled. Cheap to clone.
#[derive(Clone)]
pub struct Plugin(pub(super) Arc<Loaded>);

pub(super) struct Loaded {
    pub(super) digest: Digest,
    pub(super) bytes: usize,
    pub(super) exports: Exports,
    pub(super) pre: InstancePre<HostState>,
}

/// The world that a component implements, and where its functions are.
pub(super) enum Exports {
    Filter(filtering::GuestIndices),
    Transform(transforming::GuestIndices),
}

impl PluginEngine {
    /// An engine that keeps compiled plugins in `dir`.
    pub fn new(dir: &Path) -> Result<Self, EngineError> {
        let cache = CodeCache::open(dir).map_err(|source| EngineError::Directory {
            path: dir.to_owned(),
            source,
        })?;
        Self::with_cache(Some(cache))
    }

    /// An engine that keeps nothing on disk.
    pub fn without_cache() -> Result<Self, EngineError> {
        Self::with_cache(None)
    }

    fn with_cache(cache: Option<CodeCache>) -> Result<Self, EngineError> {
        let runtime = |error: wasmtime::Error| EngineError::Runtime(format!("{error:#}"));
        let wasmtime = Engine::new(&config()).map_err(runtime)?;
        let mut linker = Linker::new(&wasmtime);
        host::offer(&mut linker).map_err(runtime)?;
        // Simulations run no plugins. And each thread of a runtime draws from what tokio seeds all
        // runtimes from: the next one would depend on how soon these threads have started.
        let (ticker, threads) = if is_simulated() {
            (Ticker::standing(), None)
        } else {
            let clock = wasmtime.clone();
            let ticker = Ticker::start(move || clock.increment_epoch());
            let threads = start_threads().map_err(EngineError::Threads)?;
            (ticker.map_err(EngineError::Threads)?, Some(threads))
        };
        Ok(Self(Arc::new(Shared {
            wasmtime,
            linker,
            cache,
            loaded: Mutex::default(),
            examining: Arc::new(Semaphore::new(EXAMINATIONS_MAX)),
            ticker,
            threads,
        })))
    }

    /// As [`PluginEngine::load`], for a component that nobody has examined yet: it gets a limited
    /// time.
    pub async fn examine(&self, bytes: impl Into<bytes::Bytes>) -> Result<Plugin, DeployError> {
        self.examine_within(COMPILE_TIMEOUT, bytes.into()).await
    }

    pub(super) async fn examine_within(
        &self,
        limit: Duration,
        bytes: bytes::Bytes,
    ) -> Result<Plugin, DeployError> {
        let place = Arc::clone(&self.0.examining).try_acquire_owned();
        let place = place.map_err(|_| DeployError::Busy)?;
        timeout(limit, self.load_holding(bytes, Some(place)))
            .await
            .unwrap_or(Err(DeployError::TooSlow))
    }

    /// Examines a component and compiles it, unless that was done before. Refuses what would
    /// not run here, and says why.
    pub async fn load(&self, bytes: impl Into<bytes::Bytes>) -> Result<Plugin, DeployError> {
        self.load_holding(bytes.into(), None).await
    }

    /// `place` is kept until the compiler is done, also when nobody waits for it any more.
    async fn load_holding(
        &self,
        bytes: bytes::Bytes,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Plugin, DeployError> {
        inspect::check_size(&bytes)?;
        let engine = self.clone();
        let compile = move || {
            let compiled = engine.compile(&bytes);
            drop(place);
            compiled
        };
        // Compiling takes some ten milliseconds to seconds of a processor.
        let compiled = self
            .runtime()
            .spawn_blocking(compile)
            .await
            .map_err(|error| DeployError::Internal(error.to_string()))?;
        let plugin = match compiled? {
            Compiled::Known(plugin) => return Ok(plugin),
            Compiled::New(plugin) => plugin,
        };
        // Starting it once proves that its functions have the right types and that it fits
        // into the limits.
        self.run(Instance::trial(self.clone(), plugin.clone()))
            .await?;
        Ok(self.share(plugin))
    }

    /// The plugin that all bindings of the same code share: the first of those that were loaded at
    /// the same time.
    fn share(&self, plugin: Plugin) -> Plugin {
        let mut loaded = self.0.loaded.lock();
        loaded.retain(|_, plugin| plugin.strong_count() > 0);
        let shared = loaded
            .entry(plugin.digest())
            .or_insert_with(|| Arc::downgrade(&plugin.0));
        shared.upgrade().map_or(plugin, Plugin)
    }

    /// As [`PluginEngine::load`], for callers outside of asynchronous code.
    ///
    /// # Panics
    /// On a thread of an asynchronous runtime.
    pub fn load_blocking(&self, bytes: impl Into<bytes::Bytes>) -> Result<Plugin, DeployError> {
        self.runtime().handle().block_on(self.load(bytes))
    }

    /// Forgets the compiled code of a plugin that was removed.
    pub fn forget(&self, digest: Digest) {
        if let Some(cache) = &self.0.cache {
            cache.remove(digest);
        }
    }

    fn compile(&self, bytes: &[u8]) -> Result<Compiled, DeployError> {
        let Shared {
            wasmtime, cache, ..
        } = &*self.0;
        let digest = Digest(Sha256::digest(bytes).into());
        let known = self.0.loaded.lock().get(&digest).and_then(Weak::upgrade);
        if let Some(known) = known {
            return Ok(Compiled::Known(Plugin(known)));
        }
        inspect::check_kind(bytes)?;
        let kept = cache
            .as_ref()
            .and_then(|cache| cache.load(wasmtime, digest));
        let component = match kept {
            Some(component) => component,
            None => {
                let component = Component::from_binary(wasmtime, bytes)
                    .map_err(|error| DeployError::Invalid(format!("{error:#}")))?;
                inspect::check_interfaces(wasmtime, &component)?;
                if let Some(cache) = cache {
                    cache.store(wasmtime, digest, &component);
                }
                component
            }
        };
        let world = inspect::check_interfaces(wasmtime, &component)?;
        let wrong_types = |error: wasmtime::Error| DeployError::WrongTypes(format!("{error:#}"));
        let pre = self
            .0
            .linker
            .instantiate_pre(&component)
            .map_err(wrong_types)?;
        let exports = match world {
            World::Filter => filtering::GuestIndices::new(&pre).map(Exports::Filter),
            World::Transform => transforming::GuestIndices::new(&pre).map(Exports::Transform),
        };
        Ok(Compiled::New(Plugin(Arc::new(Loaded {
            digest,
            bytes: bytes.len(),
            exports: exports.map_err(wrong_types)?,
            pre,
        }))))
    }

    /// Runs `work`, which calls plugins. It starts on the thread at hand, as most calls are
    /// over before a thread could be woken up; what has not ended by the first tick moves to
    /// the plugin threads, so that no plugin holds up the network for longer.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut work: Pin<Box<dyn Future<Output = T> + Send>> = Box::pin(work);
        {
            // Timers that it sets belong to the plugin threads.
            let _entered = self.runtime().enter();
            // It is polled again on the plugin threads, with a waker of theirs.
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
                return result;
            }
        }
        match self.runtime().spawn(work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The engine is going down, and whoever waits with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// As [`PluginEngine::run`], for callers outside of asynchronous code.
    pub(super) fn run_blocking<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.runtime().handle().block_on(self.run(work))
    }

    fn runtime(&self) -> &Runtime {
        let Some(threads) = &self.0.threads else {
            unreachable!("the threads go when the engine does, and no simulation runs plugins");
        };
        threads
    }
}

fn start_threads() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(cores.max(THREADS_MIN))
        .thread_name("plugin")
        .enable_time()
        .build()
}

enum Compiled {
    Known(Plugin),
    New(Plugin),
}

impl Plugin {
    /// The SHA-256 of its bytes.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// What it implements.
    pub fn world(&self) -> World {
        match self.0.exports {
            Exports::Filter(_) => World::Filter,
            Exports::Transform(_) => World::Transform,
        }
    }

    /// Bytes of its component.
    pub fn size_bytes(&self) -> u64 {
        self.0.bytes as u64
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Dropping it would wait for calls that run, which asynchronous code must not do.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

impl std::fmt::Debug for PluginEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginEngine").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin")
            .field("digest", &self.digest())
            .field("world", &self.world())
            .finish()
    }
}

/// How WebAssembly is compiled and run. A change of it makes the files of the cache useless,
/// which wasmtime tells by its own compatibility hash.
fn config() -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES_MAX)
        .async_stack_size(CALL_STACK_BYTES)
        // A plugin has nothing to do concurrently, and calls are cheaper without.
        .concurrency_support(false)
        // The texts of errors name what failed; the names of functions are stripped anyway.
        .wasm_backtrace_max_frames(None);
    config
}

#[cfg(all(test, feature = "simulation"))]
mod tests {
    use super::*;
    use crate::executor::simulation;

    #[test]
    fn a_simulation_starts_no_plugin_threads_which_would_change_what_it_draws() {
        simulation::enter(simulation::Latencies::default());
        let engine = PluginEngine::without_cache().unwrap();
        assert!(engine.0.threads.is_none());
    }
}
