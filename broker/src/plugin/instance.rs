//! One instance of a plugin: a store of its own, called under a deadline.
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::{Duration, Instant},
};

use flumen_protocol::plugin::World;
use tokio::time::Sleep;
use wasmtime::{Store, Trap, UpdateDeadline};

use super::{
    engine::{Exports, Plugin, PluginEngine},
    error::{CallError, DeployError},
    host::{HostState, Refused, Voice},
    limits::{INIT_TIMEOUT, MEMORY_BYTES_RANGE, OUTPUT_BYTES_MAX, cut},
    wit::{
        filtering::{self, Verdicts},
        transforming::{self, Transformed},
        types::RecordsParam,
    },
};

/// An instance that is ready to be called.
pub(super) struct Instance {
    store: Store<HostState>,
    guest: Guest,
    memory_bytes_max: u64,
}

enum Guest {
    Filter(filtering::Guest),
    Transform(transforming::Guest),
}

/// The epoch callback found the deadline passed.
#[derive(Debug)]
struct DeadlinePassed;

impl std::fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the deadline has passed")
    }
}

impl std::error::Error for DeadlinePassed {}

/// Why `init` did not succeed.
pub(super) enum InitError {
    /// The plugin said so.
    Refused(String),
    /// It failed.
    Failed(CallError),
}

impl Instance {
    /// Makes an instance and runs its start-up code, but not `init`.
    pub(super) async fn start(
        engine: &PluginEngine,
        plugin: &Plugin,
        memory_bytes_max: u64,
        voice: Voice,
    ) -> Result<Self, CallError> {
        let state = HostState::new(memory_bytes_max, voice);
        let mut store = Store::new(&engine.0.wasmtime, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(OUTPUT_BYTES_MAX);
        store.epoch_deadline_callback(|store| {
            if Instant::now() >= store.data().deadline {
                Err(DeadlinePassed.into())
            } else {
                Ok(UpdateDeadline::Yield(1))
            }
        });
        let deadline = begin(&mut store, INIT_TIMEOUT);
        let started = async {
            let instance = plugin.0.pre.instantiate_async(&mut store).await?;
            let guest = match &plugin.0.exports {
                Exports::Filter(indices) => indices.load(&mut store, &instance).map(Guest::Filter),
                Exports::Transform(indices) => {
                    indices.load(&mut store, &instance).map(Guest::Transform)
                }
            };
            Ok(guest.map_err(|error| CallError::Types(cut(format!("{error:#}")))))
        };
        let running = engine.0.ticker.running();
        let result = until(deadline, started).await;
        drop(running);
        let timeout = CallError::InitTimeout;
        match result {
            Ok(guest) => {
                let guest = guest?;
                store.data_mut().end();
                Ok(Self {
                    store,
                    guest,
                    memory_bytes_max,
                })
            }
            Err(error) => Err(explain(&mut store, &error, timeout, memory_bytes_max)),
        }
    }

    /// Starts a plugin to see whether it does.
    pub(super) async fn trial(engine: PluginEngine, plugin: Plugin) -> Result<(), DeployError> {
        let voice = Voice {
            plugin: "deploy".into(),
            topic: "".into(),
            counters: std::sync::Arc::default(),
            has_dropped: std::sync::Arc::default(),
        };
        match Self::start(&engine, &plugin, *MEMORY_BYTES_RANGE.end(), voice).await {
            Ok(_) => Ok(()),
            Err(CallError::Types(text)) => Err(DeployError::WrongTypes(text)),
            Err(error) => Err(DeployError::Start(error)),
        }
    }

    /// Calls `init`.
    pub(super) async fn init(
        &mut self,
        engine: &PluginEngine,
        config: &str,
    ) -> Result<(), InitError> {
        let deadline = begin(&mut self.store, INIT_TIMEOUT);
        let running = engine.0.ticker.running();
        let result = match &self.guest {
            Guest::Filter(guest) => until(deadline, guest.call_init(&mut self.store, config)).await,
            Guest::Transform(guest) => {
                until(deadline, guest.call_init(&mut self.store, config)).await
            }
        };
        drop(running);
        match self.finish(result, CallError::InitTimeout) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(text)) => Err(InitError::Refused(cut(text))),
            Err(error) => Err(InitError::Failed(error)),
        }
    }

    /// Calls a filter. After an error that is no answer the instance must not be used again.
    pub(super) async fn filter(
        &mut self,
        engine: &PluginEngine,
        records: RecordsParam<'_>,
        timeout_ms: u32,
    ) -> Result<Verdicts, CallError> {
        let Guest::Filter(guest) = &self.guest else {
            unreachable!("a transform is not called as a filter");
        };
        let deadline = begin(&mut self.store, Duration::from_millis(timeout_ms.into()));
        let running = engine.0.ticker.running();
        let result = until(deadline, guest.call_filter(&mut self.store, records)).await;
        drop(running);
        let answer = self.finish(result, CallError::Timeout { timeout_ms })?;
        answer.map_err(|text| CallError::Plugin(cut(text)))
    }

    /// Calls a transform. After an error that is no answer the instance must not be used again.
    pub(super) async fn transform(
        &mut self,
        engine: &PluginEngine,
        records: RecordsParam<'_>,
        timeout_ms: u32,
    ) -> Result<Transformed, CallError> {
        let Guest::Transform(guest) = &self.guest else {
            unreachable!("a filter is not called as a transform");
        };
        let deadline = begin(&mut self.store, Duration::from_millis(timeout_ms.into()));
        let running = engine.0.ticker.running();
        let result = until(deadline, guest.call_transform(&mut self.store, records)).await;
        drop(running);
        let answer = self.finish(result, CallError::Timeout { timeout_ms })?;
        answer.map_err(|text| CallError::Plugin(cut(text)))
    }

    /// The world that it implements.
    pub(super) fn world(&self) -> World {
        match self.guest {
            Guest::Filter(_) => World::Filter,
            Guest::Transform(_) => World::Transform,
        }
    }

    /// Bytes of its memories.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().limiter.memory_bytes()
    }

    fn finish<T>(
        &mut self,
        result: wasmtime::Result<T>,
        timeout: CallError,
    ) -> Result<T, CallError> {
        match result {
            Ok(value) => {
                self.store.data_mut().end();
                Ok(value)
            }
            Err(error) => Err(explain(
                &mut self.store,
                &error,
                timeout,
                self.memory_bytes_max,
            )),
        }
    }
}

