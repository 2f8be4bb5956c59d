//! Changes of membership through every group, with whole node cores: the traps.

use crate::cluster::{Cluster, address};
use clocks::{GroupId, NodeId};
use replica::{Ask, LogEvent, Reply, RequestError};
use std::collections::BTreeSet;
use store::MemberTable;
use store::command::{Command, ListedMember, MembershipCommand, MembershipRefusal};
use store::reply::StoreError;

const CORE: GroupId = GroupId::CONSISTENT_CORE;

fn add(id: u64) -> MembershipCommand {
    let id = NodeId(id);
    MembershipCommand::Add { id, peer_addresses: vec![address(id)], learner: false }
}

fn add_learner(id: u64) -> MembershipCommand {
    let id = NodeId(id);
    MembershipCommand::Add { id, peer_addresses: vec![address(id)], learner: true }
}

fn promote(id: u64) -> MembershipCommand {
    MembershipCommand::Promote { id: NodeId(id) }
}

fn remove(id: NodeId) -> MembershipCommand {
    MembershipCommand::Remove { id }
}

fn refused(refusal: MembershipRefusal) -> Result<Vec<ListedMember>, RequestError> {
    Err(RequestError::Refused(StoreError::Membership(refusal)))
}

fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn running(size: u64) -> Cluster {
    let mut cluster = Cluster::of(size);
    cluster.run(3_000);
    cluster
}

/// Everybody who runs is a voter of every group, and nobody else.
fn assert_voters(cluster: &Cluster, voters: &[u64]) {
    for id in cluster.nodes.keys() {
        for membership in cluster.memberships(*id) {
            assert_eq!(membership.voters, nodes(voters), "as n{id} sees it");
            assert!(!membership.is_joint());
            assert!(membership.learners.is_empty());
        }
    }
}

fn follower(cluster: &Cluster) -> NodeId {
    let leader = cluster.leader();
    *cluster.nodes.keys().find(|id| **id != leader).expect("there are followers")
}

fn core_leader(cluster: &Cluster) -> NodeId {
    let leads = |node: &crate::cluster::TestNode| node.log.status().groups[0].leader;
    cluster.nodes.values().find_map(leads).expect("somebody leads")
}

#[test]
fn a_new_voter_learns_everything_and_votes_in_every_group() {
    let mut cluster = running(3);
    for round in 0..50 {
        cluster.put(NodeId(1), "key", &format!("value {round}")).unwrap();
    }
    let members = cluster.change(NodeId(2), add(4)).unwrap();
    assert_eq!(members.len(), 4);
    assert!(members.iter().all(|listed| !listed.learner));
    cluster.join(NodeId(4));
    cluster.run(3_000);
    assert_voters(&cluster, &[1, 2, 3, 4]);
    assert_eq!(cluster.get(NodeId(4), "key").as_deref(), Some("value 49"));
    cluster.put(NodeId(4), "key", "from the new one").unwrap();
}

#[test]
fn one_becomes_two_without_ever_waiting_for_a_voter_that_has_not_started() {
    let mut cluster = running(1);
    cluster.change(NodeId(1), add(2)).unwrap();
    cluster.run(2_000);
    cluster.put(NodeId(1), "key", "alone").expect("a voter that never started holds up nobody");
    cluster.join(NodeId(2));
    cluster.run(3_000);
    assert_voters(&cluster, &[1, 2]);
    assert_eq!(cluster.get(NodeId(2), "key").as_deref(), Some("alone"));
}

#[test]
fn a_learner_is_promoted_once_in_sync_and_stays_a_voter_after_restarts() {
    let mut cluster = running(3);
    cluster.change(NodeId(1), add_learner(4)).unwrap();
    assert_eq!(
        cluster.change(NodeId(2), promote(4)),
        refused(MembershipRefusal::LearnerNotReady),
        "it has not even started"
    );
    cluster.join(NodeId(4));
    cluster.run(3_000);
    for membership in cluster.memberships(NodeId(4)) {
        assert_eq!(membership.learners, nodes(&[4]));
    }
    let members = cluster.change(NodeId(3), promote(4)).unwrap();
    assert!(members.iter().all(|listed| !listed.learner));
    assert_voters(&cluster, &[1, 2, 3, 4]);
    // Everybody restarts: the promotion was not only in memory.
    for id in 1..=4 {
        let stopped = cluster.stop(NodeId(id));
        if id == 4 {
            cluster.rejoin(NodeId(4), stopped);
        } else {
            cluster.restart(NodeId(id), stopped.disk, stopped.engine, 3);
        }
        cluster.run(3_000);
    }
    assert_voters(&cluster, &[1, 2, 3, 4]);
    let listed = cluster.nodes[&NodeId(4)].applier.reader(CORE).listed_members().unwrap();
    assert!(listed.iter().all(|listed| !listed.learner));
}

