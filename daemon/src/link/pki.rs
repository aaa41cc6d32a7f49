//! The PKI stream of a link: what neighbours tell each other about certificates.
//!
//! One long-lived stream each way, once both hellos say that it is understood. Whoever opens it says what it holds
//! ([`PkiFrame::Have`]) and is sent what it lacks; what changes later is pushed. Owns the order in which things are said
//! and what the peer is known to have. Never judges an object: that is the [`Exchange`]'s. Guarantees that reading never
//! waits for writing, so that two neighbours with much to say cannot lock each other up, and that what waits is bounded.
//! `research/pki.md` §4.

pub mod herald;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{Notify, watch};
use tram_proto::frame::StreamKind;
use tram_proto::id::NodeId;
use tram_proto::limits::{JOURNAL_LINES, OBJECTS, REPORTS};
use tram_proto::name::NodeName;
use tram_proto::pki::{Answer, Item, Object, ObjectKey, PkiFrame, Refusal, Report};
use tram_relay::input::{LinkId, Side};

use crate::link::fault::Fault;
use crate::link::reader::Frames;
use crate::link::session::Link;
use crate::link::{blocking, writer};
use herald::{Asker, Herald};

/// Asks and replies that may wait for one stream: each has at most 64 KiB. What does not fit is asked again later.
const LETTERS: usize = 128;
/// Reports go up in one frame in so long.
const REPORTS_EVERY_MS: u64 = 1000;
/// What was refused is wanted again after so long: this node's clock or disk may have been the cause.
const WANT_AGAIN_MS: u64 = 10 * 60 * 1000;
/// Bytes of audit log in one frame.
const JOURNAL_BYTES: usize = 1 << 20;

/// What became of an object that a neighbour sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is stored and replaces what was held.
    New,
    /// The same, or something newer, is held already.
    Known,
    /// It is not believed, or could not be stored: why, for the log. What was held stays.
    Refused(String),
}

/// The PKI behind the streams.
pub trait Exchange: Send + Sync + 'static {
    /// All that is held, at most [`OBJECTS`].
    fn have(&self) -> Vec<Item>;
    /// An object as it stands now.
    fn object(&self, key: ObjectKey) -> Option<Object>;
    /// Checks an object and stores it durably. May block.
    fn take(&self, object: Object, from: &NodeName) -> Taken;
    /// The encoded answer to an encoded request; `None` when that CA's key is not here. May block.
    fn answer(&self, authority: [u8; 32], request: Bytes, from: &NodeName) -> Option<Bytes>;
    /// A neighbour has said all that it holds. May block.
    fn heard(&self, theirs: &[Item]) {
        let _ = theirs;
    }
    /// What this node says of itself.
    fn report(&self) -> Report;
    /// Counts the changes of what is held, of the report, and of the audit log.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Whether this node keeps an audit log that its parent is to have.
    fn has_journal(&self) -> bool {
        false
    }
    /// How the own audit log goes on after line `number`, which has this hash at the parent. May block.
    fn journal_since(&self, number: u64, hash: &[u8; 32]) -> GoesOn {
        let _ = (number, hash);
        GoesOn::With(Vec::new())
    }
    /// Keeps lines of a child's audit log and says which line is the last that is held, with its hash; without lines it is
    /// a question. `None`: nothing is kept here. May block.
    fn journal_take(&self, node: NodeId, first: u64, lines: Vec<Bytes>) -> Option<(u64, [u8; 32])> {
        let _ = (node, first, lines);
        None
    }
    /// Lines of a child's audit log that it may have lost: those after line `number`, where its log ends or differs, and
    /// which has this hash there. May block.
    fn journal_lost(&self, node: NodeId, number: u64, hash: &[u8; 32]) -> Vec<Bytes> {
        let _ = (node, number, hash);
        Vec::new()
    }
    /// Takes back lines of the own audit log that the parent kept; answers whether there were any, so that there may be
    /// more. May block.
    fn journal_back(&self, first: u64, lines: &[Bytes]) -> bool {
        let _ = (first, lines);
        false
    }
}

/// How an audit log goes on after the last line that the parent holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GoesOn {
    /// With these lines, if any.
    With(Vec<Bytes>),
    /// Not at all: it ends before that line, or has another there. The line up to which the parent may compare, and its
    /// hash here.
    Elsewhere(u64, [u8; 32]),
}

