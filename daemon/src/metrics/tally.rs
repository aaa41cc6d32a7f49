//! Counters of what nothing else counts: deliveries, receipts, errors, reloads. Counting never waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use prometheus_client::metrics::histogram::Histogram;
use tram_proto::envelope::Precedence;
use tram_proto::receipt::State;
use tram_relay::output::{CloseReason, Event, SubmitRefused};

/// Upper bounds of the classes of delivery times, in seconds: from one hop on a good line to a commune that is switched
/// on twice a week.
const DELIVERY_SECONDS: [f64; 16] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43_200.0, 86_400.0, 259_200.0];

/// The states whose delivery time is kept.
pub(crate) const TIMED: [State; 2] = [State::Arrived, State::Delivered];

/// What a receipt that came home can say.
pub(crate) const OUTCOMES: [State; 7] = [
    State::Arrived,
    State::Delivered,
    State::Status,
    State::Refused,
    State::Expired,
    State::Undeliverable,
    State::Recalled,
];

/// What can go wrong. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    ClockOff,
    EmptySpool,
    NeighbourHeld,
    MessageDamaged,
    PayloadDamaged,
    HopLimit,
    Late,
    Demoted,
    ReceiptNotTrusted,
    EnvelopeNotTrusted,
    OfferRefused,
    SubmitRefused,
    SubmitNoRoom,
    DialFailed,
    HandshakeRefused,
    LinkLost,
    LinkProtocol,
    LinkNotTrusted,
    LinkRefused,
    LinkStalled,
    LinkSpool,
    HttpRefused,
}

impl Kind {
    pub(crate) const ALL: [Self; 22] = [
        Self::ClockOff,
        Self::EmptySpool,
        Self::NeighbourHeld,
        Self::MessageDamaged,
        Self::PayloadDamaged,
        Self::HopLimit,
        Self::Late,
        Self::Demoted,
        Self::ReceiptNotTrusted,
        Self::EnvelopeNotTrusted,
        Self::OfferRefused,
        Self::SubmitRefused,
        Self::SubmitNoRoom,
        Self::DialFailed,
        Self::HandshakeRefused,
        Self::LinkLost,
        Self::LinkProtocol,
        Self::LinkNotTrusted,
        Self::LinkRefused,
        Self::LinkStalled,
        Self::LinkSpool,
        Self::HttpRefused,
    ];

    /// The label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ClockOff => "clock_off",
            Self::EmptySpool => "empty_spool",
            Self::NeighbourHeld => "neighbour_held",
            Self::MessageDamaged => "message_damaged",
            Self::PayloadDamaged => "payload_damaged",
            Self::HopLimit => "hop_limit",
            Self::Late => "late",
            Self::Demoted => "demoted",
            Self::ReceiptNotTrusted => "receipt_not_trusted",
            Self::EnvelopeNotTrusted => "envelope_not_trusted",
            Self::OfferRefused => "offer_refused",
            Self::SubmitRefused => "submit_refused",
            Self::SubmitNoRoom => "submit_no_room",
            Self::DialFailed => "dial_failed",
            Self::HandshakeRefused => "handshake_refused",
            Self::LinkLost => "link_lost",
            Self::LinkProtocol => "link_protocol",
            Self::LinkNotTrusted => "link_not_trusted",
            Self::LinkRefused => "link_refused",
            Self::LinkStalled => "link_stalled",
            Self::LinkSpool => "link_spool",
            Self::HttpRefused => "http_refused",
        }
    }
}

/// The counters of one node since its start.
#[derive(Debug)]
pub struct Tally {
    errors: [AtomicU64; Kind::ALL.len()],
    outcomes: [AtomicU64; OUTCOMES.len()],
    delivery: [[Histogram; Precedence::ALL.len()]; TIMED.len()],
    reload_failed: AtomicBool,
}

impl Default for Tally {
    fn default() -> Self {
        let histogram = |_| Histogram::new(DELIVERY_SECONDS);
        Self {
            errors: Default::default(),
            outcomes: Default::default(),
            delivery: [(); TIMED.len()].map(|()| std::array::from_fn(histogram)),
            reload_failed: AtomicBool::new(false),
        }
    }
}

impl Tally {
    pub(crate) fn error(&self, kind: Kind) {
        self.errors[kind as usize].fetch_add(1, Relaxed);
    }

    /// A config was read again, and taken over or not.
    pub(crate) fn reloaded(&self, taken: bool) {
        self.reload_failed.store(!taken, Relaxed);
    }

