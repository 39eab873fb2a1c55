//! Waiting until the cluster has done what it was told.

use std::{mem, time::Duration};

use anstream::eprintln;
use anyhow::{Context, Result, bail};
use flumen_broker::config::Interval;
use flumen_client::{Client, RequestError};
use flumen_protocol::message::ClusterStatus;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep, timeout_at};

use crate::{failure::Interrupted, number::time_above_zero, output, stop};

/// How often the cluster is asked.
const POLL: Duration = Duration::from_millis(200);

/// How long the cluster may say nothing before nobody waits any more: more than it takes until others
/// lead what a broker has led.
const SILENCE_MAX: Duration = Duration::from_mins(1);

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
    /// Waits, if that was asked for, until `left` says that nothing is left, and returns the
    /// status that said so; none if nobody asked for it. What is left is shown as it shrinks.
    pub(super) async fn until_done(
        self,
        client: &Client,
        what: &str,
        left: impl Fn(&ClusterStatus) -> Result<u64>,
    ) -> Result<Option<ClusterStatus>> {
        if !self.wait {
            return Ok(None);
        }
        let after = self.timeout.duration();
        let admin = client.admin();
        tokio::select! {
            outcome = poll(async || admin.cluster_status().await, what, after, left) => outcome.map(Some),
            signal = stop::requested() => {
                let signal = signal.context("cannot listen to signals")?;
                let so_far = format!("before it was done; the cluster goes on: {what}");
                Err(Interrupted { signal, so_far }.into())
            }
        }
    }
}

/// Asks until nothing is left. A question without an answer ends nothing: whatever is asked of the
/// cluster is about brokers that come and go.
async fn poll(
    ask: impl AsyncFn() -> Result<ClusterStatus, RequestError>,
    what: &str,
    after: Duration,
    left: impl Fn(&ClusterStatus) -> Result<u64>,
) -> Result<ClusterStatus> {
    let deadline = Instant::now() + after;
    let mut heard = Instant::now();
    let mut progress = Progress::new(what);
    loop {
        let failure = match timeout_at(deadline, ask()).await {
            Ok(Ok(status)) => {
                let now_left = left(&status)?;
                progress.show(now_left);
                if now_left == 0 {
                    return Ok(status);
                }
                heard = Instant::now();
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let is_over = Instant::now() + POLL > deadline;
        let Some(error) = failure else {
            if is_over {
                bail!("not done within {after:?}, {}", progress.known());
            }
            sleep(POLL).await;
            continue;
        };
        let is_final = error.code().is_some_and(|code| !code.retryable());
        if is_final || is_over || heard.elapsed() >= SILENCE_MAX {
            let known = format!(
                "the cluster does not say how far it is, {}",
                progress.known()
            );
            return Err(anyhow::Error::new(error).context(known));
        }
        progress.tell_of(&error);
        sleep(POLL).await;
    }
}

/// What is known of something that the cluster does.
struct Progress<'a> {
    what: &'a str,
    bar: Option<ProgressBar>,
    most: u64,
    left: Option<u64>,
    /// Whether it was told that no answer comes.
    is_told: bool,
}

impl<'a> Progress<'a> {
    fn new(what: &'a str) -> Self {
        Self {
            what,
            bar: None,
            most: 0,
            left: None,
            is_told: false,
        }
    }

    fn show(&mut self, left: u64) {
        self.left = Some(left);
        self.is_told = false;
        if left > self.most || self.bar.is_none() {
            self.most = self.most.max(left);
            let bar = output::progress(Some(self.most), "moved");
            bar.set_message(self.what.to_owned());
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.most - left);
            if left == 0 {
                bar.finish_and_clear();
            }
        }
    }

    /// Tells, once, that no answer comes.
    fn tell_of(&mut self, error: &RequestError) {
        if !mem::replace(&mut self.is_told, true) {
            let tell = || eprintln!("no status for the time being, and asking again: {error}");
            match &self.bar {
                Some(bar) => bar.suspend(tell),
                None => tell(),
            }
        }
    }

    /// What to say of it when nobody waits any more.
    fn known(&self) -> String {
        let left = match self.left {
            Some(left) if self.is_told => format!("{left} left when it said so last"),
            Some(left) => format!("{left} left"),
            None => "and has not said so yet".to_owned(),
        };
        let what = self.what;
        format!(
            "{left}: {what}; the cluster goes on, and `flumen cluster status` shows how far it is"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use flumen_protocol::{error::ErrorCode, ids::BrokerId};

    use super::*;

    const AFTER: Duration = Duration::from_mins(10);

    fn no_answer() -> RequestError {
        RequestError::NoAnswer {
            what: "the state of the cluster",
            after: Duration::from_secs(30),
            text: None,
        }
    }

    fn moves_left(moves_left: u32) -> ClusterStatus {
        ClusterStatus {
            cluster: String::new(),
            answered_by: BrokerId(1),
            replication_factor: 3,
            moves_left,
            brokers: Vec::new(),
            shards: Vec::new(),
        }
    }

    /// Waits with these answers, and says what comes of it and how long it took.
    async fn wait(
        answer: impl Fn(u64) -> Result<ClusterStatus, RequestError>,
    ) -> (Result<ClusterStatus, String>, Duration) {
        let (asked, started) = (AtomicU64::new(0), Instant::now());
        let ask = async || answer(asked.fetch_add(1, Ordering::Relaxed));
        let left = |status: &ClusterStatus| Ok(u64::from(status.moves_left));
        let done = poll(ask, "draining broker 7", AFTER, left).await;
        let done = done.map_err(|error| crate::failure::describe(&error));
        (done, started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_does_not_come_for_a_while_ends_no_waiting() {
        let (done, _) = wait(|asked| match asked {
            0 => Ok(moves_left(2)),
            1..100 => Err(no_answer()),
            _ => Ok(moves_left(0)),
        })
        .await;
        assert_eq!(done.unwrap().moves_left, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_hears_nothing_for_long_is_told_what_is_known_and_how_to_look_again() {
        let (done, took) = wait(|asked| match asked {
            0 => Ok(moves_left(2)),
            _ => Err(no_answer()),
        })
        .await;
        let told = done.unwrap_err();
        for part in [
            "2 left when it said so last: draining broker 7",
            "the cluster goes on",
            "`flumen cluster status`",
            "no answer to the state of the cluster",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(SILENCE_MAX <= took && took < AFTER, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_cluster_refuses_is_not_asked_again() {
        let (done, took) = wait(|_| {
            Err(RequestError::Refused {
                what: "the state of the cluster",
                code: ErrorCode::Unauthenticated,
                text: "the token is not known".to_owned(),
            })
        })
        .await;
        let told = done.unwrap_err();
        assert!(told.contains("draining broker 7"), "{told}");
        assert!(told.contains("the token is not known"), "{told}");
        assert_eq!(took, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_left_to_the_cluster() {
        let (done, took) = wait(|_| Ok(moves_left(3))).await;
        let told = done.unwrap_err();
        assert!(told.contains("3 left: draining broker 7"), "{told}");
        assert!(took <= AFTER, "{took:?}");
    }
}
