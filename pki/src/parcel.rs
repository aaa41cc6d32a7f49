//! What travels on a stick: objects of the bundle, root certificates, requests for CA certificates. One file of PEM.
//!
//! Whether anything in it is genuine, whoever takes it finds out: objects carry signatures, and a request's fingerprint is
//! compared by two people. Before each section stands in words what it is; nobody reads those but people.

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tram_proto::frame::LENGTH_BYTES;
use tram_proto::pki::{Object, ObjectKey, PkiFrame};
use x509_parser::pem::Pem;

use crate::authority::Scope;
use crate::bundle::Bundle;
use crate::clock::Utc;
use crate::csr::{CsrError, LeafKey};
use crate::hash::{Fingerprint, Sha256};
use crate::keystore::push_pem;
use crate::stated::{Stated, Whose};

/// An object of the bundle, as the link's frame has it.
const OBJECT: &str = "TRAM OBJECT";
/// The province's name, after a `=` when its CA certifies that as well, nothing for the overlay's own CA; a zero byte;
/// PKCS #10.
const REQUEST: &str = "TRAM CA REQUEST";
const CERTIFICATE: &str = "CERTIFICATE";

/// Why a file was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParcelError {
    /// Not PEM, or cut short.
    #[error("it is not PEM, or is cut short: bring it again")]
    Pem,
    /// Something Tram does not put into such files.
    #[error("it holds a section {0:?}, which belongs to something else")]
    Label(String),
    /// A section cannot be read.
    #[error("its section {0:?} cannot be read: bring it again")]
    Section(&'static str),
    /// There is nothing of use in it.
    #[error("it holds nothing that could be taken")]
    Empty,
}

/// A request for a CA certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaRequest {
    /// Which names it is for.
    pub scope: Scope,
    /// PKCS #10, DER.
    pub csr: Bytes,
}

impl CaRequest {
    /// What two people compare before it is signed: it covers the key and the name.
    ///
    /// # Errors
    /// [`CsrError`] when there is no key in it that could be signed.
    pub fn fingerprint(&self) -> Result<Fingerprint, CsrError> {
        let key = LeafKey::from_csr(&self.csr)?;
        let covered = [b"tram/1/ca-request\0", key.hash().0.as_slice(), self.name().as_bytes()].concat();
        Ok(Fingerprint(Sha256::of(&covered)))
    }

    fn name(&self) -> String {
        match &self.scope {
            Scope::Overlay => String::new(),
            Scope::Below(apex) => apex.to_string(),
            Scope::From(apex) => format!("={apex}"),
        }
    }
}

/// What is in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parcel {
    /// Objects.
    pub objects: Vec<Object>,
    /// Certificates: roots, for those who pin them or look for the one of a key; CAs; nodes.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Requests.
    pub requests: Vec<CaRequest>,
}

