//! CA keys at rest: encrypted with a passphrase, and opened again.
//!
//! A locked key is PKCS #8 with PBES2 in PEM: scrypt with N = 2^14 (OpenSSL 3.0 refuses more), r = 8, p = 1, and
//! AES-256-CBC, so that `openssl pkey` opens it where there is no Tram. Owns that form and what a passphrase is.
//! Guarantees that a key is replaced whole or not at all, and only after the locked form was opened again. Never keeps
//! a passphrase or an opened key. `research/pki.md` §3f and §4 "Keys".

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::cipher::{
    AES_256, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use rcgen::KeyPair;
use rustls_pki_types::PrivatePkcs8KeyDer;
use unicode_normalization::UnicodeNormalization as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::files::{self, Access, FileError};
use crate::keystore::{self, CA_KEY, KeyError, ROOT_KEY};

/// Whoever tried a wrong passphrase waits so long for the answer.
pub const WRONG_DELAY: Duration = Duration::from_secs(1);
/// The longest passphrase, in bytes.
pub const PASSPHRASE_BYTES: usize = 1024;
/// The shortest passphrase that may be set, in characters; one that is made here has 29.
pub const PASSPHRASE_CHARS: usize = 12;

/// scrypt's N is 2 to this power: 16 MiB and some 50 ms.
pub(crate) const SCRYPT_LOG_N: u8 = 14;
const SCRYPT_R: u8 = 8;
const SCRYPT_P: u8 = 1;
/// What is still opened of keys that others have locked: 128 MiB.
const SCRYPT_MOST_LOG_N: u8 = 17;

/// Letters that are not taken for one another when a passphrase is copied by hand.
const LETTERS: &[u8; 23] = b"abcdefghjkmnpqrstuvwxyz";
/// Groups of a passphrase made here, and letters in each: 24 of 23 letters are 108 bits.
const GROUPS: usize = 6;
const GROUP: usize = 4;

/// Why something is no passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// Nothing there.
    #[error("the passphrase is empty")]
    Empty,
    /// Over [`PASSPHRASE_BYTES`].
    #[error("a passphrase has at most {PASSPHRASE_BYTES} bytes")]
    Long,
    /// Not text, or more than a line of it.
    #[error("a passphrase is one line of UTF-8 text")]
    Text,
    /// Under [`PASSPHRASE_CHARS`].
    #[error("a passphrase has at least {PASSPHRASE_CHARS} characters; without --passphrase-file a good one is made")]
    Short,
}

/// What opens a locked key or a backup. Hidden when printed, wiped when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(hidden)")
    }
}

impl Passphrase {
    /// The passphrase in a file or a line: without the line break at its end, in normal form C, because input methods
    /// for Vietnamese write the same letter in two ways.
    ///
    /// # Errors
    /// [`PassphraseError`].
    pub fn of(bytes: &[u8]) -> Result<Self, PassphraseError> {
        let text = std::str::from_utf8(bytes).map_err(|_| PassphraseError::Text)?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        match text {
            "" => return Err(PassphraseError::Empty),
            long if long.len() > PASSPHRASE_BYTES => return Err(PassphraseError::Long),
            lines if lines.chars().any(char::is_control) => return Err(PassphraseError::Text),
            _ => {}
        }
        // Room for the longest, so that growing leaves no copy behind.
        let mut normal = Zeroizing::new(String::with_capacity(3 * text.len()));
        normal.extend(text.nfc());
        Ok(Self(normal))
    }

