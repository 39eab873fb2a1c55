//! Numbers in flags.

use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

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

#[cfg(test)]
mod tests {
    use super::*;

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
