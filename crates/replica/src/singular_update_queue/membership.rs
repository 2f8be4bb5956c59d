//! The log machine's part in changes of membership: what a leader reviews before it proposes, how
//! it leads its groups to the member table, when a change is answered, and how this member notices
//! that it was removed.

use super::LogMachine;
use crate::follower_reads::{Reader, WaitingRead};
use crate::group_log::GroupLog;
use crate::membership_reconciler::{
    Adoption, HandOver, OwnRead, SyncReport, WAITING_MAX, adopts, equals, is_active, is_caught_up,
    is_in_sync, next_step, shows,
};
use crate::{LogEffect, PeerMessage, Reply, RequestError, RequestId};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, Monotonic, NodeId, Term};
use consensus::{PeerProgress, ProposeError, Role};
use std::collections::{BTreeMap, BTreeSet};
use store::MemberTable;
use store::command::{Command, Envelope, MembershipCommand, MembershipRefusal};
use store::reply::Outcome;

const CORE: GroupId = GroupId::CONSISTENT_CORE;
const NEVER: Monotonic = Monotonic(u64::MAX);

/// What becomes of a command that is to be proposed.
enum Review {
    Propose(Bytes),
    /// Not before what is under way is done.
    Later {
        sequence: u64,
    },
}

/// At the leader of the consistent core: what may be proposed.
impl LogMachine {
    /// Proposes the commands of one member. Returns the numbers of those that have to wait.
    pub(super) fn propose(
        &mut self,
        group: GroupId,
        commands: Vec<Bytes>,
        now: Monotonic,
    ) -> Result<Vec<u64>, ProposeError> {
        if group != CORE {
            return self.log(group).propose(now, commands).map(|()| Vec::new());
        }
        let before = self.reconciler.proposed;
        let (mut reviewed, mut later) = (Vec::with_capacity(commands.len()), Vec::new());
        for command in commands {
            match self.review(command, now) {
                Review::Propose(command) => reviewed.push(command),
                Review::Later { sequence } => later.push(sequence),
            }
        }
        if reviewed.is_empty() {
            return Ok(later);
        }
        let result = self.log(CORE).propose(now, reviewed);
        if self.reconciler.proposed != before {
            let raft = &self.log(CORE).raft;
            let proposed = (raft.term(), raft.last_position().index);
            self.reconciler.proposed = if result.is_ok() { Some(proposed) } else { before };
        }
        result.map(|()| later)
    }

    fn review(&mut self, bytes: Bytes, now: Monotonic) -> Review {
        let Ok(envelope) = Envelope::decode(bytes.clone()) else { return Review::Propose(bytes) };
        let Command::Membership(change) = &envelope.command else { return Review::Propose(bytes) };
        if matches!(change, MembershipCommand::Found { .. } | MembershipCommand::Refuse { .. }) {
            return Review::Propose(bytes);
        }
        let later = Review::Later { sequence: envelope.sequence };
        if self.log(CORE).raft.role() != Role::Leader || !self.is_settled() {
            return later;
        }
        let term = self.log(CORE).raft.term();
        match self.objection(change, now) {
            Some(Some(refusal)) => {
                // Under the request's own number: if an earlier leader let it through, that counts.
                let command = Command::Membership(MembershipCommand::Refuse { refusal });
                Review::Propose(Envelope { command, ..envelope }.encode())
            }
            Some(None) => {
                // Its index is filled in once it has one.
                self.reconciler.proposed = Some((term, LogIndex::MAX));
                Review::Propose(bytes)
            }
            None => later,
        }
    }

    /// Whether the last change is applied here and adopted by every group.
    fn is_settled(&mut self) -> bool {
        if !self.knows_table(CORE) {
            return false;
        }
        let Some(table) = &self.reconciler.table else {
            self.found();
            return false;
        };
        let core = &self.groups[&CORE];
        let applied = match self.reconciler.proposed {
            Some((term, index)) => term != core.raft.term() || index <= core.applied,
            None => true,
        };
        let adopted = self
            .groups
            .values()
            .all(|log| log.raft.membership_is_committed() && adopts(table, log.raft.membership()));
        applied && adopted
    }