    /// A new one: six groups of four letters, 108 random bits.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut text = Zeroizing::new(String::with_capacity(GROUPS * (GROUP + 1)));
        let mut letters = 0;
        while letters < GROUPS * GROUP {
            let [byte] = keystore::random()?;
            // 253 is 11 times 23: bytes above it would make some letters likelier.
            if byte >= 253 {
                continue;
            }
            if letters > 0 && letters % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
            letters += 1;
        }
        Ok(Self(text))
    }

    /// Its text, to be shown once.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it may be set.
    ///
    /// # Errors
    /// [`PassphraseError::Short`].
    pub fn check_length(&self) -> Result<(), PassphraseError> {
        if self.0.chars().count() < PASSPHRASE_CHARS { Err(PassphraseError::Short) } else { Ok(()) }
    }

    /// Key material of it.
    pub(crate) fn derive<const N: usize>(&self, salt: &[u8], log_n: u8) -> Result<Zeroizing<[u8; N]>, KeyError> {
        let mut key = Zeroizing::new([0; N]);
        let cost = scrypt::Params::new(log_n, SCRYPT_R.into(), SCRYPT_P.into()).map_err(|_| KeyError::Random)?;
        scrypt::scrypt(self.0.as_bytes(), salt, &cost, key.as_mut_slice()).map_err(|_| KeyError::Random)?;
        Ok(key)
    }
}

const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";

/// Whether the text of a key file is a locked key.
pub(crate) fn is_locked(pem: &[u8]) -> bool {
    pem.windows(BEGIN.len()).any(|part| part == BEGIN.as_bytes())
}

/// Reads a key, with the passphrase where it is locked.
///
/// # Errors
/// [`KeyError::WrongPassphrase`], or what is wrong with the file.
pub fn open_key(path: &Path, passphrase: &Passphrase) -> Result<PrivatePkcs8KeyDer<'static>, KeyError> {
    let pem = Zeroizing::new(files::read(path, Access::Secret)?);
    if !is_locked(&pem) {
        return keystore::key_of(path, &pem);
    }
    // PEM is read by label, and rustls knows none of encrypted keys.
    let renamed = String::from_utf8_lossy(&pem).replace(" ENCRYPTED PRIVATE KEY-----", " PRIVATE KEY-----");
    let sealed = keystore::key_of(path, renamed.as_bytes())?;
    let sealed = Sealed::decode(sealed.secret_pkcs8_der())
        .map_err(|why| KeyError::Pem { path: path.to_owned(), why: why.to_owned() })?;
    let wrong = || KeyError::WrongPassphrase { path: path.to_owned() };
    let mut der = PrivatePkcs8KeyDer::from(sealed.open(passphrase)?.ok_or_else(wrong)?);
    // One wrong passphrase in 256 leaves padding that could be right, but no key.
    if KeyPair::try_from(&der).is_err() {
        der.zeroize();
        return Err(wrong());
    }
    Ok(der)
}

/// Locks a key that is not locked, in place.
///
/// # Errors
/// [`KeyError`]; the old file is untouched then.
pub fn seal_key(path: &Path, passphrase: &Passphrase) -> Result<(), KeyError> {
    let mut der = keystore::read_key(path)?;
    let sealed = Sealed::new(der.secret_pkcs8_der(), passphrase)?;
    let same = sealed.open(passphrase)?.is_some_and(|opened| *opened == *der.secret_pkcs8_der());
    der.zeroize();
    if !same {
        let why = "locking it failed: it did not open again".to_owned();
        return Err(KeyError::Pem { path: path.to_owned(), why });
    }
    let mut pem = String::new();
    keystore::push_pem("ENCRYPTED PRIVATE KEY", &sealed.encode(), &mut pem);
    Ok(files::write(path, pem.as_bytes(), Access::Secret)?)
}

fn unseal_key(path: &Path, passphrase: &Passphrase) -> Result<(), KeyError> {
    let mut der = open_key(path, passphrase)?;
    let mut pem = Zeroizing::new(String::with_capacity(2 * der.secret_pkcs8_der().len() + 128));
    keystore::push_pem("PRIVATE KEY", der.secret_pkcs8_der(), &mut pem);
    der.zeroize();
    Ok(files::write(path, pem.as_bytes(), Access::Secret)?)
}

