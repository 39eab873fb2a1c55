//! Processes that a benchmark starts: a broker, or the other end of bare QUIC.

use std::{
    env, io,
    ops::{Deref, DerefMut},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use flumen_client::Client;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{commands::bench::BrokerArguments, connect::Connection, systemd};

/// How long a broker may take to start.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// How often its profile is looked for.
const START_POLL: Duration = Duration::from_millis(5);

/// How long a process that was killed may take to be gone.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether it is.
const END_POLL: Duration = Duration::from_millis(1);

/// This program again, as another process that ends with this one.
pub(super) fn this_program() -> Result<Command> {
    let program = env::current_exe().context("cannot find this program on disk")?;
    let mut command = Command::new(program);
    // What the user set for the benchmark is not for its children.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("FLUMEN_") {
            command.env_remove(name);
        }
    }
    // Nor is a broker to measure the one that the service manager waits for.
    command.env_remove(systemd::SOCKET_VARIABLE);
    command.kill_on_drop(true);
    Ok(command)
}

/// A process that a benchmark has started. Dropped, it is ended and waited for: as long as it lives, it
/// writes into a directory that is about to be removed.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.start_kill().is_err() {
            return;
        }
        let deadline = Instant::now() + END_TIMEOUT;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(END_POLL);
        }
    }
}

/// A broker to measure: one of its own, or the user's.
#[derive(Debug)]
pub(crate) struct Target {
    connection: Connection,
    broker: Option<OwnBroker>,
}

#[derive(Debug)]
struct OwnBroker {
    process: Process,
    /// Removed when the benchmark is over.
    _dir: TempDir,
}

impl Target {
    /// Starts a broker, unless the user named one.
    pub(crate) async fn start(arguments: &BrokerArguments) -> Result<Self> {
        if arguments.connection.is_given() {
            return Ok(Self {
                connection: arguments.connection.clone(),
                broker: None,
            });
        }
        let parent = &arguments.temporary_dir;
        let dir = tempfile::Builder::new()
            .prefix("flumen-bench-")
            .tempdir_in(parent)
            .with_context(|| {
                format!(
                    "cannot make a directory in {}; name another place on disk with --temporary-dir",
                    parent.display()
                )
            })?;
        let data_dir = dir.path().join("data");
        let mut command = this_program()?;
        command
            .arg("serve")
            .args([
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--log",
                "warn",
            ])
            .arg("--data-dir")
            .arg(&data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(sync) = &arguments.wal_sync {
            command.args(["--wal-sync", sync]);
        }
        if let Some(bytes) = &arguments.wal_bytes_max {
            command.args(["--wal-bytes-max", &bytes.to_string()]);
        }
        let process = Process::start(&mut command).context("cannot start a broker")?;
        let profile = data_dir.join("client.toml");
        let mut target = Self {
            connection: Connection::by_profile_file(&profile),
            broker: Some(OwnBroker { process, _dir: dir }),
        };
        target.wait_until_it_serves(&profile).await?;
        Ok(target)
    }

    /// The broker writes its profile once it serves.
    async fn wait_until_it_serves(&mut self, profile: &Path) -> Result<()> {
        let Some(broker) = &mut self.broker else {
            return Ok(());
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while !profile.exists() {
            if let Some(status) = broker.process.try_wait()? {
                bail!("the broker ended at its start: {status}");
            }
            if Instant::now() > deadline {
                bail!("the broker did not start within {START_TIMEOUT:?}");
            }
            tokio::time::sleep(START_POLL).await;
        }
        Ok(())
    }

    /// Connects to it, with a connection of its own each time.
    pub(crate) async fn connect(&self) -> Result<Client> {
        self.connection.connect().await
    }

    /// What the broker says of its sync policy.
    pub(crate) async fn wal_sync(&self) -> Result<String> {
        let client = self.connect().await?;
        Ok(client.admin().status().await?.wal_sync)
    }

    /// Ends the broker, if it was started here.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(mut broker) = self.broker.take() {
            broker
                .process
                .kill()
                .await
                .map_err(|error| anyhow!("cannot end the broker: {error}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_does_not_speak_to_the_service_manager() {
        let command = this_program().unwrap();
        let removed = (systemd::SOCKET_VARIABLE.as_ref(), None);
        assert!(command.as_std().get_envs().any(|set| set == removed));
    }
}
