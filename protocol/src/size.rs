//! Numbers of bytes as people read them: every error and report writes them through here.

use std::fmt;

/// A number of bytes, written as `512 B`, `1 MiB` or `1.5 GiB`.
///
/// It is rounded up to a tenth of its unit, so that what is over a limit never reads like the
/// limit.
///
/// ```
/// use flumen_protocol::size::Size;
///
/// assert_eq!(Size(1_048_576).to_string(), "1 MiB");
/// assert_eq!(Size(1_048_577).to_string(), "1.1 MiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Units, largest first, each with the power of two that it stands for.
const UNITS: [(&str, u32); 5] = [
    ("PiB", 50),
    ("TiB", 40),
    ("GiB", 30),
    ("MiB", 20),
    ("KiB", 10),
];

impl Size {
    /// A length in memory.
    #[must_use]
    pub fn of(len: usize) -> Self {
        Self(len as u64)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, power)) = UNITS.iter().find(|(_, power)| self.0 >> power > 0) else {
            return f.pad(&format!("{} B", self.0));
        };
        let tenths = (u128::from(self.0) * 10).div_ceil(1 << power);
        let (whole, tenth) = (tenths / 10, tenths % 10);
        f.pad(&match tenth {
            0 => format!("{whole} {unit}"),
            _ => format!("{whole}.{tenth} {unit}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_what_is_over_a_limit_does_not_read_like_it() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1 KiB"),
            (1_025, "1.1 KiB"),
            (1_536, "1.5 KiB"),
            (16 << 20, "16 MiB"),
            ((16 << 20) + 1, "16.1 MiB"),
            (3 << 30, "3 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
