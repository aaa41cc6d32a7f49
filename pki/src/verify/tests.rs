//! Real rustls handshakes in memory.

use rustls::{ClientConnection, NamedGroup, ServerConnection};

use super::*;
use tram_proto::join::Uplink;
use tram_proto::name::Role;

use crate::clock::DAY_MS;
use crate::enrol::{self, Joining};
use crate::fixtures::{NOW_MS, Overlay, clock};
use crate::registry::{Registry, TOKEN_MS, TokenOrder};

type Ends = (ClientConnection, ServerConnection);

/// Moves bytes both ways until both ends are done, or gives the first refusal.
fn shake(client: ClientConfig, server: ServerConfig) -> Result<Ends, Error> {
    let name = ServerName::try_from("tram.internal").expect("a name");
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("into memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).expect("from memory");
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("into memory");
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("from memory");
            client.process_new_packets()?;
        }
    }
    Ok((client, server))
}

fn link(child: &NodeKeys, parent: &NodeKeys, expected: Option<&str>) -> Result<Ends, Error> {
    let expected = expected.map(|name| name.parse().expect("name"));
    let client = link_client(child, child.trust(), expected, clock(NOW_MS)).expect("set up");
    shake(client, link_server(parent, parent.trust(), clock(NOW_MS)).expect("set up"))
}

fn join(overlay: &Overlay, root: Sha256, zone: &str, now_ms: u64) -> Result<Ends, Error> {
    let client = join_client(root, &zone.parse().expect("zone"), clock(now_ms)).expect("set up");
    let keys = overlay.keys();
    shake(client, join_server(&keys, overlay.authority().root(), clock(NOW_MS)).expect("set up"))
}

#[track_caller]
fn check(got: Result<Ends, Error>, fault: &str) {
    let text = got.expect_err("must be refused").to_string();
    assert!(plain_reason(&text).contains(fault), "{text}");
}