/// What is to be said on one link's stream.
pub(crate) struct Lane {
    link: LinkId,
    side: Side,
    said: Mutex<Said>,
    wake: Notify,
}

#[derive(Default)]
struct Said {
    /// What the peer is known to have; `None` until it said so.
    theirs: Option<HashMap<ObjectKey, u64>>,
    /// `Have` is to be said, or said again.
    have: bool,
    /// When it is to be said again, monotonic milliseconds.
    again_ms: Option<u64>,
    letters: VecDeque<PkiFrame>,
    /// What is held of the peer's audit log, to be said.
    kept: Option<PkiFrame>,
    /// Lines of it that the peer has lost, to be said.
    lost: Option<PkiFrame>,
    /// What the peer holds of this node's audit log, until lines are under way.
    journal: Option<(u64, [u8; 32])>,
}

impl Lane {
    pub(crate) fn new(link: LinkId, side: Side) -> Arc<Self> {
        let said = Mutex::new(Said { have: true, ..Said::default() });
        Arc::new(Self { link, side, said, wake: Notify::new() })
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said());
        self.wake.notify_one();
    }

    /// Puts a letter in the queue; false if that is full.
    fn post(&self, letter: PkiFrame) -> bool {
        let mut said = self.said();
        let fits = said.letters.len() < LETTERS;
        if fits {
            said.letters.push_back(letter);
            self.wake.notify_one();
        }
        fits
    }

    fn reply(&self, number: u64, answer: Bytes) {
        self.post(PkiFrame::Reply { number, answer });
    }

    /// The peer has this or something newer.
    fn has(&self, item: Item) {
        let mut said = self.said();
        let Some(theirs) = &mut said.theirs else { return };
        // Beyond what a bundle may hold nothing is noted; it would be sent again, no more.
        if theirs.len() < OBJECTS || theirs.contains_key(&item.key) {
            let version = theirs.entry(item.key).or_default();
            *version = item.version.max(*version);
        }
    }

    /// What the peer lacks, in the order in which it can check it: roots, CAs, what CAs have signed.
    fn missing(&self, have: Vec<Item>) -> VecDeque<Item> {
        let said = self.said();
        let Some(theirs) = &said.theirs else { return VecDeque::new() };
        let lacks = |item: &Item| theirs.get(&item.key).is_none_or(|version| *version < item.version);
        let mut missing: Vec<Item> = have.into_iter().filter(lacks).collect();
        missing.sort_unstable();
        missing.into()
    }

    /// Something was refused; it is wanted again later.
    fn want_again(&self, now_ms: u64) {
        self.change(|said| _ = said.again_ms.get_or_insert(now_ms + WANT_AGAIN_MS));
    }

    /// Has `Have` said again if it is time for that; otherwise says how long that is, if ever.
    fn until_again(&self, now_ms: u64) -> Option<Duration> {
        let mut said = self.said();
        let wait_ms = said.again_ms?.saturating_sub(now_ms);
        if wait_ms == 0 {
            (said.have, said.again_ms) = (true, None);
            return None;
        }
        Some(Duration::from_millis(wait_ms))
    }

    /// What goes before objects. Whoever says what it holds asks its parent what that holds of its audit log.
    fn letter(&self, link: &Link, exchange: &dyn Exchange) -> Option<PkiFrame> {
        let mut said = self.said();
        if std::mem::take(&mut said.have) {
            drop(said);
            if matches!(self.side, Side::Up(_)) && exchange.has_journal() {
                self.ask_kept(link.here.id);
            }
            let mut have = exchange.have();
            have.truncate(OBJECTS);
            return Some(PkiFrame::Have(have));
        }
        said.letters.pop_front().or_else(|| said.kept.take()).or_else(|| said.lost.take())
    }

    /// Asks the parent what it holds of this node's audit log.
    fn ask_kept(&self, node: NodeId) {
        self.post(PkiFrame::Journal { node, first: 0, lines: vec![] });
    }
}

