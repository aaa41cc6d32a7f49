//! What a compromised or careless CA could sign, and what becomes of it (`research/pki.md` §3a and §5 rows 7 to 9).

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType, date_time_ymd,
};

use super::*;
use crate::fixtures::{NOW_MS, Overlay, name};

#[track_caller]
fn check(overlay: &Overlay, spoil: impl FnOnce(&mut CertificateParams), fault: &str) {
    let got = overlay.trust().verify(&overlay.forge(spoil), NOW_MS);
    let text = got.expect_err("must be refused").to_string();
    assert!(text.contains(fault), "{text}");
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ASCII"))
}

#[test]
fn the_plain_form_is_accepted() {
    let overlay = Overlay::new("tram.internal");
    let peer = overlay.trust().verify(&overlay.forge(|_| {}), NOW_MS).expect("accepted");
    assert_eq!(peer.name.as_str(), "can-tho");
}

#[test]
fn row_08_leaves_with_other_names_are_refused() {
    let overlay = Overlay::new("tram.internal");
    let uri = || SanType::URI("spiffe://tram/an-giang".try_into().expect("ASCII"));
    let mail = || SanType::Rfc822Name("a@can-tho.tram.internal".try_into().expect("ASCII"));
    check(&overlay, |p| p.subject_alt_names = vec![uri()], "not a DNS name");
    check(&overlay, |p| p.subject_alt_names = vec![mail()], "not a DNS name");
    check(&overlay, |p| p.subject_alt_names.clear(), "0 alternative names");
    check(&overlay, |p| p.subject_alt_names.push(dns("an-giang.tram.internal")), "2 alternative names");
    check(&overlay, |p| p.subject_alt_names.push(uri()), "2 alternative names");
    check(
        &overlay,
        |p| p.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())],
        "NameConstraintViolation",
    );
    check(&overlay, |p| p.subject_alt_names = vec![SanType::IpAddress([0_u16; 8].into())], "NameConstraintViolation");
    check(&overlay, |p| name(p, "*.tram.internal"), "cannot be a node's");
    check(&overlay, |p| name(p, "Can-Tho.tram.internal"), "cannot be a node's");
    check(&overlay, |p| name(p, "can-tho.Tram.internal"), "cannot be a node's");
    check(&overlay, |p| name(p, "can-tho.tram.internal."), "");
    check(&overlay, |p| name(p, "a_b.tram.internal"), "");
    check(&overlay, |p| name(p, "tram.internal"), "NameConstraintViolation");
    check(&overlay, |p| name(p, "can-tho.evil-tram.internal"), "NameConstraintViolation");
    check(&overlay, |p| name(p, "can-tho.tram.example"), "NameConstraintViolation");
}

#[test]
fn leaves_with_another_subject_are_refused() {
    let overlay = Overlay::new("tram.internal");
    let set = |what: DnType, text: &'static str| {
        move |p: &mut CertificateParams| {
            p.distinguished_name.remove(what.clone());
            p.distinguished_name.push(what, text);
        }
    };
    let serial = || DnType::CustomDnType(vec![2, 5, 4, 5]);
    check(&overlay, set(DnType::CommonName, "central.tram.internal"), "differs from the alternative name");
    check(&overlay, set(serial(), "7"), "not a UUID");
    check(&overlay, set(serial(), "0A0A0A0A-0a0a-0a0a-0a0a-0a0a0a0a0a0a"), "not in lower case");
    check(&overlay, set(DnType::OrganizationalUnitName, "king"), "not a role");
    check(&overlay, set(DnType::CountryName, "VN"), "more than name");
    for what in [DnType::CommonName, serial(), DnType::OrganizationalUnitName] {
        check(&overlay, |p| assert!(p.distinguished_name.remove(what)), "its subject has no usable");
    }
}

