//! Every limit: a name, a unit, a place.
//!
//! Limits that `apply` uses are part of the rules of a `state_version`: changing one here means a new version there.

/// Canonical request body, bytes.
pub const REQUEST_BODY_BYTES: usize = 4096;
/// One raw message to sign, bytes.
pub const MESSAGE_BYTES: usize = 1 << 20;
/// All messages of one request together, bytes.
pub const MESSAGES_BYTES: usize = 1 << 20;
/// Messages in one request.
pub const MESSAGES_PER_REQUEST: usize = 64;
/// Signatures beside one request body.
pub const REQUEST_SIGNATURES: usize = 8;
/// Lifetime of a request, milliseconds.
pub const REQUEST_LIFETIME_MS: u64 = 5 * 60 * 1000;
/// Name of a key, client, node or cluster, bytes.
pub const NAME_BYTES: usize = 64;
/// Free text such as the reason of a revocation, bytes.
pub const REASON_BYTES: usize = 512;
/// Tags of one key.
pub const TAGS: usize = 16;
/// Name or value of a tag or of a context pair, bytes.
pub const TAG_BYTES: usize = 64;
/// Grants of one client.
pub const GRANTS: usize = 32;
/// Members of a roster.
pub const ROSTER_NODES: usize = 15;
/// Spares behind a roster.
pub const SPARES: usize = 15;
/// Size of the default roster, nodes.
pub const DEFAULT_ROSTER_NODES: usize = 7;
/// Members of a cluster.
pub const MEMBERS: usize = 255;
/// Voters of a cluster.
pub const VOTERS: usize = 7;
/// Administrators in a genesis file.
pub const GENESIS_ADMINISTRATORS: usize = 16;
/// A genesis file, bytes.
pub const GENESIS_BYTES: usize = 64 * 1024;
/// Attempts of one Generate operation.
pub const GENERATE_ATTEMPTS: u32 = 3;
/// Time one attempt of Generate may take by the replicated clock, milliseconds.
pub const GENERATE_ATTEMPT_MS: u64 = 10_000;
/// Longest waiting time of a destruction, milliseconds.
pub const DESTROY_WAIT_MS: u64 = 365 * 24 * 3600 * 1000;
/// Items on one page of a list.
pub const PAGE_ITEMS: u32 = 500;
/// Expired request ids forgotten per applied entry.
pub const FORGET_PER_ENTRY: usize = 4;
/// One ordered entry, bytes.
pub const ENTRY_BYTES: usize = 32 * 1024;
/// An entry may be this far ahead of the receiving node's clock, milliseconds.
pub const ENTRY_AHEAD_MS: u64 = 10_000;
/// The leader orders a tick when the last entry is this old, milliseconds.
pub const TICK_MS: u64 = 60_000;
/// A Raft term may be this far above ours.
pub const TERM_AHEAD: u64 = 1000;
/// Heads of this many latest indices are kept.
pub const HEADS_KEPT: u64 = 100_000;
/// Default distance between checkpoints, entries; fixed per cluster by genesis.
pub const CHECKPOINT_ENTRIES: u64 = 4096;
/// One item on a peer stream, bytes: a chunk of a snapshot or a batch of Raft entries with its framing.
pub const PEER_ITEM_BYTES: usize = 4 << 20;
/// Raft entries in one append message, bytes together.
pub const APPEND_BYTES: usize = 2 << 20;
/// One chunk of a snapshot, bytes.
pub const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Whole snapshot, bytes.
pub const SNAPSHOT_BYTES: u64 = 8 << 30;
/// Nonce sets that one holder keeps open at once.
pub const OPEN_NONCES: usize = 65_536;
/// Lifetime of an open nonce, milliseconds.
pub const NONCE_MS: u64 = 5_000;
/// Answers kept for an identical repeat of a package.
pub const CACHED_ANSWERS: usize = 4096;
/// Requests remembered by a holder against replay.
pub const SEEN_REQUESTS: usize = 1 << 20;

// A body that lists every message still fits: 36 bytes each beside at most 1.5 KiB of fixed fields.
const _: () = assert!(MESSAGES_PER_REQUEST * 36 + 1536 < REQUEST_BODY_BYTES);
const _: () = assert!(APPEND_BYTES + 64 * 1024 < PEER_ITEM_BYTES);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES + 64 * 1024 < PEER_ITEM_BYTES);
