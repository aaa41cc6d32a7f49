//! Runs in: every unit is verified, stored in groups, and only then reported.
//!
//! Units follow the header as raw bytes; their lengths follow from the payload's, which the offer said. The head is
//! verified against the root, a page against the head, a chunk against its page. A run with other bytes is dropped and
//! counted; the third ends the link. However a run ends, and if the link ends with it, what was verified is stored and
//! reported. A run for which the spool has no room, or whose sender falls silent, is stopped, and the link goes on.
//! Memory: a run at most for each reader, and readers are few.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ReadError, RecvStream, VarInt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tram_proto::envelope::Precedence;
use tram_proto::frame::{Frame, Range, StreamKind};
use tram_proto::id::Digest;
use tram_proto::limits::{PAGE_HASHES, RUN_UNITS};
use tram_proto::manifest::{Head, Layout, Unit, decode_page};
use tram_relay::input::Input;

use crate::link::fault::Fault;
use crate::link::reader::Frames;
use crate::link::run::{is_urgent, manifest_unit};
use crate::link::session::Link;
use crate::spool::SpoolError;

/// Runs with wrong bytes after which a link ends.
const WRONG_RUNS: u32 = 3;
/// Verified units that are stored together at least: 1 MiB of chunks. More that came meanwhile go with them, so that a
/// slow disk gets fewer and larger groups.
const STORE_UNITS: usize = 4;
/// They wait so long for more of their run, so that slow lines show progress.
const GATHER: Duration = Duration::from_secs(1);
/// A run is stopped after so long without a byte of it or of any other run or offer: the line carries the more urgent
/// first, so a run alone may wait longer.
const SILENCE: Duration = Duration::from_secs(30);
/// A chunk may overtake the page that vouches for it by so much.
const MANIFEST: Duration = Duration::from_secs(30);
/// A run may overtake its offer by so much: they travel on different streams.
const OFFER: Duration = Duration::from_secs(3);
/// Heads and pages kept for chunks that follow before the spool can be read; a page takes 32 KiB.
const MANIFEST_UNITS: usize = 32;
/// The same in bytes: the head of 8 TiB takes 1 MiB.
const MANIFEST_BYTES: usize = 4 << 20;
/// What a stopped transfer stream says: the run's bytes are wrong; there is no room for it now; its sender fell silent.
pub(crate) const NOT_TAKEN: VarInt = VarInt::from_u32(2);
pub(crate) const NO_ROOM: VarInt = VarInt::from_u32(3);
pub(crate) const SILENT: VarInt = VarInt::from_u32(4);

/// Why a run is dropped: its bytes are not what they should be.
struct Wrong(String);

/// Why reading a run ends early.
enum Stop {
    Wrong(Wrong),
    /// The sender could not go on.
    Reset,
    /// No more of it is taken now, but its sender did no wrong.
    NotNow(VarInt, String),
    Fault(Fault),
}

impl<F: Into<Fault>> From<F> for Stop {
    fn from(fault: F) -> Self {
        Self::Fault(fault.into())
    }
}

