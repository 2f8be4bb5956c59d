//! The operator: adds members, promotes learners, removes members, replaces machines whose disks
//! are lost, and moves leadership, whatever else goes wrong meanwhile.
//!
//! A machine is a slot; its tenant is a member, whose id is never used again. A tenant that was
//! removed runs on until it stops by itself. Invariants: a disk is lost only if every group can do
//! without it; the operator asks for one change at a time. Not here: judging
//! (`checkers::membership`).

use crate::cluster::World;
use crate::disk::Crash;
use crate::event_heap::{Instant, MILLISECOND, SECOND};
use crate::judges::{Judges, membership_breach};
use crate::mark::Mark;
use crate::mutant::Mutant;
use crate::network::Slot;
use crate::process::Process;
use crate::rng::{Chance, Rng};
use crate::witness::Breach;
use crate::worker::{Behaviour, Heard, Span, What, Wish};
use clocks::{GroupId, NodeId};
use consensus::Membership;
use std::collections::{BTreeMap, BTreeSet};
use store::ListedMember;
use store::command::{Command, MembershipCommand};
use store::reply::Outcome;

/// Machines that have no member at first.
pub(crate) const SPARES: usize = 2;

/// Which member lives in which machine, and what the operator wants done to machines.
#[derive(Default)]
pub(crate) struct Tenants {
    /// By slot.
    pub(crate) members: Vec<Option<NodeId>>,
    /// Members that were added, or may be, and where they are to live.
    planned: BTreeMap<NodeId, Slot>,
    /// To be started now, with whom they know.
    starting: Vec<(NodeId, Slot)>,
    /// A disk that is to be lost now.
    losing: Option<Slot>,
    next_id: u64,
    /// Machines whose members changed since the core was healed.
    pub(crate) moved: BTreeSet<Slot>,
}

impl Tenants {
    /// The founders in the first machines, and spare ones.
    pub(crate) fn new(founders: usize, machines: usize) -> Tenants {
        let member = |slot: usize| (slot < founders).then(|| NodeId(slot as u64 + 1));
        let members = (0..machines).map(member).collect();
        Tenants { members, next_id: machines as u64 + 1, ..Tenants::default() }
    }

    fn slot_of(&self, id: NodeId) -> Option<Slot> {
        self.members.iter().position(|member| *member == Some(id))
    }

    fn vacancies(&self) -> Vec<Slot> {
        let is_planned = |slot: &Slot| self.planned.values().any(|planned| planned == slot);
        let vacant = |slot: &Slot| self.members[*slot].is_none() && !is_planned(slot);
        (0..self.members.len()).filter(vacant).collect()
    }
}

/// The operator's mind.
pub(crate) struct Operator {
    rng: Rng,
    /// The members, as the last answer showed them; none if that may have changed.
    list: Option<Vec<ListedMember>>,
    asking: Option<MembershipCommand>,
}

impl Operator {
    /// An operator that knows the founders only.
    pub(crate) fn new(rng: Rng) -> Operator {
        Operator { rng, list: None, asking: None }
    }

    /// A change that changes nothing, and is answered with the list.
    fn look(&mut self, tenants: &Tenants) -> MembershipCommand {
        let known: Vec<NodeId> = tenants.members.iter().flatten().copied().collect();
        let id = known[self.rng.index(known.len())];
        MembershipCommand::Update { id, peer_addresses: addresses(id) }
    }

