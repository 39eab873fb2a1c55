//! Real earthquakes through a real broker and two plugins, with counts that can be checked.

mod broker;

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use self::broker::Broker;
use crate::shell::{self, cargo, root, step, target_dir};

/// One week of earthquakes, one JSON object a line.
const DATA: &str = "examples/data/earthquakes.ndjson";

/// Earthquakes in the data.
const PRODUCED: u64 = 1_707;

/// Those of a magnitude of at least 4.5.
const KEPT: u64 = 85;

/// Earthquakes that are streamed before the first restart.
const BEFORE_RESTART: usize = 900;

/// How often all earthquakes are streamed to tell the throughput.
const REPEATED: u64 = 200;

/// The first plugin's configuration.
const FILTER: &str = r#"{"field":"magnitude","op":">=","value":4.5}"#;

/// The second plugin's configuration.
const REDACT: &str = r#"{"round":{"latitude":1,"longitude":1},"remove":["url"]}"#;

/// How long a plugin's call may take. The default, 50 ms, is meant for a release build: in a
/// development build on a busy machine, a call with a megabyte of records can take longer, and
/// its batch would be refused.
const CALL_TIMEOUT: &str = "2s";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build for speed, which takes some minutes more the first time
    #[arg(long)]
    release: bool,
    /// Keep the broker's data directory, and say where it is
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    super::guests::run()?;
    step("build");
    let demo = Demo::build(arguments)?;
    let outcome = demo.play();
    if arguments.keep {
        println!("\nThe data directory is {}", demo.dir.keep().display());
    }
    outcome
}

struct Demo {
    dir: tempfile::TempDir,
    flumen: PathBuf,
    consumer: PathBuf,
    profile: &'static str,
}

/// Checks, each told as it is made.
#[derive(Default)]
struct Checks {
    failed: u32,
}

impl Checks {
    fn check(&mut self, what: &str, found: u64, expected: u64) {
        let good = found == expected;
        let mark = if good { "ok" } else { "WRONG" };
        println!("  {mark:5} {what}: {found}, expected {expected}");
        self.failed += u32::from(!good);
    }
}

impl Demo {
    fn build(arguments: &Arguments) -> Result<Self> {
        let mut build = cargo();
        // As the tests are built, so that either finds what the other has built.
        build.args(["build", "--locked", "--workspace"]);
        build.args(["--bin", "flumen", "--example", "earthquakes"]);
        if arguments.release {
            build.arg("--release");
        }
        shell::run(&mut build)?;
        let (folder, profile) = if arguments.release {
            ("release", "release build")
        } else {
            (
                "debug",
                "development build; with --release it is several times as much",
            )
        };
        let built = target_dir().join(folder);
        // Beside the build: on disk, where a system's directory for temporary files may not be.
        fs::create_dir_all(target_dir())?;
        Ok(Self {
            dir: tempfile::Builder::new()
                .prefix("demo-")
                .tempdir_in(target_dir())
                .context("cannot make a directory for the broker's data")?,
            flumen: built.join("flumen"),
            consumer: built.join("examples/earthquakes"),
            profile,
        })
    }

    fn play(&self) -> Result<()> {
        let data =
            fs::read_to_string(root().join(DATA)).with_context(|| format!("cannot read {DATA}"))?;
        let lines: Vec<_> = data.lines().collect();
        let (first, second) = lines.split_at(BEFORE_RESTART.min(lines.len()));
        let mut checks = Checks::default();

        step("a broker, two plugins, a topic");
        let broker = self.start()?;
        self.deploy("json-filter")?;
        self.deploy("json-redact")?;
        self.make_topic("quakes")?;
        println!(
            "  (--timeout {CALL_TIMEOUT} because this may be a development build on a busy machine; \
             the default of 50ms is for release builds)"
        );

        step("real earthquakes, with a restart in between");
        let before = self.produce("quakes", &first.join("\n"))?;
        println!("  {} produced", records(&before));
        broker.stop()?;
        println!("  the broker is stopped, and started again");
        let broker = self.start()?;
        let after = self.produce("quakes", &second.join("\n"))?;
        println!("  {} produced", records(&after));
        checks.check("produced", records(&before) + records(&after), PRODUCED);

        step("typed events on the other side");
        let seen = self.consume("quakes")?;
        println!("  {seen}");
        check_events(&mut checks, &seen);

        step("the broker is killed, and started again");
        broker.kill()?;
        let broker = self.start()?;
        let again = self.consume("quakes")?;
        checks.check("kept after the kill", number(&again, "events"), KEPT);
        if again != seen {
            bail!("other events than before came back: {again}");
        }

        step("throughput");
        self.make_topic("quakes.load")?;
        let many = (data.trim_end().to_owned() + "\n").repeat(REPEATED as usize);
        let load = self.produce("quakes.load", &many)?;
        checks.check("produced", records(&load), PRODUCED * REPEATED);
        let seen = self.consume("quakes.load")?;
        checks.check("kept", number(&seen, "events"), KEPT * REPEATED);
        println!(
            "  {} events/s through both plugins, {:.1} MB/s ({})",
            load["records_per_second"].as_f64().unwrap_or_default() as u64,
            load["bytes"].as_f64().unwrap_or_default()
                / load["elapsed_ms"].as_f64().unwrap_or(f64::INFINITY)
                / 1e3,
            self.profile,
        );
        broker.stop()?;

        step("done");
        if checks.failed > 0 {
            bail!("{} counts are wrong", checks.failed);
        }
        println!("  every count is right: nothing was lost, nothing came twice");
        Ok(())
    }