    /// Asks for the table to be founded, once per term.
    fn found(&mut self) {
        let raft = &self.groups[&CORE].raft;
        let (term, voters) = (raft.term(), &raft.membership().voters);
        if self.reconciler.founding == Some(term) {
            return;
        }
        self.reconciler.founding = Some(term);
        let founders = self.config.founders.iter().filter(|founder| voters.contains(&founder.id));
        let command = MembershipCommand::Found { founders: founders.cloned().collect() };
        // Refused for lack of room: the next change asked for finds it unfounded still.
        if self.admit_write(CORE, None, None, Command::Membership(command), NEVER).is_err() {
            self.reconciler.founding = None;
        }
    }

    /// What this leader knows against a change; the outer `None`: it has to learn more first.
    fn objection(
        &self,
        change: &MembershipCommand,
        now: Monotonic,
    ) -> Option<Option<MembershipRefusal>> {
        let table = self.reconciler.table.as_ref()?;
        match change {
            MembershipCommand::Promote { id } if table.learners.contains(id) => {
                Some((!self.is_ready(*id, now)?).then_some(MembershipRefusal::LearnerNotReady))
            }
            MembershipCommand::Remove { id } if table.voters.contains(id) => {
                let active = self.active_voters(now);
                let remaining = || table.voters.iter().filter(|voter| *voter != id);
                let is_majority = |of: &BTreeSet<NodeId>| {
                    remaining().filter(|voter| of.contains(voter)).count() > remaining().count() / 2
                };
                // Who is down is no part of the majority that serves now; and whether enough have
                // started is for all members to see.
                let safe = !active.contains(id) || is_majority(&active);
                let objects = !safe && is_majority(&table.started);
                Some(objects.then_some(MembershipRefusal::Unhealthy))
            }
            // A voter votes only once it has caught up, so adding one endangers no majority.
            _ => Some(None),
        }
    }

    /// The voters of the consistent core that answer, this one included.
    fn active_voters(&self, now: Monotonic) -> BTreeSet<NodeId> {
        let raft = &self.groups[&CORE].raft;
        let silence_max = self.config.election_timeout;
        let peers = raft.progress().into_iter();
        let active = peers.filter(|peer| is_active(peer, now, silence_max)).map(|peer| peer.node);
        active.chain([self.config.node]).filter(|node| raft.membership().is_voter(*node)).collect()
    }

    /// Whether a learner is in sync in every group; `None` if some group's leader has yet to tell.
    fn is_ready(&self, learner: NodeId, now: Monotonic) -> Option<bool> {
        let fresh = self.config.limits.condition_interval * 3;
        for (group, log) in &self.groups {
            let ready = match self.reconciler.reports.get(group) {
                _ if log.leading().is_some() => {
                    self.learners_in_sync(*group, now).contains(&learner)
                }
                Some(report)
                    if Some(report.from) == log.raft.leader()
                        && report.term == log.raft.term()
                        && now.since(report.at) <= fresh =>
                {
                    report.learners.contains(&learner)
                }
                _ => return None,
            };
            if !ready {
                return Some(false);
            }
        }
        Some(true)
    }

    fn learners_in_sync(&self, group: GroupId, now: Monotonic) -> Vec<NodeId> {
        let raft = &self.groups[&group].raft;
        let last = raft.last_position().index;
        let silence_max = self.config.election_timeout;
        let ready =
            |peer: &PeerProgress| is_active(peer, now, silence_max) && is_in_sync(peer, last);
        let peers = raft.progress().into_iter().filter(ready).map(|peer| peer.node);
        peers.filter(|node| raft.membership().learners.contains(node)).collect()
    }

    /// Tells the leader of the consistent core how learners stand in the groups led here.
    pub(super) fn tell_learners(&mut self, now: Monotonic) {
        let learns = self.reconciler.table.as_ref().is_some_and(|table| !table.learners.is_empty());
        let core_leader = self.groups.get(&CORE).and_then(|core| core.raft.leader());
        let Some(to) = core_leader.filter(|leader| learns && *leader != self.config.node) else {
            return;
        };
        for (&group, log) in &self.groups {
            let Some(term) = log.leading() else { continue };
            let learners = self.learners_in_sync(group, now);
            let message = PeerMessage::LearnersInSync { group, term, learners };
            self.effects.push_back(LogEffect::Send { to, message });
        }
    }

    pub(super) fn on_learners_in_sync(
        &mut self,
        from: NodeId,
        group: GroupId,
        term: Term,
        learners: Vec<NodeId>,
        at: Monotonic,
    ) {
        if self.groups.contains_key(&group) {
            let learners = learners.into_iter().collect();
            self.reconciler.reports.insert(group, SyncReport { from, term, at, learners });
        }
    }
}

