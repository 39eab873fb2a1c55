//! What stands behind an instance: the limits that it grows against, the few host functions
//! that it may call, and what it has said.
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime::{
    ResourceLimiter,
    component::{HasData, HasSelf, Linker, ResourceTable},
};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView},
    clocks::{WasiClocks, WasiClocksView},
    filesystem::{WasiFilesystem, WasiFilesystemView},
    p2::{self, OutputStream, Pollable, StreamResult},
    random::{WasiRandom, WasiRandomView},
};

use super::{
    limits::{
        CONSOLE_BYTES_PER_CALL_MAX, CORE_INSTANCES_MAX, COUNTER_NAME_CHARS_MAX,
        COUNTERS_PER_BINDING_MAX, HOST_RESOURCES_MAX, LOG_LINES_PER_CALL_MAX, MEMORIES_MAX,
        RANDOM_BYTES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX, cut,
    },
    wit,
};

/// The state of one instance on the host's side.
pub(super) struct HostState {
    wasi: WasiCtx,
    resources: ResourceTable,
    pub(super) limiter: Limiter,
    /// When the call that runs must have ended.
    pub(super) deadline: Instant,
    pub(super) last_words: Option<(String, Option<u32>)>,
    voice: Voice,
    lines_in_call: u32,
    console: Console,
}

/// Where what a plugin says goes: who says it, and the binding's counters.
#[derive(Clone)]
pub(super) struct Voice {
    pub(super) plugin: Arc<str>,
    pub(super) topic: Arc<str>,
    pub(super) counters: Arc<Mutex<BTreeMap<String, u64>>>,
    /// Whether the log says that a counter is dropped: once is enough for all that are.
    pub(super) has_dropped: Arc<AtomicBool>,
}

impl HostState {
    pub(super) fn new(memory_bytes_max: u64, voice: Voice) -> Self {
        let console = Console::default();
        let wasi = WasiCtx::builder()
            .stdout(console.clone())
            .stderr(console.clone())
            .max_random_size(RANDOM_BYTES_MAX)
            .build();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(HOST_RESOURCES_MAX);
        Self {
            wasi,
            resources,
            limiter: Limiter::new(memory_bytes_max),
            deadline: Instant::now(),
            last_words: None,
            voice,
            lines_in_call: 0,
            console,
        }
    }

    /// Gets ready for a call that must end by `deadline`.
    pub(super) fn begin(&mut self, deadline: Instant) {
        self.deadline = deadline;
        self.lines_in_call = 0;
        self.limiter.refused = None;
    }

    /// Hands what the call has written to the log; returns it, for an error's text.
    pub(super) fn end(&mut self) -> String {
        if self.lines_in_call > LOG_LINES_PER_CALL_MAX {
            tracing::warn!(
                target: "flumen::plugin", plugin = %self.voice.plugin, topic = %self.voice.topic,
                lines = self.lines_in_call - LOG_LINES_PER_CALL_MAX,
                "lines dropped: a call may log {LOG_LINES_PER_CALL_MAX}",
            );
        }
        let written = self.console.take();
        for line in written.lines() {
            tracing::info!(
                target: "flumen::plugin", plugin = %self.voice.plugin, topic = %self.voice.topic,
                "{line}",
            );
        }
        written
    }
}

/// Lets a plugin's memories and tables grow up to their limits.
pub(super) struct Limiter {
    memory_bytes_max: usize,
    memory_bytes: usize,
    table_elements: usize,
    /// The limit that the running call has met.
    pub(super) refused: Option<Refused>,
}

/// A limit that growing has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Memory,
    Tables,
}

impl Limiter {
    fn new(memory_bytes_max: u64) -> Self {
        Self {
            memory_bytes_max: usize::try_from(memory_bytes_max).unwrap_or(usize::MAX),
            memory_bytes: 0,
            table_elements: 0,
            refused: None,
        }
    }

    /// Bytes of all memories.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }
}

