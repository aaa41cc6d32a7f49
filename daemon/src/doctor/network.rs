//! Names, the way to each uplink, and what the kernel gives UDP sockets.

use std::path::Path;
use std::time::Duration;

use tram_proto::join::HostPort;
use tram_proto::local::LinkView;

use super::{Area, Chart, Finding, probe};
use crate::config::Config;
use crate::link::endpoint::{MTU, SOCKET_BUFFER_BYTES, SOCKET_BUFFER_LOW_BYTES};

/// Where the kernel says how large buffers may be.
pub(super) const SYSCTL: &str = "/proc/sys/net/core";
/// A name is looked up for so long.
const LOOKUP: Duration = Duration::from_secs(5);

pub(super) fn look_at_buffers(sysctl: &Path, chart: &mut Chart) {
    for (file, name) in [("rmem_max", "net.core.rmem_max"), ("wmem_max", "net.core.wmem_max")] {
        // A container may not show them; then nothing is known.
        let text = std::fs::read_to_string(sysctl.join(file)).unwrap_or_default();
        let Ok(bytes) = text.trim().parse::<u64>() else { continue };
        if bytes < SOCKET_BUFFER_LOW_BYTES as u64 {
            chart.add(Finding::SocketBuffers(name, bytes, SOCKET_BUFFER_BYTES as u64));
        }
    }
}

/// Looks up every name of the config and asks every address of every uplink. `links` are those of a running daemon.
pub(super) async fn look(config: &Config, links: &[LinkView], chart: &mut Chart) {
    if let Some(advertise) = config.listen.advertise.as_ref().and_then(|text| text.parse::<HostPort>().ok()) {
        lookup("listen.advertise", &advertise, chart).await;
    }
    for (number, uplink) in (1..).zip(&config.uplinks) {
        let node = uplink.node.to_string();
        let link = links.iter().find(|link| link.peer == node && link.side == "up");
        let is_up = link.is_some_and(|link| link.state == "up");
        let mut answered = false;
        for address in &uplink.addresses {
            let Some(remote) = lookup(&format!("uplink[{number}].addresses"), address, chart).await else { continue };
            let reached = tokio::task::spawn_blocking(move || probe::reach(remote)).await;
            match reached.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
                Ok(Some(bytes)) => {
                    answered = true;
                    chart.measured(Area::Network, format!("{node} {address}: {bytes} B"));
                    if bytes < usize::from(MTU) {
                        chart.add(Finding::SmallPackets(node.clone(), address.to_string(), bytes));
                    }
                }
                // The link itself proves the way.
                Ok(None) if is_up => {}
                Ok(None) => chart.add(Finding::NoAnswer(node.clone(), address.to_string())),
                Err(why) => chart.add(Finding::NoAnswer(node.clone(), format!("{address} ({why})"))),
            }
        }
        if let Some(link) = link.filter(|link| answered && !is_up && !link.error.is_empty()) {
            chart.add(Finding::NoLink(node, link.error.clone()));
        }
    }
}

async fn lookup(key: &str, address: &HostPort, chart: &mut Chart) -> Option<std::net::SocketAddr> {
    let why = match tokio::time::timeout(LOOKUP, tokio::net::lookup_host(address.as_str())).await {
        Ok(Ok(mut found)) => match found.next() {
            Some(remote) => return Some(remote),
            None => "it has no address".to_owned(),
        },
        Ok(Err(why)) => why.to_string(),
        Err(_) => format!("no answer in {} s", LOOKUP.as_secs()),
    };
    chart.add(Finding::Unresolved(key.to_owned(), address.host().to_owned(), why));
    None
}
