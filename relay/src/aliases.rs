//! Names by which nodes were called before: what CAs say of them in the bundle. Their signatures were checked before.
//!
//! An alias that is live leads mail to its node. Live or not, it proves that a node which signs by one of its names may
//! speak for the other. It never outweighs a node that bears a name now.

use std::collections::BTreeMap;

use tram_proto::id::NodeId;
use tram_proto::name::NodeName;
use tram_proto::pki::Alias;

use crate::input;
use crate::limits;

#[derive(Debug, Default)]
pub(crate) struct Aliases {
    /// Former names, and present ones of which no record need have come yet.
    live: BTreeMap<NodeName, NodeId>,
    by_node: BTreeMap<NodeId, Vec<Alias>>,
}

impl Aliases {
    pub(crate) fn new(aliases: input::Aliases) -> Self {
        let input::Aliases { mut live, mut ended } = aliases;
        live.truncate(limits::ALIASES);
        ended.truncate(limits::ALIASES - live.len());
        let mut by_name = BTreeMap::new();
        for alias in &live {
            by_name.entry(alias.old.clone()).or_insert(alias.node);
        }
        for alias in &live {
            by_name.entry(alias.new.clone()).or_insert(alias.node);
        }
        let mut by_node: BTreeMap<NodeId, Vec<Alias>> = BTreeMap::new();
        for alias in live.into_iter().chain(ended) {
            by_node.entry(alias.node).or_default().push(alias);
        }
        Self { live: by_name, by_node }
    }

    /// The node that a name means by these.
    pub(crate) fn resolve(&self, name: &NodeName) -> Option<NodeId> {
        self.live.get(name).copied()
    }

    /// Whether a node bears, or bore, both names.
    pub(crate) fn are_one(&self, node: NodeId, one: &NodeName, other: &NodeName) -> bool {
        self.by_node.get(&node).is_some_and(|aliases| Alias::are_one(aliases.iter(), node, one, other))
    }
}