/// The CA keys in `dir`, the root's first, with whether each is locked.
///
/// # Errors
/// [`KeyError`].
pub fn ca_keys(dir: &Path) -> Result<Vec<(PathBuf, bool)>, KeyError> {
    let mut keys = Vec::new();
    for path in [ROOT_KEY, CA_KEY].map(|name| dir.join(name)) {
        match files::read(&path, Access::Secret).map(Zeroizing::new) {
            Ok(pem) => keys.push((path, is_locked(&pem))),
            Err(FileError::Missing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(keys)
}

/// Locks every CA key in `dir`; what this passphrase has locked already stays as it is, so a half-done set can be
/// repeated. Answers which keys there are.
///
/// # Errors
/// [`KeyError`]: nothing is changed when one of them cannot be read or is locked with another passphrase.
pub fn set(dir: &Path, passphrase: &Passphrase) -> Result<Vec<PathBuf>, KeyError> {
    change(dir, passphrase, |path, locked| if locked { Ok(()) } else { seal_key(path, passphrase) })
}

/// Takes the encryption of every CA key in `dir` away. Answers which keys there are.
///
/// # Errors
/// As [`set`].
pub fn remove(dir: &Path, passphrase: &Passphrase) -> Result<Vec<PathBuf>, KeyError> {
    change(dir, passphrase, |path, locked| if locked { unseal_key(path, passphrase) } else { Ok(()) })
}

/// Whether every CA key in `dir` can be read, with the passphrase where it is locked.
///
/// # Errors
/// [`KeyError`].
pub fn check(dir: &Path, passphrase: &Passphrase) -> Result<(), KeyError> {
    files::check_dir(dir)?;
    for (path, _) in ca_keys(dir)? {
        open_key(&path, passphrase)?.zeroize();
    }
    Ok(())
}

fn change(
    dir: &Path,
    passphrase: &Passphrase,
    one: impl Fn(&Path, bool) -> Result<(), KeyError>,
) -> Result<Vec<PathBuf>, KeyError> {
    check(dir, passphrase)?;
    ca_keys(dir)?.into_iter().map(|(path, locked)| one(&path, locked).map(|()| path)).collect()
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
/// 1.2.840.113549.1.5.13
const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
/// 1.3.6.1.4.1.11591.4.11
const SCRYPT: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x04, 0x0b];
/// 2.16.840.1.101.3.4.1.42
const AES_256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];

/// EncryptedPrivateKeyInfo (RFC 5958) with PBES2 (RFC 8018) and scrypt (RFC 7914), the one kind written here.
struct Sealed {
    salt: Vec<u8>,
    log_n: u8,
    iv: [u8; 16],
    ciphertext: Vec<u8>,
}

impl Sealed {
    fn new(key: &[u8], passphrase: &Passphrase) -> Result<Self, KeyError> {
        let (salt, iv) = (keystore::random::<16>()?.to_vec(), keystore::random::<16>()?);
        let secret = passphrase.derive::<32>(&salt, SCRYPT_LOG_N)?;
        // With room for the padding, so that growing leaves no copy of the key behind.
        let mut ciphertext = Vec::with_capacity(key.len() + 16);
        ciphertext.extend_from_slice(key);
        let context = EncryptionContext::Iv128(FixedLength::from(&iv));
        UnboundCipherKey::new(&AES_256, secret.as_slice())
            .and_then(PaddedBlockEncryptingKey::cbc_pkcs7)
            .and_then(|aes| aes.less_safe_encrypt(&mut ciphertext, context))
            .map_err(|_| KeyError::Random)?;
        Ok(Self { salt, log_n: SCRYPT_LOG_N, iv, ciphertext })
    }

    /// The key; `None` when the passphrase is wrong.
    fn open(&self, passphrase: &Passphrase) -> Result<Option<Vec<u8>>, KeyError> {
        let secret = passphrase.derive::<32>(&self.salt, self.log_n)?;
        let mut work = Zeroizing::new(self.ciphertext.clone());
        let context = DecryptionContext::Iv128(FixedLength::from(&self.iv));
        let opened = UnboundCipherKey::new(&AES_256, secret.as_slice())
            .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
            .and_then(|aes| aes.decrypt(&mut work, context).map(|key| key.to_vec()));
        Ok(opened.ok())
    }

    fn encode(&self) -> Vec<u8> {
        let n = (1_u32 << self.log_n).to_be_bytes();
        let lead = n.iter().take_while(|byte| **byte == 0).count();
        let costs = [tlv(INTEGER, &[&n[lead..]]), tlv(INTEGER, &[&[SCRYPT_R]]), tlv(INTEGER, &[&[SCRYPT_P]])].concat();
        let kdf = tlv(SEQUENCE, &[&tlv(OID, &[SCRYPT]), &tlv(SEQUENCE, &[&tlv(OCTETS, &[&self.salt]), &costs])]);
        let cipher = tlv(SEQUENCE, &[&tlv(OID, &[AES_256_CBC]), &tlv(OCTETS, &[&self.iv])]);
        let algorithm = tlv(SEQUENCE, &[&tlv(OID, &[PBES2]), &tlv(SEQUENCE, &[&kdf, &cipher])]);
        tlv(SEQUENCE, &[&algorithm, &tlv(OCTETS, &[&self.ciphertext])])
    }

    fn decode(der: &[u8]) -> Result<Self, &'static str> {
        Self::read(der).ok_or(
            "it is locked in a form that Tram does not write: take the lock away with `openssl pkey`, then lock it with `tram pki lock --set`",
        )
    }

    fn read(mut der: &[u8]) -> Option<Self> {
        let mut info = take(&mut der, SEQUENCE).filter(|_| der.is_empty())?;
        let mut algorithm = take(&mut info, SEQUENCE)?;
        let ciphertext = take(&mut info, OCTETS).filter(|bytes| info.is_empty() && !bytes.is_empty())?;
        take(&mut algorithm, OID).filter(|oid| *oid == PBES2)?;
        let mut pbes2 = take(&mut algorithm, SEQUENCE)?;
        let (mut kdf, mut cipher) = (take(&mut pbes2, SEQUENCE)?, take(&mut pbes2, SEQUENCE)?);
        take(&mut kdf, OID).filter(|oid| *oid == SCRYPT)?;
        let mut costs = take(&mut kdf, SEQUENCE)?;
        let salt = take(&mut costs, OCTETS).filter(|salt| (8..=64).contains(&salt.len()))?;
        let n = take(&mut costs, INTEGER).filter(|n| n.len() <= 4)?.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b));
        let log_n = u8::try_from(n.checked_ilog2()?).ok()?;
        let costs = (take(&mut costs, INTEGER)?, take(&mut costs, INTEGER)?);
        take(&mut cipher, OID).filter(|oid| *oid == AES_256_CBC)?;
        let iv = take(&mut cipher, OCTETS)?.try_into().ok()?;
        let known =
            n.is_power_of_two() && (1..=SCRYPT_MOST_LOG_N).contains(&log_n) && costs == (&[SCRYPT_R], &[SCRYPT_P]);
        known.then(|| Self { salt: salt.to_vec(), log_n, iv, ciphertext: ciphertext.to_vec() })
    }
}

