//! A follower's log machine by itself: snapshots that overtake what is being read from the log, and
//! snapshots that the applier refuses.

use crate::cluster::{MemoryDisk, config};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, Monotonic, NodeId, Term, WallTime};
use consensus::{Body, Entry, Membership, Message, Payload};
use replica::{
    AppliedState, Applier, ApplierEffect, ApplierEvent, CoreConfig, LogEffect, LogEvent,
    LogMachine, PeerMessage, ReplicaLimits, ReplicationWindow,
};
use std::sync::Arc;
use store::MemEngine;
use wal::{Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileInfo};

const US: NodeId = NodeId(1);
const LEADER: NodeId = NodeId(2);
const GROUP: GroupId = GroupId::KEYSPACE;
const NOW: Monotonic = Monotonic(1_000_000_000);

/// A disk that answers reads only when told to.
#[derive(Default)]
struct SlowReader {
    disk: MemoryDisk,
    done: Vec<DiskCompletion>,
    reads: Vec<(DiskToken, DiskOp)>,
}

impl Disk for SlowReader {
    fn submit(&mut self, token: DiskToken, op: DiskOp) {
        if matches!(op, DiskOp::Read { .. }) {
            return self.reads.push((token, op));
        }
        let result = self.disk.run(op);
        self.done.push(DiskCompletion { token, result });
    }

    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        self.disk.list()
    }

    fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        self.disk.run(op)
    }
}

struct Follower {
    log: LogMachine,
    disk: SlowReader,
    /// Indexes handed to the applier.
    handed: Vec<LogIndex>,
    /// Chunks of snapshots handed to it.
    chunks: Vec<u64>,
}

impl Follower {
    /// A follower that keeps no entry in memory once it is durable.
    fn start() -> Follower {
        let window = ReplicationWindow { cache_bytes: 0, ..ReplicationWindow::default() };
        let config = CoreConfig { window, ..config(US, 3, ReplicaLimits::default()) };
        let mut disk = SlowReader::default();
        let log =
            LogMachine::recover(&config, &mut disk, &AppliedState::default(), NOW, 1).unwrap();
        let mut follower = Follower { log, disk, handed: Vec::new(), chunks: Vec::new() };
        follower.settle();
        follower
    }

    fn handle(&mut self, event: LogEvent) {
        self.log.handle(event, NOW, &mut self.disk);
    }

    fn hear(&mut self, body: Body) {
        let message = Message { group: GROUP, from: LEADER, to: US, term: Term(1), body };
        let message = PeerMessage::Consensus(message);
        self.handle(LogEvent::Peer { from: LEADER, message });
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            self.log.flush(NOW, WallTime(0), &mut self.disk);
            while let Some(effect) = self.log.poll() {
                match effect {
                    LogEffect::Applier(ApplierEvent::Apply { entries, .. }) => {
                        self.handed.extend(entries.iter().map(|entry| entry.position.index));
                    }
                    LogEffect::Applier(ApplierEvent::WriteSnapshot { chunk, .. }) => {
                        self.chunks.push(chunk);
                    }
                    LogEffect::Fatal(why) | LogEffect::Removed(why) => panic!("{why}"),
                    _ => {}
                }
            }
            if self.disk.done.is_empty() {
                return;
            }
            for completion in std::mem::take(&mut self.disk.done) {
                self.handle(LogEvent::Disk(completion));
            }
        }
    }

    fn finish_reads(&mut self) {
        for (token, op) in std::mem::take(&mut self.disk.reads) {
            let result = self.disk.run(op);
            self.handle(LogEvent::Disk(DiskCompletion { token, result }));
        }
    }
}

fn entries(first: LogIndex, last: LogIndex) -> Vec<Entry> {
    let entry = |index| Entry {
        position: LogPosition::new(Term(1), index),
        payload: Payload::Command(Bytes::from_static(b"opaque to the log")),
    };
    (first..=last).map(entry).collect()
}

fn append(previous: LogIndex, last: LogIndex, committed: LogIndex) -> Body {
    let term = if previous == 0 { Term(0) } else { Term(1) };
    let previous_position = LogPosition::new(term, previous);
    Body::Append { previous: previous_position, entries: entries(previous + 1, last), committed }
}

const POSITION: LogPosition = LogPosition::new(Term(1), 50);

fn membership() -> Membership {
    Membership::of_voters([1, 2, 3].map(NodeId))
}

fn snapshot() -> Body {
    Body::SnapshotChunk {
        position: POSITION,
        membership: membership(),
        chunk: 0,
        data: Bytes::from_static(b"opaque to the log"),
        done: true,
    }
}

#[test]
fn a_snapshot_that_the_applier_refuses_is_taken_again_and_appends_go_on() {
    let mut follower = Follower::start();
    follower.hear(snapshot());
    follower.hear(snapshot());
    assert_eq!(follower.chunks, [0], "it is being installed");
    follower.handle(LogEvent::SnapshotRefused { group: GROUP, position: POSITION, chunk: 0 });
    follower.hear(snapshot());
    assert_eq!(follower.chunks, [0, 0]);
    follower.handle(LogEvent::SnapshotRefused { group: GROUP, position: POSITION, chunk: 0 });
    follower.hear(append(0, 2, 2));
    follower.finish_reads();
    follower.settle();
    assert_eq!(follower.handed, [1, 2]);
}

#[test]
fn committed_entries_that_a_snapshot_overtook_while_they_were_read_are_not_handed_over() {
    let mut follower = Follower::start();
    follower.hear(append(0, 5, 0));
    follower.hear(append(5, 5, 5));
    assert_eq!(follower.disk.reads.len(), 1, "the entries have left the cache");
    let (position, membership) = (POSITION, membership());
    follower.hear(snapshot());
    let written =
        LogEvent::SnapshotWritten { group: GROUP, position, membership, chunk: 0, done: true };
    follower.handle(written);
    // In the same drain, so before the log hears of its new start.
    follower.finish_reads();
    follower.settle();
    assert_eq!(follower.handed, []);
    follower.hear(append(50, 52, 52));
    follower.finish_reads();
    follower.settle();
    assert_eq!(follower.handed, [51, 52]);
}

#[test]
fn the_applier_says_that_it_refuses_a_chunk() {
    let config = config(US, 3, ReplicaLimits::default());
    let mut applier = Applier::open(&config, Arc::new(MemEngine::new())).unwrap();
    let (position, data) = (POSITION, Bytes::from_static(b"no chunk"));
    let write = ApplierEvent::WriteSnapshot { group: GROUP, position, chunk: 0, data, done: true };
    applier.handle(write);
    let refused = matches!(
        applier.poll(),
        Some(ApplierEffect::Log(LogEvent::SnapshotRefused { position: POSITION, chunk: 0, .. }))
    );
    assert!(refused, "the transfer would hang");
}
