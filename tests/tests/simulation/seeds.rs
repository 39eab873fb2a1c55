//! Running seeds, each in a process of its own.

use std::{
    env, fmt,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use flumen_broker::mutation::{self, Mutation};

use crate::{
    run,
    shrink::{Reduction, Size, shrink},
    system,
};

/// The seed that a process is to run.
const SEED: &str = "FLUMEN_SIMULATION_SEED";
/// The first seed, and how many, that the user asks for.
const FIRST: &str = "FLUMEN_SIMULATE_SEED";
const COUNT: &str = "FLUMEN_SIMULATE_SEEDS";
/// Brokers of each run.
const BROKERS: &str = "FLUMEN_SIMULATE_BROKERS";
/// A bug that is planted.
const MUTATION: &str = "FLUMEN_SIMULATE_MUTATION";
/// What a process prints of its run begins with this.
const MARK: &str = "SIMULATED ";

/// What a seed is run with.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) brokers: u64,
    /// The name of a bug to plant.
    pub(crate) mutation: Option<String>,
    pub(crate) reduction: Reduction,
}

impl Setting {
    pub(crate) fn brokers(brokers: u64) -> Self {
        Self {
            brokers,
            mutation: None,
            reduction: Reduction::default(),
        }
    }

    fn asked_for() -> Self {
        Self {
            brokers: number(BROKERS, 1),
            mutation: env::var(MUTATION).ok(),
            reduction: Reduction::asked_for(),
        }
    }

    /// The command that runs a seed with it.
    fn command(&self, seed: u64) -> String {
        let mutation = self.mutation.as_ref();
        let mutation = mutation.map_or_else(String::new, |name| format!(" --mutation {name}"));
        format!(
            "cargo xtask simulate --brokers {} --seeds 1 --seed {seed}{mutation}{}",
            self.brokers, self.reduction
        )
    }
}

/// What a process said of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) passed: bool,
    /// The trace's hash, the virtual time, and what was counted.
    pub(crate) summary: String,
    pub(crate) output: String,
}

impl Outcome {
    /// What was counted under a name.
    fn count(&self, name: &str) -> u64 {
        let mut parts = self
            .summary
            .split(' ')
            .filter_map(|part| part.split_once('='));
        let count = parts.find(|(known, _)| *known == name);
        count.and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "passed" } else { "FAILED" };
        write!(f, "seed {} {verdict}: {}", self.seed, self.summary)
    }
}

fn number(name: &str, default: u64) -> u64 {
    let text = env::var(name).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Where files are in memory. What a run has on the real disk are a few keys, for whose syncs it
/// need not wait.
fn memory_dir() -> Option<&'static Path> {
    let dir = Path::new("/dev/shm");
    dir.is_dir().then_some(dir)
}

/// Runs a seed in a process of its own.
pub(crate) fn run_in_process(seed: u64, setting: &Setting) -> Outcome {
    let mut process = Command::new(env::current_exe().unwrap());
    process
        .args(["seeds::one_seed", "--exact", "--ignored", "--nocapture"])
        .env(SEED, seed.to_string())
        .env(BROKERS, setting.brokers.to_string())
        .env_remove(MUTATION)
        .envs([system::NO_RANDOM_INSTRUCTIONS])
        .envs(setting.reduction.variables())
        .envs(memory_dir().map(|dir| ("TMPDIR", dir)))
        .stderr(Stdio::piped());
    if let Some(mutation) = &setting.mutation {
        process.env(MUTATION, mutation);
    }
    let output = process.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().find_map(|line| line.split_once(MARK));
    let summary = summary.map_or_else(String::new, |(_, rest)| rest.to_owned());
    Outcome {
        seed,
        passed: output.status.success() && !summary.is_empty(),
        output: format!("{text}{}", String::from_utf8_lossy(&output.stderr)),
        summary,
    }
}

/// Runs seeds on all cores, and returns those that failed.
fn run_all(first: u64, count: u64, setting: &Setting, quiet: bool) -> Vec<Outcome> {
    let next = AtomicU64::new(first);
    let virtual_ms = AtomicU64::new(0);
    let started = Instant::now();
    let cpu_before = system::cpu_time_of_children();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut failed: Vec<Outcome> = thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return failed;
                }
                let outcome = run_in_process(seed, setting);
                virtual_ms.fetch_add(outcome.count("virtual_ms"), Ordering::Relaxed);
                if !quiet || !outcome.passed {
                    println!("{outcome}");
                }
                if !outcome.passed {
                    failed.push(outcome);
                }
            }
        };
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap());
        results.flatten().collect()
    });
    failed.sort_by_key(|outcome| outcome.seed);
    let simulated = Duration::from_millis(virtual_ms.into_inner());
    let cpu = system::cpu_time_of_children().saturating_sub(cpu_before);
    println!(
        "{count} seeds with {} brokers, {} failed; {:.0} virtual seconds in {:.1} s, {:.1} s of CPU time: {:.1} for each second of a core",
        setting.brokers,
        failed.len(),
        simulated.as_secs_f64(),
        started.elapsed().as_secs_f64(),
        cpu.as_secs_f64(),
        simulated.as_secs_f64() / cpu.as_secs_f64(),
    );
    failed
}

