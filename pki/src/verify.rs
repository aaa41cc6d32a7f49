//! TLS configurations, for links between nodes and for joining.
//!
//! TLS 1.3 with X25519MLKEM768 only, mutual on links. Guarantees that every handshake runs the full check of
//! [`crate::trust`]: resumption and 0-RTT are off on both sides, because a resumed session would skip it
//! (`research/pki.md` §3c). Never reads the clock itself.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tram_proto::join;
use tram_proto::name::{NodeName, Zone};
use webpki::aws_lc_rs::{ECDSA_P256_SHA256, ECDSA_P384_SHA384};

use crate::clock::{Clock, unix};
use crate::hash::Sha256;
use crate::keystore::NodeKeys;
use crate::renew::GRACE_MS;
use crate::trust::{ChainError, SIGNATURE_ALGORITHMS, Trust, TrustError};

/// The ALPN name of links.
pub const LINK_ALPN: &[u8] = b"tram/1";
/// The ALPN name by which a node whose certificate has expired asks for its next one, and for nothing else.
pub const CURE_ALPN: &[u8] = b"tram-cure/1";

static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: SIGNATURE_ALGORITHMS,
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[ECDSA_P384_SHA384]),
    ],
};

/// Why a peer was refused during the handshake. Both ends get to see the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Its chain or its certificate.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// It is a node of this overlay, but another one.
    #[error("expected node {expected}, but {got} answered: correct the address or the node's name in the [[uplink]]")]
    OtherNode {
        /// Whom the dialler meant.
        expected: NodeName,
        /// Who answered.
        got: NodeName,
    },
    /// The join server is not of the overlay that made the token.
    #[error(
        "this server does not hold the root certificate that the token names: the address leads to another overlay, or someone is in between"
    )]
    OtherRoot,
    /// The pinned root cannot be used.
    #[error(transparent)]
    Root(#[from] TrustError),
    /// The pinned root is of another zone than the token says.
    #[error("the server belongs to zone {got}, but the token is for {expected}")]
    OtherZone {
        /// The token's zone.
        expected: Zone,
        /// The server's zone.
        got: Zone,
    },
}

/// Why a configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct SetupError(#[from] Error);

/// rustls prints the reasons of custom verifiers with `Debug`; this one speaks plainly.
struct Plain(PeerError);

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Plain {}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        // The alert tells the peer: it is no fault of the line, and dialling again does not help.
        if let PeerError::Chain(ChainError::Revoked { .. }) = error {
            return Self::InvalidCertificate(CertificateError::Revoked);
        }
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Plain(error)))))
    }
}

/// The reason inside the text of a TLS or QUIC error that a [`PeerError`] caused; other texts come back as they are.
#[must_use]
pub fn plain_reason(text: &str) -> &str {
    match text.split_once("Other(OtherError(") {
        Some((_, rest)) => rest.strip_suffix("))").unwrap_or(rest),
        None => text,
    }
}

struct CallerTime(Clock);

impl fmt::Debug for CallerTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerTime")
    }
}

impl TimeProvider for CallerTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix((self.0)()))
    }
}

fn provider() -> Arc<CryptoProvider> {
    // Hybrid only: traffic recorded today must stay closed when P-256 and X25519 fall.
    let provider = CryptoProvider { kx_groups: vec![kx_group::X25519MLKEM768], ..default_provider() };
    Arc::new(provider)
}

fn whole(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    std::iter::once(leaf).chain(rest).map(|certificate| certificate.clone().into_owned()).collect()
}

const fn in_ms(now: UnixTime) -> u64 {
    now.as_secs().saturating_mul(1000)
}

/// Accepts any node of the overlay, or only the expected one.
#[derive(Debug)]
struct LinkVerifier {
    trust: Arc<Trust>,
    expected: Option<NodeName>,
    /// Accepts certificates that expired not too long ago, for whoever accepts connections: which protocol was agreed on
    /// is known only after the handshake, and then a link with one is refused.
    grace: bool,
}

impl LinkVerifier {
    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        let chain = whole(leaf, rest);
        let mut at_ms = in_ms(now);
        let mut admitted = self.trust.admit(&chain, at_ms);
        if let Err(ChainError::Expired { not_after_ms, .. }) = admitted
            && self.grace
            && at_ms <= not_after_ms.saturating_add(GRACE_MS)
        {
            at_ms = not_after_ms;
            admitted = self.trust.admit(&chain, at_ms);
        }
        let peer = match admitted {
            // The list may come over this very link, which carries nothing else until then.
            Err(ChainError::UnknownStatus { .. }) => self.trust.verify(&chain, at_ms)?,
            admitted => admitted?.peer,
        };
        match &self.expected {
            // Until its children's configurations are changed, they call an uplink as it was called before.
            Some(name) if *name != peer.name && !self.trust.are_one(peer.id, name, &peer.name, at_ms) => {
                Err(PeerError::OtherNode { expected: name.clone(), got: peer.name })
            }
            _ => Ok(()),
        }
    }
}

