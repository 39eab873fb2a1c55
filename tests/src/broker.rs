//! A `flumen serve` process to start, kill and start again.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use flumen_client::{Client, Profile};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{network::Host, wait::DEADLINE};

/// The port of a broker that has a host for itself.
const HOST_PORT: u16 = 4650;

/// A broker process on a data directory of its own. Dropping it kills the process.
#[derive(Debug)]
pub struct Broker {
    dir: Home,
    namespace: Option<String>,
    listen: SocketAddr,
    args: Vec<String>,
    child: Option<Child>,
}

/// Where a broker runs and its data lies. By default on loopback, in a directory of its own.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// A directory that outlives the broker.
    pub dir: Option<PathBuf>,
    /// A host of a network that can be cut.
    pub host: Option<Host>,
}

#[derive(Debug)]
enum Home {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Broker {
    /// Starts a broker on an empty temporary directory and waits until it serves.
    ///
    /// # Panics
    /// When it does not start; its log is in the message.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Broker::start`], with more arguments for `flumen serve`.
    pub async fn start_with(args: &[&str]) -> Self {
        Self::start_at(Place::default(), args).await
    }

    /// As [`Broker::start_with`], on a directory that outlives the broker.
    pub async fn start_in(dir: &Path, args: &[&str]) -> Self {
        Self::start_at(Place::of(dir), args).await
    }

    /// As [`Broker::start_with`], at a place.
    pub async fn start_at(place: Place, args: &[&str]) -> Self {
        let mut broker = Self::prepare(place, args);
        broker.restart().await;
        broker
    }

    /// As [`Broker::start_in`], but nothing is started yet.
    pub fn prepare_in(dir: &Path, args: &[&str]) -> Self {
        Self::prepare(Place::of(dir), args)
    }

    fn prepare(place: Place, args: &[&str]) -> Self {
        let dir = match place.dir {
            Some(dir) => Home::Given(dir),
            None => Home::Temporary(tempfile::tempdir().unwrap()),
        };
        let listen = match &place.host {
            Some(host) => SocketAddr::new(host.address.into(), HOST_PORT),
            None => free_address(),
        };
        let mut broker = Self {
            dir,
            namespace: place.host.map(|host| host.namespace),
            listen,
            args: Vec::new(),
            child: None,
        };
        broker.set_arguments(args);
        broker
    }

    /// Sets the further arguments of later starts.
    pub fn set_arguments(&mut self, args: &[&str]) {
        self.args = args.iter().map(|arg| (*arg).to_owned()).collect();
    }

    /// Adds an argument to those of later starts.
    pub fn add_argument(&mut self, arg: &str) {
        self.args.push(arg.to_owned());
    }

    /// Starts the process again, on the same address and data, and waits until it serves.
    ///
    /// # Panics
    /// When it does not start; its log is in the message.
    pub async fn restart(&mut self) {
        self.spawn();
        self.until_serving().await;
    }

    /// Waits until the process, once spawned, serves.
    ///
    /// # Panics
    /// When it does not start; its log is in the message.
    pub async fn until_serving(&mut self) {
        if let Err(error) = self.wait_until_serving().await {
            panic!("{error:#}\nthe broker's log:\n{}", self.log());
        }
    }

    /// Starts the process again; false if it refuses and ends.
    pub async fn try_restart(&mut self) -> bool {
        self.spawn();
        self.wait_until_serving().await.is_ok()
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the broker runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = self.program();
        command.arg("serve");
        if !self.args.iter().any(|arg| arg.starts_with("--admin")) {
            command.arg("--admin=none");
        }
        let child = command
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--listen", &self.listen.to_string()])
            .args(&self.args)
            .env_remove("FLUMEN_PROFILE")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// The program, on the host of this broker. The process is the program's own all the same.
    fn program(&self) -> Command {
        let Some(namespace) = &self.namespace else {
            return Command::new(binary());
        };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}"));
        command.arg(binary());
        command
    }

    async fn wait_until_serving(&mut self) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.as_mut().unwrap().try_wait()? {
                self.child = None;
                bail!("the broker exited with {status}");
            }
            let tried = match self.profile() {
                Ok(profile) => Client::connect(profile).await.map_err(Into::into),
                Err(error) => Err(error),
            };
            match tried {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Where its data lies.
    pub fn data_dir(&self) -> PathBuf {
        match &self.dir {
            Home::Temporary(dir) => dir.path().join("data"),
            Home::Given(dir) => dir.clone(),
        }
    }

    fn log_path(&self) -> PathBuf {
        match &self.dir {
            Home::Temporary(dir) => dir.path().join("log"),
            Home::Given(dir) => dir.with_extension("log"),
        }
    }

    /// What the process has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The profile that the broker wrote.
    pub fn profile(&self) -> Result<Profile> {
        let profile = Profile::read(&self.data_dir().join("client.toml"))?;
        let address = self.listen.to_string();
        ensure!(
            profile.contents().brokers.first() == Some(&address),
            "the profile is not of this run"
        );
        Ok(profile)
    }

    /// A new client of this broker.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn client(&self) -> Client {
        Client::connect(self.profile().unwrap()).await.unwrap()
    }

    /// Its address for clients.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Whether the process is there, as far as was done to it here; it may be paused.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Has later starts listen on another address.
    pub fn move_away(&mut self) {
        self.listen = free_address();
    }

    /// Has later starts listen on this address.
    pub fn move_to(&mut self, address: SocketAddr) {
        self.listen = address;
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Kills it as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop (SIGTERM) and waits until it has.
    ///
    /// # Panics
    /// When it does not stop within the deadline.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit()
    }

    /// Waits until the process has ended by itself because it was removed from its cluster, and
    /// checks that it has said what to do, after the first `logged_before` bytes of its log.
    ///
    /// # Panics
    /// When it ends otherwise, or not within the deadline.
    pub fn assert_ends_as_removed(&mut self, logged_before: usize) {
        assert_eq!(self.wait_for_exit().code(), Some(1));
        let said = self.log()[logged_before..].to_owned();
        for part in [
            "was removed from the cluster for good",
            "empty its data directory",
            "--join",
        ] {
            assert!(said.contains(part), "{part} is missing in:\n{said}");
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// When it does not end within the deadline.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        panic!("the broker did not stop; its log:\n{}", self.log());
    }
}

impl Place {
    fn of(dir: &Path) -> Self {
        Self {
            dir: Some(dir.to_owned()),
            host: None,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the broker's log:\n{}", self.log());
        }
        self.kill();
    }
}

/// An address that nobody uses at the moment.
fn free_address() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap()
}

/// The `flumen` program of this build.
///
/// `cargo test --workspace` has built it by now, so that asking for it again costs nothing; if
/// only some packages are tested, it is built here, in the same way: asking for it alone would
/// resolve other features and build every dependency anew.
///
/// # Panics
/// When it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["test", "--quiet", "--workspace", "--no-run"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let built = build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(built.success(), "the `flumen` program cannot be built");
        // Test programs lie in `deps` beside it.
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        if path.ends_with("deps") {
            path.pop();
        }
        path.join("flumen")
    })
}
