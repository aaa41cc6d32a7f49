//! What time brings: leases, deadlines, offers made again, stalls, forgetting.

use tram_proto::receipt::{Reason, State};
use tram_proto::row::Phase;

use crate::input::{LinkId, Row};
use crate::limits;
use crate::node::Node;
use crate::output::{Event, Op, Output};
use crate::time::Now;

impl Node {
    /// The next moment, in monotonic milliseconds, at which [`crate::Input::Timer`] has to come, and why.
    #[must_use]
    pub fn next_deadline(&self) -> Option<(u64, &'static str)> {
        if !self.started {
            return None;
        }
        let from_wall = |at_ms: u64| {
            let now = self.clock.corrected_ms(self.now);
            self.now.mono_ms.saturating_add(at_ms.saturating_sub(now))
        };
        let ping = self.links.iter().filter(|l| l.is_up()).filter_map(|l| l.pinged_ms).min();
        let due = self.custody.next_due_ms().filter(|_| self.clock.trusted()).map(from_wall);
        let stalled = (!self.custody.all_receiving().is_empty()).then_some(self.next_stall_ms);
        [
            (self.inboxes.next_expiry_ms(), "a lease ends"),
            (due, "a message's deadline or next offer"),
            (ping.map(|at| at + limits::PING_MS), "a ping"),
            (stalled, "a payload that may have stalled"),
            (self.asks.next_deadline_ms(), "an answer that is missing"),
            (self.custody.next_unpark_ms(), "a recipient that was put off"),
            (self.transit.next_unpark_ms(), "a receipt that came from where it should go"),
            (self.next_invite_ms(), "room for what was put off"),
            (Some(self.next_prune_ms), "forgetting"),
        ]
        .into_iter()
        .filter_map(|(at, why)| Some((at?, why)))
        .min()
    }

    pub(super) fn timer(&mut self) {
        if !self.started {
            return;
        }
        let Now { mono_ms, .. } = self.now;
        let ended = self.inboxes.expire(mono_ms);
        if !ended.is_empty() {
            self.put_back(ended);
        }
        let silent: Vec<LinkId> = self
            .links
            .iter()
            .filter(|l| l.is_up() && l.pinged_ms.is_some_and(|at| at + limits::PING_MS <= mono_ms))
            .map(|l| l.id)
            .collect();
        silent.into_iter().for_each(|link| self.ping(link));
        if self.next_stall_ms <= mono_ms {
            self.next_stall_ms = mono_ms + limits::STALL_LOOK_MS;
            self.want_stalled();
        }
        self.give_up_asks();
        self.unpark();
        if self.next_invite_ms().is_some_and(|at| at <= mono_ms) {
            self.invite();
        }
        if self.clock.trusted() {
            self.act_on_deadlines();
        }
        if self.next_prune_ms <= mono_ms {
            self.next_prune_ms = mono_ms + limits::PRUNE_MS;
            self.prune();
        }
    }

    fn want_stalled(&mut self) {
        for row in self.custody.all_receiving() {
            let Some(coming) = self.custody.get(row).and_then(|live| live.coming()) else { continue };
            let patience_ms = if coming.sources.len() > 1 { limits::SWITCH_MS } else { limits::STALLED_MS };
            if coming.progress_ms + patience_ms <= self.now.mono_ms {
                self.want_again(row, true);
            }
        }
    }

    fn act_on_deadlines(&mut self) {
        let now_ms = self.clock.corrected_ms(self.now);
        for row in self.custody.due_again(now_ms) {
            self.offer_own_again(row);
        }
        for row in self.custody.due_alarms(now_ms) {
            let Some(live) = self.custody.get(row) else { continue };
            let Some(by_ms) = live.deliver_by_ms else { continue };
            let (message, recipients) = (live.message.id, live.still_to_arrive());
            self.outputs.push_back(Output::Event(Event::Late { message, by_ms, now_ms, recipients }));
        }
        for row in self.custody.past_deadline(now_ms) {
            self.expire(row);
        }
    }

    pub(super) fn expire_if_due(&mut self, row: Row) {
        let now_ms = self.clock.corrected_ms(self.now);
        if self.clock.trusted() && self.custody.get(row).is_some_and(|live| live.ends_ms() < now_ms) {
            self.expire(row);
        }
    }

    /// The destination ends what waits in its inboxes; a relay lets its copy go; the origin, after a grace, gives up on
    /// those of whom nothing was heard.
    fn expire(&mut self, row: Row) {
        let Some(live) = self.custody.get(row) else { return };
        let own = live.is_own();
        let mut inboxes = Vec::new();
        let mut given_up = Vec::new();
        for (index, r) in live.message.recipients.iter().enumerate() {
            match r.phase {
                Phase::Inbox => inboxes.extend(live.address(r.recipient.ordinal).map(|a| a.inbox.clone())),
                Phase::Forward | Phase::Handed if own => given_up.push((index, r.state)),
                Phase::Forward | Phase::Handed | Phase::Ended => {}
            }
        }
        inboxes.retain(|inbox| !self.inboxes.is_held(inbox, row));
        let changed = !inboxes.is_empty() || !given_up.is_empty();
        for inbox in inboxes {
            self.end_in_inbox(row, &inbox, State::Expired, Reason::LifetimeEnded);
        }
        for (index, state) in given_up {
            if state == State::Arrived {
                // The destination has it; what became of it there is for the destination to say.
                if let Some(r) = self.custody.get_mut(row).and_then(|l| l.message.recipients.get_mut(index)) {
                    r.phase = Phase::Ended;
                }
            } else {
                self.state_recipient(row, index, State::Expired, Reason::LifetimeEnded, Phase::Ended);
            }
        }
        if !own && let Some(live) = self.custody.get_mut(row) {
            live.forget(|r| r.phase == Phase::Forward);
        }
        if changed {
            self.update(row);
        }
        self.settle_if_done(row);
    }

    fn prune(&mut self) {
        self.row.clock_ms = self.row.clock_ms.max(self.now.wall_ms);
        self.op(Op::PutNode(self.row));
        if self.clock.trusted() {
            let now_ms = self.clock.corrected_ms(self.now);
            self.custody.forget_settled(now_ms);
            self.keys.retain(|_, key| key.until_ms >= now_ms);
            self.op(Op::Prune(now_ms));
        }
    }
}
