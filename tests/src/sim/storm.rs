//! Random stories: from one seed a tree, a mix of troubles, a script, and healing.
//!
//! Each seed turns a random part of the troubles on, so that one does not hide what another would show.

use tram_proto::envelope::Precedence;
use tram_proto::id::MessageId;
use tram_proto::name::Role;
use tram_relay::input::{Command, HopName};
use tramd::spool::Access;

use super::check::Allowed;
use super::disk::Disk;
use super::world::{Manners, World};
use super::{Letter, Place, Random, some_size};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// The lifetime of what must arrive whatever happens: the origin offers again after 1 h, 4 h and daily.
const LONG_MS: u64 = 72 * HOUR;

/// What can be done to an overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Crash,
    Power,
    Cut,
    Move,
    LostDisk,
    OldDisk,
    Rot,
    Failure,
    Full,
    Clock,
    Absence,
    Recall,
    Status,
    Pause,
    Retire,
}

impl Trouble {
    const ALL: [Self; 15] = [
        Self::Crash,
        Self::Power,
        Self::Cut,
        Self::Move,
        Self::LostDisk,
        Self::OldDisk,
        Self::Rot,
        Self::Failure,
        Self::Full,
        Self::Clock,
        Self::Absence,
        Self::Recall,
        Self::Status,
        Self::Pause,
        Self::Retire,
    ];
}

/// The troubles of one seed.
#[derive(Debug, Clone)]
struct Mix {
    troubles: Vec<Trouble>,
    two_uplinks: bool,
    short_lives: bool,
    nowhere: bool,
    circulars: bool,
    big: bool,
    keys: bool,
    manners: Manners,
    /// So many of the first nodes may lose their disks, so nothing is promised from there.
    fragile: usize,
    steps: u64,
}

impl Mix {
    fn draw(random: &mut Random, nodes: usize) -> Self {
        let mut troubles = Trouble::ALL.to_vec();
        troubles.retain(|_| random.once_in(3));
        let mut sometimes = |n: u64| random.once_in(n);
        let mut mix = Self {
            troubles,
            two_uplinks: sometimes(4),
            short_lives: sometimes(5),
            nowhere: sometimes(4),
            circulars: sometimes(3),
            big: sometimes(2),
            keys: sometimes(2),
            manners: Manners {
                overtaking: sometimes(3),
                doubling: sometimes(4),
                slow: sometimes(4),
                moody: sometimes(5),
                crowded: sometimes(4),
                broken_runs: true,
                ..Manners::default()
            },
            fragile: 1 + random.place(nodes / 2),
            steps: 15 + random.below(25),
        };
        mix.manners.latency_ms = 1 + random.below(300);
        mix.manners.notice_ms = if random.once_in(3) { 1 + random.below(45_000) } else { 0 };
        mix.manners.liar = random.once_in(10).then_some(random.place(mix.fragile));
        mix.manners.may_refuse = mix.troubles.contains(&Trouble::Full);
        mix.big |= mix.troubles.contains(&Trouble::Rot);
        mix
    }
}

/// How a story went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ran {
    /// What happened, counted.
    pub steps: u64,
    /// Messages that were promised.
    pub promised: u64,
    /// Virtual time from the healing until nothing was left, in milliseconds.
    pub drained_ms: u64,
    /// It ran on modelled disks.
    pub on_disks: bool,
}

const NAMES: [&str; 7] = [
    "central",
    "can-tho",
    "an-giang",
    "ninh-kieu.can-tho",
    "cai-rang.can-tho",
    "chau-doc.an-giang",
    "tinh-bien.an-giang",
];

/// The tree of a seed: 3 to 7 nodes, 2 to 4 deep, parents before their children.
fn tree(random: &mut Random) -> Vec<(Vec<Place>, Role)> {
    let nodes = 3 + random.place(5);
    let mut depth = vec![0_usize];
    let mut tree = vec![(vec![], Role::Central)];
    for place in 1..nodes {
        let mut parent = random.place(place);
        while depth[parent] >= 3 {
            parent = random.place(place);
        }
        depth.push(depth[parent] + 1);
        let role = if depth[place] == 1 { Role::Province } else { Role::District };
        tree.push((vec![parent], role));
    }
    tree
}

