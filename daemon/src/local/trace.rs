//! Where a message is: what this node remembers, what came home in receipts, what nodes along the route say now.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::Status;
use tram_proto::frame::TraceHop;
use tram_proto::id::{MessageId, NodeId};
use tram_proto::local::{Hop, TraceAnswer};
use tram_proto::receipt::{Receipt, State};

use super::access::Grant;
use super::known::{Known, visible};
use super::{Door, blocking, refusal};
use crate::engine::handle::Request;

/// How long to wait for nodes along the route, in milliseconds: default and longest.
const WAIT_MS: u64 = 2_000;
const WAIT_MAX_MS: u64 = 60_000;
/// Answers that may wait to be read.
const ANSWERS: usize = 64;

/// One node of the way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passed {
    node: NodeId,
    name: String,
    state: State,
    at_ms: u64,
    detail: String,
}

/// The way, or the ways, a message took; the origin first.
#[derive(Debug, Default)]
struct Way(Vec<Passed>);

impl Way {
    /// Notes a node; one that is known gets the state when that is further.
    fn pass(&mut self, passed: Passed) {
        if let Some(known) = self.0.iter_mut().find(|known| known.node == passed.node) {
            if passed.state.overrides(known.state) && known.state != State::Submitted {
                *known = passed;
            }
            return;
        }
        // A relay that answers late stands before the destinations its copy has not reached yet.
        let before = |known: &Passed| {
            passed.state == State::Relayed && known.state != State::Relayed && known.at_ms > passed.at_ms
        };
        let at = self.0.iter().skip(1).position(before).map_or(self.0.len(), |at| at + 1);
        self.0.insert(at, passed);
    }

    fn receipt(&mut self, receipt: &Receipt) {
        for (stamp, at) in receipt.stamps.iter().zip(0..) {
            let state = if at == 0 { State::Submitted } else { State::Relayed };
            let name = stamp.name.to_string();
            self.pass(Passed { node: stamp.node, name, state, at_ms: stamp.at_ms, detail: String::new() });
        }
        // A negative receipt may be the origin's own or a registry's: then it is no hop of the way.
        if matches!(receipt.state, State::Arrived | State::Delivered | State::Status) {
            let state = receipt.state.min(State::Delivered);
            let name = receipt.name.to_string();
            self.pass(Passed { node: receipt.node, name, state, at_ms: receipt.at_ms, detail: String::new() });
        }
    }

    fn live(&mut self, hop: TraceHop) {
        let name = hop.name.to_string();
        self.pass(Passed { node: hop.node, name, state: hop.state, at_ms: hop.at_ms, detail: hop.detail });
    }
}

async fn remembered(door: &Door, id: MessageId) -> Result<Known, Status> {
    let spool = door.spool.clone();
    blocking(move || Known::read(&*spool, &id)).await?.ok_or_else(refusal::no_such_message)
}

/// Answers `Trace`.
pub(super) async fn trace(door: &Door, grant: &Grant, id: MessageId, timeout_ms: u64) -> Result<TraceAnswer, Status> {
    let known = remembered(door, id).await?;
    if !visible(door, grant, &known.stored, &known.body) {
        return Err(refusal::no_such_message());
    }
    // What receipts do not tell yet is asked for along the route. Meanwhile they may come home, so all is read after it.
    let open = known.recipients().iter().any(|(state, _)| !state.is_terminal());
    let (live, complete) = if open { ask(door, id, timeout_ms).await? } else { (Vec::new(), true) };
    let known = remembered(door, id).await?;
    let mut reached = known.recipients();
    let Known { stored, body, mut receipts } = known;

    let mut way = Way::default();
    let first = Passed {
        node: body.origin,
        name: body.origin_name.to_string(),
        state: State::Submitted,
        at_ms: body.created_ms,
        detail: String::new(),
    };
    way.pass(first);
    receipts.sort_by_key(|receipt| (receipt.state, receipt.at_ms));
    receipts.iter().for_each(|receipt| way.receipt(receipt));
    handed_over(door, &stored.message, &mut way).await?;

    live.into_iter().for_each(|hop| way.live(hop));
    let alone = |address: &str| body.to.iter().filter(|to| to.node.as_str() == node_of(address)).count() == 1;
    for (state, progress) in reached.iter_mut().filter(|(state, _)| !state.is_terminal()) {
        let hop = way.0.iter().find(|hop| hop.name == node_of(&progress.address));
        // A node speaks of itself as a whole, so its word is one recipient's only where it has one.
        if let Some(hop) = hop.filter(|hop| alone(&progress.address) && hop.state.overrides(*state)) {
            *state = hop.state;
            progress.state = hop.state.to_string();
            progress.at_ms = hop.at_ms;
        }
    }

    let states = reached.iter().map(|(state, _)| *state);
    let state = states.clone().filter(|state| !state.is_negative()).min().or_else(|| states.min());
    Ok(TraceAnswer {
        id: Bytes::copy_from_slice(&id.0),
        state: state.unwrap_or(State::Submitted).to_string(),
        hops: way
            .0
            .into_iter()
            .map(|p| Hop { node: p.name, state: p.state.to_string(), at_ms: p.at_ms, detail: p.detail })
            .collect(),
        recipients: reached.into_iter().map(|(_, progress)| progress).collect(),
        complete,
        demoted_from: stored.message.demoted_from.map(|asked| asked.to_string()).unwrap_or_default(),
    })
}

