//! A cluster of brokers that a benchmark starts, kills and starts again.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use flumen_client::Client;
use flumen_protocol::{ids::BrokerId, message::ClusterStatus};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use super::child::{Process, this_program};
use crate::{commands::bench::ClusterArguments, connect::Connection};

/// How long brokers may take to start, to join, and to be well again.
const PATIENCE: Duration = Duration::from_mins(2);

/// How often they are looked at.
const POLL: Duration = Duration::from_millis(50);

/// Brokers as processes of their own, on one machine and disk.
#[derive(Debug)]
pub(super) struct Cluster {
    brokers: Vec<Member>,
    wal_sync: Option<String>,
    /// Removed when the benchmark is over.
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    address: SocketAddr,
    data_dir: PathBuf,
    process: Process,
}

impl Cluster {
    /// Starts as many brokers as are asked for: the first makes a cluster, the others join it.
    pub(super) async fn start(arguments: &ClusterArguments) -> Result<Self> {
        let parent = &arguments.temporary_dir;
        let dir = tempfile::Builder::new()
            .prefix("flumen-bench-")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        let mut cluster = Self {
            brokers: Vec::new(),
            wal_sync: arguments.wal_sync.clone(),
            dir,
        };
        cluster.add(&["--bootstrap"]).await?;
        let client = cluster.connect().await?;
        let token = client.admin().create_join_token(PATIENCE).await?;
        for _ in 1..arguments.brokers {
            cluster.add(&["--join", &token]).await?;
        }
        cluster.until_well(&client).await?;
        client.close().await;
        Ok(cluster)
    }

    async fn add(&mut self, how: &[&str]) -> Result<()> {
        let address = free_address()?;
        let data_dir = self.dir.path().join(self.brokers.len().to_string());
        let mut command = self.command(address, &data_dir)?;
        let process = Process::start(command.args(how)).context("cannot start a broker")?;
        self.brokers.push(Member {
            address,
            data_dir,
            process,
        });
        let deadline = Instant::now() + PATIENCE;
        let added = self.brokers.len() - 1;
        while !self.profile(added).exists() {
            let broker = &mut self.brokers[added];
            if let Some(status) = broker.process.try_wait()? {
                bail!("a broker ended at its start: {status}");
            }
            if Instant::now() > deadline {
                bail!("a broker did not start within {PATIENCE:?}");
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn command(&self, address: SocketAddr, data_dir: &PathBuf) -> Result<Command> {
        let mut command = this_program()?;
        command
            .args(["serve", "--admin", "127.0.0.1:0", "--log", "error"])
            .args(["--listen", &address.to_string()])
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(sync) = &self.wal_sync {
            command.args(["--wal-sync", sync]);
        }
        Ok(command)
    }

    fn profile(&self, broker: usize) -> PathBuf {
        self.brokers[broker].data_dir.join("client.toml")
    }

    /// Connects as a service does, with what the first broker tells its clients.
    pub(super) async fn connect(&self) -> Result<Client> {
        let profile = self.profile(0);
        Connection::by_profile_file(&profile).connect().await
    }

    /// Waits until the cluster is healthy and nothing is left to be moved.
    pub(super) async fn until_well(&self, client: &Client) -> Result<ClusterStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let problems = match client.admin().cluster_status().await {
                Ok(status) => {
                    let mut problems = status.problems();
                    if status.brokers.len() < self.brokers.len() {
                        problems.push("not all brokers have joined".to_owned());
                    }
                    if status.moves_left > 0 {
                        problems.push(format!("{} left to be moved", status.moves_left));
                    }
                    if problems.is_empty() {
                        return Ok(status);
                    }
                    problems.join("; ")
                }
                Err(error) if error.code().is_some_and(|code| !code.retryable()) => {
                    return Err(error.into());
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                bail!("the cluster is not well after {PATIENCE:?}: {problems}");
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Which of the processes is the broker of that id.
    pub(super) fn position(&self, status: &ClusterStatus, id: BrokerId) -> Result<usize> {
        let broker = status.broker(id).context("the leader is not known")?;
        let is_it = |member: &Member| member.address.to_string() == broker.address;
        let found = self.brokers.iter().position(is_it);
        found.with_context(|| format!("broker {broker} was not started by this benchmark"))
    }

    /// Ends a broker with SIGKILL and waits until it is gone.
    pub(super) async fn kill(&mut self, broker: usize) -> Result<()> {
        self.brokers[broker].process.kill().await?;
        Ok(())
    }

    /// Ends a broker with SIGTERM and waits until it has handed over and stopped.
    pub(super) async fn terminate(&mut self, broker: usize) -> Result<ExitStatus> {
        let process = &mut self.brokers[broker].process;
        let id = process.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let id = id.context("the broker has ended already")?;
        kill_process(id, Signal::TERM)?;
        let ended = tokio::time::timeout(PATIENCE, process.wait()).await;
        Ok(ended.context("the broker does not stop")??)
    }

    /// Starts a broker that was ended.
    pub(super) fn restart(&mut self, broker: usize) -> Result<()> {
        let Member {
            address, data_dir, ..
        } = &self.brokers[broker];
        let process = Process::start(&mut self.command(*address, data_dir)?);
        self.brokers[broker].process = process.context("cannot start a broker again")?;
        Ok(())
    }

    /// Ends all brokers.
    pub(super) async fn stop(mut self) -> Result<()> {
        for broker in &mut self.brokers {
            broker.process.kill().await?;
        }
        Ok(())
    }
}

/// An address that nobody listens on, to be used again and again.
fn free_address() -> Result<SocketAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no UDP port is free")?;
    Ok(socket.local_addr()?)
}
