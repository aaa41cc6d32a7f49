//! Times as this crate takes and prints them. Never reads a clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::UnixTime;

/// Gives the time in Unix milliseconds; the daemon brings its own, tests a fixed one.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One hour, in milliseconds; certificates are backdated by it because clocks of neighbours differ.
pub const BACKDATE_MS: u64 = 3600 * 1000;
/// One day, in milliseconds.
pub const DAY_MS: u64 = 24 * 3600 * 1000;
/// Two clocks further apart than this, in milliseconds, are an error to report.
pub const SKEW_MS: u64 = 5 * 60 * 1000;

/// A Unix time in milliseconds that prints as RFC 3339, UTC, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let (year, month, day) = civil(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl Utc {
    /// Reads what it prints.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = |from: usize, to: usize| -> Option<u64> { text.get(from..to)?.parse().ok() };
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let read =
            Self(((days(year, month, day) * 24 + hour) * 60 + minute).checked_mul(60)?.checked_add(second)? * 1000);
        (read.to_string() == text).then_some(read)
    }
}

/// Days from 1970-01-01 to a day (Hinnant's `days_from_civil`, for years from 1970 on).
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant's `civil_from_days`, for days from 1970 on).
const fn civil(day_since_1970: u64) -> (u64, u64, u64) {
    let shifted = day_since_1970 + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// A length of time in milliseconds, for people: the largest unit that fits, rounded down.
pub(crate) struct Span(pub(crate) u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let units = [(86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
        let (size, unit) = units.into_iter().find(|(size, _)| seconds >= *size).unwrap_or((1, "second"));
        let count = seconds / size;
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

pub(crate) const fn unix(ms: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ms: u64, expect: &str) {
        assert_eq!(Utc(ms).to_string(), expect);
        assert_eq!(Utc::parse(expect), Some(Utc(ms - ms % 1000)));
    }

    #[test]
    fn times_print_as_rfc_3339() {
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_400_000, "2000-02-29T00:00:00Z");
        check(1_751_327_999_999, "2025-06-30T23:59:59Z");
        check(1_751_328_000_000, "2025-07-01T00:00:00Z");
        check(4_102_444_800_000, "2100-01-01T00:00:00Z");
        check(4_107_542_400_000, "2100-03-01T00:00:00Z");
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for text in
            ["", "2025-02-30T00:00:00Z", "2025-07-01T00:00:00", "2025-07-01 00:00:00Z", "1969-12-31T23:59:59Z", "é"]
        {
            assert_eq!(Utc::parse(text), None, "{text}");
        }
        for text in ["2025-13-01T00:00:00Z", "2025-01-01T24:00:00Z", "2025-01-01T00:60:00Z", "+025-01-01T00:00:00Z"] {
            assert_eq!(Utc::parse(text), None, "{text}");
        }
    }

    #[test]
    fn spans_print_in_their_largest_unit() {
        assert_eq!(Span(DAY_MS * 2).to_string(), "2 days");
        assert_eq!(Span(61_000).to_string(), "1 minute");
        assert_eq!(Span(10).to_string(), "0 seconds");
    }
}
