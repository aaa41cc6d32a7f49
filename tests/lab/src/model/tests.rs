use super::*;

const MS: u64 = 1_000_000;
const PACKET: usize = 1500;
/// A packet takes 1 ms.
const SLOW: Rate = Rate::Fixed(12_000_000);

fn clean() -> Profile {
    Profile::new(SLOW, 50 * MS, 100 * MS)
}

/// Puts packets on a line at these times; when each arrives.
fn arrivals(profile: Profile, at_ns: impl IntoIterator<Item = u64>) -> (Vec<(u64, usize)>, Counts) {
    let mut line = Direction::new(profile, 7);
    let mut out = Vec::new();
    let mut drain = |line: &mut Direction<usize>, until_ns: u64| {
        while let Some(next_ns) = line.next_ns().filter(|next_ns| *next_ns <= until_ns) {
            while let Some((due_ns, number)) = line.pop(next_ns) {
                assert_eq!(due_ns, next_ns, "the line says when a packet comes");
                out.push((due_ns, number));
            }
        }
    };
    for (number, now_ns) in at_ns.into_iter().enumerate() {
        drain(&mut line, now_ns);
        line.push(now_ns, PACKET, number);
    }
    drain(&mut line, u64::MAX);
    (out, line.counts())
}

#[test]
fn packets_take_turns_and_then_the_delay() {
    let (out, counts) = arrivals(clean(), [0, 0, 10 * MS]);
    assert_eq!(out, [(51 * MS, 0), (52 * MS, 1), (61 * MS, 2)]);
    assert_eq!((counts.delivered, counts.delivered_bytes), (3, 4500));
}

#[test]
fn the_queue_drops_at_the_tail_what_it_cannot_hold() {
    let profile = Profile { queue_bytes: 3 * PACKET as u64, ..clean() };
    let (out, counts) = arrivals(profile, [0; 5]);
    assert_eq!(out.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((counts.dropped, counts.lost), (2, 0));
    let (out, _) = arrivals(profile, [0, 0, 0, MS]);
    assert_eq!(out.len(), 4, "after 1 ms one has left");
}

#[test]
fn a_queue_in_milliseconds_holds_that_much_of_the_rate() {
    assert_eq!(clean().queue_bytes, 150_000);
}

#[test]
fn random_loss_is_as_frequent_as_asked_and_uses_the_line() {
    let profile = Profile { loss: Loss::Random(0.2), ..clean() };
    let (out, counts) = arrivals(profile, (0..20_000).map(|n| n * MS));
    assert!((3_800..4_200).contains(&counts.lost), "{counts:?}");
    assert_eq!(out.last().map(|(due, number)| due - *number as u64 * MS), Some(51 * MS));
}

#[test]
fn bursts_lose_the_share_asked_for_in_runs_of_the_length_asked_for() {
    let profile = Profile { loss: Loss::Bursts { share: 0.05, length: 8.0 }, ..clean() };
    let (out, counts) = arrivals(profile, (0..200_000).map(|n| n * MS));
    let runs = out.windows(2).filter(|pair| pair[1].1 > pair[0].1 + 1).count();
    let (share, length) = (counts.lost as f64 / 200_000.0, counts.lost as f64 / runs as f64);
    assert!((0.045..0.055).contains(&share), "{share}");
    assert!((7.3..8.7).contains(&length), "{length}");
}

#[test]
fn jitter_delays_and_never_reorders() {
    let profile = Profile { jitter_ns: 20 * MS, ..clean() };
    let (out, _) = arrivals(profile, (0..1000).map(|n| n * MS));
    assert!(out.is_sorted());
    let late = |(due, number): &(u64, usize)| due - *number as u64 * MS - 51 * MS;
    assert!(out.iter().all(|arrival| late(arrival) <= 20 * MS));
    assert!(out.iter().any(|arrival| late(arrival) >= 10 * MS));
}

#[test]
fn a_varying_rate_carries_what_its_capacity_says() {
    let rate = Rate::Varying { mean: 12_000_000, swing: 0.5 };
    let profile = Profile { rate, ..clean() };
    // Twice as much as fits, so that the line is never idle.
    let (_, counts) = arrivals(profile, (0..40_000).map(|n| n * MS / 2));
    let carried = counts.delivered_bytes as f64 * 8.0;
    let capacity = rate.capacity_bits(0, 20 * SECOND_NS);
    assert!((carried / capacity - 1.0).abs() < 0.01, "{carried} of {capacity}");
    let rates: Vec<u64> = (0..200).map(|step| rate.at(step * STEP_NS)).collect();
    assert!(rates.iter().all(|rate| (6_000_000..=18_000_000).contains(rate)));
    assert!(rates.iter().any(|rate| *rate < 7_500_000) && rates.iter().any(|rate| *rate > 16_500_000));
}

#[test]
fn a_new_rate_counts_for_what_is_left_of_the_packet_being_sent() {
    let mut line = Direction::new(clean(), 7);
    line.push(0, PACKET, ());
    line.set(MS / 2, Profile { rate: Rate::Fixed(6_000_000), ..clean() });
    assert_eq!(line.next_ns(), Some(51 * MS + MS / 2));
    assert_eq!(line.pop(60 * MS), Some((51 * MS + MS / 2, ())));
}

#[test]
fn a_line_that_is_cut_takes_nothing_and_still_delivers() {
    let mut line = Direction::new(clean(), 7);
    line.push(0, PACKET, 0);
    line.set(MS, Profile { is_cut: true, ..clean() });
    line.push(2 * MS, PACKET, 1);
    line.set(3 * MS, clean());
    line.push(4 * MS, PACKET, 2);
    let order: Vec<_> = std::iter::from_fn(|| line.pop(SECOND_NS)).collect();
    assert_eq!(order, [(51 * MS, 0), (55 * MS, 2)]);
    assert_eq!(line.counts().refused, 1);
}

#[test]
fn packets_above_the_mtu_vanish() {
    let mut line = Direction::new(Profile { mtu: 1280, ..clean() }, 7);
    line.push(0, 1281, 0);
    line.push(0, 1280, 1);
    assert_eq!(line.pop(SECOND_NS).map(|(_, number)| number), Some(1));
    assert_eq!((line.pop(SECOND_NS), line.counts().refused), (None, 1));
}

#[test]
fn the_same_seed_gives_the_same_losses() {
    let profile = Profile { loss: Loss::Random(0.1), jitter_ns: MS, ..clean() };
    let run = || arrivals(profile, (0..1000).map(|n| n * MS)).0;
    assert_eq!(run(), run());
}
