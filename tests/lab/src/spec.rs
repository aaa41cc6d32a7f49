//! Rates, times, losses and queues as people write them: `200mbit`, `50ms`, `1%`, `1%x8`, `64kb`.

use crate::model::{Loss, Rate, SECOND_NS};

fn number<'a>(text: &'a str, unit: &str) -> Option<(f64, &'a str)> {
    let rest = text.strip_suffix(unit)?;
    rest.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0).map(|number| (number, rest))
}

fn wrong(text: &str, examples: &str) -> String {
    format!("{text:?} is not understood; write for example {examples}")
}

/// `200mbit`, `64kbit`, `1gbit`; `5mbit~50%` varies by so much.
///
/// # Errors
/// With examples.
pub fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || wrong(text, "200mbit, 64kbit or 5mbit~50%");
    let (mean, swing) = text.split_once('~').map_or((text, None), |(mean, swing)| (mean, Some(swing)));
    let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3)];
    let bits = units.iter().find_map(|(unit, each)| Some(number(mean, unit)?.0 * each));
    let bits = bits.filter(|bits| *bits >= 1.0).ok_or_else(wrong)? as u64;
    let Some(swing) = swing else { return Ok(Rate::Fixed(bits)) };
    let swing = share(swing).ok().filter(|swing| *swing < 1.0).ok_or_else(wrong)?;
    Ok(Rate::Varying { mean: bits, swing })
}

/// `50ms`, `2s`, `100us`, in nanoseconds.
///
/// # Errors
/// With examples.
pub fn time_ns(text: &str) -> Result<u64, String> {
    let units = [("ms", 1e6), ("us", 1e3), ("s", SECOND_NS as f64)];
    let time = units.iter().find_map(|(unit, each)| Some((number(text, unit)?.0 * each) as u64));
    time.ok_or_else(|| wrong(text, "50ms, 2s or 100us"))
}

fn share(text: &str) -> Result<f64, String> {
    let percent = number(text, "%").filter(|(percent, _)| *percent <= 100.0);
    percent.map(|(percent, _)| percent / 100.0).ok_or_else(|| wrong(text, "1%"))
}

/// `1%`, or `1%x8`: as many, but in bursts of 8 on average.
///
/// # Errors
/// With examples.
pub fn loss(text: &str) -> Result<Loss, String> {
    let Some((part, length)) = text.split_once('x') else { return Ok(Loss::Random(share(text)?)) };
    let length = length.parse().ok().filter(|length: &f64| *length >= 1.0);
    let length = length.ok_or_else(|| wrong(text, "1% or 1%x8"))?;
    Ok(Loss::Bursts { share: share(part)?, length })
}

/// `100ms` at the mean of this rate, or `64kb`; in bytes.
///
/// # Errors
/// With examples.
pub fn queue_bytes(text: &str, rate: Rate) -> Result<u64, String> {
    if let Some((kilobytes, _)) = number(text, "kb") {
        return Ok((kilobytes * 1000.0) as u64);
    }
    let time = time_ns(text).map_err(|_| wrong(text, "100ms or 64kb"))?;
    Ok((rate.mean() as f64 * time as f64 / 8.0 / SECOND_NS as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        assert_eq!(rate("200mbit"), Ok(Rate::Fixed(200_000_000)));
        assert_eq!(rate("0.4mbit"), Ok(Rate::Fixed(400_000)));
        assert_eq!(rate("5mbit~50%"), Ok(Rate::Varying { mean: 5_000_000, swing: 0.5 }));
        assert_eq!(time_ns("50ms"), Ok(50_000_000));
        assert_eq!(time_ns("100us"), Ok(100_000));
        assert_eq!(time_ns("2s"), Ok(2_000_000_000));
        assert_eq!(loss("1%"), Ok(Loss::Random(0.01)));
        assert_eq!(loss("2%x8"), Ok(Loss::Bursts { share: 0.02, length: 8.0 }));
        assert_eq!(queue_bytes("100ms", Rate::Fixed(200_000_000)), Ok(2_500_000));
        assert_eq!(queue_bytes("64kb", Rate::Fixed(1)), Ok(64_000));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for text in ["", "200", "0mbit", "-1mbit", "nanmbit", "infgbit", "5mbit~100%", "5mbit~", "5 potatoes"] {
            assert!(rate(text).is_err_and(|error| error.contains("200mbit")), "{text}");
        }
        for text in ["", "50", "-1ms", "ms"] {
            assert!(time_ns(text).is_err(), "{text}");
        }
        for text in ["", "1", "101%", "-1%", "1%x", "1%x0"] {
            assert!(loss(text).is_err(), "{text}");
        }
        assert!(queue_bytes("64", Rate::Fixed(1)).is_err());
    }
}
