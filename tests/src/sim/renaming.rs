//! Nodes that get another name while the overlay works.

use tram_proto::name::NodeName;
use tram_proto::pki::Alias;
use tram_relay::Input;
use tram_relay::input::{Aliases, Names};

use super::Place;
use super::world::{SimNode, World};

impl World {
    /// Its CA gives a node another name, which it takes at its next start; all who run hear of it.
    pub fn rename(&mut self, place: Place, new: &str) {
        let new: NodeName = new.parse().expect("a name");
        let node = &mut self.nodes[place];
        self.aliases.push(Alias { old: node.name.clone(), new: new.clone(), node: node.id, until_ms: u64::MAX });
        node.next_name = Some(new);
        self.tell(0, Input::Names(self.names()));
        for place in 0..self.nodes.len() {
            self.tell(place, Input::Aliases(self.aliases()));
        }
    }

    pub(super) fn take_name(&mut self, place: Place) {
        let node = &mut self.nodes[place];
        if let Some(name) = node.next_name.take() {
            node.name = name;
        }
    }

    /// What the owner of the names knows.
    pub(super) fn names(&self) -> Names {
        let name = |n: &SimNode| (n.next_name.clone().unwrap_or_else(|| n.name.clone()), n.id);
        Names { known: self.nodes.iter().map(name).collect(), ..Names::default() }
    }

    pub(super) fn aliases(&self) -> Aliases {
        Aliases { live: self.aliases.clone(), ended: Vec::new() }
    }

    /// The node that a name means, or meant.
    pub(super) fn place_of(&self, name: &NodeName) -> Option<Place> {
        let alias = self.aliases.iter().find(|alias| alias.old == *name || alias.new == *name);
        self.nodes.iter().position(|n| n.name == *name || alias.is_some_and(|alias| alias.node == n.id))
    }
}
