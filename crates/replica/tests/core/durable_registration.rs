//! Who a member is must be known after a power loss, before anybody leads: the handshake asks.

use crate::cluster::config;
use clocks::{GroupId, LogPosition, NodeId, Term};
use consensus::{Entry, Payload};
use replica::{Applier, ApplierEffect, ApplierEvent, ReplicaLimits};
use std::sync::Arc;
use store::MemEngine;
use store::command::{Command, Envelope, SessionId};

/// Applies the entry at `index` of the consistent core; returns whether the engine is flushed then.
fn flushes_after(applier: &mut Applier, index: u64, command: Command) -> bool {
    let session = SessionId { member: NodeId(2), incarnation: 1 };
    let (answered_below, advisory_time_ms) = (0, 0);
    let envelope = Envelope {
        session,
        sequence: index - 1,
        answered_below,
        advisory_time_ms,
        caller: None,
        command,
    };
    let payload = Payload::Command(envelope.encode());
    let entries = vec![Entry { position: LogPosition::new(Term(1), index), payload }];
    applier.handle(ApplierEvent::Apply { group: GroupId::CONSISTENT_CORE, entries });
    let mut flushes = false;
    while let Some(effect) = applier.poll() {
        flushes |= matches!(effect, ApplierEffect::Flush);
    }
    flushes
}

#[test]
fn the_engine_is_flushed_once_a_member_has_registered() {
    let config = config(NodeId(1), 3, ReplicaLimits::default());
    let mut applier = Applier::open(&config, Arc::new(MemEngine::new())).unwrap();
    let register = || Command::RegisterMember(config.member.clone());
    assert!(!flushes_after(&mut applier, 1, Command::OpenSession), "nothing to be told yet");
    assert!(flushes_after(&mut applier, 2, register()));
    assert!(!flushes_after(&mut applier, 3, register()), "one at a time");
    applier.handle(ApplierEvent::Flushed);
    let again = std::iter::from_fn(|| applier.poll());
    assert!(again.into_iter().any(|effect| matches!(effect, ApplierEffect::Flush)));
}
