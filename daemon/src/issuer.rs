//! The CA of a node that holds one: tokens for `tram token`, answers for the join listener, the lock of its key.
//!
//! One lock around the registry and the key, taken only on threads that may block: every change is on disk before it is
//! answered. A key that is locked or cannot be read stops issuing and nothing else.

pub mod duties;
pub mod records;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::warn;
use tram_pki::authority::{Authority, AuthorityError, Root, Scope};
use tram_pki::backup::Restored;
use tram_pki::bundle::Known;
use tram_pki::enrol::{self, Cause, Exporter, offline};
use tram_pki::keystore::{CA_KEY, CA_PEM, KeyError};
use tram_pki::lock::{self, Passphrase};
use tram_pki::registry::{self, Entry, Registry, RegistryError, TokenState};
use tram_pki::rotate;
use tram_proto::id::NodeId;
use tram_proto::join::{Answer, Refusal, Request, Uplink};
use tram_proto::limits;
use tram_proto::name::NodeName;
use tram_proto::offline::FileRequest;
use tram_relay::input::Names;

use crate::clock::Clock;
use crate::local::station::{Issuer, IssuerError, KeyOrder, Registered, SignOrder, TokenFacts, TokenMade, TokenOrder};
use crate::setup::Reachable;
use crate::shelf::Shelf;

/// The credential of systemd that holds the passphrase, in `$CREDENTIALS_DIRECTORY`.
pub const CREDENTIAL: &str = "tram-ca-passphrase";

/// The CA's key as far as it is open.
enum Key {
    /// Why it is not, with the cure.
    Locked {
        why: String,
    },
    Open(Box<Authority>),
}

impl Key {
    /// As it stands on the disk. `credentials` is the directory in which systemd puts the passphrase.
    fn at_start(pki: &Path, credentials: Option<&Path>) -> Self {
        if !pki.join(CA_PEM).exists() {
            let why = "the root's holder has not certified it yet: it is asked again and again while a link is up";
            return Self::Locked { why: why.to_owned() };
        }
        let failed = match Authority::open(pki) {
            Ok(authority) => return Self::Open(Box::new(authority)),
            Err(AuthorityError::Key(KeyError::Locked { path })) => KeyError::Locked { path },
            Err(error) => return Self::Locked { why: error.to_string() },
        };
        let credential = credentials.map(|dir| dir.join(CREDENTIAL)).filter(|path| path.exists());
        let Some(credential) = credential else { return Self::Locked { why: failed.to_string() } };
        let opened = || -> Result<Authority, String> {
            let text = std::fs::read(&credential).map(zeroize::Zeroizing::new).map_err(|error| error.to_string())?;
            let passphrase = Passphrase::of(&text).map_err(|error| error.to_string())?;
            Authority::unlock(pki, &passphrase).map_err(|error| error.to_string())
        };
        match opened() {
            Ok(authority) => Self::Open(Box::new(authority)),
            Err(why) => Self::Locked { why: format!("{failed}; the passphrase in {}: {why}", credential.display()) },
        }
    }
}

/// What one change works on.
struct Inside {
    key: Key,
    /// The roots that a passphrase has opened.
    roots: Vec<Arc<Root>>,
    registry: Registry,
}

/// The authority, its registry, and where they can be reached.
pub struct Desk {
    pki: PathBuf,
    inside: Mutex<Inside>,
    /// This CA's key is in use elsewhere as well.
    twin: AtomicBool,
    /// Since the start, for a CA that came from a backup: a neighbour has no newer list of this CA, and the parent no line
    /// of its audit log that is missing here.
    lists_told: AtomicBool,
    log_told: AtomicBool,
    /// One attempt at a time, so that a second of delay is a second for all.
    unlocking: Mutex<()>,
    shelf: Arc<Shelf>,
    id: NodeId,
    name: NodeName,
    reachable: Result<Reachable, String>,
    clock: Clock,
    /// Counts changes of the registry and the key.
    changed: watch::Sender<u64>,
}