fn begin(store: &mut Store<HostState>, timeout: Duration) -> Instant {
    let deadline = Instant::now() + timeout;
    store.data_mut().begin(deadline);
    store.set_epoch_deadline(1);
    deadline
}

/// Waits for a call, but not past its deadline. The epoch ends code that runs; this ends a
/// call that waits in the host, such as one that sleeps.
async fn until<T>(
    deadline: Instant,
    call: impl Future<Output = wasmtime::Result<T>>,
) -> wasmtime::Result<T> {
    let mut call = pin!(call);
    let mut alarm: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|ctx| {
        if let Poll::Ready(result) = call.as_mut().poll(ctx) {
            return Poll::Ready(result);
        }
        // Most calls end at the first poll and need no timer.
        alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline.into())))
            .as_mut()
            .poll(ctx)
            .map(|()| Err(DeadlinePassed.into()))
    })
    .await
}

/// Why a call has failed, in the plugin's own words if it left any.
fn explain(
    store: &mut Store<HostState>,
    error: &wasmtime::Error,
    timeout: CallError,
    memory_bytes_max: u64,
) -> CallError {
    let state = store.data_mut();
    let written = state.end();
    if error.is::<DeadlinePassed>() {
        return timeout;
    }
    match state.limiter.refused {
        Some(Refused::Memory) => {
            return CallError::Memory {
                bytes_max: memory_bytes_max,
            };
        }
        Some(Refused::Tables) => return CallError::Tables,
        None => {}
    }
    if error.downcast_ref::<Trap>() == Some(&Trap::StackOverflow) {
        return CallError::Stack;
    }
    if let Some((message, index)) = state.last_words.take() {
        return CallError::LastWords { message, index };
    }
    let root = error.root_cause().to_string();
    // Wasmtime has no public type for it; a test holds the text.
    if root.contains("fuel allocated for hostcalls has been exhausted") {
        return CallError::Output;
    }
    if written.trim().is_empty() {
        CallError::Trap(cut(root))
    } else {
        CallError::LastWords {
            message: cut(written.trim().to_owned()),
            index: None,
        }
    }
}
