//! Membership: quorums of consecutive memberships have a member in common, and what was
//! acknowledged about a member stays so.
//!
//! A group passes from one set of voters to another through a joint membership (Raft, section 6;
//! Ongaro's thesis, section 4.3), so that no two disjoint quorums can ever decide. What an operator
//! was told, every list of the members shows from then on, and every group has adopted it. Who was
//! removed leads nothing any more. An operator that is to be judged changes one thing at a time and
//! uses no id twice.
//!
//! Not here: whether members agree on what was decided (`agreement`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::agreement::{Group, Index, Node};

/// Who decides for a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// A majority of these is needed.
    pub voters: BTreeSet<Node>,
    /// And of these, unless there are none: the voters before.
    pub outgoing: BTreeSet<Node>,
    /// These only listen.
    pub learners: BTreeSet<Node>,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A membership does not follow the one before it.
    Unconnected {
        /// The group.
        group: Group,
        /// Where it stands in the log.
        index: Index,
        /// What was in force before.
        before: Box<Configuration>,
        /// What does not follow it.
        after: Box<Configuration>,
    },
    /// Something acknowledged about a member is not so.
    Forgotten {
        /// Which member.
        member: Node,
        /// What had been acknowledged.
        acknowledged: &'static str,
        /// Who does not know it.
        by: String,
    },
    /// A member that had been removed became a leader.
    LedAfterRemoval {
        /// Which member.
        member: Node,
        /// Of which group.
        group: Group,
    },
}

/// Watches the memberships of all groups, and what an operator is told.
#[derive(Clone, Debug, Default)]
pub struct Memberships {
    founders: BTreeSet<Node>,
    last: BTreeMap<Group, Configuration>,
    /// Acknowledged, and their removal has not been asked for.
    added: BTreeSet<Node>,
    promoted: BTreeSet<Node>,
    removing: BTreeSet<Node>,
    removed: BTreeSet<Node>,
    changes: u64,
}

impl Memberships {
    /// Groups that these founded.
    pub fn new(founders: impl IntoIterator<Item = Node>) -> Self {
        Memberships { founders: founders.into_iter().collect(), ..Self::default() }
    }

    /// A membership was committed; told in the order of the log.
    pub fn configured(
        &mut self,
        group: Group,
        index: Index,
        after: Configuration,
    ) -> Result<(), Violation> {
        let founders = || Configuration { voters: self.founders.clone(), ..Default::default() };
        let before = self.last.get(&group).cloned().unwrap_or_else(founders);
        let follows = if before.outgoing.is_empty() {
            let same = after.outgoing.is_empty() && after.voters == before.voters;
            same || after.outgoing == before.voters
        } else {
            after.outgoing.is_empty() && after.voters == before.voters
        };
        if !follows || after.voters.is_empty() {
            let (before, after) = (Box::new(before), Box::new(after));
            return Err(Violation::Unconnected { group, index, before, after });
        }
        self.changes += 1;
        self.last.insert(group, after);
        Ok(())
    }

    /// Somebody asks for a member to be removed: nothing else is certain about it now.
    pub fn removing(&mut self, member: Node) {
        self.added.remove(&member);
        self.promoted.remove(&member);
        self.removing.insert(member);
    }

    /// Whether a removal of this member was ever asked for.
    pub fn may_be_removed(&self, member: Node) -> bool {
        self.removing.contains(&member)
    }

    /// The operator was told that it is a member.
    pub fn added(&mut self, member: Node) {
        if !self.removing.contains(&member) {
            self.added.insert(member);
        }
    }

    /// The operator was told that it votes.
    pub fn promoted(&mut self, member: Node) {
        if !self.removing.contains(&member) {
            self.promoted.insert(member);
        }
    }

    /// The operator was told that it is no member any more.
    pub fn removed(&mut self, member: Node) {
        self.removed.insert(member);
    }

