//! Reading a range with every option of etcd's `RangeRequest` (etcd `server/etcdserver/txn`,
//! `executeRange`), whole or in chunks.
//!
//! Invariant: what is held in memory is bounded by what is returned, whatever the size of the
//! range. The order of steps is etcd's: revision filters, sorting, limit, projection; `count` is
//! the number of keys in the range, before all of them.

use super::{KeyspaceView, Stop};
use crate::failure::StoreFailure;
use crate::range::{KeyRange, KeyValue, Projection, Range, Revision, SortOrder, SortTarget};
use crate::reply::{RangeReply, StoreError};
use bytes::{BufMut, Bytes, BytesMut};
use std::cmp::Ordering;

impl KeyspaceView<'_> {
    /// Serves a range read.
    pub(crate) fn range(&self, range: &Range) -> Result<RangeReply, Stop> {
        let revision = self.resolve(range.revision)?;
        let reply = RangeReply { revision: self.revision, ..RangeReply::default() };
        if range.projection == Projection::CountOnly {
            return Ok(RangeReply { count: self.count(&range.keys, revision)?, ..reply });
        }
        let mut reply = match Plan::of(range) {
            Plan::InOrder { sort } => self.read_in_order(range, revision, sort, reply)?,
            Plan::Everything { order } => self.read_sorted(range, revision, order, reply)?,
        };
        if range.projection == Projection::KeysOnly {
            reply.pairs.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        Ok(reply)
    }

    /// Takes the first pairs by key, and no more than the limit.
    fn read_in_order(
        &self,
        range: &Range,
        revision: Revision,
        sort: Option<SortTarget>,
        mut reply: RangeReply,
    ) -> Result<RangeReply, Stop> {
        let limit = limit_of(range);
        // etcd reads one pair beyond the limit before it sorts, so a sort without an order
        // ranks exactly those.
        let wanted = limit.saturating_add(usize::from(sort.is_some()));
        let mut pairs = self.pairs(&range.keys, revision)?;
        while reply.pairs.len() < wanted {
            let Some(pair) = pairs.next()? else { break };
            reply.count += 1;
            reply.pairs.push(pair);
        }
        while pairs.skip_one()? {
            reply.count += 1;
        }
        reply.more = reply.count > i64::try_from(limit).unwrap_or(i64::MAX);
        if let Some(target) = sort {
            reply.pairs.sort_by(|a, b| compare_by(target, a, b));
            reply.pairs.truncate(limit);
        }
        Ok(reply)
    }

    /// Looks at every pair, keeping those that may still be among the first `limit`.
    fn read_sorted(
        &self,
        range: &Range,
        revision: Revision,
        order: (SortTarget, SortOrder),
        mut reply: RangeReply,
    ) -> Result<RangeReply, Stop> {
        let limit = limit_of(range);
        let by = |a: &KeyValue, b: &KeyValue| match order {
            (target, SortOrder::Descend) => compare_by(target, b, a),
            (target, _) => compare_by(target, a, b),
        };
        let mut matching = 0usize;
        let mut pairs = self.pairs(&range.keys, revision)?;
        while let Some(mut pair) = pairs.next()? {
            reply.count += 1;
            if !passes(range, &pair) {
                continue;
            }
            matching += 1;
            if range.projection == Projection::KeysOnly && order.0 != SortTarget::Value {
                pair.value = Bytes::new();
            }
            reply.pairs.push(pair);
            if reply.pairs.len() > limit.saturating_mul(2).saturating_add(SLACK) {
                reply.pairs.sort_by(by);
                reply.pairs.truncate(limit);
            }
        }
        reply.pairs.sort_by(by);
        reply.pairs.truncate(limit);
        reply.more = matching > limit;
        Ok(reply)
    }
}

/// Pairs held beyond twice the limit before the worst are dropped.
const SLACK: usize = 64;

enum Plan {
    /// Key order is the order of the reply (unless `sort` ranks the pairs taken), nothing is
    /// filtered: reading stops at the limit.
    InOrder { sort: Option<SortTarget> },
    /// Every pair must be seen.
    Everything { order: (SortTarget, SortOrder) },
}

