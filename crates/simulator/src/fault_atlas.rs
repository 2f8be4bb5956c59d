//! Fault atlas: which members have lost something for good, so that they are never more than any
//! quorum can do without (the atlas of TigerBeetle's storage faults).
//!
//! A member is afflicted from the moment its disk reads wrong until it has learnt anew whatever it
//! may have lost: one that carries the mark of damage is no voter and counts as well. Whoever is
//! not afflicted keeps everything; so together they hold all that was acknowledged.

use crate::cluster::World;
use crate::disk::Crash;
use crate::mark::Mark;
use crate::network::Slot;
use std::collections::BTreeSet;

/// The members that have lost something.
#[derive(Default)]
pub(crate) struct FaultAtlas {
    afflicted: BTreeSet<Slot>,
}

impl World {
    /// Lets synced sectors of a disk rot, if a minority is afflicted then.
    pub(crate) fn corrupt(&mut self, slot: Slot) {
        self.review_atlas();
        let mut afflicted = self.atlas.afflicted.clone();
        afflicted.insert(slot);
        let spared = self.nodes.len() - self.swarm.spares;
        let is_minority = afflicted.len() <= (spared - 1) / 2;
        if is_minority && !self.atlas.afflicted.contains(&slot) && self.nodes[slot].disk.rot() {
            self.atlas.afflicted = afflicted;
            self.marks.reach(Mark::SyncedSectorRotten);
            self.detail(|| format!("synced sectors of node {slot} rot"));
            if self.fault_rng.flip() {
                // Before what rotted is cut away unread.
                self.crash_and_restart(slot, Crash::Kill);
            }
        }
    }

    /// Takes off the list who has learnt everything anew.
    fn review_atlas(&mut self) {
        let nodes = &self.nodes;
        let before = self.atlas.afflicted.len();
        self.atlas.afflicted.retain(|slot| {
            let node = &nodes[*slot];
            let process = node.process.as_ref();
            let is_whole = process.is_some_and(|p| p.log.status().damaged.is_empty());
            node.disk.is_rotten() || !is_whole
        });
        if self.atlas.afflicted.len() < before {
            self.marks.reach(Mark::DamageHealed);
        }
    }

    /// Whether somebody may not be able to vote.
    pub(crate) fn is_anybody_afflicted(&mut self) -> bool {
        self.review_atlas();
        !self.atlas.afflicted.is_empty()
    }

    /// A member stops, or does not start, because its disk reads wrong: right if it does. One that
    /// may have lost a vote would have to be replaced; here its disk is repaired before it has said
    /// anything.
    pub(crate) fn excuse_rotten(&mut self, slot: Slot, mark: Mark) -> bool {
        if !self.nodes[slot].disk.is_rotten() {
            return false;
        }
        self.marks.reach(mark);
        if self.nodes[slot].is_up() {
            self.crash(slot, Crash::Kill);
        } else {
            self.nodes[slot].disk.heal_rot();
        }
        self.restart_later(slot);
        true
    }
}
