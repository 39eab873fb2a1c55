//! How the WAL is set up.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::OpenError;

/// The smallest segment, so that its header and a shard's state are small against it.
pub const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// The largest segment: positions within one have 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The fewest segments: one being written, one ready behind it, one kept back for purging, and one
/// that is being purged.
pub const SEGMENTS_MIN: u64 = 4;
/// The longest interval between syncs.
pub const SYNC_INTERVAL_MAX: Duration = Duration::from_mins(1);

/// Settings of the WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalOptions {
    /// The directory of the segments, which belongs to the WAL alone.
    pub dir: PathBuf,
    /// The size of a segment file, in bytes. Default 64 MiB. An entry may have three
    /// eighths of it, so that the largest batch fits with room to spare.
    #[serde(default = "default_segment_bytes")]
    pub segment_bytes: u64,
    /// What all segment files may take, in bytes. Default 512 MiB. More lets checkpoints be rarer
    /// and costs disk, page cache, and time at start.
    #[serde(default = "default_bytes_max")]
    pub bytes_max: u64,
    /// When an append counts as done. Default [`SyncPolicy::Always`].
    #[serde(default)]
    pub sync: SyncPolicy,
}

fn default_segment_bytes() -> u64 {
    64 << 20
}

fn default_bytes_max() -> u64 {
    512 << 20
}

impl WalOptions {
    /// The defaults, for a WAL in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: default_segment_bytes(),
            bytes_max: default_bytes_max(),
            sync: SyncPolicy::default(),
        }
    }

    /// Checks the values against their limits and each other.
    ///
    /// # Errors
    /// [`OpenError::Options`] with the setting that does not fit.
    pub fn validate(&self) -> Result<(), OpenError> {
        let fail = |text: String| Err(OpenError::Options(text));
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return fail(format!(
                "segment_bytes is {}, and must be from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}",
                self.segment_bytes
            ));
        }
        if self.bytes_max < self.segment_bytes * SEGMENTS_MIN {
            return fail(format!(
                "bytes_max is {}, and must be at least {SEGMENTS_MIN} times segment_bytes ({})",
                self.bytes_max, self.segment_bytes
            ));
        }
        match self.sync {
            SyncPolicy::Every(interval) if interval.is_zero() || interval > SYNC_INTERVAL_MAX => {
                fail(format!(
                    "sync every {interval:?} is not between 0 and {SYNC_INTERVAL_MAX:?}"
                ))
            }
            _ => Ok(()),
        }
    }

    /// The smallest segment that takes entries of so many bytes: the other way round than
    /// [`WalOptions::entry_bytes_max`].
    pub fn segment_bytes_for(entry_bytes: u64) -> u64 {
        entry_bytes.div_ceil(3) * 8
    }

    /// The largest payload of an entry, in bytes: three eighths of a segment. The states at its
    /// beginning may take half, and as much as an entry may be left over at its end.
    pub fn entry_bytes_max(&self) -> u64 {
        self.segment_bytes / 8 * 3
    }
}

/// When an append counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum SyncPolicy {
    /// When it was synced to the disk.
    #[default]
    Always,
    /// When it was handed to the operating system, which is synced this often. The loss of power
    /// loses what was written since; the end of the process loses nothing.
    Every(Duration),
}

/// The text is no sync policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no sync policy: write \"always\", or \"every\" and a time, such as \"every 100ms\""
)]
pub struct ParseSyncPolicyError(String);

impl fmt::Display for SyncPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => formatter.write_str("always"),
            Self::Every(interval) => {
                write!(formatter, "every {}", humantime::format_duration(*interval))
            }
        }
    }
}

impl FromStr for SyncPolicy {
    type Err = ParseSyncPolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.trim();
        if words == "always" {
            return Ok(Self::Always);
        }
        words
            .strip_prefix("every ")
            .and_then(|interval| humantime::parse_duration(interval.trim()).ok())
            .map(Self::Every)
            .ok_or_else(|| ParseSyncPolicyError(text.to_owned()))
    }
}

impl From<SyncPolicy> for String {
    fn from(policy: SyncPolicy) -> Self {
        policy.to_string()
    }
}

impl TryFrom<String> for SyncPolicy {
    type Error = ParseSyncPolicyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_policy_reads_what_it_prints() {
        for (text, policy) in [
            ("always", SyncPolicy::Always),
            ("every 100ms", SyncPolicy::Every(Duration::from_millis(100))),
            ("every 2s", SyncPolicy::Every(Duration::from_secs(2))),
        ] {
            assert_eq!(text.parse(), Ok(policy));
            assert_eq!(policy.to_string(), text);
        }
        for text in ["", "never", "every", "every now", "100ms", "every -1s"] {
            assert!(text.parse::<SyncPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_smallest_segment_for_an_entry_takes_it_and_one_byte_less_does_not() {
        let takes = |segment_bytes| {
            let options = WalOptions {
                segment_bytes,
                ..WalOptions::new("/wal")
            };
            options.entry_bytes_max()
        };
        for entry_bytes in [1, 2, 3, 100_000, (16 << 20) + 64] {
            let segment_bytes = WalOptions::segment_bytes_for(entry_bytes);
            assert!(takes(segment_bytes) >= entry_bytes);
            assert!(takes(segment_bytes - 1) < entry_bytes);
        }
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        let fits = WalOptions::new("/wal");
        fits.validate().unwrap();
        let misfits = [
            WalOptions {
                segment_bytes: 1000,
                ..fits.clone()
            },
            WalOptions {
                segment_bytes: 1 << 32,
                ..fits.clone()
            },
            WalOptions {
                bytes_max: 3 * fits.segment_bytes,
                ..fits.clone()
            },
            WalOptions {
                sync: SyncPolicy::Every(Duration::ZERO),
                ..fits.clone()
            },
            WalOptions {
                sync: SyncPolicy::Every(Duration::from_secs(61)),
                ..fits.clone()
            },
        ];
        for misfit in misfits {
            assert!(misfit.validate().is_err(), "{misfit:?}");
        }
    }
}
