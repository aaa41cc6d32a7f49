//! The gate of one link: which of the bytes that wait is handed to QUIC next, and when.
//!
//! Every envelope and every run asks here before it writes. Owns the shares of the classes ([`Shares`]), the ceilings of
//! the bandwidth plan, and how far writing runs ahead of sending: QUIC's own priorities order only what it was given, so
//! little is given before it is needed. Control and receipts never pass here. Never decides which message goes: the core
//! does. DESIGN §6; `research/quic.md` §12.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use governor::Quota;
use quinn::{Connection, SendStream, WriteError};
use tokio::sync::{Notify, oneshot, watch};
use tram_congestion::Figures;
use tram_proto::envelope::Precedence;
use tram_proto::limits::{CHUNK_BYTES, RUN_UNITS};
use tram_proto::name::NodeName;
use tram_relay::input::Side;
use tram_relay::limits::FIRST_RUN_UNITS;
use tram_relay::shares::{Classes, Shares};

use crate::clock::{Clock, Limiter};
use crate::link::session::Link;
use crate::plan::{Plan, Rate, Scope};

/// Written and not yet sent: as much as the line carries in 20 ms. Timers fire every 1 to 2 ms: with 4 ms the window of a
/// fast line was not used up. Priorities order what QUIC was given, so flash does not wait for it.
const AHEAD: Duration = Duration::from_millis(20);
/// Where that is less than this, which is below 26 Mbit/s, only 4 ms: QUIC sends ten packets in a burst whenever it has
/// them, and at 2 Mbit/s others would wait 58 ms behind those.
const AHEAD_BYTES: u64 = 64 * 1024;
const SLOW_AHEAD: Duration = Duration::from_millis(4);
const SLOW_AHEAD_BYTES: u64 = 3 * PACKET_BYTES;
/// Written at once: a quarter of that, within these bounds.
const PIECE_BYTES: std::ops::RangeInclusive<u64> = 2 * PACKET_BYTES..=CHUNK_BYTES as u64;
/// A line on which nothing was sent for so long, though there was room in flight, has nothing more to send: quinn paces
/// at most ten packets at once.
const QUIET: Duration = Duration::from_millis(10);
const PACED_BYTES: u64 = 10 * PACKET_BYTES;
const PACKET_BYTES: u64 = 1452;
/// How often to look again when too much is written ahead.
const LOOK: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(20);
/// A ceiling is counted in cells of this many bytes.
const CELL_BYTES: u64 = 1024;
/// At a ceiling, so much may go at once: two packets, or what it lets through in 5 ms.
const BURST: Duration = Duration::from_millis(5);
/// A run takes about this long beside the round trip, so that nothing waits long for one and the line stays full.
const RUN: Duration = Duration::from_millis(100);
/// Of a full packet, about one part in so many are headers of packet and stream: 40 bytes of 1,452.
const HEADERS: u64 = 36;

/// Says how a line is just now.
pub(crate) trait Line: Send + Sync {
    fn figures(&self) -> Figures;
    /// Hears what the plan declares it to carry, in bytes of IP packets a second.
    fn declare(&self, _bytes_per_s: Option<u64>) {}
}

/// A link's line.
pub(crate) struct Known {
    pub(crate) line: Arc<tram_congestion::Line>,
    pub(crate) connection: Connection,
}

impl Line for Known {
    fn figures(&self) -> Figures {
        let figures = self.line.figures();
        // Controllers of quinn's publish nothing; its statistics do not tell what is in flight.
        if figures.window_bytes > 0 {
            return figures;
        }
        let stats = self.connection.stats();
        let rtt_us = u64::try_from(stats.path.rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        Figures {
            sent_bytes: stats.udp_tx.bytes,
            acked_bytes: 0,
            lost_bytes: stats.path.lost_bytes,
            in_flight_bytes: 0,
            rate_bytes_per_s: stats.path.cwnd.saturating_mul(1_000_000) / rtt_us,
            window_bytes: stats.path.cwnd,
            min_rtt: stats.path.rtt,
            starting: false,
        }
    }

    fn declare(&self, bytes_per_s: Option<u64>) {
        self.line.declare(bytes_per_s);
    }
}

/// Which of a class's streams: its long-lived one with envelopes, or the nth run. Earlier runs go before later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Envelopes,
    Run(u32),
}

