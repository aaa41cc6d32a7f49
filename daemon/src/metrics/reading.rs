//! All metrics at one moment, and their text: names, meanings, labels.
//!
//! This is the registry: a name exists because it stands here, and documents and dashboards are checked against it.
//! Labels are bounded: classes, states and kinds are enumerations, peers are neighbours, inboxes are declared. Never a
//! message, an address or an error's text. Names follow `research/ecosystem.md` §5.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tram_proto::envelope::Precedence;
use tram_relay::snapshot::Snapshot;

use super::process::Process;
use super::rates::Both;
use super::tally::Tally;
use crate::local::station::Identity;

/// One link that has a connection.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LinkReading {
    pub(crate) peer: String,
    /// Sent and received of each class.
    pub(crate) of_use: Vec<(Precedence, Both)>,
    /// Bytes of IP packets sent and received.
    pub(crate) on_wire: Both,
    pub(crate) sent_packets: u64,
    pub(crate) lost_packets: u64,
    pub(crate) rtt_seconds: f64,
    pub(crate) window_bytes: u64,
    pub(crate) mtu_bytes: u64,
    pub(crate) p95_bytes_per_s: Option<[f64; 2]>,
    pub(crate) declared_bytes_per_s: Option<u64>,
}

impl LinkReading {
    fn label(&self) -> [Label<'_>; 1] {
        [("peer", self.peer.as_str())]
    }
}

/// A neighbour, whether there is a link to it or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbour {
    pub(crate) uplink: bool,
    pub(crate) up: bool,
}

/// A certificate of the way from this node to the root, or the revocation list of one of its issuers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// `node`, `ca` or `root`.
    pub(crate) of: &'static str,
    /// Its end, or when the next list is due.
    pub(crate) until_ms: u64,
    /// Lists only: when it was made.
    pub(crate) list_made_ms: Option<u64>,
}

/// What there is to tell.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) now_ms: u64,
    pub(crate) identity: Identity,
    pub(crate) snapshot: Box<Snapshot>,
    pub(crate) neighbours: BTreeMap<String, Neighbour>,
    pub(crate) links: Vec<LinkReading>,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) process: Option<Process>,
}

impl Reading {
    /// As Prometheus reads it.
    pub(crate) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

/// Writes families one after the other.
struct Page<'a>(DescriptorEncoder<'a>);

type Label<'l> = (&'static str, &'l str);

impl Page<'_> {
    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn gauge<V: EncodeGaugeValue>(&mut self, name: &str, help: &str, value: V) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// `name` ends with `_total`, which the encoder adds to each sample.
    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let name = name.trim_end_matches("_total");
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, V, u64>(&value, None)
        })
    }

    fn histograms<'h, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, &'h Histogram)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        samples.into_iter().try_for_each(|(labels, histogram)| histogram.encode(family.encode_family(&labels)?))
    }
}

const fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.node(&mut page)?;
        self.links(&mut page)?;
        self.queues(&mut page)?;
        self.deliveries(&mut page)?;
        self.certificates(&mut page)?;
        self.process(&mut page)
    }
}

impl Reading {
    fn node(&self, page: &mut Page<'_>) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauges("tram_build_info", "The release that runs; always 1", [(version, 1u64)])?;
        let (node, role, zone) =
            (self.identity.name.to_string(), self.identity.role.to_string(), self.identity.zone.to_string());
        let who = [("node", node.as_str()), ("role", role.as_str()), ("zone", zone.as_str())];
        page.gauges("tram_node_info", "Which node this is; always 1", [(who, 1u64)])?;
        page.gauge(
            "tram_clock_trusted",
            "1 while this machine's clock agrees with its neighbours'; 0: nothing expires",
            u64::from(self.snapshot.clock_trusted),
        )?;
        page.gauge(
            "tram_config_reload_success",
            "1 while the config on disk was taken over when it was last read; 0: it had a fault and nothing changed",
            u64::from(self.tally.reload_succeeded()),
        )
    }

