//! Loss that is the line's own, and loss that we cause.
//!
//! A line that loses at random loses as much when less is sent, so there is no reason to send less. A policer or a short
//! queue does not. So when more is lost than the line's own share, a little less is sent for two rounds, and what becomes
//! of the loss decides.

use std::time::{Duration, Instant};

/// This much above the line's own share is looked into.
const EXCESS: f64 = 0.04;
/// Packets over which a share is taken: fewer tell nothing.
const PACKETS: f64 = 64.0;
/// The same for the share after a cut, which decides more.
const PACKETS_AFTER: f64 = 128.0;
/// Shares in a row that are too large before it is looked into, and while a limit is kept to.
const SHARES: u8 = 3;
const SHARES_LIMITED: u8 = 8;
/// The line's own share never counts for more: beyond, nothing would be left to send.
const MOST: f64 = 0.5;
/// What is sent while it is looked into.
pub const CUT: f64 = 0.85;
/// Rounds from one look to the next.
const REST: u32 = 20;
/// A limit that was found holds so long, and each time it is found again twice as long.
const HOLD: Duration = Duration::from_secs(10);
const HOLD_MOST: Duration = Duration::from_secs(60);
/// The share of what was delivered that is sent under such a limit.
pub const UNDER: f64 = 0.98;

/// What to do about loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Advice {
    /// Nothing.
    Go,
    /// Send [`CUT`] of it and see.
    Cut,
    /// It was the line's own: as before.
    Restore,
    /// It was ours: send no more than the limit.
    Limit,
}

/// A cut whose effect is awaited: the share lost and the rate before it, and rounds until what follows counts.
#[derive(Debug, Clone, Copy)]
struct Trial {
    share: f64,
    rate: f64,
    rounds: u8,
}

/// Loss on one line.
#[derive(Debug, Clone)]
pub struct Loss {
    own: f64,
    measured: u32,
    lost: f64,
    acked: f64,
    had_queue: bool,
    excess: u8,
    trial: Option<Trial>,
    rest: u32,
    limit: Option<(f64, Instant)>,
    hold: Duration,
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            own: 0.0,
            measured: 0,
            lost: 0.0,
            acked: 0.0,
            had_queue: false,
            excess: 0,
            trial: None,
            rest: 0,
            limit: None,
            hold: HOLD,
        }
    }
}

impl Loss {
    /// The share that the line loses by itself.
    #[must_use]
    pub const fn own(&self) -> f64 {
        self.own
    }

    /// Bytes a second that a limit on the way lets through.
    pub fn limit(&mut self, now: Instant) -> Option<f64> {
        self.limit = self.limit.filter(|(_, until)| now < *until);
        self.limit.map(|(rate, _)| rate)
    }

    /// Whether the last share taken was more than the line's own.
    #[must_use]
    pub const fn is_excessive(&self) -> bool {
        self.excess > 0
    }

    /// What was lost of late came of looking for the line's rate.
    pub const fn forget(&mut self) {
        (self.lost, self.acked, self.excess) = (0.0, 0.0, 0);
    }

    /// A round ended: packets given up and acknowledged, whether a queue stood, the rate delivered.
    pub fn round(&mut self, now: Instant, lost: f64, acked: f64, has_queue: bool, rate: f64) -> Advice {
        self.rest = self.rest.saturating_sub(1);
        if let Some(Trial { rounds: rounds @ 1.., .. }) = &mut self.trial {
            *rounds -= 1;
            (self.lost, self.acked) = (0.0, 0.0);
            return Advice::Go;
        }
        // What a full queue drops is the queue's affair, and what follows it for a round.
        let is_queues = has_queue || std::mem::replace(&mut self.had_queue, has_queue);
        if is_queues && self.trial.is_none() {
            return Advice::Go;
        }
        self.lost += lost;
        self.acked += acked;
        let packets = self.lost + self.acked;
        if packets < if self.trial.is_some() { PACKETS_AFTER } else { PACKETS } {
            return Advice::Go;
        }
        let share = self.lost / packets;
        (self.lost, self.acked) = (0.0, 0.0);
        if let Some(before) = self.trial.take() {
            self.rest = REST;
            self.excess = 0;
            // Were it a limit, as much would have been delivered of less that was sent.
            let under_limit = (1.0 - (1.0 - before.share) / CUT).max(0.0);
            if share <= (before.share + under_limit) / 2.0 {
                self.limit = Some((UNDER * before.rate.max(rate), now + self.hold));
                self.hold = (2 * self.hold).min(HOLD_MOST);
                return Advice::Limit;
            }
            self.own = share.min(MOST);
            return Advice::Restore;
        }
        // Two deviations: of 64 packets a fifth lost, anything from a tenth to three tenths is usual.
        let usual = EXCESS + 2.0 * (self.own * (1.0 - self.own) / packets).sqrt();
        if self.measured > 0 && share > self.own + usual {
            self.excess = self.excess.saturating_add(1);
            // Under a limit there should be no loss of ours: what is lost all the same is most likely weather.
            let enough = if self.limit.is_some() { SHARES_LIMITED } else { SHARES };
            if self.excess >= enough && self.rest == 0 {
                self.trial = Some(Trial { share, rate, rounds: 2 });
                return Advice::Cut;
            }
            return Advice::Go;
        }
        self.excess = 0;
        self.measured = (self.measured + 1).min(8);
        self.own += (share - self.own) / f64::from(self.measured);
        self.own = self.own.min(MOST);
        Advice::Go
    }
}
