//! One flow: a sender as quinn is one (windows, pacing, loss detection, probes) and a receiver that acknowledges every
//! second packet, one out of order at once, and any after 25 ms.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tram_congestion::cubic::Cubic;
use tram_congestion::{Line, Rate};

use super::pacer::Pacer;

pub(crate) const MTU: u64 = 1452;
const GRANULARITY_NS: u64 = 1_000_000;
const ACK_DELAY_NS: u64 = 25_000_000;
const INITIAL_RTT_NS: u64 = 333_000_000;
/// Datagrams in one batch.
const BATCH: usize = 10;

pub(crate) enum Control {
    Ours(Box<Rate>, Arc<Line>),
    Cubic(Cubic),
}

pub(crate) struct Flow {
    base: Instant,
    pub(crate) control: Control,
    pub(crate) starts_ns: u64,
    /// One way, beside the link's own.
    pub(crate) extra_ns: u64,
    /// What the application writes until when, in bytes a second; then all it can.
    pub(crate) app: Option<(f64, u64)>,
    next: u64,
    sent: BTreeMap<u64, (u64, u64)>,
    pub(crate) in_flight: u64,
    written: f64,
    largest: Option<u64>,
    srtt: Option<u64>,
    latest: u64,
    var: u64,
    pub(crate) least: u64,
    pto_count: u32,
    last_sent_ns: u64,
    pub(crate) last_ack_ns: u64,
    probes: u32,
    loss_ns: Option<u64>,
    pace_ns: Option<u64>,
    pacer: Pacer,
    app_limited: bool,
    first_sampled: Option<u64>,
    // The receiver.
    pub(crate) to_report: Vec<u64>,
    unreported: u32,
    expected: u64,
    pub(crate) ack_due_ns: Option<u64>,
    pub(crate) delivered: Vec<u64>,
}

pub(crate) const BIN_NS: u64 = 100_000_000;

impl Flow {
    pub(crate) fn new(base: Instant, control: Control) -> Self {
        let mut flow = Self {
            base,
            control,
            starts_ns: 0,
            extra_ns: 0,
            app: None,
            next: 0,
            sent: BTreeMap::new(),
            in_flight: 0,
            written: 0.0,
            largest: None,
            srtt: None,
            latest: INITIAL_RTT_NS,
            var: INITIAL_RTT_NS / 2,
            least: u64::MAX,
            pto_count: 0,
            last_sent_ns: 0,
            last_ack_ns: 0,
            probes: 0,
            loss_ns: None,
            pace_ns: None,
            pacer: Pacer::new(INITIAL_RTT_NS, MTU, MTU),
            app_limited: false,
            first_sampled: None,
            to_report: Vec::new(),
            unreported: 0,
            expected: 0,
            ack_due_ns: None,
            delivered: Vec::new(),
        };
        flow.pacer = Pacer::new(INITIAL_RTT_NS, flow.window(), MTU);
        flow
    }

    pub(crate) fn window(&self) -> u64 {
        match &self.control {
            Control::Ours(rate, _) => rate.window(),
            Control::Cubic(cubic) => cubic.window() as u64,
        }
    }

    fn srtt(&self) -> u64 {
        self.srtt.unwrap_or(self.latest)
    }

    fn at(&self, ns: u64) -> Instant {
        self.base + Duration::from_nanos(ns)
    }

    fn pto(&self) -> u64 {
        self.srtt() + (4 * self.var).max(GRANULARITY_NS) + ACK_DELAY_NS
    }

    fn has_data(&self, now: u64) -> bool {
        match self.app {
            Some((rate, until)) if now < until => {
                self.written + MTU as f64 <= rate * (now.saturating_sub(self.starts_ns)) as f64 / 1e9
            }
            _ => true,
        }
    }

    /// Sends what may be sent now; the packets' numbers.
    pub(crate) fn pump(&mut self, now: u64) -> Vec<u64> {
        let mut out = Vec::new();
        self.pace_ns = None;
        if now < self.starts_ns {
            return out;
        }
        loop {
            let (mut batch, mut blocked) = (0, false);
            while batch < BATCH {
                if !self.has_data(now) && self.probes == 0 {
                    break;
                }
                if self.probes > 0 {
                    self.probes -= 1;
                } else {
                    if self.in_flight + MTU >= self.window() {
                        blocked = true;
                        break;
                    }
                    let window = self.window();
                    if let Some(at) = self.pacer.wait(self.srtt(), MTU, MTU, window, now) {
                        self.pace_ns = Some(at);
                        blocked = true;
                        break;
                    }
                }
                self.pacer.sent(MTU);
                self.sent.insert(self.next, (now, MTU));
                self.in_flight += MTU;
                self.written += MTU as f64;
                self.last_sent_ns = now;
                out.push(self.next);
                self.next += 1;
                batch += 1;
            }
            if batch > 0 {
                let at = self.at(now);
                if let Control::Ours(rate, _) = &mut self.control {
                    rate.sent(at, batch as u64 * MTU);
                }
            }
            if batch < BATCH {
                self.app_limited = batch == 0 && !blocked;
                return out;
            }
        }
    }