impl ResourceLimiter for Limiter {
    /// A plugin is told that there is no more, as on any machine; what it makes of that (most
    /// abort) is then explained by `refused`.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown = self
            .memory_bytes
            .saturating_add(desired.saturating_sub(current));
        let allowed = grown <= self.memory_bytes_max;
        if allowed {
            self.memory_bytes = grown;
        } else {
            self.refused = Some(Refused::Memory);
        }
        Ok(allowed)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let grown = self
            .table_elements
            .saturating_add(desired.saturating_sub(current));
        let allowed = grown <= TABLE_ELEMENTS_MAX;
        if allowed {
            self.table_elements = grown;
        } else {
            self.refused = Some(Refused::Tables);
        }
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

impl wit::host::Host for HostState {
    fn log(&mut self, level: wit::host::Level, message: String) {
        self.lines_in_call = self.lines_in_call.saturating_add(1);
        if self.lines_in_call > LOG_LINES_PER_CALL_MAX {
            return;
        }
        let message = cut(message);
        let Voice { plugin, topic, .. } = &self.voice;
        match level {
            wit::host::Level::Error => {
                tracing::error!(target: "flumen::plugin", %plugin, %topic, "{message}");
            }
            wit::host::Level::Warn => {
                tracing::warn!(target: "flumen::plugin", %plugin, %topic, "{message}");
            }
            wit::host::Level::Info => {
                tracing::info!(target: "flumen::plugin", %plugin, %topic, "{message}");
            }
            wit::host::Level::Debug => {
                tracing::debug!(target: "flumen::plugin", %plugin, %topic, "{message}");
            }
            wit::host::Level::Trace => {
                tracing::trace!(target: "flumen::plugin", %plugin, %topic, "{message}");
            }
        }
    }

    fn count(&mut self, name: String, amount: u64) {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        let named_well =
            (1..=COUNTER_NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(allowed);
        let mut counters = self.voice.counters.lock();
        if let Some(sum) = counters.get_mut(&name) {
            *sum = sum.saturating_add(amount);
        } else if named_well && counters.len() < COUNTERS_PER_BINDING_MAX {
            counters.insert(name, amount);
        } else if !self.voice.has_dropped.swap(true, Ordering::Relaxed) {
            drop(counters);
            self.log(
                wit::host::Level::Warn,
                format!(
                    "counter {name:?} is dropped: a binding may have {COUNTERS_PER_BINDING_MAX}, \
                     named by 1 to {COUNTER_NAME_CHARS_MAX} of a-z, 0-9 and _"
                ),
            );
        }
    }

    fn last_words(&mut self, message: String, index: Option<u32>) {
        self.last_words = Some((cut(message), index));
    }
}

impl WasiView for HostState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.resources,
        }
    }
}

struct HasIo;

impl HasData for HasIo {
    type Data<'a> = &'a mut ResourceTable;
}

/// Offers what plugins are given. Of `wasi:filesystem` there are only the names, as every
/// standard library asks for them: without a directory to start from, none of its functions
/// can be called. Sockets and HTTP are not offered at all.
pub(super) fn offer(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    use p2::bindings::{cli, clocks, filesystem, io, random};
    type S = HostState;

    wit::host::add_to_linker::<S, HasSelf<S>>(linker, |state| state)?;
    io::error::add_to_linker::<S, HasIo>(linker, |state| &mut state.resources)?;
    io::poll::add_to_linker::<S, HasIo>(linker, |state| &mut state.resources)?;
    io::streams::add_to_linker::<S, HasIo>(linker, |state| &mut state.resources)?;
    clocks::wall_clock::add_to_linker::<S, WasiClocks>(linker, S::clocks)?;
    clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(linker, S::clocks)?;
    random::random::add_to_linker::<S, WasiRandom>(linker, S::random)?;
    random::insecure::add_to_linker::<S, WasiRandom>(linker, S::random)?;
    random::insecure_seed::add_to_linker::<S, WasiRandom>(linker, S::random)?;
    cli::exit::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::environment::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::stdin::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::stdout::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::stderr::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_input::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_output::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_stdin::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_stdout::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    cli::terminal_stderr::add_to_linker::<S, WasiCli>(linker, S::cli)?;
    filesystem::types::add_to_linker::<S, WasiFilesystem>(linker, S::filesystem)?;
    filesystem::preopens::add_to_linker::<S, WasiFilesystem>(linker, S::filesystem)?;
    Ok(())
}

/// Standard output and error: what a call writes, up to a limit; the rest is swallowed.
#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Console {
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock());
        if bytes.is_empty() {
            return String::new();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn put(&self, bytes: &[u8]) {
        let mut written = self.0.lock();
        let room = CONSOLE_BYTES_PER_CALL_MAX.saturating_sub(written.len());
        written.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl IsTerminal for Console {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Console {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Console {
    async fn ready(&mut self) {}
}

impl OutputStream for Console {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CONSOLE_BYTES_PER_CALL_MAX)
    }
}

impl AsyncWrite for Console {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        self.put(bytes);
        std::task::Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_dropped_are_told_of_once() {
        let voice = Voice {
            plugin: "p".into(),
            topic: "t".into(),
            counters: Arc::default(),
            has_dropped: Arc::default(),
        };
        let mut state = HostState::new(0, voice);
        for _ in 0..3 {
            wit::host::Host::count(&mut state, "No Name".to_owned(), 1);
        }
        assert_eq!(state.lines_in_call, 1);
        assert!(state.voice.counters.lock().is_empty());
    }
}
