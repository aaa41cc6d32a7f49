//! What has to survive, in a simulated overlay. A failing seed prints the command that replays it.

use tram_proto::envelope::Precedence;
use tram_proto::name::Role;
use tram_proto::receipt::State;
use tram_tests::sim::{LIFETIME_MS, Place, Random, World, some_size};

const CENTRAL: Place = 0;
const CAN_THO: Place = 1;
const AN_GIANG: Place = 2;
const NINH_KIEU: Place = 3;
const CAI_RANG: Place = 4;
const CHAU_DOC: Place = 5;

const TREE: &[(&str, Role, &[Place])] = &[
    ("central", Role::Central, &[]),
    ("can-tho", Role::Province, &[CENTRAL]),
    ("an-giang", Role::Province, &[CENTRAL]),
    ("ninh-kieu.can-tho", Role::District, &[CAN_THO]),
    ("cai-rang.can-tho", Role::District, &[CAN_THO]),
    ("chau-doc.an-giang", Role::District, &[AN_GIANG]),
    ("tinh-bien.an-giang", Role::District, &[AN_GIANG]),
];
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

fn quiet(seed: u64) -> World {
    let mut world = World::new(seed, TREE);
    world.run(MINUTE);
    world
}

/// The life of one document, step by step: a way in for whoever reads this project.
#[test]
fn a_document_crosses_four_hops_and_a_receipt_comes_home() {
    let mut world = quiet(1);
    world.submit(NINH_KIEU, &["vanban@chau-doc.an-giang"], Precedence::Immediate, 200_000);
    assert!(world.submitted.is_empty(), "nothing is promised before the commit");
    world.run(30);
    let id = *world.submitted.keys().next().expect("the origin's spool has it: now it is promised");
    world.run(MINUTE);
    assert!(world.nodes[CHAU_DOC].ledger.contains(&(id, "vanban@chau-doc.an-giang".to_owned())));
    assert_eq!(world.progress.values().collect::<Vec<_>>(), [&State::Delivered]);
    world.check_settled();
}

#[test]
fn a_set_of_recipients_travels_as_one_copy_and_splits_where_ways_part() {
    let mut world = quiet(2);
    let to = [
        "vanban@ninh-kieu.can-tho",
        "vanban@cai-rang.can-tho",
        "vanban@chau-doc.an-giang",
        "vanban@central",
        "vanban@tinh-bien.an-giang",
    ];
    world.submit(CAI_RANG, &to, Precedence::Routine, 600_000);
    world.run(MINUTE);
    world.check_settled();
}

#[test]
fn unknown_names_and_inboxes_end_with_a_receipt_that_says_so() {
    let mut world = quiet(3);
    world.submit(NINH_KIEU, &["vanban@nowhere.an-giang"], Precedence::Routine, 10);
    world.submit(NINH_KIEU, &["khong-co@chau-doc.an-giang"], Precedence::Routine, 900_000);
    world.run(MINUTE);
    assert_eq!(world.progress.values().collect::<Vec<_>>(), [&State::Undeliverable, &State::Undeliverable]);
    for node in &world.nodes {
        assert_eq!(node.core.as_ref().expect("runs").snapshot().messages, 0, "{}", node.name);
    }
}

#[test]
fn mail_follows_a_child_that_moves_to_another_province() {
    let mut world = quiet(4);
    world.applications = false;
    world.cut(CHAU_DOC, AN_GIANG, 10 * MINUTE);
    for _ in 0..20 {
        world.submit(NINH_KIEU, &["vanban@chau-doc.an-giang"], Precedence::Routine, 5_000);
        world.submit(NINH_KIEU, &["vanban@chau-doc.an-giang"], Precedence::Routine, 500_000);
    }
    world.run(MINUTE);
    assert!(world.nodes[AN_GIANG].core.as_ref().expect("runs").snapshot().messages > 0, "it waits at the old parent");
    world.move_to(CHAU_DOC, CAN_THO);
    world.run(5 * MINUTE);
    world.check_settled();
}