    /// The next change; `None` to move leadership.
    fn decide(&mut self, tenants: &mut Tenants) -> Option<MembershipCommand> {
        let Some(list) = self.list.clone() else { return Some(self.look(tenants)) };
        let ids = || list.iter().map(|listed| listed.member.id);
        let is_ghost =
            |id: &NodeId| tenants.slot_of(*id).is_none() && !tenants.planned.contains_key(id);
        if let Some(id) = ids().find(is_ghost) {
            return Some(MembershipCommand::Remove { id });
        }
        if self.rng.chance(Chance::percent(15)) {
            return None;
        }
        if let Some(learner) = list.iter().find(|listed| listed.learner) {
            let id = learner.member.id;
            return Some(match self.rng.chance(Chance::percent(90)) {
                true => MembershipCommand::Promote { id },
                false => MembershipCommand::Remove { id },
            });
        }
        let vacancies = tenants.vacancies();
        let grow = list.len() < 4 || self.rng.flip();
        if let Some(slot) = vacancies.first().filter(|_| grow) {
            let id = NodeId(tenants.next_id);
            tenants.next_id += 1;
            tenants.planned.insert(id, *slot);
            let learner = self.rng.chance(Chance::percent(70));
            return Some(MembershipCommand::Add { id, peer_addresses: addresses(id), learner });
        }
        let chosen = list[self.rng.index(list.len())].member.id;
        if list.len() > 3 && self.rng.flip() {
            return Some(MembershipCommand::Remove { id: chosen });
        }
        tenants.losing = tenants.slot_of(chosen).filter(|_| list.len() >= 3);
        self.list = None;
        Some(self.look(tenants))
    }

    fn hear_list(&mut self, list: Vec<ListedMember>, judges: &mut Judges) -> Result<(), Breach> {
        let memberships = &mut judges.memberships;
        match self.asking.take() {
            Some(MembershipCommand::Add { id, .. }) => {
                judges.marks.reach(Mark::MemberAdded);
                memberships.added(id.0);
            }
            Some(MembershipCommand::Promote { id }) => {
                judges.marks.reach(Mark::LearnerPromoted);
                memberships.promoted(id.0);
            }
            Some(MembershipCommand::Remove { id }) => {
                judges.marks.reach(Mark::MemberRemoved);
                memberships.removed(id.0);
            }
            _ => {}
        }
        let shown = list.iter().map(|listed| (listed.member.id.0, listed.learner)).collect();
        let checked = membership_breach(memberships.shown("the list of members", &shown));
        let tenants = &mut judges.tenants;
        let listed = |id: &NodeId| list.iter().any(|listed| listed.member.id == *id);
        let planned = std::mem::take(&mut tenants.planned);
        tenants.starting.extend(planned.into_iter().filter(|(id, _)| listed(id)));
        self.list = Some(list);
        checked
    }
}

impl Behaviour for Operator {
    fn wish(&mut self, _: Instant, judges: &mut Judges) -> Wish {
        let group = GroupId::CONSISTENT_CORE;
        let Some(change) = self.decide(&mut judges.tenants) else {
            self.asking = None;
            return Wish { group, caller: None, what: What::MoveLeader };
        };
        if let MembershipCommand::Remove { id } = &change {
            judges.memberships.removing(id.0);
        }
        self.asking = Some(change.clone());
        Wish { group, caller: None, what: What::Write(Command::Membership(change)) }
    }

    fn hear(&mut self, heard: Heard, _: Span, judges: &mut Judges) -> Result<(), Breach> {
        match heard {
            Heard::Written(Outcome::Members(list)) => self.hear_list(list, judges),
            Heard::LeaderMoved => {
                judges.marks.reach(Mark::LeaderMoved);
                Ok(())
            }
            _ => {
                // Or it is so, and nobody said so.
                self.list = None;
                Ok(())
            }
        }
    }

    fn pause(&mut self, _: Instant) -> u64 {
        let mean = if self.list.is_none() { 200 * MILLISECOND } else { SECOND };
        self.rng.exponential(mean)
    }
}

fn addresses(id: NodeId) -> Vec<String> {
    vec![format!("n{}:2380", id.0)]
}

impl World {
    /// Does to the machines what the operator wants.
    pub(crate) fn serve_operator(&mut self) {
        for (id, slot) in std::mem::take(&mut self.judges.tenants.starting) {
            self.move_in(slot, id);
        }
        if let Some(slot) = self.judges.tenants.losing.take()
            && self.can_do_without(slot)
        {
            self.lose_disk(slot);
        }
    }

