//! The encoding of a command in a log entry: one version byte, then fixed-width big-endian fields
//! (byte table: docs/formats.md, Commands).
//!
//! Invariant: `decode(encode(e)) == e`. Decoding takes hostile bytes: it never panics, recurses no
//! deeper than [`TXN_DEPTH_MAX`], and allocates no more than a small multiple of its input. Keys
//! and values are slices of the input, not copies.

use crate::auth;
use crate::command::{
    Caller, Command, Compare, CompareResult, CompareTarget, DeleteRange, Envelope, Member, Put,
    SessionId, Txn, TxnOp,
};
use crate::limits::{
    ENVELOPE_VERSION, ENVELOPE_VERSION_WITH_CALLER, LEASE_RENEW_MAX, LEASE_TTL_MAX_S,
    MEMBER_ADDRESSES_MAX, TXN_DEPTH_MAX, TXN_ITEMS_MAX,
};
use crate::member_table::{self, MembershipCommand};
use crate::range::{KeyRange, Projection, Range, SortOrder, SortTarget};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clocks::NodeId;

/// Why bytes are not an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError(pub &'static str);

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for DecodeError {}

const TRUNCATED: DecodeError = DecodeError("it ends too early");

impl Envelope {
    /// The bytes of a log entry.
    ///
    /// # Panics
    /// If a field is longer than 4 GiB.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(
            64 + self.caller.as_ref().map_or(0, Caller::weight) + self.command.weight(),
        );
        out.put_u8(match self.caller {
            None => ENVELOPE_VERSION,
            Some(_) => ENVELOPE_VERSION_WITH_CALLER,
        });
        out.put_u64(self.session.member.0);
        out.put_u64(self.session.incarnation);
        out.put_u64(self.sequence);
        out.put_u64(self.answered_below);
        out.put_u64(self.advisory_time_ms);
        if let Some(caller) = &self.caller {
            put_caller(&mut out, caller);
        }
        put_command(&mut out, &self.command);
        out.freeze()
    }

    /// Reads an envelope; everything must be used up.
    ///
    /// # Errors
    /// If these are not the bytes of an envelope of a known version.
    pub fn decode(mut bytes: Bytes) -> Result<Envelope, DecodeError> {
        let input = &mut bytes;
        let has_caller = match get_u8(input)? {
            ENVELOPE_VERSION => false,
            ENVELOPE_VERSION_WITH_CALLER => true,
            _ => return Err(DecodeError("its version is unknown")),
        };
        let session = SessionId { member: NodeId(get_u64(input)?), incarnation: get_u64(input)? };
        let envelope = Envelope {
            session,
            sequence: get_u64(input)?,
            answered_below: get_u64(input)?,
            advisory_time_ms: get_u64(input)?,
            caller: has_caller.then(|| get_caller(input)).transpose()?,
            command: get_command(input)?,
        };
        if bytes.has_remaining() {
            return Err(DecodeError("bytes follow its end"));
        }
        Ok(envelope)
    }
}

/// Where the caller stands, or, without one, the kind of the command.
const CALLER_OFFSET: usize = 41;

impl Envelope {
    /// Whether these bytes of an envelope let a lease live from when they are applied, so that the
    /// lease clock must be brought up to date before them.
    #[must_use]
    pub fn begins_lease_time(bytes: &Bytes) -> bool {
        if bytes.len() <= CALLER_OFFSET {
            return false;
        }
        let mut rest = bytes.slice(CALLER_OFFSET..);
        if bytes[0] == ENVELOPE_VERSION_WITH_CALLER && get_caller(&mut rest).is_err() {
            return false;
        }
        matches!(rest.first(), Some(&(LEASE_GRANT | LEASE_RENEW)))
    }
}

impl Command {
    /// About how many bytes the command takes in memory and when encoded.
    #[must_use]
    pub fn weight(&self) -> usize {
        const FIXED: usize = 64;
        FIXED
            + match self {
                Command::OpenSession
                | Command::Compact { .. }
                | Command::LeaseTick { .. }
                | Command::LeaseGrant { .. }
                | Command::LeaseRevoke { .. }
                | Command::RaiseFeatureLevel { .. } => 0,
                Command::Put(put) => put.key.len() + put.value.len(),
                Command::DeleteRange(delete) => key_range_weight(&delete.keys),
                Command::Txn(txn) => txn_weight(txn),
                Command::LeaseRenew { ids } => 8 * ids.len(),
                Command::Auth(command) => auth::weight(command),
                Command::RegisterMember(member) => {
                    let addresses = member.peer_addresses.iter().chain(&member.client_urls);
                    member.name.len() + addresses.map(|address| 4 + address.len()).sum::<usize>()
                }
                Command::Membership(command) => command.weight(),
            }
    }
}

