//! Who gets no link: strangers, nodes of other overlays, nodes under another's name. Both logs say why.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tram_tests::overlay::{Overlay, until};

use super::{HERE, PROGRAM};

/// Waits until a node says why its uplink is down.
#[track_caller]
fn refusal(overlay: &Overlay, node: &str, peer: &str) -> String {
    until(&format!("{node} says why it has no link to {peer}"), Duration::from_secs(30), || {
        let links = overlay.links(node);
        let link = links.iter().find(|link| link["peer"] == peer)?;
        assert_ne!(link["state"], "up", "{link}");
        link["error"].as_str().map(str::to_owned)
    })
}

#[test]
fn a_node_of_another_overlay_gets_no_link_even_under_a_known_name() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    overlay.join("CT", "can-tho", "province", None);
    // Another authority, the same zone, and a name that central knows.
    let _ = overlay.tramd("init", "X", &["--zone", "tram.internal", "--name", "can-tho"]).ok();
    let central = overlay.listen("C");
    let uplink = format!("\n[[uplink]]\nnode = \"central\"\naddresses = [\"{central}\"]\n");
    overlay.reconfigure("X", |text| text + &uplink);
    overlay.run("X");

    let why = refusal(&overlay, "X", "central");
    assert!(why.contains("another overlay"), "{why}");
    overlay.await_log("X", &["uplink down", "peer=central", "another overlay"]);
    overlay.await_log("C", &["link refused", "another overlay"]);
    assert_eq!(overlay.links("C"), [] as [serde_json::Value; 0]);

    // The real one is let in all the same.
    overlay.run("CT");
    overlay.await_link("CT", "central");
    assert!(!overlay.has_link("X", "central"));
}

#[test]
fn a_node_that_answers_under_anothers_name_gets_no_link() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    for (node, name) in [("CT", "can-tho"), ("AG", "an-giang")] {
        overlay.join(node, name, "province", None);
    }
    overlay.join("NK", "ninh-kieu.can-tho", "district", Some("CT"));
    // NK looks for can-tho where an-giang answers.
    let (there, instead) = (overlay.listen("CT"), overlay.listen("AG"));
    overlay.reconfigure("NK", |text| text.replace(&there, &instead));
    overlay.run("AG");
    overlay.run("NK");

    let why = refusal(&overlay, "NK", "can-tho");
    assert!(why.contains("expected node can-tho, but an-giang answered"), "{why}");
    overlay.await_log("NK", &["uplink down", "can-tho", "an-giang answered"]);
    overlay.await_log("AG", &["link refused", "expected node can-tho, but an-giang answered"]);
    assert!(!overlay.has_link("AG", "ninh-kieu.can-tho"));
}

#[test]
fn a_stranger_without_a_certificate_gets_no_link() {
    let mut overlay = Overlay::central(PROGRAM, HERE);
    let central = overlay.listen("C").parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let closed = runtime.block_on(async {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let connecting = endpoint.connect_with(credulous(), central, "tram.invalid").expect("dials");
        // The client's side of the handshake ends before the server has looked: the refusal comes after.
        match connecting.await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    });
    assert!(matches!(closed, quinn::ConnectionError::ConnectionClosed(_)), "refused in TLS: {closed}");
    overlay.await_log("C", &["link refused", "certificate"]);
    assert_eq!(overlay.links("C"), [] as [serde_json::Value; 0]);
}

/// A client that shows no certificate and believes everyone.
fn credulous() -> quinn::ClientConfig {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(schemes)));
    let mut tls = tls.with_no_client_auth();
    tls.alpn_protocols = vec![b"tram/1".to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a suite for QUIC")))
}

#[derive(Debug)]
struct Credulous(Vec<SignatureScheme>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
