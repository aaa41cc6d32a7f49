//! The one call for which there is no safe interface: a TUN device, which carries whole IP packets.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl};

/// `_IOW('T', 202, int)`.
const TUNSETIFF: u32 = 0x4004_54ca;
const IFF_TUN: u16 = 0x0001;
/// No four bytes before each packet.
const IFF_NO_PI: u16 = 0x1000;
/// `struct ifreq`: a name of at most 15 bytes, then the flags.
const NAME_BYTES: usize = 16;
const IFREQ_BYTES: usize = 40;

/// Makes a device in the network namespace of this thread; reading and writing do not block. It goes when this is closed.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open("/dev/net/tun")?;
    let mut request = [0_u8; IFREQ_BYTES];
    request[..name.len().min(NAME_BYTES - 1)].copy_from_slice(&name.as_bytes()[..name.len().min(NAME_BYTES - 1)]);
    request[NAME_BYTES..NAME_BYTES + 2].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    #[allow(unsafe_code, reason = "rustix has no TUN calls; the request is as long as the kernel's struct ifreq")]
    unsafe {
        ioctl(&file, Setter::<TUNSETIFF, [u8; IFREQ_BYTES]>::new(request))?;
    }
    Ok(file)
}