impl Plan {
    fn of(range: &Range) -> Plan {
        let filtered = range.min_mod_revision != 0
            || range.max_mod_revision != 0
            || range.min_create_revision != 0
            || range.max_create_revision != 0;
        match (range.sort_target, range.sort_order) {
            (SortTarget::Key, SortOrder::None | SortOrder::Ascend) if !filtered => {
                Plan::InOrder { sort: None }
            }
            (target, SortOrder::None) if !filtered => Plan::InOrder { sort: Some(target) },
            order => Plan::Everything { order },
        }
    }
}

fn limit_of(range: &Range) -> usize {
    match usize::try_from(range.limit) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(limit) => limit,
    }
}

fn passes(range: &Range, pair: &KeyValue) -> bool {
    let within = |value, min, max| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(pair.mod_revision, range.min_mod_revision, range.max_mod_revision)
        && within(pair.create_revision, range.min_create_revision, range.max_create_revision)
}

fn compare_by(target: SortTarget, a: &KeyValue, b: &KeyValue) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

/// Where a range read in chunks goes on. Holds no part of the range, so it may wait as long as its
/// client is slow (the reader's snapshot waits with it).
#[derive(Clone, Debug)]
pub struct RangeCursor {
    range: Range,
    revision: Revision,
    /// Pairs returned so far.
    returned: usize,
    count: i64,
    finished: bool,
}

/// A part of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeChunk {
    /// The pairs.
    pub pairs: Vec<KeyValue>,
    /// Set with the last chunk.
    pub end: Option<RangeEnd>,
}

/// What is known at the end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeEnd {
    /// Whether `limit` left some out.
    pub more: bool,
    /// Number of keys in the range, whatever the limit.
    pub count: i64,
}

/// Why a range cannot be read in chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// As for any read.
    Store(StoreError),
    /// Sorting and revision filters need the whole range at once.
    NotInKeyOrder,
}

impl RangeCursor {
    pub(crate) fn new(view: &KeyspaceView<'_>, range: &Range) -> Result<RangeCursor, StreamError> {
        let revision = view.resolve(range.revision).map_err(StreamError::Store)?;
        match Plan::of(range) {
            Plan::InOrder { sort: None } => Ok(RangeCursor {
                range: range.clone(),
                revision,
                returned: 0,
                count: 0,
                finished: false,
            }),
            _ => Err(StreamError::NotInKeyOrder),
        }
    }

    pub(crate) fn next_chunk(
        &mut self,
        view: &KeyspaceView<'_>,
        bytes_max: usize,
    ) -> Result<Option<RangeChunk>, StoreFailure> {
        if self.finished {
            return Ok(None);
        }
        let limit = match self.range.projection {
            Projection::CountOnly => 0,
            _ => limit_of(&self.range),
        };
        let mut chunk = RangeChunk::default();
        let mut bytes = 0;
        let mut pairs = view.pairs(&self.range.keys, self.revision)?;
        while self.returned < limit {
            let Some(mut pair) = pairs.next()? else { return Ok(Some(self.finish(chunk, false))) };
            self.count += 1;
            self.returned += 1;
            if self.range.projection == Projection::KeysOnly {
                pair.value = Bytes::new();
            }
            bytes += pair.key.len() + pair.value.len() + PAIR_OVERHEAD;
            chunk.pairs.push(pair);
            if bytes >= bytes_max {
                self.go_on_behind(&chunk);
                return Ok(Some(chunk));
            }
        }
        let before = self.count;
        while pairs.skip_one()? {
            self.count += 1;
        }
        let more = self.count > before && self.range.projection != Projection::CountOnly;
        Ok(Some(self.finish(chunk, more)))
    }

    fn finish(&mut self, mut chunk: RangeChunk, more: bool) -> RangeChunk {
        self.finished = true;
        chunk.end = Some(RangeEnd { more, count: self.count });
        chunk
    }

    fn go_on_behind(&mut self, chunk: &RangeChunk) {
        let Some(last) = chunk.pairs.last() else { return };
        // The smallest key greater than the last one.
        let mut next = BytesMut::with_capacity(last.key.len() + 1);
        next.put_slice(&last.key);
        next.put_u8(0);
        let start = next.freeze();
        self.range.keys = match &self.range.keys {
            KeyRange::Key(key) => KeyRange::Span { start, end: key.clone() },
            KeyRange::Span { end, .. } => KeyRange::Span { start, end: end.clone() },
            KeyRange::From(_) => KeyRange::From(start),
        };
    }
}

/// What a pair takes beside its key and value.
const PAIR_OVERHEAD: usize = 48;
