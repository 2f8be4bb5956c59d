//! Rolling upgrade: members of an old build are replaced one by one under load, and now and then
//! somebody starts the old build again.
//!
//! An old build is the same code that speaks one feature level less: it offers nothing of the new
//! level, and stops at an entry of the new level as a decoder that does not know it would. Checked
//! here: no entry is beyond the cluster's level, none reaches a member that never spoke its level,
//! a build that speaks less than the cluster does not run, and once all speak a level it is used.
//! Not here: that the level never falls (`witness`).

use crate::cluster::{Phase, World};
use crate::disk::Crash;
use crate::mark::Mark;
use crate::network::Slot;
use crate::rng::Chance;
use bytes::Bytes;
use clocks::GroupId;
use consensus::{Entry, Payload};
use replica::LogEvent;
use store::command::Envelope;
use wire::peer::{Hello, LocalMember, PROTOCOL_VERSION};

/// What an old build speaks.
pub(crate) const OLD_LEVEL: u32 = 1;
/// What the current build speaks.
pub(crate) const LEVEL: u32 = 2;

/// The cluster's id in handshakes.
const CLUSTER: u64 = 0xc1;

impl World {
    /// The next step of the upgrade; when it is done, or by mistake, one back.
    pub(crate) fn upgrade_somebody(&mut self) {
        let old: Vec<Slot> = (0..self.nodes.len()).filter(|slot| self.is_old(*slot)).collect();
        let by_mistake = self.fault_rng.chance(Chance::percent(25));
        if old.is_empty() || by_mistake {
            let slot = self.fault_rng.index(self.nodes.len());
            self.replace_build(slot, OLD_LEVEL);
        } else {
            let slot = old[self.fault_rng.index(old.len())];
            self.replace_build(slot, LEVEL);
        }
    }

    fn is_old(&self, slot: Slot) -> bool {
        self.nodes[slot].config.feature_level < LEVEL
    }

    fn replace_build(&mut self, slot: Slot, level: u32) {
        self.crash_and_restart(slot, Crash::Kill);
        self.nodes[slot].install_build(level);
    }

    /// Nobody runs the old build any more.
    pub(crate) fn finish_upgrade(&mut self) {
        for slot in 0..self.nodes.len() {
            if self.is_old(slot) {
                if self.nodes[slot].is_up() {
                    self.crash(slot, Crash::Kill);
                }
                self.nodes[slot].install_build(LEVEL);
            }
        }
    }

    /// Whether the cluster uses all that its members speak.
    pub(crate) fn is_level_used(&self) -> bool {
        self.witness.level() == LEVEL
    }

    /// Whether the cluster, as far as anybody has applied it, writes what this build cannot read.
    fn is_too_old(&self, slot: Slot) -> bool {
        let node = &self.nodes[slot];
        let applied = node
            .process
            .as_ref()
            .map_or(0, |process| process.applier.reader(GroupId::CONSISTENT_CORE).feature_level());
        node.config.feature_level < applied.max(self.witness.level())
    }

    /// A build that is too old stopped or was refused: right if it was put there by mistake, since
    /// the level waits for members that have not been upgraded yet. False if there is no excuse.
    pub(crate) fn excuse_old_build(&mut self, slot: Slot, mark: Mark) -> bool {
        if !self.is_too_old(slot) || !self.nodes[slot].rolled_back {
            return false;
        }
        self.marks.reach(mark);
        if self.nodes[slot].is_up() {
            self.crash(slot, Crash::Kill);
        }
        self.nodes[slot].install_build(LEVEL);
        self.restart_later(slot);
        true
    }

    /// What a member is handed must be spoken by the cluster and by its build; false if its build
    /// stopped at it.
    pub(crate) fn check_spoken(&mut self, slot: Slot, group: GroupId, entries: &[Entry]) -> bool {
        if self.witness.level() >= LEVEL && !self.is_old(slot) {
            return true;
        }
        let Some((index, needed)) = highest_level(entries) else { return true };
        if needed > self.witness.level() && needed > OLD_LEVEL {
            let level = self.witness.level();
            let detail = format!("{group} entry {index} is of level {needed}, the cluster {level}");
            self.violate("nothing is written before all understand it", detail);
        } else if needed > self.nodes[slot].config.feature_level
            && !self.excuse_old_build(slot, Mark::OldBuildStopped)
        {
            let detail = format!("node {slot} {group} entry {index} is of level {needed}");
            self.violate("a member is handed nothing beyond its build", detail);
        }
        !self.is_over() && self.nodes[slot].is_up()
    }

    /// A member stands at this index of the consistent core.
    pub(crate) fn witness_level(&mut self, slot: Slot) {
        let Some(process) = &self.nodes[slot].process else { return };
        let level = process.applier.reader(GroupId::CONSISTENT_CORE).feature_level();
        let before = self.witness.level();
        let position = process.applier.chain_hash(GroupId::CONSISTENT_CORE);
        let index = position.map_or(0, |(position, _)| position.index);
        let checked = self.witness.level_at(slot, index, level);
        self.check(checked);
        if before < level && level > OLD_LEVEL && self.phase == Phase::Safety {
            self.marks.reach(Mark::LevelRaisedUnderLoad);
        }
        if level > self.nodes[slot].config.feature_level {
            let detail = format!("node {slot} runs on although the level is {level}");
            self.violate("a build that speaks less than the cluster stops", detail);
        }
    }

    /// The handshake of two that want to connect: whether both let the other in.
    pub(crate) fn shake_hands(&mut self, a: Slot, b: Slot) -> bool {
        let refused = [(a, b), (b, a)].into_iter().any(|(caller, called)| {
            let (caller, called) = (&self.nodes[caller], &self.nodes[called]);
            let Some(process) = &called.process else { return false };
            let core = process.applier.reader(GroupId::CONSISTENT_CORE);
            let cluster_feature_level = core.feature_level();
            let local = LocalMember { cluster_id: CLUSTER, id: called.id, cluster_feature_level };
            let hello = Hello {
                protocol_version: PROTOCOL_VERSION,
                cluster_id: CLUSTER,
                sender: caller.id,
                receiver: called.id,
                feature_level: caller.config.feature_level,
                directory_id: caller.config.member.directory_id,
            };
            local.check(&hello).is_err()
        });
        if refused {
            self.marks.reach(Mark::OldBuildNotConnected);
        }
        !refused
    }

    /// The planted bug: the log machine is told that everybody speaks the new level.
    pub(crate) fn ignore_gate(&mut self, slot: Slot) {
        if !self.is_old(slot) {
            self.tell(slot, LogEvent::FeatureLevel { level: LEVEL, possible: LEVEL });
        }
    }
}

/// The entry that needs the highest level.
fn highest_level(entries: &[Entry]) -> Option<(u64, u32)> {
    let level = |entry: &Entry| match &entry.payload {
        Payload::Command(command) => Some((entry.position.index, level_of(command.clone())?)),
        Payload::Barrier | Payload::Membership(_) => None,
    };
    entries.iter().filter_map(level).max_by_key(|(_, level)| *level)
}

fn level_of(command: Bytes) -> Option<u32> {
    Envelope::decode(command).ok().map(|envelope| envelope.command.feature_level())
}
