//! Where a node is: records of the nodes in this node's tree, and the next hop that follows from them.
//!
//! A record says which uplink its node uses. The way to a node is found by walking those attachments upwards until this
//! node or nothing known is met: met, the last step is the child to use; else the mail goes up. So a child that moves
//! takes its whole subtree with it, with one record. The highest counter wins. DESIGN §7. Signatures were checked before.

use std::collections::BTreeMap;

use tram_proto::id::NodeId;
use tram_proto::name::NodeName;
use tram_proto::receipt::NodeRecord;
use tram_proto::statement::Signed;

use crate::aliases::Aliases;
use crate::input::Names;
use crate::limits;

/// Where a copy goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hop {
    /// To this node itself.
    Here,
    /// To a child.
    Child(NodeId),
    /// To whichever uplink is in use.
    Up,
    /// Nowhere yet: the top does not know the node's place.
    Hold,
}

/// What the names' owner says of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existence {
    /// It is this node.
    Known(NodeId),
    /// The owner never admitted such a node.
    Never,
    /// Someone further up may know.
    Unknown,
}

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Learned {
    /// It is news. The child that had the node before, if another branch of ours did.
    News { losing: Option<NodeId> },
    /// It is what we knew.
    Same,
    /// We know a newer one.
    Stale(Signed),
    /// No room for another node.
    Full,
}

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: NodeRecord,
    pub(crate) signed: Signed,
}

/// The names that are this node's to judge, and whose the others are.
#[derive(Debug)]
struct Registry {
    known: BTreeMap<NodeName, NodeId>,
    below: Option<NodeName>,
    elsewhere: Vec<(NodeName, NodeId)>,
}

impl Registry {
    /// The node that judges a name, if that is another one.
    fn judge_of(&self, name: &NodeName) -> Option<NodeId> {
        self.elsewhere.iter().find(|(apex, _)| is_below(name, apex)).map(|(_, node)| *node)
    }

    fn owns(&self, name: &NodeName) -> bool {
        self.judge_of(name).is_none() && self.below.as_ref().is_none_or(|apex| is_below(name, apex))
    }
}

