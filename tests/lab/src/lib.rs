//! The link laboratory: network namespaces joined by lines of a chosen rate, delay, loss and queue, over which packets of
//! any protocol pass. Needs root and `ip` of iproute2; nothing of it stays behind.
//!
//! [`model`] is the line itself, pure and without root. [`Lab`] makes namespaces and TUN devices and moves packets between
//! them as the model says, one thread for each line. Tunnels stand in for netem, which many kernels lack.

mod emulator;
mod machine;
pub mod model;
pub mod namespace;
pub mod spec;
mod tun;

use std::net::Ipv4Addr;

pub use emulator::{End, Flow, Line, Timing};
pub use machine::{IDLE_LEAST, Machine};
use model::Profile;
pub use namespace::Namespace;

/// Both directions of a line.
#[derive(Debug, Clone, Copy)]
pub struct Both {
    /// From the left end to the right.
    pub there: Profile,
    /// From the right end to the left.
    pub back: Profile,
}

impl Both {
    /// The same in both directions.
    #[must_use]
    pub const fn alike(profile: Profile) -> Self {
        Self { there: profile, back: profile }
    }
}

/// Namespaces in a row, each joined to the next.
#[derive(Debug)]
pub struct Lab {
    lines: Vec<Line>,
    namespaces: Vec<Namespace>,
}

impl Lab {
    /// One namespace more than lines.
    ///
    /// # Errors
    /// What is missing, in words: root, `ip`, `/dev/net/tun`.
    pub fn chain(lines: &[Both], seed: u64) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("the lab makes network namespaces: it needs root".to_owned());
        }
        let namespaces = (0..=lines.len()).map(Namespace::new).collect::<Result<Vec<_>, _>>()?;
        let mut joined = Vec::new();
        for (number, both) in lines.iter().enumerate() {
            let end = |end: End| {
                let space = &namespaces[number + usize::from(end == End::Right)];
                space.tunnel(&format!("line{number}"), address(number, end))
            };
            let tunnels = [end(End::Left)?, end(End::Right)?];
            joined.push(Line::start(tunnels, *both, seed.wrapping_add(number as u64)));
        }
        Ok(Self { lines: joined, namespaces })
    }

    /// The namespaces from left to right.
    #[must_use]
    pub fn space(&self, number: usize) -> &Namespace {
        &self.namespaces[number]
    }

    /// The lines from left to right.
    #[must_use]
    pub fn line(&self, number: usize) -> &Line {
        &self.lines[number]
    }

    /// Gives one end of a line another address, and takes the one it had: a mobile network does that.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn move_to(&self, line: usize, end: End, from: Ipv4Addr, to: Ipv4Addr) -> Result<(), String> {
        let device = format!("line{line}");
        let space = self.space(line + usize::from(end == End::Right));
        space.ip(&["addr", "del", &format!("{from}/24"), "dev", &device])?;
        space.ip(&["addr", "add", &format!("{to}/24"), "dev", &device])
    }
}

/// The address of an end of a line, in a network of 256 of its own.
#[must_use]
pub fn address(line: usize, end: End) -> Ipv4Addr {
    let line = u8::try_from(line).expect("a lab has a few lines");
    Ipv4Addr::new(10, 77, line, if end == End::Left { 1 } else { 2 })
}
