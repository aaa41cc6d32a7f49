//! Rates with their unit in the value: `2mbit`.

use std::fmt;
use std::str::FromStr;

/// Less would let a link stand still between two packets.
const LEAST_BITS: u64 = 8_000;

/// Bits per second, at least 8,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

const UNITS: [(&str, u64); 4] = [("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000), ("bit", 1)];

impl Rate {
    /// In bits per second.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// In bytes per second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 / 8
    }

    /// So much of it.
    #[must_use]
    pub fn percent(self, percent: u64) -> Self {
        Self((self.0.saturating_mul(percent) / 100).max(LEAST_BITS))
    }

    #[cfg(test)]
    pub(crate) fn of_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not a rate: write one such as \"512kbit\", \"2mbit\" or \"1gbit\" (per second)");
        let word = text.trim().to_ascii_lowercase();
        let word = word.strip_suffix("/s").unwrap_or(&word);
        let (number, unit) =
            UNITS.iter().find_map(|(name, unit)| Some((word.strip_suffix(name)?, unit))).ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        if !number.is_finite() || number < 0.0 {
            return Err(wrong());
        }
        // A rate of a billion gigabit has no more digits than this.
        let bits = (number * *unit as f64).round() as u64;
        match bits {
            0 => Err("a rate of 0 lets nothing through: leave the entry out, or stop a link with `tram queue pause`"
                .to_owned()),
            _ if bits < LEAST_BITS => Err(format!("{text} is too slow to plan with: give at least 8kbit")),
            _ => Ok(Self(bits)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS[..3].iter().rev().find(|(_, unit)| self.0 >= *unit).unwrap_or(&UNITS[3]);
        let whole = self.0 as f64 / *unit as f64;
        let text = format!("{whole:.3}");
        write!(f, "{}{name}", text.trim_end_matches('0').trim_end_matches('.'))
    }
}
