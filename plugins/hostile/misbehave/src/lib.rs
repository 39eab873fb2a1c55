//! A filter that misbehaves as its configuration says: `{"do": "loop"}`. Records whose value is
//! `good` are kept in any case; the misdeed is done at the first other record.
use std::{
    cell::Cell,
    hint::black_box,
    time::{Duration, Instant, SystemTime},
};

use flumen_plugin::{Record, filter};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(try_from = "Settings")]
struct Config(Deed);

#[derive(Deserialize)]
struct Settings {
    #[serde(rename = "do")]
    deed: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Deed {
    /// Nothing: every record is kept.
    Nothing,
    /// Keeps those that begin with `k`.
    FirstByte,
    /// Fails with an error on every record.
    Error,
    Loop,
    LoopInInit,
    Recurse,
    EatMemory,
    EatMemoryInInit,
    Panic,
    PanicInInit,
    Abort,
    Exit,
    TrapInThirdCall,
    Sleep,
    /// Floods standard output.
    Print,
    /// Floods the log.
    Log,
    /// Makes counters without end.
    Count,
    /// Reads clocks, environment, arguments and files, and says what it found.
    LookAround,
}

thread_local! {
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

impl TryFrom<Settings> for Config {
    type Error = String;

    fn try_from(settings: Settings) -> Result<Self, String> {
        match settings.deed {
            Deed::LoopInInit => endless(),
            Deed::EatMemoryInInit => eat_memory(),
            Deed::PanicInInit => panic!("no configuration pleases me"),
            _ => {}
        }
        Ok(Self(settings.deed))
    }
}

#[filter]
fn keep(record: &Record, config: &Config) -> Result<bool, String> {
    let value = record.value().unwrap_or_default();
    if config.0 == Deed::FirstByte {
        return Ok(value.first() == Some(&b'k'));
    }
    if value == b"good" {
        return Ok(true);
    }
    match config.0 {
        Deed::Error => return Err(format!("cannot stand {}", value.escape_ascii())),
        Deed::Loop => endless(),
        Deed::Recurse => {
            black_box(recurse(black_box(1)));
        }
        Deed::EatMemory => eat_memory(),
        Deed::Panic => panic!("cannot bear {}", value.escape_ascii()),
        Deed::Abort => std::process::abort(),
        Deed::Exit => std::process::exit(3),
        Deed::TrapInThirdCall => {
            CALLS.set(CALLS.get() + 1);
            if CALLS.get() == 3 {
                std::process::abort();
            }
        }
        Deed::Sleep => std::thread::sleep(Duration::from_secs(3600)),
        Deed::Print => {
            for line in 0..10_000 {
                println!("line {line} of far too many");
            }
        }
        Deed::Log => {
            for line in 0..10_000 {
                flumen_plugin::warn!("line {line}: {}", "x".repeat(5_000));
            }
        }
        Deed::Count => {
            for name in 0..1_000 {
                flumen_plugin::count(format!("counter_{name}").leak(), 2);
            }
            flumen_plugin::count("Bad Name", 1);
        }
        Deed::LookAround => return Err(look_around()),
        _ => {}
    }
    Ok(true)
}

fn endless() -> ! {
    loop {
        black_box(());
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    black_box(depth + recurse(black_box(depth + 1)))
}

fn eat_memory() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(black_box(vec![1_u8; 1024 * 1024]));
    }
}

fn look_around() -> String {
    let unix = SystemTime::UNIX_EPOCH
        .elapsed()
        .is_ok_and(|time| time.as_secs() > 1_700_000_000);
    let clock = Instant::now().elapsed() < Duration::from_secs(1);
    format!(
        "clocks {} {}, {} variables, {} arguments, root {}, file {}",
        unix,
        clock,
        std::env::vars().count(),
        std::env::args().count(),
        std::fs::read_dir("/").is_ok(),
        std::fs::write("/tmp/flumen-was-here", "x").is_ok(),
    )
}
