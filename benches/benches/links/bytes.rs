//! Payload that is new each time: what was sent before teaches nobody anything.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// So many random bytes, made while they are read.
pub(crate) struct Fresh {
    left: u64,
    state: u64,
}

impl Fresh {
    pub(crate) fn new(bytes: u64) -> Self {
        let mut seed = [0; 8];
        aws_lc_rs::rand::fill(&mut seed).expect("randomness");
        Self { left: bytes, state: u64::from_ne_bytes(seed) }
    }

    /// SplitMix64: no compressor finds anything in it, and it costs next to nothing.
    fn fill(&mut self, into: &mut [u8]) {
        for word in into.chunks_mut(8) {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(z ^ (z >> 31)).to_ne_bytes()[..word.len()]);
        }
    }
}

impl AsyncRead for Fresh {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = buffer.remaining().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let into = buffer.initialize_unfilled_to(length);
        self.fill(into);
        self.left -= length as u64;
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl io::Read for Fresh {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.fill(&mut buffer[..length]);
        self.left -= length as u64;
        Ok(length)
    }
}