impl Parcel {
    /// Everything that a bundle holds.
    #[must_use]
    pub fn of(bundle: &Bundle) -> Self {
        let objects = bundle.have().into_iter().filter_map(|item| bundle.object(item.key)).collect();
        Self { objects, certificates: bundle.roots().to_vec(), requests: Vec::new() }
    }

    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for certificate in &self.certificates {
            text.push_str(&format!("{}\n", words(certificate)));
            push_pem(CERTIFICATE, certificate, &mut text);
        }
        for request in &self.requests {
            text.push_str(&format!("request for the certificate of the CA of {}\n", request.scope));
            push_pem(REQUEST, &[request.name().as_bytes(), b"\0", &request.csr].concat(), &mut text);
        }
        for object in &self.objects {
            let what = match object.item.key {
                ObjectKey::Roots => "list of roots".to_owned(),
                ObjectKey::Authority(_) => words(&object.content),
                ObjectKey::Crl(_) => "revocation list".to_owned(),
                ObjectKey::Notice(_) => "notice of a CA".to_owned(),
                ObjectKey::Handover(_) => "handover of a province that began alone".to_owned(),
            };
            text.push_str(&format!("{what}, version {}\n", object.item.version));
            push_pem(OBJECT, &frame(object), &mut text);
        }
        text
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ParcelError`].
    pub fn read(bytes: &[u8]) -> Result<Self, ParcelError> {
        let mut parcel = Self::default();
        for section in Pem::iter_from_buffer(bytes) {
            let Pem { label, contents } = section.map_err(|_| ParcelError::Pem)?;
            match label.as_str() {
                CERTIFICATE => parcel.certificates.push(contents.into()),
                OBJECT => match PkiFrame::decode(contents.into()) {
                    Ok(PkiFrame::Object(object)) => parcel.objects.push(object),
                    _ => return Err(ParcelError::Section(OBJECT)),
                },
                REQUEST => {
                    let contents = Bytes::from(contents);
                    let end = contents.iter().position(|byte| *byte == 0).ok_or(ParcelError::Section(REQUEST))?;
                    let name = std::str::from_utf8(&contents[..end]).map_err(|_| ParcelError::Section(REQUEST))?;
                    let apex = |name: &str| name.parse().map_err(|_| ParcelError::Section(REQUEST));
                    let scope = match name.strip_prefix('=') {
                        _ if name.is_empty() => Scope::Overlay,
                        Some(name) => Scope::From(apex(name)?),
                        None => Scope::Below(apex(name)?),
                    };
                    parcel.requests.push(CaRequest { scope, csr: contents.slice(end + 1..) });
                }
                _ => return Err(ParcelError::Label(label.chars().take(40).collect())),
            }
        }
        if parcel == Self::default() { Err(ParcelError::Empty) } else { Ok(parcel) }
    }
}

/// An object as [`PkiFrame::decode`] reads it: the length before it is the stream's.
#[must_use]
pub fn frame(object: &Object) -> Bytes {
    PkiFrame::Object(object.clone()).encode().slice(LENGTH_BYTES..)
}

fn words(der: &[u8]) -> String {
    match Stated::read(der) {
        Ok(Stated { whose: Whose::Root, zone, not_after_ms, .. }) => {
            format!("root of {zone}, until {}", Utc(not_after_ms))
        }
        Ok(Stated { whose: Whose::Ca(scope), not_after_ms, .. }) => {
            format!("CA of {scope}, until {}", Utc(not_after_ms))
        }
        Ok(Stated { whose: Whose::Node { name, .. }, not_after_ms, .. }) => {
            format!("node {name}, until {}", Utc(not_after_ms))
        }
        _ => "certificate".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::fixtures::{NOW_MS, Tree};

    #[test]
    fn what_is_written_is_read_again_and_taken() {
        let mut tree = Tree::new();
        let _ = tree.province("can-tho", NOW_MS);
        let dir = tempfile::tempdir().expect("a directory");
        let csr = Bytes::from(Authority::request(dir.path()).expect("a key"));
        let scope = |name: &str| Scope::Below(name.parse().expect("name"));
        let request = CaRequest { scope: scope("an-giang"), csr };
        let overlay = CaRequest { scope: Scope::Overlay, ..request.clone() };
        let alone = CaRequest { scope: Scope::From("an-giang".parse().expect("name")), ..request.clone() };
        let parcel =
            Parcel { requests: vec![request.clone(), overlay.clone(), alone.clone()], ..Parcel::of(&tree.bundle) };
        let text = parcel.to_text();
        assert!(text.contains("CA of can-tho, until 20") && text.contains("CA of the overlay"), "{text}");
        let read = Parcel::read(text.as_bytes()).expect("reads");
        assert_eq!(read, parcel);
        let mut other = Bundle::new(read.certificates).expect("roots");
        for object in &read.objects {
            other.take(object, NOW_MS).expect("taken");
        }
        assert_eq!(other.have(), tree.bundle.have());

        // The fingerprint is of key and name.
        let print = |request: &CaRequest| request.fingerprint().expect("a key").to_string();
        let renamed = CaRequest { scope: scope("ca-mau"), ..request.clone() };
        assert!([renamed, overlay, alone].iter().all(|other| print(&request) != print(other)));
    }

    #[test]
    fn what_is_cut_or_foreign_is_refused() {
        let text = Parcel::of(&Tree::new().bundle).to_text();
        assert_eq!(Parcel::read(b""), Err(ParcelError::Empty));
        assert_eq!(Parcel::read(b"hello"), Err(ParcelError::Empty));
        assert_eq!(Parcel::read(&text.as_bytes()[..text.len() - 30]), Err(ParcelError::Pem));
        let key = text.replace(OBJECT, "PRIVATE KEY");
        assert_eq!(Parcel::read(key.as_bytes()), Err(ParcelError::Label("PRIVATE KEY".to_owned())));
        let nonsense = text.replace(CERTIFICATE, OBJECT);
        assert_eq!(Parcel::read(nonsense.as_bytes()), Err(ParcelError::Section(OBJECT)));
    }
}
