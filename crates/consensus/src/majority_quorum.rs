//! Majority Quorum: who votes, and the joint configuration in which two majorities must agree
//! (Raft, section 6; thesis, section 4.3).
//!
//! Used by Raft, Paxos, Viewstamped Replication and ZAB. Invariant: the `voters` of a group in
//! being are never empty; a node that waits to be added to a group knows of none, and decides
//! nothing.

use alloc::collections::BTreeSet;
use clocks::NodeId;

/// The members of a group. While `outgoing` is not empty, every decision needs a majority of both
/// `voters` and `outgoing`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The voters that the group is to have.
    pub voters: BTreeSet<NodeId>,
    /// The voters that it had, during a joint configuration.
    pub outgoing: BTreeSet<NodeId>,
    /// Members that receive the log and do not vote.
    pub learners: BTreeSet<NodeId>,
}

impl Membership {
    /// A settled membership of voters alone.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        Membership { voters: voters.into_iter().collect(), ..Membership::default() }
    }

    /// Every member once, in order.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(&self.outgoing).chain(&self.learners).copied().collect()
    }

    /// Number of roles held, an upper bound of the number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.voters.len() + self.outgoing.len() + self.learners.len()
    }

    /// Whether nobody is a member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether two majorities must agree.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `node`'s vote counts.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }
}

impl Membership {
    /// The highest value that a quorum has reached: a majority of `voters` and, when joint, of
    /// `outgoing` each hold at least this much. `None` without voters.
    pub fn quorum_value<V: Ord + Copy>(&self, reached: impl Fn(NodeId) -> V) -> Option<V> {
        let incoming = majority_value(&self.voters, &reached)?;
        if !self.is_joint() {
            return Some(incoming);
        }
        majority_value(&self.outgoing, &reached).map(|outgoing| incoming.min(outgoing))
    }

    /// Whether those for whom `agrees` holds are a quorum.
    pub fn is_quorum(&self, agrees: impl Fn(NodeId) -> bool) -> bool {
        self.quorum_value(agrees) == Some(true)
    }
}

/// The highest value that a majority of `voters` has reached. Quadratic, and without memory: there
/// are three or five of them.
fn majority_value<V: Ord + Copy>(
    voters: &BTreeSet<NodeId>,
    reached: &impl Fn(NodeId) -> V,
) -> Option<V> {
    let majority = voters.len() / 2 + 1;
    let values = || voters.iter().map(|voter| reached(*voter));
    let has_majority = |value: &V| values().filter(|other| other >= value).count() >= majority;
    values().filter(has_majority).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn nodes() -> impl Strategy<Value = BTreeSet<NodeId>> {
        prop::collection::btree_set((1..8_u64).prop_map(NodeId), 0..6)
    }

    /// By the definition: try every value that anybody reached, and count heads.
    fn counted(membership: &Membership, reached: &BTreeMap<NodeId, u64>) -> Option<u64> {
        let agrees = |group: &BTreeSet<NodeId>, value: u64| {
            let heads = group.iter().filter(|node| reached[*node] >= value).count();
            heads * 2 > group.len()
        };
        let mut values: Vec<u64> = reached.values().copied().collect();
        values.sort_unstable();
        values.into_iter().rev().find(|value| {
            agrees(&membership.voters, *value)
                && (membership.outgoing.is_empty() || agrees(&membership.outgoing, *value))
        })
    }

    proptest! {
        #[test]
        fn a_quorum_is_a_majority_of_each_side(
            voters in nodes(),
            outgoing in nodes(),
            learners in nodes(),
            values in prop::collection::vec(0..6_u64, 8),
        ) {
            let membership = Membership { voters, outgoing, learners };
            let reached: BTreeMap<NodeId, u64> = (0..8).map(NodeId).zip(values).collect();
            let computed = membership.quorum_value(|node| reached[&node]);
            prop_assert_eq!(computed, counted(&membership, &reached));
            let agreed = membership.is_quorum(|node| reached[&node] > 2);
            prop_assert_eq!(agreed, computed.is_some_and(|value| value > 2));
        }

        #[test]
        fn quorums_of_one_membership_meet(
            voters in nodes(),
            outgoing in nodes(),
            a in nodes(),
            b in nodes(),
        ) {
            let membership = Membership { voters, outgoing, learners: BTreeSet::new() };
            let both = membership.is_quorum(|node| a.contains(&node))
                && membership.is_quorum(|node| b.contains(&node));
            prop_assert!(!both || a.intersection(&b).any(|node| membership.is_voter(*node)));
        }

        #[test]
        fn quorums_of_neighbouring_memberships_meet(
            old in nodes(),
            new in nodes(),
            a in nodes(),
            b in nodes(),
        ) {
            // What makes joint consensus safe: old and joint share voters in every two quorums,
            // and so do joint and new.
            let learners = BTreeSet::new;
            let joint =
                Membership { voters: new.clone(), outgoing: old.clone(), learners: learners() };
            for settled in [old, new] {
                if settled.is_empty() || joint.outgoing.is_empty() {
                    continue;
                }
                let settled = Membership::of_voters(settled);
                let both = settled.is_quorum(|node| a.contains(&node))
                    && joint.is_quorum(|node| b.contains(&node));
                prop_assert!(!both || a.intersection(&b).next().is_some());
            }
        }
    }

    #[test]
    fn nobody_is_no_quorum() {
        assert!(!Membership::default().is_quorum(|_| true));
    }
}