#[test]
fn an_update_does_not_promote() {
    let mut cluster = running(3);
    cluster.change(NodeId(1), add_learner(4)).unwrap();
    cluster.join(NodeId(4));
    cluster.run(3_000);
    let id = NodeId(4);
    let update = MembershipCommand::Update { id, peer_addresses: vec!["elsewhere:1".into()] };
    let members = cluster.change(NodeId(2), update).unwrap();
    assert!(members.last().unwrap().learner);
    cluster.run(3_000);
    // Restarting registers it again, under the address that it was configured with.
    let stopped = cluster.stop(id);
    cluster.rejoin(id, stopped);
    cluster.run(3_000);
    let listed = cluster.nodes[&NodeId(1)].applier.reader(CORE).listed_members().unwrap();
    assert!(listed[3].learner);
    assert_eq!(listed[3].member.peer_addresses, ["elsewhere:1"]);
    assert_eq!(cluster.memberships(NodeId(1))[1].learners, nodes(&[4]));
}

#[test]
fn of_two_concurrent_additions_with_one_address_one_is_refused() {
    let mut cluster = running(3);
    let peer_addresses = vec!["shared:2380".to_owned()];
    let asked = [(1, 4), (2, 5)].map(|(at, id)| {
        let change = MembershipCommand::Add {
            id: NodeId(id),
            peer_addresses: peer_addresses.clone(),
            learner: false,
        };
        (NodeId(at), cluster.ask_group(NodeId(at), CORE, Ask::Write(Command::Membership(change))))
    });
    let ends = asked.map(|(at, id)| cluster.wait_for(at, id).map(drop));
    let taken =
        Err(RequestError::Refused(StoreError::Membership(MembershipRefusal::PeerUrlExists)));
    assert!(ends.contains(&Ok(())) && ends.contains(&taken), "{ends:?}");
}

#[test]
fn of_two_concurrent_removals_that_would_lose_the_majority_one_is_refused() {
    let mut cluster = running(4);
    cluster.stop(NodeId(4));
    cluster.run(3_000);
    // Of four voters, three run: one of them may go, and then no other.
    let asked = [(1, 2), (2, 1)].map(|(at, id)| {
        let ask = Ask::Write(Command::Membership(remove(NodeId(id))));
        (NodeId(at), cluster.ask_group(NodeId(at), CORE, ask))
    });
    let ends = asked.map(|(at, id)| cluster.wait_for(at, id).map(drop));
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1, "{ends:?}");
    let left = NodeId(3);
    cluster.put(left, "key", "a majority is left").unwrap();
}

#[test]
fn a_removed_member_says_so_and_stops_and_disturbs_nobody() {
    let mut cluster = running(3);
    let gone = follower(&cluster);
    // It does not hear of it.
    let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|id| *id != gone).collect();
    cluster.cut = others.iter().map(|other| (gone, *other)).collect();
    cluster.change(others[0], remove(gone)).unwrap();
    cluster.run(5_000);
    let term = cluster.nodes[&others[0]].log.status().groups[1].term;
    assert!(cluster.nodes.contains_key(&gone), "nobody could tell it yet");
    cluster.cut.clear();
    cluster.run(5_000);
    let why = cluster.fatal.get(&gone).expect("it was told");
    assert!(why.contains("was removed from the cluster"), "{why}");
    assert!(cluster.removed.contains(&gone));
    assert_eq!(cluster.nodes[&others[0]].log.status().groups[1].term, term, "no election");
    cluster.put(others[0], "key", "value").unwrap();
}

#[test]
fn a_leader_that_is_removed_hands_over_and_stops() {
    let mut cluster = running(3);
    let leader = core_leader(&cluster);
    // Asked at the leader itself: its caller is answered before it stops.
    let members = cluster.change(leader, remove(leader)).unwrap();
    assert_eq!(members.len(), 2);
    cluster.run(3_000);
    assert!(cluster.removed.contains(&leader), "{:?}", cluster.fatal);
    let left: Vec<u64> = cluster.nodes.keys().map(|id| id.0).collect();
    assert_voters(&cluster, &left);
    cluster.put(NodeId(left[0]), "key", "value").unwrap();
}

