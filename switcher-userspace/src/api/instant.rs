//! Instants on the wire: RFC 3339, UTC, milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// `instant` as the wire has it.
#[must_use]
pub fn format(instant: SystemTime) -> String {
    written(instant, |utc| utc.replace_millisecond(utc.millisecond()))
}

fn written(
    instant: SystemTime,
    cut: impl FnOnce(OffsetDateTime) -> Result<OffsetDateTime, time::error::ComponentRange>,
) -> String {
    let since_epoch = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    // All fail only beyond the year 9999; the epoch then says plainly that the clock is wrong.
    i128::try_from(since_epoch.as_nanos())
        .ok()
        .and_then(|nanos| OffsetDateTime::from_unix_timestamp_nanos(nanos).ok())
        .and_then(|utc| cut(utc).ok())
        .and_then(|utc| utc.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// `instant` with its microseconds, for what happens many times in a millisecond.
#[must_use]
pub fn format_micros(instant: SystemTime) -> String {
    written(instant, |utc| utc.replace_microsecond(utc.microsecond()))
}

/// The instant of `text`, if it is one.
#[must_use]
pub fn parse(text: &str) -> Option<SystemTime> {
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_instant_that_no_calendar_has_is_the_epoch() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) << 16);
        assert_eq!(format(far), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn instants_are_utc_in_milliseconds() {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        assert_eq!(format(at), "2023-11-14T22:13:20.123Z");
        assert_eq!(format_micros(at), "2023-11-14T22:13:20.123456Z");
        let cut = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(parse(&format(at)), Some(cut));
    }

    #[test]
    fn other_text_is_no_instant() {
        for text in ["", "yesterday", "2023-11-14 22:13", "2023-13-01T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