impl Desk {
    /// Brings them together. A CA whose key is locked or cannot be read is one that issues nothing.
    ///
    /// # Errors
    /// [`RegistryError`]: which names exist has to be known.
    pub fn open(
        pki: &Path,
        credentials: Option<&Path>,
        shelf: Arc<Shelf>,
        (id, name): (NodeId, NodeName),
        reachable: Result<Reachable, String>,
        clock: Clock,
    ) -> Result<Self, RegistryError> {
        let registry = Registry::open(pki)?;
        let inside = Inside { key: Key::at_start(pki, credentials), roots: Vec::new(), registry };
        let (inside, changed) = (Mutex::new(inside), watch::Sender::new(0));
        let pki = pki.to_owned();
        let no = || AtomicBool::new(false);
        let (twin, lists_told, log_told) = (no(), no(), no());
        let desk = Self {
            pki,
            inside,
            twin,
            lists_told,
            log_told,
            unlocking: Mutex::default(),
            shelf,
            id,
            name,
            reachable,
            clock,
            changed,
        };
        for why in desk.problems() {
            warn!(%why, "nothing is issued here");
        }
        Ok(desk)
    }

    /// Changes of the registry and the key, to be looked at.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The root certificate; `None` while nothing can be issued.
    #[must_use]
    pub fn root(&self) -> Option<CertificateDer<'static>> {
        match &self.inside().key {
            Key::Open(authority) => Some(authority.root().clone()),
            Key::Locked { .. } => None,
        }
    }

    /// Names that exist: nodes, and those that a live token will admit; and which names are this node's to judge at all.
    #[must_use]
    pub fn names(&self) -> Names {
        let now_ms = self.clock.wall_ms();
        let scopes: Vec<Scope> = self.shelf.with(|bundle| {
            let live = |k: &&Known| k.ca.not_after_ms > now_ms && !bundle.is_revoked(k);
            bundle.authorities().filter(live).map(|k| k.ca.scope.clone()).collect()
        });
        let own = self.shown_scope().map(|(_, scope)| scope);
        let below = match own {
            Some(Scope::Overlay) => None,
            _ => Some(self.name.clone()),
        };
        let registry = &self.inside().registry;
        let tokens = registry.tokens().filter(|t| t.is_live(now_ms)).map(|t| (t.name.clone(), t.node));
        let known = tokens.chain(registry.nodes().map(|n| (n.name.clone(), n.id))).collect();
        let apex = |scope: Scope| {
            let apex = scope.apex().filter(|apex| **apex != self.name)?;
            registry.node(apex).map(|node| (apex.clone(), node.id))
        };
        let elsewhere = scopes.into_iter().filter_map(apex).collect();
        Names { known, below, elsewhere }
    }

    /// Until when the join listener has to be open, Unix milliseconds.
    #[must_use]
    pub fn join_open_until_ms(&self) -> Option<u64> {
        let inside = self.inside();
        let open = matches!(inside.key, Key::Open(_));
        inside.registry.join_open_until_ms(self.clock.wall_ms()).filter(|_| open)
    }

    /// Answers a request to join. Blocks on the disk. While nothing may be issued, the answer is to come again, and the
    /// token is not spent.
    #[must_use]
    pub fn answer(&self, request: &Request, exporter: &Exporter, source: &str) -> (Answer, Option<Cause>) {
        let now_ms = self.clock.wall_ms();
        let mut inside = self.inside();
        let Inside { key, registry, .. } = &mut *inside;
        let answer = match self.may_issue(key) {
            Ok(authority) => enrol::answer(registry, authority, request, exporter, source, now_ms),
            Err(why) => {
                let name = registry.token(&request.token).map(|token| token.name.clone());
                let cause = name.map(|name| Cause::Failed { name, why });
                let cause = cause.unwrap_or(Cause::UnknownToken(request.token));
                (Answer { clock_ms: now_ms, verdict: Err(Refusal::Unavailable) }, Some(cause))
            }
        };
        drop(inside);
        self.tell();
        answer
    }

    /// The authority, unless it is locked or came from a backup and may know less than others do.
    fn may_issue<'a>(&self, key: &'a Key) -> Result<&'a Authority, String> {
        let authority = match key {
            Key::Open(authority) => authority,
            Key::Locked { why } => return Err(why.clone()),
        };
        self.suspended().map_or(Ok(authority), Err)
    }

    /// Why nothing may be changed yet: the PKI came from a backup. The audit log too is to go on where the parent's copy
    /// ends.
    fn suspended(&self) -> Option<String> {
        if self.twin.load(Ordering::Relaxed) {
            return Some("its key is in use on another machine as well, or these files are an old copy".to_owned());
        }
        match Restored::load(&self.pki) {
            Ok(restored) => restored.filter(|restored| !restored.accepted).map(|restored| {
                format!(
                    "{restored}: it issues again when a neighbour or the parent has told what came after; if nobody can, run `tram pki restore --accept-loss`"
                )
            }),
            Err(error) => Some(error.to_string()),
        }
    }

    fn tell(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        // A panic while it was held left the files whole: changes are made on disk first.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes in the audit log what was done with the key.
    fn note(&self, inside: &mut Inside, event: &'static str, by: &str) -> Result<(), IssuerError> {
        if self.suspended().is_some() {
            warn!(event, by, "not in the audit log: it waits for what came after the backup");
            return Ok(());
        }
        let entry = Entry { actor: by, ..Entry::new(event, self.clock.wall_ms()) };
        inside.registry.audit().append(&entry).map_err(|error| IssuerError::Failed(error.to_string()))
    }

    fn uplink(&self, text: Option<&str>, reachable: &Reachable) -> Result<Uplink, IssuerError> {
        let Some(text) = text else {
            if reachable.overlay.is_empty() {
                let why = "this node listens nowhere ([listen] overlay): name the new node's uplink with --uplink NODE@HOST:PORT";
                return Err(IssuerError::Invalid(why.to_owned()));
            }
            return Ok(Uplink { node: self.name.clone(), addresses: reachable.overlay.clone() });
        };
        read_uplink(text)
    }
}