fn txn_weight(txn: &Txn) -> usize {
    const FIXED: usize = 96;
    let compare = |compare: &Compare| {
        let operand = match &compare.target {
            CompareTarget::Value(value) => value.len(),
            _ => 8,
        };
        FIXED + key_range_weight(&compare.keys) + operand
    };
    let op = |op: &TxnOp| {
        FIXED
            + match op {
                TxnOp::Range(range) => key_range_weight(&range.keys),
                TxnOp::Put(put) => put.key.len() + put.value.len(),
                TxnOp::DeleteRange(delete) => key_range_weight(&delete.keys),
                TxnOp::Txn(txn) => txn_weight(txn),
            }
    };
    txn.compare.iter().map(compare).sum::<usize>()
        + txn.success.iter().chain(&txn.failure).map(op).sum::<usize>()
}

fn key_range_weight(keys: &KeyRange) -> usize {
    match keys {
        KeyRange::Key(key) | KeyRange::From(key) => key.len(),
        KeyRange::Span { start, end } => start.len() + end.len(),
    }
}

// Command and operation kinds; numbers are never reused. 64 and 65 are reserved for `prepare` and
// `resolve` of transactions across groups.
const OPEN_SESSION: u8 = 1;
const PUT: u8 = 2;
const DELETE_RANGE: u8 = 3;
const TXN: u8 = 4;
const COMPACT: u8 = 5;
const REGISTER_MEMBER: u8 = 6;
const RAISE_FEATURE_LEVEL: u8 = 7;
const RANGE: u8 = 8;
const LEASE_TICK: u8 = 9;
const LEASE_GRANT: u8 = 10;
const LEASE_REVOKE: u8 = 11;
const LEASE_RENEW: u8 = 12;

const CALLER_USER: u8 = 1;
const CALLER_CLUSTER: u8 = 2;

fn put_caller(out: &mut BytesMut, caller: &Caller) {
    match caller {
        Caller::User { name, revision } => {
            out.put_u8(CALLER_USER);
            put_bytes(out, name.as_bytes());
            out.put_u64(*revision);
        }
        Caller::Cluster => out.put_u8(CALLER_CLUSTER),
    }
}

fn get_caller(input: &mut Bytes) -> Result<Caller, DecodeError> {
    match get_u8(input)? {
        CALLER_USER => Ok(Caller::User { name: get_string(input)?, revision: get_u64(input)? }),
        CALLER_CLUSTER => Ok(Caller::Cluster),
        _ => Err(DecodeError("a kind of caller is unknown")),
    }
}

fn put_command(out: &mut BytesMut, command: &Command) {
    match command {
        Command::OpenSession => out.put_u8(OPEN_SESSION),
        Command::Put(put) => {
            out.put_u8(PUT);
            put_put(out, put);
        }
        Command::DeleteRange(delete) => {
            out.put_u8(DELETE_RANGE);
            put_delete(out, delete);
        }
        Command::Txn(txn) => {
            out.put_u8(TXN);
            put_txn(out, txn);
        }
        Command::Compact { revision } => {
            out.put_u8(COMPACT);
            out.put_i64(*revision);
        }
        Command::LeaseTick { .. }
        | Command::LeaseGrant { .. }
        | Command::LeaseRevoke { .. }
        | Command::LeaseRenew { .. } => put_lease_command(out, command),
        Command::Auth(command) => auth::put_command(out, command),
        Command::RegisterMember(member) => {
            out.put_u8(REGISTER_MEMBER);
            put_member(out, member);
        }
        Command::RaiseFeatureLevel { level } => {
            out.put_u8(RAISE_FEATURE_LEVEL);
            out.put_u32(*level);
        }
        Command::Membership(command) => command.encode(out),
    }
}

