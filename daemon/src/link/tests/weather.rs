//! What lines do to real QUIC connections, with a paused clock: an hour of bad weather takes seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tram_proto::envelope::Precedence;
use tram_proto::manifest::Layout;
use tram_relay::input::{Input, LinkId};
use tram_relay::output::{CloseReason, Output};

use super::fixture::{Overlay, Raw, Station, body, body_of, noise, quic_keys};
use super::line::{Conditions, Line};
use super::office::Office;
use crate::link::dialer::{UplinkState, Uplinks};
use crate::link::endpoint::Endpoints;

const PARENT: ([u8; 4], u16) = ([10, 0, 0, 1], 7443);
const CHILD: ([u8; 4], u16) = ([10, 0, 0, 2], 7443);

/// Central and can-tho, which dials it, over one line.
pub(super) struct Weather {
    pub(super) line: Line,
    pub(super) central: Office,
    pub(super) can_tho: Office,
    uplinks: Uplinks,
}

impl Weather {
    pub(super) async fn new(seed: u64, conditions: Conditions) -> Self {
        println!("seed {seed}");
        let overlay = Overlay::new();
        let keys = overlay.admit("can-tho");
        let line = Line::new(seed);
        line.set(|c| *c = conditions);
        let central = Office::open(&overlay.central, &line, PARENT.into(), true).await;
        let can_tho = Office::open(&keys, &line, CHILD.into(), false).await;
        let uplinks = can_tho.dial("central", PARENT.into());
        let weather = Self { line, central, can_tho, uplinks };
        weather.up().await;
        weather
    }

