//! Every bound of the system that no operator should tune, with its unit and its reason.
//!
//! Relations between them are asserted at compile time. What an operator may tune is in
//! `config.rs`.

use std::time::Duration;

/// Longest key LMDB takes for a row, in bytes (its compiled-in default).
pub const LMDB_KEY_BYTES_MAX: usize = 511;

/// Longest client key, in bytes. Row keys are a token (8) and the client key; the longest prefix,
/// that of a hint, is a target (32), a token (8) and a version (1).
pub const KEY_LIMIT_BYTES: usize = 400;
const _: () = assert!(32 + 8 + 1 + KEY_LIMIT_BYTES <= LMDB_KEY_BYTES_MAX);

/// Largest value of one sibling, in bytes. Values travel whole, several to a frame.
pub const VALUE_LIMIT_BYTES: usize = 1 << 20;

/// Largest object (clock and all siblings) that a client write may leave behind, in bytes of its
/// canonical form. A merge is never refused for size.
pub const OBJECT_LIMIT_BYTES: usize = 8 << 20;
const _: () = assert!(VALUE_LIMIT_BYTES * 4 <= OBJECT_LIMIT_BYTES);

/// Most siblings that a client write may leave behind. A merge is never refused for their number:
/// that would lose writes which were acknowledged elsewhere.
pub const SIBLING_COUNT_MAX: usize = 64;

/// Longest context token, in bytes before base64.
pub const CONTEXT_LIMIT_BYTES: usize = 4 << 10;

/// Highest counter or epoch that a peer may show. A forged huge value must not swallow later writes or
/// overflow; at a million writes a second it takes 142 years to get there.
pub const COUNTER_MAX: u64 = 1 << 52;

/// Longest frame on the wire, in bytes.
pub const FRAME_LIMIT_BYTES: usize = 16 << 20;
const _: () = assert!(OBJECT_LIMIT_BYTES * 2 <= FRAME_LIMIT_BYTES);

/// Most operations in one request-response message, and in one storage transaction.
pub const BATCH_COUNT_MAX: usize = 256;

/// Fewest and most partitions a cluster may be founded with; always a power of two.
pub const PARTITION_COUNT_MIN: u32 = 1;
/// See [`PARTITION_COUNT_MIN`]. A partition's number travels in two bytes.
pub const PARTITION_COUNT_MAX: u32 = 1 << 16;

/// Most replicas of a key.
pub const REPLICA_COUNT_MAX: u8 = 16;

/// Most members of one cluster. The preference list of a partition ranks all of them.
pub const MEMBER_COUNT_MAX: usize = 512;

/// Largest weight of a member: it is hashed once per unit of weight and partition.
pub const WEIGHT_MAX: u16 = 64;

/// Longest name of a node, a zone or a cluster, in bytes.
pub const NAME_LIMIT_BYTES: usize = 64;

/// Most addresses a member tells of itself, and the longest of them in bytes.
pub const ADDRESS_COUNT_MAX: usize = 16;
/// See [`ADDRESS_COUNT_MAX`].
pub const ADDRESS_LIMIT_BYTES: usize = 256;

/// Most membership changes in one message.
pub const CHANGES_PER_MESSAGE_MAX: usize = 256;

/// Most membership changes a history holds. Beyond it the node refuses more, and says so.
pub const HISTORY_COUNT_MAX: usize = 100_000;

/// Branches kept of an author that has signed different changes under one number. A disk that was copied makes two; whoever
/// has more signs them on purpose, and must be removed.
pub const FORK_COUNT_MAX: usize = 8;

/// Changes taken of a member beyond those that were known when it was removed: what was under way, and no more.
pub const POSTHUMOUS_COUNT_MAX: u64 = 64;

/// Labels under which somebody may hold something at once. In steady state there is one; each of several changes in a row
/// adds one until it is filled.
pub const CANDIDATE_COUNT_MAX: usize = 64;

/// Most keys one page of a scan lists.
pub const SCAN_PAGE_MAX: usize = 1_000;

/// Most steps of one exchange; what is left then is for the next one. Enough for some 16 GB, and an end to whoever asks for
/// ever.
pub const EXCHANGE_STEPS_MAX: u32 = 4_096;

/// Most client operations a node coordinates at once; more are answered `Overloaded`.
pub const OPERATION_COUNT_MAX: usize = 4_096;

/// Longest time a client may give an operation.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);
