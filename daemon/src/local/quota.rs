//! How much flash each user may send: so many documents and bytes in a time.
//!
//! Flash overtakes everything on every link, so it is worth what it costs to be rare. What is over the quota is sent with
//! the next precedence and says so; it is never refused. The counts are in memory and begin anew with the daemon.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use governor::Quota;

use crate::clock::{Clock, Limiter};

/// Bytes are counted in cells of this many.
const CELL_BYTES: u64 = 1024;
/// Users whose flash is counted at once; beyond them all begin anew.
const USERS: usize = 4096;

/// So much in a time, all of which may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    amount: u64,
    period: Duration,
}

/// What a user may send with flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlashQuota {
    /// Documents.
    pub documents: Option<Allowance>,
    /// Bytes of payload.
    pub bytes: Option<Allowance>,
}

impl Allowance {
    /// Reads `10/min`, or with `of_bytes` `5 MiB/h`.
    ///
    /// # Errors
    /// What is wrong with the text and what would be right.
    pub(super) fn parse(text: &str, of_bytes: bool) -> Result<Self, String> {
        let example = if of_bytes { "5 MiB/h" } else { "10/min" };
        let wrong = || format!("{text:?} is not a rate: write one such as {example:?}, per s, min, h or day");
        let (amount, unit) = text.split_once('/').ok_or_else(wrong)?;
        let period = Duration::from_secs(match unit.trim() {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            "day" => 24 * 3600,
            _ => return Err(wrong()),
        });
        let amount = match amount.trim() {
            text if of_bytes => text.parse::<ByteSize>().map_err(|_| wrong())?.as_u64(),
            text => text.parse().map_err(|_| wrong())?,
        };
        if amount == 0 {
            return Err(format!("{text:?} lets no flash through: take \"flash\" out of send instead"));
        }
        Ok(Self { amount, period })
    }

    /// Whether this one allows more than another.
    fn is_above(self, other: Self) -> bool {
        u128::from(self.amount) * other.period.as_nanos() > u128::from(other.amount) * self.period.as_nanos()
    }

    fn limiter(self, cell: u64, clock: Clock) -> Limiter {
        let cells = u32::try_from(self.amount.div_ceil(cell)).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX);
        let each = (self.period / cells.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(each).expect("a period is not zero");
        Limiter::direct_with_clock(quota.allow_burst(cells), clock)
    }
}

impl FlashQuota {
    /// Of several the largest counts; one that says nothing leaves the other's word.
    pub(super) fn or_larger(self, other: Self) -> Self {
        let larger = |a: Option<Allowance>, b: Option<Allowance>| match (a, b) {
            (Some(a), Some(b)) => Some(if b.is_above(a) { b } else { a }),
            (one, other) => one.or(other),
        };
        Self { documents: larger(self.documents, other.documents), bytes: larger(self.bytes, other.bytes) }
    }
}

struct Counted {
    quota: FlashQuota,
    documents: Option<Limiter>,
    bytes: Option<Limiter>,
}

/// What each user has sent.
pub struct Quotas {
    clock: Clock,
    users: Mutex<BTreeMap<u32, Counted>>,
}

impl Quotas {
    /// Nobody has sent anything.
    #[must_use]
    pub const fn new(clock: Clock) -> Self {
        Self { clock, users: Mutex::new(BTreeMap::new()) }
    }

    /// Counts a flash document of a user; false when it is over the quota.
    pub(super) fn take(&self, user: u32, quota: FlashQuota, bytes: u64) -> bool {
        if quota == FlashQuota::default() {
            return true;
        }
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS && !users.contains_key(&user) {
            users.clear();
        }
        let new = || Counted {
            quota,
            documents: quota.documents.map(|all| all.limiter(1, self.clock)),
            bytes: quota.bytes.map(|all| all.limiter(CELL_BYTES, self.clock)),
        };
        let counted = users.entry(user).or_insert_with(new);
        if counted.quota != quota {
            // The rule was changed.
            *counted = new();
        }
        let cells = u32::try_from(bytes.div_ceil(CELL_BYTES)).ok().and_then(|cells| NonZeroU32::new(cells.max(1)));
        let has_bytes = counted
            .bytes
            .as_ref()
            .is_none_or(|bytes| cells.is_some_and(|cells| matches!(bytes.check_n(cells), Ok(Ok(())))));
        has_bytes && counted.documents.as_ref().is_none_or(|documents| documents.check().is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(documents: &str, bytes: &str) -> FlashQuota {
        let of = |text: &str, of_bytes| (!text.is_empty()).then(|| Allowance::parse(text, of_bytes).expect("a rate"));
        FlashQuota { documents: of(documents, false), bytes: of(bytes, true) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_the_quota_is_counted_by_user_and_comes_back_with_time() {
        let quotas = Quotas::new(Clock::virtual_time());
        let three = quota("3/min", "");
        let takes = |user, count| (0..count).filter(|_| quotas.take(user, three, 100)).count();
        assert_eq!((takes(1, 5), takes(2, 1)), (3, 1));
        tokio::time::advance(Duration::from_secs(19)).await;
        assert_eq!(takes(1, 1), 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(takes(1, 2), 1, "one in twenty seconds");
        assert_eq!((0..9).filter(|_| quotas.take(1, quota("4/min", ""), 100)).count(), 4, "a changed rule begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_count_too_and_what_is_larger_than_all_of_them_is_over() {
        let quotas = Quotas::new(Clock::virtual_time());
        let both = quota("100/min", "10 KiB/h");
        assert!(quotas.take(1, both, 6 * 1024) && !quotas.take(1, both, 6 * 1024) && quotas.take(1, both, 4 * 1024));
        assert!(!quotas.take(2, both, 11 * 1024) && quotas.take(2, both, 0));
        assert!(quotas.take(3, FlashQuota::default(), u64::MAX), "no quota");
    }

    #[test]
    fn of_several_the_larger_counts() {
        let of = |a: FlashQuota, b: FlashQuota| (a.or_larger(b), b.or_larger(a));
        let hour = quota("100/h", "");
        assert_eq!(of(hour, quota("2/min", "")), (quota("2/min", ""), quota("2/min", "")));
        assert_eq!(of(hour, quota("", "1 MiB/h")), (quota("100/h", "1 MiB/h"), quota("100/h", "1 MiB/h")));
    }

    #[test]
    fn a_rate_that_cannot_be_is_named() {
        for (text, of_bytes, part) in
            [("10", false, "10/min"), ("10/week", false, "10/week"), ("x/min", true, "MiB/h"), ("0/min", false, "take")]
        {
            let error = Allowance::parse(text, of_bytes).expect_err("refused");
            assert!(error.contains(part), "{error}");
        }
    }
}
