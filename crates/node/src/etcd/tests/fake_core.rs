//! A core of one member that applies at once, behind a real handle; and clients of its front end.

use crate::correlation_identifier::PendingReplies;
use crate::etcd::{AuthSettings, Authentication, EtcdFrontEnd};
use crate::handle::{Identity, NodeHandle, Progress, Shared, Timings};
use crate::update_queue::{QueueLimits, UpdateQueue};
use crate::watch_streams::WatchStreams;
use crate::{LogInput, Meters};
use clocks::{GroupId, LogPosition, NodeId, Term};
use consensus::Role;
use replica::{Ask, GroupStatus, LogEvent, NodeStatus, Reply, Request, RequestError};
use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use store::command::{Caller, Command, Envelope, Member, SessionId};
use store::{
    Content, Engine, MachineKind, MemEngine, StateMachine, StoreLimits, ToApply, WatchLimits,
};
use tonic::transport::{Channel, Endpoint};

pub(super) const CLUSTER: u64 = 0xc1;
pub(super) const MEMBER: NodeId = NodeId(0xa1);
pub(super) const TERM: Term = Term(3);

/// What the core does with requests, besides applying them.
#[derive(Clone, Debug, Default)]
pub(super) struct Mood {
    /// Answers every write and barrier with this instead.
    pub(super) refuse: Option<RequestError>,
    /// Leaves them without an answer.
    pub(super) silent: bool,
    /// Members short of disk space.
    pub(super) short_of_space: Vec<NodeId>,
    /// Groups on whose state no majority agrees.
    pub(super) corrupt: Vec<GroupId>,
}

/// The core, its front end and its address.
pub(in crate::etcd) struct FakeCore {
    pub(in crate::etcd) handle: NodeHandle,
    pub(super) address: SocketAddr,
    pub(super) mood: Arc<Mutex<Mood>>,
    threads: Vec<JoinHandle<()>>,
}

impl FakeCore {
    pub(in crate::etcd) fn start() -> FakeCore {
        let handle = new_handle();
        let mood = Arc::new(Mutex::new(Mood::default()));
        let machines = Machines::open(handle.clone(), Arc::clone(&mood));
        let core = std::thread::spawn(move || machines.run());
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("it is bound");
        let settings = AuthSettings { bcrypt_cost: 4, ..AuthSettings::default() };
        let authentication = Authentication::new(&settings).expect("there is randomness");
        let front_end = EtcdFrontEnd::new(handle.clone(), authentication);
        let serving = std::thread::spawn(move || {
            block_on(async { front_end.serve(listener).await.expect("it serves") });
        });
        let shared = Arc::clone(&handle.shared);
        let watching = std::thread::spawn(move || {
            let limits = WatchLimits::default();
            let watched = shared.watches.run(&shared.engine, GroupId::KEYSPACE, limits);
            watched.expect("memory does not fail");
        });
        FakeCore { handle, address, mood, threads: vec![core, serving, watching] }
    }

    pub(super) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address));
        endpoint.expect("an address").connect().await.expect("it listens")
    }

    pub(super) fn set_leader(&self, leader: Option<NodeId>) {
        let leader = leader.map_or(0, |leader| leader.0);
        self.handle.shared.progress[&GroupId::KEYSPACE].leader.store(leader, Ordering::Release);
    }

    pub(super) fn feel(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.mood.lock().expect("no test panics with it"));
    }
}

impl Drop for FakeCore {
    fn drop(&mut self) {
        self.handle.shared.stopping.send_replace(true);
        self.handle.shared.log.close();
        self.handle.shared.watches.close();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a thread of the core panicked");
        }
    }
}

/// Runs a test's future.
pub(in crate::etcd) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime").block_on(future)
}

fn new_handle() -> NodeHandle {
    let progress = Progress::default();
    progress.leader.store(MEMBER.0, Ordering::Release);
    progress.term.store(TERM.0, Ordering::Release);
    let groups = [(GroupId::CONSISTENT_CORE, Progress::default()), (GroupId::KEYSPACE, progress)];
    let identity = Identity {
        node: MEMBER,
        cluster: CLUSTER,
        name: "n1".into(),
        client_urls: vec!["http://127.0.0.1:2379".into()],
        peer_scheme: "http",
        peer_address: "127.0.0.1:2380".into(),
        founders: vec![
            (MEMBER, "127.0.0.1:2380".into()),
            (NodeId(MEMBER.0 + 1), "127.0.0.1:12380".into()),
        ],
    };
    let timings = Timings {
        heartbeat_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
    };
    let shared = Shared {
        identity,
        timings,
        log: UpdateQueue::new(QueueLimits { items: 1024, bytes: 64 << 20 }),
        replies: PendingReplies::default(),
        engine: Arc::new(MemEngine::new()),
        progress: BTreeMap::from(groups),
        watches: WatchStreams::new(),
        meters: Arc::new(Meters::default()),
        log_bytes: AtomicU64::new(0),
        quota: Arc::default(),
        compacted: tokio::sync::watch::channel(0).0,
        accounts: tokio::sync::watch::Sender::default(),
        stopping: tokio::sync::watch::channel(false).0,
        learner: std::sync::atomic::AtomicBool::new(false),
    };
    NodeHandle { shared: Arc::new(shared) }
}

