//! One line at a time: what the controller must show on each, and the figures it shows.

use crate::sim::{CUBIC, Change, Loss, MS, Net, OURS, Outcome, S, Spec, Who, mbit, run};

fn clean(mbit_s: f64, rtt_ms: u64, queue: f64) -> Net {
    Net::new(mbit_s, rtt_ms, Loss::Random(0.0), queue)
}

/// A figure, said and checked.
#[track_caller]
fn check(what: &str, figure: f64, least: f64, most: f64) {
    println!("{what}: {figure:.3}");
    assert!((least..=most).contains(&figure), "{what}: {figure:.4} is not within {least}..={most}");
}

#[track_caller]
fn at_least(what: &str, figure: f64, least: f64) {
    check(what, figure, least, 1e9);
}

#[track_caller]
fn at_most(what: &str, figure: f64, most: f64) {
    check(what, figure, 0.0, most);
}

/// The smaller flow's part of both.
fn smaller(out: &Outcome, from: u64, to: u64) -> f64 {
    let (a, b) = (out.bytes(0, from, to), out.bytes(1, from, to));
    a.min(b) / (a + b)
}

#[test]
fn long_lossy_lines_are_filled_start_included_and_their_queue_stays_short() {
    let rows = [
        (200.0, 100, 0.01, 0.95, 10.0),
        (200.0, 250, 0.02, 0.92, 25.0),
        (20.0, 40, 0.005, 0.95, 4.0),
        (2.0, 40, 0.005, 0.95, 4.0 * 5.9),
    ];
    for (rate, rtt, loss, least, wait) in rows {
        let out = run(&Net::new(rate, rtt, Loss::Random(loss), 1.0), &[OURS], 60 * S);
        let name = format!("{rate} Mbit/s, {rtt} ms, {loss}");
        at_least(&format!("{name}: share of 60 s"), out.share(0, 0, 60 * S), least);
        at_most(&format!("{name}: p95 wait, ms"), out.p95_wait_ms(S), wait);
        at_most(&format!("{name}: drops"), out.drop_share(), 0.02);
    }
}

#[test]
fn a_round_trip_that_grows_threefold_and_falls_again_costs_little() {
    let mut net = clean(20.0, 60, 1.0);
    net.changes = vec![(20 * S, Change::Rtt(180 * MS)), (40 * S, Change::Rtt(60 * MS))];
    let out = run(&net, &[OURS], 60 * S);
    at_least("5 s after it grew", out.share(0, 25 * S, 40 * S), 0.95);
    at_least("while it grows", out.share(0, 20 * S, 25 * S), 0.4);
    at_least("after it fell", out.share(0, 41 * S, 60 * S), 0.95);
}

#[test]
fn a_rate_that_halves_or_doubles_is_followed() {
    for (name, factor) in [("halved", 0.5), ("doubled", 2.0)] {
        let mut net = clean(100.0, 100, 1.0);
        net.changes = vec![(20 * S, Change::Rate(mbit(100.0 * factor)))];
        let out = run(&net, &[OURS], 60 * S);
        at_least(&format!("{name}: 5 s later"), out.share(0, 25 * S, 60 * S) / factor, 0.95);
        at_least(&format!("{name}: at once"), out.share(0, 20 * S, 25 * S) / factor, 0.7);
        at_most(&format!("{name}: drops"), out.drop_share(), 0.02);
    }
}

#[test]
fn a_silence_of_twenty_seconds_is_over_within_five() {
    for (rate, rtt, loss) in [(200.0, 100, 0.01), (200.0, 250, 0.02), (20.0, 40, 0.0), (2.0, 40, 0.0)] {
        for at in [20_000, 20_300, 20_600] {
            let mut net = Net::new(rate, rtt, Loss::Random(loss), 1.0);
            net.changes = vec![(at * MS, Change::Up(false)), ((at + 20_000) * MS, Change::Up(true))];
            let out = run(&net, &[OURS], 60 * S);
            at_least(&format!("{rate} {rtt} {at}: after 5 s"), out.share(0, 46 * S, 50 * S), 0.9 * (1.0 - loss));
        }
    }
}

#[test]
fn a_policer_is_found_and_kept_to() {
    let mut net = clean(200.0, 60, 1.0);
    net.policer = Some((mbit(20.0), mbit(20.0) * 0.05));
    let out = run(&net, &[OURS], 60 * S);
    at_least("of the policed rate", 10.0 * out.share(0, 5 * S, 60 * S), 0.9);
    let (policed, offered) = out.policed;
    at_most("policed from 5 s on", policed as f64 / offered as f64, 0.03);
}

#[test]
fn acknowledgements_that_come_in_bursts_or_seldom_do_not_matter() {
    for batch_ms in [5, 10, 20] {
        let mut net = clean(100.0, 40, 1.0);
        net.ack_batch_ns = batch_ms * MS;
        let out = run(&net, &[OURS], 30 * S);
        at_least(&format!("each {batch_ms} ms"), out.share(0, 5 * S, 30 * S), 0.95);
    }
    let mut net = clean(200.0, 60, 1.0);
    net.ack_rate = Some(mbit(10.0));
    let out = run(&net, &[OURS], 30 * S);
    at_least("10 Mbit/s back", out.share(0, 2 * S, 30 * S), 0.95);
}

