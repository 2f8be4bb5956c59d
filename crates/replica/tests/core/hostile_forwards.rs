//! What a peer forwards is proposed only if every member will be able to apply it.

use crate::cluster::{Cluster, put_of};
use bytes::Bytes;
use clocks::{GroupId, NodeId};
use replica::{COMMAND_BYTES, LogEvent, PeerMessage};
use store::command::{Command, Envelope, SessionId};

fn envelope(member: NodeId) -> Bytes {
    asking(member, put_of(1))
}

fn asking(member: NodeId, command: Command) -> Bytes {
    let session = SessionId { member, incarnation: 1 << 40 };
    Envelope { session, sequence: 1, answered_below: 1, advisory_time_ms: 0, caller: None, command }
        .encode()
}

#[test]
fn what_nobody_could_apply_or_the_peer_may_not_ask_is_not_proposed() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let leader = cluster.leader();
    let from = NodeId(if leader == NodeId(1) { 2 } else { 1 });
    let group = GroupId::KEYSPACE;
    let last = |cluster: &Cluster| cluster.nodes[&leader].log.status().groups[1].last_index;
    let before = last(&cluster);
    let garbage = Bytes::from_static(b"no envelope");
    let huge = Bytes::from(vec![0; COMMAND_BYTES + 1]);
    for commands in [vec![], vec![garbage], vec![huge], vec![envelope(leader)]] {
        let message = PeerMessage::Propose { group, commands };
        let node = cluster.nodes.get_mut(&leader).unwrap();
        node.log.handle(LogEvent::Peer { from, message }, cluster.now, &mut node.disk);
        cluster.run(10);
        assert_eq!(last(&cluster), before);
    }
    // The trap: an old leader's tick, or anybody's, would end leases that others have renewed.
    let tick = Command::LeaseTick { clock_ms: u64::MAX, revoke_max: u32::MAX };
    let commands = vec![asking(from, tick)];
    let message = PeerMessage::Propose { group, commands };
    let node = cluster.nodes.get_mut(&leader).unwrap();
    node.log.handle(LogEvent::Peer { from, message }, cluster.now, &mut node.disk);
    cluster.run(10);
    assert_eq!(last(&cluster), before, "the lease clock is its leader's alone");
    let message = PeerMessage::Propose { group, commands: vec![envelope(from)] };
    let node = cluster.nodes.get_mut(&leader).unwrap();
    node.log.handle(LogEvent::Peer { from, message }, cluster.now, &mut node.disk);
    cluster.run(10);
    assert_eq!(last(&cluster), before + 1, "what is sound is proposed");
}

/// Members believe each other, and nobody else.
#[test]
fn only_members_are_believed_that_this_one_was_removed() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let at = NodeId(1);
    for (from, stops) in [(NodeId(9), false), (NodeId(2), true)] {
        let node = cluster.nodes.get_mut(&at).unwrap();
        let message = PeerMessage::Removed;
        node.log.handle(LogEvent::Peer { from, message }, cluster.now, &mut node.disk);
        cluster.run(10);
        assert_eq!(cluster.removed.contains(&at), stops, "the word of {from}");
    }
}