    /// A list of the members, or a group's membership, as somebody has it who must know all that
    /// was acknowledged: members and whether they only listen.
    pub fn shown(&self, by: &str, members: &BTreeMap<Node, bool>) -> Result<(), Violation> {
        let forgotten = |member: &Node, acknowledged| {
            Err(Violation::Forgotten { member: *member, acknowledged, by: by.to_owned() })
        };
        if let Some(member) = self.added.iter().find(|member| !members.contains_key(member)) {
            return forgotten(member, "added");
        }
        let votes = |member: &&Node| members.get(member) == Some(&false);
        if let Some(member) = self.promoted.iter().find(|member| !votes(member)) {
            return forgotten(member, "promoted");
        }
        match self.removed.iter().find(|member| members.contains_key(member)) {
            Some(member) => forgotten(member, "removed"),
            None => Ok(()),
        }
    }

    /// A member leads a group from now on.
    pub fn led(&self, member: Node, group: Group) -> Result<(), Violation> {
        if self.removed.contains(&member) {
            return Err(Violation::LedAfterRemoval { member, group });
        }
        Ok(())
    }

    /// Memberships that were committed: none means that nothing was checked.
    pub fn changes(&self) -> u64 {
        self.changes
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Unconnected { group, index, before, after } => write!(
                f,
                "group {group}: the membership at index {index}, {after:?}, does not follow \
                 {before:?}"
            ),
            Violation::Forgotten { member, acknowledged, by } => {
                write!(f, "member {member} was {acknowledged}, as was acknowledged; not so in {by}")
            }
            Violation::LedAfterRemoval { member, group } => {
                write!(f, "member {member} had been removed and leads group {group}")
            }
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(voters: &[Node], outgoing: &[Node]) -> Configuration {
        let set = |nodes: &[Node]| nodes.iter().copied().collect();
        Configuration { voters: set(voters), outgoing: set(outgoing), learners: set(&[]) }
    }

    fn members(list: &[(Node, bool)]) -> BTreeMap<Node, bool> {
        list.iter().copied().collect()
    }

    #[test]
    fn voters_change_through_a_joint_membership() {
        let mut memberships = Memberships::new([1, 2, 3]);
        memberships.configured(0, 5, configuration(&[1, 2, 3], &[])).unwrap();
        memberships.configured(0, 6, configuration(&[1, 2, 4], &[1, 2, 3])).unwrap();
        memberships.configured(0, 7, configuration(&[1, 2, 4], &[])).unwrap();
        assert_eq!(memberships.changes(), 3);
    }

    #[test]
    fn a_step_without_common_quorums_is_found() {
        let direct = configuration(&[1, 4, 5], &[]);
        assert!(Memberships::new([1, 2, 3]).configured(0, 5, direct).is_err());
        let stale = configuration(&[1, 2, 4], &[1, 2]);
        assert!(Memberships::new([1, 2, 3]).configured(0, 5, stale).is_err());
        let mut memberships = Memberships::new([1, 2, 3]);
        memberships.configured(0, 6, configuration(&[1, 2, 4], &[1, 2, 3])).unwrap();
        assert!(memberships.configured(0, 7, configuration(&[1, 2, 5], &[])).is_err());
        assert!(memberships.configured(0, 7, configuration(&[1, 5], &[1, 2, 4])).is_err());
    }

    #[test]
    fn what_was_acknowledged_is_shown_from_then_on() {
        let mut memberships = Memberships::new([1, 2, 3]);
        memberships.added(4);
        memberships.shown("a list", &members(&[(1, false), (4, true)])).unwrap();
        assert!(memberships.shown("a list", &members(&[(1, false)])).is_err());
        memberships.promoted(4);
        let violation = memberships.shown("a list", &members(&[(4, true)])).unwrap_err();
        assert_eq!(
            violation.to_string(),
            "member 4 was promoted, as was acknowledged; not so in a list"
        );
        memberships.removing(4);
        memberships.shown("a list", &members(&[])).unwrap();
        memberships.removed(4);
        assert!(memberships.shown("a list", &members(&[(4, false)])).is_err());
    }

    #[test]
    fn a_removed_member_that_leads_is_found() {
        let mut memberships = Memberships::new([1, 2, 3]);
        memberships.removing(2);
        memberships.led(2, 0).unwrap();
        memberships.removed(2);
        assert!(memberships.led(2, 0).is_err());
    }
}
