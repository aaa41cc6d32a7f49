//! Who may take how much of the spool: watermarks by class, shares of a next hop, a child and a user.
//!
//! What finds no room is put off, never refused for good: its sender keeps it and is told when room came back.
//! DESIGN §6, `docs/decisions/0011-shares-of-the-spool.md`.

use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, Verdict};
use tram_proto::id::{Digest, NodeId};
use tram_proto::receipt::Reason;

use crate::custody::spread;
use crate::input::{HopName, LinkId, Row, Side};
use crate::limits;
use crate::links::PutOff;
use crate::node::Node;
use crate::output::SubmitRefused;
use crate::routing::Hop;

/// Pause before a look for what fits again, in milliseconds: a queue that drains frees room with every message.
const INVITE_MS: u64 = 1_000;

/// The spool's room as last told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// As told, less what was let in since.
    pub(super) free_bytes: u64,
    pub(super) total_bytes: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { free_bytes: u64::MAX, total_bytes: u64::MAX }
    }
}

impl Node {
    /// Whether the spool takes so many bytes more of a class.
    pub(super) fn admits(&self, precedence: Precedence, bytes: u64) -> Result<(), SubmitRefused> {
        let room = self.room;
        let needed_bytes = bytes.saturating_add(self.custody.promised_bytes(self.now.mono_ms));
        if room.free_bytes < needed_bytes {
            return Err(SubmitRefused::SpoolFull { room_bytes: room.free_bytes, needed_bytes });
        }
        let used = room.total_bytes.saturating_sub(room.free_bytes).saturating_add(needed_bytes);
        let used_percent =
            u64::try_from(u128::from(used) * 100 / u128::from(room.total_bytes.max(1))).unwrap_or(u64::MAX);
        let limit_percent = limits::watermark_percent(precedence);
        if used_percent > limit_percent {
            return Err(SubmitRefused::Watermark { precedence, used_percent, limit_percent });
        }
        Ok(())
    }

    /// What may wait for a next hop, in bytes.
    const fn share(&self, hop: Hop) -> u64 {
        match hop {
            Hop::Up => self.room.total_bytes / limits::UPLINK_SHARE,
            Hop::Child(_) | Hop::Hold => self.room.total_bytes / limits::CHILD_SHARE,
            Hop::Here => u64::MAX,
        }
    }

    /// Whether so many bytes more may wait for a next hop. One for which nothing waits takes one message of any size.
    pub(super) fn hop_takes(&self, hop: Hop, bytes: u64) -> Result<(), SubmitRefused> {
        let (waiting, limit_bytes) = (self.custody.toward(hop), self.share(hop));
        if waiting == 0 || waiting.saturating_add(bytes) <= limit_bytes {
            return Ok(());
        }
        Err(SubmitRefused::HopFull { next_hop: self.hop_text(hop), bytes: waiting, limit_bytes })
    }

    /// Whether a child may bring so many bytes more before what it brought has gone on.
    pub(super) fn child_may_bring(&self, link: LinkId, bytes: u64) -> bool {
        let Some(link) = self.links.get(link).filter(|l| l.side == Side::Down) else { return true };
        let brought = self.custody.brought_by(link.peer.node);
        brought == 0 || brought.saturating_add(bytes) <= self.room.total_bytes / limits::CHILD_SHARE
    }

    pub(super) fn put_off(&mut self, link: LinkId, number: u64, reason: Reason, what: PutOff) {
        if let Some(l) = self.links.get_mut(link)
            && l.put_off.len() < limits::PUT_OFF
        {
            l.put_off.insert(number, what);
        }
        self.send(link, Frame::Reply { offer: number, verdict: Verdict::Pending, reason, ordinals: Vec::new() });
    }

    /// The next hop takes these recipients of an offer later, and the others now.
    pub(super) fn put_off_by(&mut self, link: LinkId, number: u64, indices: &[u32]) {
        let Some(l) = self.links.get_mut(link) else { return };
        let Some((row, ordinals)) = l.let_go(number, indices) else { return };
        self.no_longer_offered(row, link, number, &ordinals);
        let Some(id) = self.custody.get(row).map(|live| live.message.id) else { return };
        let until_ms = self.now.mono_ms + spread(limits::PUT_OFF_MS, id, 0);
        self.custody.park(row, &ordinals, until_ms);
    }

    /// Offers again what was put off long enough ago.
    pub(super) fn unpark(&mut self) {
        for row in self.custody.unpark(self.now.mono_ms) {
            self.place(row);
        }
        for row in self.transit.unpark(self.now.mono_ms) {
            self.receipt_stored(row);
        }
    }