/// Says what is to be said on a link until it ends, if its peer listens.
pub(crate) async fn write(link: Arc<Link>, connection: Connection) -> Result<(), Fault> {
    if !link.speaks_pki().await {
        return Ok(());
    }
    let Some((herald, lane)) = link.here.herald.as_ref().zip(link.lane.clone()) else { return Ok(()) };
    let mut send = connection.open_uni().await.map_err(Fault::Lost)?;
    let _ = send.set_priority(writer::priority(StreamKind::Pki));
    send.write_all(&[StreamKind::Pki.to_byte()]).await?;
    let exchange = herald.exchange().clone();
    let (mut changes, mut fresh) = (exchange.changes(), herald.fresh());
    let _entered = herald.enter(lane.clone());
    let is_up = matches!(lane.side, Side::Up(_));
    let (mut sent_stamp, mut reports_at_ms) = (0, 0);
    loop {
        changes.mark_unchanged();
        fresh.mark_unchanged();
        herald.note_own();
        let again = lane.until_again(link.here.clock.mono_ms());
        say(&link, &lane, exchange.as_ref(), &mut send).await?;
        if is_up {
            if let Some(lines) = next_lines(&link, &lane, &exchange).await {
                write_frame(&mut send, &lines).await?;
            }
            let now_ms = link.here.clock.mono_ms();
            if now_ms >= reports_at_ms
                && let Some((reports, stamp)) = herald.reports_after(sent_stamp, REPORTS)
            {
                (sent_stamp, reports_at_ms) = (stamp, now_ms + REPORTS_EVERY_MS);
                write_frame(&mut send, &PkiFrame::Reports(reports)).await?;
            }
        }
        let more_reports = is_up && herald.reports_after(sent_stamp, 1).is_some();
        let pause = Duration::from_millis(reports_at_ms.saturating_sub(link.here.clock.mono_ms()));
        tokio::select! {
            () = lane.wake.notified() => {}
            Ok(()) = changes.changed() => {}
            Ok(()) = fresh.changed(), if is_up && !more_reports => {}
            () = tokio::time::sleep(pause), if more_reports => {}
            () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => {}
        }
    }
}

async fn write_frame(send: &mut SendStream, frame: &PkiFrame) -> Result<(), Fault> {
    Ok(send.write_chunk(frame.encode()).await?)
}

/// Says everything that is due now: letters first, then the objects that the peer lacks, one at a time.
async fn say(link: &Link, lane: &Lane, exchange: &dyn Exchange, send: &mut SendStream) -> Result<(), Fault> {
    let mut due = VecDeque::new();
    loop {
        if let Some(letter) = lane.letter(link, exchange) {
            write_frame(send, &letter).await?;
            continue;
        }
        if due.is_empty() {
            due = lane.missing(exchange.have());
        }
        let Some(item) = due.pop_front() else { return Ok(()) };
        let object = exchange.object(item.key);
        let version = object.as_ref().map_or(0, |object| object.item.version).max(item.version);
        // Also when it is gone: it would be looked for without end.
        lane.has(Item { key: item.key, version });
        if let Some(object) = object {
            write_frame(send, &PkiFrame::Object(object)).await?;
        }
    }
}

/// Lines of this node's audit log that the parent lacks; the next follow when it has said that it holds these. Where the
/// parent's copy goes on elsewhere, it is told how far this log goes, and asked again later.
async fn next_lines(link: &Link, lane: &Lane, exchange: &Arc<dyn Exchange>) -> Option<PkiFrame> {
    let (number, hash) = lane.said().journal?;
    let log = exchange.clone();
    let node = link.here.id;
    let next = match blocking(move || log.journal_since(number, &hash)).await {
        GoesOn::With(lines) => journal(node, number + 1, lines)?,
        GoesOn::Elsewhere(number, hash) => {
            lane.want_again(link.here.clock.mono_ms());
            PkiFrame::JournalHave { node, number, hash }
        }
    };
    lane.said().journal = None;
    Some(next)
}

/// As many of these lines as one frame holds; `None` when there are none.
fn journal(node: NodeId, first: u64, mut lines: Vec<Bytes>) -> Option<PkiFrame> {
    let mut bytes = 0;
    let fit = lines.iter().take(JOURNAL_LINES).take_while(|line| {
        bytes += line.len() + 8;
        bytes <= JOURNAL_BYTES
    });
    let fit = fit.count();
    lines.truncate(fit);
    (!lines.is_empty()).then_some(PkiFrame::Journal { node, first, lines })
}