    /// What the core says at a moment of this machine's clock, in Unix milliseconds.
    pub(crate) fn event(&self, event: &Event, wall_ms: u64) {
        let kind = match event {
            Event::LinkUp { .. } | Event::Retired { .. } => return,
            Event::Progress { state, submitted, .. } => {
                if let Some(at) = OUTCOMES.iter().position(|one| one == state) {
                    self.outcomes[at].fetch_add(1, Relaxed);
                }
                if let Some((class, created_ms)) = submitted
                    && let Some(at) = TIMED.iter().position(|one| one == state)
                {
                    // By one clock at both ends: the origin's.
                    self.delivery[at][*class as usize].observe(wall_ms.saturating_sub(*created_ms) as f64 / 1000.0);
                }
                return;
            }
            Event::ClockOff { .. } => Kind::ClockOff,
            Event::NewIncarnation { .. } => Kind::EmptySpool,
            Event::Held { .. } => Kind::NeighbourHeld,
            Event::MessageDamaged { .. } => Kind::MessageDamaged,
            Event::PayloadDamaged { .. } => Kind::PayloadDamaged,
            Event::HopLimit { .. } => Kind::HopLimit,
            // Half of the time is a warning ahead.
            Event::Late { by_ms, now_ms, .. } if by_ms > now_ms => return,
            Event::Late { .. } => Kind::Late,
            Event::Demoted { .. } => Kind::Demoted,
            Event::ReceiptNotTrusted { .. } => Kind::ReceiptNotTrusted,
            Event::EnvelopeNotTrusted { .. } => Kind::EnvelopeNotTrusted,
            Event::OfferRefused { .. } => Kind::OfferRefused,
        };
        self.error(kind);
    }

    /// A submission that was not taken.
    pub(crate) fn not_submitted(&self, why: &SubmitRefused) {
        self.error(match why {
            SubmitRefused::Invalid(_)
            | SubmitRefused::LabelNotPermitted(_)
            | SubmitRefused::KeyTaken { .. }
            | SubmitRefused::Starting => Kind::SubmitRefused,
            SubmitRefused::SpoolFull { .. }
            | SubmitRefused::Watermark { .. }
            | SubmitRefused::HopFull { .. }
            | SubmitRefused::Quota { .. }
            | SubmitRefused::TooMany(_) => Kind::SubmitNoRoom,
        });
    }

    pub(crate) fn errors(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().map(|kind| (kind, self.errors[kind as usize].load(Relaxed)))
    }

    pub(crate) fn outcomes(&self) -> impl Iterator<Item = (State, u64)> {
        OUTCOMES.into_iter().zip(&self.outcomes).map(|(state, count)| (state, count.load(Relaxed)))
    }

    pub(crate) fn delivery(&self) -> impl Iterator<Item = (State, Precedence, &Histogram)> {
        TIMED
            .into_iter()
            .zip(&self.delivery)
            .flat_map(|(state, of)| Precedence::ALL.into_iter().map(move |class| (state, class, &of[class as usize])))
    }

    pub(crate) fn reload_succeeded(&self) -> bool {
        !self.reload_failed.load(Relaxed)
    }
}

/// What it counts as when the core closes a link; nothing when that is in order.
pub(crate) const fn of_close(reason: &CloseReason) -> Option<Kind> {
    match reason {
        CloseReason::Shutdown | CloseReason::Replaced => None,
        CloseReason::Protocol(_) | CloseReason::Version { .. } => Some(Kind::LinkProtocol),
        CloseReason::NotWhoItSays { .. }
        | CloseReason::TwoBoots(_)
        | CloseReason::RolledBack { .. }
        | CloseReason::Held(_) => Some(Kind::LinkRefused),
    }
}

#[cfg(test)]
mod tests {
    use tram_proto::id::MessageId;
    use tram_proto::receipt::Reason;

    use super::*;

    fn progress(state: State, submitted: Option<(Precedence, u64)>) -> Event {
        let address = "vanban@central".parse().expect("an address");
        Event::Progress { message: MessageId([1; 32]), address, state, reason: Reason::None, at_ms: 0, submitted }
    }

    #[track_caller]
    fn check(event: &Event, errors: &[Kind], outcomes: &[State], timed: usize) {
        let tally = Tally::default();
        tally.event(event, 5_000);
        let counted: Vec<Kind> = tally.errors().filter(|(_, count)| *count == 1).map(|(kind, _)| kind).collect();
        let came: Vec<State> = tally.outcomes().filter(|(_, count)| *count == 1).map(|(state, _)| state).collect();
        let text = |histogram: &Histogram| format!("{histogram:?}");
        let empty = text(&Histogram::new(DELIVERY_SECONDS));
        let observed = tally.delivery().filter(|(.., histogram)| text(histogram) != empty).count();
        assert_eq!((counted.as_slice(), came.as_slice(), observed), (errors, outcomes, timed));
    }

    #[test]
    fn each_event_counts_once_and_as_what_it_is() {
        let message = MessageId([1; 32]);
        let late = |by_ms| Event::Late { message, by_ms, now_ms: 5_000, recipients: 1 };
        check(&late(4_000), &[Kind::Late], &[], 0);
        check(&late(6_000), &[], &[], 0);
        check(&Event::HopLimit { message }, &[Kind::HopLimit], &[], 0);
        check(&progress(State::Arrived, Some((Precedence::Flash, 4_000))), &[], &[State::Arrived], 1);
        // A clock that was put back makes no negative time.
        check(&progress(State::Delivered, Some((Precedence::Bulk, 9_000))), &[], &[State::Delivered], 1);
        check(&progress(State::Arrived, None), &[], &[State::Arrived], 0);
        check(&progress(State::Expired, Some((Precedence::Flash, 4_000))), &[], &[State::Expired], 0);
    }

    #[test]
    fn every_kind_stands_at_its_own_place_under_its_own_word() {
        let words: std::collections::BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
    }
}
