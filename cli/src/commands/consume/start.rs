//! Where to start, as people write it.

use flumen_broker::config::Interval;
use flumen_client::{Offset, StartAt};
use jiff::Timestamp;

/// Reads `beginning`, `end`, an offset, a time, or a time ago.
pub(super) fn parse(text: &str) -> Result<StartAt, String> {
    parse_at(text, Timestamp::now().as_millisecond())
}

fn parse_at(text: &str, now_ms: i64) -> Result<StartAt, String> {
    match text {
        "beginning" => return Ok(StartAt::Beginning),
        "end" => return Ok(StartAt::End),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(StartAt::Offset(Offset(offset)));
    }
    if let Some(ago) = text.strip_prefix('-') {
        let ago: Interval = ago.parse().map_err(|error| format!("{error}"))?;
        let ago_ms = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(StartAt::Time(now_ms.saturating_sub(ago_ms)));
    }
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(StartAt::Time(time.as_millisecond())),
        Err(error) if text.contains(':') => Err(format!(
            "{text:?} is no time with its zone such as 2026-01-31T12:00:00Z: {error}"
        )),
        Err(_) => Err(format!(
            "{text:?} is no place to start; use beginning, end, an offset such as 1200, a time with \
             its zone such as 2026-01-31T12:00:00Z, or a time ago such as -1h"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let at = |text| parse_at(text, 10_000_000).unwrap();
        assert_eq!(at("beginning"), StartAt::Beginning);
        assert_eq!(at("end"), StartAt::End);
        assert_eq!(at("1200"), StartAt::Offset(Offset(1200)));
        assert_eq!(at("-1h"), StartAt::Time(10_000_000 - 3_600_000));
        assert_eq!(at("1970-01-01T00:00:01Z"), StartAt::Time(1_000));
        assert_eq!(at("1970-01-01T01:00:01+01:00"), StartAt::Time(1_000));
    }

    #[test]
    fn what_is_no_place_is_refused_with_the_places_there_are() {
        for text in [
            "",
            "start",
            "-1",
            "1.5",
            "2026-01-31",
            "2026-01-31T12:00:00",
        ] {
            assert!(parse_at(text, 0).is_err(), "{text:?}");
        }
        assert!(parse_at("soon", 0).unwrap_err().contains("beginning"));
        let too_late = parse_at("9999-12-31T23:59:59Z", 0).unwrap_err();
        assert!(too_late.contains("range"), "{too_late}");
        let without_zone = parse_at("2026-01-31T12:00:00", 0).unwrap_err();
        assert!(without_zone.contains("zone"), "{without_zone}");
    }
}