fn node_of(address: &str) -> &str {
    address.split_once('@').map_or("", |(_, node)| node)
}

/// The next hop that took custody, while no receipt tells of it yet.
async fn handed_over(door: &Door, message: &tram_proto::row::MessageRow, way: &mut Way) -> Result<(), Status> {
    let Some(next) = message.handed_to.filter(|_| message.handed_ms > 0) else { return Ok(()) };
    let snapshot = door.engine.snapshot().await.map_err(|_| refusal::stopping())?;
    let links = snapshot.links.iter().map(|link| (link.peer_id, &link.peer));
    let mut known = links.chain(snapshot.nodes.iter().map(|node| (node.node, &node.name)));
    if let Some((_, name)) = known.find(|(id, _)| *id == next) {
        let (name, detail) = (name.to_string(), String::new());
        way.pass(Passed { node: next, name, state: State::Relayed, at_ms: message.handed_ms, detail });
    }
    Ok(())
}

/// Asks along the route: what nodes there say, and whether everyone answered in time.
async fn ask(door: &Door, id: MessageId, timeout_ms: u64) -> Result<(Vec<TraceHop>, bool), Status> {
    let (answers, mut answered) = mpsc::channel(ANSWERS);
    door.engine.request(Request::Trace(id, answers)).await.map_err(|_| refusal::stopping())?;
    let wait = if timeout_ms == 0 { WAIT_MS } else { timeout_ms.min(WAIT_MAX_MS) };
    let mut told = Vec::new();
    let collect = async {
        while let Some((hops, last)) = answered.recv().await {
            told.extend(hops);
            if last {
                return true;
            }
        }
        false
    };
    let complete = tokio::time::timeout(Duration::from_millis(wait), collect).await.unwrap_or(false);
    Ok((told, complete))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(node: u8, state: State, at_ms: u64) -> Passed {
        Passed { node: NodeId([node; 16]), name: format!("n{node}"), state, at_ms, detail: String::new() }
    }

    #[track_caller]
    fn check(passes: &[Passed], expect: &[(u8, State, u64)]) {
        let mut way = Way::default();
        passes.iter().cloned().for_each(|p| way.pass(p));
        let got: Vec<_> = way.0.iter().map(|p| (p.node.0[0], p.state, p.at_ms)).collect();
        assert_eq!(got, expect);
    }

    #[test]
    fn the_way_has_each_node_once_in_its_furthest_state() {
        use State::{Arrived, Delivered, Relayed, Submitted};
        check(
            &[passed(1, Submitted, 1), passed(2, Relayed, 2), passed(3, Arrived, 3), passed(3, Delivered, 9)],
            &[(1, Submitted, 1), (2, Relayed, 2), (3, Delivered, 9)],
        );
        // The origin stays the origin, whatever it says of itself, and an older word changes nothing.
        check(
            &[passed(1, Submitted, 1), passed(1, Relayed, 5), passed(3, Delivered, 9), passed(3, Arrived, 3)],
            &[(1, Submitted, 1), (3, Delivered, 9)],
        );
        // A relay heard of late stands before the destination.
        check(
            &[passed(1, Submitted, 1), passed(3, Arrived, 7), passed(2, Relayed, 4)],
            &[(1, Submitted, 1), (2, Relayed, 4), (3, Arrived, 7)],
        );
    }
}
