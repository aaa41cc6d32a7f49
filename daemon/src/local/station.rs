//! What the local sockets need of the rest of the daemon, beside engine and spool.

use bytes::Bytes;
use tram_pki::lock::Passphrase;
use tram_proto::id::NodeId;
use tram_proto::join::HostPort;
use tram_proto::name::{NodeName, Role, Zone};

use crate::config::{ConfigError, Entries};
use crate::plan::Plan;
pub use crate::reload::KeyChange;

/// What never changes while the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The node's id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its overlay's zone.
    pub zone: Zone,
    /// What it is in the tree.
    pub role: Role,
    /// Its name for people; may be empty.
    pub title: String,
    /// When the daemon started, Unix milliseconds.
    pub started_ms: u64,
}

/// How it stands with the connection to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The connection is open.
    Open,
    /// This node is dialling.
    Connecting,
    /// Closed, and nobody tries just now.
    Down,
    /// The neighbour's certificate was revoked, or ours.
    Revoked,
}

/// What the link tasks know of one neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFacts {
    /// The neighbour.
    pub peer: NodeName,
    /// Whether it is an uplink.
    pub uplink: bool,
    /// How it stands.
    pub wire: Wire,
    /// Its address, or the one that is dialled.
    pub address: String,
    /// Since when it stands so, Unix milliseconds.
    pub since_ms: u64,
    /// Round-trip time in microseconds, when the connection is open.
    pub rtt_us: Option<u64>,
    /// Bytes sent over this connection.
    pub sent_bytes: u64,
    /// Bytes received over this connection.
    pub received_bytes: u64,
    /// Why it is not open; may be empty.
    pub error: String,
}

/// What the daemon knows of this node that the engine does not. Calls return at once.
pub trait Station: Send + Sync + 'static {
    /// Who this node is.
    fn identity(&self) -> Identity;
    /// Every uplink of the config and every connection there is.
    fn links(&self) -> Vec<LinkFacts>;
    /// This machine's clock, Unix milliseconds.
    fn now_ms(&self) -> u64;
}

/// Why the new config is not in force: file, key and cure. The old one still is, whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; nothing was changed")]
pub struct ReloadError(pub String);

/// Reads the config again.
#[tonic::async_trait]
pub trait Reload: Send + Sync + 'static {
    /// Applies all of it or nothing; answers which keys changed.
    ///
    /// # Errors
    /// [`ReloadError`].
    async fn reload(&self) -> Result<Vec<KeyChange>, ReloadError>;
    /// What stands in the config in force, and in a file (its name and text) or the node's own as they are on its disk.
    async fn config(&self, file: Option<(String, String)>) -> (Entries, Result<Entries, ConfigError>);
    /// The bandwidth plan of a file (its name and text), or of the node's own as it stands on its disk.
    ///
    /// # Errors
    /// [`ReloadError`].
    async fn plan(&self, file: Option<(String, String)>) -> Result<Plan, ReloadError>;
}

/// Why the PKI says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// What was asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The name is another's, or a token for it is live.
    #[error("{0}")]
    Taken(String),
    /// No live token of that id or for that name.
    #[error("there is no live token {0:?}: see `tram token list`")]
    NoSuchToken(String),
    /// The CA's key is locked, or cannot be opened, or may not be used yet: nothing is issued.
    #[error("{0}")]
    Locked(String),
    /// The passphrase is wrong.
    #[error("{0}")]
    WrongPassphrase(String),
    /// There is no lock that could be closed.
    #[error("{0}")]
    NotLocked(String),
    /// This node holds no CA.
    #[error(
        "this node issues no certificates: do it at the first node, which holds the CA, or at a province that has one"
    )]
    NoAuthority,
    /// The store of the PKI failed.
    #[error("{0}")]
    Failed(String),
}

/// What is to be done with the CA's key.
#[derive(Debug, Clone)]
pub enum KeyOrder {
    /// Open it.
    Unlock(Passphrase),
    /// Forget the opened key.
    Lock,
    /// Encrypt the files.
    Set(Passphrase),
    /// Take the encryption away.
    Remove(Passphrase),
}

/// What a token is to grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOrder {
    /// The name of the node that will join.
    pub name: NodeName,
    /// What it will be.
    pub role: Role,
    /// How long the token lives, in milliseconds; `None` is 24 hours.
    pub ttl_ms: Option<u64>,
    /// `NODE@HOST:PORT` of its uplink; `None` is this node.
    pub uplink: Option<String>,
    /// A node that is to pass on what comes to its join port, and where that can be reached: for a machine that reaches
    /// only its uplink.
    pub door: Option<(NodeId, Vec<HostPort>)>,
    /// Who asks, for the audit log: a user's name.
    pub by: String,
}

/// A token, made just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenMade {
    /// Its public half.
    pub id: String,
    /// The line to hand over. Secret.
    pub line: String,
    /// Until when it can be used, Unix milliseconds.
    pub expires_ms: u64,
}

/// A request file that is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignOrder {
    /// The file.
    pub request: Bytes,
    /// What the node will be.
    pub role: Role,
    /// `NODE@HOST:PORT` of its uplink.
    pub uplink: String,
    /// Who asks, for the audit log: a user's name.
    pub by: String,
}

/// A token as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFacts {
    /// Its public half.
    pub id: String,
    /// For which name.
    pub name: NodeName,
    /// For which role.
    pub role: Role,
    /// What has become of it, a word of the PKI's or `expired`.
    pub state: &'static str,
    /// When it was made, Unix milliseconds.
    pub created_ms: u64,
    /// Until when it can be used, Unix milliseconds.
    pub expires_ms: u64,
}

/// A node as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// When its newest certificate ends, Unix milliseconds.
    pub not_after_ms: u64,
}

/// The PKI of a node that issues certificates. Every call may block.
pub trait Issuer: Send + Sync + 'static {
    /// Makes a token.
    ///
    /// # Errors
    /// [`IssuerError`], as for every call here.
    fn new_token(&self, order: TokenOrder) -> Result<TokenMade, IssuerError>;
    /// Tokens that are remembered.
    ///
    /// # Errors
    /// [`IssuerError`].
    fn tokens(&self) -> Result<Vec<TokenFacts>, IssuerError>;
    /// Cancels a live token, by id or node name.
    ///
    /// # Errors
    /// [`IssuerError`].
    fn cancel_token(&self, token: &str) -> Result<(), IssuerError>;
    /// Signs a request file; answers the answer file.
    ///
    /// # Errors
    /// [`IssuerError`].
    fn sign(&self, order: SignOrder) -> Result<Vec<u8>, IssuerError>;
    /// Nodes that were admitted.
    ///
    /// # Errors
    /// [`IssuerError`].
    fn nodes(&self) -> Result<Vec<Registered>, IssuerError>;
    /// Opens, closes or changes the lock of the CA's keys; answers the key files it looked at. A wrong passphrase takes a
    /// second.
    ///
    /// # Errors
    /// [`IssuerError`].
    fn key(&self, order: KeyOrder, by: &str) -> Result<Vec<String>, IssuerError>;
    /// What a person should look at, each with its cure.
    fn problems(&self) -> Vec<String>;
}