/// Says which troubles a story had when it fails.
struct Teller(u64, Mix, usize);

impl Drop for Teller {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: {} nodes, {:?}", self.0, self.2, self.1);
        }
    }
}

struct Storm {
    world: World,
    random: Random,
    mix: Mix,
    images: Vec<(Place, Disk)>,
}

/// Runs the story of a seed to its end.
///
/// # Panics
/// When something does not hold.
#[must_use]
pub fn storm(seed: u64) -> Ran {
    let mut random = Random::new(seed ^ 0x7261_6d00_0000);
    let tree = tree(&mut random);
    let mix = Mix::draw(&mut random, tree.len());
    let _teller = Teller(seed, mix.clone(), tree.len());
    let on_disks = random.once_in(2);
    let nodes = tree.into_iter().enumerate().map(|(place, (parents, role))| {
        let disk = if on_disks && !random.once_in(3) { Disk::files() } else { Disk::memory() };
        (NAMES[place], role, parents, disk)
    });
    let nodes = nodes.collect();
    let mut world = World::of(seed, nodes, mix.manners.clone());
    if random.once_in(4) {
        world.inboxes.push("hoso".parse().expect("a name"));
    }
    world.start_all();
    let mut storm = Storm { world, random, mix, images: Vec::new() };
    storm.second_uplinks();
    storm.rage();
    let healed = storm.heal();
    let drained = storm.drain();
    let world = &mut storm.world;
    let (steps, promised) = (world.steps, world.promised().len() as u64);
    Ran { steps, promised, drained_ms: drained - healed, on_disks }
}

impl Storm {
    fn someone(&mut self) -> Place {
        let nodes = self.world.nodes.len();
        self.random.place(nodes)
    }

    fn fragile(&mut self) -> Place {
        self.random.place(self.mix.fragile)
    }

    fn runs(&self, place: Place) -> bool {
        self.world.nodes[place].core.is_some()
    }

    fn second_uplinks(&mut self) {
        if !self.mix.two_uplinks {
            return;
        }
        for place in 2..self.world.nodes.len() {
            let second = self.random.place(place);
            let first = self.world.nodes[place].parents[0];
            if second != first && self.random.once_in(2) {
                self.world.move_to(place, &[first, second]);
            }
        }
    }

    fn rage(&mut self) {
        let lull = self.random.below(MINUTE);
        self.world.run(lull);
        for _ in 0..self.mix.steps {
            if !self.random.once_in(4) {
                self.post();
            }
            if !self.mix.troubles.is_empty() && self.random.once_in(2) {
                let trouble = self.mix.troubles[self.random.place(self.mix.troubles.len())];
                self.trouble(trouble);
            }
            let lull = if self.random.once_in(8) { 3 * MINUTE } else { 15 * SECOND };
            let lull = self.random.below(lull);
            self.world.run(lull);
        }
    }

    /// Only nodes whose disks live send: the origin's own disk is outside the promise.
    fn post(&mut self) {
        let nodes = self.world.nodes.len();
        let from = self.mix.fragile + self.random.place(nodes - self.mix.fragile);
        if !self.runs(from) {
            return;
        }
        let most = if self.mix.circulars { nodes } else { 1 + usize::from(self.random.once_in(3)) };
        let mut to: Vec<String> = (0..=self.random.place(most))
            .map(|_| {
                let inbox = self.world.inboxes[self.random.place(self.world.inboxes.len())].clone();
                format!("{inbox}@{}", self.world.nodes[self.random.place(nodes)].name)
            })
            .collect();
        if self.mix.nowhere && self.random.once_in(3) {
            to.push(if self.random.once_in(2) { "khong-co@central" } else { "vanban@nowhere.an-giang" }.to_owned());
        }
        to.sort();
        to.dedup();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let bytes = if self.mix.big { some_size(&mut self.random) } else { self.random.place(3000) };
        let short = self.mix.short_lives && self.random.once_in(2);
        let lifetime_ms = if short { MINUTE + self.random.below(HOUR) } else { LONG_MS };
        let precedence = Precedence::ALL[self.random.place(5)];
        let key = self.mix.keys && self.random.once_in(2);
        self.world.send(from, &Letter { to: &to, precedence, bytes, lifetime_ms, key });
    }

    fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Crash => {
                let (place, after) = (self.someone(), 100 + self.random.below(MINUTE));
                self.world.crash_and_restart(place, after);
            }
            Trouble::Power => self.cut_power(),
            Trouble::Cut => {
                let child = 1 + self.random.place(self.world.nodes.len() - 1);
                let parent = self.world.nodes[child].parents[0];
                let after = 100 + self.random.below(2 * MINUTE);
                self.world.cut(child, parent, after);
            }
            Trouble::Move => {
                let child = 1 + self.random.place(self.world.nodes.len() - 1);
                let parent = self.random.place(child);
                self.world.move_to(child, &[parent]);
            }
            Trouble::LostDisk => {
                let (place, after) = (self.fragile(), 100 + self.random.below(2 * MINUTE));
                self.world.lose_disk(place, after);
            }
            Trouble::OldDisk => self.old_disk(),
            Trouble::Rot => {
                let (place, seed) = (self.fragile(), self.random.number());
                if let Some(files) = self.world.nodes[place].disk.faults()
                    && files.flip(seed, "packs/").is_some()
                {
                    self.world.nodes[place].damaged = true;
                }
            }
            Trouble::Failure => {
                let place = self.fragile();
                let access = [Access::Read, Access::Write, Access::Sync][self.random.place(3)];
                let after = self.random.below(60);
                if let Some(files) = self.world.nodes[place].disk.faults() {
                    files.fail(access, after);
                    self.world.nodes[place].failing = true;
                    self.world.nodes[place].damaged = true;
                }
            }
            Trouble::Full => self.fill(),
            Trouble::Clock => {
                let place = 1 + self.random.place(self.world.nodes.len() - 1);
                let most = [4 * MINUTE, HOUR, 40 * 24 * HOUR][self.random.place(3)];
                let off = self.random.below(2 * most) as i64 - most as i64;
                self.world.set_clock(place, off);
            }
            Trouble::Absence => {
                self.world.applications = !self.world.applications;
                if self.world.applications {
                    self.world.open_desks();
                }
            }
            Trouble::Recall => self.take_back(),
            Trouble::Status => self.status(),
            Trouble::Pause => self.pause(),
            Trouble::Retire => self.retire(),
        }
    }

    /// The power goes now, or in the middle of one of the next writes.
    fn cut_power(&mut self) {
        let (place, later) = (self.someone(), self.random.once_in(2));
        let operations = 1 + self.random.below(40);
        match self.world.nodes[place].disk.faults() {
            Some(files) if later && self.runs(place) => files.cut_at(files.operations() + operations),
            _ => {
                let after = 100 + self.random.below(MINUTE);
                self.world.lose_power(place, after);
            }
        }
    }

    /// An image of a disk is made, or comes back.
    fn old_disk(&mut self) {
        let place = self.fragile();
        let at = self.images.iter().position(|(of, _)| *of == place);
        match at {
            Some(at) if self.random.once_in(2) => {
                let (_, disk) = self.images.swap_remove(at);
                let after = 100 + self.random.below(MINUTE);
                self.world.put_disk(place, disk, after);
            }
            _ => {
                if let Some(files) = self.world.nodes[place].disk.faults().filter(|files| !files.is_cut()) {
                    let image = files.after_power_cut(self.random.number());
                    self.images.push((place, Disk::Files(image)));
                }
            }
        }
    }

    fn fill(&mut self) {
        let place = self.someone();
        // On a modelled disk the index itself takes room, and the room ends in the middle of a write.
        if self.world.nodes[place].disk.faults().is_some() {
            return;
        }
        let limit = if self.random.once_in(3) { None } else { Some(20_000 + self.random.below(4 << 20)) };
        let used = self.world.nodes[place].used_bytes();
        self.world.set_capacity(place, limit.map(|limit| limit.max(used)));
    }

    fn some_message(&mut self) -> Option<(MessageId, Place, usize)> {
        let promised = self.world.promised();
        let id = *promised.get(self.random.place(promised.len()))?;
        let sent = self.world.model.sent.get(&id)?;
        Some((id, sent.origin, sent.to.len()))
    }

    fn take_back(&mut self) {
        let Some((message, origin, _)) = self.some_message() else { return };
        let command = if self.random.once_in(3) {
            Command::Cancel { message, user: None }
        } else {
            Command::Recall { message, user: None, nonce: self.random.wide() }
        };
        if self.runs(origin) {
            self.world.command(origin, command);
        }
    }

    fn status(&mut self) {
        let Some((id, _, recipients)) = self.some_message() else { return };
        let address = self.world.model.sent[&id].to[self.random.place(recipients)].clone();
        let place = self.world.nodes.iter().position(|n| n.name == address.node);
        if let Some(place) = place.filter(|place| self.runs(*place)) {
            self.world.set_status(place, id, 7, "registered");
        }
    }

    fn pause(&mut self) {
        let place = self.someone();
        let paused = if self.runs(place) { self.world.nodes[place].look().paused } else { Vec::new() };
        if let Some(hop) = paused.first() {
            return self.world.command(place, Command::Resume(hop.clone()));
        }
        let child = self.someone();
        let hop = if self.world.nodes[child].parents.contains(&place) {
            HopName::Child(self.world.nodes[child].name.clone())
        } else {
            HopName::Uplink
        };
        self.world.command(place, Command::Pause(hop));
    }

    /// A relay is gone for good: its children go elsewhere, and an admin says so.
    fn retire(&mut self) {
        let place = self.fragile();
        if place == 0 || !self.runs(0) {
            return;
        }
        let after = 5 * MINUTE + self.random.below(30 * MINUTE);
        self.world.lose_disk(place, after);
        for child in place + 1..self.world.nodes.len() {
            if self.world.nodes[child].parents == [place] {
                self.world.move_to(child, &[0]);
            }
        }
        let name = self.world.nodes[place].name.clone();
        self.world.command(0, Command::Retire(name));
    }

    /// Ends every trouble; answers when.
    fn heal(&mut self) -> u64 {
        let liar = self.world.manners.liar.take();
        self.world.manners.notice_ms = self.world.manners.notice_ms.min(SECOND);
        self.world.manners.moody = false;
        self.world.manners.slow = false;
        for place in 0..self.world.nodes.len() {
            if let Some(files) = self.world.nodes[place].disk.faults() {
                files.cut_at(u64::MAX);
                for access in [Access::Read, Access::Write, Access::Sync] {
                    files.fail(access, u64::MAX);
                }
            }
            self.world.set_clock(place, 0);
            self.world.set_capacity(place, None);
        }
        self.world.start_all();
        self.world.open_desks();
        // Lines that were cut come back within two minutes; whoever was held by then shows.
        self.world.run(3 * MINUTE);
        self.world.start_all();
        for place in 0..self.world.nodes.len() {
            let look = self.world.nodes[place].look();
            for hop in look.paused {
                self.world.command(place, Command::Resume(hop));
            }
            for name in look.held {
                self.world.command(place, Command::Accept(name.parse().expect("a name")));
            }
            if liar.is_some() {
                self.world.command(place, Command::Retry(None));
            }
        }
        self.world.open_desks();
        self.world.now
    }

    /// Lets time pass until nothing is left, and says whether it ended well.
    fn drain(&mut self) -> u64 {
        let began = self.world.now;
        let mut at = began;
        for wait in [MINUTE, 4 * MINUTE, 25 * MINUTE, HOUR, 4 * HOUR, 12 * HOUR, 24 * HOUR, 24 * HOUR, 12 * HOUR] {
            self.world.run(wait);
            at = self.world.now;
            if self.world.is_empty() && self.world.all_answered() {
                break;
            }
        }
        assert!(self.world.all_answered(), "a submitter never got an answer");
        // Whatever was to live long was well on its way before its time was over.
        let allowed = Allowed { expired_before_ms: self.world.true_ms().min(super::WALL + began + 24 * HOUR) };
        self.world.check_ends(allowed);
        self.world.check_empty();
        at
    }
}
