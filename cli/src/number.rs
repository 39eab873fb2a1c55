//! Numbers and lengths of time in flags.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use flumen_broker::config::Interval;

/// Reads a whole number in a range.
pub(crate) fn whole<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + Display + PartialOrd + Clone + Send + Sync + 'static,
{
    move |text| match text.replace('_', "").parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!(
            "write a whole number from {} to {}",
            range.start(),
            range.end()
        )),
    }
}

/// Reads how long to wait at most: some time at least.
pub(crate) fn time_above_zero(text: &str) -> Result<Interval, String> {
    match text.parse::<Interval>() {
        Ok(time) if !time.duration().is_zero() => Ok(time),
        Ok(_) => Err("write a length of time above 0, such as 30s or 10min".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_at_all_is_no_time_to_wait() {
        assert_eq!(time_above_zero("1min").unwrap(), Interval::from_secs(60));
        assert!(time_above_zero("0s").unwrap_err().contains("above 0"));
        assert!(time_above_zero("soon").unwrap_err().contains("100ms"));
    }

    #[test]
    fn what_is_no_number_in_the_range_is_refused_with_the_range() {
        let parse = whole(1..=65_536_u32);
        assert_eq!(parse("1").unwrap(), 1);
        assert_eq!(parse("65_536").unwrap(), 65_536);
        for text in ["0", "65537", "-1", "1.5", "many", "", "99999999999"] {
            let error = parse(text).unwrap_err();
            assert_eq!(error, "write a whole number from 1 to 65536", "{text}");
        }
    }
}