impl Issuer for Desk {
    fn new_token(&self, order: TokenOrder) -> Result<TokenMade, IssuerError> {
        let reachable = self.reachable.as_ref().map_err(|why| IssuerError::Invalid(why.clone()))?;
        let door = order.door;
        let first = door.iter().flat_map(|(_, addresses)| addresses);
        let join = first.chain(&reachable.join).take(limits::HELLO_ADDRESSES).cloned().collect();
        let order = registry::TokenOrder {
            uplink: self.uplink(order.uplink.as_deref(), reachable)?,
            name: order.name,
            role: order.role,
            lifetime_ms: order.ttl_ms.unwrap_or(registry::TOKEN_MS),
            join,
            by: order.by,
        };
        let mut inside = self.inside();
        let Inside { key, registry, .. } = &mut *inside;
        let authority = self.may_issue(key).map_err(IssuerError::Locked)?;
        self.not_closer(authority, &order.name, &format!("token new {}", order.name))?;
        let token = registry.new_token(authority, &order, self.clock.wall_ms()).map_err(issuer_error)?;
        drop(inside);
        if let Some((node, _)) = door {
            self.open_door(node, token.expires_ms, &reachable.join)?;
        }
        self.tell();
        Ok(TokenMade { id: token.id.to_string(), line: token.to_text(), expires_ms: token.expires_ms })
    }

    fn tokens(&self) -> Result<Vec<TokenFacts>, IssuerError> {
        let now_ms = self.clock.wall_ms();
        let registry = &self.inside().registry;
        let facts = registry.tokens().map(|token| TokenFacts {
            id: token.id.to_string(),
            name: token.name.clone(),
            role: token.role,
            state: match token.state {
                TokenState::New if token.is_live(now_ms) => "live",
                TokenState::New => "expired",
                TokenState::Cancelled => "cancelled",
                TokenState::FrozenByKey | TokenState::FrozenByProofs => "frozen",
                _ => "used",
            },
            created_ms: token.created_ms,
            expires_ms: token.expires_ms,
        });
        Ok(facts.collect())
    }