pub(crate) struct Gate {
    line: Box<dyn Line>,
    clock: Clock,
    plan: watch::Receiver<Arc<Plan>>,
    state: Mutex<State>,
    waits: Notify,
}

struct State {
    classes: BTreeMap<Precedence, Waiting>,
    /// What is on its way to the gate, by class: it keeps its share meanwhile.
    posted: BTreeMap<Precedence, usize>,
    shares: Shares,
    ahead: Ahead,
    ceilings: Ceilings,
}

/// Those of one class that wait.
#[derive(Default)]
struct Waiting {
    lanes: BTreeMap<Lane, Waiter>,
    envelopes_were_last: bool,
    /// One that got all it asked for is about to ask for more: until then nothing less urgent takes its place.
    back_by: Option<Duration>,
}

struct Waiter {
    bytes: usize,
    got: usize,
    granted: oneshot::Sender<usize>,
}

impl Waiting {
    /// Grants a piece to whoever is next, envelopes and runs by turns; answers how much.
    fn grant(&mut self, most: usize) -> usize {
        self.lanes.retain(|_, waiter| !waiter.granted.is_closed());
        let run = self.lanes.range(Lane::Run(0)..).next().map(|(lane, _)| *lane);
        let envelopes = self.lanes.contains_key(&Lane::Envelopes).then_some(Lane::Envelopes);
        let lane = if self.envelopes_were_last { run.or(envelopes) } else { envelopes.or(run) };
        let Some((lane, waiter)) = lane.and_then(|lane| Some((lane, self.lanes.get_mut(&lane)?))) else { return 0 };
        self.envelopes_were_last = lane == Lane::Envelopes;
        let piece = most.min(waiter.bytes - waiter.got);
        waiter.got += piece;
        if waiter.got == waiter.bytes {
            self.tell(lane);
        }
        piece
    }

    /// Tells one that waits what it got.
    fn tell(&mut self, lane: Lane) {
        if let Some(Waiter { got, granted, .. }) = self.lanes.remove(&lane) {
            let _ = granted.send(got);
        }
    }
}

/// Keeps its class's share of the line while something of it is on its way to the gate.
pub(crate) struct Posted {
    link: Arc<Link>,
    class: Precedence,
}

