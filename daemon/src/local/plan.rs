//! The bandwidth plan for whoever asks: what holds now on each link, and through the week.

use std::collections::BTreeMap;

use tram_proto::local::{PlanAnswer, PlanCeiling, PlanHours, PlanLink};
use tram_proto::name::NodeName;
use tram_relay::input::Side;

use super::Door;
use crate::plan::{Plan, Rate, minute_text};

/// The plan with every link that there is, and those it names.
pub(super) fn answer(door: &Door, plan: &Plan) -> PlanAnswer {
    let now_ms = door.station.now_ms();
    let mut links: BTreeMap<(bool, NodeName), Side> = BTreeMap::new();
    for fact in door.station.links() {
        links.insert((!fact.uplink, fact.peer), if fact.uplink { Side::Up(0) } else { Side::Down });
    }
    for name in plan.nodes().filter(|name| !links.keys().any(|(_, peer)| peer == *name)).cloned().collect::<Vec<_>>() {
        links.insert((true, name), Side::Down);
    }
    let links = links.into_iter().map(|((_, peer), side)| link(plan, &peer, side, now_ms));
    PlanAnswer { timezone: plan.zone(), now_ms, links: links.collect() }
}

fn link(plan: &Plan, peer: &NodeName, side: Side, now_ms: u64) -> PlanLink {
    let force = plan.in_force(peer, side, now_ms);
    let bits = |rate: Option<Rate>| rate.map_or(0, Rate::bits);
    let ceilings = force.ceilings.iter().map(|ceiling| {
        let week = plan.week(peer, side, ceiling.scope).into_iter().map(|(hours, most)| PlanHours {
            from: minute_text(hours.from, false),
            to: minute_text(hours.to, true),
            most_bits: bits(most),
        });
        PlanCeiling {
            class: ceiling.scope.to_string(),
            most_bits: bits(ceiling.most),
            until_ms: ceiling.until_ms.unwrap_or(0),
            week: week.collect(),
        }
    });
    PlanLink {
        link: peer.to_string(),
        side: if matches!(side, Side::Up(_)) { "up" } else { "down" }.to_owned(),
        declared_bits: bits(force.declared),
        ceilings: ceilings.collect(),
    }
}