#[test]
fn two_nodes_of_one_overlay_meet_with_hybrid_key_exchange() {
    let overlay = Overlay::new("tram.internal");
    let (client, server) = link(&overlay.node("can-tho"), &overlay.keys(), Some("central")).expect("meet");
    for group in [client.negotiated_key_exchange_group(), server.negotiated_key_exchange_group()] {
        assert_eq!(group.map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
    }
    assert_eq!((client.alpn_protocol(), server.alpn_protocol()), (Some(LINK_ALPN), Some(LINK_ALPN)));
    let seen = |certificates: Option<&[CertificateDer<'static>]>| {
        overlay.trust().peer_of(certificates.expect("shown")).expect("a node").name.to_string()
    };
    assert_eq!(seen(client.peer_certificates()), "central");
    assert_eq!(seen(server.peer_certificates()), "can-tho");
    assert_eq!(server.server_name(), None, "names do not stand in clear on the wire");
}

#[test]
fn no_session_is_ever_resumed() {
    let overlay = Overlay::new("tram.internal");
    let keys = overlay.node("can-tho");
    let client = link_client(&keys, keys.trust(), None, clock(NOW_MS)).expect("set up");
    let server = link_server(&overlay.keys(), overlay.trust(), clock(NOW_MS)).expect("set up");
    for _ in 0..2 {
        let (client, server) = shake(client.clone(), server.clone()).expect("meet");
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn a_node_of_another_overlay_is_refused_with_the_reason() {
    // The same zone on purpose: names prove nothing, roots do.
    let (ours, theirs) = (Overlay::new("tram.internal"), Overlay::new("tram.internal"));
    check(link(&theirs.node("can-tho"), &ours.keys(), None), "another overlay");
    // The other way round: the client trusts the server's overlay, the server not the client's.
    let keys = theirs.node("can-tho");
    let client = link_client(&keys, ours.trust(), None, clock(NOW_MS)).expect("set up");
    let server = link_server(&ours.keys(), ours.trust(), clock(NOW_MS)).expect("set up");
    check(shake(client, server), "another overlay");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let overlay = Overlay::new("tram.internal");
    let anyone = ClientConfig::builder_with_details(provider(), Arc::new(CallerTime(clock(NOW_MS))))
        .with_protocol_versions(&[&version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LinkVerifier {
            trust: overlay.trust().clone(),
            expected: None,
            grace: false,
        }))
        .with_no_client_auth();
    let anyone = finish_client(anyone, LINK_ALPN);
    let server = || link_server(&overlay.keys(), overlay.trust(), clock(NOW_MS)).expect("set up");
    check(shake(anyone.clone(), server()), "no certificates");
    // The join port's protocol leads nowhere on the link port.
    check(shake(finish_client(anyone, join::ALPN), server()), "any known protocol");
}

#[test]
fn classic_key_exchange_is_refused() {
    let overlay = Overlay::new("tram.internal");
    let classic = CryptoProvider { kx_groups: vec![kx_group::X25519], ..default_provider() };
    let client = ClientConfig::builder_with_details(Arc::new(classic), Arc::new(CallerTime(clock(NOW_MS))))
        .with_protocol_versions(&[&version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(LinkVerifier {
            trust: overlay.trust().clone(),
            expected: None,
            grace: false,
        }))
        .with_no_client_auth();
    let server = link_server(&overlay.keys(), overlay.trust(), clock(NOW_MS)).expect("set up");
    check(shake(client, server), "NoKxGroupsInCommon");
}

#[test]
fn another_node_than_the_expected_one_is_refused_naming_both() {
    let overlay = Overlay::new("tram.internal");
    check(
        link(&overlay.node("an-giang"), &overlay.keys(), Some("can-tho")),
        "expected node can-tho, but central answered",
    );
}

#[test]
fn expiry_is_judged_by_the_given_clock() {
    let overlay = Overlay::new("tram.internal");
    let keys = overlay.node("can-tho");
    let at = |now_ms: u64| {
        let client = link_client(&keys, keys.trust(), None, clock(now_ms)).expect("set up");
        shake(client, link_server(&overlay.keys(), overlay.trust(), clock(NOW_MS)).expect("set up"))
    };
    assert!(at(NOW_MS + 89 * DAY_MS).is_ok());
    check(at(NOW_MS + 91 * DAY_MS), "expired at 2027-04-15");
    check(
        at(NOW_MS - DAY_MS),
        "valid only from 2027-01-15T07:00:00Z on, but this machine's clock says 2027-01-14T08:00:00Z",
    );
}

#[test]
fn a_join_client_believes_only_the_pinned_root() {
    let (overlay, foreign) = (Overlay::new("tram.internal"), Overlay::new("tram.internal"));
    let pin = |overlay: &Overlay| Sha256::of(overlay.authority().root());
    let (client, server) = join(&overlay, pin(&overlay), "tram.internal", NOW_MS).expect("meet");
    let export = |got: Result<[u8; 32], Error>| got.expect("exported");
    assert_eq!(
        export(client.export_keying_material([0; 32], join::EXPORTER, None)),
        export(server.export_keying_material([0; 32], join::EXPORTER, None)),
    );
    assert_eq!(client.alpn_protocol(), Some(join::ALPN));
    check(join(&overlay, pin(&foreign), "tram.internal", NOW_MS), "does not hold the root certificate");
    check(join(&overlay, pin(&overlay), "other.internal", NOW_MS), "the token is for other.internal");
    check(join(&overlay, pin(&overlay), "tram.internal", NOW_MS - 3 * DAY_MS), "this machine's clock says 2027-01-12");
}

#[test]
fn a_join_over_tls_makes_a_node_that_can_open_a_link() {
    let overlay = Overlay::new("tram.internal");
    let mut registry = Registry::open(overlay.dir()).expect("opens");
    let address = |text: &str| vec![text.parse().expect("address")];
    let order = TokenOrder {
        name: "can-tho".parse().expect("name"),
        role: Role::Province,
        lifetime_ms: TOKEN_MS,
        uplink: Uplink { node: "central".parse().expect("name"), addresses: address("10.0.0.1:7443") },
        join: address("10.0.0.1:7444"),
        by: "lan".to_owned(),
    };
    let text = registry.new_token(overlay.authority(), &order, NOW_MS).expect("made").to_text();

    let machine = tempfile::tempdir().expect("temporary directory");
    let joining = Joining::begin(machine.path(), text.parse().expect("token")).expect("begins");
    let (client, server) = join(&overlay, joining.token().root, joining.token().zone.as_str(), NOW_MS).expect("meet");
    let ours = client.export_keying_material([0; 32], join::EXPORTER, None).expect("exported");
    let theirs = server.export_keying_material([0; 32], join::EXPORTER, None).expect("exported");
    let request = join::Request::decode(joining.request(&ours, "0.1.0", NOW_MS).encode()).expect("decodes");
    let (answer, cause) =
        enrol::answer(&mut registry, overlay.authority(), &request, &theirs, "198.51.100.7:999", NOW_MS);
    assert_eq!(cause, None);
    let answer = join::Answer::decode(answer.encode()).expect("decodes");
    let joined = joining.accept(answer, NOW_MS).expect("accepted");
    let keys = NodeKeys::install(machine.path(), &joined).expect("installed");
    link(&keys, &overlay.keys(), Some(joined.uplink.node.as_str())).expect("meet");
}

#[test]
fn row_06_a_fake_join_server_with_the_real_root_behind_its_own_chain_is_refused() {
    let (overlay, foreign) = (Overlay::new("tram.internal"), Overlay::new("tram.internal"));
    let root = overlay.authority().root();
    let client = join_client(Sha256::of(root), overlay.authority().zone(), clock(NOW_MS)).expect("set up");
    let fake = join_server(&foreign.keys(), root, clock(NOW_MS)).expect("set up");
    check(shake(client, fake), "another overlay");
}
