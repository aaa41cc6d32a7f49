//! Tables, JSON and times.

use std::io::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use tram_client::Progress;

use crate::exit::Failure;

/// One line on stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::io(format!("cannot write the answer: {error}")))
}

/// One JSON object, on one line.
pub(crate) fn json(value: &Value) -> Result<(), Failure> {
    line(&value.to_string())
}

/// A time for JSON: RFC 3339, UTC, always with milliseconds so that texts sort as times do; null when there is none.
pub(crate) fn utc(at_ms: u64) -> Value {
    timestamp(at_ms).map_or(Value::Null, |at| at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string().into())
}

/// A time for people: local, with its offset; `-` when there is none.
pub(crate) fn local(at_ms: u64) -> String {
    timestamp(at_ms).map_or_else(
        || "-".to_owned(),
        |at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
    )
}

fn timestamp(at_ms: u64) -> Option<Timestamp> {
    let at_ms = i64::try_from(at_ms).ok().filter(|ms| *ms != 0)?;
    Timestamp::from_millisecond(at_ms).ok()
}

/// A number of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

/// The application's code of a recipient in state `status`, for JSON.
pub(crate) fn code(recipient: &Progress) -> Option<u32> {
    (recipient.state == "status").then_some(recipient.code)
}

/// Why a recipient is in its state: reason, code and text, as far as there are any.
pub(crate) fn why(recipient: &Progress) -> String {
    let code = code(recipient).map(|code| code.to_string()).unwrap_or_default();
    let words = [recipient.reason.as_str(), &code, &recipient.detail];
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A number of things for people.
pub(crate) fn count(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Text of others, made safe for a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Aligned columns; the last one is not padded.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let rows: Vec<[String; N]> =
        std::iter::once(&head).chain(rows).map(|row| row.clone().map(|cell| plain(&cell))).collect();
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let text = rows.iter().map(|row| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    });
    text.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_lets_no_control_character_through() {
        let rows = [["Cần Thơ".to_owned(), "a\u{1b}[31m\nb".to_owned()], ["x".to_owned(), String::new()]];
        assert_eq!(table(["NODE", "TEXT"], &rows), "NODE     TEXT\nCần Thơ  a?[31m?b\nx");
    }

    #[test]
    fn json_times_are_rfc_3339_in_utc() {
        assert_eq!(utc(1_800_000_000_000), Value::from("2027-01-15T08:00:00.000Z"));
        assert_eq!(utc(1_800_000_000_123), Value::from("2027-01-15T08:00:00.123Z"));
        assert_eq!((utc(0), utc(u64::MAX), local(0)), (Value::Null, Value::Null, "-".to_owned()));
    }
}
