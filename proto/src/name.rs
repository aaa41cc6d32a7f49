//! Names people write: zones, node names, inboxes, addresses.
//!
//! A node name is lower-case ASCII DNS labels under the overlay's zone (`ninh-kieu.can-tho`); an address is
//! `inbox@node`. Nothing here is ever looked up in DNS. DESIGN §3; `research/pki.md` §3a lists what a certificate
//! library would let through.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits;

/// Why a name cannot be used, with the cure where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text holds no character at all.
    #[error("{what} is empty")]
    Empty {
        /// Which kind of name.
        what: &'static str,
    },
    /// The text is longer than its limit, in bytes.
    #[error("{what} has {got} bytes; at most {max} are allowed")]
    Long {
        /// Which kind of name.
        what: &'static str,
        /// Its length in bytes.
        got: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A label is empty, too long, or has a character other than a-z, 0-9 and an inner hyphen.
    #[error(
        "{text:?} is not a {what}: labels are 1-63 of a-z, 0-9 and inner hyphens, separated by dots, such as {suggestion:?}"
    )]
    Label {
        /// Which kind of name.
        what: &'static str,
        /// The text that was given.
        text: String,
        /// The nearest name that would be accepted.
        suggestion: String,
    },
    /// An inbox name has a character that file names, addresses or terminals would trip over.
    #[error("{0:?} is not an inbox name: use 1-64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit")]
    Inbox(String),
    /// The address lacks the `@` between inbox and node.
    #[error("{0:?} is not an address: write it as INBOX@NODE, such as vanban@ninh-kieu.can-tho")]
    Address(String),
}

const NODE: &str = "node name";
const ZONE: &str = "zone";
/// One label of a name, in bytes, as in DNS.
const LABEL_BYTES: usize = 63;

fn label_ok(label: &str) -> bool {
    (1..=LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// What someone probably meant: lower case, Vietnamese letters without marks, other runs as one hyphen. Always a name
/// that is accepted.
fn slug(text: &str) -> String {
    let labels = text.to_lowercase();
    let labels = labels.split('.').map(|label| {
        let mut out = String::new();
        for c in label.chars().filter(|c| !is_mark(*c)) {
            match base_letter(c) {
                Some(c) => out.push(c),
                None if !out.is_empty() && !out.ends_with('-') => out.push('-'),
                None => {}
            }
        }
        out.truncate(LABEL_BYTES);
        out.trim_end_matches('-').to_owned()
    });
    let mut out = String::new();
    for label in labels.filter(|label| !label.is_empty()) {
        if out.len() + 1 + label.len() > limits::NAME_BYTES {
            break;
        }
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(&label);
    }
    if out.is_empty() { "can-tho".to_owned() } else { out }
}

/// A mark that stands after its letter, as some input methods and file systems write Vietnamese.
const fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

fn base_letter(c: char) -> Option<char> {
    const MARKED: [(&str, char); 7] = [
        ("àáảãạăằắẳẵặâầấẩẫậ", 'a'),
        ("èéẻẽẹêềếểễệ", 'e'),
        ("ìíỉĩị", 'i'),
        ("òóỏõọôồốổỗộơờớởỡợ", 'o'),
        ("ùúủũụưừứửữự", 'u'),
        ("ỳýỷỹỵ", 'y'),
        ("đ", 'd'),
    ];
    match c {
        'a'..='z' | '0'..='9' => Some(c),
        _ => MARKED.iter().find(|(marked, _)| marked.contains(c)).map(|(_, base)| *base),
    }
}

fn check_labels(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    if text.len() > limits::NAME_BYTES {
        return Err(NameError::Long { what, got: text.len(), max: limits::NAME_BYTES });
    }
    if !text.split('.').all(label_ok) {
        return Err(NameError::Label { what, text: text.to_owned(), suggestion: slug(text) });
    }
    Ok(())
}

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

text_name!(
    /// The private suffix of one overlay, such as `tram.internal`.
    Zone
);
text_name!(
    /// A node's name without the zone: `central`, `can-tho`, `ninh-kieu.can-tho`.
    NodeName
);
text_name!(
    /// The name of a queue at a node from which a local application takes messages.
    Inbox
);

impl FromStr for Zone {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_labels(ZONE, text)?;
        Ok(Self(text.into()))
    }
}

impl FromStr for NodeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check_labels(NODE, text)?;
        Ok(Self(text.into()))
    }
}

impl NodeName {
    /// The full DNS form, as it stands in the node's certificate.
    #[must_use]
    pub fn in_zone(&self, zone: &Zone) -> String {
        format!("{self}.{zone}")
    }

    /// Reads a full DNS name of `zone`.
    ///
    /// # Errors
    /// [`NameError`] when the name lies outside the zone or has no label of its own.
    pub fn from_dns(dns: &str, zone: &Zone) -> Result<Self, NameError> {
        match dns.strip_suffix(zone.as_str()).and_then(|rest| rest.strip_suffix('.')) {
            Some(own) => own.parse(),
            None => Err(NameError::Label { what: NODE, text: dns.to_owned(), suggestion: format!("can-tho.{zone}") }),
        }
    }
}

impl FromStr for Inbox {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first_ok = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest_ok =
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
        if first_ok && rest_ok && text.len() <= limits::INBOX_BYTES && !text.contains("..") {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Inbox(text.chars().take(80).collect()))
        }
    }
}