/// Whether a name lies below another one.
pub(crate) fn is_below(name: &NodeName, apex: &NodeName) -> bool {
    name.as_str().strip_suffix(apex.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

#[derive(Debug)]
pub(crate) struct Routing {
    own: NodeId,
    own_name: NodeName,
    records: BTreeMap<NodeId, Known>,
    by_name: BTreeMap<NodeName, NodeId>,
    /// Present at a node that owns names.
    registry: Option<Registry>,
    pub(crate) aliases: Aliases,
    /// Set when this node has uplinks at all.
    has_uplink: bool,
}

/// Attachments followed before a walk gives up: the tree is at most 5 deep, a loop of stale records is not a tree.
const DEPTH: usize = 16;

impl Routing {
    pub(crate) fn new(own: NodeId, own_name: NodeName, has_uplink: bool) -> Self {
        let (records, by_name, aliases) = (BTreeMap::new(), BTreeMap::new(), Aliases::default());
        Self { own, own_name, records, by_name, registry: None, aliases, has_uplink }
    }

    pub(crate) fn names(&mut self, names: Names) {
        let Names { known, below, elsewhere } = names;
        self.registry = Some(Registry { known: known.into_iter().collect(), below, elsewhere });
    }

    pub(crate) fn registry(&self) -> impl Iterator<Item = (&NodeName, &NodeId)> {
        self.registry.iter().flat_map(|registry| &registry.known)
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Known> {
        self.records.values()
    }

    pub(crate) fn record(&self, node: NodeId) -> Option<&Known> {
        self.records.get(&node)
    }

    /// Every record a new uplink has to hear: those of the nodes below this one.
    pub(crate) fn below(&self) -> impl Iterator<Item = &Known> {
        self.records.values().filter(|k| matches!(self.toward(k.record.node), Hop::Child(_)))
    }

    /// The records of the nodes below a child.
    pub(crate) fn beyond(&self, child: NodeId) -> Vec<Signed> {
        let beyond = |k: &&Known| k.record.node != child && self.toward(k.record.node) == Hop::Child(child);
        self.records.values().filter(beyond).map(|k| k.signed.clone()).collect()
    }

    /// The records of the nodes that hang below a node, however deep.
    pub(crate) fn hanging_on(&self, node: NodeId) -> Vec<Signed> {
        let above = |at: &NodeId| self.records.get(at).and_then(|known| known.record.active);
        let hangs = |k: &&Known| {
            let chain = std::iter::successors(k.record.active, above).take(DEPTH);
            k.record.node != node && chain.into_iter().any(|at| at == node)
        };
        self.records.values().filter(hangs).map(|k| k.signed.clone()).collect()
    }

    pub(crate) fn learn(&mut self, record: NodeRecord, signed: Signed) -> Learned {
        let before = self.records.get(&record.node);
        if let Some(known) = before {
            // A life that counts from the beginning may meet the number of the one before: then either wins, everywhere the
            // same, and its node counts on when it hears of the other.
            let (theirs, ours) = (&record, &known.record);
            match (theirs.counter, theirs.incarnation).cmp(&(ours.counter, ours.incarnation)) {
                std::cmp::Ordering::Less => return Learned::Stale(known.signed.clone()),
                std::cmp::Ordering::Equal => return Learned::Same,
                std::cmp::Ordering::Greater => {}
            }
        } else if self.records.len() >= limits::RECORDS {
            return Learned::Full;
        }
        let old = before.map(|_| self.toward(record.node));
        let node = record.node;
        if let Some(known) = self.records.get(&node)
            && self.by_name.get(&known.record.name) == Some(&node)
        {
            // Another node may have been given the name since.
            self.by_name.remove(&known.record.name);
        }
        self.by_name.insert(record.name.clone(), node);
        self.records.insert(node, Known { record, signed });
        let losing = match old {
            Some(Hop::Child(child)) if self.toward(node) != Hop::Child(child) => Some(child),
            _ => None,
        };
        Learned::News { losing }
    }

    pub(crate) fn resolve(&self, name: &NodeName) -> Existence {
        if *name == self.own_name {
            return Existence::Known(self.own);
        }
        let is_ours = self.registry.as_ref().is_some_and(|registry| registry.owns(name));
        let registered = self.registry.as_ref().and_then(|registry| registry.known.get(name));
        // A record may be of a node that had the name before; whoever owns the names knows.
        let known = registered.filter(|_| is_ours).or_else(|| self.by_name.get(name)).or(registered);
        match known.copied().or_else(|| self.aliases.resolve(name)) {
            Some(node) => Existence::Known(node),
            None if is_ours => Existence::Never,
            None => Existence::Unknown,
        }
    }

    /// The next hop to a node, or to a name nobody here knows.
    pub(crate) fn next(&self, node: Option<NodeId>) -> Hop {
        match node {
            Some(node) => self.toward(node),
            None => self.default_route(),
        }
    }

    /// The next hop to a recipient: to its node, or, as long as nobody here knows its name, to who may judge it.
    pub(crate) fn way(&self, node: Option<NodeId>, name: Option<&NodeName>) -> Hop {
        let judge = || self.registry.as_ref().and_then(|registry| registry.judge_of(name?));
        self.next(node.or_else(judge))
    }

    const fn default_route(&self) -> Hop {
        if self.has_uplink { Hop::Up } else { Hop::Hold }
    }

    fn toward(&self, node: NodeId) -> Hop {
        if node == self.own {
            return Hop::Here;
        }
        let mut at = node;
        for _ in 0..DEPTH {
            match self.records.get(&at).and_then(|known| known.record.active) {
                Some(above) if above == self.own => return Hop::Child(at),
                Some(above) => at = above,
                None => break,
            }
        }
        self.default_route()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tram_proto::id::{CertHash, Incarnation};
    use tram_proto::pki::Alias;
    use tram_proto::statement::Signature;

    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn record(n: u8, active: u8, counter: u64) -> NodeRecord {
        NodeRecord {
            node: id(n),
            name: format!("n{n}").parse().expect("a name"),
            incarnation: Incarnation([0; 16]),
            counter,
            inboxes: vec![],
            uplinks: vec![],
            active: Some(id(active)),
            at_ms: 0,
            title: String::new(),
            retired: vec![],
        }
    }

    #[test]
    fn of_two_lives_with_one_counter_the_same_wins_everywhere() {
        let life = |n: u8| NodeRecord { incarnation: Incarnation([n; 16]), ..record(2, n, 1) };
        for order in [[1, 2], [2, 1]] {
            let mut routing = Routing::new(id(1), "n1".parse().expect("a name"), true);
            order.iter().for_each(|n| drop(routing.learn(life(*n), signed(*n))));
            assert_eq!(routing.record(id(2)).map(|k| k.record.active), Some(Some(id(2))));
            assert_eq!(routing.learn(life(1), signed(1)), Learned::Stale(signed(2)));
            assert_eq!(routing.learn(life(2), signed(2)), Learned::Same);
        }
    }

    fn signed(n: u8) -> Signed {
        let signature =
            Signature { signer: CertHash([n; 32]), count: 1, index: 0, path: vec![], signature: Bytes::new() };
        Signed { statement: Bytes::new(), signature }
    }

    /// Node 1 with children 2 and 3; 4 hangs under 2.
    fn tree(has_uplink: bool) -> Routing {
        let mut routing = Routing::new(id(1), "n1".parse().expect("a name"), has_uplink);
        for (n, active) in [(2, 1), (3, 1), (4, 2)] {
            assert_eq!(routing.learn(record(n, active, 1), signed(n)), Learned::News { losing: None });
        }
        routing
    }

    #[track_caller]
    fn check(routing: &Routing, node: u8, expect: Hop) {
        assert_eq!(routing.next(Some(id(node))), expect);
    }

    #[test]
    fn mail_goes_down_along_attachments_and_up_by_default() {
        let routing = tree(true);
        check(&routing, 1, Hop::Here);
        check(&routing, 2, Hop::Child(id(2)));
        check(&routing, 4, Hop::Child(id(2)));
        check(&routing, 9, Hop::Up);
        check(&tree(false), 9, Hop::Hold);
        assert_eq!(routing.next(None), Hop::Up);
    }

    #[test]
    fn a_move_takes_the_subtree_along_and_names_the_losing_branch() {
        let mut routing = tree(true);
        routing.learn(record(5, 4, 1), signed(5));
        assert_eq!(routing.learn(record(4, 3, 2), signed(4)), Learned::News { losing: Some(id(2)) });
        check(&routing, 4, Hop::Child(id(3)));
        check(&routing, 5, Hop::Child(id(3)));
        assert_eq!(routing.learn(record(4, 8, 3), signed(4)), Learned::News { losing: Some(id(3)) });
        check(&routing, 5, Hop::Up);
    }

    #[test]
    fn an_older_record_is_answered_with_the_newer() {
        let mut routing = tree(true);
        assert_eq!(routing.learn(record(2, 9, 0), signed(9)), Learned::Stale(signed(2)));
        assert_eq!(routing.learn(record(2, 1, 1), signed(2)), Learned::Same);
        check(&routing, 2, Hop::Child(id(2)));
    }

    #[test]
    fn a_ring_of_stale_records_goes_up() {
        let mut routing = tree(true);
        routing.learn(record(2, 4, 2), signed(2));
        check(&routing, 4, Hop::Up);
        check(&routing, 2, Hop::Up);
    }

    #[test]
    fn only_the_owner_of_the_names_says_never() {
        let mut routing = tree(false);
        let name = |n: &str| n.parse().expect("a name");
        assert_eq!(routing.resolve(&name("n4")), Existence::Known(id(4)));
        assert_eq!(routing.resolve(&name("x")), Existence::Unknown);
        routing.names(Names { known: vec![(name("off"), id(7))], ..Names::default() });
        assert_eq!(routing.resolve(&name("off")), Existence::Known(id(7)));
        assert_eq!(routing.resolve(&name("x")), Existence::Never);
        check(&routing, 7, Hop::Hold);
    }

    #[test]
    fn a_former_name_leads_to_its_node_until_another_one_bears_it() {
        let mut routing = tree(true);
        let name = |n: &str| n.parse().expect("a name");
        let alias = |old, new, n| Alias { old: name(old), new: name(new), node: id(n), until_ms: 0 };
        let live = vec![alias("m4", "n4", 4), alias("n0", "n1", 1)];
        let ended = vec![alias("m3", "n3", 3)];
        routing.aliases = Aliases::new(crate::input::Aliases { live, ended });
        assert_eq!(routing.resolve(&name("m4")), Existence::Known(id(4)));
        assert_eq!(routing.resolve(&name("n0")), Existence::Known(id(1)));
        assert_eq!(routing.resolve(&name("m3")), Existence::Unknown);
        let named = |n, called: &str, counter| NodeRecord { name: name(called), ..record(n, 1, counter) };
        routing.learn(named(5, "m4", 1), signed(5));
        assert_eq!(routing.resolve(&name("m4")), Existence::Known(id(5)));
        // Two that took one another's name, whichever is heard of first.
        routing.learn(named(2, "n3", 2), signed(2));
        routing.learn(named(3, "n2", 2), signed(3));
        assert_eq!(routing.resolve(&name("n3")), Existence::Known(id(2)));
        assert_eq!(routing.resolve(&name("n2")), Existence::Known(id(3)));
    }

    #[test]
    fn names_below_a_province_with_a_ca_are_its_own_to_judge() {
        let mut routing = tree(false);
        let name = |n: &str| n.parse().expect("a name");
        routing.names(Names { elsewhere: vec![(name("n2"), id(2))], ..Names::default() });
        assert_eq!(routing.resolve(&name("x.n2")), Existence::Unknown);
        assert_eq!(routing.way(None, Some(&name("x.n2"))), routing.next(Some(id(2))));
        assert_ne!(routing.next(Some(id(2))), Hop::Hold);
        for other in ["x", "x.n3", "xn2", "n22"] {
            assert_eq!(routing.resolve(&name(other)), Existence::Never, "{other}");
        }
        routing.names(Names { below: Some(name("n2")), ..Names::default() });
        assert_eq!(routing.resolve(&name("x.n2")), Existence::Never);
        assert_eq!(routing.resolve(&name("x.n3")), Existence::Unknown);
    }
}
