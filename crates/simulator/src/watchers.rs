//! Watchers: one per member and keyspace, which resume at revision + 1 wherever they were cut off.

use crate::cluster::World;
use crate::network::Slot;
use clocks::GroupId;
use std::sync::Arc;
use store::RevisionEvents;
use store::range::Revision;

impl World {
    pub(crate) fn feed_hub(
        &mut self,
        _slot: Slot,
        _group: GroupId,
        _revision: Revision,
        _events: Option<Arc<[RevisionEvents]>>,
    ) {
    }

    pub(crate) fn step_hub(&mut self, _slot: Slot) {}

    pub(crate) fn lose_watchers(&mut self, _slot: Slot) {}

    pub(crate) fn judge_watchers(&mut self) {}
}
