//! One put through three cores, on a network and disks without faults: the thread that every layer
//! hangs on. Faults are the simulator's business.

use bytes::Bytes;
use clocks::{ClockBound, GroupId, Monotonic, NodeId, WallTime};
use replica::{
    Applier, ApplierEffect, ApplierEvent, Ask, CoreConfig, LogEffect, LogEvent, LogMachine,
    PeerMessage, ReplicaLimits, ReplicationWindow, Reply, Request, RequestError, RequestId,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use store::command::{Command, Compare, CompareResult, CompareTarget, Member, Put, Txn, TxnOp};
use store::range::{KeyRange, Range};
use store::reply::{Outcome, StoreError};
use store::{MachineKind, MemEngine, StoreLimits};
use wal::{Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, FileInfo, WalConfig};

/// A disk that keeps everything.
#[derive(Default)]
struct MemoryDisk {
    files: BTreeMap<FileId, Vec<u8>>,
    completions: VecDeque<DiskCompletion>,
}

impl Disk for MemoryDisk {
    fn submit(&mut self, token: DiskToken, op: DiskOp) {
        let result = self.run(op);
        self.completions.push_back(DiskCompletion { token, result });
    }

    fn list(&mut self) -> Result<Vec<FileInfo>, DiskError> {
        let info = |(&file, data): (&FileId, &Vec<u8>)| FileInfo { file, len: data.len() as u64 };
        Ok(self.files.iter().map(info).collect())
    }

    fn run(&mut self, op: DiskOp) -> Result<Bytes, DiskError> {
        match op {
            DiskOp::WriteSync { file, offset, data } => {
                let content = self.files.get_mut(&file).expect("written files exist");
                let offset = offset as usize;
                content[offset..offset + data.len()].copy_from_slice(&data);
                Ok(Bytes::new())
            }
            DiskOp::Read { file, offset, len } => {
                let content = &self.files[&file];
                let (from, to) = (offset as usize, (offset + len) as usize);
                Ok(Bytes::copy_from_slice(&content[from..to]))
            }
            DiskOp::Allocate { file, len, recycled } => {
                recycled.map(|old| self.files.remove(&old));
                self.files.insert(file, vec![0; len as usize]);
                Ok(Bytes::new())
            }
            DiskOp::Remove { file } => {
                self.files.remove(&file);
                Ok(Bytes::new())
            }
        }
    }
}

struct TestNode {
    log: LogMachine,
    applier: Applier,
    disk: MemoryDisk,
    engine: Arc<MemEngine>,
    replies: BTreeMap<RequestId, Result<Reply, RequestError>>,
}

struct Cluster {
    nodes: BTreeMap<NodeId, TestNode>,
    network: VecDeque<(NodeId, NodeId, PeerMessage)>,
    now: Monotonic,
    next_request: u64,
}

fn config(node: NodeId, size: u64) -> CoreConfig {
    CoreConfig {
        node,
        groups: vec![
            (GroupId::CONSISTENT_CORE, MachineKind::ClusterMetadata),
            (GroupId::KEYSPACE, MachineKind::Keyspace),
        ],
        initial_voters: (1..=size).map(NodeId).collect(),
        member: Member {
            id: node,
            name: format!("n{node}"),
            directory_id: u128::from(node.0),
            feature_level: 1,
            ..Member::default()
        },
        heartbeat_interval: Duration::from_millis(100),
        election_timeout: Duration::from_millis(1000),
        lease: Duration::from_millis(200),
        longest_lease: Duration::from_millis(200),
        clock_bound: ClockBound { drift_ppm: 500 },
        window: ReplicationWindow::default(),
        wal: WalConfig::default(),
        store: StoreLimits::default(),
        limits: ReplicaLimits {
            retained_entries: 10,
            flush_bytes: 4096,
            ..ReplicaLimits::default()
        },
        feature_level: 1,
    }
}

impl TestNode {
    fn start(
        config: &CoreConfig,
        mut disk: MemoryDisk,
        engine: Arc<MemEngine>,
        now: Monotonic,
    ) -> TestNode {
        let applier = Applier::open(config, engine.clone()).unwrap();
        let applied = applier.applied().unwrap();
        let log = LogMachine::recover(config, &mut disk, &applied, now, config.node.0).unwrap();
        TestNode { log, applier, disk, engine, replies: BTreeMap::new() }
    }
}

impl Cluster {
    fn of(size: u64) -> Cluster {
        let now = Monotonic(1_000_000_000);
        let start = |id| {
            let node = NodeId(id);
            let config = config(node, size);
            (node, TestNode::start(&config, MemoryDisk::default(), Arc::default(), now))
        };
        let nodes = (1..=size).map(start).collect();
        Cluster { nodes, network: VecDeque::new(), now, next_request: 1 }
    }

    /// Lets time pass, a millisecond at a time; everything sent arrives within it.
    fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now = self.now.after(Duration::from_millis(1));
            self.settle();
        }
    }

    fn settle(&mut self) {
        loop {
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            let busy = ids.into_iter().fold(false, |busy, id| self.step(id) || busy);
            let arrived = std::mem::take(&mut self.network);
            if !busy && arrived.is_empty() {
                return;
            }
            for (from, to, message) in arrived {
                let (now, node) = (self.now, self.nodes.get_mut(&to));
                let Some(node) = node else { continue };
                node.log.handle(LogEvent::Peer { from, message }, now, &mut node.disk);
            }
        }
    }

    /// One round of one node's machines; tells whether anything happened.
    fn step(&mut self, id: NodeId) -> bool {
        let (now, wall) = (self.now, WallTime(0));
        let node = self.nodes.get_mut(&id).unwrap();
        let mut busy = false;
        while let Some(completion) = node.disk.completions.pop_front() {
            busy = true;
            node.log.handle(LogEvent::Disk(completion), now, &mut node.disk);
        }
        node.log.flush(now, wall, &mut node.disk);
        while let Some(effect) = node.log.poll() {
            busy = true;
            match effect {
                LogEffect::Send { to, message } => self.network.push_back((id, to, message)),
                LogEffect::Applier(event) => node.applier.handle(event),
                LogEffect::Reply { request, result } => {
                    node.replies.insert(request, result);
                }
                LogEffect::RoleChanged { .. } | LogEffect::Peers(_) => {}
                LogEffect::Fatal(why) => panic!("{why}"),
            }
        }
        while let Some(effect) = node.applier.poll() {
            match effect {
                ApplierEffect::Log(event) => node.log.handle(event, now, &mut node.disk),
                ApplierEffect::Reply { request, result } => {
                    node.replies.insert(request, result);
                }
                ApplierEffect::Flush => node.applier.handle(ApplierEvent::Flushed),
                ApplierEffect::WantsIdle => node.applier.handle(ApplierEvent::Idle),
                ApplierEffect::Watch { .. } | ApplierEffect::WatchReset { .. } => {}
                ApplierEffect::Fatal(why) => panic!("{why}"),
            }
        }
        busy
    }

    fn ask(&mut self, at: NodeId, ask: Ask) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let deadline = self.now.after(Duration::from_secs(5));
        let request = Request { id, group: GroupId::KEYSPACE, deadline, ask };
        let node = self.nodes.get_mut(&at).unwrap();
        node.log.handle(LogEvent::Request(request), self.now, &mut node.disk);
        id
    }

    fn answer(&mut self, at: NodeId, ask: Ask) -> Result<Reply, RequestError> {
        let id = self.ask(at, ask);
        self.run(6_000);
        self.nodes.get_mut(&at).unwrap().replies.remove(&id).expect("every request is answered")
    }

    fn put(&mut self, at: NodeId, key: &str, value: &str) -> Result<Reply, RequestError> {
        let put = Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..Put::default()
        };
        self.answer(at, Ask::Write(Command::Put(put)))
    }

    fn get(&mut self, at: NodeId, key: &str) -> Option<String> {
        let barrier = self.answer(at, Ask::ReadBarrier);
        assert!(matches!(barrier, Ok(Reply::ReadReady)), "{barrier:?}");
        let reader = self.nodes[&at].applier.reader(GroupId::KEYSPACE);
        let key = KeyRange::Key(Bytes::copy_from_slice(key.as_bytes()));
        let found = reader.range(&Range::of(key)).unwrap().unwrap();
        found.pairs.first().map(|pair| String::from_utf8(pair.value.to_vec()).unwrap())
    }

    fn leader(&self) -> NodeId {
        let leads = |node: &TestNode| node.log.status().groups[1].leader;
        self.nodes.values().find_map(leads).expect("somebody leads")
    }

    fn stop(&mut self, id: NodeId) -> TestNode {
        let stopped = self.nodes.remove(&id).unwrap();
        for node in self.nodes.values_mut() {
            node.log.handle(LogEvent::Disconnected(id), self.now, &mut node.disk);
        }
        stopped
    }
}

