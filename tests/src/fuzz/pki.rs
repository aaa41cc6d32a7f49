//! What neighbours send of the PKI: lists, certificates, and the frames that carry them.
//!
//! An input of several parts brings its own root or key, so that a corpus holds lists and chains that were truly signed.

use std::collections::BTreeMap;

use bytes::Bytes;
use tram_pki::bundle::{Bundle, objects};
use tram_pki::crl::{self, Crl};
use tram_pki::policy::{self, Ca};
use tram_pki::trust::Trust;
use tram_proto::frame::{LENGTH_BYTES, frame_length};
use tram_proto::limits;
use tram_proto::pki::{
    Answer, Handover, Notice, Object, ObjectKey, PkiFrame, Request, Roots, SignedHandover, SignedNotice, SignedRoots,
};

/// 15 January 2027, when the corpora were signed.
const NOW_MS: u64 = 1_800_000_000_000;
/// How far ahead a list may be dated.
const HOUR_MS: u64 = 3_600_000;

/// A part with two bytes of length before it, and what follows.
fn part(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The public key of a CA, and a revocation list: as it is, and as if that key had signed it.
pub fn crl(data: &[u8]) {
    let Some((key, list)) = part(data) else { return };
    crl::fuzz(list);
    let Ok(read) = Crl::read(list, key, NOW_MS) else { return };
    assert!(list.len() <= limits::OBJECT_BYTES && read.this_update_ms <= NOW_MS + HOUR_MS);
    assert_eq!((read.der.as_slice(), read.revoked().len()), (list, read.entries));
    assert_eq!(Crl::read(list, key, 0).is_ok(), read.this_update_ms <= HOUR_MS, "only the clock may object");
    assert!(Crl::read(&[list, &[0]].concat(), key, NOW_MS).is_err(), "nothing may follow");
    let mut altered = list.to_vec();
    altered[list.len() / 2] ^= 1;
    assert!(Crl::read(&altered, key, NOW_MS).is_err(), "every byte is signed");
}

/// A root certificate, and the file of a bundle that is taken object by object.
pub fn bundle(data: &[u8]) {
    let Some((root, file)) = part(data) else { return };
    let Ok(mut bundle) = Bundle::new(vec![root.to_vec().into()]) else { return };
    for object in objects(Bytes::copy_from_slice(file)).map_while(Result::ok) {
        take(&mut bundle, &object);
    }
    assert!((1..=limits::ROOTS).contains(&bundle.roots().len()) && bundle.past().len() <= limits::PAST_ROOTS);
    assert!(bundle.have().len() <= limits::OBJECTS);
    assert!(bundle.trust().is_ok(), "what was taken can be used");
    // What it would write is what it reads.
    let held: Vec<Object> = bundle.have().iter().filter_map(|item| bundle.object(item.key)).collect();
    let written: Vec<u8> = held.iter().flat_map(|object| PkiFrame::Object(object.clone()).encode()).collect();
    assert!(objects(written.into()).eq(held.iter().cloned().map(Ok)));
    let mut again = Bundle::new(bundle.roots().to_vec()).expect("roots that were taken");
    held.iter().for_each(|object| assert_eq!(again.take(object, NOW_MS), Ok(true)));
    assert_eq!((again.have(), again.roots(), again.past()), (bundle.have(), bundle.roots(), bundle.past()));
}

fn take(bundle: &mut Bundle, object: &Object) {
    let held = |bundle: &Bundle| -> BTreeMap<ObjectKey, u64> {
        bundle.have().iter().map(|item| (item.key, item.version)).collect()
    };
    let (before, key) = (held(bundle), object.item.key);
    if bundle.take(object, NOW_MS) == Ok(true) {
        assert!(before.get(&key).is_none_or(|version| *version < object.item.version), "only what is newer");
        assert_eq!(bundle.object(key).as_ref(), Some(object));
        assert_eq!(bundle.take(object, NOW_MS), Ok(false), "nothing is new twice");
        let after = held(bundle);
        assert!(before.iter().all(|(key, version)| after.get(key).is_none_or(|now| now >= version)));
    } else {
        assert_eq!(held(bundle), before, "what is not taken changes nothing");
    }
}

/// A time (eight bytes), a root certificate, and a chain of certificates, leaf first.
pub fn policy(data: &[u8]) {
    let Some((at_ms, data)) = data.split_first_chunk::<8>() else { return };
    let Some((root, mut rest)) = part(data) else { return };
    let at_ms = u64::from_be_bytes(*at_ms);
    let trust = Trust::new(vec![root.to_vec().into()]);
    let zone = trust.as_ref().map_or_else(|_| "tram.internal".parse().expect("a zone"), |trust| trust.zone().clone());
    let mut chain = Vec::new();
    while let Some((one, after)) = part(rest) {
        let (node, ca) = (policy::peer(&one.into(), &zone), Ca::read(one, &zone));
        assert!(node.is_err() || ca.is_err(), "a CA is no node");
        if let Ok(peer) = &node {
            let name = peer.name.in_zone(&zone);
            assert!(one.windows(name.len()).any(|window| window == name.as_bytes()), "a name that stands there");
        }
        chain.push(one.into());
        rest = after;
    }
    let Ok(trust) = trust else { return };
    let Ok(peer) = trust.verify(&chain, at_ms) else {
        assert!(trust.admit(&chain, at_ms).is_err() && trust.author(&chain, at_ms).is_err());
        return;
    };
    assert!((2..=limits::CHAIN_CERTIFICATES).contains(&chain.len()));
    assert_eq!(policy::peer(&chain[0], &zone).as_ref(), Ok(&peer));
    let admitted = trust.admit(&chain, at_ms).expect("no list is here that could object");
    assert!(admitted.issuer.scope.covers(&peer.name) && admitted.peer == peer);
    assert!(admitted.not_before_ms <= at_ms && at_ms / 1000 <= admitted.not_after_ms / 1000);
    assert!(trust.author(&chain, at_ms).is_ok_and(|author| author.covers(at_ms)));
    assert_eq!(trust.revoked(&chain), None);
    assert!(trust.verify(&chain, admitted.not_after_ms + 1000).is_err(), "nothing is valid for ever");
}

/// A frame of the PKI stream, or what stands in one; the first byte chooses which.
pub fn pki_frame(data: &[u8]) {
    macro_rules! reads_back {
        ($kind:ident, $bytes:expr) => {
            $kind::decode(Bytes::copy_from_slice($bytes))
                .inspect(|read| assert_eq!($kind::decode(read.encode()).as_ref(), Ok(read)))
        };
    }
    match data.split_first() {
        Some((0, bytes)) => {
            let Ok(frame) = PkiFrame::decode(Bytes::copy_from_slice(bytes)) else { return };
            match &frame {
                PkiFrame::Have(items) => assert!(items.len() <= limits::OBJECTS),
                PkiFrame::Object(object) => assert!(object.content.len() <= limits::OBJECT_BYTES),
                PkiFrame::Ask { request: inside, .. } | PkiFrame::Reply { answer: inside, .. } => {
                    assert!(inside.len() <= limits::CONTROL_FRAME_BYTES);
                }
                PkiFrame::Reports(reports) => {
                    assert!(reports.len() <= limits::REPORTS);
                    assert!(reports.iter().all(|report| report.join.len() <= limits::HELLO_ADDRESSES));
                }
                PkiFrame::Journal { lines, .. } => assert!(lines.len() <= limits::JOURNAL_LINES),
                PkiFrame::JournalHave { .. } => {}
            }
            let again = frame.encode();
            let (field, _) = again.split_first_chunk::<LENGTH_BYTES>().expect("a length field");
            assert_eq!(frame_length(*field, bytes.len()), Ok(again.len() - LENGTH_BYTES), "our own form is not longer");
            assert_eq!(PkiFrame::decode(again.slice(LENGTH_BYTES..)), Ok(frame));
        }
        Some((1, bytes)) => _ = reads_back!(Request, bytes),
        Some((2, bytes)) => _ = reads_back!(Answer, bytes),
        Some((3, bytes)) => {
            let Ok(signed) = reads_back!(SignedRoots, bytes) else { return };
            assert!(signed.signatures.len() <= 2 * limits::ROOTS);
            let Ok(list) = reads_back!(Roots, &signed.body) else { return };
            assert!((1..=limits::ROOTS).contains(&list.roots.len()) && list.past.len() <= limits::PAST_ROOTS);
        }
        Some((4, bytes)) => {
            let Ok(signed) = reads_back!(SignedNotice, bytes) else { return };
            let Ok(notice) = reads_back!(Notice, &signed.body) else { return };
            assert!(notice.aliases.len() <= limits::ALIASES && notice.transfers.len() <= limits::ALIASES);
            assert!(notice.doors.len() <= limits::DOORS);
        }
        Some((5, bytes)) => {
            let Ok(signed) = reads_back!(SignedHandover, bytes) else { return };
            let Ok(handover) = reads_back!(Handover, &signed.body) else { return };
            assert!((1..=limits::HANDED_OVER).contains(&handover.authorities.len()));
        }
        _ => {}
    }
}