fn get_command(input: &mut Bytes) -> Result<Command, DecodeError> {
    Ok(match get_u8(input)? {
        OPEN_SESSION => Command::OpenSession,
        PUT => Command::Put(get_put(input)?),
        DELETE_RANGE => Command::DeleteRange(get_delete(input)?),
        TXN => {
            let mut items = TXN_ITEMS_MAX;
            Command::Txn(get_txn(input, &mut items, TXN_DEPTH_MAX)?)
        }
        COMPACT => Command::Compact { revision: get_i64(input)? },
        LEASE_TICK => Command::LeaseTick { clock_ms: get_u64(input)?, revoke_max: get_u32(input)? },
        LEASE_GRANT => Command::LeaseGrant { id: get_i64(input)?, ttl_s: get_ttl(input)? },
        LEASE_REVOKE => Command::LeaseRevoke { id: get_i64(input)? },
        LEASE_RENEW => Command::LeaseRenew { ids: get_lease_ids(input)? },
        REGISTER_MEMBER => Command::RegisterMember(get_member(input)?),
        RAISE_FEATURE_LEVEL => Command::RaiseFeatureLevel { level: get_u32(input)? },
        kind if member_table::KINDS.contains(&kind) => {
            Command::Membership(MembershipCommand::decode(kind, input)?)
        }
        kind @ auth::FIRST_COMMAND..=auth::LAST_COMMAND => {
            Command::Auth(auth::get_command(kind, input)?)
        }
        _ => return Err(DecodeError("its command is unknown")),
    })
}

fn put_lease_command(out: &mut BytesMut, command: &Command) {
    match command {
        Command::LeaseTick { clock_ms, revoke_max } => {
            out.put_u8(LEASE_TICK);
            out.put_u64(*clock_ms);
            out.put_u32(*revoke_max);
        }
        Command::LeaseGrant { id, ttl_s } => {
            out.put_u8(LEASE_GRANT);
            out.put_i64(*id);
            out.put_u64(*ttl_s);
        }
        Command::LeaseRevoke { id } => {
            out.put_u8(LEASE_REVOKE);
            out.put_i64(*id);
        }
        Command::LeaseRenew { ids } => {
            out.put_u8(LEASE_RENEW);
            put_count(out, ids.len());
            ids.iter().for_each(|id| out.put_i64(*id));
        }
        other => unreachable!("not of leases: {other:?}"),
    }
}

fn get_ttl(input: &mut Bytes) -> Result<u64, DecodeError> {
    let ttl_s = get_u64(input)?;
    if ttl_s > LEASE_TTL_MAX_S {
        return Err(DecodeError("a lease is to live too long"));
    }
    Ok(ttl_s)
}

fn get_lease_ids(input: &mut Bytes) -> Result<Vec<i64>, DecodeError> {
    let count = get_u32(input)? as usize;
    if count > LEASE_RENEW_MAX {
        return Err(DecodeError("it renews too many leases"));
    }
    (0..count).map(|_| get_i64(input)).collect()
}

/// A member as the state keeps it and as a command carries it.
pub(crate) fn put_member(out: &mut BytesMut, member: &Member) {
    out.put_u64(member.id.0);
    put_bytes(out, member.name.as_bytes());
    put_addresses(out, &member.peer_addresses);
    put_addresses(out, &member.client_urls);
    out.put_u128(member.directory_id);
    out.put_u32(member.feature_level);
}

/// Reverses [`put_member`].
pub(crate) fn get_member(input: &mut Bytes) -> Result<Member, DecodeError> {
    Ok(Member {
        id: NodeId(get_u64(input)?),
        name: get_string(input)?,
        peer_addresses: get_addresses(input)?,
        client_urls: get_addresses(input)?,
        directory_id: input.try_get_u128().map_err(|_| TRUNCATED)?,
        feature_level: get_u32(input)?,
    })
}

pub(crate) fn put_addresses(out: &mut BytesMut, addresses: &[String]) {
    put_count(out, addresses.len());
    for address in addresses {
        put_bytes(out, address.as_bytes());
    }
}

pub(crate) fn get_addresses(input: &mut Bytes) -> Result<Vec<String>, DecodeError> {
    let count = get_u32(input)? as usize;
    if count > MEMBER_ADDRESSES_MAX {
        return Err(DecodeError("a member has too many addresses"));
    }
    (0..count).map(|_| get_string(input)).collect()
}