impl Posted {
    pub(crate) fn new(link: &Arc<Link>, class: Precedence) -> Self {
        *link.gate.state().posted.entry(class).or_default() += 1;
        Self { link: link.clone(), class }
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        if let Some(count) = self.link.gate.state().posted.get_mut(&self.class) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Gate {
    pub(crate) fn new(
        line: Box<dyn Line>,
        clock: Clock,
        plan: watch::Receiver<Arc<Plan>>,
        peer: (NodeName, Side),
    ) -> Self {
        let state = State {
            classes: BTreeMap::new(),
            posted: BTreeMap::new(),
            shares: Shares::default(),
            ahead: Ahead::default(),
            ceilings: Ceilings::new(clock, plan.clone(), peer),
        };
        Self { line, clock, plan, state: Mutex::new(state), waits: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes frames or units when it is their turn, piece by piece.
    pub(crate) async fn write(
        &self,
        send: &mut SendStream,
        class: Precedence,
        lane: Lane,
        chunks: &mut [Bytes],
    ) -> Result<(), WriteError> {
        let mut left: usize = chunks.iter().map(Bytes::len).sum();
        let mut at = 0;
        while left > 0 {
            let mut piece = self.pass(class, lane, left).await;
            left -= piece;
            while let Some(chunk) = chunks.get_mut(at).filter(|_| piece > 0) {
                let part = chunk.split_to(chunk.len().min(piece));
                piece -= part.len();
                at += usize::from(chunk.is_empty());
                send.write_chunk(part).await?;
            }
        }
        Ok(())
    }

    /// Waits until some of so many bytes may be written, and says how many.
    async fn pass(&self, class: Precedence, lane: Lane, bytes: usize) -> usize {
        let (granted, grant) = oneshot::channel();
        {
            let mut state = self.state();
            let waiting = state.classes.entry(class).or_default();
            waiting.lanes.insert(lane, Waiter { bytes, got: 0, granted });
            waiting.back_by = None;
        }
        if self.turn().is_some() {
            self.waits.notify_one();
        }
        // The gate goes with the link.
        grant.await.unwrap_or(bytes)
    }

    /// Lets through what may go; answers when to look again for what may not.
    fn turn(&self) -> Option<Duration> {
        let mut state = self.state();
        if state.classes.values().all(|waiting| waiting.lanes.is_empty()) {
            return None;
        }
        let now = self.clock.mono();
        state.ahead.look(self.line.figures(), now);
        state.ceilings.look(&*self.line);
        let wait = state.turn(now);
        state.tell(now);
        wait
    }

    /// Looks again whenever something waits for the line or for a ceiling, until the node ends.
    pub(crate) async fn keep(&self) {
        let mut plan = self.plan.clone();
        loop {
            let wait = self.turn();
            tokio::select! {
                () = self.waits.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                changed = plan.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Units of the next runs of a class: few on a slow line, or under a low ceiling.
    pub(crate) fn run_units(&self, class: Precedence) -> u32 {
        let figures = self.line.figures();
        let mut state = self.state();
        state.ceilings.look(&*self.line);
        if figures.rate_bytes_per_s == 0 {
            return FIRST_RUN_UNITS;
        }
        let rate = figures.rate_bytes_per_s.min(state.ceilings.bytes_per_s(class));
        let bytes = carried(rate, figures.min_rtt + RUN);
        u32::try_from(bytes.div_ceil(CHUNK_BYTES as u64)).unwrap_or(RUN_UNITS).clamp(1, RUN_UNITS)
    }
}

const fn carried(bytes_per_s: u64, time: Duration) -> u64 {
    let micros = time.as_micros();
    let micros = if micros > 60_000_000 { 60_000_000 } else { micros as u64 };
    (bytes_per_s / 1000).saturating_mul(micros) / 1000
}

impl State {
    fn turn(&mut self, now: Duration) -> Option<Duration> {
        let mut wait: Option<Duration> = None;
        let sooner = |wait: Option<Duration>, other: Duration| Some(wait.map_or(other, |wait| wait.min(other)));
        let (mut at_ceiling, mut no_room) = (Classes::default(), Classes::default());
        loop {
            let may = |class: Precedence| !at_ceiling.has(class) && !no_room.has(class);
            let ready = self.all(|class, waiting, _| !waiting.lanes.is_empty() && may(class));
            if ready == Classes::default() {
                return wait;
            }
            let back = self.all(|class, waiting, _| waiting.back_by.is_some_and(|by| by > now) && may(class));
            let Some(class) = self.shares.next(ready.and(back)) else { return wait };
            if !ready.has(class) {
                return sooner(wait, *LOOK.start());
            }
            if let Err(after) = self.ceilings.pay(class) {
                at_ceiling = at_ceiling.with(class);
                wait = sooner(wait, after.max(*LOOK.start()));
                continue;
            }
            // Whose floor goes before others takes their room.
            let above = Precedence::ALL.into_iter().find(|class| ready.has(*class)).unwrap_or(class);
            if !self.ahead.has_room(above) {
                no_room = no_room.with(class);
                wait = sooner(wait, self.ahead.look_again());
                continue;
            }
            let most = self.ahead.piece().min(self.ceilings.piece(class));
            let Some(waiting) = self.classes.get_mut(&class) else { return wait };
            let bytes = waiting.grant(usize::try_from(most).unwrap_or(usize::MAX)) as u64;
            if waiting.lanes.is_empty() {
                waiting.back_by = Some(now + *LOOK.start());
            }
            self.ahead.wrote(bytes);
            self.ceilings.owe(class, bytes);
            let waiting =
                self.all(|class, waiting, posted| (!waiting.lanes.is_empty() || posted > 0) && !at_ceiling.has(class));
            self.shares.sent(class, bytes, ready.and(back), waiting);
        }
    }

    /// The classes of which this holds.
    fn all(&self, which: impl Fn(Precedence, &Waiting, usize) -> bool) -> Classes {
        let nobody = Waiting::default();
        let holds = |class: &Precedence| {
            let posted = self.posted.get(class).copied().unwrap_or(0);
            which(*class, self.classes.get(class).unwrap_or(&nobody), posted)
        };
        Precedence::ALL.into_iter().filter(holds).fold(Classes::default(), Classes::with)
    }

    /// Tells those that got something and wait for more what they may write meanwhile.
    fn tell(&mut self, now: Duration) {
        for (class, waiting) in &mut self.classes {
            let some: Vec<Lane> = waiting.lanes.iter().filter(|(_, w)| w.got > 0).map(|(lane, _)| *lane).collect();
            for lane in some {
                waiting.tell(lane);
                waiting.back_by = Some(now + *LOOK.start());
            }
            if self.posted.get(class).is_none_or(|count| *count == 0) {
                // Nothing more of it is to come.
                waiting.back_by = None;
            }
        }
    }
}

/// How much was written and is not sent yet, about: what was written, less what was sent, and what is lost is sent again.
#[derive(Debug, Default)]
struct Ahead {
    bytes: u64,
    sent_bytes: u64,
    lost_bytes: u64,
    /// When something was sent last.
    moved: Duration,
    rate_bytes_per_s: u64,
    most_bytes: u64,
}

impl Ahead {
    fn look(&mut self, line: Figures, now: Duration) {
        let sent = line.sent_bytes.saturating_sub(self.sent_bytes);
        let lost = line.lost_bytes.saturating_sub(self.lost_bytes);
        (self.sent_bytes, self.lost_bytes) = (line.sent_bytes, line.lost_bytes);
        if sent > 0 {
            self.moved = now;
        }
        // It errs a little towards less: were it more than there is, the line would run dry.
        self.bytes = (self.bytes + lost).saturating_sub(sent - sent / (HEADERS + 4));
        self.rate_bytes_per_s = line.rate_bytes_per_s;
        self.most_bytes = match carried(line.rate_bytes_per_s, AHEAD) {
            bytes if bytes >= AHEAD_BYTES => bytes,
            // Not known yet.
            0 => AHEAD_BYTES,
            _ => carried(line.rate_bytes_per_s, SLOW_AHEAD).max(SLOW_AHEAD_BYTES),
        };
        if line.starting {
            // Less than a window would make this the limit, and the line would never be found out.
            self.most_bytes = self.most_bytes.max(line.window_bytes);
        }
        let has_window = line.in_flight_bytes + 2 * PACKET_BYTES <= line.window_bytes;
        let paced = Duration::from_micros(2_000_000 * PACED_BYTES / self.rate_bytes_per_s.max(1));
        if has_window && now.saturating_sub(self.moved) >= QUIET.max(paced.min(Duration::from_secs(1))) {
            self.bytes = 0;
            self.moved = now;
        }
    }

    /// Each of the upper classes has room of its own above what those below it fill.
    const fn has_room(&self, class: Precedence) -> bool {
        let times = match class {
            Precedence::Flash => 4,
            Precedence::Immediate => 3,
            Precedence::Priority => 2,
            Precedence::Routine | Precedence::Bulk => 1,
        };
        self.bytes < self.most_bytes.saturating_mul(times)
    }

    fn piece(&self) -> u64 {
        (self.most_bytes / 4).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end())
    }

    const fn wrote(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// When a quarter of what may be written ahead will be sent.
    fn look_again(&self) -> Duration {
        let until = Duration::from_micros(self.most_bytes / 4 * 1000 / (self.rate_bytes_per_s / 1000).max(1));
        until.clamp(*LOOK.start(), *LOOK.end())
    }
}

/// What the plan lets through now.
struct Ceilings {
    clock: Clock,
    plan: watch::Receiver<Arc<Plan>>,
    peer: (NodeName, Side),
    shapers: BTreeMap<Scope, Shaper>,
    /// When the plan changes by itself, Unix milliseconds; 0: it was not looked at.
    until_ms: u64,
}

impl Ceilings {
    const fn new(clock: Clock, plan: watch::Receiver<Arc<Plan>>, peer: (NodeName, Side)) -> Self {
        Self { clock, plan, peer, shapers: BTreeMap::new(), until_ms: 0 }
    }

    /// Takes over what holds now. A ceiling that stays keeps its account.
    fn look(&mut self, line: &dyn Line) {
        let now_ms = self.clock.wall_ms();
        if now_ms < self.until_ms && !self.plan.has_changed().unwrap_or(false) {
            return;
        }
        let plan = self.plan.borrow_and_update().clone();
        let force = plan.in_force(&self.peer.0, self.peer.1, now_ms);
        line.declare(force.declared.map(Rate::bytes));
        self.until_ms = force.until_ms().unwrap_or(u64::MAX);
        for scope in Scope::EACH {
            match force.most(scope) {
                Some(rate) if self.shapers.get(&scope).is_some_and(|shaper| shaper.rate == rate) => {}
                Some(rate) => {
                    self.shapers.insert(scope, Shaper::new(rate, self.clock));
                }
                None => {
                    self.shapers.remove(&scope);
                }
            }
        }
    }

    fn of(&mut self, class: Precedence) -> impl Iterator<Item = &mut Shaper> {
        self.shapers.iter_mut().filter(move |(s, _)| [Scope::All, Scope::Class(class)].contains(s)).map(|(_, s)| s)
    }

    /// Whether a class may send by all its ceilings, or when to ask again.
    fn pay(&mut self, class: Precedence) -> Result<(), Duration> {
        self.of(class).try_for_each(Shaper::pay)
    }

    fn owe(&mut self, class: Precedence, bytes: u64) {
        self.of(class).for_each(|shaper| shaper.owed_bytes += bytes + bytes / HEADERS);
    }

    /// What may go at once: half a burst, so that a timer that comes late costs nothing.
    fn piece(&mut self, class: Precedence) -> u64 {
        self.of(class).map(|shaper| u64::from(shaper.burst.get()) * CELL_BYTES / 2).min().unwrap_or(u64::MAX)
    }

    fn bytes_per_s(&mut self, class: Precedence) -> u64 {
        self.of(class).map(|shaper| shaper.rate.bytes()).min().unwrap_or(u64::MAX)
    }
}

/// One ceiling. What was sent is paid for before the next may go, so that several ceilings can hold at once.
struct Shaper {
    rate: Rate,
    burst: NonZeroU32,
    clock: Clock,
    cells: Limiter,
    owed_bytes: u64,
}

impl Shaper {
    fn new(rate: Rate, clock: Clock) -> Self {
        let cell = Duration::from_nanos(CELL_BYTES * 8 * 1_000_000_000 / rate.bits());
        let burst_bytes = carried(rate.bytes(), BURST).max(2 * PACKET_BYTES);
        let burst = u32::try_from(burst_bytes.div_ceil(CELL_BYTES)).ok().and_then(NonZeroU32::new);
        let burst = burst.unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(cell.max(Duration::from_nanos(1))).expect("a period is not zero");
        let cells = Limiter::direct_with_clock(quota.allow_burst(burst), clock);
        Self { rate, burst, clock, cells, owed_bytes: 0 }
    }

    fn pay(&mut self) -> Result<(), Duration> {
        while let Some(cells) = u32::try_from(self.owed_bytes / CELL_BYTES).ok().and_then(NonZeroU32::new) {
            let cells = cells.min(self.burst);
            match self.cells.check_n(cells) {
                Ok(Ok(())) => self.owed_bytes -= u64::from(cells.get()) * CELL_BYTES,
                Ok(Err(not_until)) => return Err(not_until.wait_time_from(self.clock.mono())),
                // Not more than a burst was asked for.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
