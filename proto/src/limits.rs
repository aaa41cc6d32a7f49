//! Every limit of the protocol, each with its name, unit and reason. Nothing else in Tram invents one.

/// A zone, node name or full DNS name, in bytes; DNS allows 253 and the certificate carries name and zone together.
pub const NAME_BYTES: usize = 200;
/// An inbox name, in bytes.
pub const INBOX_BYTES: usize = 64;
/// An address as written, in bytes.
pub const ADDRESS_BYTES: usize = NAME_BYTES + 1 + INBOX_BYTES;
/// Recipients of one message; larger sets are groups, expanded by the node that owns them.
pub const RECIPIENTS: usize = 1024;

/// A payload up to this many bytes travels inside its offer; a larger one as chunks.
pub const INLINE_BYTES: usize = 64 * 1024;
/// A document's chunk, in bytes. With verified-only forwarding 256 KiB keeps three hops at 0.99 of one.
pub const CHUNK_BYTES: usize = 256 * 1024;
/// Chunk hashes in one manifest page.
pub const PAGE_HASHES: usize = 1024;
/// Manifest pages of one payload: 32,768 pages of 1,024 chunks are 8 TiB.
pub const MANIFEST_PAGES: usize = 32 * 1024;
/// The largest payload a manifest can describe, in bytes.
pub const PAYLOAD_BYTES: u64 = (MANIFEST_PAGES * PAGE_HASHES) as u64 * CHUNK_BYTES as u64;
/// Units (manifest head, pages, chunks) in one run on a transfer stream: 16 chunks are 4 MiB.
pub const RUN_UNITS: u32 = 16;
/// Ranges of units in one want; a payload with more holes is wanted in several.
pub const WANT_RANGES: usize = 256;

/// An envelope's body, in bytes; the recipients are its largest part.
pub const BODY_BYTES: usize = 320 * 1024;
/// Subject of a document, in bytes; a Vietnamese title of 298 bytes is common.
pub const SUBJECT_BYTES: usize = 1024;
/// File name as the sender wrote it, in bytes.
pub const FILE_NAME_BYTES: usize = 1024;
/// Content type, in bytes.
pub const CONTENT_TYPE_BYTES: usize = 255;
/// Label, in bytes.
pub const LABEL_BYTES: usize = 64;
/// Business id, in bytes.
pub const BUSINESS_ID_BYTES: usize = 255;
/// Idempotency key, in bytes.
pub const IDEMPOTENCY_KEY_BYTES: usize = 255;
/// W3C traceparent, in bytes.
pub const TRACEPARENT_BYTES: usize = 55;
/// Attributes of one message.
pub const ATTRIBUTES: usize = 32;
/// An attribute's key, in bytes.
pub const ATTRIBUTE_KEY_BYTES: usize = 64;
/// An attribute's value, in bytes.
pub const ATTRIBUTE_VALUE_BYTES: usize = 1024;
/// Reason text of a receipt or a refusal, in bytes.
pub const REASON_BYTES: usize = 1024;

/// Default lifetime of a message: 30 days, in milliseconds.
pub const LIFETIME_DEFAULT_MS: u64 = 30 * 24 * 3600 * 1000;
/// Longest lifetime of a message: 180 days, in milliseconds.
pub const LIFETIME_MAX_MS: u64 = 180 * 24 * 3600 * 1000;

/// Statements in one signed batch: what one commit of the spool may hold.
pub const BATCH_STATEMENTS: usize = 1024;
/// Hashes in a statement's path: the depth of a batch.
pub const SIGNATURE_PATH: usize = 10;
/// A signature's bytes: a P-256 signature takes 72.
pub const SIGNATURE_BYTES: usize = 128;
/// The largest statement: an envelope's body.
pub const STATEMENT_BYTES: usize = BODY_BYTES;
/// One certificate, DER, in bytes.
pub const CERTIFICATE_BYTES: usize = 8 * 1024;
/// Certificates in a chain, leaf first, root left out; two intermediates during a root rotation.
pub const CHAIN_CERTIFICATES: usize = 4;

/// Stamps in a routing header: custody transfers a copy may make before it parks. A tree of depth 5 takes 9.
pub const HOPS: usize = 32;
/// Inboxes a node record names; with the longest names the record still fits a control frame.
pub const RECORD_INBOXES: usize = 512;
/// Lost spools a node record names; the record still fits a control frame.
pub const RECORD_RETIRED: usize = 64;
/// Uplinks of one node.
pub const UPLINKS: usize = 8;
/// Addresses at which a node says it can be reached.
pub const HELLO_ADDRESSES: usize = 8;
/// Ranges of offers in one custody acknowledgement.
pub const ACK_RANGES: usize = 256;
/// Hops in the answer to a trace.
pub const TRACE_HOPS: usize = 256;

/// A frame on the control stream, in bytes.
pub const CONTROL_FRAME_BYTES: usize = 64 * 1024;
/// A frame on a class or receipt stream, in bytes: an envelope, its header and an inline payload.
pub const OFFER_FRAME_BYTES: usize = BODY_BYTES + RECIPIENTS * 40 + INLINE_BYTES + 32 * 1024;
/// A frame on the join stream, in bytes.
pub const JOIN_FRAME_BYTES: usize = 64 * 1024;
/// A certificate signing request, DER, in bytes.
pub const CSR_BYTES: usize = 16 * 1024;

/// An object of the PKI bundle, in bytes: a revocation list of 100,000 entries.
pub const OBJECT_BYTES: usize = 4 * 1024 * 1024;
/// A frame on the PKI stream, in bytes.
pub const PKI_FRAME_BYTES: usize = OBJECT_BYTES + 1024;
/// Objects in a bundle: three for each of 1,000 CAs, and more.
pub const OBJECTS: usize = 4096;
/// Roots trusted at one time: one, two while they are exchanged, and one in reserve.
pub const ROOTS: usize = 3;
/// Roots that were exchanged and still vouch for what was signed in their time: one each year outlives the longest chain.
pub const PAST_ROOTS: usize = 16;
/// CAs that one handover names: a key for each of five years, and as many exchanged early.
pub const HANDED_OVER: usize = 10;
/// Handovers in a bundle: far more provinces than there are, each of which began alone.
pub const HANDOVERS: usize = 256;
/// Reports in one frame.
pub const REPORTS: usize = 256;
/// Lines of an audit log in one frame.
pub const JOURNAL_LINES: usize = 1024;
/// Former names, and transfers of node ids, that one CA announces.
pub const ALIASES: usize = 10_000;
/// Join ports that one CA has opened at nodes below it.
pub const DOORS: usize = 256;
/// The file by which a machine without a network asks for a certificate, in bytes.
pub const REQUEST_FILE_BYTES: usize = CSR_BYTES + 1024;
/// The file that answers it, in bytes: besides a join answer it carries the bundle, of which revocation lists are most.
pub const ANSWER_FILE_BYTES: usize = JOIN_FRAME_BYTES + 16 * 1024 * 1024;

/// Length of a Unix socket's path that the kernel accepts, without the closing NUL.
pub const SOCKET_PATH_BYTES: usize = 107;
/// A part of a payload on the local API, in bytes.
pub const LOCAL_PART_BYTES: usize = 1024 * 1024;
