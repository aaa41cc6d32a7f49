//! What all PKI streams of a node share: whose they are, questions under way, and the reports of the nodes below.
//!
//! A question goes up, link by link, to the node that holds the CA it is for, and the answer comes back the same way.
//! Owns nothing on a disk. Guarantees that an answer goes only to who asked, and that no neighbour can make this node
//! remember more than the limits here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tram_proto::id::NodeId;
use tram_proto::limits::HOPS;
use tram_proto::name::NodeName;
use tram_proto::pki::{Answer, PkiFrame, Refusal, Report, Request};
use tram_relay::input::{LinkId, Side};

use super::{Exchange, Lane};
use crate::clock::Clock;
use crate::link::blocking;

/// Questions under way at once.
const ASKS: usize = 1024;
/// Of them, those of one link.
const ASKS_OF_ONE: usize = 256;
/// An answer is waited for so long.
const ASK: Duration = Duration::from_secs(60);
/// Nodes whose reports are kept; the one that has said nothing for the longest time is forgotten first.
const NODES: usize = 16_384;

/// The PKI streams of a node.
pub struct Herald {
    id: NodeId,
    name: NodeName,
    clock: Clock,
    exchange: Arc<dyn Exchange>,
    inner: Mutex<Inner>,
    fresh: watch::Sender<u64>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Inner {
    lanes: BTreeMap<LinkId, Arc<Lane>>,
    asks: BTreeMap<u64, Asked>,
    next_ask: u64,
    reports: HashMap<NodeId, (u64, Report)>,
    /// The nodes in the order in which their reports came.
    order: BTreeMap<u64, NodeId>,
    stamp: u64,
}

struct Asked {
    via: LinkId,
    until_ms: u64,
    asker: Asker,
}

/// Who wants an answer.
pub(super) enum Asker {
    /// This node.
    Here(oneshot::Sender<Bytes>),
    /// A neighbour, and the number by which it knows its question.
    Link(Arc<Lane>, u64),
}

/// A stream that is open; ends when dropped.
pub(super) struct Entered<'a>(&'a Herald, LinkId);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.lanes.remove(&self.1);
        let is_from = |asker: &Asker| matches!(asker, Asker::Link(lane, _) if lane.link == self.1);
        inner.asks.retain(|_, asked| asked.via != self.1 && !is_from(&asked.asker));
    }
}