/// Runs seeds on all cores, and fails if one of them fails.
pub(crate) fn assert_all_pass(first: u64, count: u64, setting: &Setting, quiet: bool) {
    let failed = run_all(first, count, setting, quiet);
    let Some(example) = failed.first() else {
        return;
    };
    let seeds: Vec<_> = failed.iter().map(|outcome| outcome.seed).collect();
    panic!(
        "seeds {seeds:?} failed; to run one again: {}\n{}",
        setting.command(example.seed),
        example.output
    );
}

#[test]
#[ignore = "the others run it, in a process for each seed"]
fn one_seed() {
    let Ok(seed) = env::var(SEED) else {
        return;
    };
    let seed: u64 = seed.parse().unwrap();
    let brokers = number(BROKERS, 1) as u8;
    if let Ok(filter) = env::var("FLUMEN_SIMULATE_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .init();
    } else {
        crate::log_nothing();
    }
    if let Ok(name) = env::var(MUTATION) {
        let known = Mutation::ALL.iter().find(|(known, _)| *known == name);
        mutation::plant(known.expect("a mutation by that name").1);
    }
    crate::note_panics();
    let dir = tempfile::tempdir().unwrap();
    env::set_current_dir(dir.path()).unwrap();
    let started = Instant::now();
    let thread = thread::Builder::new().name("simulation".to_owned());
    let report = thread
        .spawn(move || run::run(seed, brokers, &Reduction::asked_for()))
        .unwrap();
    let report = report.join().unwrap();
    println!(
        "{MARK}trace={:016x} events={} virtual_ms={} length_ms={} faults={} jobs={} acknowledged={} seen={}",
        report.trace.0,
        report.trace.1,
        report.lasted.as_millis(),
        report.length.as_millis(),
        report.faults,
        report.jobs,
        report.acknowledged,
        report.seen,
    );
    eprintln!("in {:?}", started.elapsed());
    if !report.contradictions.is_empty() || env::var("FLUMEN_SIMULATE_TRACE").is_ok() {
        for line in &report.lines {
            println!("{line}");
        }
    }
    assert!(
        report.contradictions.is_empty(),
        "{} contradictions: {:#?}",
        report.contradictions.len(),
        report.contradictions
    );
}

#[test]
fn equal_seeds_give_equal_traces() {
    let setting = Setting::brokers(1);
    let first = run_in_process(7, &setting);
    let again = run_in_process(7, &setting);
    assert!(!first.summary.is_empty(), "{}", first.output);
    assert_eq!(first.summary, again.summary);
    assert_ne!(first.summary, run_in_process(8, &setting).summary);
}

#[test]
#[ignore = "run it by `cargo xtask simulate`"]
fn seeds_that_were_asked_for() {
    let (first, count) = (number(FIRST, 1), number(COUNT, 1));
    assert_all_pass(first, count, &Setting::asked_for(), false);
}

#[test]
#[ignore = "run it by `cargo xtask simulate --shrink`"]
fn the_least_with_which_the_seed_fails_that_was_asked_for() {
    let (seed, mut setting) = (number(FIRST, 1), Setting::asked_for());
    setting.reduction = Reduction::default();
    let mut example = run_in_process(seed, &setting);
    println!("{example}");
    if example.passed {
        return;
    }
    let size = Size {
        faults: example.count("faults") as usize,
        jobs: example.count("jobs") as usize,
        length_ms: example.count("length_ms"),
    };
    let least = shrink(size, |reduction| {
        let setting = Setting {
            reduction: reduction.clone(),
            ..setting.clone()
        };
        let outcome = run_in_process(seed, &setting);
        let verdict = if outcome.passed { "passes" } else { "fails" };
        println!("{verdict} with{reduction}");
        if !outcome.passed {
            example = outcome.clone();
        }
        !outcome.passed
    });
    setting.reduction = least;
    println!("{}", example.output);
    println!("the least that fails: {}", setting.command(seed));
}
