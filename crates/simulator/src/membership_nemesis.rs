//! Membership nemesis: members are removed for good, and others added in their place, under load
//! and while everything else goes wrong.
//!
//! One machine at a time: its member is removed, the machine emptied, and a member with a new id
//! added, as a voter or as a learner that is promoted, and started there. What happened is read off
//! the member table of some member; answers are only checked. A change whose outcome is unknown is
//! asked for again until it has happened, so that no old request can come into effect afterwards.
//! Checked here: a change that was acknowledged is in force in every group; only a removed member
//! stops; in the end the members of every group are exactly those that were decided.

use crate::cluster::{Event, Phase, World};
use crate::disk::Crash;
use crate::event_heap::{Instant, MILLISECOND};
use crate::feature::Feature;
use crate::mark::Mark;
use crate::mutant::Mutant;
use crate::network::Slot;
use crate::rng::{Rng, Seed};
use crate::rolling_upgrade::LEVEL;
use clocks::{GroupId, NodeId};
use replica::{Ask, GroupStatus, LogEvent, Reply, Request, RequestError, RequestId};
use std::time::Duration;
use store::command::{Command, MembershipCommand, MembershipRefusal};
use store::reply::StoreError;
use store::{MemEngine, MemberTable};

/// Nanoseconds between two looks.
const PACE: u64 = 150 * MILLISECOND;

/// How far the replacement of a member has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    /// The member of this machine is to leave.
    Removing(Slot),
    /// The machine is empty; a new member is to be added for it.
    Adding(Slot),
    /// It runs, and is to vote in every group.
    Joining(Slot),
}

struct Asked {
    request: RequestId,
    at: Slot,
    until: Instant,
    change: MembershipCommand,
}

/// The replacement under way.
pub(crate) struct MembershipNemesis {
    rng: Rng,
    stage: Stage,
    asked: Option<Asked>,
    learner: bool,
    looks: bool,
    /// The planted bug: what the forgetful member heard first.
    heard: Option<MemberTable>,
}

impl MembershipNemesis {
    pub(crate) fn new(seed: Seed) -> MembershipNemesis {
        MembershipNemesis {
            rng: seed.stream("membership", 0),
            stage: Stage::Idle,
            asked: None,
            learner: false,
            looks: false,
            heard: None,
        }
    }

    /// The machine whose member is being replaced.
    pub(crate) fn slot(&self) -> Option<Slot> {
        match self.stage {
            Stage::Idle => None,
            Stage::Removing(slot) | Stage::Adding(slot) | Stage::Joining(slot) => Some(slot),
        }
    }

    /// The machine is empty, and nobody's yet.
    pub(crate) fn keeps_down(&self, slot: Slot) -> bool {
        self.stage == Stage::Adding(slot)
    }
}

impl World {
    /// Begins to replace a member, unless one is being replaced.
    pub(crate) fn replace_member(&mut self) {
        if self.nemesis.stage == Stage::Idle {
            let slot = self.nemesis.rng.index(self.nodes.len());
            self.nemesis.learner = self.nemesis.rng.flip();
            self.nemesis.stage = Stage::Removing(slot);
        }
        if !std::mem::replace(&mut self.nemesis.looks, true) {
            self.heap.after(PACE, Event::Nemesis);
        }
    }

    pub(crate) fn on_nemesis(&mut self) {
        let now = self.heap.now();
        self.nemesis.asked.take_if(|asked| asked.until <= now);
        // What is broken while the core is healed stays so.
        if self.phase != Phase::Liveness && self.nemesis.asked.is_none() {
            self.go_on();
        }
        self.nemesis.looks = self.nemesis.stage != Stage::Idle;
        if self.nemesis.looks {
            self.heap.after(PACE, Event::Nemesis);
        }
    }