    fn cancel_token(&self, token: &str) -> Result<(), IssuerError> {
        if let Some(why) = self.suspended() {
            return Err(IssuerError::Locked(why));
        }
        let mut inside = self.inside();
        let registry = &mut inside.registry;
        let by_id = registry.tokens().find(|t| t.id.to_string() == token).map(|t| t.name.clone());
        let unknown = || IssuerError::NoSuchToken(token.to_owned());
        let name = match by_id {
            Some(name) => name,
            None => token.parse().map_err(|_| unknown())?,
        };
        registry.cancel_token(&name, "admin socket", self.clock.wall_ms()).map_err(issuer_error)?;
        drop(inside);
        self.tell();
        Ok(())
    }

    fn sign(&self, order: SignOrder) -> Result<Vec<u8>, IssuerError> {
        let invalid = |error: &dyn std::fmt::Display| IssuerError::Invalid(error.to_string());
        let request = FileRequest::decode(&order.request).map_err(|error| invalid(&error))?;
        let order = offline::SignOrder { role: order.role, uplink: read_uplink(&order.uplink)?, by: order.by };
        let mut inside = self.inside();
        let Inside { key, registry, .. } = &mut *inside;
        let authority = self.may_issue(key).map_err(IssuerError::Locked)?;
        self.not_closer(authority, &request.name, "pki sign")?;
        let signed = offline::sign(registry, authority, &request, &order, self.clock.wall_ms());
        drop(inside);
        let answer = signed.map_err(|error| match error {
            offline::SignError::Registry(error) => issuer_error(error),
            offline::SignError::Authority(error) => IssuerError::Failed(error.to_string()),
            error => invalid(&error),
        })?;
        self.tell();
        Ok(answer.encode())
    }

    fn nodes(&self) -> Result<Vec<Registered>, IssuerError> {
        let registry = &self.inside().registry;
        let nodes = registry.nodes().map(|node| Registered {
            node: node.id,
            name: node.name.clone(),
            role: node.role,
            not_after_ms: node.certificates.iter().map(|c| c.not_after_ms).max().unwrap_or(0),
        });
        Ok(nodes.collect())
    }

    fn key(&self, order: KeyOrder, by: &str) -> Result<Vec<String>, IssuerError> {
        let one_at_a_time = self.unlocking.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.change_key(order, by);
        if matches!(done, Err(IssuerError::WrongPassphrase(_))) {
            std::thread::sleep(lock::WRONG_DELAY);
        }
        drop(one_at_a_time);
        self.tell();
        done
    }

    fn problems(&self) -> Vec<String> {
        let inside = self.inside();
        let locked = self.may_issue(&inside.key).err();
        locked.map(|why| format!("this node issues no certificates: {why}")).into_iter().collect()
    }
}

impl Desk {
    fn change_key(&self, order: KeyOrder, by: &str) -> Result<Vec<String>, IssuerError> {
        match order {
            KeyOrder::Unlock(passphrase) => {
                let opened = Authority::unlock(&self.pki, &passphrase).map_err(|error| self.no_key(error, by))?;
                let mut inside = self.inside();
                self.note(&mut inside, "ca_unlocked", by)?;
                inside.key = Key::Open(Box::new(opened));
                // The root's key has the same passphrase, or none.
                let roots = rotate::unlock_roots(&self.pki, &passphrase).unwrap_or_default();
                inside.roots = roots.into_iter().map(Arc::new).collect();
                drop(inside);
                self.publish(false);
                Ok(Vec::new())
            }
            KeyOrder::Lock => {
                let ca = self.pki.join(CA_KEY);
                let keys = lock::ca_keys(&self.pki).map_err(|error| self.no_key(error.into(), by))?;
                if !keys.contains(&(ca.clone(), true)) {
                    let why = "is not locked on the disk: set a passphrase with `tram pki lock --set`";
                    return Err(IssuerError::NotLocked(format!("{} {why}", ca.display())));
                }
                let mut inside = self.inside();
                self.note(&mut inside, "ca_locked", by)?;
                inside.key = Key::Locked { why: KeyError::Locked { path: ca }.to_string() };
                inside.roots.clear();
                Ok(Vec::new())
            }
            KeyOrder::Set(passphrase) => {
                passphrase.check_length().map_err(|error| IssuerError::Invalid(error.to_string()))?;
                self.change_files("lock_set", by, &passphrase, lock::set)
            }
            KeyOrder::Remove(passphrase) => self.change_files("lock_removed", by, &passphrase, lock::remove),
        }
    }