#[test]
fn the_second_of_two_can_be_removed() {
    let mut cluster = running(2);
    let leader = core_leader(&cluster);
    let other = follower(&cluster);
    let other = if other == leader { cluster.leader() } else { other };
    cluster.change(leader, remove(other)).unwrap();
    cluster.run(3_000);
    assert_voters(&cluster, &[leader.0]);
    assert!(cluster.removed.contains(&other));
    assert_eq!(
        cluster.change(leader, remove(leader)),
        refused(MembershipRefusal::NotEnoughStarted),
        "somebody must vote"
    );
}

#[test]
fn an_id_is_never_used_again() {
    let mut cluster = running(3);
    let gone = follower(&cluster);
    let at = cluster.leader();
    cluster.change(at, remove(gone)).unwrap();
    assert_eq!(cluster.change(at, add(gone.0)), refused(MembershipRefusal::MemberRemoved));
    assert_eq!(cluster.change(at, remove(gone)), refused(MembershipRefusal::MemberRemoved));
    assert_eq!(cluster.change(at, promote(9)), refused(MembershipRefusal::MemberNotFound));
    assert_eq!(cluster.change(at, promote(at.0)), refused(MembershipRefusal::MemberNotLearner));
    assert_eq!(cluster.change(at, add(at.0)), refused(MembershipRefusal::MemberExists));
}

#[test]
fn removing_an_active_member_must_leave_a_majority_of_active_ones() {
    let mut cluster = running(3);
    let (leader, down) = (core_leader(&cluster), follower(&cluster));
    let down = if down == leader { cluster.leader() } else { down };
    cluster.stop(down);
    cluster.run(3_000);
    let leader = core_leader(&cluster);
    let other = *cluster.nodes.keys().find(|id| **id != leader).unwrap();
    assert_eq!(cluster.change(leader, remove(other)), refused(MembershipRefusal::Unhealthy));
    // The dead one is replaced: removed, and another added under a new id.
    cluster.change(other, remove(down)).unwrap();
    cluster.change(other, add(7)).unwrap();
    cluster.join(NodeId(7));
    cluster.run(3_000);
    assert_voters(&cluster, &[leader.0, other.0, 7]);
}

#[test]
fn a_joiner_that_crashes_at_each_step_becomes_a_member_in_the_end() {
    for step in 0..30 {
        let mut cluster = running(3);
        for round in 0..30 {
            cluster.put(NodeId(1), "key", &format!("value {round}")).unwrap();
        }
        cluster.change(NodeId(1), add(4)).unwrap();
        cluster.join(NodeId(4));
        // A millisecond is one round of messages and syncs.
        cluster.run(step);
        let stopped = cluster.stop(NodeId(4));
        cluster.run(50);
        cluster.rejoin(NodeId(4), stopped);
        cluster.run(4_000);
        assert!(cluster.fatal.is_empty(), "{:?}", cluster.fatal);
        assert_voters(&cluster, &[1, 2, 3, 4]);
        assert_eq!(cluster.get(NodeId(4), "key").as_deref(), Some("value 29"), "step {step}");
    }
}

#[test]
fn a_snapshot_carries_the_membership_of_each_group() {
    let mut cluster = running(3);
    cluster.change(NodeId(1), add(4)).unwrap();
    // The log is cut behind everything that happened.
    for round in 0..400 {
        cluster.put(NodeId(1), "key", &format!("value {round} {:200}", "")).unwrap();
    }
    let first = cluster.nodes[&cluster.leader()].log.status().groups[1].first_index;
    assert!(first > 100, "the log was not cut: it begins at {first}");
    cluster.join(NodeId(4));
    cluster.run(3_000);
    assert_voters(&cluster, &[1, 2, 3, 4]);
    // It knows who the members are by itself, whatever it was configured with.
    let stopped = cluster.stop(NodeId(4));
    let ids: Vec<NodeId> = cluster.nodes.keys().copied().collect();
    cluster.cut = ids.iter().map(|id| (NodeId(4), *id)).collect();
    cluster.rejoin(NodeId(4), stopped);
    cluster.run(100);
    for membership in cluster.memberships(NodeId(4)) {
        assert_eq!(membership.voters, nodes(&[1, 2, 3, 4]));
    }
}