#[test]
fn after_little_traffic_a_line_is_filled_soon() {
    let little = Spec { app: Some((mbit(1.0), 20 * S)), ..OURS };
    let out = run(&clean(200.0, 100, 1.0), &[little], 40 * S);
    at_least("3 s later", out.share(0, 23 * S, 40 * S), 0.95);
    at_most("drops", out.drop_share(), 0.02);
}

#[test]
fn a_cubic_flow_and_ours_leave_each_other_a_third() {
    for (name, ours, cubic) in [("together", 0, 0), ("ours later", 10, 0), ("ours first", 0, 10)] {
        let ours = Spec { starts_ns: ours * S, ..OURS };
        let cubic = Spec { starts_ns: cubic * S, ..CUBIC };
        let out = run(&clean(20.0, 50, 1.0), &[ours, cubic], 90 * S);
        check(&format!("{name}: ours"), out.share(0, 30 * S, 90 * S), 0.35, 0.65);
        check(&format!("{name}: cubic"), out.share(1, 30 * S, 90 * S), 0.35, 0.65);
    }
}

#[test]
fn two_of_ours_share_evenly() {
    let late = Spec { starts_ns: 10 * S, ..OURS };
    for (name, net) in [("20 Mbit/s", clean(20.0, 50, 1.0)), ("lossy", Net::new(20.0, 50, Loss::Random(0.01), 1.0))] {
        let out = run(&net, &[OURS, late], 70 * S);
        at_least(&format!("{name}: the smaller"), smaller(&out, 40 * S, 70 * S), 0.4);
        at_least(&format!("{name}: both"), out.share(0, 40 * S, 70 * S) + out.share(1, 40 * S, 70 * S), 0.94);
    }
    let far = Spec { extra_rtt_ns: 80 * MS, ..OURS };
    let out = run(&clean(20.0, 20, 2.0), &[OURS, far], 70 * S);
    at_least("20 ms beside 100 ms: the smaller", smaller(&out, 40 * S, 70 * S), 0.25);
}

/// Who began when must not decide: judged once by one queue, flows stayed at 0.17 for minutes.
#[test]
fn beside_cubic_no_start_is_fatal() {
    for queue in [0.5, 1.0, 2.0] {
        let mut ours: Vec<f64> = (0..20)
            .map(|nth| {
                let starts = |first: bool| if first { 0 } else { (1 + nth / 2) * S };
                let ours = Spec { starts_ns: starts(nth % 2 == 0), ..OURS };
                let cubic = Spec { starts_ns: starts(nth % 2 == 1), ..CUBIC };
                run(&clean(20.0, 50, queue), &[ours, cubic], 90 * S).share(0, 30 * S, 90 * S)
            })
            .collect();
        ours.sort_by(f64::total_cmp);
        check(&format!("queue {queue}: the median of {ours:.2?}"), ours[10], 0.38, 0.62);
        check(&format!("queue {queue}: all of {ours:.2?}"), ours[0], 0.25, 0.65);
    }
}

#[test]
fn four_of_ours_do_not_starve_one_another() {
    let flows: Vec<Spec> = (0..4).map(|nth| Spec { starts_ns: nth * 5 * S, ..OURS }).collect();
    let out = run(&clean(20.0, 50, 1.0), &flows, 90 * S);
    for flow in 0..4 {
        at_least(&format!("flow {flow}"), out.share(flow, 50 * S, 90 * S), 0.15);
    }
    // Their queue is another matter: with so many small ones it looks like that of a flow which fills it, and then it is
    // one. Known, and not met.
    println!("p95 wait, ms: {:.1}", out.p95_wait_ms(50 * S));
}

#[test]
fn a_declaration_holds_back_and_one_too_high_does_no_harm() {
    let declared = |rate: f64| Spec { who: Who::Ours { declared: Some(mbit(rate)) }, ..OURS };
    let out = run(&Net::new(200.0, 100, Loss::Random(0.01), 1.0), &[declared(100.0)], 30 * S);
    check("half declared", out.share(0, 5 * S, 30 * S), 0.44, 0.49);
    let out = run(&Net::new(20.0, 100, Loss::Random(0.01), 1.0), &[declared(200.0)], 60 * S);
    at_least("ten times declared", out.share(0, 5 * S, 60 * S), 0.95);
    at_most("ten times declared: drops", out.drop_share(), 0.02);
}

#[test]
fn loss_that_comes_and_goes_is_borne() {
    let mut net = clean(20.0, 60, 1.0);
    net.changes = vec![(20 * S, Change::Loss(Loss::Random(0.2))), (40 * S, Change::Loss(Loss::Random(0.0)))];
    let out = run(&net, &[OURS], 60 * S);
    at_least("a fifth lost", out.share(0, 22 * S, 40 * S) / 0.8, 0.9);
    at_least("none again", out.share(0, 42 * S, 60 * S), 0.95);
    let out = run(&Net::new(20.0, 60, Loss::Random(0.5), 1.0), &[OURS], 30 * S);
    at_least("half lost", out.share(0, 5 * S, 30 * S) / 0.5, 0.6);
}