/// Reads the peer's stream to its end.
pub(crate) async fn read(link: &Arc<Link>, stream: RecvStream) -> Result<(), Fault> {
    // It may overtake the hello that allows it.
    let agreed = link.speaks_pki().await;
    let Some((herald, lane)) = link.here.herald.as_ref().zip(link.lane.as_ref()).filter(|_| agreed) else {
        return Err(Fault::Protocol("a PKI stream that was not agreed on"));
    };
    if !link.first_of(StreamKind::Pki) {
        return Err(Fault::Protocol("a second PKI stream"));
    }
    let mut frames = Frames::new(stream, StreamKind::Pki);
    let mut refused = false;
    while let Some(bytes) = frames.bytes().await? {
        match PkiFrame::decode(bytes)? {
            PkiFrame::Have(items) => {
                lane.change(|said| {
                    let theirs = said.theirs.insert(HashMap::new());
                    for item in &items {
                        let version = theirs.entry(item.key).or_default();
                        *version = item.version.max(*version);
                    }
                });
                let exchange = herald.exchange().clone();
                blocking(move || exchange.heard(&items)).await;
            }
            PkiFrame::Object(object) => take(link, herald, lane, object, &mut refused).await,
            PkiFrame::Ask { number, hops, authority, request } => {
                ask(link, herald, lane, number, hops, authority, request).await;
            }
            PkiFrame::Reply { number, answer } => herald.replied(link.id, number, answer),
            PkiFrame::Reports(reports) if lane.side == Side::Down => herald.note(reports),
            PkiFrame::Journal { node, first, lines } if lane.side == Side::Down && node == link.peer.node => {
                let exchange = herald.exchange().clone();
                if let Some((number, hash)) = blocking(move || exchange.journal_take(node, first, lines)).await {
                    lane.change(|said| said.kept = Some(PkiFrame::JournalHave { node, number, hash }));
                }
            }
            PkiFrame::JournalHave { node, number, hash } if lane.side != Side::Down && node == link.here.id => {
                lane.change(|said| said.journal = Some((number, hash)));
            }
            PkiFrame::JournalHave { node, number, hash } if lane.side == Side::Down && node == link.peer.node => {
                let exchange = herald.exchange().clone();
                let lines = blocking(move || exchange.journal_lost(node, number, &hash)).await;
                lane.change(|said| said.lost = journal(node, number.saturating_add(1), lines));
            }
            PkiFrame::Journal { node, first, lines } if lane.side != Side::Down && node == link.here.id => {
                let exchange = herald.exchange().clone();
                if blocking(move || exchange.journal_back(first, &lines)).await {
                    lane.ask_kept(node);
                }
            }
            frame @ (PkiFrame::Reports(_) | PkiFrame::Journal { .. } | PkiFrame::JournalHave { .. }) => {
                link.warn(
                    "something on the PKI stream was passed over",
                    &format!("{} is not its to say", frame.name()),
                );
            }
        }
    }
    Ok(())
}

async fn take(link: &Link, herald: &Herald, lane: &Lane, object: Object, refused: &mut bool) {
    let (exchange, item, from) = (herald.exchange().clone(), object.item, link.peer.name.clone());
    // Before it is taken: the change would have it sent back.
    lane.has(item);
    match blocking(move || exchange.take(object, &from)).await {
        // What was refused before may have lacked just this.
        Taken::New
            if matches!(item.key, ObjectKey::Roots | ObjectKey::Authority(_) | ObjectKey::Handover(_))
                && std::mem::take(refused) =>
        {
            lane.change(|said| said.have = true);
        }
        Taken::New | Taken::Known => {}
        Taken::Refused(why) => {
            *refused = true;
            lane.want_again(link.here.clock.mono_ms());
            herald.count_refused();
            link.warn("an object of the PKI was refused", &format!("{:?}: {why}", item.key));
        }
    }
}

async fn ask(
    link: &Link,
    herald: &Herald,
    lane: &Arc<Lane>,
    number: u64,
    hops: u32,
    authority: [u8; 32],
    request: Bytes,
) {
    let (exchange, asked, from) = (herald.exchange().clone(), request.clone(), link.peer.name.clone());
    if let Some(answer) = blocking(move || exchange.answer(authority, asked, &from)).await {
        return lane.reply(number, answer);
    }
    // What came from above does not go up again.
    let passed = match lane.side {
        Side::Up(_) => Err(Refusal::NoAuthority),
        Side::Down => herald.pass_on(authority, request, hops, Asker::Link(lane.clone(), number)),
    };
    if let Err(why) = passed {
        lane.reply(number, Answer::Refused(why).encode());
    }
}