#[test]
fn a_change_asked_for_in_a_minority_does_not_happen_until_it_heals() {
    let mut cluster = running(5);
    let leader = core_leader(&cluster);
    let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    // The leader and one more are cut off from the rest.
    let alone = [leader, others[0]];
    cluster.cut = alone.iter().flat_map(|a| others[1..].iter().map(|b| (*a, *b))).collect();
    let ask = Ask::Write(Command::Membership(add(6)));
    let asked = cluster.ask_group(leader, CORE, ask);
    assert_eq!(cluster.wait_for(leader, asked).map(drop), Err(RequestError::TimedOut));
    cluster.change(others[1], remove(others[0])).unwrap();
    cluster.cut.clear();
    cluster.run(5_000);
    let listed = cluster.nodes[&leader].applier.reader(CORE).listed_members().unwrap();
    let ids: BTreeSet<NodeId> = listed.iter().map(|listed| listed.member.id).collect();
    assert!(!ids.contains(&others[0]));
    assert!(cluster.removed.contains(&others[0]), "{:?}", cluster.fatal);
    cluster.put(leader, "key", "value").unwrap();
}

#[test]
fn a_leader_of_one_group_that_is_behind_in_the_other_never_goes_back_to_an_older_table() {
    let mut cluster = running(3);
    cluster.change(NodeId(1), add_learner(4)).unwrap();
    cluster.run(1_000);
    let leader = cluster.leader();
    let behind = follower(&cluster);
    let other = *cluster.nodes.keys().find(|id| **id != leader && **id != behind).unwrap();
    // It knows of the first learner, and nothing that the consistent core decides from here on.
    cluster.deaf = vec![(behind, CORE)];
    cluster.change(leader, remove(NodeId(4))).unwrap();
    cluster.change(leader, add_learner(5)).unwrap();
    // Of the consistent core it cannot become the leader; of the keys it does.
    let _ = cluster.answer(leader, Ask::TransferLeadership { to: Some(behind) });
    assert_eq!(cluster.leader(), behind);
    for _ in 0..30 {
        cluster.run(100);
        assert_eq!(cluster.memberships(other)[1].learners, nodes(&[5]));
    }
    assert_eq!(cluster.leader(), behind);
    cluster.deaf.clear();
    cluster.run(3_000);
    assert_eq!(cluster.memberships(behind), cluster.memberships(other));
    assert_eq!(cluster.memberships(other)[1].learners, nodes(&[5]));
}

#[test]
fn a_removed_member_that_hears_no_more_of_the_consistent_core_leads_nothing() {
    let mut cluster = running(3);
    let first = cluster.leader();
    let gone = follower(&cluster);
    cluster.answer(first, Ask::TransferLeadership { to: Some(gone) }).unwrap();
    // The last that it hears of the consistent core is that it was removed.
    cluster.deaf = vec![(gone, CORE)];
    cluster.run(3_000);
    assert_eq!(cluster.leader(), gone, "it still leads the keys");
    assert_ne!(core_leader(&cluster), gone);
    let others: BTreeSet<NodeId> = cluster.nodes.keys().copied().filter(|id| *id != gone).collect();
    let table = MemberTable {
        voters: others.clone(),
        removed: BTreeSet::from([gone]),
        ..MemberTable::default()
    };
    let now = cluster.now;
    let node = cluster.nodes.get_mut(&gone).unwrap();
    node.log.handle(LogEvent::MemberTable(table), now, &mut node.disk);
    cluster.run(3_000);
    assert!(others.contains(&cluster.leader()), "n{} leads", cluster.leader());
    assert!(cluster.fatal.is_empty(), "the keys have it as a voter still: {:?}", cluster.fatal);
}

/// Voters a, b and c: what a and c acknowledged is lost to b and to an emptied c, and they are the
/// majority.
#[test]
fn who_joins_on_an_empty_directory_votes_away_nothing_that_it_may_have_held() {
    let mut cluster = running(2);
    cluster.change(NodeId(1), add(3)).unwrap();
    cluster.join(NodeId(3));
    cluster.run(3_000);
    assert_voters(&cluster, &[1, 2, 3]);
    let leader = cluster.leader();
    if leader != NodeId(1) {
        cluster.answer(leader, Ask::TransferLeadership { to: Some(NodeId(1)) }).unwrap();
    }
    cluster.cut = vec![(NodeId(1), NodeId(2)), (NodeId(2), NodeId(3))];
    cluster.put(NodeId(1), "key", "acknowledged").unwrap();
    let holder = cluster.stop(NodeId(1));
    cluster.stop(NodeId(3));
    cluster.cut.clear();
    cluster.join(NodeId(3));
    cluster.run(5_000);
    for group in cluster.nodes[&NodeId(2)].log.status().groups {
        assert_eq!(group.leader, None, "the one that holds everything is not there");
    }
    cluster.restart(NodeId(1), holder.disk, holder.engine, 2);
    cluster.run(5_000);
    assert_eq!(cluster.get(NodeId(2), "key").as_deref(), Some("acknowledged"));
    // By now it holds all that it may have held before, so it votes.
    cluster.stop(NodeId(1));
    cluster.run(5_000);
    assert_eq!(cluster.get(NodeId(3), "key").as_deref(), Some("acknowledged"));
}