    /// Waits until both ends have said hello, and central knows where can-tho is.
    async fn up(&self) {
        let up = async {
            loop {
                let (central, can_tho) = (self.central.engine.snapshot().await, self.can_tho.engine.snapshot().await);
                let (central, can_tho) = (central.expect("runs"), can_tho.expect("runs"));
                let hello = [&central, &can_tho].iter().all(|s| s.links.iter().any(|link| link.up));
                if hello && central.nodes.iter().any(|node| node.name.as_str() == "can-tho") {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(300), up).await.expect("up in five minutes");
    }

    fn links(&self) -> [Vec<LinkId>; 2] {
        [&self.central, &self.can_tho].map(|office| office.here.open.borrow().keys().copied().collect())
    }

    /// Documents both ways, small ones and such of several runs: each arrives once, and all is acknowledged.
    async fn exchange(&mut self, small: usize, large: usize) {
        let mut sent = [Vec::new(), Vec::new()];
        for number in 0..small + large {
            let bytes = if number < large { 1_500_000 + number } else { 100 + 700 * number };
            sent[0].push(self.can_tho.submit("vanban@central", noisy(bytes, number)).await);
            sent[1].push(self.central.submit("vanban@can-tho", noisy(bytes, number + 1_000_000)).await);
        }
        for (office, sent) in [(&mut self.central, &sent[0]), (&mut self.can_tho, &sent[1])] {
            let came = office.take(sent.len()).await;
            assert!(sent.iter().all(|id| came.get(id) == Some(&1)), "each once");
        }
        for office in [&mut self.central, &mut self.can_tho] {
            timeout(Duration::from_secs(600), office.drained()).await.expect("acknowledged in ten minutes");
        }
    }
}

/// Different for each number.
pub(super) fn noisy(bytes: usize, number: usize) -> Vec<u8> {
    let mut out = noise(bytes.max(8));
    out[..8].copy_from_slice(&(number as u64).to_le_bytes());
    out
}

#[tokio::test(start_paused = true)]
async fn under_loss_and_reordering_each_document_arrives_once() {
    for seed in 1..=3 {
        let conditions = Conditions { latency_ms: 30, jitter_ms: 20, loss_percent: 5, ..Conditions::default() };
        let mut weather = Weather::new(seed, conditions).await;
        weather.exchange(20, 2).await;
        assert!(weather.line.lost() > 100, "the line lost {} datagrams", weather.line.lost());
    }
}

/// The largest datagram that gets through, by QUIC's own measure, at both ends.
fn mtus(weather: &Weather) -> [u16; 2] {
    let mtu = |office: &Office| office.here.connections()[0].connection.stats().path.current_mtu;
    [mtu(&weather.central), mtu(&weather.can_tho)]
}

#[tokio::test(start_paused = true)]
async fn a_line_that_carries_only_1280_bytes_carries_everything() {
    let mut weather = Weather::new(4, Conditions { mtu: 1280, ..Conditions::default() }).await;
    weather.exchange(5, 2).await;
    assert!(mtus(&weather).iter().all(|mtu| *mtu + 28 <= 1280), "{:?}", mtus(&weather));
}

#[tokio::test(start_paused = true)]
async fn a_line_whose_mtu_falls_in_the_middle_goes_on_with_the_same_link() {
    let mut weather = Weather::new(5, Conditions::default()).await;
    weather.exchange(5, 2).await;
    assert!(mtus(&weather).iter().all(|mtu| *mtu > 1400), "{:?}", mtus(&weather));
    let links = weather.links();
    weather.line.set(|c| c.mtu = 1280);
    weather.exchange(5, 2).await;
    assert!(mtus(&weather).iter().all(|mtu| *mtu + 28 <= 1280), "{:?}", mtus(&weather));
    assert_eq!(weather.links(), links);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_changes_every_minute_does_not_cost_the_link() {
    let mut weather = Weather::new(6, Conditions::default()).await;
    let links = weather.links();
    for minute in 1..=10 {
        weather.line.rebind(CHILD.into(), ([203, 0, 113, 7], 20_000 + minute).into());
        weather.exchange(3, usize::from(minute % 3 == 0)).await;
        sleep(Duration::from_secs(60)).await;
        let seen = weather.central.here.connections()[0].connection.remote_address();
        assert_eq!(seen.port(), 20_000 + minute, "central noticed");
    }
    assert_eq!(weather.links(), links);
}

/// Full jitter: before the nth dial a pause of 0 to 250 ms · 2ⁿ, at most 30 s, any of it as likely as any other.
#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_is_noticed_within_55_s_and_dialled_with_full_jitter_until_it_is_back() {
    const DIALS: u32 = 80;
    let mut weather = Weather::new(7, Conditions::default()).await;
    // From 10 s on a link was a good one, and the pauses begin anew.
    sleep(Duration::from_secs(20)).await;
    let clock = weather.can_tho.here.clock;
    weather.line.set(|c| c.is_cut = true);
    let cut_ms = clock.mono_ms();
    let mut open = weather.central.here.open.subscribe();
    let mut status = weather.uplinks.status();
    let central = async {
        let _ = open.wait_for(std::collections::BTreeMap::is_empty).await.expect("runs");
        clock.mono_ms() - cut_ms
    };
    let can_tho = async {
        let _ = status.wait_for(|all| all[0].state == UplinkState::Down).await.expect("runs");
        clock.mono_ms() - cut_ms
    };
    // 45 s of silence, counted from the last packet that came or the first that was sent after it: the dialler asks for a
    // sign of life every 5 s, the other after 10 s without.
    let (central_ms, can_tho_ms) = tokio::join!(central, can_tho);
    assert!((40_000..=50_100).contains(&can_tho_ms), "{can_tho_ms} ms");
    assert!((40_000..=55_100).contains(&central_ms), "{central_ms} ms");
    assert_eq!(status.borrow()[0].last_error.as_deref(), Some("the peer has not been heard of for too long"));

    let mut long_ms = Vec::new();
    for nth in 0..DIALS {
        let down_ms = clock.mono_ms();
        let _ = status.wait_for(|all| all[0].state == UplinkState::Connecting).await.expect("runs");
        let (pause_ms, most_ms) = (clock.mono_ms() - down_ms, 30_000.min(250 << nth.min(7)));
        assert!(pause_ms <= most_ms + 5, "pause {nth}: {pause_ms} ms of at most {most_ms}");
        if most_ms == 30_000 {
            long_ms.push(pause_ms);
        }
        let _ = status.wait_for(|all| all[0].state == UplinkState::Down).await.expect("runs");
    }
    // With 73 pauses, none in the lowest or none in the highest third is one case in 10^12.
    assert!(long_ms.iter().any(|ms| *ms < 10_000) && long_ms.iter().any(|ms| *ms > 20_000), "{long_ms:?}");

    weather.line.set(|c| c.is_cut = false);
    let healed_ms = clock.mono_ms();
    weather.up().await;
    // The longest pause, and a dial that had begun in vain.
    assert!(clock.mono_ms() - healed_ms <= 36_000);
    weather.exchange(3, 1).await;
}

/// A peer that reads nothing: its streams' windows are full, or the congestion window is, and more waits behind them. The
/// bye goes past all that, for nothing on the control stream waits behind payload.
#[tokio::test(start_paused = true)]
async fn a_bye_passes_full_windows_and_the_end_is_bounded() {
    for (latency_ms, wait_ms) in [(1, 30_000), (200, 30_000), (300, 2_000), (400, 2_500), (400, 3_000)] {
        let overlay = Overlay::new();
        let keys = overlay.admit("can-tho");
        let line = Line::new(8);
        line.set(|c| c.latency_ms = latency_ms);
        let mut station = Station::over(&overlay.central, &line, PARENT.into());
        let endpoints = Endpoints::over(line.socket(CHILD.into()), quic_keys(&keys));
        let raw = Raw::dial_from(endpoints, &keys, &station).await;
        let up = station.link_up().await;
        let payload: bytes::Bytes = noise(64 << 10).into();
        station.write(1, &body(&station.keys, Precedence::Bulk, &payload), Some(payload));
        // Three times what the stream's window takes, and as many runs as may wait.
        for number in 1..=192 {
            up.offer(number, 1, Precedence::Bulk).await;
        }
        let mut upload = station.spool.upload();
        upload.push(noise(16 << 20).into()).expect("fits");
        let (root, payload_bytes) = upload.finish().expect("durable");
        let layout = Layout::new(payload_bytes).expect("small");
        station.write(2, &body_of(&station.keys, Precedence::Bulk, root, payload_bytes), None);
        for first in (0..layout.units()).step_by(16) {
            let count = u32::try_from((layout.units() - first).min(16)).expect("16");
            let (link, precedence) = (up.link, Precedence::Bulk);
            up.put(Output::SendRun { link, root, payload_bytes, first, count, precedence }).await;
        }
        // After half a minute everything that may be sent is; earlier, the congestion window is full as well.
        sleep(Duration::from_millis(wait_ms)).await;
        let clock = station.here.clock;
        let began_ms = clock.mono_ms();
        up.put(Output::Close { link: up.link, reason: CloseReason::Replaced }).await;
        assert_eq!(raw.closed().await, (3, CloseReason::Replaced.to_string()));
        while !matches!(station.next_input().await, Input::LinkDown { link } if link == up.link) {}
        let took_ms = clock.mono_ms() - began_ms;
        assert!(took_ms <= 500 + 4 * latency_ms, "{took_ms} ms");
    }
}

/// A link that ends because one holds the other's mail is not dialled again for a minute, and the reason stays in view.
#[tokio::test(start_paused = true)]
async fn a_parent_that_holds_our_mail_is_not_hammered() {
    let overlay = Overlay::new();
    let keys = overlay.admit("can-tho");
    let line = Line::new(9);
    let mut central = Station::over(&overlay.central, &line, PARENT.into());
    let child = Station::over(&keys, &line, CHILD.into());
    let uplinks = child.dial("central", central.address());
    let clock = child.here.clock;
    let reason = CloseReason::RolledBack { theirs: 3, known: 9 };
    let mut ended_ms = None;
    for _ in 0..5 {
        let up = central.link_up_in(Duration::from_secs(300)).await;
        if let Some(ended_ms) = ended_ms {
            let pause_ms = clock.mono_ms() - ended_ms;
            assert!((59_000..=122_000).contains(&pause_ms), "{pause_ms} ms");
        }
        up.put(Output::Close { link: up.link, reason: reason.clone() }).await;
        while !matches!(central.next_input().await, Input::LinkDown { .. }) {}
        ended_ms = Some(clock.mono_ms());
        sleep(Duration::from_secs(30)).await;
        let status = uplinks.status().borrow()[0].clone();
        assert_eq!(status.state, UplinkState::Down);
        assert!(status.last_error.is_some_and(|why| why.contains("went back in time")));
    }
}

/// A minute in which there is always more of routine than a slow line carries, in the offers and in runs. What bulk has to
/// send gets its share all the same, and flash passes both.
#[tokio::test(start_paused = true)]
async fn a_minute_of_routine_leaves_bulk_its_share_and_flash_its_way() {
    const SMALL: usize = 30_000;
    const LARGE: usize = 400_000;
    const BULK: usize = 200_000;
    let conditions = Conditions { latency_ms: 20, bytes_per_s: Some(250_000.0), ..Conditions::default() };
    let mut weather = Weather::new(5, conditions).await;
    let mut bytes_of = BTreeMap::new();
    for number in 0..300 {
        let id = weather.can_tho.send("vanban@central", Precedence::Routine, noisy(SMALL, number)).await;
        bytes_of.insert(id, (Precedence::Routine, SMALL));
    }
    for number in 300..330 {
        let id = weather.can_tho.send("vanban@central", Precedence::Routine, noisy(LARGE, number)).await;
        bytes_of.insert(id, (Precedence::Routine, LARGE));
    }
    for number in 330..350 {
        let id = weather.can_tho.send("vanban@central", Precedence::Bulk, noisy(BULK, number)).await;
        bytes_of.insert(id, (Precedence::Bulk, BULK));
    }
    let came = weather.central.take_until(sleep(Duration::from_secs(60))).await;
    let of = |class| came.iter().map(|id| bytes_of[id]).filter(|(c, _)| *c == class).map(|(_, b)| b).sum::<usize>();
    let (routine, bulk) = (of(Precedence::Routine), of(Precedence::Bulk));
    println!("routine {routine}, bulk {bulk}");
    assert!(routine + bulk > 10_000_000, "most of 15 MB: {routine} and {bulk}");
    // The last of bulk may be under way.
    assert!((bulk + BULK) * 20 >= routine + bulk, "bulk has {bulk} beside {routine}");
    assert!(bulk * 10 <= routine, "routine is not held up: {bulk} beside {routine}");

    for number in 350..355 {
        let before = weather.central.here.clock.mono();
        let flash = weather.can_tho.send("vanban@central", Precedence::Flash, noisy(4096, number)).await;
        let mut came = false;
        while !came {
            came = weather.central.take_until(sleep(Duration::from_millis(1))).await.contains(&flash);
        }
        let took = weather.central.here.clock.mono() - before;
        println!("flash took {took:?}");
        // Latency, a full queue of the line, and one answer.
        assert!(took < Duration::from_millis(300), "{took:?}");
    }
}