struct Machines {
    handle: NodeHandle,
    mood: Arc<Mutex<Mood>>,
    machines: BTreeMap<GroupId, (StateMachine, u64)>,
}

const SESSION: SessionId = SessionId { member: MEMBER, incarnation: 1 };

impl Machines {
    fn open(handle: NodeHandle, mood: Arc<Mutex<Mood>>) -> Machines {
        let mut machines = Machines { handle, mood, machines: BTreeMap::new() };
        for (group, kind) in [
            (GroupId::CONSISTENT_CORE, MachineKind::ClusterMetadata),
            (GroupId::KEYSPACE, MachineKind::Keyspace),
        ] {
            let engine: Arc<dyn Engine> = Arc::clone(&machines.handle.shared.engine);
            let machine = StateMachine::open(engine, group, kind, StoreLimits::default());
            machines.machines.insert(group, (machine.expect("memory does not fail"), 0));
            machines.apply(group, None, Command::OpenSession).expect("it opens");
        }
        let member = Member {
            id: MEMBER,
            name: "n1".into(),
            peer_addresses: vec!["127.0.0.1:2380".into()],
            client_urls: vec!["http://127.0.0.1:2379".into()],
            directory_id: 1,
            feature_level: 1,
        };
        let register = Command::RegisterMember(member);
        let registered = machines.apply(GroupId::CONSISTENT_CORE, None, register);
        registered.expect("it registers");
        machines
    }

    fn run(mut self) {
        let mut batch = VecDeque::new();
        let shared = Arc::clone(&self.handle.shared);
        while shared.log.take(&mut batch, None) {
            for LogInput { event, .. } in batch.drain(..) {
                if let LogEvent::Request(request) = event {
                    self.answer(request);
                }
            }
        }
    }

    fn answer(&mut self, request: Request) {
        let mood = self.mood.lock().expect("no test panics with it").clone();
        let is_status = matches!(request.ask, Ask::Status);
        if mood.silent && !is_status {
            return;
        }
        let result = match (mood.refuse, request.ask) {
            (_, Ask::Status) => Ok(Reply::Status(self.status(mood.short_of_space, mood.corrupt))),
            (Some(error), _) => Err(error),
            (None, Ask::Write(command)) => {
                self.apply(request.group, request.caller, command).map(Reply::Written)
            }
            (None, Ask::ReadBarrier) => {
                // As from the applier: before the barrier is answered.
                let accounts = self.machines[&GroupId::KEYSPACE].0.accounts();
                self.handle.shared.accounts_changed(Arc::clone(accounts));
                Ok(Reply::ReadReady)
            }
            (None, Ask::TransferLeadership { .. }) => Ok(Reply::LeadershipTransferred),
        };
        self.handle.shared.replies.resolve(request.id, result);
    }

    fn apply(
        &mut self,
        group: GroupId,
        caller: Option<Caller>,
        command: Command,
    ) -> Result<store::reply::Outcome, RequestError> {
        let (machine, sequence) = self.machines.get_mut(&group).expect("one of two");
        if !matches!(command, Command::OpenSession) {
            *sequence += 1;
        }
        let envelope = Envelope {
            session: SESSION,
            sequence: *sequence,
            answered_below: *sequence,
            advisory_time_ms: 0,
            caller,
            command,
        };
        let position = LogPosition::new(TERM, machine.applied().index + 1);
        let entry = ToApply { position, content: Content::Command(envelope.encode()) };
        let applied = machine.apply(vec![entry]).expect("memory does not fail");
        if group == GroupId::KEYSPACE {
            self.handle.shared.accounts_changed(Arc::clone(machine.accounts()));
        }
        // Before anybody is told: a watch created afterwards must not see it.
        if !applied.events.is_empty() {
            self.handle.shared.watches.applied(applied.revision, applied.events.into());
        }
        while machine.compact_step(usize::MAX).expect("memory does not fail") {}
        if let Some(revision) = machine.physically_compacted() {
            self.handle.shared.compacted.send_replace(revision);
        }
        let Some((_, _, outcome)) = applied.outcomes.into_iter().next() else {
            // Nobody waits for a tick of the lease clock but a test.
            return Ok(store::reply::Outcome::Registered);
        };
        outcome.map_err(RequestError::Refused)
    }

    fn status(&self, short_of_space: Vec<NodeId>, corrupt: Vec<GroupId>) -> NodeStatus {
        let groups = self.machines.iter().map(|(group, (machine, _))| GroupStatus {
            group: *group,
            role: Role::Leader,
            term: TERM,
            leader: Some(MEMBER),
            last_index: machine.applied().index,
            committed: machine.applied().index,
            applied: machine.applied().index,
            first_index: 1,
            matched: vec![],
            waiting: 0,
            membership: consensus::Membership::of_voters([MEMBER]),
            membership_settled: true,
        });
        let groups = groups.collect();
        NodeStatus { groups, log_bytes: 4096, short_of_space, corrupt, damaged: Vec::new() }
    }
}
