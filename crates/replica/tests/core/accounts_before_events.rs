//! What the applier tells, and in which order: whoever lost a permission is found out before the
//! hub hears of what was applied with that.

use crate::cluster::config;
use bytes::Bytes;
use clocks::{GroupId, LogPosition, NodeId, Term};
use consensus::{Entry, Payload};
use replica::{Applier, ApplierEffect, ApplierEvent, ReplicaLimits};
use std::sync::Arc;
use store::MemEngine;
use store::command::{AuthCommand, Command, Envelope, Put, SessionId};

const SESSION: SessionId = SessionId { member: NodeId(1), incarnation: 1 };

fn entry(index: u64, sequence: u64, command: Command) -> Entry {
    let envelope = Envelope {
        session: SESSION,
        sequence,
        answered_below: sequence,
        advisory_time_ms: 0,
        caller: None,
        command,
    };
    Entry {
        position: LogPosition::new(Term(1), index),
        payload: Payload::Command(envelope.encode()),
    }
}

#[test]
fn accounts_are_told_before_the_events_applied_with_them() {
    let config = config(NodeId(1), 1, ReplicaLimits::default());
    let mut applier = Applier::open(&config, Arc::new(MemEngine::new())).expect("an empty engine");
    let put = Put { key: Bytes::from_static(b"a"), ..Put::default() };
    let role = AuthCommand::RoleAdd { name: "some".into() };
    let entries = vec![
        entry(1, 0, Command::OpenSession),
        entry(2, 1, Command::Put(put)),
        entry(3, 2, Command::Auth(role)),
    ];
    applier.handle(ApplierEvent::Apply { group: GroupId::KEYSPACE, entries });
    let mut told = Vec::new();
    while let Some(effect) = applier.poll() {
        match effect {
            ApplierEffect::Accounts { .. } => told.push("accounts"),
            ApplierEffect::Watch { .. } => told.push("events"),
            _ => {}
        }
    }
    assert_eq!(told, ["accounts", "events"]);
}
