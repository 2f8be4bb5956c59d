//! One machine of the cluster and the process that runs on it: the production core, its queues and
//! what a crash takes away.
//!
//! The log machine, the applier, the watch hub and the front end have a queue each and run in any
//! order, as their threads would. Invariant: whatever is in a queue is lost with the process.

use crate::ambush::Ambush;
use crate::disk::{Crash, SimDisk};
use crate::event_heap::Instant;
use crate::front_end::FrontWork;
use crate::network::Slot;
use crate::node_clock::NodeClock;
use crate::watchers::{HubWork, Hubs};
use clocks::{GroupId, LogIndex, NodeId};
use consensus::Role;
use replica::{Applier, ApplierEvent, CoreConfig, LogEvent, LogMachine};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use store::{MemEngine, WatchLimits};

/// What runs within a process, each on a thread of its own in production.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Machine {
    /// Consensus and log.
    Log,
    /// State machines.
    Applier,
    /// Watchers.
    Hub,
    /// Requests and reads.
    Front,
}

/// Where the log machine stands between two drains of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Takes events.
    Drain,
    /// Samples the clock and forms batches.
    Flush,
    /// Hands out effects.
    Emit,
}

/// A running process.
pub(crate) struct Process {
    /// Consensus and log.
    pub(crate) log: LogMachine,
    /// State machines.
    pub(crate) applier: Applier,
    /// Input of the log machine.
    pub(crate) log_queue: VecDeque<LogEvent>,
    /// Input of the applier.
    pub(crate) applier_queue: VecDeque<ApplierEvent>,
    /// Watchers.
    pub(crate) hubs: Hubs,
    /// Input of the watch hubs.
    pub(crate) hub_queue: VecDeque<HubWork>,
    /// Input of the front end.
    pub(crate) front_queue: VecDeque<FrontWork>,
    /// Which machines have a step scheduled.
    pub(crate) scheduled: [bool; 4],
    /// What the log machine does next.
    pub(crate) stage: Stage,
    /// When the log machine was woken last.
    pub(crate) woken: Instant,
    /// When the log machine will be woken for its deadline.
    pub(crate) wake_at: Option<Instant>,
    /// Whether the applier has background work to do.
    pub(crate) wants_idle: bool,
    /// Up to where the state of each group has been compared with other members'.
    pub(crate) witnessed: BTreeMap<GroupId, LogIndex>,
    /// Effects that it still hands out, and the crash after them.
    pub(crate) doom: Option<(u32, Crash)>,
    /// Where it crashes.
    pub(crate) ambush: Option<Ambush>,
    /// Its role in each group.
    pub(crate) roles: BTreeMap<GroupId, Role>,
}

impl Process {
    fn new(log: LogMachine, applier: Applier, hubs: Hubs) -> Process {
        Process {
            log,
            applier,
            log_queue: VecDeque::new(),
            applier_queue: VecDeque::new(),
            hubs,
            hub_queue: VecDeque::new(),
            front_queue: VecDeque::new(),
            scheduled: [false; 4],
            stage: Stage::Drain,
            woken: Instant::default(),
            wake_at: None,
            wants_idle: false,
            witnessed: BTreeMap::new(),
            doom: None,
            ambush: None,
            roles: BTreeMap::new(),
        }
    }
}

/// How a start ended.
pub(crate) enum Start {
    /// The process runs.
    Running,
    /// The power failed during recovery.
    PowerFailed,
    /// The core refused to start, and says why.
    Refused(String),
}

/// A machine: what survives its processes, and the one that runs now.
pub(crate) struct Node {
    /// Its place in the cluster.
    pub(crate) slot: Slot,
    /// Its name in the protocol.
    pub(crate) id: NodeId,
    /// Its clocks.
    pub(crate) clock: NodeClock,
    /// Its disk, for the log.
    pub(crate) disk: SimDisk,
    /// Its engine.
    pub(crate) engine: MemEngine,
    /// What its core is told.
    pub(crate) config: CoreConfig,
    /// Bounds of its watch hubs.
    pub(crate) watch_limits: WatchLimits,
    /// The process, unless it is down.
    pub(crate) process: Option<Process>,
    /// Grows with every start and crash: tells events of an old life from those of this one.
    pub(crate) life: u64,
    /// The process stands still.
    pub(crate) paused: bool,
    /// No member lives here.
    pub(crate) vacant: bool,
    /// Its build was replaced by an older one.
    pub(crate) rolled_back: bool,
    /// Faults are over for this machine but it stays broken until the end.
    pub(crate) abandoned: bool,
}

impl Node {
    /// Starts a process on what the last one left.
    pub(crate) fn start(&mut self, now: Instant, seed: u64) -> Start {
        assert!(self.process.is_none(), "started twice");
        let applier = match Applier::open(&self.config, Arc::new(self.engine.clone())) {
            Ok(applier) => applier,
            Err(sentence) => return Start::Refused(sentence),
        };
        let applied = match applier.applied() {
            Ok(applied) => applied,
            Err(sentence) => return Start::Refused(sentence),
        };
        let monotonic = self.clock.monotonic(now);
        let recovered =
            LogMachine::recover(&self.config, &mut self.disk, &applied, monotonic, seed);
        if self.disk.fuse_burnt() {
            return Start::PowerFailed;
        }
        match recovered {
            Ok(log) => {
                self.disk.set_fuse(None);
                self.life += 1;
                let hubs = Hubs::of(&self.config, &applier, self.watch_limits);
                self.process = Some(Process::new(log, applier, hubs));
                Start::Running
            }
            Err(sentence) => Start::Refused(sentence),
        }
    }

    /// The machine has lost everything that it had stored.
    pub(crate) fn wipe(&mut self) {
        assert!(self.process.is_none(), "a running process has a disk");
        self.disk.wipe();
        self.engine = MemEngine::new();
    }

    /// The next process will be of a build that speaks this level.
    pub(crate) fn install_build(&mut self, level: u32) {
        self.rolled_back = level < self.config.feature_level;
        self.config.feature_level = level;
        self.config.member.feature_level = level;
    }

    /// Whether a process runs, paused or not.
    #[must_use]
    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Hands an event to the log machine; lost if the process is down.
    pub(crate) fn push_log(&mut self, event: LogEvent) {
        if let Some(process) = &mut self.process {
            process.log_queue.push_back(event);
        }
    }
}
