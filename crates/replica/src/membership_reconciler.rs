//! Membership Reconciler: makes the membership of every group what the consistent core decided.
//!
//! Used by Kubernetes (controllers), CockroachDB (the replicate queue) and TiKV's placement driver:
//! what is wanted is stated once, and whoever may change a group compares and acts until it is so.
//! Here the leader of each group does. A voter that is added receives the log first and votes once
//! it caught up, so that one that never starts costs no majority.
//!
//! Invariant: a leader acts on a member table only if it learnt, after its election, that it knows
//! every change committed before; so a group never goes back to an older table. (Whoever adopted a
//! change before led an earlier term, and what it knew was committed by then.)
//! Not here: deciding who is a member (`store`), passing from one membership to the next
//! (`consensus`), the log machine's part (`singular_update_queue::membership`).

use crate::{Reply, RequestId};
use clocks::{GroupId, LogIndex, Monotonic, NodeId, Term};
use consensus::{Membership, MembershipChange, PeerProgress, ProgressState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::MemberTable;
use store::command::MembershipCommand;

/// Entries by which a new voter's log may be short of the leader's before it votes.
const CAUGHT_UP_ENTRIES: u64 = 1000;
/// Share of the leader's log that a learner must have to be promoted (etcd's `readyPercent`).
const IN_SYNC_PERCENT: u64 = 90;
/// Changes applied and not yet adopted, and hand-overs of leadership, that may wait at once.
pub(crate) const WAITING_MAX: usize = 64;

/// A change that this node asked for, applied to the member table.
pub(crate) struct Adoption {
    pub(crate) request: RequestId,
    pub(crate) deadline: Monotonic,
    pub(crate) change: MembershipCommand,
    pub(crate) reply: Reply,
    /// Per group, up to where its log must be known for its membership to tell anything.
    pub(crate) known_at: BTreeMap<GroupId, LogIndex>,
}

/// Leadership on its way to another member.
pub(crate) struct HandOver {
    pub(crate) request: RequestId,
    pub(crate) deadline: Monotonic,
    pub(crate) to: Option<NodeId>,
    pub(crate) groups: Vec<GroupId>,
}

/// Why the core itself reads linearizably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnRead {
    /// The leader of a group wants to know the newest member table.
    Table { group: GroupId, term: Term },
    /// A change waits for this group's membership to follow.
    Adoption { request: RequestId, group: GroupId },
}

/// What the leader of another group says of its learners.
pub(crate) struct SyncReport {
    pub(crate) from: NodeId,
    pub(crate) term: Term,
    pub(crate) at: Monotonic,
    pub(crate) learners: BTreeSet<NodeId>,
}

/// What one node knows of changes under way.
#[derive(Default)]
pub(crate) struct MembershipReconciler {
    /// `None` before the first change.
    pub(crate) table: Option<MemberTable>,
    /// Per group that this node leads: the term, and once known the index of the consistent core
    /// at which its table is new enough.
    pub(crate) table_known: BTreeMap<GroupId, (Term, Option<LogIndex>)>,
    /// The last change proposed to the consistent core, and in which term.
    pub(crate) proposed: Option<(Term, LogIndex)>,
    /// The term in which this node asked for the table to be founded.
    pub(crate) founding: Option<Term>,
    /// Groups that this node, no voter to be, has tried to hand over, and in which term.
    pub(crate) resigning: BTreeMap<GroupId, Term>,
    pub(crate) adoptions: Vec<Adoption>,
    pub(crate) hand_overs: Vec<HandOver>,
    pub(crate) reports: BTreeMap<GroupId, SyncReport>,
}

impl MembershipReconciler {
    /// Whether the member was removed, as far as this node has applied.
    pub(crate) fn is_removed(&self, member: NodeId) -> bool {
        self.table.as_ref().is_some_and(|table| table.removed.contains(&member))
    }

    pub(crate) fn deadline(&self) -> Option<Monotonic> {
        let adoptions = self.adoptions.iter().map(|adoption| adoption.deadline);
        let hand_overs = self.hand_overs.iter().map(|hand_over| hand_over.deadline);
        adoptions.chain(hand_overs).min()
    }
}

/// Whether a group's membership is exactly what is wanted.
pub(crate) fn equals(table: &MemberTable, membership: &Membership) -> bool {
    !membership.is_joint()
        && membership.voters == table.voters
        && membership.learners == table.learners
}

/// Whether a group has adopted the table, but for voters that have yet to catch up.
pub(crate) fn adopts(table: &MemberTable, membership: &Membership) -> bool {
    let is_member = |id: &NodeId| table.voters.contains(id) || table.learners.contains(id);
    !membership.is_joint()
        && membership.voters.is_subset(&table.voters)
        && table.learners.is_subset(&membership.learners)
        && membership.learners.iter().all(is_member)
        && table.voters.iter().all(|id| membership.members().contains(id))
}

/// Where a group with this membership is to go next.
pub(crate) fn next_step(
    table: &MemberTable,
    membership: &Membership,
    caught_up: impl Fn(NodeId) -> bool,
) -> MembershipChange {
    let votes = |id: &NodeId| membership.voters.contains(id) || caught_up(*id);
    let mut voters: BTreeSet<NodeId> =
        table.voters.iter().copied().filter(|id| votes(id)).collect();
    if voters.is_empty() {
        // Nobody of those who stay could decide anything yet.
        voters.clone_from(&membership.voters);
    }
    let members = table.voters.union(&table.learners).copied();
    let learners = members.filter(|id| !voters.contains(id)).collect();
    MembershipChange { voters, learners }
}