/// Receives one run.
pub(crate) async fn receive(link: Arc<Link>, stream: RecvStream) -> Result<(), Fault> {
    let link = link.as_ref();
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
    let mut arriving = Arriving { link, root, layout, precedence, head: None, page: None };
    // Without a reader's place: what this run waits for may come in a run that needs one.
    if let Err(wrong) = arriving.vouched_for(first, count).await {
        return refuse(link, &mut frames.stream, wrong);
    }
    let readers = if is_urgent(precedence) { &link.urgent_readers } else { &link.readers };
    let _places = readers.acquire_many(u32::try_from(count).unwrap_or(RUN_UNITS)).await;
    match arriving.take(&mut frames.stream, first, count).await {
        Ok(()) | Err(Stop::Reset) => Ok(()),
        Err(Stop::Wrong(wrong)) => refuse(link, &mut frames.stream, wrong),
        Err(Stop::NotNow(code, why)) => {
            let _ = frames.stream.stop(code);
            link.warn("a run is stopped", &why);
            Ok(())
        }
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

/// Heads and pages that were verified of late, by root and number, until they can be read from the spool.
#[derive(Debug, Default)]
pub(crate) struct Manifests(VecDeque<(Digest, u64, Bytes)>);

impl Manifests {
    fn get(&self, root: Digest, number: u64) -> Option<Bytes> {
        self.0.iter().find(|(of, unit, _)| (*of, *unit) == (root, number)).map(|(.., bytes)| bytes.clone())
    }

    fn keep(&mut self, root: Digest, number: u64, bytes: Bytes) {
        while self.0.len() >= MANIFEST_UNITS || (!self.0.is_empty() && self.bytes() + bytes.len() > MANIFEST_BYTES) {
            self.0.pop_front();
        }
        self.0.push_back((root, number, bytes));
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(.., bytes)| bytes.len()).sum()
    }
}

/// The units of one payload as they arrive in one run.
struct Arriving<'a> {
    link: &'a Link,
    root: Digest,
    layout: Layout,
    precedence: Precedence,
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
        self.link.manifests.lock().unwrap_or_else(PoisonError::into_inner).get(self.root, number)
    }

    fn keep(&self, number: u64, bytes: Bytes) {
        self.link.manifests.lock().unwrap_or_else(PoisonError::into_inner).keep(self.root, number, bytes);
        self.link.came.notify_waiters();
    }

    /// Reads and verifies units while those before them are stored.
    async fn take(&mut self, stream: &mut RecvStream, first: u64, count: u64) -> Result<(), Stop> {
        let (verified, units) = mpsc::channel(RUN_UNITS as usize);
        let storing = store(self.link, self.root, self.layout, first, units);
        // Never an error to `try_join`: what was read before it is stored all the same.
        let reading = async { Ok(self.read_units(stream, first, count, verified).await) };
        let (read, ()) = tokio::try_join!(reading, storing)?;
        read?;
        // Read only now: the peer may open its next stream when this one is read to its end, so what it sends ahead of
        // the disk is bounded by its streams.
        match stream.read_chunk(1, true).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Fault::Protocol("bytes follow the end of a run").into()),
            Err(ReadError::Reset(_)) => Err(Stop::Reset),
            Err(error) => Err(error.into()),
        }
    }

    async fn read_units(
        &mut self,
        stream: &mut RecvStream,
        first: u64,
        count: u64,
        verified: mpsc::Sender<Bytes>,
    ) -> Result<(), Stop> {
        for number in first..first + count {
            let unit = self.layout.unit(number).ok_or(Fault::Protocol("a run goes beyond its payload's end"))?;
            let bytes = self.read(stream, self.layout.unit_bytes(unit)).await?;
            self.verify(number, unit, &bytes).await.map_err(Stop::Wrong)?;
            self.link.traffic.received(self.precedence, bytes.len());
            // A whole run fits; a failure to store ends this as well.
            let _ = verified.send(bytes).await;
        }
        Ok(())
    }

    /// Copies the unit out: what QUIC hands over would keep whole receive buffers alive.
    async fn read(&self, stream: &mut RecvStream, bytes: usize) -> Result<Bytes, Stop> {
        let mut unit = vec![0; bytes];
        let mut filled = 0;
        while let Some(rest) = unit.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match timeout(SILENCE, stream.read(rest)).await {
                Ok(Ok(Some(count))) => {
                    filled += count;
                    self.link.carried();
                }
                Ok(Ok(None)) => return Err(Fault::Protocol("a run ends before its last unit").into()),
                Ok(Err(ReadError::Reset(_))) => return Err(Stop::Reset),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) if self.link.carried_nothing_for() < SILENCE => {}
                Err(_) => {
                    let (root, seconds) = (self.root, SILENCE.as_secs());
                    return Err(Stop::NotNow(SILENT, format!("nothing of payload {root} came for {seconds} s")));
                }
            }
        }
        Ok(unit.into())
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
}

/// Stores verified units as they come, until no more will.
async fn store(
    link: &Link,
    root: Digest,
    layout: Layout,
    mut first: u64,
    mut verified: mpsc::Receiver<Bytes>,
) -> Result<(), Stop> {
    while let Some(unit) = verified.recv().await {
        let mut units = vec![unit];
        let gather = async {
            while units.len() < STORE_UNITS && verified.recv_many(&mut units, RUN_UNITS as usize).await > 0 {}
        };
        let _ = timeout(GATHER, gather).await;
        let stored = Range { first, count: units.len() as u64 };
        match link.here.on_disk(move |spool| spool.store(root, layout, stored.first, units)).await {
            Err(full @ SpoolError::Full { .. }) => {
                link.tell(Input::RunStopped { root }).await?;
                return Err(Stop::NotNow(NO_ROOM, full.to_string()));
            }
            done => done?,
        }
        link.tell(Input::UnitsDurable { root, units: stored }).await?;
        first = stored.end();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_the_largest_manifests_stays_bounded() {
        let largest = Layout::new(tram_proto::limits::PAYLOAD_BYTES).expect("the limit itself");
        let mut manifests = Manifests::default();
        for number in 0..=u8::MAX {
            let unit = if number < 40 { Unit::Head } else { Unit::Page(0) };
            manifests.keep(Digest([number; 32]), 0, vec![number; largest.unit_bytes(unit)].into());
            assert!(manifests.bytes() <= MANIFEST_BYTES && manifests.0.len() <= MANIFEST_UNITS);
            assert!(manifests.get(Digest([number; 32]), 0).is_some(), "the latest is there");
        }
    }
}