    fn go_on(&mut self) {
        let Some(slot) = self.nemesis.slot() else { return };
        let others = (0..self.nodes.len()).filter(|other| {
            let node = &self.nodes[*other];
            *other != slot && node.is_up() && !node.paused && !node.abandoned
        });
        let others: Vec<Slot> = others.collect();
        if others.is_empty() {
            return;
        }
        let via = others[self.nemesis.rng.index(others.len())];
        let core = self.process(via).applier.reader(GroupId::CONSISTENT_CORE);
        let table = core.member_table().expect("memory does not fail").unwrap_or_default();
        let id = self.nodes[slot].id;
        match self.nemesis.stage {
            Stage::Idle => {}
            Stage::Removing(_) if table.removed.contains(&id) => self.empty_machine(slot),
            Stage::Removing(_) => self.ask_for(via, MembershipCommand::Remove { id }),
            Stage::Adding(_) if table.voters.contains(&id) || table.learners.contains(&id) => {
                self.nemesis.stage = Stage::Joining(slot);
                self.start(slot);
            }
            Stage::Adding(_) => {
                let peer_addresses = self.nodes[slot].config.member.peer_addresses.clone();
                let learner = self.nemesis.learner;
                self.ask_for(via, MembershipCommand::Add { id, peer_addresses, learner });
            }
            Stage::Joining(_) if table.learners.contains(&id) => {
                self.ask_for(via, MembershipCommand::Promote { id });
            }
            Stage::Joining(_) => {
                if self.votes_everywhere(slot) {
                    self.marks.reach(Mark::MemberReplaced);
                    self.nemesis.stage = Stage::Idle;
                }
            }
        }
    }

    /// The machine gets a new disk, and is to be a member of another name.
    fn empty_machine(&mut self, slot: Slot) {
        if self.nodes[slot].is_up() {
            self.crash(slot, Crash::Kill);
        }
        let contacts =
            self.nodes.iter().map(|node| node.id).filter(|id| *id != self.nodes[slot].id);
        let contacts = contacts.collect();
        let id = NodeId(self.nodes[slot].id.0 + self.nodes.len() as u64);
        self.detail(|| format!("node {slot} is emptied, and will be member {id}"));
        let node = &mut self.nodes[slot];
        // No start that was planned before may happen.
        node.life += 1;
        node.id = id;
        node.disk.wipe();
        node.engine = MemEngine::new();
        node.install_build(LEVEL);
        node.rolled_back = false;
        node.config.node = id;
        node.config.initial_voters = Vec::new();
        node.config.contacts = contacts;
        node.config.member.id = id;
        node.config.member.directory_id += 1 << 64;
        self.witness.restarted(slot);
        self.nemesis.stage = Stage::Adding(slot);
    }

    fn votes_everywhere(&self, slot: Slot) -> bool {
        let Some(process) = &self.nodes[slot].process else { return false };
        let id = self.nodes[slot].id;
        let votes =
            |group: &GroupStatus| group.membership_settled && group.membership.voters.contains(&id);
        process.log.status().groups.iter().all(votes)
    }

