//! Requests of the KV service: validated as etcd validates them, then said in `store`'s words.
//!
//! Order matters to clients that send two mistakes: shape first, then overlaps, then size.

use super::errors::{
    Code, EMPTY_KEY, INVALID_SORT_OPTION, KEY_NOT_FOUND, LEASE_PROVIDED, ProtocolError,
    REQUEST_TOO_LARGE, TOO_MANY_OPS, VALUE_PROVIDED,
};
use super::limits::{
    REQUEST_BYTES_MAX, TRANSACTION_DEPTH_MAX, TRANSACTION_ITEMS_MAX, TRANSACTION_OPERATIONS_MAX,
};
use super::{overlap, pb};
use bytes::Bytes;
use pb::compare::TargetUnion;
use pb::request_op::Request;
use prost::Message;
use store::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, Put, Txn, TxnOp,
};
use store::range::{KeyRange, Projection, Range, Revision, SortOrder, SortTarget};

/// Whether a read must see every write acknowledged before it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// It must.
    Linearizable,
    /// The member's own state is enough.
    Serializable,
}

/// A transaction, and what it takes to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnPlan {
    /// It can write: propose it.
    Write(Command),
    /// It only reads: run it on a snapshot.
    Read(Txn, Consistency),
}

/// The keys meant by a key and a range end: no end means the key alone, the end "\0" everything
/// from the key on.
#[must_use]
pub fn key_range(key: Bytes, range_end: Bytes) -> KeyRange {
    match &range_end[..] {
        [] => KeyRange::Key(key),
        [0] => KeyRange::From(key),
        _ => KeyRange::Span { start: key, end: range_end },
    }
}

/// A Range.
pub fn range(request: pb::RangeRequest) -> Result<(Range, Consistency), ProtocolError> {
    let consistency = match request.serializable {
        true => Consistency::Serializable,
        false => Consistency::Linearizable,
    };
    Ok((translate_range(request)?, consistency))
}

/// A RangeStream: nothing that would need all of the range at once.
pub fn range_stream(request: pb::RangeRequest) -> Result<(Range, Consistency), ProtocolError> {
    let (range, consistency) = range(request)?;
    let unimplemented = |message| Err(ProtocolError::of(Code::Unimplemented, message));
    let in_key_order = match (range.sort_target, range.sort_order) {
        (_, SortOrder::None) | (SortTarget::Key, SortOrder::Ascend) => true,
        (_, SortOrder::Ascend | SortOrder::Descend) => false,
    };
    if !in_key_order {
        return unimplemented("RangeStream does not support custom sort orders");
    }
    let filters = [
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ];
    if filters.iter().any(|filter| *filter != 0) {
        return unimplemented("RangeStream does not support revision filters");
    }
    // A target without an order sorts nothing here, unlike in a Range.
    Ok((Range { sort_target: SortTarget::Key, ..range }, consistency))
}

/// A Put.
pub fn put(request: pb::PutRequest) -> Result<Command, ProtocolError> {
    let bytes = request.encoded_len();
    let command = Command::Put(translate_put(request)?);
    within_size(bytes)?;
    Ok(command)
}

/// A DeleteRange.
pub fn delete_range(request: pb::DeleteRangeRequest) -> Result<Command, ProtocolError> {
    let bytes = request.encoded_len();
    let command = Command::DeleteRange(translate_delete(request)?);
    within_size(bytes)?;
    Ok(command)
}

/// A Txn.
pub fn txn(request: pb::TxnRequest) -> Result<TxnPlan, ProtocolError> {
    let bytes = request.encoded_len();
    let mut scan = TxnScan { writes: false, linearizable: false, items: 0 };
    let level = Level { operations_left: TRANSACTION_OPERATIONS_MAX, depth: 1 };
    let txn = scan.txn(request, level)?;
    overlap::check(&txn)?;
    within_size(bytes)?;
    Ok(match scan {
        TxnScan { writes: true, .. } => TxnPlan::Write(Command::Txn(txn)),
        // A transaction without any read compares, and comparisons must be current.
        TxnScan { linearizable: false, .. } if reads_something(&txn) => {
            TxnPlan::Read(txn, Consistency::Serializable)
        }
        TxnScan { .. } => TxnPlan::Read(txn, Consistency::Linearizable),
    })
}

/// A Compact. Waiting for the physical part is the caller's business.
#[must_use]
pub fn compact(request: &pb::CompactionRequest) -> Command {
    Command::Compact { revision: request.revision }
}

/// Revision of a HashKV: none for the current one.
#[must_use]
pub fn hash_revision(request: &pb::HashKvRequest) -> Option<Revision> {
    (request.revision > 0).then_some(request.revision)
}

fn within_size(bytes: usize) -> Result<(), ProtocolError> {
    if bytes > REQUEST_BYTES_MAX { Err(REQUEST_TOO_LARGE) } else { Ok(()) }
}

fn reads_something(txn: &Txn) -> bool {
    !(txn.success.is_empty() && txn.failure.is_empty())
}