    /// A new member starts on an empty disk.
    fn move_in(&mut self, slot: Slot, id: NodeId) {
        let contacts = self.judges.tenants.members.iter().flatten().copied().collect();
        self.judges.tenants.members[slot] = Some(id);
        self.judges.tenants.moved.insert(slot);
        self.detail(|| format!("member {id} moves into node {slot}"));
        let member = store::command::Member {
            id,
            name: format!("n{id}"),
            peer_addresses: addresses(id),
            client_urls: vec![format!("http://n{id}:2379")],
            directory_id: u128::from(id.0),
            ..self.nodes[slot].config.member.clone()
        };
        let node = &mut self.nodes[slot];
        node.id = id;
        node.config.node = id;
        node.config.member = member;
        node.config.initial_voters.clear();
        node.config.founders.clear();
        node.config.contacts = contacts;
        node.vacant = false;
        self.restart_later(slot);
    }

    /// Whether every group, as anybody knows it, has a quorum of tenants left without this one.
    fn can_do_without(&self, slot: Slot) -> bool {
        let tenants = &self.judges.tenants;
        let stays = |id: &&NodeId| tenants.slot_of(**id).is_some_and(|other| other != slot);
        let is_quorum = |membership: &Membership| {
            [&membership.voters, &membership.outgoing].into_iter().all(|voters| {
                voters.is_empty() || voters.iter().filter(stays).count() > voters.len() / 2
            })
        };
        let processes = self.nodes.iter().filter_map(|node| node.process.as_ref());
        processes
            .flat_map(|process| process.log.status().groups)
            .all(|group| group.membership.voters.is_empty() || is_quorum(&group.membership))
    }

    fn lose_disk(&mut self, slot: Slot) {
        if self.nodes[slot].is_up() {
            self.crash(slot, Crash::PowerLoss);
        }
        self.marks.reach(Mark::DiskLost);
        self.detail(|| format!("node {slot} loses its disk"));
        self.nodes[slot].wipe();
        if self.mutant == Some(Mutant::EmptyDiskReturns) {
            return self.restart_later(slot);
        }
        self.vacate(slot);
    }

    /// Nobody lives there any more.
    fn vacate(&mut self, slot: Slot) {
        let node = &mut self.nodes[slot];
        node.vacant = true;
        // A start that was planned must not happen.
        node.life += 1;
        node.wipe();
        self.judges.tenants.members[slot] = None;
        self.judges.tenants.moved.insert(slot);
        self.witness.left(slot, &self.groups);
    }

    /// A member stops by itself: right if somebody asked for its removal.
    pub(crate) fn excuse_departed(&mut self, slot: Slot) -> bool {
        let id = self.nodes[slot].id;
        if !self.judges.memberships.may_be_removed(id.0) {
            return false;
        }
        self.marks.reach(Mark::RemovedMemberStopped);
        if self.nodes[slot].is_up() {
            self.crash(slot, Crash::Kill);
        }
        self.vacate(slot);
        true
    }

    /// Whether the member is not one of those that were there when the core was healed, or does
    /// not vote: it may lack much.
    pub(crate) fn is_newcomer(&self, slot: Slot) -> bool {
        let node = &self.nodes[slot];
        let listens = |process: &Process| {
            let groups = process.log.status().groups;
            groups.iter().any(|group| !group.membership.voters.contains(&node.id))
        };
        let tenants = &self.judges.tenants;
        node.vacant || tenants.moved.contains(&slot) || node.process.as_ref().is_some_and(listens)
    }

    /// What is acknowledged about the members is adopted by every group, where it is acknowledged.
    pub(crate) fn check_adopted(&mut self, slot: Slot) {
        for group in self.process(slot).log.status().groups {
            let Membership { voters, learners, .. } = &group.membership;
            let voters = voters.iter().map(|id| (id.0, false));
            let shown = voters.chain(learners.iter().map(|id| (id.0, true))).collect();
            let by = format!("{}", group.group);
            // A voter that was added listens at first: only who was promoted has to vote.
            let checked = membership_breach(self.judges.memberships.shown(&by, &shown));
            self.check(checked);
        }
    }
}
