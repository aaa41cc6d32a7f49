//! The join token: one line of text that an admin carries to a new machine.
//!
//! `trj1.` and base32 of: version, length, token id, secret, SHA-256 of the root certificate, expiry, zone, node name,
//! uplink, join addresses, and four bytes of SHA-256 as a checksum. Guarantees that a token cut short, mistyped or made
//! by a newer release is told apart before anything is sent. Hides the secret when printed with `Debug` and overwrites
//! it when dropped. Whether the token is still good only the server says. `research/pki.md` §4 "Join".

use std::fmt;
use std::str::FromStr;

use tram_proto::join::{HostPort, TokenId, Uplink};
use tram_proto::limits;
use tram_proto::name::{NodeName, Zone};

use crate::hash::Sha256;

const PREFIX: &str = "trj1.";
const VERSION: u8 = 1;
/// Longest text that is looked at, in bytes; a full token with eight long addresses has about 7,000.
const TEXT_BYTES: usize = 16 * 1024;
const CHECKSUM_BYTES: usize = 4;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The secret half of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What the server keeps of it, and the key of the join request's mac.
    #[must_use]
    pub fn hash(&self) -> Sha256 {
        Sha256::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        std::hint::black_box(&self.0);
    }
}

/// Why a text is not a token that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Something else altogether.
    #[error("this is not a join token: a token is one line that begins with `trj1.`; make one with `tram token new`")]
    NotAToken,
    /// The end is missing.
    #[error("the join token is cut short: copy the whole line, to its last character")]
    CutShort,
    /// Some character differs.
    #[error("the join token has been altered or mistyped: copy it again")]
    Altered,
    /// Made by a newer release.
    #[error("the join token has version {0}, which this release does not know: update tramd on this machine")]
    TooNew(String),
}

/// Everything a new machine needs to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which record of the server's registry.
    pub id: TokenId,
    /// Proves that the holder was given the token.
    pub secret: Secret,
    /// SHA-256 of the root certificate, DER: whom to believe.
    pub root: Sha256,
    /// When it ends, Unix milliseconds; a hint, the server decides.
    pub expires_ms: u64,
    /// The overlay's zone.
    pub zone: Zone,
    /// What the new node will be called.
    pub name: NodeName,
    /// Where to join: 1 to [`limits::HELLO_ADDRESSES`], in order.
    pub join: Vec<HostPort>,
    /// Whom the new node will dial afterwards.
    pub uplink: Uplink,
}

impl Token {
    /// The text form: one line, without a newline. The only way to see the secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut body = vec![VERSION, 0, 0];
        body.extend_from_slice(&self.id.0);
        body.extend_from_slice(&self.secret.0);
        body.extend_from_slice(&self.root.0);
        body.extend_from_slice(&self.expires_ms.to_be_bytes());
        push_text(&mut body, self.zone.as_str());
        push_text(&mut body, self.name.as_str());
        push_text(&mut body, self.uplink.node.as_str());
        for addresses in [&self.uplink.addresses, &self.join] {
            body.push(u8::try_from(addresses.len()).unwrap_or(u8::MAX));
            addresses.iter().for_each(|address| push_text(&mut body, address.as_str()));
        }
        let length = u16::try_from(body.len() + CHECKSUM_BYTES).unwrap_or(u16::MAX);
        body[1..3].copy_from_slice(&length.to_be_bytes());
        let checksum = Sha256::of(&body);
        body.extend_from_slice(&checksum.0[..CHECKSUM_BYTES]);
        let text = format!("{PREFIX}{}", base32(&body));
        body.fill(0);
        std::hint::black_box(&body);
        text
    }
}

impl FromStr for Token {
    type Err = TokenError;

    /// Reads the text form. Blanks and line breaks, also inside, do not matter: mail programs wrap long lines.
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TEXT_BYTES {
            return Err(TokenError::NotAToken);
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace() && *c != '\u{feff}').collect();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(without_prefix(&text));
        };
        let body = unbase32(encoded)?;
        match body.first() {
            None => return Err(TokenError::CutShort),
            Some(&VERSION) => {}
            // A wrong first byte is more likely a typing error, unless the token holds together.
            Some(&version) if sound(&body) => return Err(TokenError::TooNew(version.to_string())),
            Some(_) => return Err(TokenError::Altered),
        }
        let declared = body.get(1..3).ok_or(TokenError::CutShort)?;
        let declared = usize::from(u16::from_be_bytes([declared[0], declared[1]]));
        if body.len() < declared {
            return Err(TokenError::CutShort);
        }
        // One text for one token: spare bits are zero and nothing follows.
        if !sound(&body) || body.len() != declared || base32(&body) != encoded {
            return Err(TokenError::Altered);
        }
        let mut fields = Fields(body.get(3..declared - CHECKSUM_BYTES).ok_or(TokenError::Altered)?);
        let token = fields.token()?;
        if fields.0.is_empty() { Ok(token) } else { Err(TokenError::Altered) }
    }
}

fn without_prefix(text: &str) -> TokenError {
    if !text.is_empty() && PREFIX.starts_with(text) {
        return TokenError::CutShort;
    }
    let version = text.strip_prefix("trj").and_then(|rest| rest.split_once('.')).map(|(version, _)| version);
    match version {
        Some(version) if !version.is_empty() && version.len() < 4 && version.bytes().all(|b| b.is_ascii_digit()) => {
            TokenError::TooNew(version.to_owned())
        }
        _ => TokenError::NotAToken,
    }
}

