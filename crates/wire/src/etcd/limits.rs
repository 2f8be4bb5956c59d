//! Every bound of the etcd face, and how they relate.

/// A request's encoded bytes (etcd's `--max-request-bytes`).
pub const REQUEST_BYTES_MAX: usize = 1_572_864;

/// What a message may weigh on the wire before it is decoded: the bound on requests and etcd's
/// overhead for framing.
pub const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + 512 * 1024;

/// Comparisons, or operations of one branch, of a transaction together with those it is nested in
/// (etcd's `--max-txn-ops`).
pub const TRANSACTION_OPERATIONS_MAX: usize = 128;

/// Levels of transactions within transactions. Below what the protobuf decoder follows (100 levels
/// of messages, two per transaction), so that the refusal is ours and says so.
pub const TRANSACTION_DEPTH_MAX: usize = 32;

/// Comparisons and operations of a transaction, all levels together: never more than an entry may
/// hold, since a committed entry that cannot be decoded stops every member.
pub const TRANSACTION_ITEMS_MAX: usize = 1 << 13;

/// Bytes of the name of a user or a role: it travels with every command of the user.
pub const ACCOUNT_NAME_BYTES_MAX: usize = 1024;

/// What an item takes in an entry besides the bytes it names (`store::command::Command::weight`).
const ITEM_OVERHEAD_BYTES: usize = 96;

const _: () = assert!(REQUEST_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(TRANSACTION_DEPTH_MAX < TRANSACTION_OPERATIONS_MAX);
const _: () = assert!(TRANSACTION_DEPTH_MAX <= store::limits::TXN_DEPTH_MAX);
const _: () = assert!(TRANSACTION_ITEMS_MAX <= store::limits::TXN_ITEMS_MAX);
const _: () = assert!(
    REQUEST_BYTES_MAX + TRANSACTION_ITEMS_MAX * ITEM_OVERHEAD_BYTES + 256 <= replica::COMMAND_BYTES
);
const _: () = assert!(2 * TRANSACTION_DEPTH_MAX + 8 < 100);