#[test]
fn row_08_leaves_for_other_purposes_are_refused() {
    let overlay = Overlay::new("tram.internal");
    check(&overlay, |p| p.extended_key_usages.clear(), "serverAuth");
    check(&overlay, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], "serverAuth");
    check(&overlay, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "not valid");
    check(&overlay, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any], "not valid");
    check(&overlay, |p| p.key_usages.clear(), "digitalSignature");
    check(&overlay, |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement], "digitalSignature");
    check(&overlay, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "CA certificate");
    let critical = |p: &mut CertificateParams| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 55555, 1], vec![5, 0]);
        extension.set_criticality(true);
        p.custom_extensions.push(extension);
    };
    check(&overlay, critical, "UnsupportedCriticalExtension");
}

#[test]
fn leaves_of_another_time_are_refused_with_both_times() {
    let overlay = Overlay::new("tram.internal");
    check(
        &overlay,
        |p| p.not_after = date_time_ymd(2027, 1, 10),
        "expired at 2027-01-10T00:00:00Z, and this machine's clock says 2027-01-15T08:00:00Z",
    );
    check(
        &overlay,
        |p| p.not_before = date_time_ymd(2027, 2, 1),
        "valid only from 2027-02-01T00:00:00Z on, but this machine's clock says 2027-01-15T08:00:00Z",
    );
}

#[test]
fn chains_that_lead_elsewhere_are_refused() {
    let (overlay, foreign) = (Overlay::new("tram.internal"), Overlay::new("tram.internal"));
    let mut chain = foreign.forge(|_| {});
    let refused = |chain: &[CertificateDer<'_>]| overlay.trust().verify(chain, NOW_MS).expect_err("refused");
    assert!(matches!(refused(&chain), ChainError::UnknownRoot { .. }));
    chain.push(foreign.authority().root().clone());
    assert!(matches!(refused(&chain), ChainError::UnknownRoot { .. }), "a root does not vouch for itself");
    // Our CA's certificate does not vouch for the other CA's leaf.
    chain[1] = overlay.authority().certificate().clone();
    assert!(matches!(refused(&chain), ChainError::UnknownRoot { .. }));
    assert!(matches!(refused(&overlay.forge(|_| {})[..1]), ChainError::UnknownRoot { .. }));
    assert_eq!(refused(&[]), PolicyError::Missing.into());
    assert_eq!(refused(&vec![chain[0].clone(); limits::CHAIN_CERTIFICATES + 1]), ChainError::Long);
    assert_eq!(refused(&[vec![0x30; limits::CERTIFICATE_BYTES + 1].into()]), ChainError::Long);
    for ca in [overlay.authority().certificate(), overlay.authority().root()] {
        assert_eq!(refused(std::slice::from_ref(ca)), PolicyError::Ca.into());
    }
}

#[test]
fn no_altered_byte_of_a_leaf_is_accepted() {
    let overlay = Overlay::new("tram.internal");
    let good = overlay.forge(|_| {});
    for at in (0..good[0].len()).step_by(3) {
        let mut leaf = good[0].to_vec();
        leaf[at] ^= 0x20;
        let chain = [leaf.into(), good[1].clone()];
        assert!(overlay.trust().verify(&chain, NOW_MS).is_err(), "byte {at}");
    }
}

#[test]
fn roots_make_a_trust_only_when_they_are_one_overlays() {
    let (one, two) = (Overlay::new("tram.internal"), Overlay::new("other.internal"));
    let root = |overlay: &Overlay| overlay.authority().root().clone();
    assert_eq!(Trust::new(Vec::new()).expect_err("none"), TrustError::Empty);
    assert!(matches!(Trust::new(vec![root(&one), root(&two)]), Err(TrustError::Zones(..))));
    assert!(matches!(Trust::new(vec![b"x".to_vec().into()]), Err(TrustError::Root(_))));
    assert!(matches!(Trust::new(vec![one.keys().chain()[0].clone()]), Err(TrustError::Root(_))));
    // During a rotation both roots are trusted.
    let other = Overlay::new("tram.internal");
    let both = Trust::new(vec![root(&one), root(&other)]).expect("one zone");
    for overlay in [&one, &other] {
        assert!(both.verify(&overlay.forge(|_| {}), NOW_MS).is_ok());
    }
}
