//! The two files by which a machine joins without a network: its request, and the answer to it.
//!
//! Each is a line that says what it is, the message, and the BLAKE3-256 of all that stands before it, so that a stick
//! that was pulled out too early or has gone bad is noticed at once. The digest guards against accidents only: whether
//! a file is genuine two people find out by comparing fingerprints, which is the PKI's affair, like everything in it.

use bytes::Bytes;

use crate::error::WireError;
use crate::join::{Granted, check_version};
use crate::limits;
use crate::name::NodeName;
use crate::wire::join as wire;

/// How a request file begins.
pub const REQUEST_MAGIC: &[u8] = b"tram-join-request/1\n";
/// How an answer file begins.
pub const ANSWER_MAGIC: &[u8] = b"tram-join-answer/1\n";

const DIGEST: usize = 32;

/// What a machine asks by file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequest {
    /// Its signing request, DER, at most [`limits::CSR_BYTES`].
    pub csr: Bytes,
    /// The name it wants.
    pub name: NodeName,
    /// Its software's version, at most [`limits::LABEL_BYTES`].
    pub version: String,
}

/// What it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAnswer {
    /// What it is, and whom it may trust.
    pub granted: Box<Granted>,
    /// What the node that holds the CA knows of trust, for [`limits::ANSWER_FILE_BYTES`] at most; may be empty.
    pub bundle: Bytes,
}

impl FileRequest {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (csr, name) = (self.csr.clone(), self.name.to_string());
        seal(REQUEST_MAGIC, &crate::wire::encode(&wire::FileRequest { csr, name, version: self.version.clone() }))
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`WireError`] when it is another file, was cut or changed, or is over a limit.
    pub fn decode(file: &[u8]) -> Result<Self, WireError> {
        let what = "join request file";
        let content = open(what, REQUEST_MAGIC, file, limits::REQUEST_FILE_BYTES)?;
        let w: wire::FileRequest = crate::wire::decode(what, content)?;
        WireError::limit("certificate request", w.csr.len(), limits::CSR_BYTES)?;
        check_version(&w.version)?;
        Ok(Self { csr: w.csr, name: w.name.parse()?, version: w.version })
    }
}

impl FileAnswer {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (granted, bundle) = (Some(self.granted.to_wire()), self.bundle.clone());
        seal(ANSWER_MAGIC, &crate::wire::encode(&wire::FileAnswer { granted, bundle }))
    }

    /// Reads a file's bytes.
    ///
    /// # Errors
    /// [`WireError`] when it is another file, was cut or changed, or is over a limit.
    pub fn decode(file: &[u8]) -> Result<Self, WireError> {
        let what = "join answer file";
        let content = open(what, ANSWER_MAGIC, file, limits::ANSWER_FILE_BYTES)?;
        let w: wire::FileAnswer = crate::wire::decode(what, content)?;
        let granted = w.granted.ok_or(WireError::Malformed { what, why: "it grants nothing" })?;
        Ok(Self { granted: Box::new(Granted::from_wire(granted)?), bundle: w.bundle })
    }
}

fn seal(magic: &[u8], content: &[u8]) -> Vec<u8> {
    let mut file = [magic, content].concat();
    let digest = blake3::hash(&file);
    file.extend_from_slice(digest.as_bytes());
    file
}

fn open(what: &'static str, magic: &[u8], file: &[u8], max: usize) -> Result<Bytes, WireError> {
    let malformed = |why| WireError::Malformed { what, why };
    WireError::limit(what, file.len(), max)?;
    if file.starts_with(if magic == REQUEST_MAGIC { ANSWER_MAGIC } else { REQUEST_MAGIC }) {
        return Err(malformed(if magic == REQUEST_MAGIC {
            "it is an answer: `tramd join --answer` takes it, on the new machine"
        } else {
            "it is a request: `tram pki sign` takes it, at the node that holds the CA"
        }));
    }
    if !file.starts_with(magic) {
        return Err(malformed("it is another kind of file, or empty"));
    }
    let Some((sealed, digest)) = file.split_last_chunk::<DIGEST>().filter(|(rest, _)| rest.len() >= magic.len()) else {
        return Err(malformed("it is cut off: copy it again"));
    };
    if blake3::hash(sealed).as_bytes() != digest {
        return Err(malformed("it was cut off or changed on the way: copy it again"));
    }
    Ok(Bytes::copy_from_slice(sealed.get(magic.len()..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;
    use crate::join::Uplink;
    use crate::name::Role;

    fn request() -> FileRequest {
        let name = "ninh-kieu.can-tho".parse().expect("name");
        FileRequest { csr: Bytes::from_static(b"csr"), name, version: "0.3.0".to_owned() }
    }

    fn answer() -> FileAnswer {
        let granted = Granted {
            chain: vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")],
            root: Bytes::from_static(b"root"),
            node: NodeId([7; 16]),
            name: "ninh-kieu.can-tho".parse().expect("name"),
            role: Role::District,
            zone: "tram.internal".parse().expect("zone"),
            uplink: Uplink {
                node: "can-tho".parse().expect("name"),
                addresses: vec!["10.1.0.1:7443".parse().expect("address")],
            },
        };
        FileAnswer { granted: Box::new(granted), bundle: Bytes::from_static(b"bundle") }
    }

    #[test]
    fn both_files_read_back_what_they_write() {
        assert_eq!(FileRequest::decode(&request().encode()), Ok(request()));
        assert_eq!(FileAnswer::decode(&answer().encode()), Ok(answer()));
    }

    #[test]
    fn row_02_a_request_file_that_was_cut_changed_or_added_to_is_refused() {
        let good = request().encode();
        for end in 0..good.len() {
            assert!(FileRequest::decode(&good[..end]).is_err(), "{end} bytes");
        }
        for at in 0..good.len() {
            let mut altered = good.clone();
            altered[at] ^= 1;
            assert!(FileRequest::decode(&altered).is_err(), "byte {at}");
        }
        assert!(FileRequest::decode(&[good.as_slice(), b"\n"].concat()).is_err());
        let large = FileRequest { csr: vec![0; limits::CSR_BYTES + 1].into(), ..request() };
        assert!(matches!(FileRequest::decode(&large.encode()), Err(WireError::Limit { .. })));
    }

    #[test]
    fn row_26_a_request_file_with_a_bad_name_is_refused() {
        for name in ["", "a b", "-x", "x..y", "a\0b", "x_y", "x.", "cần-thơ", "xn--cn-tho-xxb.", &"a".repeat(64)] {
            let content = wire::FileRequest { csr: Bytes::new(), name: name.to_owned(), version: String::new() };
            let file = seal(REQUEST_MAGIC, &crate::wire::encode(&content));
            assert!(matches!(FileRequest::decode(&file), Err(WireError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn the_two_files_are_told_apart() {
        let swapped = FileRequest::decode(&answer().encode()).expect_err("an answer").to_string();
        assert!(swapped.contains("tramd join --answer"), "{swapped}");
        let swapped = FileAnswer::decode(&request().encode()).expect_err("a request").to_string();
        assert!(swapped.contains("tram pki sign"), "{swapped}");
        let other = FileAnswer::decode(b"hello").expect_err("neither").to_string();
        assert!(other.contains("another kind of file"), "{other}");
    }
}
