//! The way back for a node whose certificate has expired: one question over the overlay's own port.
//!
//! No link comes up with an expired certificate. For thirty days after its end the handshake still succeeds when the
//! dialler offers [`CURE_ALPN`], and then nothing but one request to a CA is read and one answer written. What the request
//! must prove is the same as ever ([`tram_pki::renew`]); a revoked or unknown certificate does not come so far.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, VarInt};
use tokio::time::timeout;
use tram_pki::verify::CURE_ALPN;
use tram_proto::frame::{LENGTH_BYTES, frame_length};
use tram_proto::limits::CONTROL_FRAME_BYTES;
use tram_proto::name::NodeName;
use tram_proto::pki::{Answer, PkiFrame, Request};

use crate::link::endpoint::{Endpoints, SERVER_NAME};
use crate::link::fault::explain;
use crate::link::{Here, session};

/// The whole exchange may take so long: the question may have to go up several links.
const EXCHANGE: Duration = Duration::from_secs(90);
/// A frame here is an ask or a reply, which have a little more than what they carry.
const FRAME_BYTES: usize = CONTROL_FRAME_BYTES + 1024;
/// Questions of expired nodes answered at once; more are refused, and come again.
pub(crate) const AT_ONCE: usize = 8;

/// Whether a connection is one of these.
pub(crate) fn is_cure(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|any| any.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    data.and_then(|data| data.protocol).as_deref() == Some(CURE_ALPN)
}

async fn read(stream: &mut quinn::RecvStream) -> Result<PkiFrame, String> {
    let mut field = [0; LENGTH_BYTES];
    stream.read_exact(&mut field).await.map_err(|error| error.to_string())?;
    let mut frame = vec![0; frame_length(field, FRAME_BYTES).map_err(|error| error.to_string())?];
    stream.read_exact(&mut frame).await.map_err(|error| error.to_string())?;
    PkiFrame::decode(Bytes::from(frame)).map_err(|error| error.to_string())
}

/// Answers one question and waits until the answer was taken.
pub(crate) async fn serve(here: Arc<Here>, connection: Connection) {
    let name = session::peer_of(&here, &connection).map(|(peer, _)| peer.name);
    let (Some(name), Some(herald)) = (name, here.herald.clone()) else {
        return connection.close(VarInt::from_u32(0), b"nothing is answered here");
    };
    let exchange = async {
        let (mut send, mut recv) = connection.accept_bi().await.map_err(|error| explain(&error))?;
        let PkiFrame::Ask { number, hops, authority, request } = read(&mut recv).await? else {
            return Err("it asked for nothing".to_owned());
        };
        let answer = herald.ask_for(authority, request, hops, &name).await?;
        let reply = PkiFrame::Reply { number, answer }.encode();
        send.write_all(&reply).await.map_err(|error| error.to_string())?;
        let _ = send.finish();
        // The peer closes when it has the answer.
        let _ = send.stopped().await;
        Ok(())
    };
    let done = timeout(EXCHANGE, exchange).await.unwrap_or_else(|_| Err("it took too long".to_owned()));
    match done {
        Ok(()) => tracing::info!(peer = %name, "a node with an expired certificate has asked for its next one"),
        Err(why) if here.is_news(name.as_str(), &why) => {
            tracing::warn!(peer = %name, "a node with an expired certificate was not helped: {why}");
        }
        Err(_) => {}
    }
    connection.close(VarInt::from_u32(0), b"done");
}

/// Asks by way of the first uplink address that answers.
///
/// # Errors
/// For people: what was tried.
pub(crate) async fn ask(
    here: &Here,
    endpoints: &Endpoints,
    uplinks: &[(NodeName, Vec<String>)],
    authority: [u8; 32],
    request: &Request,
) -> Result<Answer, String> {
    let mut failed = Vec::new();
    for (node, addresses) in uplinks {
        for text in addresses {
            let asked = timeout(EXCHANGE, ask_at(here, endpoints, node, text, authority, request)).await;
            match asked.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                Ok(answer) => return Ok(answer),
                Err(why) => failed.push(format!("{text}: {why}")),
            }
        }
    }
    Err(if failed.is_empty() { "this node has no uplink to ask".to_owned() } else { failed.join("; ") })
}

async fn ask_at(
    here: &Here,
    endpoints: &Endpoints,
    node: &NodeName,
    address: &str,
    authority: [u8; 32],
    request: &Request,
) -> Result<Answer, String> {
    let mut found = tokio::net::lookup_host(address).await.map_err(|error| error.to_string())?;
    let remote = found.next().ok_or("the name leads nowhere")?;
    let endpoint = endpoints.towards(remote).map_err(|error| error.to_string())?;
    let config = Endpoints::plain_client(here.trust.cure(node)?)?;
    let connecting = endpoint.connect_with(config, remote, SERVER_NAME).map_err(|error| error.to_string())?;
    let connection = connecting.await.map_err(|error| explain(&error))?;
    let asked = async {
        let (mut send, mut recv) = connection.open_bi().await.map_err(|error| explain(&error))?;
        let ask = PkiFrame::Ask { number: 1, hops: 0, authority, request: request.encode() }.encode();
        send.write_all(&ask).await.map_err(|error| error.to_string())?;
        let _ = send.finish();
        match read(&mut recv).await {
            Ok(PkiFrame::Reply { answer, .. }) => Answer::decode(answer).map_err(|error| error.to_string()),
            Ok(_) => Err("it answered something else".to_owned()),
            // The reason is the connection's.
            Err(why) => Err(connection.close_reason().map_or(why, |error| explain(&error))),
        }
    };
    let answer = asked.await;
    connection.close(VarInt::from_u32(0), b"thank you");
    answer
}