/// Where a message is to go: an inbox at a node, by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The queue at that node.
    pub inbox: Inbox,
    /// The node, without the zone.
    pub node: NodeName,
}

impl Address {
    /// Whether this is how it is written.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        text.split_once('@') == Some((self.inbox.as_str(), self.node.as_str()))
    }
}

impl FromStr for Address {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > limits::ADDRESS_BYTES {
            return Err(NameError::Long { what: "address", got: text.len(), max: limits::ADDRESS_BYTES });
        }
        let Some((inbox, node)) = text.split_once('@') else {
            return Err(NameError::Address(text.to_owned()));
        };
        Ok(Self { inbox: inbox.parse()?, node: node.parse()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.inbox, self.node)
    }
}

/// What a node is in the tree. It decides what a token may grant, never where mail goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The first node; holds the root and the issuing CA.
    Central,
    /// A province's relay.
    Province,
    /// A district's relay.
    District,
    /// A commune's relay.
    Commune,
}

impl Role {
    /// The word used in commands, certificates and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Central => "central",
            Self::Province => "province",
            Self::District => "district",
            Self::Commune => "commune",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Central, Self::Province, Self::District, Self::Commune]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a role: use province, district or commune"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_node(text: &str, expect: Result<(), &str>) {
        let got = text.parse::<NodeName>().map(|_| ()).map_err(|e| e.to_string());
        match expect {
            Ok(()) => assert_eq!(got, Ok(())),
            Err(part) => assert!(got.as_ref().is_err_and(|e| e.contains(part)), "{text:?}: {got:?}"),
        }
    }

    #[test]
    fn node_names_are_lower_case_dns_labels() {
        check_node("central", Ok(()));
        check_node("ninh-kieu.can-tho", Ok(()));
        check_node("", Err("empty"));
        check_node("Cần Thơ", Err("\"can-tho\""));
        check_node("a b", Err("\"a-b\""));
        check_node("-x", Err("\"x\""));
        check_node("x..y", Err("\"x.y\""));
        check_node("a\0b", Err("\"a-b\""));
        check_node("x_y", Err("\"x-y\""));
        check_node("can-tho.", Err("\"can-tho\""));
        check_node(&"a".repeat(64), Err("1-63"));
        check_node(&"a.".repeat(150), Err("at most"));
        check_node("*.can-tho", Err("\"can-tho\""));
    }

    #[test]
    fn row_26_a_bad_name_is_refused_with_a_name_that_would_be_accepted() {
        for (text, expect) in [
            ("cần-thơ", "can-tho"),
            // The same with marks that stand alone, as macOS writes file names.
            ("ca\u{302}\u{300}n-tho\u{31b}", "can-tho"),
            ("Đắk Lắk", "dak-lak"),
            ("Quận Ninh Kiều.Cần Thơ", "quan-ninh-kieu.can-tho"),
            ("THỪA THIÊN HUẾ", "thua-thien-hue"),
            ("x..y", "x.y"),
            ("-x-.-y-", "x.y"),
            (".can-tho.", "can-tho"),
            ("a\0b", "a-b"),
            ("x_y", "x-y"),
            ("*", "can-tho"),
            ("北京", "can-tho"),
        ] {
            let error = text.parse::<NodeName>().expect_err(text).to_string();
            assert!(error.ends_with(&format!("such as {expect:?}")), "{error}");
        }
        for text in [&"a".repeat(64), &format!("{}-{}", "a".repeat(62), "b".repeat(62)), &"Á.".repeat(60)] {
            match text.parse::<NodeName>() {
                Err(NameError::Label { suggestion, .. }) => {
                    assert!(suggestion.parse::<NodeName>().is_ok(), "{suggestion}");
                }
                other => panic!("{other:?}"),
            }
        }
        for text in ["", &"a.".repeat(150)] {
            assert!(text.parse::<NodeName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn inbox_names_are_safe_as_file_names_and_in_addresses() {
        for good in ["vanban", "khan-cap", "a.b_c", "0"] {
            assert!(good.parse::<Inbox>().is_ok(), "{good}");
        }
        for bad in ["", "..", "a/b", "a\0", "-a", ".a", "a..b", "Văn", "A", "a b", "a@b", &"a".repeat(65)] {
            assert!(bad.parse::<Inbox>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_inbox_at_node() {
        let address: Address = "vanban@chau-doc.an-giang".parse().expect("valid");
        assert_eq!(address.to_string(), "vanban@chau-doc.an-giang");
        for bad in ["vanban", "@x", "vanban@", "a@b@c", "vanban@A"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_dns_name_belongs_to_its_zone_only() {
        let zone: Zone = "tram.internal".parse().expect("valid");
        let name = NodeName::from_dns("ninh-kieu.can-tho.tram.internal", &zone).expect("inside");
        assert_eq!(name.as_str(), "ninh-kieu.can-tho");
        assert_eq!(name.in_zone(&zone), "ninh-kieu.can-tho.tram.internal");
        for outside in ["tram.internal", ".tram.internal", "can-tho.evil-tram.internal", "x.org"] {
            assert!(NodeName::from_dns(outside, &zone).is_err(), "{outside}");
        }
    }
}
