//! The conditions of a transaction (etcd `applyCompares`).

use crate::command::{Compare, CompareResult, CompareTarget};
use crate::failure::StoreFailure;
use crate::range::KeyValue;
use crate::versioned_value::KeyspaceView;
use std::cmp::Ordering;

/// Whether every condition holds.
pub(super) fn all_hold(
    view: &KeyspaceView<'_>,
    compares: &[Compare],
) -> Result<bool, StoreFailure> {
    for compare in compares {
        if !holds(view, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(view: &KeyspaceView<'_>, compare: &Compare) -> Result<bool, StoreFailure> {
    let mut pairs = view.pairs(&compare.keys, view.revision)?;
    let Some(first) = pairs.next()? else {
        return Ok(match compare.target {
            // No value equals, precedes or follows one that is not there.
            CompareTarget::Value(_) => false,
            _ => pair_holds(compare, &KeyValue::default()),
        });
    };
    let mut pair = Some(first);
    while let Some(some) = pair {
        if !pair_holds(compare, &some) {
            return Ok(false);
        }
        pair = pairs.next()?;
    }
    Ok(true)
}

fn pair_holds(compare: &Compare, pair: &KeyValue) -> bool {
    let ordering = match &compare.target {
        CompareTarget::Version(version) => pair.version.cmp(version),
        CompareTarget::Create(revision) => pair.create_revision.cmp(revision),
        CompareTarget::Mod(revision) => pair.mod_revision.cmp(revision),
        CompareTarget::Value(value) => pair.value.cmp(value),
        CompareTarget::Lease(lease) => pair.lease.cmp(lease),
    };
    match compare.result {
        CompareResult::Equal => ordering == Ordering::Equal,
        CompareResult::Greater => ordering == Ordering::Greater,
        CompareResult::Less => ordering == Ordering::Less,
        CompareResult::NotEqual => ordering != Ordering::Equal,
    }
}
