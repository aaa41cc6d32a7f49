//! Asks an address whether a QUIC endpoint listens there, and how large a packet may be on the way.
//!
//! Sends a packet of a QUIC version that does not exist. An endpoint answers with the versions it speaks (RFC 9000 §6.1),
//! without looking at anything else, so this needs no key and starts nothing there. Packets may not be fragmented.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};

use crate::link::endpoint::{MTU, any_address_towards};

/// Every QUIC endpoint has to take packets of this size; it answers only such as are no smaller.
pub(super) const SMALLEST: usize = 1200;
/// Larger sizes that are tried, the one that links aim at first.
const SIZES: [usize; 3] = [MTU as usize, 1380, 1280];
/// Each is sent so often before it counts as lost.
const TRIES: usize = 3;
const PATIENCE: Duration = Duration::from_millis(500);
/// A version of the form 0x?a?a?a?a, which no endpoint speaks (RFC 9000 §15).
const NO_VERSION: [u8; 4] = [0x5a, 0x6a, 0x7a, 0x8a];
const ID_BYTES: usize = 8;

/// The largest payload that an endpoint at `address` got, in bytes; `None` when nobody answers. Blocks for some seconds at
/// most.
pub(super) fn reach(address: SocketAddr) -> io::Result<Option<usize>> {
    let socket = UdpSocket::bind(any_address_towards(address))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
    } else {
        sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
    }
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if !answers(&socket, SMALLEST)? {
        return Ok(None);
    }
    for bytes in SIZES {
        if answers(&socket, bytes)? {
            return Ok(Some(bytes));
        }
    }
    Ok(Some(SMALLEST))
}

fn answers(socket: &UdpSocket, bytes: usize) -> io::Result<bool> {
    for _ in 0..TRIES {
        let mut id = [0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| io::Error::other("no randomness"))?;
        match socket.send(&question(id, bytes)) {
            Ok(_) => {}
            // An interface on the way out is smaller.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => return Ok(false),
            // What an earlier packet met: a port that is closed. The next may find it open.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        }
        let mut answer = [0; 1500];
        match socket.recv(&mut answer) {
            Ok(length) if is_answer(answer.get(..length).unwrap_or_default(), id) => return Ok(true),
            // Something else, or nothing, or a closed port.
            _ => {}
        }
    }
    Ok(false)
}

/// A long header with both connection ids, filled up.
fn question(id: [u8; ID_BYTES], bytes: usize) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend(NO_VERSION);
    for _ in 0..2 {
        packet.push(ID_BYTES as u8);
        packet.extend(id);
    }
    packet.resize(bytes, 0);
    packet
}

/// Version 0 is the list of versions; it is sent to the id that the question came from.
fn is_answer(packet: &[u8], id: [u8; ID_BYTES]) -> bool {
    let (first, rest) = packet.split_first().unwrap_or((&0, &[]));
    let expected = [&[0; 4][..], &[ID_BYTES as u8], &id].concat();
    first & 0x80 != 0 && rest.starts_with(&expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_list_of_versions_for_this_question_is_an_answer() {
        let id = [7; ID_BYTES];
        let answer = [&[0x80, 0, 0, 0, 0, 8][..], &id, &[8], &id, &[0, 0, 0, 1]].concat();
        assert!(is_answer(&answer, id) && !is_answer(&answer, [8; ID_BYTES]));
        assert!(!is_answer(&question(id, SMALLEST), id) && !is_answer(&[], id) && !is_answer(&answer[..9], id));
    }

    #[test]
    fn a_port_where_nobody_listens_does_not_answer() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a port");
        assert_eq!(reach(silent.local_addr().expect("its address")).expect("asked"), None);
        let address = silent.local_addr().expect("its address");
        drop(silent);
        assert_eq!(reach(address).expect("asked"), None);
    }
}
