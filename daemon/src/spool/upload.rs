//! A payload on its way in from an application: cut into chunks, appended to packs, indexed at the end.
//!
//! Until `finish` nothing of it is in the index: what an upload that is given up wrote is given back to the filesystem.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tram_proto::id::Digest;
use tram_proto::limits::CHUNK_BYTES;
use tram_proto::manifest::Builder;

use super::disk::Inner;
use super::index::{Arrival, hashes};
use super::packs::{HEADER_BYTES, Location, Writer, lock};
use super::units::{checked, commit, forget_chunk, locate, sync};
use super::{SpoolError, Upload};

/// Pages indexed in one transaction, so that a huge payload does not hold up messages: 4 are 1 GiB.
const STEP_PAGES: usize = 4;

pub(super) struct DiskUpload {
    inner: Arc<Inner>,
    _writer: Writer,
    rest: BytesMut,
    manifest: Builder,
    /// What was appended and is not in the index.
    fresh: BTreeMap<Digest, Location>,
    /// Chunks of other payloads, kept from the sweep until this one refers to them.
    pinned: Vec<Digest>,
    bytes: u64,
    failed: Option<SpoolError>,
}

impl DiskUpload {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        let writer = inner.packs.writer();
        Self {
            inner,
            _writer: writer,
            rest: BytesMut::new(),
            manifest: Builder::default(),
            fresh: BTreeMap::new(),
            pinned: Vec::new(),
            bytes: 0,
            failed: None,
        }
    }

    fn take(&mut self, mut part: Bytes) -> Result<(), SpoolError> {
        while !part.is_empty() {
            if self.rest.is_empty() && part.len() >= CHUNK_BYTES {
                self.chunk(&part.split_to(CHUNK_BYTES))?;
                continue;
            }
            let wanted = (CHUNK_BYTES - self.rest.len()).min(part.len());
            self.rest.extend_from_slice(&part.split_to(wanted));
            if self.rest.len() == CHUNK_BYTES {
                let chunk = self.rest.split().freeze();
                self.chunk(&chunk)?;
            }
        }
        Ok(())
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let hash = Digest::of(bytes);
        self.manifest.push(hash, bytes.len());
        self.bytes += bytes.len() as u64;
        if self.fresh.contains_key(&hash) || self.is_here(&hash, bytes)? {
            return Ok(());
        }
        self.inner.need(bytes.len() as u64 + HEADER_BYTES)?;
        let at = self.inner.writing("append to a pack", || self.inner.packs.append(&hash, bytes))?;
        self.fresh.insert(hash, at);
        Ok(())
    }

    /// Whether the index has the chunk and the disk gives it back. Then it is pinned.
    fn is_here(&mut self, hash: &Digest, bytes: &[u8]) -> Result<bool, SpoolError> {
        // Before the look, so that no sweep takes afterwards what is found now.
        lock(&self.inner.leases).pin(*hash);
        self.pinned.push(*hash);
        if let Some(at) = locate(&self.inner, hash)? {
            // What rotted is replaced by what comes in now.
            if checked(&self.inner, hash, at)?.is_some_and(|there| there == bytes) {
                return Ok(true);
            }
            forget_chunk(&self.inner, hash, at)?;
        }
        self.pinned.pop();
        lock(&self.inner.leases).unpin(hash);
        Ok(false)
    }

    fn complete(&mut self) -> Result<(Digest, u64), SpoolError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if !self.rest.is_empty() {
            let last = self.rest.split().freeze();
            self.chunk(&last)?;
        }
        let why = "an upload is larger than a manifest can describe";
        let misuse = |_| SpoolError::Misuse { path: self.inner.path.clone(), why };
        let (head, pages) = std::mem::take(&mut self.manifest).finish().map_err(misuse)?;
        let root = head.root();
        lock(&self.inner.leases).touched.insert(root);
        for hash in &self.pinned {
            // Someone who read it may have found it damaged since.
            if locate(&self.inner, hash)?.is_none() {
                return Err(SpoolError::Damaged { path: self.inner.path.clone(), root, unit: 0 });
            }
        }
        if !self.fresh.is_empty() {
            sync(&self.inner)?;
        }
        let mut first = Some((0, head.encode()));
        let mut number = 1;
        for step in pages.chunks(STEP_PAGES) {
            let chunks = step.iter().flat_map(|page| hashes(page)).filter_map(|h| self.fresh.remove_entry(&h));
            let chunks = chunks.collect();
            let manifest = first.take().into_iter().chain((number..).zip(step.iter().cloned())).collect();
            number += step.len() as u64;
            let arrival = [Arrival { root, bytes: self.bytes, manifest, chunks }];
            if let Err(error) = commit(&self.inner, &arrival) {
                self.fresh.extend(arrival.into_iter().flat_map(|arrival| arrival.chunks));
                return Err(error);
            }
        }
        if let Some(head) = first {
            commit(&self.inner, &[Arrival { root, bytes: 0, manifest: vec![head], chunks: Vec::new() }])?;
        }
        Ok((root, self.bytes))
    }
}

impl Upload for DiskUpload {
    fn push(&mut self, part: Bytes) -> Result<(), SpoolError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.take(part);
        self.failed = result.clone().err();
        result
    }

    fn finish(mut self: Box<Self>) -> Result<(Digest, u64), SpoolError> {
        self.complete()
    }
}

impl Drop for DiskUpload {
    fn drop(&mut self) {
        let mut leases = lock(&self.inner.leases);
        self.pinned.iter().for_each(|hash| leases.unpin(hash));
        drop(leases);
        self.inner.forsake(std::mem::take(&mut self.fresh).into_values().collect());
    }
}
