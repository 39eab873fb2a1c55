//! Waiting until the cluster has done what it was told.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flumen_broker::config::Interval;
use flumen_client::Client;
use flumen_protocol::message::ClusterStatus;

use crate::{failure::Interrupted, number::time_above_zero, output, stop};

/// How often the cluster is asked.
const POLL: Duration = Duration::from_millis(200);

/// Whether and how long to wait.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Wait {
    /// Wait until it is done
    #[arg(long)]
    wait: bool,
    /// Give up waiting after so long; the cluster goes on
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10min",
        requires = "wait",
        value_parser = time_above_zero
    )]
    timeout: Interval,
}

impl Wait {
    /// Waits, if that was asked for, until `left` says that nothing is left; false if nobody
    /// asked for it. What is left is shown as it shrinks.
    pub(super) async fn until_done(
        self,
        client: &Client,
        what: &str,
        left: impl Fn(&ClusterStatus) -> Result<u64>,
    ) -> Result<bool> {
        if !self.wait {
            return Ok(false);
        }
        let after = self.timeout.duration();
        tokio::select! {
            outcome = poll(client, what, after, left) => outcome.map(|()| true),
            signal = stop::requested() => {
                let signal = signal.context("cannot listen to signals")?;
                let so_far = format!("before it was done; the cluster goes on: {what}");
                Err(Interrupted { signal, so_far }.into())
            }
        }
    }
}

async fn poll(
    client: &Client,
    what: &str,
    after: Duration,
    left: impl Fn(&ClusterStatus) -> Result<u64>,
) -> Result<()> {
    let deadline = Instant::now() + after;
    let admin = client.admin();
    let mut progress = None;
    let mut most = 0;
    loop {
        let now_left = left(&admin.cluster_status().await?)?;
        if now_left > most || progress.is_none() {
            most = most.max(now_left);
            let bar = output::progress(Some(most), "moved");
            bar.set_message(what.to_owned());
            progress = Some(bar);
        }
        if let Some(bar) = &progress {
            bar.set_position(most - now_left);
        }
        if now_left == 0 {
            break;
        }
        if Instant::now() + POLL > deadline {
            bail!(
                "not done within {after:?}, {now_left} left: {what}; the cluster goes on, and \
                 `flumen cluster status` shows how far it is"
            );
        }
        tokio::time::sleep(POLL).await;
    }
    if let Some(bar) = progress {
        bar.finish_and_clear();
    }
    Ok(())
}