/// At the leader of each group: towards the member table.
impl LogMachine {
    /// Takes the next step of a group that this node leads, if one is due.
    pub(super) fn reconcile(&mut self, group: GroupId, now: Monotonic) {
        let Some(table) = self.wanted(group) else { return };
        let table = &table;
        let raft = &self.groups[&group].raft;
        let steady = raft.role() == Role::Leader && raft.membership_is_committed();
        if !steady || raft.membership().is_joint() || equals(table, raft.membership()) {
            return;
        }
        let last = raft.last_position().index;
        let silence_max = self.config.election_timeout;
        let progress = raft.progress();
        let caught_up = |node: NodeId| {
            let peer = progress.iter().find(|peer| peer.node == node);
            peer.is_some_and(|peer| is_active(peer, now, silence_max) && is_caught_up(peer, last))
        };
        let change = next_step(table, raft.membership(), caught_up);
        let unchanged = change.voters == raft.membership().voters
            && change.learners == raft.membership().learners;
        if unchanged {
            return;
        }
        if !self.knows_table(group) {
            // Out of the consistent core it never will; but who was removed stays removed.
            if group != CORE && self.reconciler.is_removed(self.config.node) {
                self.resign(group, now);
            }
            return;
        }
        if !change.voters.contains(&self.config.node) && self.resign_first(group, now) {
            return;
        }
        // Whatever stands against it now, it is tried again at the next flush.
        let _ = self.log(group).raft.propose_membership(now, change);
    }

    /// Who is to be a member of a group for now. A member hears from the consistent core that it
    /// was removed, so it leaves that one last: otherwise it would lead other groups on, unaware.
    fn wanted(&self, group: GroupId) -> Option<MemberTable> {
        let mut wanted = self.reconciler.table.clone()?;
        if group != CORE {
            return Some(wanted);
        }
        let others = self.groups.iter().filter(|(other, _)| **other != CORE);
        let busy: BTreeSet<NodeId> =
            others.flat_map(|(_, log)| log.raft.membership().members()).collect();
        let core = self.groups[&CORE].raft.membership();
        // What this member is to other groups it may not hear any more; that it leads, it knows.
        let leads = self.groups.iter().any(|(other, log)| *other != CORE && is_leader(log));
        let waits = |id: &NodeId| match *id == self.config.node {
            true => leads,
            false => busy.contains(id),
        };
        let leaving = |id: &&NodeId| wanted.removed.contains(id) && waits(id);
        let voters: Vec<NodeId> = core.voters.iter().filter(leaving).copied().collect();
        let learners: Vec<NodeId> = core.learners.iter().filter(leaving).copied().collect();
        wanted.voters.extend(voters);
        wanted.learners.extend(learners);
        Some(wanted)
    }

    /// Whether this node, which knows the newest table of its time, may act on it for `group`: it
    /// has to have learnt so in its present leadership.
    fn knows_table(&mut self, group: GroupId) -> bool {
        let Some(term) = self.groups[&group].leading() else { return false };
        let applied = self.groups[&CORE].applied;
        match self.reconciler.table_known.get(&group) {
            Some(&(known, Some(index))) if known == term => index <= applied,
            Some(&(known, None)) if known == term => false,
            _ => {
                self.reconciler.table_known.insert(group, (term, None));
                self.read_own(CORE, OwnRead::Table { group, term });
                false
            }
        }
    }

    /// Hands the group over to a voter that stays, once per term.
    fn resign_first(&mut self, group: GroupId, now: Monotonic) -> bool {
        let term = self.log(group).raft.term();
        self.reconciler.resigning.insert(group, term) != Some(term) && self.resign(group, now)
    }

    fn resign(&mut self, group: GroupId, now: Monotonic) -> bool {
        let stays = |node: NodeId| {
            self.reconciler.table.as_ref().is_some_and(|table| table.voters.contains(&node))
        };
        let Some(to) = self.best_successor(group, now, stays) else { return false };
        self.log(group).raft.transfer_leadership(now, to).is_ok()
    }

    /// The active voter with the longest log that is eligible.
    fn best_successor(
        &self,
        group: GroupId,
        now: Monotonic,
        eligible: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let raft = &self.groups[&group].raft;
        let silence_max = self.config.election_timeout;
        let candidates = raft.progress().into_iter().filter(|peer| {
            raft.membership().voters.contains(&peer.node)
                && eligible(peer.node)
                && is_active(peer, now, silence_max)
        });
        candidates.max_by_key(|peer| peer.matched).map(|peer| peer.node)
    }

