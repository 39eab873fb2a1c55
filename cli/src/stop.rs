//! Ctrl-C and SIGTERM.

use std::{fmt, future, io};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// What asks the process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Interrupt => "Ctrl-C",
            Self::Terminate => "SIGTERM",
        })
    }
}

impl Signal {
    /// The shells' convention for a process that a signal ended: 128 and the signal's number.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Waits until the process is asked to stop. A second request ends it at once.
///
/// From the first poll on, a task of its own listens: a command that cannot be stopped, because it
/// waits for somebody who reads nothing of what it prints, is still ended by a second request.
pub(crate) async fn requested() -> io::Result<Signal> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (first, requested) = oneshot::channel();
    tokio::spawn(async move {
        // A command that has ended by itself meanwhile waits for nothing any more.
        let _ = first.send(either(&mut interrupt, &mut terminate).await);
        let second = either(&mut interrupt, &mut terminate).await;
        std::process::exit(second.exit_code().into());
    });
    match requested.await {
        Ok(signal) => Ok(signal),
        // The task was ended with its runtime, and so is this one.
        Err(_) => future::pending().await,
    }
}

async fn either(
    interrupt: &mut tokio::signal::unix::Signal,
    terminate: &mut tokio::signal::unix::Signal,
) -> Signal {
    tokio::select! {
        _ = interrupt.recv() => Signal::Interrupt,
        _ = terminate.recv() => Signal::Terminate,
    }
}