    fn links(&self, page: &mut Page<'_>) -> fmt::Result {
        let side = |neighbour: &Neighbour| if neighbour.uplink { "up" } else { "down" };
        page.gauges(
            "tram_link_up",
            "1 while both ends have said hello; of every uplink of the config and every known child",
            self.neighbours
                .iter()
                .map(|(peer, one)| ([("peer", peer.as_str()), ("side", side(one))], u64::from(one.up))),
        )?;
        for (way, name, help) in [
            (0, "tram_link_sent_bytes_total", "Envelopes and payload handed to the link, each byte once"),
            (1, "tram_link_received_bytes_total", "Envelopes and verified payload that came over the link"),
        ] {
            let samples = self.links.iter().flat_map(|link| {
                let of = |(class, both): &(Precedence, Both)| ([link.label()[0], ("class", class.as_str())], both[way]);
                link.of_use.iter().map(of)
            });
            page.counters(name, help, samples)?;
        }
        let links = || self.links.iter();
        page.counters(
            "tram_link_wire_sent_bytes_total",
            "Bytes of IP packets sent, with all that QUIC adds and sends again",
            links().map(|l| (l.label(), l.on_wire[0])),
        )?;
        page.counters(
            "tram_link_wire_received_bytes_total",
            "Bytes of IP packets received",
            links().map(|l| (l.label(), l.on_wire[1])),
        )?;
        page.counters("tram_link_sent_packets_total", "Packets sent", links().map(|l| (l.label(), l.sent_packets)))?;
        page.counters(
            "tram_link_lost_packets_total",
            "Packets sent and given up as lost",
            links().map(|l| (l.label(), l.lost_packets)),
        )?;
        page.gauges("tram_link_rtt_seconds", "Round trip, smoothed", links().map(|l| (l.label(), l.rtt_seconds)))?;
        page.gauges(
            "tram_link_congestion_window_bytes",
            "What may be in flight",
            links().map(|l| (l.label(), l.window_bytes)),
        )?;
        page.gauges(
            "tram_link_mtu_bytes",
            "The largest UDP payload in use",
            links().map(|l| (l.label(), l.mtu_bytes)),
        )?;
        let both =
            |link: &LinkReading, of: [f64; 2]| [("sent", of[0]), ("received", of[1])].map(|w| (link.peer.clone(), w));
        let each_way = |of: fn(&LinkReading) -> Option<[f64; 2]>| -> Vec<(String, (&'static str, f64))> {
            links().filter_map(|link| Some(both(link, of(link)?))).flatten().collect()
        };
        let p95 = each_way(|link| link.p95_bytes_per_s);
        page.gauges(
            "tram_link_rate_p95_bytes_per_second",
            "Bytes of IP packets a second: the 95th percentile of the last 5 minutes",
            p95.iter().map(|(peer, (way, rate))| ([("peer", peer.as_str()), ("direction", *way)], *rate)),
        )?;
        page.gauges(
            "tram_link_declared_bytes_per_second",
            "What [[plan.line]] declares the line to carry, in each direction",
            links().filter_map(|l| Some((l.label(), l.declared_bytes_per_s?))),
        )?;
        let used = each_way(|link| {
            let (rates, declared) = (link.p95_bytes_per_s?, link.declared_bytes_per_s?);
            Some(rates.map(|rate| rate / declared.max(1) as f64))
        });
        page.gauges(
            "tram_link_utilization_ratio",
            "tram_link_rate_p95_bytes_per_second of what is declared; 1 is a full line",
            used.iter().map(|(peer, (way, ratio))| ([("peer", peer.as_str()), ("direction", *way)], *ratio)),
        )?;
        let up: BTreeMap<&str, _> = self.snapshot.links.iter().map(|link| (link.peer.as_str(), link)).collect();
        page.gauges(
            "tram_link_unacknowledged_messages",
            "Offers and receipts sent and not yet acknowledged",
            up.iter().map(|(peer, link)| ([("peer", *peer)], link.unacknowledged as u64)),
        )?;
        page.gauges(
            "tram_link_clock_offset_seconds",
            "The neighbour's clock minus this machine's",
            up.iter().filter_map(|(peer, link)| Some(([("peer", *peer)], link.clock_offset_ms? as f64 / 1000.0))),
        )
    }

    fn queues(&self, page: &mut Page<'_>) -> fmt::Result {
        let hops = || self.snapshot.queues.iter().filter(|queue| !queue.next_hop.starts_with(INBOX));
        let labels = |hop, class: Precedence| -> [Label<'_>; 2] { [("next_hop", hop), ("class", class.as_str())] };
        let age = |oldest_ms: u64| seconds(self.now_ms.saturating_sub(oldest_ms));
        page.gauges(
            "tram_queue_messages",
            "Messages that wait for a next hop or for its acknowledgement",
            hops().map(|q| (labels(&q.next_hop, q.precedence), q.messages as u64)),
        )?;
        page.gauges("tram_queue_bytes", "Their payload", hops().map(|q| (labels(&q.next_hop, q.precedence), q.bytes)))?;
        page.gauges(
            "tram_queue_oldest_age_seconds",
            "How long the oldest of them has been at this node",
            hops().map(|q| (labels(&q.next_hop, q.precedence), age(q.oldest_ms))),
        )?;
        let paused: Vec<String> = self.snapshot.paused.iter().map(ToString::to_string).collect();
        page.gauges(
            "tram_queue_paused",
            "1 for a child, or for all uplinks (peer=\"uplink\"), whose queue is paused by `tram queue pause`",
            paused.iter().map(|peer| ([("peer", peer.as_str())], 1u64)),
        )?;
        page.gauges(
            "tram_inbox_messages",
            "Messages that wait in an inbox for an application",
            self.snapshot.inboxes.iter().map(|(inbox, count)| ([("inbox", inbox.as_str())], *count as u64)),
        )?;
        let inboxes = self.snapshot.queues.iter().filter_map(|q| Some((q.next_hop.strip_prefix(INBOX)?, q)));
        page.gauges(
            "tram_inbox_oldest_age_seconds",
            "How long the oldest of them has been at this node",
            inboxes.map(|(inbox, q)| ([("inbox", inbox), ("class", q.precedence.as_str())], age(q.oldest_ms))),
        )?;
        page.gauge("tram_custody_messages", "Messages that have not ended", self.snapshot.messages as u64)?;
        page.gauge("tram_custody_receipts", "Receipts on their way", self.snapshot.receipts as u64)?;
        page.gauge(
            "tram_late_messages",
            "Messages whose time to be there (--deliver-by) has passed, as far as this node knows",
            self.snapshot.late.len() as u64,
        )?;
        page.gauge(
            "tram_neighbours_held",
            "Neighbours whose mail is held until `tram node accept`: a spool was rolled back or a disk cloned",
            self.snapshot.held.len() as u64,
        )?;
        page.gauge("tram_store_free_bytes", "Room in the spool for messages", self.snapshot.spool_room_bytes)?;
        page.gauge("tram_store_limit_bytes", "What messages may take in all", self.snapshot.spool_total_bytes)
    }

    fn deliveries(&self, page: &mut Page<'_>) -> fmt::Result {
        page.histograms(
            "tram_delivery_seconds",
            "From submission here until the receipt was back here, per recipient",
            self.tally
                .delivery()
                .map(|(state, class, times)| ([("class", class.as_str()), ("state", state.as_str())], times)),
        )?;
        page.counters(
            "tram_receipts_total",
            "Receipts that came home to this node",
            self.tally.outcomes().map(|(state, count)| ([("outcome", state.as_str())], count)),
        )?;
        page.counters(
            "tram_errors_total",
            "What went wrong",
            self.tally.errors().map(|(kind, count)| ([("kind", kind.as_str())], count)),
        )
    }

    fn certificates(&self, page: &mut Page<'_>) -> fmt::Result {
        let of = |lists: bool| self.certificates.iter().filter(move |one| one.list_made_ms.is_some() == lists);
        page.gauges(
            "tram_cert_not_after_seconds",
            "When a certificate ends, Unix time: this node's, the newest of its CA and of the root",
            of(false).map(|one| ([("cert", one.of)], seconds(one.until_ms))),
        )?;
        page.gauges(
            "tram_crl_next_update_seconds",
            "When the next revocation list of the CA and of the root is due, Unix time",
            of(true).map(|one| ([("crl", one.of)], seconds(one.until_ms))),
        )?;
        let age = |made_ms: u64| seconds(self.now_ms.saturating_sub(made_ms));
        page.gauges(
            "tram_crl_age_seconds",
            "How old the newest revocation list is that this node has",
            of(true).filter_map(|one| Some(([("crl", one.of)], age(one.list_made_ms?)))),
        )
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "process_start_time_seconds",
            "When the daemon started, Unix time",
            seconds(self.identity.started_ms),
        )?;
        let Some(now) = &self.process else { return Ok(()) };
        page.gauge("process_resident_memory_bytes", "Resident memory", now.resident_bytes)?;
        let cpu = page.0.encode_descriptor(
            "process_cpu_seconds",
            "Processor time, user and system",
            None,
            MetricType::Counter,
        );
        cpu?.encode_counter::<NoLabelSet, f64, u64>(&now.cpu_seconds, None)?;
        page.gauge("process_open_fds", "Open files and sockets", now.open_fds)
    }
}

/// How a snapshot names a queue that is an inbox.
const INBOX: &str = "inbox ";

#[cfg(test)]
mod tests;
