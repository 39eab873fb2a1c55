//! Running the program as a user does, with a home directory of its own.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long a broker may take to start or to stop, on a machine that is busy with other tests.
const TIMEOUT: Duration = Duration::from_mins(1);

/// How often it is looked whether it has.
const POLL: Duration = Duration::from_millis(10);

/// A user with a home directory, and the data directory of a broker that may run.
pub(crate) struct User {
    home: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it printed, if it succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// What it printed as JSON, if it succeeded.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// What it said, if it failed with this code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}

impl User {
    pub(crate) fn new() -> Self {
        Self {
            home: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.path("data")
    }

    /// The program, in this user's environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flumen"));
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("FLUMEN_") {
                command.env_remove(name);
            }
        }
        command
            .env("HOME", self.home.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command().args(arguments).output().unwrap())
    }

    pub(crate) fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        match stdin.write_all(input.as_bytes()) {
            // A command that has failed reads no further.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            written => written.unwrap(),
        }
        drop(stdin);
        Outcome::of(child.wait_with_output().unwrap())
    }

    /// Puts the sample that filters JSON records beside the user's files, as `filter.wasm`.
    pub(crate) fn write_filter(&self) {
        let component = flumen_guests::guest("json-filter");
        fs::write(self.path("filter.wasm"), component).unwrap();
    }

    /// Starts `flumen dev`, so that commands find the broker by the default profile.
    pub(crate) fn start_broker(&self) -> Broker {
        self.start(&["dev"], &self.path(".config/flumen/default"))
    }

    /// Starts a broker; it serves once the file is written.
    pub(crate) fn start(&self, arguments: &[&str], written: &Path) -> Broker {
        self.start_in(&self.data_dir(), arguments, written)
    }

    /// As [`User::start`], with another data directory.
    pub(crate) fn start_in(&self, data_dir: &Path, arguments: &[&str], written: &Path) -> Broker {
        let child = self
            .command()
            .args(arguments)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--data-dir",
            ])
            .arg(data_dir)
            .stderr(fs::File::create(self.path("broker.log")).unwrap())
            .spawn()
            .unwrap();
        let mut broker = Broker(child);
        wait_for("the broker starts", || {
            assert!(broker.0.try_wait().unwrap().is_none(), "{}", self.log());
            written.exists()
        });
        broker
    }

    /// Lets a broker into the cluster of the user's first one.
    pub(crate) fn start_another(&self, dir: &str) -> Broker {
        let token = ["cluster", "token", "--profile", &self.profile_file()];
        let token = self.run(&token).ok();
        let dir = self.path(dir);
        let join = ["serve", "--join", token.trim()];
        self.start_in(&dir, &join, &dir.join("client.toml"))
    }

    /// Two more brokers in the cluster of the user's first one, once all three are one.
    pub(crate) fn grow(&self) -> [Broker; 2] {
        let others = ["two", "three"].map(|dir| self.start_another(dir));
        let file = self.profile_file();
        wait_for("the cluster is healthy", || {
            let status = ["cluster", "status", "--output", "json", "--profile", &file];
            let status = self.run(&status);
            status.code == Some(0) && status.json()["brokers"].as_array().unwrap().len() == 3
        });
        others
    }

    /// The profile that the user's first broker writes.
    pub(crate) fn profile_file(&self) -> String {
        self.data_dir().join("client.toml").display().to_string()
    }

    /// What the broker said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("broker.log")).unwrap()
    }
}

/// A broker; killed when dropped.
pub(crate) struct Broker(Child);

impl Broker {
    /// A broker that was started in another way than [`User::start`].
    pub(crate) fn of(child: Child) -> Self {
        Self(child)
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &id])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits until it has ended; returns its exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        let mut code = None;
        wait_for("the broker ends", || match self.0.try_wait().unwrap() {
            Some(status) => {
                code = status.code();
                true
            }
            None => false,
        });
        code
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so.
pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < TIMEOUT, "waited for: {what}");
        thread::sleep(POLL);
    }
}

/// Whether a program is there that a test needs.
pub(crate) fn has_program(name: &str) -> bool {
    let dirs = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&dirs).any(|dir| dir.join(name).is_file())
}
