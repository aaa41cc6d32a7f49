//! How a payload is cut, named and numbered.
//!
//! A payload is cut into chunks of 256 KiB. Their hashes fill pages of 1,024; the pages' hashes and the length make the
//! head, and the head's hash is the payload's root. Head, pages and chunks are the payload's *units*, numbered in that
//! order, so that one want and one run serve them all: unit 0 is the head, then the pages, then the chunks. How many
//! there are follows from the length alone. An inline payload has the same root; it only travels differently.

use bytes::Bytes;

use crate::error::WireError;
use crate::id::Digest;
use crate::limits::{CHUNK_BYTES, PAGE_HASHES, PAYLOAD_BYTES};

const HEAD_TAG: &[u8; 8] = b"tram/1/m";
const HEAD_FIXED: usize = 16;
const CHUNK: u64 = CHUNK_BYTES as u64;

/// The numbering of a payload's units; follows from its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    bytes: u64,
}

/// What a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// The length and the pages' hashes.
    Head,
    /// Page of this index: the hashes of up to 1,024 chunks.
    Page(u64),
    /// Chunk of this index.
    Chunk(u64),
}

impl Layout {
    /// The layout of a payload of so many bytes.
    ///
    /// # Errors
    /// [`WireError::Malformed`] over [`PAYLOAD_BYTES`].
    pub const fn new(bytes: u64) -> Result<Self, WireError> {
        if bytes > PAYLOAD_BYTES {
            return Err(WireError::Malformed { what: "payload", why: "it is larger than a manifest can describe" });
        }
        Ok(Self { bytes })
    }

    /// The payload's length in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// Number of chunks.
    #[must_use]
    pub const fn chunks(self) -> u64 {
        self.bytes.div_ceil(CHUNK)
    }

    /// Number of manifest pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.chunks().div_ceil(PAGE_HASHES as u64)
    }

    /// Units of the manifest: the head and the pages.
    #[must_use]
    pub const fn manifest_units(self) -> u64 {
        1 + self.pages()
    }

    /// Number of all units.
    #[must_use]
    pub const fn units(self) -> u64 {
        self.manifest_units() + self.chunks()
    }

    /// What the unit of this number is; `None` past the end.
    #[must_use]
    pub const fn unit(self, number: u64) -> Option<Unit> {
        if number == 0 {
            Some(Unit::Head)
        } else if number < self.manifest_units() {
            Some(Unit::Page(number - 1))
        } else if number < self.units() {
            Some(Unit::Chunk(number - self.manifest_units()))
        } else {
            None
        }
    }

    /// A unit's length in bytes.
    #[must_use]
    pub const fn unit_bytes(self, unit: Unit) -> usize {
        match unit {
            Unit::Head => HEAD_FIXED + 32 * self.pages() as usize,
            Unit::Page(page) => {
                let before = page * PAGE_HASHES as u64;
                let left = self.chunks() - before;
                32 * if left < PAGE_HASHES as u64 { left as usize } else { PAGE_HASHES }
            }
            Unit::Chunk(chunk) => {
                let left = self.bytes - chunk * CHUNK;
                if left < CHUNK { left as usize } else { CHUNK_BYTES }
            }
        }
    }

    /// Length in bytes of a run of units.
    #[must_use]
    pub fn run_bytes(self, first: u64, count: u64) -> u64 {
        (first..first.saturating_add(count)).filter_map(|n| self.unit(n)).map(|u| self.unit_bytes(u) as u64).sum()
    }
}

/// A payload's head: its length and its pages' hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    layout: Layout,
    pages: Vec<Digest>,
}

impl Head {
    /// The numbering of the units.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The hash of a page.
    #[must_use]
    pub fn page(&self, index: u64) -> Option<Digest> {
        self.pages.get(usize::try_from(index).ok()?).copied()
    }

    /// The bytes of unit 0.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(HEAD_FIXED + 32 * self.pages.len());
        out.extend_from_slice(HEAD_TAG);
        out.extend_from_slice(&self.layout.bytes.to_be_bytes());
        self.pages.iter().for_each(|page| out.extend_from_slice(&page.0));
        out.into()
    }

    /// The payload's root.
    #[must_use]
    pub fn root(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads unit 0 and holds it against the root it was asked for by.
    ///
    /// # Errors
    /// [`WireError::Malformed`] when hash, length or shape are not those of `root` and `layout`.
    pub fn decode(bytes: &[u8], root: Digest, layout: Layout) -> Result<Self, WireError> {
        const fn wrong(why: &'static str) -> WireError {
            WireError::Malformed { what: "manifest head", why }
        }
        if Digest::of(bytes) != root {
            return Err(wrong("its digest is not the payload's root"));
        }
        let rest = bytes.strip_prefix(HEAD_TAG).ok_or(wrong("it does not begin as one"))?;
        let (length, hashes) = rest.split_first_chunk::<8>().ok_or(wrong("it is too short"))?;
        if u64::from_be_bytes(*length) != layout.bytes {
            return Err(wrong("its length is not the envelope's"));
        }
        let (pages, over) = hashes.as_chunks::<32>();
        if !over.is_empty() || pages.len() as u64 != layout.pages() {
            return Err(wrong("its pages do not fit its length"));
        }
        Ok(Self { layout, pages: pages.iter().map(|p| Digest(*p)).collect() })
    }
}

