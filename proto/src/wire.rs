//! The generated types of the wire and the two functions through which all of them pass. Private to this crate: other
//! crates see domain types with checked `encode` and `decode`.

use bytes::Bytes;
use prost::Message;

use crate::error::WireError;

macro_rules! generated {
    ($($name:ident = $package:literal),*) => {$(
        #[allow(unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used, reason = "generated")]
        pub(crate) mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    )*};
}

generated!(
    statement = "tram.statement.v1",
    link = "tram.link.v1",
    join = "tram.join.v1",
    pki = "tram.pki.v1",
    row = "tram.row.v1"
);

pub(crate) fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

pub(crate) fn decode<M: Message + Default>(what: &'static str, bytes: Bytes) -> Result<M, WireError> {
    M::decode(bytes).map_err(|_| WireError::Malformed { what, why: "it is not protobuf of the right shape" })
}