#[test]
fn a_relay_that_lost_its_disk_loses_no_document() {
    let mut world = quiet(5);
    world.cut(CHAU_DOC, AN_GIANG, HOUR);
    for _ in 0..20 {
        world.submit(NINH_KIEU, &["vanban@chau-doc.an-giang"], Precedence::Routine, 5_000);
    }
    world.run(MINUTE);
    let held =
        |world: &World, place: Place| world.nodes[place].core.as_ref().map_or(0, |core| core.snapshot().messages);
    assert_eq!(held(&world, AN_GIANG), 20);
    world.lose_disk(AN_GIANG, 10_000);
    world.run(MINUTE);
    assert_eq!(held(&world, AN_GIANG), 20, "its new life is flooded, and the origin offers again at once");
    world.run(2 * HOUR);
    world.check_settled();
}

#[test]
fn nothing_expires_on_a_clock_that_is_days_off() {
    let mut world = quiet(6);
    for place in [NINH_KIEU, CHAU_DOC, AN_GIANG] {
        world.crash(place);
        world.nodes[place].clock_off_ms = 40 * 24 * HOUR as i64;
        world.start(place);
    }
    world.run(MINUTE);
    world.submit(NINH_KIEU, &["vanban@chau-doc.an-giang"], Precedence::Routine, 5_000);
    world.submit(CENTRAL, &["vanban@ninh-kieu.can-tho"], Precedence::Routine, 5_000);
    world.run(MINUTE);
    world.check_settled();
}

/// Crashes, cuts, moves and lost relay disks while documents of every size are under way; then everything heals.
fn storm(seed: u64) {
    let mut world = World::new(seed, TREE);
    let mut random = Random::new(seed ^ 0xface);
    world.latency_ms = 1 + random.below(300);
    world.overtaking = seed % 3 == 1;
    world.run(random.below(2 * MINUTE));
    for _ in 0..60 {
        // The origin's own disk is outside the promise, so only nodes whose disks live send.
        let from = 3 + random.below(4) as Place;
        let mut to: Vec<String> = (0..=random.below(3)).map(|_| TREE[random.below(7) as usize].0.to_owned()).collect();
        to.sort();
        to.dedup();
        let to: Vec<String> = to.into_iter().map(|node| format!("vanban@{node}")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let precedence = Precedence::ALL[random.below(5) as usize];
        if world.nodes[from].core.is_some() {
            world.submit(from, &to, precedence, some_size(&mut random));
        }
        match random.below(14) {
            0 | 1 => world.crash_and_restart(random.below(7) as Place, 100 + random.below(MINUTE)),
            2 | 3 => {
                let child = 1 + random.below(6) as Place;
                if let Some(parent) = world.nodes[child].parents.first().copied() {
                    world.cut(child, parent, 100 + random.below(2 * MINUTE));
                }
            }
            4 => {
                let child = 3 + random.below(4) as Place;
                world.move_to(child, random.below(3) as Place);
            }
            5 if random.once_in(3) => world.lose_disk(random.below(3) as Place, 100 + random.below(MINUTE)),
            _ => {}
        }
        world.run(random.below(20_000));
    }
    // Offers are made again after an hour, four hours, then daily; a lost disk may need the second.
    world.run(LIFETIME_MS - 12 * HOUR);
    world.check_delivered();
    // A copy that came half-way and was overtaken by another stays at its relay until the deadline.
    world.run(14 * HOUR);
    world.check_empty();
}

/// Found by a longer run: two relays held a part each and wanted the rest from one another for ever, while a third
/// neighbour held the whole.
#[test]
fn two_halves_of_a_payload_do_not_wait_for_each_other() {
    storm(147);
}

#[test]
fn nothing_is_lost_and_nothing_comes_twice_in_a_storm() {
    let replay = std::env::var("TRAM_SEED").ok().and_then(|s| s.parse().ok());
    let count: u64 = std::env::var("TRAM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let seeds = replay.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let run = std::panic::catch_unwind(|| storm(seed));
        assert!(
            run.is_ok(),
            "seed {seed} failed; replay: TRAM_SEED={seed} cargo test -p tram-tests --test sim storm -- --nocapture"
        );
    }
}