fn put_put(out: &mut BytesMut, put: &Put) {
    let flags =
        u8::from(put.prev_kv) | u8::from(put.ignore_value) << 1 | u8::from(put.ignore_lease) << 2;
    out.put_u8(flags);
    out.put_i64(put.lease);
    put_bytes(out, &put.key);
    put_bytes(out, &put.value);
}

fn get_put(input: &mut Bytes) -> Result<Put, DecodeError> {
    let flags = get_flags(input, 0b111)?;
    Ok(Put {
        lease: get_i64(input)?,
        key: get_bytes(input)?,
        value: get_bytes(input)?,
        prev_kv: flags & 1 != 0,
        ignore_value: flags & 2 != 0,
        ignore_lease: flags & 4 != 0,
    })
}

fn put_delete(out: &mut BytesMut, delete: &DeleteRange) {
    out.put_u8(u8::from(delete.prev_kv));
    put_key_range(out, &delete.keys);
}

fn get_delete(input: &mut Bytes) -> Result<DeleteRange, DecodeError> {
    let flags = get_flags(input, 0b1)?;
    Ok(DeleteRange { keys: get_key_range(input)?, prev_kv: flags != 0 })
}

fn put_txn(out: &mut BytesMut, txn: &Txn) {
    put_count(out, txn.compare.len());
    for compare in &txn.compare {
        put_compare(out, compare);
    }
    for branch in [&txn.success, &txn.failure] {
        put_count(out, branch.len());
        for op in branch {
            put_op(out, op);
        }
    }
}

/// `items` is what is left of the whole command's allowance, `depth` of the nesting.
fn get_txn(input: &mut Bytes, items: &mut usize, depth: usize) -> Result<Txn, DecodeError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(DecodeError("its transactions are nested too deeply"));
    };
    let mut txn = Txn::default();
    for _ in 0..get_item_count(input, items)? {
        txn.compare.push(get_compare(input)?);
    }
    for branch in [&mut txn.success, &mut txn.failure] {
        for _ in 0..get_item_count(input, items)? {
            branch.push(match get_u8(input)? {
                RANGE => TxnOp::Range(get_range(input)?),
                PUT => TxnOp::Put(get_put(input)?),
                DELETE_RANGE => TxnOp::DeleteRange(get_delete(input)?),
                TXN => TxnOp::Txn(get_txn(input, items, depth)?),
                _ => return Err(DecodeError("an operation of its transaction is unknown")),
            });
        }
    }
    Ok(txn)
}

fn get_item_count(input: &mut Bytes, items: &mut usize) -> Result<usize, DecodeError> {
    let count = get_u32(input)? as usize;
    *items = items
        .checked_sub(count)
        .ok_or(DecodeError("its transaction has too many comparisons or operations"))?;
    Ok(count)
}

fn put_op(out: &mut BytesMut, op: &TxnOp) {
    match op {
        TxnOp::Range(range) => {
            out.put_u8(RANGE);
            put_range(out, range);
        }
        TxnOp::Put(put) => {
            out.put_u8(PUT);
            put_put(out, put);
        }
        TxnOp::DeleteRange(delete) => {
            out.put_u8(DELETE_RANGE);
            put_delete(out, delete);
        }
        TxnOp::Txn(txn) => {
            out.put_u8(TXN);
            put_txn(out, txn);
        }
    }
}

fn put_compare(out: &mut BytesMut, compare: &Compare) {
    out.put_u8(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    });
    put_key_range(out, &compare.keys);
    let (target, operand) = match &compare.target {
        CompareTarget::Version(version) => (0, *version),
        CompareTarget::Create(revision) => (1, *revision),
        CompareTarget::Mod(revision) => (2, *revision),
        CompareTarget::Lease(lease) => (4, *lease),
        CompareTarget::Value(value) => {
            out.put_u8(3);
            return put_bytes(out, value);
        }
    };
    out.put_u8(target);
    out.put_i64(operand);
}

fn get_compare(input: &mut Bytes) -> Result<Compare, DecodeError> {
    let result = match get_u8(input)? {
        0 => CompareResult::Equal,
        1 => CompareResult::Greater,
        2 => CompareResult::Less,
        3 => CompareResult::NotEqual,
        _ => return Err(DecodeError("a comparison of its transaction is unknown")),
    };
    let keys = get_key_range(input)?;
    let target = match get_u8(input)? {
        0 => CompareTarget::Version(get_i64(input)?),
        1 => CompareTarget::Create(get_i64(input)?),
        2 => CompareTarget::Mod(get_i64(input)?),
        3 => CompareTarget::Value(get_bytes(input)?),
        4 => CompareTarget::Lease(get_i64(input)?),
        _ => return Err(DecodeError("a comparison of its transaction is unknown")),
    };
    Ok(Compare { keys, result, target })
}