/// The chunk hashes of one page, checked against the page's own hash.
///
/// # Errors
/// [`WireError::Malformed`] when the digest is another's or the bytes are no list of hashes.
pub fn decode_page(bytes: &[u8], digest: Digest) -> Result<Vec<Digest>, WireError> {
    if Digest::of(bytes) != digest {
        return Err(WireError::Malformed { what: "manifest page", why: "its digest is not the head's" });
    }
    let (hashes, over) = bytes.as_chunks::<32>();
    if !over.is_empty() || hashes.is_empty() || hashes.len() > PAGE_HASHES {
        return Err(WireError::Malformed { what: "manifest page", why: "it is not a list of hashes" });
    }
    Ok(hashes.iter().map(|h| Digest(*h)).collect())
}

/// Builds a manifest while a payload streams by, chunk by chunk.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: u64,
    page: Vec<u8>,
    pages: Vec<Bytes>,
}

impl Builder {
    /// Notes the next chunk's hash and length. Every chunk but the last has [`CHUNK_BYTES`].
    pub fn push(&mut self, chunk: Digest, bytes: usize) {
        self.bytes += bytes as u64;
        self.page.extend_from_slice(&chunk.0);
        if self.page.len() == 32 * PAGE_HASHES {
            self.pages.push(std::mem::take(&mut self.page).into());
        }
    }

    /// The head and the encoded pages.
    ///
    /// # Errors
    /// [`WireError::Malformed`] over [`PAYLOAD_BYTES`].
    pub fn finish(mut self) -> Result<(Head, Vec<Bytes>), WireError> {
        if !self.page.is_empty() {
            self.pages.push(self.page.into());
        }
        let layout = Layout::new(self.bytes)?;
        let head = Head { layout, pages: self.pages.iter().map(|p| Digest::of(p)).collect() };
        Ok((head, self.pages))
    }
}

/// The root of a payload that is at hand as a whole: one that travels inline.
#[must_use]
pub fn root_of(payload: &[u8]) -> Digest {
    let mut builder = Builder::default();
    payload.chunks(CHUNK_BYTES).for_each(|chunk| builder.push(Digest::of(chunk), chunk.len()));
    let pages = if builder.page.is_empty() { Vec::new() } else { vec![Digest::of(&builder.page)] };
    let all: Vec<Digest> = builder.pages.iter().map(|p| Digest::of(p)).chain(pages).collect();
    Head { layout: Layout { bytes: builder.bytes }, pages: all }.root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::INLINE_BYTES;

    #[track_caller]
    fn check(bytes: u64, pages: u64, chunks: u64, last: usize) {
        let layout = Layout::new(bytes).expect("within limits");
        assert_eq!((layout.pages(), layout.chunks()), (pages, chunks));
        let end = layout.unit(layout.units() - 1).expect("the last unit");
        assert_eq!(layout.unit_bytes(end), last);
        assert_eq!(layout.unit(layout.units()), None);
        let payload: u64 = (layout.manifest_units()..layout.units())
            .filter_map(|n| layout.unit(n))
            .map(|u| layout.unit_bytes(u) as u64)
            .sum();
        assert_eq!(payload, bytes);
    }

    #[test]
    fn the_length_alone_numbers_the_units() {
        check(0, 0, 0, 16);
        check(1, 1, 1, 1);
        check(CHUNK, 1, 1, CHUNK_BYTES);
        check(CHUNK + 1, 1, 2, 1);
        check(CHUNK * 1024, 1, 1024, CHUNK_BYTES);
        check(CHUNK * 1024 + 7, 2, 1025, 7);
        assert!(Layout::new(PAYLOAD_BYTES).is_ok());
        assert!(Layout::new(PAYLOAD_BYTES + 1).is_err());
    }

    #[test]
    fn a_streamed_payload_has_the_root_of_a_whole_one() {
        for len in [0, 1, INLINE_BYTES, CHUNK_BYTES, CHUNK_BYTES * 1025 + 3] {
            let payload = vec![7; len];
            let mut builder = Builder::default();
            payload.chunks(CHUNK_BYTES).for_each(|c| builder.push(Digest::of(c), c.len()));
            let (head, pages) = builder.finish().expect("within limits");
            assert_eq!(head.root(), root_of(&payload), "{len} bytes");
            let back = Head::decode(&head.encode(), head.root(), head.layout()).expect("decodes");
            assert_eq!(back, head);
            for (i, page) in pages.iter().enumerate() {
                let digest = head.page(i as u64).expect("a page");
                let hashes = decode_page(page, digest).expect("decodes");
                assert_eq!(hashes[0], Digest::of(&payload[i * 1024 * CHUNK_BYTES..][..CHUNK_BYTES.min(len)]));
            }
        }
    }

    #[test]
    fn a_head_of_another_payload_is_refused() {
        let mut builder = Builder::default();
        builder.push(Digest::of(b"x"), 1);
        let (head, pages) = builder.finish().expect("small");
        let bytes = head.encode();
        assert!(Head::decode(&bytes, Digest([0; 32]), head.layout()).is_err());
        let other = Layout::new(2).expect("small");
        assert!(Head::decode(&bytes, head.root(), other).is_err());
        assert!(decode_page(&pages[0], Digest([0; 32])).is_err());
    }
}
