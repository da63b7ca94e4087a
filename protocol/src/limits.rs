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
/// Administrators of a cluster.
pub const ADMINISTRATORS: usize = 64;
/// Changes of the membership on one page.
pub const LINKS: usize = 64;
/// A join ticket, bytes.
pub const TICKET_BYTES: usize = 16 << 20;
/// A new voter may vote once it is so close to the end of the log, entries.
pub const VOTER_LAG_ENTRIES: u64 = 64;
/// A genesis file, bytes.
pub const GENESIS_BYTES: usize = 64 * 1024;
/// Attempts of one Generate operation.
pub const GENERATE_ATTEMPTS: u32 = 3;
/// Time one attempt of Generate may take by the replicated clock, milliseconds.
pub const GENERATE_ATTEMPT_MS: u64 = 10_000;
/// Attempts of one Redistribute operation.
pub const REDISTRIBUTE_ATTEMPTS: u32 = 4;
/// Time one attempt of Redistribute may take by the replicated clock, milliseconds.
pub const REDISTRIBUTE_ATTEMPT_MS: u64 = 6_000;
/// Redistributions that one node takes part in at once; the others wait for their turn.
pub const REDISTRIBUTIONS_AT_ONCE: usize = 32;
/// A node without a share of a key asks for one at most once in this time, milliseconds.
pub const HEAL_MS: u64 = 3_600_000;
/// A due refresh that failed is tried again after this time at the earliest, milliseconds.
pub const REFRESH_RETRY_MS: u64 = 600_000;
/// Shortest time between two refreshes of a key by schedule, milliseconds.
pub const REFRESH_EVERY_MS: u64 = 10_000;
/// Ends of share operations that are remembered per key version.
pub const ATTEMPTS_KEPT: usize = 32;
/// Default of the time after which a holder that hears of no majority stops signing, milliseconds.
pub const STALENESS_MS: u32 = 1_000;
/// Shortest such time, milliseconds.
pub const STALENESS_MIN_MS: u32 = 300;
/// Longest such time, milliseconds.
pub const STALENESS_MAX_MS: u32 = 300_000;
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
/// Last rounds of questions of a lease whose answers are still taken.
pub const LEASE_QUESTIONS: usize = 8;
/// Shortest time between two rounds of questions of a lease, milliseconds.
pub const LEASE_PERIOD_MIN_MS: u64 = 100;
/// Signed positions of each voter that a node keeps to compare later ones with.
pub const POSITIONS_KEPT: usize = 256;
/// Signed positions that one question tells of: two for each voter.
pub const POSITIONS_TOLD: usize = 2 * VOTERS;
/// A node whose state time is further behind its own clock than this is not fresh, milliseconds.
pub const STATE_BEHIND_MS: u64 = 90_000;
/// A node raises an alarm about the positions of one voter at most once in this time, milliseconds.
pub const ALARM_MS: u64 = 60_000;
/// Withdrawals that a node remembers until its state holds what became of them.
pub const WITHDRAWALS: usize = 4096;
/// How long a barrier waits for all voters that it needs, milliseconds.
pub const BARRIER_MS: u64 = 3_000;
/// The same when so many voters are out of reach that there is no hope of that, milliseconds.
pub const BARRIER_HOPELESS_MS: u64 = 500;
/// How long a barrier holds an answer at most, milliseconds.
pub const BARRIER_LONGEST_MS: u64 = 12_000;
/// Barriers, and places of the requests that they are for, that a node remembers.
pub const BARRIERS_KEPT: usize = 256;
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
/// A holder that does not answer a round of signing for so long is slow: others are asked too, milliseconds.
pub const SIGN_PATIENCE_MS: u64 = 300;
/// Answers kept for an identical repeat of a package.
pub const CACHED_ANSWERS: usize = 4096;
/// Blames of one node that another keeps with their evidence, the newest.
pub const BLAMES_PER_NODE: u64 = 16;
/// Requests remembered by a holder against replay.
pub const SEEN_REQUESTS: usize = 1 << 20;

// What `doctor` says and when. It fails a clock that is further off than `ENTRY_AHEAD_MS`, since its entries are refused.
/// Checks of one node.
pub const DOCTOR_CHECKS: usize = 64;
/// One text of a check, bytes.
pub const CHECK_TEXT_BYTES: usize = 1024;
/// Shares that a node unseals to see that it can.
pub const DOCTOR_SHARES: usize = 1_000;
/// Keys whose margin is counted, by name.
pub const MARGIN_KEYS: usize = 10_000;
/// A clock that differs more from a peer's is warned of, milliseconds.
pub const CLOCK_WARN_MS: u64 = 1_000;
/// A synced write that takes longer is warned of, milliseconds.
pub const SYNC_WARN_MS: u64 = 100;
/// A synced write that takes longer is a failure, milliseconds: no leader lasts on such a disk.
pub const SYNC_FAIL_MS: u64 = 1_000;
/// Less free disk space is warned of, bytes.
pub const DISK_WARN_BYTES: u64 = 4 << 30;
/// Less free disk space is a failure, bytes: a full disk stops the node.
pub const DISK_FAIL_BYTES: u64 = 512 << 20;
/// A node that is further behind the leader is warned of, entries.
pub const LAG_WARN_ENTRIES: u64 = 256;
/// A node that is further behind the leader is a failure, entries.
pub const LAG_FAIL_ENTRIES: u64 = 4_096;

// A body that lists every message still fits: 36 bytes each beside at most 1.5 KiB of fixed fields.
const _: () = assert!(MESSAGES_PER_REQUEST * 36 + 1536 < REQUEST_BODY_BYTES);
const _: () = assert!(TICK_MS < STATE_BEHIND_MS && CLOCK_WARN_MS < ENTRY_AHEAD_MS);
const _: () = assert!(APPEND_BYTES + 64 * 1024 < PEER_ITEM_BYTES);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES + 64 * 1024 < PEER_ITEM_BYTES);