    fn change_files(
        &self,
        event: &'static str,
        by: &str,
        passphrase: &Passphrase,
        change: fn(&Path, &Passphrase) -> Result<Vec<PathBuf>, KeyError>,
    ) -> Result<Vec<String>, IssuerError> {
        lock::check(&self.pki, passphrase).map_err(|error| self.no_key(error.into(), by))?;
        self.note(&mut self.inside(), event, by)?;
        let keys = change(&self.pki, passphrase).map_err(|error| self.no_key(error.into(), by))?;
        Ok(keys.into_iter().map(|path| path.display().to_string()).collect())
    }

    /// Why a key does not open. A wrong passphrase is noted in the audit log.
    fn no_key(&self, error: AuthorityError, by: &str) -> IssuerError {
        let why = error.to_string();
        if !matches!(error, AuthorityError::Key(KeyError::WrongPassphrase { .. })) {
            return IssuerError::Locked(why);
        }
        warn!(by, "a wrong passphrase was tried for the CA's key");
        self.note(&mut self.inside(), "wrong_passphrase", by).err().unwrap_or(IssuerError::WrongPassphrase(why))
    }
}

fn read_uplink(text: &str) -> Result<Uplink, IssuerError> {
    text.parse().map_err(|error| IssuerError::Invalid(format!("--uplink {error}")))
}