#[test]
fn a_removed_member_is_not_told_so_by_one_that_knows_nothing_of_a_group() {
    let mut cluster = running(3);
    let gone = NodeId(3);
    cluster.change(NodeId(1), add(4)).unwrap();
    cluster.deaf = vec![(NodeId(4), GroupId::KEYSPACE)];
    cluster.join(NodeId(4));
    cluster.run(2_000);
    // Only the new member, to which the keys may as well need it, could tell it.
    cluster.cut = vec![(gone, NodeId(1)), (gone, NodeId(2))];
    cluster.change(NodeId(1), remove(gone)).unwrap();
    cluster.run(5_000);
    let told = |cluster: &Cluster| cluster.sent.contains(&(NodeId(4), gone, "removed".into()));
    assert!(cluster.memberships(NodeId(4))[0].voters == nodes(&[1, 2, 4]));
    assert!(!told(&cluster) && cluster.nodes.contains_key(&gone), "{:?}", cluster.fatal);
    // Nor after a restart, when whom it was connected to is forgotten.
    let stopped = cluster.stop(NodeId(4));
    cluster.rejoin(NodeId(4), stopped);
    cluster.run(5_000);
    assert!(!told(&cluster) && cluster.nodes.contains_key(&gone), "{:?}", cluster.fatal);
    cluster.deaf.clear();
    cluster.run(5_000);
    assert!(told(&cluster) && cluster.fatal.contains_key(&gone), "{:?}", cluster.fatal);
    assert_voters(&cluster, &[1, 2, 4]);
}

#[test]
fn leadership_of_every_group_is_handed_over() {
    let mut cluster = running(3);
    let leader = cluster.leader();
    let to = follower(&cluster);
    let other = *cluster.nodes.keys().find(|id| **id != leader && **id != to).unwrap();
    let not_leader = cluster.answer(to, Ask::TransferLeadership { to: Some(to) });
    assert!(matches!(not_leader, Err(RequestError::NotLeader)));
    let nobody = cluster.answer(leader, Ask::TransferLeadership { to: Some(NodeId(9)) });
    assert!(matches!(nobody, Err(RequestError::BadLeaderTransferee)));
    let done = cluster.answer(leader, Ask::TransferLeadership { to: Some(to) });
    assert!(matches!(done, Ok(Reply::LeadershipTransferred)), "{done:?}");
    assert_eq!(cluster.leader(), to);
    let leads = cluster.nodes[&leader].log.status().groups;
    assert!(leads.iter().all(|group| group.leader != Some(leader)));
    // Before it stops: to whoever is best.
    let done = cluster.answer(to, Ask::TransferLeadership { to: None });
    assert!(matches!(done, Ok(Reply::LeadershipTransferred)), "{done:?}");
    assert!([leader, other].contains(&cluster.leader()));
}

#[test]
fn a_member_told_by_a_peer_that_it_was_removed_stops() {
    let mut cluster = running(3);
    let gone = follower(&cluster);
    let others: Vec<NodeId> = cluster.nodes.keys().copied().filter(|id| *id != gone).collect();
    cluster.cut = others.iter().map(|other| (gone, *other)).collect();
    cluster.change(others[0], remove(gone)).unwrap();
    cluster.run(1_000);
    // Of itself it does not know.
    let now = cluster.now;
    let node = cluster.nodes.get_mut(&gone).unwrap();
    assert_eq!(node.log.status().groups[0].membership.voters, nodes(&[1, 2, 3]));
    node.log.handle(LogEvent::Removed, now, &mut node.disk);
    cluster.settle();
    assert!(cluster.fatal[&gone].contains("add it as a new member"));
    assert!(cluster.removed.contains(&gone));
}