/// Whether a settled membership shows that a change was adopted (or overtaken by a later one).
pub(crate) fn shows(
    change: &MembershipCommand,
    table: &MemberTable,
    membership: &Membership,
) -> bool {
    let is_member = |id: &NodeId| table.voters.contains(id) || table.learners.contains(id);
    match change {
        MembershipCommand::Add { id, .. } => {
            !is_member(id) || membership.voters.contains(id) || membership.learners.contains(id)
        }
        MembershipCommand::Promote { id } => {
            !table.voters.contains(id) || membership.voters.contains(id)
        }
        MembershipCommand::Remove { id } => !membership.members().contains(id),
        MembershipCommand::Update { .. }
        | MembershipCommand::Found { .. }
        | MembershipCommand::Refuse { .. } => true,
    }
}

/// Whether the peer answers this leader.
pub(crate) fn is_active(peer: &PeerProgress, now: Monotonic, silence_max: Duration) -> bool {
    now.since(peer.heard) <= silence_max
}

/// Whether the peer could vote without holding anybody up. A damaged one could not, and who has
/// just joined is taken for one.
pub(crate) fn is_caught_up(peer: &PeerProgress, last: LogIndex) -> bool {
    let held = peer.matched.min(peer.vouched);
    peer.state == ProgressState::Replicate && held + CAUGHT_UP_ENTRIES >= last && held > 0
}

/// Whether the peer has enough of the log to be promoted.
pub(crate) fn is_in_sync(peer: &PeerProgress, last: LogIndex) -> bool {
    let held = peer.matched.min(peer.vouched);
    let (matched, last) = (u128::from(held) * 100, u128::from(last));
    peer.state == ProgressState::Replicate && matched >= last * u128::from(IN_SYNC_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn table(voters: &[u64], learners: &[u64]) -> MemberTable {
        let (voters, learners) = (nodes(voters), nodes(learners));
        MemberTable { voters, learners, ..MemberTable::default() }
    }

    fn membership(voters: &[u64], learners: &[u64]) -> Membership {
        Membership { voters: nodes(voters), outgoing: nodes(&[]), learners: nodes(learners) }
    }

    fn step(table: &MemberTable, from: &Membership, caught_up: &[u64]) -> Membership {
        let change = next_step(table, from, |id| caught_up.contains(&id.0));
        Membership { voters: change.voters, outgoing: nodes(&[]), learners: change.learners }
    }

    #[test]
    fn a_new_voter_receives_the_log_first_and_votes_once_it_has_caught_up() {
        let (wanted, before) = (table(&[1, 2], &[]), membership(&[1], &[]));
        let added = step(&wanted, &before, &[]);
        assert_eq!(added, membership(&[1], &[2]));
        assert!(adopts(&wanted, &added) && !equals(&wanted, &added));
        assert!(!adopts(&wanted, &before));
        let votes = step(&wanted, &added, &[2]);
        assert_eq!(votes, membership(&[1, 2], &[]));
        assert!(equals(&wanted, &votes));
        assert_eq!(step(&wanted, &votes, &[]), votes, "who falls behind goes on voting");
    }

    #[test]
    fn a_group_is_never_left_without_a_voter_that_knows_its_log() {
        let wanted = table(&[2], &[]);
        let before = membership(&[1], &[2]);
        assert_eq!(step(&wanted, &before, &[]), before);
        assert_eq!(step(&wanted, &before, &[2]), membership(&[2], &[]));
    }

    #[test]
    fn a_learner_stays_one_until_the_table_says_otherwise() {
        let wanted = table(&[1], &[2]);
        let group = membership(&[1], &[2]);
        assert_eq!(step(&wanted, &group, &[2]), group);
        assert!(equals(&wanted, &group));
    }

    #[test]
    fn a_joint_membership_adopts_nothing() {
        let wanted = table(&[1, 2], &[]);
        let joint = Membership { outgoing: nodes(&[1]), ..membership(&[1, 2], &[]) };
        assert!(!adopts(&wanted, &joint) && !equals(&wanted, &joint));
    }

    #[test]
    fn in_sync_is_ninety_percent_of_the_log() {
        let peer = PeerProgress {
            node: NodeId(2),
            state: ProgressState::Replicate,
            matched: 90,
            vouched: u64::MAX,
            next: 91,
            inflight_messages: 0,
            inflight_bytes: 0,
            heard: Monotonic(0),
        };
        assert!(is_in_sync(&peer, 100));
        assert!(!is_in_sync(&PeerProgress { matched: 89, ..peer }, 100));
        assert!(!is_in_sync(&PeerProgress { vouched: 89, ..peer }, 100));
        assert!(
            is_caught_up(&peer, 100) && !is_caught_up(&PeerProgress { vouched: 0, ..peer }, 100)
        );
        assert!(!is_in_sync(&PeerProgress { state: ProgressState::Snapshot, ..peer }, 100));
        assert!(is_in_sync(&PeerProgress { matched: u64::MAX, ..peer }, u64::MAX));
    }
}