#[test]
fn a_put_at_any_member_is_read_at_every_member() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    for member in 1..=3 {
        let value = format!("from {member}");
        let reply = cluster.put(NodeId(member), "key", &value);
        assert!(matches!(reply, Ok(Reply::Written(Outcome::Put { .. }))), "{reply:?}");
        for reader in 1..=3 {
            assert_eq!(cluster.get(NodeId(reader), "key"), Some(value.clone()));
        }
    }
}

#[test]
fn a_lone_node_serves_by_itself_and_finds_everything_after_a_restart() {
    let mut cluster = Cluster::of(1);
    cluster.run(3_000);
    cluster.put(NodeId(1), "key", "value").unwrap();
    let TestNode { disk, engine, .. } = cluster.stop(NodeId(1));
    drop(engine);
    // The engine forgets everything: it was never flushed. The log has it all.
    let config = config(NodeId(1), 1);
    let node = TestNode::start(&config, disk, Arc::default(), cluster.now);
    cluster.nodes.insert(NodeId(1), node);
    cluster.run(3_000);
    assert_eq!(cluster.get(NodeId(1), "key").as_deref(), Some("value"));
}

#[test]
fn a_write_waits_out_a_failover_at_a_member_that_survives() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let leader = cluster.leader();
    cluster.put(leader, "key", "before").unwrap();
    cluster.stop(leader);
    let survivor = *cluster.nodes.keys().next().unwrap();
    cluster.put(survivor, "key", "after").unwrap();
    assert_eq!(cluster.get(survivor, "key").as_deref(), Some("after"));
    assert_ne!(cluster.leader(), leader);
}

