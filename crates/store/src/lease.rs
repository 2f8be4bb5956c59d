//! Lease: a promise to keep keys for as long as somebody says, often enough, that they matter.
//!
//! Gray and Cheriton 1989; used by Chubby (sessions), etcd and ZooKeeper (ephemeral nodes). Time is
//! a number in the log: the *lease clock*, in milliseconds, moved by `LeaseTick` alone; so every
//! member revokes the same leases at the same entry. Who may tick, and why the clock never runs
//! ahead of real time, is `replica`'s lease clock.
//!
//! Invariants: the lease clock never goes back. A lease ends `ttl + LEASE_SLACK_MS` after the clock
//! at its last renewal, never before, and is not renewed once that is reached, revoked or not: what
//! was lost stays lost. Exactly the live keys whose lease is this one are attached to it; they are
//! deleted with it, at one revision. The index of expiry equals the leases stored.

use crate::EngineSnapshot;
use crate::chain_hash::ChainHash;
use crate::envelope::{DecodeError, get_i64, get_u64};
use crate::failure::StoreFailure;
use crate::key_layout::{Layout, META_LEASE_CLOCK, PREFIX_LENGTH, Space, as_slices};
use crate::limits::{LEASE_SLACK_MS, LEASE_TTL_MAX_S};
use crate::overlay::Overlay;
use crate::reply::StoreError;
use crate::versioned_value::Stop;
use crate::versioned_value::write::RevisionWriter;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use mutants::{Bug, planted};
use std::collections::BTreeSet;

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id, never 0.
    pub id: i64,
    /// The time to live granted, in seconds.
    pub ttl_s: u64,
    /// When the lease clock ends it; the slack is included.
    pub expires_at_ms: u64,
}

impl Lease {
    /// Milliseconds that a holder may still count on at this lease clock: the slack is not its own.
    #[must_use]
    pub fn remaining_ms(&self, clock_ms: u64) -> u64 {
        self.expires_at_ms.saturating_sub(LEASE_SLACK_MS).saturating_sub(clock_ms)
    }
}

/// Where the leases stand, for whoever drives their clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The lease clock.
    pub clock_ms: u64,
    /// When the lease that ends first does; none without leases.
    pub next_due_ms: Option<u64>,
}

/// What of the leases is kept in memory. Everything else is read from the engine.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Leases {
    clock_ms: u64,
    /// (Expiry, id) of every lease.
    expiry: BTreeSet<(u64, i64)>,
}

impl Leases {
    /// Reads back what the engine holds.
    pub(crate) fn load(
        snapshot: &dyn EngineSnapshot,
        layout: Layout,
    ) -> Result<Leases, StoreFailure> {
        let clock_ms = read_clock(snapshot, layout)?;
        let mut expiry = BTreeSet::new();
        for lease in all(snapshot, layout) {
            let lease = lease?;
            expiry.insert((lease.expires_at_ms, lease.id));
        }
        Ok(Leases { clock_ms, expiry })
    }

    pub(crate) fn status(&self) -> LeaseStatus {
        let next_due_ms = self.expiry.first().map(|&(at, _)| at);
        LeaseStatus { clock_ms: self.clock_ms, next_due_ms }
    }

    /// Moves the clock forward; never back.
    pub(crate) fn tick(
        &mut self,
        overlay: &mut Overlay,
        layout: Layout,
        hash: &mut ChainHash,
        clock_ms: u64,
    ) {
        self.clock_ms = self.clock_ms.max(clock_ms);
        let clock = self.clock_ms.to_be_bytes();
        hash.note("lease clock", &clock);
        overlay.put(layout.meta(META_LEASE_CLOCK), Bytes::copy_from_slice(&clock));
    }

    /// The lease that is due first, if one is.
    pub(crate) fn due(&self) -> Option<i64> {
        self.expiry.first().filter(|&&(at, _)| at <= self.clock_ms).map(|&(_, id)| id)
    }

    pub(crate) fn grant(
        &mut self,
        overlay: &mut Overlay,
        layout: Layout,
        hash: &mut ChainHash,
        (id, ttl_s): (i64, u64),
    ) -> Result<(), Stop> {
        if id == 0 {
            return Err(StoreError::LeaseNotFound.into());
        }
        if read(overlay, layout, id)?.is_some() {
            return Err(StoreError::LeaseExists.into());
        }
        self.keep(overlay, layout, hash, (id, ttl_s));
        Ok(())
    }

    /// Renews a lease and returns the time to live granted; 0 if there is none to renew.
    pub(crate) fn renew(
        &mut self,
        overlay: &mut Overlay,
        layout: Layout,
        hash: &mut ChainHash,
        id: i64,
    ) -> Result<u64, StoreFailure> {
        let live = |lease: &Lease| lease.expires_at_ms > self.clock_ms;
        let Some(lease) = read(overlay, layout, id)?.filter(live) else { return Ok(0) };
        self.forget(&lease);
        self.keep(overlay, layout, hash, (id, lease.ttl_s));
        Ok(lease.ttl_s)
    }

