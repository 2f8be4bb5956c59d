//! Transactions: compare, then one of two branches, atomically (etcd `server/etcdserver/txn`).
//!
//! The order is etcd's: every comparison, those of nested transactions too, is evaluated against
//! the state before the transaction; then every operation of the branches taken is checked against
//! that same state, reads included; only then is anything written. So a refusal (a compacted
//! revision in the middle, say) is found by every member alike and leaves no trace.

mod compare;

use crate::command::{DeleteRange, Put, Txn, TxnOp};
use crate::key_layout::CurrentRecord;
use crate::lease;
use crate::range::Range;
use crate::reply::{StoreError, TxnOpReply, TxnReply};
use crate::versioned_value::write::RevisionWriter;
use crate::versioned_value::{KeyspaceView, Stop};

/// A transaction whose branches are chosen.
pub(crate) struct Resolved<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a Range),
    Put(&'a Put),
    DeleteRange(&'a DeleteRange),
    Txn(Resolved<'a>),
}

impl<'a> Resolved<'a> {
    /// Evaluates every comparison that counts.
    pub(crate) fn of(view: &KeyspaceView<'_>, txn: &'a Txn) -> Result<Resolved<'a>, Stop> {
        let succeeded = compare::all_hold(view, &txn.compare)?;
        let branch = if succeeded { &txn.success } else { &txn.failure };
        let step = |op: &'a TxnOp| {
            Ok(match op {
                TxnOp::Range(range) => Step::Range(range),
                TxnOp::Put(put) => Step::Put(put),
                TxnOp::DeleteRange(delete) => Step::DeleteRange(delete),
                TxnOp::Txn(txn) => Step::Txn(Resolved::of(view, txn)?),
            })
        };
        let steps = branch.iter().map(step).collect::<Result<_, Stop>>()?;
        Ok(Resolved { succeeded, steps })
    }

    /// Refuses what could fail half-way.
    pub(crate) fn check(&self, view: &KeyspaceView<'_>) -> Result<(), Stop> {
        for step in &self.steps {
            match step {
                Step::Range(range) => check_range(view, range)?,
                Step::Put(put) => drop(check_put(view, put)?),
                Step::DeleteRange(_) => {}
                Step::Txn(txn) => txn.check(view)?,
            }
        }
        Ok(())
    }

    /// Runs the branches. A refusal here means that the steps contradict each other (a front end
    /// refuses such transactions): the caller undoes them.
    pub(crate) fn execute(&self, writer: &mut RevisionWriter<'_>) -> Result<TxnReply, Stop> {
        let mut replies = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            replies.push(match step {
                Step::Range(range) => TxnOpReply::Range(writer.view().range(range)?),
                Step::Put(put) => TxnOpReply::Put { previous: run_put(writer, put)? },
                Step::DeleteRange(delete) => {
                    let (deleted, previous) = run_delete(writer, delete)?;
                    TxnOpReply::DeleteRange { deleted, previous }
                }
                Step::Txn(txn) => TxnOpReply::Txn(txn.execute(writer)?),
            });
        }
        Ok(TxnReply { succeeded: self.succeeded, replies })
    }

    /// Runs a transaction that only reads.
    ///
    /// # Panics
    /// If it writes.
    pub(crate) fn read(&self, view: &KeyspaceView<'_>) -> Result<TxnReply, Stop> {
        let read = |step: &Step<'_>| {
            Ok(match step {
                Step::Range(range) => TxnOpReply::Range(view.range(range)?),
                Step::Txn(txn) => TxnOpReply::Txn(txn.read(view)?),
                Step::Put(_) | Step::DeleteRange(_) => {
                    panic!("the caller checked that the transaction only reads")
                }
            })
        };
        let replies = self.steps.iter().map(read).collect::<Result<_, Stop>>()?;
        Ok(TxnReply { succeeded: self.succeeded, replies })
    }
}

/// Within a transaction etcd refuses every revision but 0 that it cannot read, negative ones too.
fn check_range(view: &KeyspaceView<'_>, range: &Range) -> Result<(), StoreError> {
    match range.revision {
        0 => Ok(()),
        future if future > view.revision => {
            Err(StoreError::FutureRevision { current: view.revision })
        }
        past if past < view.compacted => Err(StoreError::Compacted { compacted: view.compacted }),
        _ => Ok(()),
    }
}

/// Whether the put may be made; returns the version that it would replace.
fn check_put(view: &KeyspaceView<'_>, put: &Put) -> Result<Option<CurrentRecord>, Stop> {
    if put.lease != 0 && !lease::exists(view.snapshot, view.layout, put.lease)? {
        return Err(StoreError::LeaseNotFound.into());
    }
    let replaced = view.current(&put.key)?;
    if replaced.is_none() && (put.ignore_value || put.ignore_lease) {
        return Err(StoreError::KeyNotFound.into());
    }
    Ok(replaced)
}

/// Sets a key; returns the version replaced if asked for.
pub(crate) fn run_put(
    writer: &mut RevisionWriter<'_>,
    put: &Put,
) -> Result<Option<crate::range::KeyValue>, Stop> {
    let replaced = check_put(&writer.view(), put)?;
    let (value, lease) = match &replaced {
        Some(old) => (
            if put.ignore_value { &old.value } else { &put.value }.clone(),
            if put.ignore_lease { old.lease } else { put.lease },
        ),
        None => (put.value.clone(), put.lease),
    };
    let previous = writer.put(&put.key, value, lease, replaced);
    Ok(previous.filter(|_| put.prev_kv))
}

/// Deletes keys; returns how many, and their versions if asked for.
pub(crate) fn run_delete(
    writer: &mut RevisionWriter<'_>,
    delete: &DeleteRange,
) -> Result<(i64, Vec<crate::range::KeyValue>), Stop> {
    let deleted = writer.delete_range(&delete.keys)?;
    let count = i64::try_from(deleted.len()).expect("keys in memory are fewer than 2^63");
    Ok((count, if delete.prev_kv { deleted } else { Vec::new() }))
}
