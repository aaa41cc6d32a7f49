//! Runs in: every unit is verified, stored in groups, and only then reported.
//!
//! Units follow the header as raw bytes; their lengths follow from the payload's, which the offer said. The head is
//! verified against the root, a page against the head, a chunk against its page. A run with other bytes is dropped and
//! counted; the third ends the link. Memory: a run at most for each reader, and readers are few.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, VarInt};
use tokio::time::{sleep, timeout};
use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, Range, StreamKind};
use tram_proto::id::Digest;
use tram_proto::limits::PAGE_HASHES;
use tram_proto::manifest::{Head, Layout, Unit, decode_page};
use tram_relay::input::Input;

use crate::link::fault::Fault;
use crate::link::reader::Frames;
use crate::link::run::{is_urgent, manifest_unit};
use crate::link::session::Link;

/// Runs with wrong bytes after which a link ends.
const WRONG_RUNS: u32 = 3;
/// Verified units wait so long for more of their run before they are stored, so that slow lines show progress.
const GATHER_MS: u64 = 1_000;
/// A chunk may overtake the page that vouches for it by so much.
const MANIFEST: Duration = Duration::from_secs(30);
/// A run may overtake its offer by so much: they travel on different streams.
const OFFER: Duration = Duration::from_secs(3);
/// Heads and pages kept for chunks that follow before the spool can be read; a page takes 32 KiB.
const MANIFEST_UNITS: usize = 32;
/// What a stopped transfer stream says: the run is not taken.
const NOT_TAKEN: VarInt = VarInt::from_u32(2);

/// Why a run is dropped: its bytes are not what they should be.
struct Wrong(String);

