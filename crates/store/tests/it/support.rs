//! A state machine of which a test says what to apply, and nothing else.

use bytes::Bytes;
use clocks::{GroupId, LogPosition, NodeId, Term};
use std::sync::Arc;
use store::command::{Command, DeleteRange, Envelope, Put, SessionId};
use store::range::{KeyRange, KeyValue, Range, Revision};
use store::reply::{Outcome, RangeReply, StoreError};
use store::{
    Applied, Content, MachineKind, MemEngine, RevisionEvents, SnapshotWrite, StateMachine,
    StoreLimits, ToApply,
};

pub(crate) const SESSION: SessionId = SessionId { member: NodeId(1), incarnation: 1 };

/// One member's group, and the log that it has applied.
pub(crate) struct Group {
    pub(crate) engine: MemEngine,
    pub(crate) machine: StateMachine,
    pub(crate) events: Vec<RevisionEvents>,
    kind: MachineKind,
    sequence: u64,
}

impl Group {
    /// A group that has applied the opening of a session.
    pub(crate) fn new(kind: MachineKind) -> Group {
        let mut group = Group::unopened(kind, MemEngine::new());
        group.enter(Command::OpenSession).expect("a first session opens");
        group
    }

    pub(crate) fn keyspace() -> Group {
        Group::new(MachineKind::Keyspace)
    }

    /// A group on an engine, as after a restart.
    pub(crate) fn unopened(kind: MachineKind, engine: MemEngine) -> Group {
        let machine = StateMachine::open(
            Arc::new(engine.clone()),
            id(kind),
            kind,
            StoreLimits { snapshot_chunk_bytes: 256, ..StoreLimits::default() },
        );
        let machine = machine.expect("the state is readable");
        Group { engine, machine, events: Vec::new(), kind, sequence: 0 }
    }

    /// A machine whose engine the test does not look at.
    pub(crate) fn of(machine: StateMachine) -> Group {
        let (engine, kind) = (MemEngine::new(), MachineKind::Keyspace);
        Group { engine, machine, events: Vec::new(), kind, sequence: 0 }
    }

    /// Applies entries directly behind what was applied.
    pub(crate) fn apply(&mut self, contents: Vec<Content>) -> Applied {
        let first = self.machine.applied().index + 1;
        let entries = (first..).zip(contents);
        let entries = entries.map(|(index, content)| ToApply { position: at(index), content });
        let applied = self.machine.apply(entries.collect()).expect("memory does not fail");
        self.events.extend(applied.events.iter().cloned());
        applied
    }

    pub(crate) fn envelope(&mut self, command: Command) -> Content {
        self.sequence += 1;
        let sequence = self.sequence;
        envelope(SESSION, sequence, sequence.saturating_sub(4), command)
    }

    /// Applies one command.
    pub(crate) fn enter(&mut self, command: Command) -> Result<Outcome, StoreError> {
        let content = self.envelope(command);
        let mut applied = self.apply(vec![content]);
        applied.outcomes.pop().expect("a fresh request is answered").2
    }

    /// Sets a key; returns its revision.
    pub(crate) fn put(&mut self, key: &str, value: &str) -> Revision {
        match self.enter(Command::Put(put(key, value))) {
            Ok(Outcome::Put { revision, .. }) => revision,
            other => panic!("put: {other:?}"),
        }
    }

    /// Deletes the keys of a span; returns the revision.
    pub(crate) fn delete(&mut self, keys: KeyRange) -> Revision {
        match self.enter(Command::DeleteRange(DeleteRange { keys, prev_kv: false })) {
            Ok(Outcome::DeleteRange { revision, .. }) => revision,
            other => panic!("delete: {other:?}"),
        }
    }

    pub(crate) fn compact(&mut self, revision: Revision) {
        let outcome = self.enter(Command::Compact { revision });
        assert!(matches!(outcome, Ok(Outcome::Compacted { .. })), "compact: {outcome:?}");
    }

    /// Does all of the physical compaction.
    pub(crate) fn sweep(&mut self) {
        while self.machine.compact_step(3).expect("memory does not fail") {}
    }

    pub(crate) fn range(&self, range: &Range) -> Result<RangeReply, StoreError> {
        self.machine.reader().range(range).expect("memory does not fail")
    }

    /// Every pair as of a revision.
    pub(crate) fn all_at(&self, revision: Revision) -> Result<Vec<KeyValue>, StoreError> {
        let range = Range { revision, ..Range::of(KeyRange::From(Bytes::new())) };
        self.range(&range).map(|reply| reply.pairs)
    }

    /// The group as a crash leaves it: `kept` of the batches not flushed were written.
    pub(crate) fn crashed(&self, kept: usize) -> Group {
        let mut group = Group::unopened(self.kind, self.engine.crash(kept));
        group.sequence = self.sequence;
        group
    }

    /// The chunks of a snapshot of the state.
    pub(crate) fn snapshot(&self) -> Vec<Bytes> {
        let mut reader = self.machine.open_snapshot().expect("memory does not fail");
        let mut chunks = Vec::new();
        loop {
            let number = chunks.len() as u64;
            let chunk = reader.chunk(number).expect("memory does not fail");
            let chunk = chunk.expect("the next chunk is there");
            chunks.push(chunk.data);
            if chunk.done {
                return chunks;
            }
        }
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Goes on numbering requests where another member's log does.
    pub(crate) fn follow(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Takes over another member's state.
    pub(crate) fn install(&mut self, from: &Group) -> SnapshotWrite {
        let chunks = from.snapshot();
        let mut last = SnapshotWrite::Written;
        for (number, chunk) in chunks.iter().enumerate() {
            let done = number + 1 == chunks.len();
            let position = from.machine.applied();
            let written = self.machine.write_snapshot_chunk(position, number as u64, chunk, done);
            last = written.expect("memory does not fail");
        }
        last
    }
}

pub(crate) fn id(kind: MachineKind) -> GroupId {
    match kind {
        MachineKind::ClusterMetadata => GroupId::CONSISTENT_CORE,
        MachineKind::Keyspace => GroupId::KEYSPACE,
    }
}

pub(crate) fn at(index: u64) -> LogPosition {
    LogPosition::new(Term(1), index)
}

pub(crate) fn envelope(
    session: SessionId,
    sequence: u64,
    answered_below: u64,
    command: Command,
) -> Content {
    let envelope =
        Envelope { session, sequence, answered_below, advisory_time_ms: 0, caller: None, command };
    Content::Command(envelope.encode())
}

pub(crate) fn put(key: &str, value: &str) -> Put {
    Put { key: bytes(key), value: bytes(value), ..Put::default() }
}

pub(crate) fn key(key: &str) -> KeyRange {
    KeyRange::Key(bytes(key))
}

pub(crate) fn span(start: &str, end: &str) -> KeyRange {
    KeyRange::Span { start: bytes(start), end: bytes(end) }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