fn put_range(out: &mut BytesMut, range: &Range) {
    put_key_range(out, &range.keys);
    out.put_i64(range.revision);
    out.put_i64(range.limit);
    out.put_u8(match range.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    out.put_u8(match range.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.put_u8(match range.projection {
        Projection::Full => 0,
        Projection::KeysOnly => 1,
        Projection::CountOnly => 2,
    });
    out.put_i64(range.min_mod_revision);
    out.put_i64(range.max_mod_revision);
    out.put_i64(range.min_create_revision);
    out.put_i64(range.max_create_revision);
}

fn get_range(input: &mut Bytes) -> Result<Range, DecodeError> {
    const UNKNOWN: DecodeError = DecodeError("an option of a range is unknown");
    Ok(Range {
        keys: get_key_range(input)?,
        revision: get_i64(input)?,
        limit: get_i64(input)?,
        sort_target: match get_u8(input)? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            _ => return Err(UNKNOWN),
        },
        sort_order: match get_u8(input)? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            _ => return Err(UNKNOWN),
        },
        projection: match get_u8(input)? {
            0 => Projection::Full,
            1 => Projection::KeysOnly,
            2 => Projection::CountOnly,
            _ => return Err(UNKNOWN),
        },
        min_mod_revision: get_i64(input)?,
        max_mod_revision: get_i64(input)?,
        min_create_revision: get_i64(input)?,
        max_create_revision: get_i64(input)?,
    })
}

pub(crate) fn put_key_range(out: &mut BytesMut, keys: &KeyRange) {
    match keys {
        KeyRange::Key(key) => {
            out.put_u8(0);
            put_bytes(out, key);
        }
        KeyRange::Span { start, end } => {
            out.put_u8(1);
            put_bytes(out, start);
            put_bytes(out, end);
        }
        KeyRange::From(start) => {
            out.put_u8(2);
            put_bytes(out, start);
        }
    }
}

pub(crate) fn get_key_range(input: &mut Bytes) -> Result<KeyRange, DecodeError> {
    Ok(match get_u8(input)? {
        0 => KeyRange::Key(get_bytes(input)?),
        1 => KeyRange::Span { start: get_bytes(input)?, end: get_bytes(input)? },
        2 => KeyRange::From(get_bytes(input)?),
        _ => return Err(DecodeError("a kind of key range is unknown")),
    })
}

pub(crate) fn put_count(out: &mut BytesMut, count: usize) {
    out.put_u32(u32::try_from(count).expect("counts are bounded far below 2^32"));
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("fields are bounded far below 4 GiB"));
    out.put_slice(bytes);
}

pub(crate) fn get_bytes(input: &mut Bytes) -> Result<Bytes, DecodeError> {
    let length = get_u32(input)? as usize;
    if length > input.remaining() {
        return Err(TRUNCATED);
    }
    Ok(input.split_to(length))
}

pub(crate) fn get_string(input: &mut Bytes) -> Result<String, DecodeError> {
    let bytes = get_bytes(input)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError("a text is not UTF-8"))?;
    Ok(text.to_owned())
}

pub(crate) fn get_flags(input: &mut Bytes, known: u8) -> Result<u8, DecodeError> {
    let flags = get_u8(input)?;
    if flags & !known != 0 {
        return Err(DecodeError("a flag is unknown"));
    }
    Ok(flags)
}

pub(crate) fn get_u8(input: &mut Bytes) -> Result<u8, DecodeError> {
    input.try_get_u8().map_err(|_| TRUNCATED)
}

pub(crate) fn get_u32(input: &mut Bytes) -> Result<u32, DecodeError> {
    input.try_get_u32().map_err(|_| TRUNCATED)
}

pub(crate) fn get_u64(input: &mut Bytes) -> Result<u64, DecodeError> {
    input.try_get_u64().map_err(|_| TRUNCATED)
}

pub(crate) fn get_i64(input: &mut Bytes) -> Result<i64, DecodeError> {
    input.try_get_i64().map_err(|_| TRUNCATED)
}