    fn read_own(&mut self, group: GroupId, read: OwnRead) {
        let read = WaitingRead { reader: Reader::Own(read), deadline: NEVER };
        self.log(group).reads.admit_own(read);
    }

    /// A read of the core itself: the state of its group is linearizable from `index` on.
    pub(super) fn on_own_read(&mut self, read: OwnRead, index: LogIndex) {
        match read {
            OwnRead::Table { group, term } => {
                let known = self.reconciler.table_known.get_mut(&group);
                if let Some((_, known)) = known.filter(|(known, _)| *known == term) {
                    *known = Some(index);
                }
            }
            OwnRead::Adoption { request, group } => {
                let mut adoptions = self.reconciler.adoptions.iter_mut();
                if let Some(adoption) = adoptions.find(|adoption| adoption.request == request) {
                    adoption.known_at.insert(group, index);
                }
            }
        }
    }
}

fn is_leader(log: &GroupLog) -> bool {
    log.raft.role() == Role::Leader
}

fn shows_all_members(log: &GroupLog) -> bool {
    let membership = log.raft.membership();
    log.raft.membership_is_committed() && !membership.is_joint() && !membership.voters.is_empty()
}

/// Answers.
impl LogMachine {
    pub(super) fn on_member_table(&mut self, table: MemberTable) {
        self.reconciler.table = Some(table);
        // Addresses may have changed.
        self.peers_told = None;
        self.connect_peers();
    }

    pub(super) fn on_membership_applied(
        &mut self,
        request: RequestId,
        sequence: u64,
        outcome: Outcome,
    ) {
        // Whoever stopped waiting has been answered.
        let Some((command, deadline)) = self.log(CORE).waiting.find(sequence) else { return };
        let Command::Membership(change) = command.clone() else { return };
        if self.reconciler.adoptions.len() >= WAITING_MAX {
            return self.reply(request, Err(RequestError::TimedOut));
        }
        let (reply, known_at) = (Reply::Written(outcome), BTreeMap::new());
        let adoption = Adoption { request, deadline, change, reply, known_at };
        self.reconciler.adoptions.push(adoption);
        let groups: Vec<GroupId> = self.groups.keys().copied().collect();
        for group in groups {
            self.read_own(group, OwnRead::Adoption { request, group });
        }
    }

    /// Answers what is done, or was given up.
    pub(super) fn check_membership(&mut self, now: Monotonic) {
        self.check_adoptions(now);
        self.check_hand_overs(now);
        if self.peers_told != Some(true) {
            self.connect_peers();
        }
        let us = self.config.node;
        let gone = self.reconciler.is_removed(us)
            && self.groups.values().all(|log| {
                let raft = &log.raft;
                raft.membership_is_committed()
                    && !raft.membership().members().contains(&us)
                    && raft.role() != Role::Leader
            });
        if gone {
            self.on_removed();
        }
    }

    fn check_adoptions(&mut self, now: Monotonic) {
        for adoption in std::mem::take(&mut self.reconciler.adoptions) {
            if self.is_adopted(&adoption) {
                self.reply(adoption.request, Ok(adoption.reply));
            } else if adoption.deadline <= now {
                self.reply(adoption.request, Err(RequestError::TimedOut));
            } else {
                self.reconciler.adoptions.push(adoption);
            }
        }
    }

    fn is_adopted(&self, adoption: &Adoption) -> bool {
        let Some(table) = &self.reconciler.table else { return false };
        self.groups.iter().all(|(group, log)| {
            let raft = &log.raft;
            adoption.known_at.get(group).is_some_and(|known_at| *known_at <= raft.committed())
                && raft.membership_is_committed()
                && !raft.membership().is_joint()
                && shows(&adoption.change, table, raft.membership())
        })
    }

    /// This member was removed, and no group needs it any more.
    pub(super) fn on_removed(&mut self) {
        // Its own removal is what most of them wait for, and no one will tell it more.
        for adoption in std::mem::take(&mut self.reconciler.adoptions) {
            let result = match adoption.change {
                MembershipCommand::Remove { id } if id == self.config.node => Ok(adoption.reply),
                _ => Err(RequestError::TimedOut),
            };
            self.reply(adoption.request, result);
        }
        let node = self.config.node;
        self.stopped = true;
        self.effects.push_back(LogEffect::Removed(format!(
            "member {node} was removed from the cluster and stops; its data is of no more use: to \
             bring this machine back, add it as a new member and start it on an empty directory"
        )));
    }

