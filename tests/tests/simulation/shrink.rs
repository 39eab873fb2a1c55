//! A failure by as little as possible: a run with fewer faults, fewer services and less time, as
//! long as it still fails.
//!
//! What is left out is drawn all the same, so that what is left is as it was. When it happens may
//! change yet, so that another run than the one looked for may be the smallest that fails.

use std::{env, fmt, str::FromStr};

/// The variables by which a process learns what its run is reduced to.
const FAULTS: &str = "FLUMEN_SIMULATE_FAULTS";
const JOBS: &str = "FLUMEN_SIMULATE_JOBS";
const LENGTH: &str = "FLUMEN_SIMULATE_LENGTH_MS";

/// The shortest time with faults that is tried.
const LENGTH_MS_MIN: u64 = 250;

/// What is left of some things that have numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kept {
    #[default]
    All,
    Only(Vec<usize>),
}

impl Kept {
    pub(crate) fn contains(&self, number: usize) -> bool {
        match self {
            Self::All => true,
            Self::Only(numbers) => numbers.contains(&number),
        }
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(numbers) if numbers.is_empty() => f.write_str("none"),
            Self::Only(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                f.write_str(&numbers.join(","))
            }
        }
    }
}

impl FromStr for Kept {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::Only(Vec::new())),
            _ => {
                let numbers = text.split(',').map(|number| number.trim().parse());
                let numbers = numbers.collect::<Result<_, _>>();
                let numbers = numbers.map_err(|error| format!("numbers, not {text:?}: {error}"))?;
                Ok(Self::Only(numbers))
            }
        }
    }
}

/// What a run is reduced to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reduction {
    /// Which of the planned faults come.
    pub(crate) faults: Kept,
    /// Which of the services there are.
    pub(crate) jobs: Kept,
    /// After what time the faults end.
    pub(crate) length_ms: Option<u64>,
}

impl Reduction {
    /// What the process is asked for.
    pub(crate) fn asked_for() -> Self {
        let kept = |name: &str| match env::var(name) {
            Ok(text) => text.parse().unwrap(),
            Err(_) => Kept::All,
        };
        let length = env::var(LENGTH).ok();
        Self {
            faults: kept(FAULTS),
            jobs: kept(JOBS),
            length_ms: length.map(|text| text.parse().unwrap()),
        }
    }

    /// What to tell a process that is to run it.
    pub(crate) fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            (FAULTS, self.faults.to_string()),
            (JOBS, self.jobs.to_string()),
        ];
        variables.extend(self.length_ms.map(|length| (LENGTH, length.to_string())));
        variables
    }
}

/// As flags of `cargo xtask simulate`.
impl fmt::Display for Reduction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, kept) in [("faults", &self.faults), ("jobs", &self.jobs)] {
            if *kept != Kept::All {
                write!(f, " --{name} {kept}")?;
            }
        }
        match self.length_ms {
            Some(length) => write!(f, " --length-ms {length}"),
            None => Ok(()),
        }
    }
}

/// How much there is in a run that was not reduced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) faults: usize,
    pub(crate) jobs: usize,
    pub(crate) length_ms: u64,
}

/// The least with which a run still fails of which all of that is known to fail.
pub(crate) fn shrink(size: Size, mut fails: impl FnMut(&Reduction) -> bool) -> Reduction {
    let mut least = Reduction::default();
    shorten(&mut least, size.length_ms, &mut fails);
    let faults = thin_out(size.faults, |faults| {
        let faults = Kept::Only(faults.to_vec());
        fails(&Reduction {
            faults,
            ..least.clone()
        })
    });
    least.faults = faults.map_or(Kept::All, Kept::Only);
    let jobs = thin_out(size.jobs, |jobs| {
        let jobs = Kept::Only(jobs.to_vec());
        fails(&Reduction {
            jobs,
            ..least.clone()
        })
    });
    least.jobs = jobs.map_or(Kept::All, Kept::Only);
    let length_ms = least.length_ms.unwrap_or(size.length_ms);
    shorten(&mut least, length_ms, &mut fails);
    least
}

/// Takes the most that can be taken of the time: a half, a quarter and so on.
fn shorten(least: &mut Reduction, length_ms: u64, fails: &mut impl FnMut(&Reduction) -> bool) {
    let mut length_ms = length_ms;
    let mut step = length_ms / 2;
    while step >= LENGTH_MS_MIN {
        let shorter = Reduction {
            length_ms: Some(length_ms - step),
            ..least.clone()
        };
        if length_ms - step >= LENGTH_MS_MIN && fails(&shorter) {
            length_ms -= step;
            *least = shorter;
        }
        step /= 2;
    }
}

/// Leaves out all that can be left out of so many things: first half of them, then a quarter and
/// so on (delta debugging, Zeller 1999). `None` if it takes all of them.
fn thin_out(count: usize, mut fails: impl FnMut(&[usize]) -> bool) -> Option<Vec<usize>> {
    let mut kept: Vec<usize> = (0..count).collect();
    let mut chunk = count;
    while chunk > 0 {
        let mut at = 0;
        while at < kept.len() {
            let end = kept.len().min(at + chunk);
            let fewer = [&kept[..at], &kept[end..]].concat();
            if fails(&fewer) {
                kept = fewer;
            } else {
                at = end;
            }
        }
        chunk /= 2;
    }
    (kept.len() < count).then_some(kept)
}

#[test]
fn what_a_failure_takes_is_left_and_nothing_else() {
    let size = Size {
        faults: 23,
        jobs: 6,
        length_ms: 17_000,
    };
    let has_all =
        |kept: &Kept, wanted: &[usize]| wanted.iter().all(|number| kept.contains(*number));
    let least = shrink(size, |run| {
        has_all(&run.faults, &[3, 4, 17])
            && has_all(&run.jobs, &[5])
            && run.length_ms.is_none_or(|length| length > 9_000)
    });
    assert_eq!(least.faults, Kept::Only(vec![3, 4, 17]));
    assert_eq!(least.jobs, Kept::Only(vec![5]));
    let length_ms = least.length_ms.unwrap();
    assert!((9_001..9_500).contains(&length_ms), "{length_ms}");
    assert_eq!(
        least.to_string(),
        format!(" --faults 3,4,17 --jobs 5 --length-ms {length_ms}")
    );
}

#[test]
fn a_failure_that_takes_everything_is_left_whole() {
    let size = Size {
        faults: 5,
        jobs: 1,
        length_ms: 5_000,
    };
    let least = shrink(size, |run| *run == Reduction::default());
    assert_eq!(least, Reduction::default());
    assert_eq!(least.to_string(), "");
}

#[test]
fn what_is_left_is_written_as_it_is_read() {
    for kept in [Kept::All, Kept::Only(vec![]), Kept::Only(vec![0, 12])] {
        assert_eq!(kept.to_string().parse(), Ok(kept));
    }
    assert!("1,,2".parse::<Kept>().is_err());
}