/// Why reading a run ends early.
enum Stop {
    Wrong(Wrong),
    /// The sender could not go on.
    Reset,
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for Stop {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

/// Receives one run.
pub(crate) async fn receive(link: &Link, stream: RecvStream) -> Result<(), Fault> {
    let mut frames = Frames::new(stream, StreamKind::Transfer);
    let (root, first, count) = match frames.next().await {
        Ok(Some(Frame::Run { root, first, count })) => (root, first, u64::from(count)),
        Ok(Some(frame)) => return Err(Fault::Misplaced { frame: frame.name(), stream: "transfer" }),
        Ok(None) => return Err(Fault::Protocol("a transfer stream without a run")),
        Err(Fault::Broken) => return Ok(()),
        Err(fault) => return Err(fault),
    };
    let Some((layout, precedence)) = offered(link, root).await else {
        return refuse(link, &mut frames.stream, Wrong(format!("no payload {root} was offered on this link")));
    };
    if first.checked_add(count).is_none_or(|end| end > layout.units()) {
        return Err(Fault::Protocol("a run goes beyond its payload's end"));
    }
    let mut arriving = Arriving { link, root, layout, head: None, page: None };
    // Without a reader's place: what this run waits for may come in a run that needs one.
    if let Err(wrong) = arriving.vouched_for(first, count).await {
        return refuse(link, &mut frames.stream, wrong);
    }
    let readers = if is_urgent(precedence) { &link.urgent_readers } else { &link.readers };
    let _place = readers.acquire().await;
    match arriving.take(&mut frames.stream, first, count).await {
        Ok(()) | Err(Stop::Reset) => Ok(()),
        Err(Stop::Wrong(wrong)) => refuse(link, &mut frames.stream, wrong),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

/// What the offer said of this payload, once it is here.
async fn offered(link: &Link, root: Digest) -> Option<(Layout, Precedence)> {
    let find = async {
        loop {
            let mut came = std::pin::pin!(link.came.notified());
            came.as_mut().enable();
            let known = link.offered().get(root);
            if let Some(known) = known {
                return known;
            }
            came.await;
        }
    };
    timeout(OFFER, find).await.ok()
}

fn refuse(link: &Link, stream: &mut RecvStream, wrong: Wrong) -> Result<(), Fault> {
    let _ = stream.stop(NOT_TAKEN);
    link.warn("a run is not taken", &wrong.0);
    let count = 1 + link.wrong_runs.fetch_add(1, Ordering::Relaxed);
    if count >= WRONG_RUNS { Err(Fault::WrongBytes(count, wrong.0)) } else { Ok(()) }
}

/// The units of one payload as they arrive in one run.
struct Arriving<'a> {
    link: &'a Link,
    root: Digest,
    layout: Layout,
    head: Option<Head>,
    page: Option<(u64, Vec<Digest>)>,
}

impl Arriving<'_> {
    /// Waits until what vouches for the run's units is here: head and pages that the run does not hold itself.
    async fn vouched_for(&mut self, first: u64, count: u64) -> Result<(), Wrong> {
        let pages = (first..first + count).filter_map(|number| match self.layout.unit(number) {
            Some(Unit::Chunk(chunk)) => Some(1 + chunk / PAGE_HASHES as u64),
            Some(Unit::Page(_)) => Some(0),
            _ => None,
        });
        let mut needed: Vec<u64> = pages.filter(|unit| !(first..first + count).contains(unit)).collect();
        needed.dedup();
        for number in needed {
            self.manifest(number).await?;
        }
        Ok(())
    }

    /// The bytes of the head or a page, verified before: kept by this link or in the spool, now or soon.
    async fn manifest(&self, number: u64) -> Result<Bytes, Wrong> {
        let find = async {
            loop {
                let mut came = std::pin::pin!(self.link.came.notified());
                came.as_mut().enable();
                if let Some(bytes) = self.kept(number) {
                    return bytes;
                }
                if let Some(bytes) = manifest_unit(self.link, self.root, self.layout, number).await {
                    return bytes;
                }
                came.await;
            }
        };
        let found = timeout(MANIFEST, find).await;
        found.map_err(|_| {
            Wrong(format!("chunks of payload {} came, but not unit {number} that vouches for them", self.root))
        })
    }

    fn kept(&self, number: u64) -> Option<Bytes> {
        let kept = self.link.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        let unit = kept.iter().find(|(root, unit, _)| *root == self.root && *unit == number);
        unit.map(|(.., bytes)| bytes.clone())
    }

    fn keep(&self, number: u64, bytes: Bytes) {
        let mut kept = self.link.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MANIFEST_UNITS {
            kept.pop_front();
        }
        kept.push_back((self.root, number, bytes));
        drop(kept);
        self.link.came.notify_waiters();
    }

    async fn take(&mut self, stream: &mut RecvStream, first: u64, count: u64) -> Result<(), Stop> {
        let mut group: Vec<Bytes> = Vec::new();
        let mut start = first;
        let clock = self.link.here.clock;
        let mut due_ms = 0_u64;
        for number in first..first + count {
            let unit = self.layout.unit(number).ok_or(Fault::Protocol("a run goes beyond its payload's end"))?;
            let mut read = std::pin::pin!(read(stream, self.layout.unit_bytes(unit)));
            let bytes = loop {
                tokio::select! {
                    bytes = &mut read => break bytes?,
                    () = sleep(Duration::from_millis(due_ms.saturating_sub(clock.mono_ms()))), if !group.is_empty() => {
                        self.store(start, std::mem::take(&mut group)).await?;
                        start = number;
                    }
                }
            };
            self.verify(number, unit, &bytes).await.map_err(Stop::Wrong)?;
            if group.is_empty() {
                due_ms = clock.mono_ms() + GATHER_MS;
            }
            group.push(bytes);
        }
        if stream.read_chunk(1, true).await?.is_some() {
            return Err(Fault::Protocol("bytes follow the end of a run").into());
        }
        self.store(start, group).await
    }

    async fn verify(&mut self, number: u64, unit: Unit, bytes: &Bytes) -> Result<(), Wrong> {
        let root = self.root;
        let wrong = |why: String| Wrong(format!("unit {number} of payload {root}: {why}"));
        match unit {
            Unit::Head => {
                let head = Head::decode(bytes, self.root, self.layout).map_err(|error| wrong(error.to_string()))?;
                self.head = Some(head);
                self.keep(number, bytes.clone());
            }
            Unit::Page(index) => {
                let digest = self.page_digest(index).await?;
                let hashes = decode_page(bytes, digest).map_err(|error| wrong(error.to_string()))?;
                self.page = Some((index, hashes));
                self.keep(number, bytes.clone());
            }
            Unit::Chunk(index) => {
                let (page, place) = (index / PAGE_HASHES as u64, index % PAGE_HASHES as u64);
                if self.page.as_ref().is_none_or(|(at, _)| *at != page) {
                    let bytes = self.manifest(1 + page).await?;
                    let hashes = decode_page(&bytes, self.page_digest(page).await?);
                    self.page = Some((page, hashes.map_err(|error| wrong(error.to_string()))?));
                }
                let expected = self.page.as_ref().and_then(|(_, hashes)| hashes.get(usize::try_from(place).ok()?));
                if expected != Some(&Digest::of(bytes)) {
                    return Err(wrong("its digest is not the manifest's".to_owned()));
                }
            }
        }
        Ok(())
    }

    async fn page_digest(&mut self, page: u64) -> Result<Digest, Wrong> {
        if self.head.is_none() {
            let bytes = self.manifest(0).await?;
            let head = Head::decode(&bytes, self.root, self.layout);
            self.head = Some(head.map_err(|error| Wrong(format!("the head of payload {}: {error}", self.root)))?);
        }
        let digest = self.head.as_ref().and_then(|head| head.page(page));
        digest.ok_or_else(|| Wrong(format!("payload {} has no page {page}", self.root)))
    }

    async fn store(&self, first: u64, units: Vec<Bytes>) -> Result<(), Stop> {
        let (root, layout) = (self.root, self.layout);
        let units_stored = Range { first, count: units.len() as u64 };
        self.link.here.on_disk(move |spool| spool.store(root, layout, first, units)).await?;
        self.link.tell(Input::UnitsDurable { root, units: units_stored }).await?;
        Ok(())
    }
}

/// Copies the unit out: what QUIC hands over would keep whole receive buffers alive.
async fn read(stream: &mut RecvStream, bytes: usize) -> Result<Bytes, Stop> {
    let mut unit = vec![0; bytes];
    match stream.read_exact(&mut unit).await {
        Ok(()) => Ok(unit.into()),
        Err(ReadExactError::ReadError(quinn::ReadError::Reset(_))) => Err(Stop::Reset),
        Err(error) => Err(Stop::Fault(error.into())),
    }
}