    pub(super) fn spool_room(&mut self, free_bytes: u64, total_bytes: u64) {
        self.room = Room { free_bytes, total_bytes };
        self.want_stopped();
        // Also when there is no more than before: what was let in may take less than was counted for it.
        if self.links.iter().any(|l| !l.put_off.is_empty()) {
            self.invite();
        }
    }

    /// Bytes went to the spool since it was last asked for its room.
    pub(super) const fn room_taken(&mut self, bytes: u64) {
        self.room.free_bytes = self.room.free_bytes.saturating_sub(bytes);
    }

    /// Units of a payload found no room on the disk: it is wanted again when what is missing has room.
    pub(super) fn run_stopped(&mut self, root: Digest) {
        if !self.custody.receiving(root).is_empty() {
            self.stopped.insert(root);
        }
    }

    fn want_stopped(&mut self) {
        let mut free_bytes = self.room.free_bytes;
        for root in std::mem::take(&mut self.stopped) {
            let rows = self.custody.receiving(root);
            let Some(live) = rows.first().and_then(|row| self.custody.get(*row)) else { continue };
            let Some(left_bytes) = free_bytes.checked_sub(live.missing_bytes()) else {
                self.stopped.insert(root);
                continue;
            };
            free_bytes = left_bytes;
            rows.into_iter().for_each(|row| self.want_again(row, false));
        }
    }

    /// Counts a message towards the next hops it waits for.
    pub(super) fn charge(&mut self, row: Row) {
        let Some(live) = self.custody.get(row) else { return };
        let hops = live
            .message
            .recipients
            .iter()
            .filter(|r| r.phase == tram_proto::row::Phase::Forward)
            .map(|r| self.next_hop(live, r))
            .filter(|hop| *hop != Hop::Here)
            .collect();
        self.custody.charge(row, hops);
    }

    /// Something left: in a moment what was put off may find room.
    pub(super) fn room_freed(&mut self) {
        if self.invite_ms.is_none() && self.links.iter().any(|l| !l.put_off.is_empty()) {
            self.invite_ms = Some(self.now.mono_ms + INVITE_MS);
        }
    }

    pub(super) const fn next_invite_ms(&self) -> Option<u64> {
        self.invite_ms
    }

    /// Asks for offers that were put off, as far as there is room now: an empty want says "once more".
    pub(super) fn invite(&mut self) {
        self.invite_ms = None;
        let mut promised = 0_u64;
        let mut invited: Vec<(LinkId, u64)> = Vec::new();
        let mut by_hop = std::collections::BTreeMap::<Hop, u64>::new();
        for link in self.links.iter() {
            let mut brought = 0_u64;
            for (number, what) in &link.put_off {
                let toward = what.hop.map_or(0, |hop| by_hop.get(&hop).copied().unwrap_or(0));
                let fits = self.admits(what.precedence, what.bytes.saturating_add(promised)).is_ok()
                    && self.child_may_bring(link.id, what.bytes.saturating_add(brought))
                    && what.hop.is_none_or(|hop| self.hop_takes(hop, what.bytes.saturating_add(toward)).is_ok());
                if !fits {
                    continue;
                }
                promised = promised.saturating_add(what.bytes);
                brought = brought.saturating_add(what.bytes);
                if let Some(hop) = what.hop {
                    *by_hop.entry(hop).or_default() += what.bytes;
                }
                invited.push((link.id, *number));
            }
        }
        for (link, offer) in invited {
            if let Some(link) = self.links.get_mut(link) {
                link.put_off.remove(&offer);
            }
            self.send(link, Frame::Want { offer, units: Vec::new() });
        }
    }

    /// The next hop's name as people write it.
    pub(super) fn hop_text(&self, hop: Hop) -> String {
        match hop {
            Hop::Up => "uplink".to_owned(),
            Hop::Hold => "nowhere yet".to_owned(),
            Hop::Here => "here".to_owned(),
            Hop::Child(node) => self.node_text(node),
        }
    }

    pub(super) fn node_text(&self, node: NodeId) -> String {
        self.routing.record(node).map_or_else(|| node.to_string(), |k| k.record.name.to_string())
    }

    /// Whether offers to a next hop are paused.
    pub(super) fn is_paused(&self, hop: Hop) -> bool {
        if self.paused.is_empty() {
            return false;
        }
        match hop {
            Hop::Up => self.paused.contains(&HopName::Uplink),
            Hop::Child(node) => {
                let name = self.routing.record(node).map(|k| k.record.name.clone());
                name.is_some_and(|name| self.paused.contains(&HopName::Child(name)))
            }
            Hop::Here | Hop::Hold => false,
        }
    }
}