impl Herald {
    /// For the node of this id and name.
    #[must_use]
    pub fn new((id, name): (NodeId, NodeName), clock: Clock, exchange: Arc<dyn Exchange>) -> Arc<Self> {
        let (inner, fresh) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { id, name, clock, exchange, inner, fresh, refused: AtomicU64::new(0) })
    }

    /// Asks whoever holds this CA's key, here or above.
    ///
    /// # Errors
    /// For people: no uplink is up, or no answer came.
    pub async fn ask(&self, authority: [u8; 32], request: &Request) -> Result<Answer, String> {
        let answer = self.ask_for(authority, request.encode(), 0, &self.name).await?;
        Answer::decode(answer).map_err(|why| format!("the answer cannot be read: {why}"))
    }

    /// Asks for a node that has no link of its own.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub async fn ask_for(
        &self,
        authority: [u8; 32],
        request: Bytes,
        hops: u32,
        name: &NodeName,
    ) -> Result<Bytes, String> {
        let (exchange, asked, name) = (self.exchange.clone(), request.clone(), name.clone());
        let answer = match blocking(move || exchange.answer(authority, asked, &name)).await {
            Some(answer) => answer,
            None => {
                let (tell, told) = oneshot::channel();
                self.pass_on(authority, request, hops, Asker::Here(tell)).map_err(|why| match why {
                    Refusal::NoAuthority => "no uplink is up that could pass on the question".to_owned(),
                    _ => "too many questions wait for an answer".to_owned(),
                })?;
                match tokio::time::timeout(ASK, told).await {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) => return Err("the uplink went down before the answer came".to_owned()),
                    Err(_) => return Err(format!("no answer came within {} s", ASK.as_secs())),
                }
            }
        };
        Ok(answer)
    }

    /// Has every neighbour send what this node lacks: for when a link is judged by something that is not there.
    pub fn pull(&self) {
        for lane in self.inner().lanes.values() {
            lane.change(|said| said.have = true);
        }
    }

    /// What this node and those below it have said of themselves, by name.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        self.note_own();
        let mut all: Vec<Report> = self.inner().reports.values().map(|(_, report)| report.clone()).collect();
        all.sort_by(|a, b| (&a.name, a.node).cmp(&(&b.name, b.node)));
        all
    }

    /// Objects that neighbours sent and that were not believed, since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn exchange(&self) -> &Arc<dyn Exchange> {
        &self.exchange
    }

    /// Counts the reports that were new.
    pub(super) fn fresh(&self) -> watch::Receiver<u64> {
        self.fresh.subscribe()
    }

    pub(super) fn enter(&self, lane: Arc<Lane>) -> Entered<'_> {
        let link = lane.link;
        self.inner().lanes.insert(link, lane);
        Entered(self, link)
    }

    /// Sends a question that has crossed so many links on its way up.
    pub(super) fn pass_on(&self, authority: [u8; 32], request: Bytes, hops: u32, asker: Asker) -> Result<(), Refusal> {
        let now_ms = self.clock.mono_ms();
        let mut inner = self.inner();
        inner.asks.retain(|_, asked| asked.until_ms > now_ms);
        let up = inner.lanes.values().filter_map(|lane| match lane.side {
            Side::Up(place) => Some((place, Reverse(lane.link), lane.clone())),
            Side::Down => None,
        });
        // As the core chooses: the first in the order of preference, of one node its newest link.
        let up = up.min_by_key(|(place, link, _)| (*place, *link)).map(|(.., lane)| lane);
        let up = up.filter(|_| usize::try_from(hops).is_ok_and(|hops| hops < HOPS)).ok_or(Refusal::NoAuthority)?;
        let of_one = inner.asks.values().filter(|asked| asker.is_of_same(&asked.asker)).count();
        let number = inner.next_ask;
        let ask = PkiFrame::Ask { number, hops: hops + 1, authority, request };
        if inner.asks.len() >= ASKS || of_one >= ASKS_OF_ONE || !up.post(ask) {
            return Err(Refusal::Unavailable);
        }
        inner.next_ask += 1;
        let until_ms = now_ms + u64::try_from(ASK.as_millis()).unwrap_or(u64::MAX);
        inner.asks.insert(number, Asked { via: up.link, until_ms, asker });
        Ok(())
    }

    /// An answer that came over a link; one that nobody waits for is dropped.
    pub(super) fn replied(&self, via: LinkId, number: u64, answer: Bytes) {
        let mut inner = self.inner();
        if inner.asks.get(&number).is_none_or(|asked| asked.via != via) {
            return;
        }
        match inner.asks.remove(&number).map(|asked| asked.asker) {
            Some(Asker::Here(tell)) => _ = tell.send(answer),
            Some(Asker::Link(lane, number)) => lane.reply(number, answer),
            None => {}
        }
    }

    /// Keeps what nodes below have said, each node's newest.
    pub(super) fn note(&self, reports: Vec<Report>) {
        let now_ms = self.clock.wall_ms();
        let others = reports.into_iter().filter(|report| report.node != self.id);
        // A time to come would keep out every later word.
        self.keep(others.map(|report| Report { at_ms: report.at_ms.min(now_ms), ..report }));
    }

    /// Keeps what this node has to say, if that is new.
    pub(super) fn note_own(&self) {
        let report = self.exchange.report();
        let known = self.inner().reports.get(&self.id).map(|(_, known)| known.clone());
        if known.is_none_or(|known| known != Report { at_ms: known.at_ms, ..report.clone() }) {
            self.keep(std::iter::once(report));
        }
    }

    fn keep(&self, reports: impl Iterator<Item = Report>) {
        let mut inner = self.inner();
        let before = inner.stamp;
        for report in reports {
            let known = inner.reports.get(&report.node);
            if known.is_some_and(|(_, known)| known.at_ms > report.at_ms || *known == report) {
                continue;
            }
            inner.stamp += 1;
            let (stamp, node) = (inner.stamp, report.node);
            if let Some((old, _)) = inner.reports.insert(node, (stamp, report)) {
                inner.order.remove(&old);
            }
            inner.order.insert(stamp, node);
            if inner.reports.len() > NODES
                && let Some((_, oldest)) = inner.order.pop_first()
            {
                inner.reports.remove(&oldest);
            }
        }
        if inner.stamp > before {
            self.fresh.send_replace(inner.stamp);
        }
    }

    /// Reports that came after the one with this stamp, and the stamp of the last of them.
    pub(super) fn reports_after(&self, stamp: u64, at_most: usize) -> Option<(Vec<Report>, u64)> {
        let inner = self.inner();
        let later: Vec<(u64, NodeId)> = inner.order.range(stamp + 1..).take(at_most).map(|(s, n)| (*s, *n)).collect();
        let (last, _) = *later.last()?;
        let reports = later.iter().filter_map(|(_, node)| Some(inner.reports.get(node)?.1.clone())).collect();
        Some((reports, last))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asker {
    fn is_of_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Here(_), Self::Here(_)) => true,
            (Self::Link(lane, _), Self::Link(other, _)) => lane.link == other.link,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::tests::fixture::Overlay;
    use crate::link::tests::pki::Fake;

    const CA: [u8; 32] = [1; 32];

    fn herald() -> (Arc<Herald>, Report) {
        let keys = Overlay::new().central;
        let me = keys.identity();
        let fake = Fake::new(&keys, None);
        let report = fake.report.lock().expect("whole").clone();
        (Herald::new((me.id, me.name.clone()), Clock::default(), fake), report)
    }

    fn lane(link: u64, side: Side) -> Arc<Lane> {
        Lane::new(LinkId(link), side)
    }

    impl Lane {
        fn posted(&self) -> Vec<PkiFrame> {
            self.said().letters.drain(..).collect()
        }
    }

    #[test]
    fn a_question_goes_over_the_first_uplink_and_only_its_answer_comes_back() {
        let (herald, _) = herald();
        let (child, first, second) = (lane(1, Side::Down), lane(2, Side::Up(0)), lane(3, Side::Up(1)));
        let ask = |hops, number| herald.pass_on(CA, Bytes::new(), hops, Asker::Link(child.clone(), number));
        assert_eq!(ask(1, 7), Err(Refusal::NoAuthority), "no uplink");
        let _second = herald.enter(second.clone());
        let newest = lane(4, Side::Up(0));
        let _links = (herald.enter(first.clone()), herald.enter(newest.clone()), herald.enter(child.clone()));
        assert_eq!(ask(HOPS as u32, 7), Err(Refusal::NoAuthority), "round and round");
        assert_eq!(ask(HOPS as u32 - 1, 7), Ok(()));
        let posted = newest.posted();
        let [PkiFrame::Ask { number, hops, .. }] = posted[..] else { panic!("{posted:?}") };
        assert_eq!((hops, first.posted(), second.posted()), (HOPS as u32, vec![], vec![]));
        let answer = Bytes::from_static(b"answer");
        herald.replied(LinkId(3), number, answer.clone());
        herald.replied(LinkId(4), number + 1, answer.clone());
        assert_eq!(child.posted(), [], "neither from there nor to that");
        herald.replied(LinkId(4), number, answer.clone());
        herald.replied(LinkId(4), number, answer.clone());
        assert_eq!(child.posted(), [PkiFrame::Reply { number: 7, answer }], "once");
    }

    #[test]
    fn one_neighbour_does_not_take_up_all_questions() {
        let (herald, _) = herald();
        let up = lane(1, Side::Up(0));
        let _up = herald.enter(up.clone());
        let mut asked = Vec::new();
        for link in 2..8 {
            let child = lane(link, Side::Down);
            let ask = || {
                let done = herald.pass_on(CA, Bytes::new(), 1, Asker::Link(child.clone(), 1));
                up.posted();
                done
            };
            asked.push((0..300).filter(|_| ask().is_ok()).count());
        }
        assert_eq!(asked, [ASKS_OF_ONE, ASKS_OF_ONE, ASKS_OF_ONE, ASKS_OF_ONE, 0, 0], "{ASKS} in all");
    }

    #[test]
    fn of_each_node_the_newest_report_is_kept_and_no_time_to_come() {
        let (herald, own) = herald();
        let of = |node: u8, at_ms, roots| Report { node: NodeId([node; 16]), at_ms, roots, ..own.clone() };
        let known = |node: u8| herald.inner().reports.get(&NodeId([node; 16])).map(|(_, report)| report.roots);
        herald.note(vec![of(1, 10, 2), of(1, 9, 1), of(2, u64::MAX, 1)]);
        assert_eq!((known(1), known(2)), (Some(2), Some(1)));
        let later_ms = Clock::default().wall_ms() + 1_000;
        herald.note(vec![of(2, later_ms, 5)]);
        assert_eq!(known(2), Some(5), "a time to come does not keep out what is said later");
        // What others say of this node is not kept.
        herald.note(vec![Report { roots: 99, ..own.clone() }]);
        assert!(herald.reports().iter().all(|report| report.roots < 99));
        let (all, stamp) = herald.reports_after(0, 100).expect("some");
        assert_eq!(all.len(), 3);
        herald.note(vec![of(1, 10, 2)]);
        assert_eq!(herald.reports_after(stamp, 100), None, "nothing new");
    }

    #[test]
    fn reports_are_bounded_and_the_stalest_goes() {
        let (herald, own) = herald();
        let of = |n: usize| {
            let mut node = [0; 16];
            node[..8].copy_from_slice(&(n as u64).to_le_bytes());
            Report { node: NodeId(node), ..own.clone() }
        };
        herald.note((1..=NODES + 10).map(of).collect());
        let inner = herald.inner();
        assert_eq!((inner.reports.len(), inner.order.len()), (NODES, NODES));
        assert!(!inner.reports.contains_key(&of(10).node) && inner.reports.contains_key(&of(11).node));
    }
}
