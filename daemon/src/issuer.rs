//! The CA of a node that holds one: tokens for `tram token`, answers for the join listener, the lock of its key.
//!
//! One lock around the registry and the key, taken only on threads that may block: every change is on disk before it is
//! answered. A key that is locked or cannot be read stops issuing and nothing else.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::warn;
use tram_pki::authority::{Authority, AuthorityError};
use tram_pki::backup::Restored;
use tram_pki::enrol::{self, Cause, Exporter};
use tram_pki::keystore::{CA_KEY, KeyError};
use tram_pki::lock::{self, Passphrase};
use tram_pki::registry::{self, Entry, Registry, RegistryError, TokenState};
use tram_proto::id::NodeId;
use tram_proto::join::{Answer, HostPort, Refusal, Request, Uplink};
use tram_proto::name::NodeName;

use crate::clock::Clock;
use crate::local::station::{Issuer, IssuerError, KeyOrder, Registered, TokenFacts, TokenMade, TokenOrder};
use crate::setup::Reachable;

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
    registry: Registry,
}

/// The authority, its registry, and where they can be reached.
pub struct Desk {
    pki: PathBuf,
    inside: Mutex<Inside>,
    /// One attempt at a time, so that a second of delay is a second for all.
    unlocking: Mutex<()>,
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
        name: NodeName,
        reachable: Result<Reachable, String>,
        clock: Clock,
    ) -> Result<Self, RegistryError> {
        let registry = Registry::open(pki)?;
        let inside = Inside { key: Key::at_start(pki, credentials), registry };
        let (inside, changed) = (Mutex::new(inside), watch::Sender::new(0));
        let desk = Self { pki: pki.to_owned(), inside, unlocking: Mutex::default(), name, reachable, clock, changed };
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

    /// Names that exist: nodes, and those that a live token will admit.
    #[must_use]
    pub fn names(&self) -> Vec<(NodeName, NodeId)> {
        let now_ms = self.clock.wall_ms();
        let registry = &self.inside().registry;
        let tokens = registry.tokens().filter(|t| t.is_live(now_ms)).map(|t| (t.name.clone(), t.node));
        tokens.chain(registry.nodes().map(|n| (n.name.clone(), n.id))).collect()
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
        let Inside { key, registry } = &mut *inside;
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
        let invalid = |why: String| IssuerError::Invalid(format!("--uplink {text}: {why}"));
        let (node, address) = text.split_once('@').ok_or_else(|| invalid("write it as NODE@HOST:PORT".to_owned()))?;
        let node: NodeName = node.parse().map_err(|e| invalid(format!("{e}")))?;
        let address: HostPort = address.parse().map_err(|e| invalid(format!("{e}")))?;
        Ok(Uplink { node, addresses: vec![address] })
    }
}

impl Issuer for Desk {
    fn new_token(&self, order: TokenOrder) -> Result<TokenMade, IssuerError> {
        let reachable = self.reachable.as_ref().map_err(|why| IssuerError::Invalid(why.clone()))?;
        let order = registry::TokenOrder {
            uplink: self.uplink(order.uplink.as_deref(), reachable)?,
            name: order.name,
            role: order.role,
            lifetime_ms: order.ttl_ms.unwrap_or(registry::TOKEN_MS),
            join: reachable.join.clone(),
            by: order.by,
        };
        let mut inside = self.inside();
        let Inside { key, registry } = &mut *inside;
        let authority = self.may_issue(key).map_err(IssuerError::Locked)?;
        let token = registry.new_token(authority, &order, self.clock.wall_ms()).map_err(issuer_error)?;
        drop(inside);
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

fn issuer_error(error: RegistryError) -> IssuerError {
    match error {
        RegistryError::NoToken(token) => IssuerError::NoSuchToken(token),
        RegistryError::Central(_) | RegistryError::Lifetime | RegistryError::Addresses => {
            IssuerError::Invalid(error.to_string())
        }
        other => IssuerError::Failed(other.to_string()),
    }
}