    pub(crate) fn next_timer(&self) -> Option<u64> {
        let pto = (self.in_flight > 0).then(|| self.last_sent_ns + self.pto() * (1 << self.pto_count.min(16)));
        let loss = self.loss_ns.or(pto);
        [loss, self.pace_ns].into_iter().flatten().min()
    }

    pub(crate) fn on_timer(&mut self, now: u64) {
        match self.loss_ns {
            Some(at) if at <= now => self.detect(now, false),
            Some(_) => {}
            None if self.in_flight > 0 && self.last_sent_ns + self.pto() * (1 << self.pto_count.min(16)) <= now => {
                self.probes += 2;
                self.pto_count += 1;
            }
            None => {}
        }
    }

    pub(crate) fn on_ack(&mut self, now: u64, numbers: &[u64], delay_ns: u64) {
        let Some(largest) = numbers.iter().copied().max() else { return };
        let is_new = self.largest.is_none_or(|old| largest > old);
        self.largest = Some(self.largest.map_or(largest, |old| old.max(largest)));
        let largest_sent = self.sent.get(&largest).map(|(at, _)| *at);
        let mut any = false;
        for number in numbers {
            let Some((sent, bytes)) = self.sent.remove(number) else { continue };
            any = true;
            self.in_flight -= bytes;
            let (now_at, sent_at) = (self.at(now), self.at(sent));
            let rtt = Duration::from_nanos(self.latest);
            match &mut self.control {
                Control::Ours(rate, _) => rate.acked(now_at, sent_at, bytes),
                Control::Cubic(cubic) if !self.app_limited => cubic.acked(now_at, bytes as f64, rtt),
                Control::Cubic(_) => {}
            }
        }
        if !any {
            return;
        }
        self.last_ack_ns = now;
        let now_at = self.at(now);
        if let Control::Ours(rate, _) = &mut self.control {
            rate.end_acks(now_at, self.in_flight, self.app_limited);
        }
        if let (true, Some(sent)) = (is_new, largest_sent) {
            self.update(now - sent, delay_ns);
        }
        self.detect(now, true);
        self.pto_count = 0;
    }

    fn update(&mut self, rtt: u64, delay_ns: u64) {
        self.latest = rtt;
        self.least = self.least.min(rtt);
        let Some(srtt) = self.srtt else {
            (self.srtt, self.var) = (Some(rtt), rtt / 2);
            self.first_sampled = Some(self.next);
            return;
        };
        let adjusted = if self.least + delay_ns <= rtt { rtt - delay_ns } else { rtt };
        self.var = (3 * self.var + srtt.abs_diff(adjusted)) / 4;
        self.srtt = Some((7 * srtt + adjusted) / 8);
    }

    fn detect(&mut self, now: u64, due_to_ack: bool) {
        let Some(largest) = self.largest else { return };
        let delay = (self.srtt().max(self.latest) * 9 / 8).max(GRANULARITY_NS);
        self.loss_ns = None;
        let period = self.pto() * 3;
        let (mut lost, mut persistent, mut start, mut prev) = (Vec::new(), false, None::<u64>, None);
        for (&number, &(sent, _)) in self.sent.range(..largest) {
            if prev.is_some_and(|prev: u64| prev + 1 != number) {
                start = None;
            }
            if now - sent >= delay || largest >= number + 3 {
                lost.push(number);
                if due_to_ack {
                    match start {
                        Some(start) if sent - start > period => persistent = true,
                        None if self.first_sampled.is_some_and(|first| first < number) => start = Some(sent),
                        _ => {}
                    }
                }
            } else {
                let at = sent + delay;
                self.loss_ns = Some(self.loss_ns.map_or(at, |other| other.min(at)));
                start = None;
            }
            prev = Some(number);
        }
        let Some(last) = lost.last() else { return };
        let (last_sent, mut bytes) = (self.sent[last].0, 0);
        for number in &lost {
            bytes += self.sent.remove(number).map_or(0, |(_, bytes)| bytes);
        }
        self.in_flight -= bytes;
        let (now_at, sent_at) = (self.at(now), self.at(last_sent));
        match &mut self.control {
            Control::Ours(rate, _) => rate.lost(now_at, sent_at, bytes, persistent),
            Control::Cubic(cubic) => cubic.lost(now_at, sent_at),
        }
    }

    /// At the receiver; whether to acknowledge at once.
    pub(crate) fn arrives(&mut self, now: u64, number: u64) -> bool {
        let bin = (now / BIN_NS) as usize;
        if self.delivered.len() <= bin {
            self.delivered.resize(bin + 1, 0);
        }
        self.delivered[bin] += MTU;
        self.to_report.push(number);
        self.unreported += 1;
        let in_order = number == self.expected;
        self.expected = self.expected.max(number + 1);
        if self.unreported >= 2 || !in_order {
            return true;
        }
        self.ack_due_ns.get_or_insert(now + ACK_DELAY_NS);
        false
    }

    pub(crate) fn report(&mut self) -> Vec<u64> {
        self.unreported = 0;
        self.ack_due_ns = None;
        std::mem::take(&mut self.to_report)
    }
}
