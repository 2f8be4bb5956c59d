//! Every bound of the etcd front end, and how they relate. Those of single requests are in
//! `wire::etcd::limits`.

use std::time::Duration;

/// Calls of one connection at once (etcd sets no bound; ours is out of any client's sight).
pub(super) const STREAMS_PER_CONNECTION: u32 = 100_000;

/// Streams that a client may reset before we have seen them; unary calls given up under load.
pub(super) const PENDING_RESETS: usize = 1024;

/// What a client may send on one call before we take it.
pub(super) const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// What a client may send on all calls of a connection before we take it.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// What we hold of one call's replies when the client does not read.
pub(super) const SEND_BUFFER_BYTES: usize = 512 * 1024;

/// Largest HTTP/2 frame; fewer frames for large values than with the 16 KiB of the standard.
pub(super) const HTTP2_FRAME_BYTES: u32 = 64 * 1024;

/// A silent connection is asked for a sign of life this often …
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// … and closed if none comes in this time.
pub(super) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an HTTP/1.1 client may take to send a request's head.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long calls under way may go on once the node stops.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Pause after an accept failed, as when file descriptors are short.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Between two lines in the log about clients that were not let in.
pub(super) const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// The part of a request's time that does not depend on elections (etcd's `ReqTimeout`).
pub(super) const REQUEST_TIME_BASE: Duration = Duration::from_secs(5);

/// Ranges that hold at most this many keys are read where the call runs.
pub(super) const INLINE_PAIRS: usize = 128;

/// Larger ranges are read beside it, at most so many at once per runtime (bulkhead).
pub(super) const LARGE_READS: usize = 4;

/// Replies from this size on are counted …
pub(super) const LARGE_REPLY_BYTES: usize = 256 * 1024;
/// … in units of this size …
pub(super) const REPLY_UNIT_BYTES: usize = 4 * 1024;
/// … until clients have taken them, and take at most so much memory per runtime.
pub(super) const REPLY_BUDGET_BYTES: usize = 512 * 1024 * 1024;

/// A part of a RangeStream holds about this many bytes, or one pair (etcd aims at 1.5 MiB).
pub(super) const RANGE_PART_BYTES: usize = 1024 * 1024;

/// RangeStreams at once, per runtime; others wait. Each pins a snapshot of the engine and holds a
/// few parts.
pub(super) const RANGE_STREAMS: usize = 64;

/// Parts of a streamed reply that wait for their client.
pub(super) const STREAMED_PARTS: usize = 2;

/// How long a client of a streamed reply may take nothing before it is cut off: its snapshot of
/// the engine keeps what was deleted meanwhile on disk.
pub(super) const STALLED_READER: Duration = Duration::from_secs(60);

/// What it must take on the whole, besides (2 Mbit/s): time for less is not given back.
pub(super) const SLOW_READER_BYTES_PER_SECOND: u32 = 256 * 1024;

/// Backups that are read at once, per runtime; each is a pass over the whole keyspace.
pub(super) const BACKUPS: usize = 2;

/// Renewals of leases that wait for the log, per runtime.
pub(super) const RENEWALS_WAITING_MAX: usize = 1 << 16;
/// Renewals that one stream may have asked for ahead of their answers.
pub(super) const STREAM_RENEWALS_MAX: usize = 1024;
/// Elections that a renewal waits for, besides the base of every request's time.
pub(super) const RENEWAL_TIMEOUT_ELECTIONS: u32 = 2;
/// Pause before renewals are offered again to a log that was overloaded.
pub(super) const RENEWAL_OVERLOAD_PAUSE: Duration = Duration::from_millis(20);

/// Threads of a runtime for what would delay its calls; more such work waits.
pub(crate) const BLOCKING_THREADS: usize = 24;

/// Passwords that are hashed or checked at once, in all runtimes; fewer on few cores.
pub(super) const PASSWORDS_RUNNING_MAX: usize = 8;

/// Passwords that wait to be hashed or checked, and those being so, together.
pub(super) const PASSWORDS_WAITING: usize = 1024;

/// Longest password that is tried (bcrypt looks at 72 bytes of it, as etcd's does).
pub(super) const LOGIN_PASSWORD_BYTES_MAX: usize = 1024;

/// Bytes of a name that the log shows of whoever failed to log in.
pub(super) const SHOWN_NAME_BYTES_MAX: usize = 64;

/// Passwords that were right lately, of which a digest is kept.
pub(super) const PASSWORDS_REMEMBERED: usize = 1 << 13;

/// Elections in a row without a leader after which streams that require one end (as in etcd).
pub(super) const LEADERLESS_TICKS: u32 = 3;

// What is read in parts always finds a thread.
const _: () = assert!(LARGE_READS + BACKUPS + PASSWORDS_RUNNING_MAX + 1 < BLOCKING_THREADS);
const _: () = assert!(STREAM_RENEWALS_MAX <= RENEWALS_WAITING_MAX);
// Streams take no more than large replies may.
const _: () =
    assert!(RANGE_STREAMS * (STREAMED_PARTS + 1) * RANGE_PART_BYTES <= REPLY_BUDGET_BYTES);
const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(wire::etcd::limits::MESSAGE_BYTES_MAX <= STREAM_WINDOW_BYTES as usize);