/// Accepts a server whose chain ends in the root with the pinned hash.
#[derive(Debug)]
struct PinVerifier {
    root: Sha256,
    zone: Zone,
}

impl PinVerifier {
    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        let Some((root, intermediates)) = rest.split_last().filter(|(root, _)| Sha256::of(root) == self.root) else {
            return Err(PeerError::OtherRoot);
        };
        let trust = Trust::new(vec![root.clone().into_owned()])?;
        if *trust.zone() != self.zone {
            return Err(PeerError::OtherZone { expected: self.zone.clone(), got: trust.zone().clone() });
        }
        trust.verify(&whole(leaf, intermediates), in_ms(now))?;
        Ok(())
    }
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerIncompatible::Tls12NotOffered.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            ALGORITHMS.mapping.iter().map(|(scheme, _)| *scheme).collect()
        }
    };
}

macro_rules! server_verifier {
    ($($name:ident),*) => {$(
        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                leaf: &CertificateDer<'_>,
                rest: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                now: UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                self.check(leaf, rest, now)?;
                Ok(ServerCertVerified::assertion())
            }

            signatures!();
        }
    )*};
}

server_verifier!(LinkVerifier, PinVerifier);

impl ClientCertVerifier for LinkVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, rest, now)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

fn finish_client(mut config: ClientConfig, alpn: &[u8]) -> ClientConfig {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Names are no secret between nodes, but they need not stand in clear on the wire.
    config.enable_sni = false;
    config
}

fn finish_server(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

/// For dialling a link. With `expected`, any other node of the overlay is refused; the TLS server name is a formality
/// (any valid name, such as the zone, will do). Make a new one when the keys or the trust change.
///
/// # Errors
/// [`SetupError`] when key and certificate do not fit; [`NodeKeys::load`] has ruled that out.
pub fn link_client(
    keys: &NodeKeys,
    trust: &Arc<Trust>,
    expected: Option<NodeName>,
    clock: Clock,
) -> Result<ClientConfig, SetupError> {
    client(keys, trust, expected, clock, LINK_ALPN)
}

/// For asking a node for this one's next certificate, when the one it has is expired. The other node's is not.
///
/// # Errors
/// [`SetupError`], as [`link_client`].
pub fn cure_client(
    keys: &NodeKeys,
    trust: &Arc<Trust>,
    expected: NodeName,
    clock: Clock,
) -> Result<ClientConfig, SetupError> {
    client(keys, trust, Some(expected), clock, CURE_ALPN)
}

fn client(
    keys: &NodeKeys,
    trust: &Arc<Trust>,
    expected: Option<NodeName>,
    clock: Clock,
    alpn: &[u8],
) -> Result<ClientConfig, SetupError> {
    let verifier = LinkVerifier { trust: trust.clone(), expected, grace: false };
    let config = ClientConfig::builder_with_details(provider(), Arc::new(CallerTime(clock)))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(keys.chain().to_vec(), keys.private_key().into())?;
    Ok(finish_client(config, alpn))
}

/// For accepting links, and questions by [`CURE_ALPN`]; every client must show a node's certificate. It may have expired up
/// to [`GRACE_MS`] ago: refuse a link with such a one after the handshake. Make a new one when the keys or the trust
/// change.
///
/// # Errors
/// [`SetupError`], as [`link_client`].
pub fn link_server(keys: &NodeKeys, trust: &Arc<Trust>, clock: Clock) -> Result<ServerConfig, SetupError> {
    let verifier = LinkVerifier { trust: trust.clone(), expected: None, grace: true };
    let config = ServerConfig::builder_with_details(provider(), Arc::new(CallerTime(clock)))
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(keys.chain().to_vec(), keys.private_key().into())?;
    Ok(finish_server(config, &[LINK_ALPN, CURE_ALPN]))
}

/// For dialling a join port: pins the root by the SHA-256 in the token, shows no certificate.
///
/// # Errors
/// [`SetupError`].
pub fn join_client(root: Sha256, zone: &Zone, clock: Clock) -> Result<ClientConfig, SetupError> {
    let config = ClientConfig::builder_with_details(provider(), Arc::new(CallerTime(clock)))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinVerifier { root, zone: zone.clone() }))
        .with_no_client_auth();
    Ok(finish_client(config, join::ALPN))
}

/// For the join port: shows this node's chain and the root after it, asks for no certificate.
///
/// # Errors
/// [`SetupError`], as [`link_client`].
pub fn join_server(keys: &NodeKeys, root: &CertificateDer<'static>, clock: Clock) -> Result<ServerConfig, SetupError> {
    let mut chain = keys.chain().to_vec();
    chain.push(root.clone());
    let config = ServerConfig::builder_with_details(provider(), Arc::new(CallerTime(clock)))
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, keys.private_key().into())?;
    Ok(finish_server(config, &[join::ALPN]))
}

#[cfg(test)]
mod tests;