    /// Stores a lease that runs from now.
    fn keep(
        &mut self,
        overlay: &mut Overlay,
        layout: Layout,
        hash: &mut ChainHash,
        (id, ttl_s): (i64, u64),
    ) {
        let slack_ms = if planted(Bug::SlackRemoved) { 0 } else { LEASE_SLACK_MS };
        let lasts_ms = ttl_s.saturating_mul(1000).saturating_add(slack_ms);
        let expires_at_ms = self.clock_ms.saturating_add(lasts_ms);
        let mut record = BytesMut::with_capacity(16);
        record.put_u64(ttl_s);
        record.put_u64(expires_at_ms);
        let (key, record) = (layout.lease(id), record.freeze());
        hash.note("lease", &[&key[PREFIX_LENGTH..], &record].concat());
        overlay.put(key, record);
        assert!(self.expiry.insert((expires_at_ms, id)), "a lease is stored once");
    }

    /// The lease has been revoked or replaced.
    pub(crate) fn forget(&mut self, lease: &Lease) {
        let known = self.expiry.remove(&(lease.expires_at_ms, lease.id));
        assert!(known, "the index of expiry holds every lease");
    }
}

/// Deletes a lease and the keys attached to it; returns it and how many keys there were.
pub(crate) fn revoke(writer: &mut RevisionWriter<'_>, id: i64) -> Result<(Lease, usize), Stop> {
    let view = writer.view();
    let layout = view.layout;
    let lease = read(view.snapshot, layout, id)?.ok_or(StoreError::LeaseNotFound)?;
    let keys = keys(view.snapshot, layout, id)?;
    for key in &keys {
        let attached = writer.view().current(key)?.filter(|live| live.lease == id);
        let live = attached.ok_or_else(|| view_corrupt(layout, "a key attached to a lease"))?;
        writer.delete(key.clone(), live);
    }
    let name = layout.lease(id);
    writer.note("lease revoked", &name[PREFIX_LENGTH..]);
    writer.overlay().delete(name);
    Ok((lease, keys.len()))
}

/// Whether keys may be attached to it.
pub(crate) fn exists(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
    id: i64,
) -> Result<bool, StoreFailure> {
    Ok(snapshot.get(&layout.lease(id))?.is_some())
}

/// The lease clock; 0 if it never moved.
pub(crate) fn read_clock(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
) -> Result<u64, StoreFailure> {
    let Some(mut clock) = snapshot.get(&layout.meta(META_LEASE_CLOCK))? else { return Ok(0) };
    check_clock(&clock).map_err(|_| view_corrupt(layout, "the lease clock"))?;
    Ok(clock.get_u64())
}

/// One lease.
pub(crate) fn read(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
    id: i64,
) -> Result<Option<Lease>, StoreFailure> {
    let record = snapshot.get(&layout.lease(id))?;
    record.map(|record| decode(layout, id, record)).transpose()
}

/// Every lease, in the order of the ids' bits.
pub(crate) fn all<'a>(
    snapshot: &'a dyn EngineSnapshot,
    layout: Layout,
) -> impl Iterator<Item = Result<Lease, StoreFailure>> + 'a {
    let bounds = layout.space_bounds(Space::Leases);
    let (from, to) = as_slices(&bounds);
    let read = move |pair: Result<crate::Pair, crate::EngineError>| {
        let (key, record) = pair?;
        let id = get_i64(&mut key.slice(PREFIX_LENGTH..));
        decode(layout, id.map_err(|_| view_corrupt(layout, "a lease"))?, record)
    };
    snapshot.scan(from, to).map(read)
}

/// The keys attached to a lease, ascending.
pub(crate) fn keys(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
    id: i64,
) -> Result<Vec<Bytes>, StoreFailure> {
    let bounds = layout.lease_keys_bounds(id);
    let (from, to) = as_slices(&bounds);
    let name = |pair: Result<crate::Pair, crate::EngineError>| {
        Ok(pair?.0.slice(PREFIX_LENGTH + LEASE_ID_BYTES..))
    };
    snapshot.scan(from, to).map(name).collect()
}

const LEASE_ID_BYTES: usize = 8;

fn decode(layout: Layout, id: i64, record: Bytes) -> Result<Lease, StoreFailure> {
    decode_record(record)
        .map(|(ttl_s, expires_at_ms)| Lease { id, ttl_s, expires_at_ms })
        .map_err(|_| view_corrupt(layout, "a lease"))
}

fn decode_record(mut record: Bytes) -> Result<(u64, u64), DecodeError> {
    let decoded = (get_u64(&mut record)?, get_u64(&mut record)?);
    if record.has_remaining() || decoded.0 > LEASE_TTL_MAX_S {
        return Err(DecodeError("a lease has the wrong form"));
    }
    Ok(decoded)
}

fn view_corrupt(layout: Layout, record: &'static str) -> StoreFailure {
    StoreFailure::CorruptState { group: layout.group, record }
}

/// Refuses a lease clock of a snapshot that would be unreadable.
pub(crate) fn check_clock(value: &Bytes) -> Result<(), DecodeError> {
    if value.len() == 8 { Ok(()) } else { Err(DecodeError("the lease clock has the wrong form")) }
}

/// Refuses a lease, or a key attached to one, that would be unreadable.
pub(crate) fn check_record(space: Space, name: &Bytes, value: Bytes) -> Result<(), DecodeError> {
    let fits = match space {
        Space::Leases => name.len() == LEASE_ID_BYTES && decode_record(value).is_ok(),
        _ => name.len() > LEASE_ID_BYTES && value.is_empty(),
    };
    if fits { Ok(()) } else { Err(DecodeError("a lease of the snapshot has the wrong form")) }
}
