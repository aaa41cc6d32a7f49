//! What the local sockets need of the spool.

use bytes::Bytes;
use tonic::Status;
use tram_proto::id::{CertHash, Digest, MessageId};
use tram_proto::manifest::Layout;
use tram_proto::receipt::State;
use tram_proto::row::MessageRow;
use tram_proto::statement::Signed;
use tram_relay::input::Row;

use super::refusal;

/// Why the spool did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No room now.
    #[error("the spool is full; try again later")]
    Full,
    /// A record or a chunk is not what was written.
    #[error("the spool is damaged: {0}")]
    Damaged(String),
    /// The disk failed.
    #[error("the spool failed: {0}")]
    Failed(String),
}

/// A message of the spool.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What is remembered of it.
    pub message: MessageRow,
    /// Its envelope.
    pub envelope: Signed,
}

/// The spool, as far as applications are concerned. Every call blocks.
pub trait Store: Send + Sync + 'static {
    /// A message by row.
    ///
    /// # Errors
    /// [`StoreError`], as for every call here.
    fn message(&self, row: Row) -> Result<Option<Stored>, StoreError>;
    /// The payload of a message, when it is kept inline.
    ///
    /// # Errors
    /// [`StoreError`].
    fn inline(&self, row: Row) -> Result<Option<Bytes>, StoreError>;
    /// A message by id.
    ///
    /// # Errors
    /// [`StoreError`].
    fn find(&self, id: &MessageId) -> Result<Option<Row>, StoreError>;
    /// The newest messages before `before` (`None`: of all), newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, limit: usize, before: Option<Row>) -> Result<Vec<(Row, Stored)>, StoreError>;
    /// Receipts that came home: recipient, state, receipt.
    ///
    /// # Errors
    /// [`StoreError`].
    fn kept_receipts(&self, id: &MessageId) -> Result<Vec<(u32, State, Signed)>, StoreError>;
    /// The chain of a signer, leaf first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn chain(&self, signer: &CertHash) -> Result<Option<Vec<Bytes>>, StoreError>;
    /// One unit of a payload.
    ///
    /// # Errors
    /// [`StoreError`].
    fn unit(&self, root: Digest, layout: Layout, unit: u64) -> Result<Bytes, StoreError>;
    /// Begins a payload. What is dropped unfinished leaves nothing behind.
    ///
    /// # Errors
    /// [`StoreError`].
    fn upload(&self) -> Result<Box<dyn Upload>, StoreError>;
}

/// A payload on its way into the spool. Every call blocks.
pub trait Upload: Send {
    /// Takes the next bytes, any number of them.
    ///
    /// # Errors
    /// [`StoreError`].
    fn push(&mut self, part: Bytes) -> Result<(), StoreError>;
    /// Makes the payload durable; returns its root and length in bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    fn finish(self: Box<Self>) -> Result<(Digest, u64), StoreError>;
}

/// Runs a call of the spool where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(refusal::broken)?;
    done.map_err(|error| refusal::store_failed(&error))
}