#[test]
fn without_a_quorum_requests_end_at_their_deadline() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    cluster.stop(NodeId(1));
    cluster.stop(NodeId(2));
    let write = cluster.put(NodeId(3), "key", "value");
    assert_eq!(write.err(), Some(RequestError::TimedOut));
    let read = cluster.answer(NodeId(3), Ask::ReadBarrier);
    assert_eq!(read.err(), Some(RequestError::TimedOut));
}

#[test]
fn a_member_that_was_away_for_long_gets_a_snapshot() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let away = NodeId(if cluster.leader() == NodeId(3) { 2 } else { 3 });
    let TestNode { disk, engine, .. } = cluster.stop(away);
    let leader = cluster.leader();
    for round in 0..200 {
        cluster.ask(leader, Ask::Write(put_of(round)));
        cluster.run(2);
    }
    let first = cluster.nodes[&leader].log.status().groups[1].first_index;
    assert!(first > 100, "the log was cut: it begins at {first}");
    let node = TestNode::start(&config(away, 3), disk, engine, cluster.now);
    cluster.nodes.insert(away, node);
    for id in [1, 2, 3].map(NodeId).into_iter().filter(|&id| id != away) {
        let node = cluster.nodes.get_mut(&id).unwrap();
        node.log.handle(LogEvent::Connected(away), cluster.now, &mut node.disk);
    }
    cluster.run(5_000);
    assert_eq!(cluster.get(away, "key").as_deref(), Some("value 199"));
    let hashes: Vec<_> =
        cluster.nodes.values().map(|node| node.applier.chain_hash(GroupId::KEYSPACE)).collect();
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

#[test]
fn short_of_space_refuses_writes_before_they_are_proposed_and_recovers_by_itself() {
    let mut cluster = Cluster::of(3);
    cluster.run(3_000);
    let set = |cluster: &mut Cluster, short| {
        let node = cluster.nodes.get_mut(&NodeId(2)).unwrap();
        node.log.handle(LogEvent::ShortOfSpace(short), cluster.now, &mut node.disk);
        cluster.run(2_000);
    };
    set(&mut cluster, true);
    for member in 1..=3 {
        let refused = cluster.put(NodeId(member), "key", "value");
        assert_eq!(refused.err(), Some(RequestError::NoSpace));
    }
    assert_eq!(cluster.get(NodeId(1), "key"), None);
    set(&mut cluster, false);
    cluster.put(NodeId(1), "key", "value").unwrap();
}

#[test]
fn a_refusal_of_the_state_machine_reaches_the_caller() {
    let mut cluster = Cluster::of(1);
    cluster.run(3_000);
    let reply = cluster.answer(NodeId(1), Ask::Write(Command::Compact { revision: 99 }));
    let expected = RequestError::Refused(StoreError::FutureRevision { current: 1 });
    assert_eq!(reply.err(), Some(expected));
    let absent = Compare {
        keys: KeyRange::Key("key".into()),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let put = Put { key: "key".into(), value: "value".into(), ..Put::default() };
    let create = Txn { compare: vec![absent], success: vec![TxnOp::Put(put)], failure: Vec::new() };
    for expected in [true, false] {
        match cluster.answer(NodeId(1), Ask::Write(Command::Txn(create.clone()))) {
            Ok(Reply::Written(Outcome::Txn { reply, .. })) => {
                assert_eq!(reply.succeeded, expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn put_of(round: u32) -> Command {
    Command::Put(Put {
        key: "key".into(),
        value: format!("value {round}").into(),
        ..Put::default()
    })
}
