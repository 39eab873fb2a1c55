//! A broker as a process of its own, started, stopped and killed.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long a broker may take to start or to stop.
const TIMEOUT: Duration = Duration::from_mins(1);

/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(10);

/// Killed when dropped.
pub(super) struct Broker(Child);

impl Broker {
    /// Starts a broker; when this returns, it serves.
    pub(super) fn start(flumen: &Path, data_dir: &Path) -> Result<Self> {
        let profile = data_dir.join("client.toml");
        // The broker writes it once it serves, each time it starts.
        let before = modified(&profile);
        println!("  $ flumen serve --data-dir DIR --listen 127.0.0.1:0 &");
        let child = Command::new(flumen)
            .arg("serve")
            .arg("--data-dir")
            .arg(data_dir)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "none",
                "--log",
                "warn",
            ])
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the broker")?;
        let mut broker = Self(child);
        let started = Instant::now();
        while modified(&profile) == before {
            if let Some(status) = broker.0.try_wait()? {
                bail!("the broker ended at its start: {status}");
            }
            if started.elapsed() > TIMEOUT {
                bail!("the broker did not start within {TIMEOUT:?}");
            }
            thread::sleep(POLL);
        }
        println!("  it is ready after {:.0?}", started.elapsed());
        Ok(broker)
    }

    /// Asks the broker to stop, as an operator would, and waits until it has.
    pub(super) fn stop(mut self) -> Result<()> {
        let id = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status()?;
        if !asked.success() {
            bail!("cannot ask the broker to stop: {asked}");
        }
        let started = Instant::now();
        while started.elapsed() < TIMEOUT {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the broker stopped with {status}"),
                None => thread::sleep(POLL),
            }
        }
        bail!("the broker did not stop within {TIMEOUT:?}");
    }

    /// Ends the broker without a warning, as a crash would.
    pub(super) fn kill(mut self) -> Result<()> {
        self.0.kill().context("cannot kill the broker")?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}