fn sound(body: &[u8]) -> bool {
    body.split_last_chunk::<CHECKSUM_BYTES>().is_some_and(|(rest, sum)| Sha256::of(rest).0[..CHECKSUM_BYTES] == sum[..])
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    // Names and addresses are at most 208 bytes long.
    body.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    body.extend_from_slice(text.as_bytes());
}

/// What is left to read. The checksum has held, so any fault here is a forgery.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], TokenError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(TokenError::Altered)?;
        self.0 = rest;
        Ok(*head)
    }

    fn text<T: FromStr>(&mut self) -> Result<T, TokenError> {
        let [length] = self.bytes()?;
        let (head, rest) = self.0.split_at_checked(length.into()).ok_or(TokenError::Altered)?;
        self.0 = rest;
        std::str::from_utf8(head).ok().and_then(|text| text.parse().ok()).ok_or(TokenError::Altered)
    }

    fn addresses(&mut self) -> Result<Vec<HostPort>, TokenError> {
        let [count] = self.bytes()?;
        if !(1..=limits::HELLO_ADDRESSES).contains(&count.into()) {
            return Err(TokenError::Altered);
        }
        (0..count).map(|_| self.text()).collect()
    }

    fn token(&mut self) -> Result<Token, TokenError> {
        Ok(Token {
            id: TokenId(self.bytes()?),
            secret: Secret::new(self.bytes()?),
            root: Sha256(self.bytes()?),
            expires_ms: u64::from_be_bytes(self.bytes()?),
            zone: self.text()?,
            name: self.text()?,
            uplink: Uplink { node: self.text()?, addresses: self.addresses()? },
            join: self.addresses()?,
        })
    }
}

fn base32(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(5) {
        let bits = group.iter().fold(0_u64, |bits, b| bits << 8 | u64::from(*b)) << (8 * (5 - group.len()));
        for at in 0..(group.len() * 8).div_ceil(5) {
            out.push(char::from(ALPHABET[(bits >> (35 - 5 * at) & 31) as usize]));
        }
    }
    out
}

/// Whole bytes only; left-over bits are the caller's to check.
fn unbase32(text: &str) -> Result<Vec<u8>, TokenError> {
    let (mut bits, mut held, mut out) = (0_u32, 0, Vec::new());
    for symbol in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == symbol).ok_or(TokenError::Altered)?;
        bits = (bits << 5 | u32::try_from(value).unwrap_or_default()) & 0xfff;
        held += 5;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let address = |text: &str| text.parse().expect("address");
        Token {
            id: TokenId(*b"0123456789abcdef"),
            secret: Secret::new([0xa5; 32]),
            root: Sha256([7; 32]),
            expires_ms: 1_800_000_000_000,
            zone: "tram.internal".parse().expect("zone"),
            name: "ninh-kieu.can-tho".parse().expect("name"),
            join: vec![address("203.0.113.5:7444"), address("[2001:db8::5]:7444")],
            uplink: Uplink { node: "can-tho".parse().expect("name"), addresses: vec![address("10.1.0.1:7443")] },
        }
    }

    #[track_caller]
    fn check(text: &str, expect: Result<(), TokenError>) {
        assert_eq!(text.parse::<Token>().map(|_| ()), expect, "{text:?}");
    }

    #[test]
    fn a_token_reads_back_what_it_prints() {
        let text = token().to_text();
        assert_eq!(text.parse(), Ok(token()));
        assert!(text.starts_with("trj1.") && text.len() < 400, "{} characters", text.len());
    }

    #[test]
    fn blanks_and_line_breaks_do_not_matter() {
        let text = token().to_text();
        check(&format!("\u{feff}  {text}\r\n\n"), Ok(()));
        check(&format!("{}\n {}", &text[..76], &text[76..]), Ok(()));
    }

    #[test]
    fn row_03_every_cut_is_called_a_cut() {
        let text = token().to_text();
        for end in 1..text.len() {
            check(&text[..end], Err(TokenError::CutShort));
        }
    }

    #[test]
    fn row_03_an_altered_character_never_passes() {
        let text = token().to_text();
        for at in 0..text.len() {
            for new in ['a', '2', '7', 'A', '.', 'é'] {
                if text.as_bytes()[at] == new as u8 {
                    continue;
                }
                let altered = format!("{}{new}{}", &text[..at], &text[at + 1..]);
                assert!(altered.parse::<Token>().is_err(), "{altered}");
            }
        }
        check(&format!("{text}a"), Err(TokenError::Altered));
        check(&format!("{text}{text}"), Err(TokenError::Altered));
    }

    #[test]
    fn other_texts_and_newer_tokens_are_told_apart() {
        for other in ["", "hello", "-----BEGIN CERTIFICATE-----", "trj", "trjx.aaaa", &"a".repeat(100_000)] {
            let expect = if other == "trj" { TokenError::CutShort } else { TokenError::NotAToken };
            check(other, Err(expect));
        }
        check("trj2.aaaa", Err(TokenError::TooNew("2".to_owned())));
    }

    #[test]
    fn the_secret_is_hidden() {
        let shown = format!("{:?}", token());
        assert!(
            shown.contains("hidden") && !shown.contains("165") && !shown.to_lowercase().contains("a5a5"),
            "{shown}"
        );
    }
}