    fn ask_for(&mut self, at: Slot, change: MembershipCommand) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let timeout = self.swarm.workload.timeout;
        let now = self.heap.now();
        let clock = self.nodes[at].clock.monotonic(now);
        let (group, caller) = (GroupId::CONSISTENT_CORE, None);
        let ask = Ask::Write(Command::Membership(change.clone()));
        let deadline = clock.after(Duration::from_nanos(timeout));
        let until = Instant(now.0 + timeout);
        self.nemesis.asked = Some(Asked { request, at, until, change });
        self.tell(at, LogEvent::Request(Request { id: request, group, deadline, caller, ask }));
    }

    /// An answer to a change; false if it is not one.
    pub(crate) fn on_membership_reply(
        &mut self,
        request: RequestId,
        result: &Result<Reply, RequestError>,
    ) -> bool {
        let asked = self.nemesis.asked.take_if(|asked| asked.request == request);
        let Some(Asked { at, change, .. }) = asked else { return false };
        match result {
            Ok(_) => self.check_in_force(at, &change),
            Err(RequestError::Refused(StoreError::Membership(refusal))) => {
                self.check_refusal(&change, *refusal);
            }
            // It is asked for again.
            Err(_) => {}
        }
        true
    }

    fn check_in_force(&mut self, at: Slot, change: &MembershipCommand) {
        let in_force = |group: &GroupStatus| match change {
            MembershipCommand::Remove { id } => !group.membership.members().contains(id),
            MembershipCommand::Add { id, .. } => group.membership.members().contains(id),
            MembershipCommand::Promote { id } => group.membership.voters.contains(id),
            _ => true,
        };
        let groups = self.process(at).log.status().groups;
        if let Some(group) = groups.iter().find(|group| !in_force(group)) {
            let (name, membership) = (group.group, &group.membership);
            let detail = format!("{change:?}: node {at} has {membership:?} in {name}");
            return self.violate("an acknowledged change of membership is in force", detail);
        }
        if matches!(change, MembershipCommand::Promote { .. }) {
            self.marks.reach(Mark::LearnerPromoted);
        }
    }

    fn check_refusal(&mut self, change: &MembershipCommand, refusal: MembershipRefusal) {
        let sound = match change {
            MembershipCommand::Remove { .. } => matches!(
                refusal,
                MembershipRefusal::Unhealthy
                    | MembershipRefusal::NotEnoughStarted
                    // Asked for before.
                    | MembershipRefusal::MemberRemoved
            ),
            MembershipCommand::Add { .. } => matches!(
                refusal,
                MembershipRefusal::NotEnoughStarted | MembershipRefusal::MemberExists
            ),
            _ => matches!(
                refusal,
                MembershipRefusal::LearnerNotReady
                    | MembershipRefusal::NotEnoughStarted
                    | MembershipRefusal::MemberNotLearner
            ),
        };
        if matches!(refusal, MembershipRefusal::Unhealthy | MembershipRefusal::LearnerNotReady) {
            self.marks.reach(Mark::LeaderObjected);
        }
        if !sound {
            let detail = format!("{change:?} was refused: {refusal:?}");
            self.violate("sound changes of membership are not refused", detail);
        }
    }

    /// A member stops by itself: right if it was removed.
    pub(crate) fn excuse_removed(&mut self, slot: Slot) -> bool {
        let id = self.nodes[slot].id;
        let knows = |slot: Slot| {
            let process = self.nodes[slot].process.as_ref();
            let core = process.map(|process| process.applier.reader(GroupId::CONSISTENT_CORE));
            core.is_some_and(|core| core.is_removed_member(id).expect("memory does not fail"))
        };
        let removed =
            self.nemesis.stage == Stage::Removing(slot) && (0..self.nodes.len()).any(knows);
        if removed {
            self.marks.reach(Mark::RemovedMemberStopped);
            self.crash(slot, Crash::Kill);
        }
        removed
    }

    /// Whether nothing is under way, and every group has exactly the members that were decided.
    pub(crate) fn is_membership_settled(&self) -> bool {
        if self.swarm.features.contains(&Feature::Operator) {
            return true;
        }
        let ids = self.nodes.iter().map(|node| node.id).collect();
        let as_decided = |group: &GroupStatus| {
            group.membership_settled
                && group.membership.voters == ids
                && group.membership.learners.is_empty()
        };
        self.nemesis.stage == Stage::Idle
            && self.nodes.iter().all(|node| {
                let groups = node.process.as_ref().map(|process| process.log.status().groups);
                groups.is_some_and(|groups| groups.iter().all(as_decided))
            })
    }

    /// The planted bug: one member goes on with the first table that it heard of.
    pub(crate) fn forget_changes(&mut self, slot: Slot, event: LogEvent) -> LogEvent {
        match event {
            LogEvent::MemberTable(table)
                if slot == 0 && self.mutant == Some(Mutant::TableForgotten) =>
            {
                LogEvent::MemberTable(self.nemesis.heard.get_or_insert(table).clone())
            }
            event => event,
        }
    }
}