fn issuer_error(error: RegistryError) -> IssuerError {
    match error {
        RegistryError::NoToken(token) => IssuerError::NoSuchToken(token),
        RegistryError::Central(_)
        | RegistryError::OutOfScope { .. }
        | RegistryError::Lifetime
        | RegistryError::Addresses
        | RegistryError::Unknown(_)
        | RegistryError::Own(_)
        | RegistryError::Elsewhere(_)
        | RegistryError::NewName { .. }
        | RegistryError::Former { .. } => IssuerError::Invalid(error.to_string()),
        other => IssuerError::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use tram_pki::backup::{self, Places};
    use tram_pki::keystore::{self, NodeKeys};
    use tram_pki::registry::AUDIT_LOG;
    use tram_proto::join::HostPort;
    use tram_proto::name::Role;

    use super::*;
    use crate::link::trust::NodeTrust;
    use tram_pki::pins::Pins;

    const WORD: &str = "correct horse battery";

    struct First {
        dir: tempfile::TempDir,
    }

    impl First {
        fn founded() -> Self {
            let first = Self { dir: tempfile::tempdir().expect("a directory") };
            let (zone, name) = ("tram.internal".parse().expect("zone"), "central".parse().expect("name"));
            keystore::found(&first.pki(), &zone, &name, Clock::default().wall_ms()).expect("founded");
            first
        }

        fn pki(&self) -> PathBuf {
            self.dir.path().join("pki")
        }

        fn desk(&self, credentials: Option<&Path>) -> Desk {
            let address = |text: &str| vec![text.parse::<HostPort>().expect("address")];
            let reachable = Reachable { join: address("10.0.0.1:7444"), overlay: address("10.0.0.1:7443") };
            let keys = NodeKeys::load(&self.pki()).expect("loads");
            let who = (keys.identity().id, keys.identity().name.clone());
            let trust = Arc::new(NodeTrust::new(keys, Pins::default(), Clock::default()));
            let shelf = Shelf::open(&self.pki(), trust, Clock::default()).expect("opens");
            Desk::open(&self.pki(), credentials, shelf, who, Ok(reachable), Clock::default()).expect("opens")
        }

        fn events(&self) -> Vec<String> {
            let log = fs::read_to_string(self.pki().join(AUDIT_LOG)).expect("readable");
            let events = log.lines().map(|line| {
                let (_, rest) = line.split_once("\"event\":\"").expect("an event");
                rest.split('"').next().expect("a word").to_owned()
            });
            events.collect()
        }
    }

    fn word(text: &str) -> Passphrase {
        Passphrase::of(text.as_bytes()).expect("a passphrase")
    }

    fn token(desk: &Desk) -> Result<TokenMade, IssuerError> {
        let name = "can-tho".parse().expect("name");
        desk.new_token(TokenOrder {
            name,
            role: Role::Province,
            ttl_ms: None,
            uplink: None,
            door: None,
            by: "lan".to_owned(),
        })
    }

    /// Everything that is refused while nothing may be issued, and what is not.
    #[track_caller]
    fn issues_nothing(desk: &Desk, cure: &str) {
        let refused = token(desk).expect_err("nothing is issued");
        assert!(matches!(&refused, IssuerError::Locked(why) if why.contains(cure)), "{refused}");
        let problems = desk.problems();
        assert!(problems.len() == 1 && problems[0].contains("issues no certificates") && problems[0].contains(cure));
        assert!(desk.names().known.iter().any(|(name, _)| name.as_str() == "central"), "names are known all the same");
    }

    #[test]
    fn row_19_a_locked_ca_stops_issuing_only_and_is_opened_and_closed() {
        let first = First::founded();
        token(&first.desk(None)).expect("open as it was founded");
        lock::set(&first.pki(), &word(WORD)).expect("locked");
        let desk = first.desk(None);
        issues_nothing(&desk, "`tram pki unlock`");
        assert_eq!((desk.join_open_until_ms(), desk.root()), (None, None), "a token is live, but nobody can join");

        let mut changes = desk.changes();
        changes.mark_unchanged();
        desk.key(KeyOrder::Unlock(word(WORD)), "lan").expect("opened");
        assert!(changes.has_changed().expect("alive"), "the join port hears of it");
        assert!(desk.join_open_until_ms().is_some() && desk.root().is_some() && desk.problems().is_empty());
        token(&desk).expect("issues again");
        desk.key(KeyOrder::Lock, "lan").expect("closed");
        issues_nothing(&desk, "`tram pki unlock`");

        // What is not locked on the disk cannot be closed; taking the lock away opens nothing by itself.
        desk.key(KeyOrder::Remove(word(WORD)), "lan").expect("removed");
        let refused = desk.key(KeyOrder::Lock, "lan").expect_err("not locked");
        assert!(matches!(&refused, IssuerError::NotLocked(why) if why.contains("lock --set")), "{refused}");
        drop(desk);
        let desk = first.desk(None);
        token(&desk).expect("open again at the next start");
        assert_eq!(desk.key(KeyOrder::Set(word(WORD)), "lan").expect("set").len(), 2);
        token(&desk).expect("what is open stays open");
        let events = ["overlay_founded", "token_created", "ca_unlocked", "crl_issued", "crl_issued", "token_created"];
        let more = ["ca_locked", "lock_removed", "token_created", "lock_set", "token_created"];
        assert_eq!(first.events(), [&events[..], &more[..]].concat());
    }

    #[test]
    fn row_22_a_wrong_passphrase_takes_a_second_is_counted_and_opens_nothing() {
        let first = First::founded();
        lock::set(&first.pki(), &word(WORD)).expect("locked");
        let desk = first.desk(None);
        #[expect(clippy::disallowed_methods, reason = "the delay is what is tested")]
        let begun = Instant::now();
        for order in [KeyOrder::Unlock, KeyOrder::Remove] {
            let refused = desk.key(order(word("wrong horse battery")), "lan").expect_err("wrong");
            let whole = format!("the passphrase does not open {}", first.pki().join("ca.key").display());
            let root = whole.replace("ca.key", "root.key");
            assert!(
                matches!(&refused, IssuerError::WrongPassphrase(why) if *why == whole || *why == root),
                "{refused}"
            );
        }
        assert!(begun.elapsed() >= 2 * lock::WRONG_DELAY);
        issues_nothing(&desk, "`tram pki unlock`");
        assert_eq!(first.events()[1..], ["wrong_passphrase", "wrong_passphrase"]);
        let weak = desk.key(KeyOrder::Set(word("tram")), "lan").expect_err("weak");
        assert!(matches!(&weak, IssuerError::Invalid(why) if why.contains("12 characters")), "{weak}");
    }

    #[test]
    fn systemd_opens_a_locked_ca_at_boot_and_a_wrong_credential_says_so() {
        let first = First::founded();
        lock::set(&first.pki(), &word(WORD)).expect("locked");
        let credentials = tempfile::tempdir().expect("a directory");
        issues_nothing(&first.desk(Some(credentials.path())), "`tram pki unlock`");
        fs::write(credentials.path().join(CREDENTIAL), format!("{WORD}\n")).expect("written");
        token(&first.desk(Some(credentials.path()))).expect("open");
        fs::write(credentials.path().join(CREDENTIAL), "wrong horse battery").expect("written");
        issues_nothing(&first.desk(Some(credentials.path())), "tram-ca-passphrase: the passphrase does not open");
    }

    #[test]
    fn row_21_a_ca_key_that_cannot_be_used_stops_issuing_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let first = First::founded();
        let key = first.pki().join(CA_KEY);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
        let desk = first.desk(None);
        issues_nothing(&desk, &format!("`chmod 600 {}`", key.display()));
        // When that is done, no restart is needed; without a lock any passphrase will do.
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
        desk.key(KeyOrder::Unlock(word("any")), "lan").expect("opened");
        token(&desk).expect("issues");
        drop(desk);
        fs::remove_file(&key).expect("removed");
        issues_nothing(&first.desk(None), "ca.key is missing");
    }

    #[test]
    fn row_24_a_restored_ca_issues_nothing_until_the_loss_is_made_good_or_accepted() {
        let first = First::founded();
        let at = |name: &str| first.dir.path().join(name);
        let places = Places { config: at("tramd.toml"), conf_d: at("conf.d"), pki: first.pki() };
        let file = at("node.backup");
        backup::make(&places, &file, &word(WORD), true, 1_800_000_000_000).expect("made");
        let token_line = token(&first.desk(None)).expect("made after the backup");
        fs::remove_dir_all(first.pki()).expect("the disk is gone");
        backup::restore(&places, &file, &word(WORD), false).expect("restored");

        let desk = first.desk(None);
        issues_nothing(&desk, "tram pki restore --accept-loss");
        let request = Request {
            token: token_line.line.parse::<tram_pki::token::Token>().expect("a token").id,
            csr: bytes::Bytes::new(),
            mac: [0; 32],
            version: String::new(),
            clock_ms: 0,
        };
        let (answer, cause) = desk.answer(&request, &[0; 32], "10.0.0.9:1");
        assert_eq!(answer.verdict.expect_err("refused"), Refusal::Unavailable);
        assert!(cause.is_some());
        // Nothing is written into the log that could be another line than the parent's.
        let before = fs::read(first.pki().join(AUDIT_LOG)).expect("readable");
        desk.key(KeyOrder::Unlock(word(WORD)), "lan").expect("opened");
        desk.cancel_token("can-tho").expect_err("waits");
        assert_eq!(fs::read(first.pki().join(AUDIT_LOG)).expect("readable"), before);
        issues_nothing(&desk, "backup of 2027-01-15");

        // Without a restart.
        assert!(Restored::accept(&first.pki()).expect("written"));
        token(&desk).expect("issues");
    }
}