    fn start(&self) -> Result<Broker> {
        Broker::start(&self.flumen, &self.data_dir())
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn deploy(&self, plugin: &str) -> Result<()> {
        let file = format!("target/guests/{}.wasm", plugin.replace('-', "_"));
        self.flumen(&["plugin", "deploy", plugin, &file], None)?;
        Ok(())
    }

    /// A topic with both plugins on it.
    fn make_topic(&self, topic: &str) -> Result<()> {
        self.flumen(&["topic", "create", topic, "--partitions", "2"], None)?;
        for (plugin, config) in [("json-filter", FILTER), ("json-redact", REDACT)] {
            let bind = ["plugin", "bind", topic, plugin];
            let settings = ["--config", config, "--timeout", CALL_TIMEOUT];
            self.flumen(&[&bind[..], &settings[..]].concat(), None)?;
        }
        Ok(())
    }

    fn produce(&self, topic: &str, lines: &str) -> Result<Value> {
        self.flumen(&["produce", topic, "--key-json", "id"], Some(lines))
    }

    /// What the typed consumer makes of a topic.
    fn consume(&self, topic: &str) -> Result<Value> {
        println!("  $ cargo run -p flumen-examples --example earthquakes -- {topic}");
        self.output(Command::new(&self.consumer).arg(topic), None)
    }

    /// Runs `flumen` as a user would, and shows the command.
    fn flumen(&self, arguments: &[&str], input: Option<&str>) -> Result<Value> {
        let shown: Vec<_> = arguments
            .iter()
            .map(|argument| {
                if argument.contains('{') {
                    format!("'{argument}'")
                } else {
                    (*argument).to_owned()
                }
            })
            .collect();
        println!("  $ flumen {}", shown.join(" "));
        self.output(
            Command::new(&self.flumen)
                .args(arguments)
                .args(["--output", "json"]),
            input,
        )
    }

    fn output(&self, command: &mut Command, input: Option<&str>) -> Result<Value> {
        let mut child = command
            .current_dir(root())
            .env("FLUMEN_PROFILE", self.data_dir().join("client.toml"))
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().display()))?;
        let written = match (input, child.stdin.take()) {
            (Some(input), Some(mut stdin)) => stdin.write_all(input.as_bytes()),
            _ => Ok(()),
        };
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("it failed: {}", output.status);
        }
        written?;
        serde_json::from_slice(&output.stdout).context("it did not print JSON")
    }
}

fn check_events(checks: &mut Checks, seen: &Value) {
    checks.check("kept with magnitude >= 4.5", number(seen, "events"), KEPT);
    checks.check("of these distinct", number(seen, "distinct"), KEPT);
    checks.check(
        "coordinates finer than one decimal",
        number(seen, "precise_coordinates"),
        0,
    );
    let weak = seen["weakest"].as_f64().is_none_or(|weakest| weakest < 4.5);
    checks.check("weaker than 4.5", u64::from(weak), 0);
}

fn records(summary: &Value) -> u64 {
    number(summary, "records")
}

/// A count; one that is missing is wrong, whatever is expected.
fn number(summary: &Value, name: &str) -> u64 {
    summary[name].as_u64().unwrap_or(u64::MAX)
}