fn translate_range(request: pb::RangeRequest) -> Result<Range, ProtocolError> {
    use pb::range_request as wire;
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    let sort_order = match wire::SortOrder::try_from(request.sort_order) {
        Ok(wire::SortOrder::None) => SortOrder::None,
        Ok(wire::SortOrder::Ascend) => SortOrder::Ascend,
        Ok(wire::SortOrder::Descend) => SortOrder::Descend,
        Err(_) => return Err(INVALID_SORT_OPTION),
    };
    let sort_target = match wire::SortTarget::try_from(request.sort_target) {
        Ok(wire::SortTarget::Key) => SortTarget::Key,
        Ok(wire::SortTarget::Version) => SortTarget::Version,
        Ok(wire::SortTarget::Create) => SortTarget::Create,
        Ok(wire::SortTarget::Mod) => SortTarget::Mod,
        Ok(wire::SortTarget::Value) => SortTarget::Value,
        Err(_) => return Err(INVALID_SORT_OPTION),
    };
    let projection = match (request.count_only, request.keys_only) {
        (true, _) => Projection::CountOnly,
        (false, true) => Projection::KeysOnly,
        (false, false) => Projection::Full,
    };
    Ok(Range {
        keys: key_range(request.key, request.range_end),
        revision: request.revision.max(0),
        limit: request.limit.max(0),
        sort_target,
        sort_order,
        projection,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

fn translate_put(request: pb::PutRequest) -> Result<Put, ProtocolError> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

fn translate_delete(request: pb::DeleteRangeRequest) -> Result<DeleteRange, ProtocolError> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    let keys = key_range(request.key, request.range_end);
    Ok(DeleteRange { keys, prev_kv: request.prev_kv })
}

/// What a level of nesting may still use.
#[derive(Clone, Copy)]
struct Level {
    operations_left: usize,
    depth: usize,
}

/// What was met while a transaction was translated.
struct TxnScan {
    writes: bool,
    linearizable: bool,
    /// Comparisons and operations so far, all levels together.
    items: usize,
}

impl TxnScan {
    fn txn(&mut self, request: pb::TxnRequest, level: Level) -> Result<Txn, ProtocolError> {
        let widest = request.compare.len().max(request.success.len()).max(request.failure.len());
        self.items += request.compare.len() + request.success.len() + request.failure.len();
        if widest > level.operations_left
            || level.depth > TRANSACTION_DEPTH_MAX
            || self.items > TRANSACTION_ITEMS_MAX
        {
            return Err(TOO_MANY_OPS);
        }
        let below =
            Level { operations_left: level.operations_left - widest, depth: level.depth + 1 };
        let compare = request.compare.into_iter().map(translate_compare);
        Ok(Txn {
            compare: compare.collect::<Result<_, _>>()?,
            success: self.branch(request.success, below)?,
            failure: self.branch(request.failure, below)?,
        })
    }

    fn branch(
        &mut self,
        operations: Vec<pb::RequestOp>,
        below: Level,
    ) -> Result<Vec<TxnOp>, ProtocolError> {
        operations.into_iter().map(|operation| self.operation(operation, below)).collect()
    }

    fn operation(
        &mut self,
        operation: pb::RequestOp,
        below: Level,
    ) -> Result<TxnOp, ProtocolError> {
        Ok(match operation.request {
            Some(Request::RequestRange(range)) => {
                self.linearizable |= !range.serializable;
                TxnOp::Range(translate_range(range)?)
            }
            Some(Request::RequestPut(put)) => {
                self.writes = true;
                TxnOp::Put(translate_put(put)?)
            }
            Some(Request::RequestDeleteRange(delete)) => {
                self.writes = true;
                TxnOp::DeleteRange(translate_delete(delete)?)
            }
            Some(Request::RequestTxn(nested)) => TxnOp::Txn(self.txn(nested, below)?),
            // What etcd answers to an operation without content.
            None => return Err(KEY_NOT_FOUND),
        })
    }
}

fn translate_compare(compare: pb::Compare) -> Result<Compare, ProtocolError> {
    use pb::compare as wire;
    if compare.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    let result = match wire::CompareResult::try_from(compare.result) {
        Ok(wire::CompareResult::Equal) => CompareResult::Equal,
        Ok(wire::CompareResult::Greater) => CompareResult::Greater,
        Ok(wire::CompareResult::Less) => CompareResult::Less,
        Ok(wire::CompareResult::NotEqual) => CompareResult::NotEqual,
        Err(_) => return Err(unknown_comparison("result", compare.result)),
    };
    // An operand that is absent, or another target's, counts as zero: JSON leaves zeros out.
    let operand = compare.target_union;
    let target = match wire::CompareTarget::try_from(compare.target) {
        Ok(wire::CompareTarget::Version) => CompareTarget::Version(match operand {
            Some(TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Ok(wire::CompareTarget::Create) => CompareTarget::Create(match operand {
            Some(TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(wire::CompareTarget::Mod) => CompareTarget::Mod(match operand {
            Some(TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        Ok(wire::CompareTarget::Value) => CompareTarget::Value(match operand {
            Some(TargetUnion::Value(value)) => value,
            _ => Bytes::new(),
        }),
        Ok(wire::CompareTarget::Lease) => CompareTarget::Lease(match operand {
            Some(TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        Err(_) => return Err(unknown_comparison("target", compare.target)),
    };
    Ok(Compare { keys: key_range(compare.key, compare.range_end), result, target })
}

fn unknown_comparison(field: &str, number: i32) -> ProtocolError {
    let text = format!("quorate: a comparison's {field} has the unknown number {number}");
    ProtocolError::of(Code::InvalidArgument, text)
}
