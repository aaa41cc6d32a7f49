//! How fast each link went in the last five minutes, in both directions: the 95th percentile of looks two seconds apart.
//!
//! Bytes are those of IP packets, as a line's contract counts them. Forgets a link with its connection.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tram_relay::input::LinkId;

/// How often to look.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// Looks that are kept: five minutes.
const LOOKS: usize = 150;
/// Of a hundred looks, so many are not above what is told.
const PERCENTILE: usize = 95;
/// Headers around a datagram: IPv4 or IPv6, and UDP.
const V4_BYTES: u64 = 28;
const V6_BYTES: u64 = 48;

/// Bytes of IP packets that so many UDP payload bytes in so many datagrams make.
pub(crate) const fn ip_bytes(udp_bytes: u64, datagrams: u64, is_v6: bool) -> u64 {
    udp_bytes + datagrams * if is_v6 { V6_BYTES } else { V4_BYTES }
}

/// What a link has sent and received so far.
pub(crate) type Both = [u64; 2];

#[derive(Debug, Default)]
struct Looks {
    last: Option<(Duration, Both)>,
    bytes_per_s: VecDeque<[f32; 2]>,
}

/// The rates of all links.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<BTreeMap<LinkId, Looks>>);

impl Rates {
    /// Looks at the links there are, at a moment of the monotonic clock.
    pub(crate) fn look(&self, now: Duration, links: impl Iterator<Item = (LinkId, Both)>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *known);
        for (id, bytes) in links {
            let mut looks = before.remove(&id).unwrap_or_default();
            if let Some((at, earlier)) = looks.last.replace((now, bytes)) {
                let seconds = now.saturating_sub(at).as_secs_f32().max(0.001);
                let rate = |way: usize| bytes[way].saturating_sub(earlier[way]) as f32 / seconds;
                // When a look came late, what it found held for all that time.
                let times = (seconds / EVERY.as_secs_f32()).round().clamp(1.0, LOOKS as f32) as usize;
                for _ in 0..times {
                    looks.bytes_per_s.truncate(LOOKS - 1);
                    looks.bytes_per_s.push_front([rate(0), rate(1)]);
                }
            }
            known.insert(id, looks);
        }
    }

    /// The 95th percentile of a link, in bytes a second sent and received; none before the second look at it.
    pub(crate) fn of(&self, id: LinkId) -> Option<[f64; 2]> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let looks = &known.get(&id)?.bytes_per_s;
        let at = (looks.len() * PERCENTILE).div_ceil(100).checked_sub(1)?;
        let of = |way: usize| {
            let mut rates: Vec<f32> = looks.iter().map(|rate| rate[way]).collect();
            f64::from(*rates.select_nth_unstable_by(at, f32::total_cmp).1)
        };
        Some([of(0), of(1)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: LinkId = LinkId(7);

    /// Looks at a link after each pause in seconds, in which it sent so many bytes.
    #[track_caller]
    fn check(looks: impl IntoIterator<Item = (u64, u64)>, expect: Option<f64>) {
        let rates = Rates::default();
        let (mut now, mut sent) = (Duration::ZERO, 0);
        rates.look(now, [(LINK, [0, 0])].into_iter());
        for (seconds, bytes) in looks {
            now += Duration::from_secs(seconds);
            sent += bytes;
            rates.look(now, [(LINK, [sent, 3 * sent])].into_iter());
        }
        assert_eq!(rates.of(LINK), expect.map(|rate| [rate, 3.0 * rate]));
        rates.look(now, std::iter::empty());
        assert_eq!(rates.of(LINK), None, "a link that is gone is forgotten");
    }

    #[test]
    fn a_short_burst_is_left_out_and_a_long_one_counts() {
        check([], None);
        check([(2, 2_000)], Some(1_000.0));
        let quiet = |count| std::iter::repeat_n((2, 200), count);
        let burst = |count| std::iter::repeat_n((2, 20_000), count);
        check(quiet(143).chain(burst(7)), Some(100.0));
        check(quiet(142).chain(burst(8)), Some(10_000.0));
        check(burst(150).chain(quiet(150)), Some(100.0));
        // One look that came late stands for all those that were left out.
        check(quiet(100).chain([(20, 200_000)]), Some(10_000.0));
    }
}