/// One DER element of less than 64 KiB.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let [.., high, low] = length.to_be_bytes();
    let mut out = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// Takes one DER element of less than 64 KiB off the front; answers its content.
fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (length, rest) = match **input {
        [found, length @ 0..=0x7f, ref rest @ ..] if found == tag => (usize::from(length), rest),
        [found, 0x81, length, ref rest @ ..] if found == tag => (usize::from(length), rest),
        [found, 0x82, high, low, ref rest @ ..] if found == tag => (usize::from(high) << 8 | usize::from(low), rest),
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    *input = after;
    Some(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::authority::Authority;
    use crate::fixtures::Overlay;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::of(text.as_bytes()).expect("a passphrase")
    }

    #[test]
    fn a_locked_ca_says_how_to_unlock_it_and_opens_with_the_passphrase_alone() {
        let overlay = Overlay::new("tram.internal");
        let word = passphrase("correct horse battery");
        let plain = fs::read(overlay.dir().join(CA_KEY)).expect("readable");
        let keys = set(overlay.dir(), &word).expect("locked");
        assert_eq!(keys, [ROOT_KEY, CA_KEY].map(|name| overlay.dir().join(name)));
        for key in &keys {
            assert_eq!(fs::metadata(key).expect("there").mode() & 0o777, 0o600);
            assert!(fs::read_to_string(key).expect("text").starts_with(BEGIN));
        }
        let text = Authority::open(overlay.dir()).expect_err("locked").to_string();
        assert!(text.contains("ca.key") && text.contains("`tram pki unlock`"), "{text}");
        assert_eq!(Authority::unlock(overlay.dir(), &word).expect("opens").root(), overlay.authority().root());

        remove(overlay.dir(), &word).expect("unlocked");
        assert_eq!(fs::read(overlay.dir().join(CA_KEY)).expect("readable"), plain);
        Authority::open(overlay.dir()).expect("opens");
    }

    #[test]
    fn row_22_a_wrong_passphrase_changes_nothing_and_says_so() {
        let overlay = Overlay::new("tram.internal");
        let word = passphrase("correct horse battery");
        set(overlay.dir(), &word).expect("locked");
        let before = fs::read(overlay.dir().join(CA_KEY)).expect("readable");
        // Padding alone would let one in 256 pass.
        let path = overlay.dir().join(CA_KEY);
        for number in 0..20 {
            let wrong = passphrase(&format!("wrong horse battery {number}"));
            let error = open_key(&path, &wrong).expect_err("wrong");
            assert_eq!(error.to_string(), format!("the passphrase does not open {}", path.display()));
        }
        let wrong = passphrase("another passphrase");
        for refused in [set(overlay.dir(), &wrong), remove(overlay.dir(), &wrong)] {
            assert!(matches!(refused, Err(KeyError::WrongPassphrase { .. })), "{refused:?}");
        }
        assert_eq!(fs::read(&path).expect("readable"), before);
        // The right one again: nothing to do, nothing changed.
        set(overlay.dir(), &word).expect("locked already");
        assert_eq!(fs::read(&path).expect("readable"), before);
    }

    #[test]
    fn row_20_a_lock_that_cannot_be_written_leaves_every_key_as_it_was() {
        let overlay = Overlay::new("tram.internal");
        let word = passphrase("correct horse battery");
        // A directory where the temporary file goes: works for root too, which ignores permissions.
        fs::create_dir(overlay.dir().join(".ca.key.tmp")).expect("made");
        set(overlay.dir(), &word).expect_err("cannot write");
        Authority::open(overlay.dir()).expect("the CA's key is as it was");
        // The root's key came first and is locked: the same command finishes.
        fs::remove_dir(overlay.dir().join(".ca.key.tmp")).expect("removed");
        assert_eq!(set(overlay.dir(), &word).expect("locked").len(), 2);
        assert!(ca_keys(overlay.dir()).expect("read").iter().all(|(_, locked)| *locked));
    }

    #[test]
    fn a_passphrase_is_one_line_in_normal_form() {
        for same in ["Cần Thơ đẹp lắm\n", "Cần Thơ đẹp lắm\r\n", "\u{feff}Cần Thơ đẹp lắm"] {
            assert_eq!(passphrase(same).as_str(), "Cần Thơ đẹp lắm");
        }
        // The same letters as one character each and as letter and marks.
        let decomposed: String = "Cần Thơ đẹp lắm".nfd().collect();
        assert_ne!(decomposed, "Cần Thơ đẹp lắm");
        assert_eq!(passphrase(&decomposed).as_str(), "Cần Thơ đẹp lắm");
        for (bad, why) in [
            (&b""[..], PassphraseError::Empty),
            (b"\n", PassphraseError::Empty),
            (b"two\nlines", PassphraseError::Text),
            (b"\xff\xfe", PassphraseError::Text),
            (&[b'a'; PASSPHRASE_BYTES + 1], PassphraseError::Long),
        ] {
            assert_eq!(Passphrase::of(bad).err(), Some(why));
        }
        assert_eq!(passphrase("elf letters").check_length(), Err(PassphraseError::Short));
        assert!(!format!("{:?}", passphrase("a secret word")).contains("secret"));
    }

    #[test]
    fn a_passphrase_made_here_is_easy_to_copy_and_has_100_bits() {
        let made = Passphrase::generate().expect("made");
        assert_eq!(made.check_length(), Ok(()));
        let groups: Vec<&str> = made.as_str().split('-').collect();
        assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [GROUP; GROUPS]);
        assert!(groups.iter().all(|group| group.bytes().all(|letter| LETTERS.contains(&letter))), "{groups:?}");
        assert!((GROUPS * GROUP) as f64 * (LETTERS.len() as f64).log2() >= 100.0);
        assert_ne!(made.as_str(), Passphrase::generate().expect("made").as_str());
    }

    #[test]
    fn a_key_locked_in_another_form_is_refused_with_a_cure() {
        let overlay = Overlay::new("tram.internal");
        let path = overlay.dir().join(CA_KEY);
        let sealed = Sealed::new(b"key", &passphrase("correct horse battery")).expect("sealed");
        let good = sealed.encode();
        assert!(Sealed::read(&good).is_some());
        for cut in 0..good.len() {
            assert!(Sealed::read(&good[..cut]).is_none(), "{cut}");
        }
        // A cost that would take 512 GiB of memory.
        let costly = Sealed { log_n: 29, ..sealed };
        let mut pem = String::new();
        keystore::push_pem("ENCRYPTED PRIVATE KEY", &costly.encode(), &mut pem);
        files::write(&path, pem.as_bytes(), Access::Secret).expect("written");
        let text = open_key(&path, &passphrase("correct horse battery")).expect_err("refused").to_string();
        assert!(text.contains("ca.key") && text.contains("openssl pkey"), "{text}");
    }

    /// Skipped, and said to be, where OpenSSL is not installed: nothing else opens the form but ourselves.
    #[test]
    fn openssl_opens_a_locked_key() {
        let openssl = |arguments: &[&str]| {
            let started = Command::new("openssl").args(arguments).stdin(Stdio::null()).output();
            started.map(|output| (output.status.success(), output.stdout))
        };
        if openssl(&["version"]).is_err() {
            eprintln!("skipped: openssl_opens_a_locked_key, because openssl is not installed");
            return;
        }
        let overlay = Overlay::new("tram.internal");
        let word = passphrase("Cần Thơ đẹp lắm");
        set(overlay.dir(), &word).expect("locked");
        for name in [ROOT_KEY, CA_KEY] {
            let path = overlay.dir().join(name);
            let path = path.to_str().expect("UTF-8");
            let (opened, der) =
                openssl(&["pkey", "-in", path, "-passin", &format!("pass:{}", word.as_str()), "-outform", "DER"])
                    .expect("runs");
            assert!(opened, "{name}");
            let ours = open_key(Path::new(path), &word).expect("opens");
            let public =
                |der: PrivatePkcs8KeyDer<'_>| KeyPair::try_from(&der).expect("a key").public_key_raw().to_vec();
            assert_eq!(public(der.into()), public(ours), "{name}");
            let (opened, _) = openssl(&["pkey", "-in", path, "-passin", "pass:wrong", "-noout"]).expect("runs");
            assert!(!opened, "{name}");
        }
    }
}
