//! A few cores on one virtual clock, with a network that loses only what a test cuts and disks that
//! keep everything. Random faults are the simulator's business.

use bytes::Bytes;
use clocks::{ClockBound, GroupId, Monotonic, NodeId, WallTime};
use consensus::Membership;
use replica::{
    Applier, ApplierEffect, ApplierEvent, Ask, CoreConfig, LogEffect, LogEvent, LogMachine,
    PeerMessage, ReplicaLimits, ReplicationWindow, Reply, Request, RequestError, RequestId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use store::command::{Command, ListedMember, Member, MembershipCommand, Put};
use store::range::{KeyRange, Range};
use store::reply::Outcome;
use store::{Engine, MachineKind, MemEngine, StoreLimits};
use wal::{Disk, DiskCompletion, DiskError, DiskOp, DiskToken, FileId, FileInfo, WalConfig};

/// A disk that keeps everything.
#[derive(Default)]
pub(crate) struct MemoryDisk {
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

pub(crate) struct TestNode {
    pub(crate) log: LogMachine,
    pub(crate) applier: Applier,
    pub(crate) disk: MemoryDisk,
    pub(crate) engine: Arc<MemEngine>,
    pub(crate) replies: BTreeMap<RequestId, Result<Reply, RequestError>>,
}

pub(crate) struct Cluster {
    pub(crate) nodes: BTreeMap<NodeId, TestNode>,
    network: VecDeque<(NodeId, NodeId, PeerMessage)>,
    /// Pairs, in either order, between which nothing arrives.
    pub(crate) cut: Vec<(NodeId, NodeId)>,
    /// Members to which nothing of a group arrives.
    pub(crate) deaf: Vec<(NodeId, GroupId)>,
    /// What was sent since it was last taken: sender, receiver, kind.
    pub(crate) sent: Vec<(NodeId, NodeId, String)>,
    pub(crate) now: Monotonic,
    /// Of members that stopped by themselves.
    answered: BTreeMap<RequestId, Result<Reply, RequestError>>,
    /// Members that stopped by themselves, and why.
    pub(crate) fatal: BTreeMap<NodeId, String>,
    /// Of these, whoever stopped because it knows that it was removed.
    pub(crate) removed: BTreeSet<NodeId>,
    next_request: u64,
    limits: ReplicaLimits,
}

fn founder(id: NodeId) -> Member {
    Member { id, peer_addresses: vec![address(id)], ..Member::default() }
}

pub(crate) fn address(id: NodeId) -> String {
    format!("n{id}:2380")
}

pub(crate) fn config(node: NodeId, size: u64, limits: ReplicaLimits) -> CoreConfig {
    CoreConfig {
        node,
        groups: vec![
            (GroupId::CONSISTENT_CORE, MachineKind::ClusterMetadata),
            (GroupId::KEYSPACE, MachineKind::Keyspace),
        ],
        initial_voters: (1..=size).map(NodeId).collect(),
        founders: (1..=size).map(|id| founder(NodeId(id))).collect(),
        contacts: Vec::new(),
        member: Member {
            id: node,
            name: format!("n{node}"),
            peer_addresses: founder(node).peer_addresses,
            directory_id: u128::from(node.0),
            feature_level: 2,
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
        limits,
        feature_level: 2,
    }
}

impl TestNode {
    pub(crate) fn start(
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
    pub(crate) fn of(size: u64) -> Cluster {
        Cluster::with(
            size,
            ReplicaLimits { retained_entries: 10, flush_bytes: 4096, ..ReplicaLimits::default() },
        )
    }

    pub(crate) fn with(size: u64, limits: ReplicaLimits) -> Cluster {
        let now = Monotonic(1_000_000_000);
        let start = |id| {
            let node = NodeId(id);
            let config = config(node, size, limits.clone());
            (node, TestNode::start(&config, MemoryDisk::default(), Arc::default(), now))
        };
        let nodes = (1..=size).map(start).collect();
        let (network, cut, deaf, sent) = (VecDeque::new(), Vec::new(), Vec::new(), Vec::new());
        let (fatal, removed, answered) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let next_request = 1;
        Cluster {
            nodes,
            network,
            cut,
            deaf,
            sent,
            now,
            answered,
            fatal,
            removed,
            next_request,
            limits,
        }
    }

    /// Lets time pass, a millisecond at a time; everything sent arrives within it.
    pub(crate) fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now = self.now.after(Duration::from_millis(1));
            self.settle();
        }
    }

    pub(crate) fn settle(&mut self) {
        loop {
            let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
            let mut busy = false;
            for id in ids {
                busy |= self.step(id);
            }
            let arrived = std::mem::take(&mut self.network);
            if !busy && arrived.is_empty() {
                return;
            }
            for (from, to, message) in arrived {
                if self.cut.iter().any(|&(a, b)| (a, b) == (from, to) || (b, a) == (from, to)) {
                    continue;
                }
                let Some(message) = self.heard(to, message) else { continue };
                let (now, node) = (self.now, self.nodes.get_mut(&to));
                let Some(node) = node else { continue };
                node.log.handle(LogEvent::Peer { from, message }, now, &mut node.disk);
            }
        }
    }

    /// What of a message concerns groups that its receiver hears of.
    fn heard(&self, to: NodeId, mut message: PeerMessage) -> Option<PeerMessage> {
        let hears = |group: GroupId| !self.deaf.contains(&(to, group));
        match &mut message {
            PeerMessage::Consensus(message) => hears(message.group),
            PeerMessage::ReadIndexReply { group, .. } => hears(*group),
            PeerMessage::Heartbeats(heartbeats) => {
                heartbeats.beats.retain(|beat| hears(beat.group));
                !heartbeats.beats.is_empty()
            }
            _ => true,
        }
        .then_some(message)
    }

    /// One round of one node's machines; tells whether anything happened.
    fn step(&mut self, id: NodeId) -> bool {
        let (now, wall) = (self.now, WallTime(0));
        let node = self.nodes.get_mut(&id).unwrap();
        let mut fatal = None;
        let mut busy = false;
        while let Some(completion) = node.disk.completions.pop_front() {
            busy = true;
            node.log.handle(LogEvent::Disk(completion), now, &mut node.disk);
        }
        node.log.flush(now, wall, &mut node.disk);
        while let Some(effect) = node.log.poll() {
            busy = true;
            match effect {
                LogEffect::Send { to, message } => {
                    self.sent.push((id, to, kind(&message)));
                    self.network.push_back((id, to, message));
                }
                LogEffect::Applier(event) => node.applier.handle(event),
                LogEffect::Reply { request, result } => {
                    node.replies.insert(request, result);
                }
                LogEffect::RoleChanged { .. } | LogEffect::Peers { .. } => {}
                LogEffect::Fatal(why) => fatal = Some(why),
                LogEffect::Removed(why) => {
                    self.removed.insert(id);
                    fatal = Some(why);
                }
            }
        }
        while let Some(effect) = node.applier.poll() {
            match effect {
                ApplierEffect::Log(event) => node.log.handle(event, now, &mut node.disk),
                ApplierEffect::Reply { request, result } => {
                    node.replies.insert(request, result);
                }
                ApplierEffect::Flush => {
                    node.engine.flush().expect("memory does not fail");
                    node.applier.handle(ApplierEvent::Flushed);
                }
                ApplierEffect::WantsIdle => node.applier.handle(ApplierEvent::Idle),
                ApplierEffect::Watch { .. }
                | ApplierEffect::WatchReset { .. }
                | ApplierEffect::Accounts { .. }
                | ApplierEffect::Compacted { .. } => {}
                ApplierEffect::Fatal(why) => fatal = Some(why),
            }
        }
        if let Some(why) = fatal {
            self.answered.append(&mut self.nodes.get_mut(&id).unwrap().replies);
            self.fatal.insert(id, why);
            self.stop(id);
        }
        busy
    }

    pub(crate) fn ask(&mut self, at: NodeId, ask: Ask) -> RequestId {
        self.ask_group(at, GroupId::KEYSPACE, ask)
    }

    pub(crate) fn ask_group(&mut self, at: NodeId, group: GroupId, ask: Ask) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let deadline = self.now.after(Duration::from_secs(5));
        let request = Request { id, group, deadline, caller: None, ask };
        let node = self.nodes.get_mut(&at).unwrap();
        node.log.handle(LogEvent::Request(request), self.now, &mut node.disk);
        id
    }

    pub(crate) fn answer(&mut self, at: NodeId, ask: Ask) -> Result<Reply, RequestError> {
        let id = self.ask(at, ask);
        self.wait_for(at, id)
    }

    pub(crate) fn wait_for(&mut self, at: NodeId, id: RequestId) -> Result<Reply, RequestError> {
        for _ in 0..6_000 {
            self.settle();
            if let Some(reply) = self.reply(at, id) {
                return reply;
            }
            if !self.nodes.contains_key(&at) {
                return Err(RequestError::Stopping);
            }
            self.now = self.now.after(Duration::from_millis(1));
        }
        panic!("every request is answered within its deadline");
    }

    pub(crate) fn reply(
        &mut self,
        at: NodeId,
        id: RequestId,
    ) -> Option<Result<Reply, RequestError>> {
        let replies = self.nodes.get_mut(&at).map(|node| &mut node.replies);
        replies.and_then(|replies| replies.remove(&id)).or_else(|| self.answered.remove(&id))
    }

    /// Asks for a change of membership, and waits for its end.
    pub(crate) fn change(
        &mut self,
        at: NodeId,
        change: MembershipCommand,
    ) -> Result<Vec<ListedMember>, RequestError> {
        let ask = Ask::Write(Command::Membership(change));
        let id = self.ask_group(at, GroupId::CONSISTENT_CORE, ask);
        match self.wait_for(at, id)? {
            Reply::Written(Outcome::Members(members)) => Ok(members),
            other => panic!("a change is answered by the members: {other:?}"),
        }
    }

    /// Starts a node that waits to be added.
    pub(crate) fn join(&mut self, id: NodeId) {
        let contacts = self.nodes.keys().copied().collect();
        let config = CoreConfig { contacts, ..self.joiner(id) };
        let node = TestNode::start(&config, MemoryDisk::default(), Arc::default(), self.now);
        self.admit(id, node);
    }

    fn joiner(&self, id: NodeId) -> CoreConfig {
        CoreConfig { initial_voters: Vec::new(), ..config(id, 3, self.limits.clone()) }
    }

    fn admit(&mut self, id: NodeId, node: TestNode) {
        for (&other, peer) in &mut self.nodes {
            assert_ne!(other, id, "a member runs once");
            peer.log.handle(LogEvent::Connected(id), self.now, &mut peer.disk);
        }
        self.nodes.insert(id, node);
    }

    /// Starts a stopped member that had joined.
    pub(crate) fn rejoin(&mut self, id: NodeId, stopped: TestNode) {
        let contacts = self.nodes.keys().copied().collect();
        let config = CoreConfig { contacts, ..self.joiner(id) };
        let node = TestNode::start(&config, stopped.disk, stopped.engine, self.now);
        self.admit(id, node);
    }

    /// The membership of every group as a member sees it.
    pub(crate) fn memberships(&self, at: NodeId) -> Vec<Membership> {
        let groups = self.nodes[&at].log.status().groups;
        groups.into_iter().map(|group| group.membership).collect()
    }

    pub(crate) fn put(
        &mut self,
        at: NodeId,
        key: &str,
        value: &str,
    ) -> Result<Reply, RequestError> {
        let put = Put {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..Put::default()
        };
        self.answer(at, Ask::Write(Command::Put(put)))
    }

    pub(crate) fn get(&mut self, at: NodeId, key: &str) -> Option<String> {
        let barrier = self.answer(at, Ask::ReadBarrier);
        assert!(matches!(barrier, Ok(Reply::ReadReady)), "{barrier:?}");
        let reader = self.nodes[&at].applier.reader(GroupId::KEYSPACE);
        let key = KeyRange::Key(Bytes::copy_from_slice(key.as_bytes()));
        let found = reader.range(&Range::of(key)).unwrap().unwrap();
        found.pairs.first().map(|pair| String::from_utf8(pair.value.to_vec()).unwrap())
    }

    pub(crate) fn leader(&self) -> NodeId {
        let leads = |node: &TestNode| node.log.status().groups[1].leader;
        self.nodes.values().find_map(leads).expect("somebody leads")
    }

    pub(crate) fn stop(&mut self, id: NodeId) -> TestNode {
        let stopped = self.nodes.remove(&id).unwrap();
        for node in self.nodes.values_mut() {
            node.log.handle(LogEvent::Disconnected(id), self.now, &mut node.disk);
        }
        stopped
    }

    /// Starts a stopped member again, with what its disk and engine hold.
    pub(crate) fn restart(
        &mut self,
        id: NodeId,
        disk: MemoryDisk,
        engine: Arc<MemEngine>,
        size: u64,
    ) {
        let config = config(id, size, self.limits.clone());
        let node = TestNode::start(&config, disk, engine, self.now);
        self.admit(id, node);
    }
}

fn kind(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Consensus(message) => {
            let body = format!("{:?}", message.body);
            let name = body.split([' ', '{']).next().unwrap_or_default().to_lowercase();
            format!("{name} {}", message.group)
        }
        PeerMessage::Heartbeats(heartbeats) => format!("heartbeats of {}", heartbeats.beats.len()),
        PeerMessage::Propose { group, commands } => {
            format!("propose {group} commands={}", commands.len())
        }
        PeerMessage::ProposeRefused { group, .. } => format!("propose-refused {group}"),
        PeerMessage::ReadIndex { group, round } => {
            let round = within_process(*round);
            format!("read-index {group} round={round}")
        }
        PeerMessage::ReadIndexReply { group, round, index } => {
            let round = within_process(*round);
            format!("read-index-reply {group} round={round} known={}", index.is_some())
        }
        PeerMessage::StateHashes { group, .. } => format!("state-hashes {group}"),
        PeerMessage::LearnersInSync { group, learners, .. } => {
            format!("learners-in-sync {group} {learners:?}")
        }
        PeerMessage::Removed => "removed".into(),
        PeerMessage::MemberCondition { short_of_space } => {
            format!("member-condition short-of-space={short_of_space}")
        }
    }
}

/// Rounds are numbered within the incarnation of the process, which is no part of a story.
fn within_process(round: u64) -> u64 {
    round % (1 << 36)
}

pub(crate) fn put_of(round: u32) -> Command {
    Command::Put(Put {
        key: "key".into(),
        value: format!("value {round}").into(),
        ..Put::default()
    })
}
