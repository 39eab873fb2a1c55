//! Numbers as JSON has them. Integers stay integers: as floating-point numbers, neighbours above 2^53
//! would be one and the same, such as the ids that many services count.
use std::cmp::Ordering;

use serde::Deserialize;

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

impl Number {
    /// Compares by size, exactly. `None`: one of them is no number (NaN).
    pub(crate) fn compare(self, other: Self) -> Option<Ordering> {
        match (self.integer(), other.integer()) {
            (Ok(left), Ok(right)) => Some(left.cmp(&right)),
            (Ok(left), Err(right)) => compare(left, right),
            (Err(left), Ok(right)) => compare(right, left).map(Ordering::reverse),
            (Err(left), Err(right)) => left.partial_cmp(&right),
        }
    }

    fn integer(self) -> Result<i128, f64> {
        match self {
            Self::Unsigned(integer) => Ok(integer.into()),
            Self::Signed(integer) => Ok(integer.into()),
            Self::Float(float) => Err(float),
        }
    }
}

fn compare(integer: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // What lies beyond is larger than every integer that JSON is read as.
    let whole = float.trunc() as i128;
    match integer.cmp(&whole) {
        Ordering::Equal => 0.0.partial_cmp(&float.fract()),
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_of_numbers_have_one_order() {
        let ascending = [
            Number::Float(-1e300),
            Number::Float(-1.5),
            Number::Signed(-1),
            Number::Float(-0.5),
            Number::Unsigned(0),
            Number::Float(0.5),
            Number::Unsigned(1 << 53),
            Number::Unsigned((1 << 53) + 1),
            Number::Unsigned(u64::MAX),
            Number::Float(1e20),
        ];
        for (at, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(left.compare(*right), Some(at.cmp(&other)));
            }
        }
        for zero in [Number::Float(0.0), Number::Float(-0.0), Number::Signed(0)] {
            assert_eq!(zero.compare(Number::Unsigned(0)), Some(Ordering::Equal));
            assert_eq!(zero.compare(Number::Float(0.0)), Some(Ordering::Equal));
        }
        assert_eq!(Number::Float(f64::NAN).compare(Number::Unsigned(1)), None);
    }
}
