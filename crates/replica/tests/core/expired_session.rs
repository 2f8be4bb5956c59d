//! A session that gives way in the middle of a batch, at the member whose session it was.

use crate::cluster::{config, put_of};
use clocks::{GroupId, LogIndex, LogPosition, NodeId, Term};
use consensus::{Entry, Payload, SnapshotRead};
use replica::{
    Applier, ApplierEffect, ApplierEvent, CoreConfig, LogEvent, ReplicaLimits, RequestError,
    RequestId,
};
use std::sync::Arc;
use store::command::{Command, Envelope, SessionId};
use store::{MemEngine, StoreLimits};

const GROUP: GroupId = GroupId::KEYSPACE;
const OURS: SessionId = SessionId { member: NodeId(1), incarnation: 1 };
const THEIRS: SessionId = SessionId { member: NodeId(2), incarnation: 1 };

fn entry(index: LogIndex, session: SessionId, sequence: u64, command: Command) -> Entry {
    let envelope = Envelope {
        session,
        sequence,
        answered_below: 0,
        advisory_time_ms: 0,
        caller: None,
        command,
    }
    .encode();
    Entry { position: LogPosition::new(Term(1), index), payload: Payload::Command(envelope) }
}

/// Room for one session.
fn applier() -> Applier {
    let store = StoreLimits { sessions_max: 1, ..StoreLimits::default() };
    let config = CoreConfig { store, ..config(NodeId(1), 3, ReplicaLimits::default()) };
    let mut applier = Applier::open(&config, Arc::new(MemEngine::new())).unwrap();
    for sequence in [1, 2] {
        let request = Some(RequestId(sequence));
        applier.handle(ApplierEvent::Expect { group: GROUP, session: OURS, sequence, request });
    }
    applier
}

#[test]
fn the_log_hears_what_was_answered_before_it_hears_that_the_session_is_gone() {
    let mut applier = applier();
    let entries = vec![
        entry(1, OURS, 0, Command::OpenSession),
        entry(2, OURS, 1, put_of(1)),
        entry(3, THEIRS, 0, Command::OpenSession),
        entry(4, OURS, 2, put_of(2)),
    ];
    applier.handle(ApplierEvent::Apply { group: GROUP, entries });
    let mut told = Vec::new();
    while let Some(effect) = applier.poll() {
        match effect {
            ApplierEffect::Log(LogEvent::Applied { answered, .. }) => {
                told.push(format!("answered {answered:?}"));
            }
            ApplierEffect::Log(LogEvent::Session { open, .. }) => told.push(format!("open {open}")),
            _ => {}
        }
    }
    // Otherwise what waits, the answered request included, would move to a fresh session.
    assert_eq!(told, ["answered [1]", "open true", "open false"]);
}

#[test]
fn a_snapshot_in_which_the_session_has_ended_leaves_the_outcome_unknown() {
    let mut ahead = applier();
    let entries = vec![
        entry(1, OURS, 0, Command::OpenSession),
        entry(2, OURS, 1, put_of(1)),
        entry(3, THEIRS, 0, Command::OpenSession),
    ];
    ahead.handle(ApplierEvent::Apply { group: GROUP, entries });
    let peer = NodeId(1);
    ahead.handle(ApplierEvent::ReadSnapshot { group: GROUP, peer, position: None, chunk: 0 });
    let read = std::iter::from_fn(|| ahead.poll()).find_map(|effect| match effect {
        ApplierEffect::Log(LogEvent::SnapshotRead { read, .. }) => Some(read),
        _ => None,
    });
    let SnapshotRead { position, chunk, data, done, .. } = read.unwrap();
    assert!(done, "it is a small one");

    let mut applier = applier();
    applier.handle(ApplierEvent::WriteSnapshot { group: GROUP, position, chunk, data, done });
    let mut ended = Vec::new();
    while let Some(effect) = applier.poll() {
        if let ApplierEffect::Reply { request, result } = effect {
            ended.push((request.0, result.err()));
        }
    }
    // The first one was applied: under a fresh session it would be applied again.
    let unknown = Some(RequestError::OutcomeUnknown);
    assert_eq!(ended, [(1, unknown.clone()), (2, unknown)]);
}
