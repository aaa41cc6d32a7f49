//! What systemd hears of a running node: a line for `systemctl status`, and that the engine lives.
//!
//! Never speaks by the clock alone: every word is the answer to a question that went through the engine's queue, so a
//! core that hangs, or a disk that lets the engine wait, ends in a restart after `WatchdogSec=`.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tram_relay::snapshot::Snapshot;

use crate::engine::handle::EngineHandle;
use crate::local::station::{LinkFacts, Station, Wire};

/// How often the status line is renewed, at most.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Tells systemd how the node is until the engine is gone; returns at once where nobody listens.
pub(crate) async fn run(engine: EngineHandle, station: Arc<dyn Station>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Three words in the time of one: a single late answer restarts nobody.
    let every = sd_notify::watchdog_enabled().map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 3));
    let say = |snapshot: &Snapshot| {
        let line = status(snapshot, &station.links());
        // Nothing can be done about a systemd that does not listen.
        let _ = sd_notify::notify(&[NotifyState::Status(&line), NotifyState::Watchdog]);
    };
    watch(&engine, every, say).await;
}

async fn watch(engine: &EngineHandle, every: Duration, say: impl Fn(&Snapshot)) {
    while let Ok(snapshot) = engine.snapshot().await {
        say(&snapshot);
        tokio::time::sleep(every).await;
    }
}

fn status(snapshot: &Snapshot, links: &[LinkFacts]) -> String {
    let up = links.iter().filter(|link| link.wire == Wire::Open).count();
    let mut line = format!("{up} of {} links up, {} messages under way", links.len(), snapshot.messages);
    if !snapshot.late.is_empty() {
        line.push_str(&format!(", {} LATE", snapshot.late.len()));
    }
    if !snapshot.held.is_empty() {
        line.push_str(", HELD neighbours: see tram status");
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tram_proto::id::{Incarnation, NodeId};

    use super::*;
    use crate::engine::handle::Request;

    fn snapshot() -> Box<Snapshot> {
        Box::new(Snapshot {
            node: NodeId([1; 16]),
            name: "central".parse().expect("a name"),
            incarnation: Incarnation([2; 16]),
            links: Vec::new(),
            queues: Vec::new(),
            nodes: Vec::new(),
            inboxes: Vec::new(),
            messages: 12,
            receipts: 0,
            spool_room_bytes: 0,
            spool_total_bytes: 0,
            held: Vec::new(),
            late: Vec::new(),
            paused: Vec::new(),
            clock_trusted: true,
        })
    }

    /// However long the clock runs, an engine that does not answer feeds nobody.
    #[tokio::test(start_paused = true)]
    async fn only_answers_of_the_engine_are_said() {
        let (engine, mut requests, _events) = EngineHandle::new();
        let said = Arc::new(AtomicUsize::new(0));
        let counted = said.clone();
        let watching = tokio::spawn(async move {
            watch(&engine, STATUS_EVERY, |_| {
                counted.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        });
        for answered in 0..3 {
            let Some(Request::Snapshot(answer)) = requests.recv().await else { panic!("it asks") };
            tokio::time::sleep(STATUS_EVERY * 20).await;
            assert_eq!(said.load(Ordering::Relaxed), answered);
            answer.send(snapshot()).expect("somebody waits");
        }
        drop(requests);
        watching.await.expect("it ends with the engine");
        assert_eq!(said.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn the_line_says_what_an_operator_looks_for_first() {
        assert_eq!(status(&snapshot(), &[]), "0 of 0 links up, 12 messages under way");
        let held = Snapshot { held: vec!["can-tho".into()], ..*snapshot() };
        assert!(status(&held, &[]).contains("HELD"));
    }
}