    pub(super) fn on_transfer_leadership(
        &mut self,
        request: RequestId,
        group: GroupId,
        deadline: Monotonic,
        to: Option<NodeId>,
        now: Monotonic,
    ) {
        let us = self.config.node;
        let leads =
            |group: &GroupId| self.groups.get(group).is_some_and(|log| log.leading().is_some());
        // Whoever hands over to anybody leaves whatever it leads.
        let asked =
            if to.is_some() { Some(group) } else { self.groups.keys().copied().find(leads) };
        let Some(group) = asked.filter(leads) else {
            return self.reply(request, Err(RequestError::NotLeader));
        };
        let voters = &self.groups[&group].raft.membership().voters;
        let possible = match to {
            Some(to) => voters.contains(&to),
            None => voters.iter().any(|voter| *voter != us),
        };
        if !possible {
            return self.reply(request, Err(RequestError::BadLeaderTransferee));
        }
        if to == Some(us) {
            return self.reply(request, Ok(Reply::LeadershipTransferred));
        }
        if self.reconciler.hand_overs.len() >= WAITING_MAX {
            return self.reply(request, Err(RequestError::Overloaded));
        }
        let led = self.groups.iter().filter(|(_, log)| log.leading().is_some());
        let groups = led.map(|(group, _)| *group).collect();
        self.reconciler.hand_overs.push(HandOver { request, deadline, to, groups });
        self.check_hand_overs(now);
    }

    fn check_hand_overs(&mut self, now: Monotonic) {
        for hand_over in std::mem::take(&mut self.reconciler.hand_overs) {
            if self.is_handed_over(&hand_over, now) {
                self.reply(hand_over.request, Ok(Reply::LeadershipTransferred));
            } else if hand_over.deadline <= now {
                self.reply(hand_over.request, Err(RequestError::TimedOut));
            } else {
                self.reconciler.hand_overs.push(hand_over);
            }
        }
    }

    /// Whether a hand-over is complete; goes on with it.
    fn is_handed_over(&mut self, hand_over: &HandOver, now: Monotonic) -> bool {
        let us = self.config.node;
        let mut done = true;
        for &group in &hand_over.groups {
            let leader = self.groups[&group].raft.leader();
            if leader == Some(us) {
                let to =
                    hand_over.to.or_else(|| self.best_successor(group, now, |node| node != us));
                if let Some(to) = to {
                    // Under way already, or refused: the deadline decides.
                    let _ = self.log(group).raft.transfer_leadership(now, to);
                }
                done = false;
            } else {
                done &= leader.is_some() && (hand_over.to.is_none() || leader == hand_over.to);
            }
        }
        done
    }

    /// Connects to the members of every group, those that a group may yet fall back to included.
    pub(super) fn connect_peers(&mut self) {
        let groups = self.groups.values();
        let mut peers: BTreeSet<NodeId> =
            groups.flat_map(|log| log.raft.membership().members()).collect();
        if self.groups.values().any(|log| log.raft.membership().voters.is_empty()) {
            peers.extend(&self.config.contacts);
        }
        let settled = self.knows_all_members();
        if !settled {
            peers.extend(&self.peers);
        }
        peers.remove(&self.config.node);
        if peers != self.peers || self.peers_told != Some(settled) {
            let members = peers.iter().copied().collect();
            self.effects.push_back(LogEffect::Peers { members, settled });
            let us = self.config.node;
            self.short_of_space.retain(|member| *member == us || peers.contains(member));
            self.absent.retain(|member| peers.contains(member));
            self.peers = peers;
        }
        self.peers_told = Some(settled);
    }

    /// Whether no group needs anybody but the members that it shows here. One whose members are not
    /// known yet may need anybody.
    fn knows_all_members(&self) -> bool {
        self.groups.values().all(shows_all_members)
    }

    /// A removed member calls that no group needs: nobody listens, and it is told why.
    pub(super) fn turn_away(&mut self, from: NodeId) -> bool {
        let removed = self.reconciler.is_removed(from)
            && !self.peers.contains(&from)
            && self.knows_all_members();
        if removed {
            self.effects.push_back(LogEffect::Send { to: from, message: PeerMessage::Removed });
        }
        removed
    }
}
