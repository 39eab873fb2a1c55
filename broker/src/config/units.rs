//! Sizes and durations as people write them: `10GiB`, `100ms`, `7d`. Every place that takes
//! one from a person takes it through here.

use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes, written `512`, `64KiB`, `10GiB` or, in powers of ten, `10GB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Units of sizes; the first of each factor is the one that is written.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("", 1),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Units of which a size is written, largest first.
const SIZE_UNITS_WRITTEN: usize = 5;

impl ByteSize {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many mebibytes.
    pub const fn mib(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }

    /// So many gibibytes.
    pub const fn gib(gibibytes: u64) -> Self {
        Self(gibibytes << 30)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZE_UNITS[..SIZE_UNITS_WRITTEN]
            .iter()
            .find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

/// A text that is no size or no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Not a size.
    #[error(
        "{0:?} is not a size; write a whole number and B, KiB, MiB, GiB or TiB, such as 10GiB, or kB, \
         MB, GB or TB for powers of ten"
    )]
    Size(String),
    /// Not a duration.
    #[error(
        "{0:?} is not a duration; write a whole number and us, ms, s, min, h, d or w, such as 100ms or 7d"
    )]
    Duration(String),
    /// More than can be counted.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bytes = parse_parts(text, |unit| {
            let known = SIZE_UNITS
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
            Some(known.1)
        });
        match bytes {
            Ok(bytes) => Ok(Self(bytes)),
            Err(PartsError::Form) => Err(UnitError::Size(text.to_owned())),
            Err(PartsError::Overflow) => Err(UnitError::TooLarge(text.to_owned())),
        }
    }
}

/// A length of time, written `500us`, `100ms`, `7d` or in parts, `1h 30min`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(Duration);

/// Units of durations in microseconds; the first of each factor is the one that is written.
const TIME_UNITS: [(&str, u64); 22] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("min", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
    ("µs", 1),
    ("m", 60_000_000),
    ("w", 7 * 86_400_000_000),
    ("sec", 1_000_000),
    ("secs", 1_000_000),
    ("second", 1_000_000),
    ("seconds", 1_000_000),
    ("mins", 60_000_000),
    ("minute", 60_000_000),
    ("minutes", 60_000_000),
    ("hour", 3_600_000_000),
    ("hours", 3_600_000_000),
    ("day", 86_400_000_000),
    ("days", 86_400_000_000),
    ("week", 7 * 86_400_000_000),
    ("weeks", 7 * 86_400_000_000),
];

/// From here on a duration is written in several parts if need be.
const MINUTE: u64 = 60_000_000;

/// Units of which a duration is written, largest first.
const TIME_UNITS_WRITTEN: usize = 6;

impl Interval {
    /// No time at all.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// So many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The same as the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// The number of whole milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl From<Duration> for Interval {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut micros = u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX);
        let units = &TIME_UNITS[..TIME_UNITS_WRITTEN];
        let mut parts = Vec::new();
        // `1d 2h` rather than `26h`, but `1500ms` rather than `1s 500ms`.
        for (unit, factor) in units.iter().filter(|(_, factor)| *factor >= MINUTE) {
            if micros >= *factor {
                parts.push(format!("{}{unit}", micros / factor));
                micros %= factor;
            }
        }
        if micros != 0 || parts.is_empty() {
            let whole = |(_, factor): &&(_, u64)| micros != 0 && micros.is_multiple_of(*factor);
            let (unit, factor) = units.iter().find(whole).unwrap_or(&("s", 1_000_000));
            parts.push(format!("{}{unit}", micros / factor));
        }
        f.pad(&parts.join(" "))
    }
}

impl FromStr for Interval {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let micros = parse_parts(text, |unit| {
            let known = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
            Some(known.1)
        });
        match micros {
            Ok(micros) => Ok(Self(Duration::from_micros(micros))),
            // A lone zero needs no unit.
            Err(PartsError::Form) if text.trim() == "0" => Ok(Self::ZERO),
            Err(PartsError::Form) => Err(UnitError::Duration(text.to_owned())),
            Err(PartsError::Overflow) => Err(UnitError::TooLarge(text.to_owned())),
        }
    }
}

enum PartsError {
    Form,
    Overflow,
}

/// Adds up parts such as `1h 30min`, each a whole number and a unit.
fn parse_parts(text: &str, factor_of: impl Fn(&str) -> Option<u64>) -> Result<u64, PartsError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(PartsError::Form);
    }
    let mut sum = 0_u64;
    while !rest.is_empty() {
        let is_number = |c: char| c.is_ascii_digit() || c == '_';
        let (number, after) = split_while(rest, is_number);
        let (unit, after) = split_while(after.trim_start(), char::is_alphabetic);
        let digits = number.replace('_', "");
        if digits.is_empty() {
            return Err(PartsError::Form);
        }
        let number: u64 = digits.parse().map_err(|_| PartsError::Overflow)?;
        let factor = factor_of(unit).ok_or(PartsError::Form)?;
        sum = number
            .checked_mul(factor)
            .and_then(|part| sum.checked_add(part))
            .ok_or(PartsError::Overflow)?;
        rest = after.trim_start();
    }
    Ok(sum)
}

fn split_while(text: &str, matches: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !matches(c)).unwrap_or(text.len());
    text.split_at(end)
}
