//! The world: a cluster of simulated machines, their network, their clients, and what goes wrong.
//!
//! Two phases (design rule 9): in the *safety* phase every fault that the seed drew happens; then a
//! core able to form a quorum is healed, the rest stays broken, and the core must make progress
//! within a bound (*liveness*). At last everything is healed and must agree (*settle*). The first
//! violation ends the run.

use crate::disk::{Crash, SimDisk, Ticket};
use crate::event_heap::{EventHeap, Instant, MILLISECOND, SECOND};
use crate::fault_atlas::FaultAtlas;
use crate::fault_schedule::{FaultSchedule, ScheduledFault};
use crate::faults::{self, FaultKind};
use crate::front_end::Client;
use crate::judges::Judges;
use crate::mark::{Mark, Marks};
use crate::membership_nemesis::MembershipNemesis;
use crate::mutant::Mutant;
use crate::network::{Network, Packet, Slot};
use crate::node_clock::NodeClock;
use crate::process::{Machine, Node, Process, Start};
use crate::report::Violation;
use crate::rng::{Chance, Rng, Seed};
use crate::rolling_upgrade::OLD_LEVEL;
use crate::run::Options;
use crate::swarm::Swarm;
use crate::trace_hash::TraceHash;
use crate::trace_stream::{Listener, TraceEvent};
use crate::watchdog::Watchdog;
use crate::watchers::{HubWork, Watcher};
use crate::witness::{Breach, Witness};
use crate::worker::Worker;
use crate::workforce;
use crate::workload::ClientMind;
use checkers::history::History;
use clocks::{GroupId, NodeId};
use replica::RequestId;
use std::collections::BTreeMap;
use store::range::Revision;
use store::{MemEngine, StreamId};

/// Something that happens in the world.
pub(crate) enum Event {
    /// A machine of a process runs.
    Step { slot: Slot, life: u64, machine: Machine },
    /// The log machine's deadline.
    Wake { slot: Slot, life: u64, at: Instant },
    /// The engine has been flushed.
    FlushDone { slot: Slot, life: u64, at_once: bool },
    /// A disk operation ends.
    DiskDone { slot: Slot, ticket: Ticket },
    /// A packet reaches its receiver.
    Arrive(Packet),
    /// Two nodes try to connect.
    Connect { a: Slot, b: Slot },
    /// A side notices that its connection closed.
    Closed { side: Slot, other: Slot },
    /// A connection that has been silent is given up if still blocked.
    KeepAlive { a: Slot, b: Slot, connection: u64 },
    /// A client's next operation.
    ClientWake { client: usize },
    /// A client stops waiting.
    ClientTimeout { client: usize, request: RequestId },
    /// A planted bug: the request is sent again under another number.
    Resend { client: usize, request: RequestId },
    /// A worker's next wish.
    WorkerWake { worker: usize },
    /// A worker stops waiting.
    WorkerTimeout { worker: usize, request: RequestId },
    /// A watcher connects.
    WatcherWake { watcher: usize },
    /// A watcher has read what it was sent.
    Consumed { slot: Slot, life: u64, watcher: usize, stream: StreamId, weight: usize },
    /// A process starts.
    Start { slot: Slot, life: u64 },
    /// A pause ends.
    Resume { slot: Slot, life: u64 },
    /// Something goes wrong.
    Fault(FaultKind),
    /// It went wrong in an earlier run, and does so again.
    Repeat(usize),
    /// A partition ends.
    EndPartition(u64),
    /// Links are neither clogged nor lossy any more.
    Untangle,
    /// A full disk has room again.
    SpaceReturns(Slot),
    /// The replacement of a member goes on.
    Nemesis,
    /// The liveness phase begins.
    Heal,
    /// The core must have made progress by now.
    Progress,
    /// Is everything answered?
    Watchdog,
    /// Everything is healed.
    Settle,
    /// Have the members converged?
    Converged,
}

/// What the world is doing to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults happen.
    Safety,
    /// A core is healed, the rest broken.
    Liveness,
    /// All are healed; clients are done.
    Settle,
    /// The run is over.
    Over,
}

/// How long the phases last, in true nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Faults happen.
    pub safety: u64,
    /// Until the healed core must have made progress.
    pub liveness: u64,
    /// Until all members must have converged.
    pub settle: u64,
}

/// Answers since the core was healed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) writes: u64,
    pub(crate) reads: u64,
}

/// The world.
pub(crate) struct World {
    pub(crate) heap: EventHeap<Event>,
    pub(crate) trace: TraceHash,
    pub(crate) rng: Rng,
    pub(crate) fault_rng: Rng,
    pub(crate) swarm: Swarm,
    pub(crate) plan: Plan,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) listener: Option<Listener>,
    /// What goes wrong, if that is settled.
    repeated: Option<FaultSchedule>,
    /// What went wrong so far.
    pub(crate) schedule: FaultSchedule,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) keyspaces: Vec<GroupId>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) judges: Judges,
    pub(crate) nemesis: MembershipNemesis,
    pub(crate) atlas: FaultAtlas,
    pub(crate) watchdog: Watchdog,
    /// Who listens on a stream.
    pub(crate) streams: BTreeMap<StreamId, usize>,
    pub(crate) next_stream: u64,
    /// Highest revision that anybody asked to compact at.
    pub(crate) compacted: BTreeMap<GroupId, Revision>,
    pub(crate) histories: BTreeMap<GroupId, History>,
    pub(crate) witness: Witness,
    pub(crate) owners: BTreeMap<RequestId, usize>,
    /// Which worker asked.
    pub(crate) asked: BTreeMap<RequestId, usize>,
    pub(crate) next_request: u64,
    pub(crate) phase: Phase,
    pub(crate) progress: BTreeMap<(Slot, GroupId), Progress>,
    pub(crate) operations: u64,
    pub(crate) acknowledged: u64,
    pub(crate) snapshots: u64,
    pub(crate) watched: u64,
    pub(crate) faults: BTreeMap<FaultKind, u64>,
    pub(crate) marks: Marks,
    pub(crate) violation: Option<Violation>,
    /// What was addressed to a paused process.
    deferred: Vec<Vec<Event>>,
    pub(crate) partitions: BTreeMap<u64, Vec<(Slot, Slot)>>,
    /// Kinds of messages that are lost on a link.
    pub(crate) filters: Vec<((Slot, Slot), Mark)>,
    pub(crate) next_partition: u64,
}

impl World {
    /// A world in which nothing has started yet.
    #[must_use]
    pub(crate) fn new(seed: Seed, swarm: Swarm, options: &Options) -> World {
        let keyspaces = vec![GroupId(1), GroupId(2)];
        let groups = vec![GroupId(0), GroupId(1), GroupId(2)];
        let node = |slot| new_node(seed, &swarm, options, slot);
        let nodes: Vec<Node> = (0..swarm.nodes + swarm.spares).map(node).collect();
        let network = Network::new(nodes.len(), swarm.network.clone(), seed.stream("network", 0));
        let clients = new_clients(seed, &swarm, &keyspaces);
        let watchers = Watcher::of_cluster(nodes.len(), &keyspaces);
        let workers = workforce::hire(seed, &swarm, &keyspaces);
        let judges = Judges::new(&swarm, &keyspaces);
        let histories = keyspaces.iter().map(|group| (*group, History::new())).collect();
        let deferred = nodes.iter().map(|_| Vec::new()).collect();
        let mut world = World {
            heap: EventHeap::default(),
            trace: TraceHash::default(),
            rng: seed.stream("world", 0),
            fault_rng: seed.stream("faults", 0),
            swarm,
            plan: options.plan,
            mutant: options.mutant.filter(|_| !options.control),
            listener: None,
            repeated: options.faults.clone(),
            schedule: FaultSchedule::new(),
            groups,
            keyspaces,
            nodes,
            network,
            clients,
            watchers,
            workers,
            judges,
            nemesis: MembershipNemesis::new(seed),
            atlas: FaultAtlas::default(),
            watchdog: Watchdog::new(),
            streams: BTreeMap::new(),
            next_stream: 1,
            compacted: BTreeMap::new(),
            histories,
            witness: Witness::default(),
            owners: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_request: 1,
            phase: Phase::Safety,
            progress: BTreeMap::new(),
            operations: 0,
            acknowledged: 0,
            snapshots: 0,
            watched: 0,
            faults: BTreeMap::new(),
            marks: Marks::default(),
            violation: None,
            deferred,
            partitions: BTreeMap::new(),
            filters: Vec::new(),
            next_partition: 0,
        };
        world.schedule_beginning();
        world
    }

    fn schedule_beginning(&mut self) {
        for slot in 0..self.nodes.len() {
            let delay = self.rng.below(200 * MILLISECOND);
            if !self.nodes[slot].vacant {
                self.heap.after(delay, Event::Start { slot, life: 0 });
            }
            for b in slot + 1..self.nodes.len() {
                self.heap.after(delay, Event::Connect { a: slot, b });
            }
        }
        for watcher in 0..self.watchers.len() {
            let delay = self.rng.below(SECOND);
            self.heap.after(delay, Event::WatcherWake { watcher });
        }
        for client in 0..self.clients.len() {
            let delay = self.rng.below(SECOND);
            self.heap.after(delay, Event::ClientWake { client });
        }
        for worker in 0..self.workers.len() {
            let delay = self.rng.below(SECOND);
            self.heap.after(delay, Event::WorkerWake { worker });
        }
        if let Some(faults) = &self.repeated {
            for (number, fault) in faults.iter().enumerate() {
                self.heap.at(fault.at, Event::Repeat(number));
            }
        } else {
            for (kind, mean) in self.swarm.faults.clone() {
                let delay = SECOND + self.fault_rng.exponential(mean);
                self.heap.after(delay, Event::Fault(kind));
            }
        }
        self.heap.after(self.plan.safety, Event::Heal);
    }

    /// Runs to the end, or to the first violation.
    pub(crate) fn run(&mut self) {
        while self.phase != Phase::Over {
            let event = self.heap.next_event().expect("the end is scheduled");
            self.trace.number(self.heap.now().0);
            self.dispatch(event);
        }
        for slot in 0..self.nodes.len() {
            let (recycles, removals) = self.nodes[slot].disk.reuse();
            self.marks.reach_some((recycles > 0).then_some(Mark::FileRecycled));
            self.marks.reach_some((removals > 0).then_some(Mark::FileRemoved));
            let disk = self.nodes[slot].disk.trace();
            self.trace.number(disk);
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Step { slot, life, .. }
            | Event::Wake { slot, life, .. }
            | Event::FlushDone { slot, life, .. }
            | Event::Consumed { slot, life, .. } => {
                if self.nodes[slot].life != life || !self.nodes[slot].is_up() {
                } else if self.nodes[slot].paused {
                    self.deferred[slot].push(event);
                } else {
                    self.dispatch_process(event);
                }
            }
            Event::DiskDone { slot, ticket } => self.on_disk_done(slot, ticket),
            Event::Arrive(packet) => self.on_arrive(packet),
            Event::Connect { a, b } => self.on_connect(a, b),
            Event::Closed { side, other } => self.on_closed(side, other),
            Event::KeepAlive { a, b, connection } => self.on_keep_alive(a, b, connection),
            Event::ClientWake { client } => self.on_client_wake(client),
            Event::ClientTimeout { client, request } => self.on_client_timeout(client, request),
            Event::WorkerWake { worker } => self.on_worker_wake(worker),
            Event::WorkerTimeout { worker, request } => self.on_worker_timeout(worker, request),
            Event::WatcherWake { watcher } => self.on_watcher_wake(watcher),
            Event::Resend { client, request } => self.on_resend(client, request),
            Event::Start { slot, life } => {
                if self.nodes[slot].life == life && !self.nodes[slot].is_up() {
                    self.start(slot);
                }
            }
            Event::Resume { slot, life } => {
                if self.nodes[slot].life == life {
                    self.resume(slot);
                }
            }
            Event::Fault(kind) => self.on_fault(kind),
            Event::Repeat(number) => self.repeat_fault(number),
            Event::EndPartition(number) => self.end_partition(number),
            Event::Untangle => self.untangle(),
            Event::SpaceReturns(slot) => self.set_disk_full(slot, false),
            Event::Nemesis => self.on_nemesis(),
            Event::Heal => self.heal_core(),
            Event::Progress => self.require_progress(),
            Event::Watchdog => self.on_watchdog(),
            Event::Settle => self.settle(),
            Event::Converged => self.require_convergence(),
        }
    }

    fn dispatch_process(&mut self, event: Event) {
        match event {
            Event::Step { slot, machine, .. } => self.on_step(slot, machine),
            Event::Wake { slot, at, .. } => self.on_wake(slot, at),
            Event::FlushDone { slot, at_once, .. } => self.on_flush_done(slot, at_once),
            Event::Consumed { slot, watcher, stream, weight, .. } => {
                self.push_hub(slot, HubWork::Consumed(watcher, stream, weight));
            }
            _ => unreachable!("only events of a process come here"),
        }
    }

    fn on_disk_done(&mut self, slot: Slot, ticket: Ticket) {
        if let Some(completion) = self.nodes[slot].disk.complete(ticket) {
            match &completion.result {
                Err(wal::DiskError::Full) => self.marks.reach(Mark::DiskWasFull),
                Err(wal::DiskError::Failed(_)) => self.marks.reach(Mark::DiskFailed),
                Ok(bytes) if !bytes.is_empty() => self.marks.reach(Mark::LogReadBack),
                Ok(_) => {}
            }
            self.tell(slot, replica::LogEvent::Disk(completion));
        }
    }

    pub(crate) fn process(&mut self, slot: Slot) -> &mut Process {
        self.nodes[slot].process.as_mut().expect("the process runs")
    }

    /// Where the member lives, if it does.
    pub(crate) fn slot_of(&self, id: NodeId) -> Option<Slot> {
        self.nodes.iter().position(|node| node.id == id && !node.vacant)
    }

    /// Machines with a member.
    pub(crate) fn occupied(&self) -> Vec<Slot> {
        (0..self.nodes.len()).filter(|slot| !self.nodes[*slot].vacant).collect()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Records the first violation and ends the run.
    pub(crate) fn violate(&mut self, invariant: &str, detail: String) {
        if self.violation.is_none() {
            let at = self.heap.now();
            let invariant = invariant.to_owned();
            self.observe(|| TraceEvent::Violation {
                invariant: invariant.clone(),
                detail: detail.clone(),
            });
            self.violation = Some(Violation { invariant, detail, at });
        }
        self.phase = Phase::Over;
    }

    pub(crate) fn check(&mut self, checked: Result<(), Breach>) {
        if let Err(Breach { invariant, detail }) = checked {
            self.violate(invariant, detail);
        }
    }

    /// Starts a process on what the last one left.
    pub(crate) fn start(&mut self, slot: Slot) {
        if self.nemesis.keeps_down(slot) {
            return;
        }
        let now = self.heap.now();
        let seed = self.rng.bits();
        self.observe(|| TraceEvent::Start { node: slot });
        match self.nodes[slot].start(now, seed) {
            Start::Running => {
                self.witness.restarted(slot);
                if !self.process(slot).log.status().damaged.is_empty() {
                    self.marks.reach(Mark::StartedDamaged);
                }
                self.witness_level(slot);
                for started in self.nodes[slot].disk.take_started() {
                    let event = Event::DiskDone { slot, ticket: started.ticket };
                    self.heap.after(started.latency, event);
                }
                self.wake(slot, Machine::Log);
                self.wake(slot, Machine::Applier);
                if self.nodes[slot].disk.is_full() {
                    self.tell(slot, replica::LogEvent::ShortOfSpace(true));
                }
            }
            Start::PowerFailed => {
                self.marks.reach(Mark::PowerFailedInRecovery);
                self.nodes[slot].disk.crash(Crash::PowerLoss);
                let delay = faults::downtime(&mut self.fault_rng).min(self.swarm.downtime_max);
                let life = self.nodes[slot].life;
                self.heap.after(delay, Event::Start { slot, life });
            }
            Start::Refused(sentence) => {
                if !self.excuse_old_build(slot, Mark::OldBuildRefused)
                    && !self.excuse_departed(slot)
                    && !self.excuse_rotten(slot, Mark::RottenStartRefused)
                {
                    let detail = format!("node {slot}: {sentence}");
                    self.violate("a node starts on what it left", detail);
                }
            }
        }
    }

    /// Ends the process of a machine; the machine too, if the power fails.
    pub(crate) fn crash(&mut self, slot: Slot, crash: Crash) {
        let now = self.heap.now();
        self.observe(|| TraceEvent::Crash { node: slot, power_loss: crash == Crash::PowerLoss });
        let kept = match self.nodes[slot].engine.unflushed() {
            0 => 0,
            unflushed if self.fault_rng.flip() => self.fault_rng.index(unflushed + 1),
            _ => 0,
        };
        if self.nodes[slot].engine.unflushed() > kept {
            self.marks.reach(Mark::UnflushedLost);
        }
        let reading = self.fault_rng.below(1 << 40);
        let rate = faults::rate_error(&mut self.fault_rng, self.swarm.timing.rate_error_max);
        let node = &mut self.nodes[slot];
        node.process = None;
        node.life += 1;
        node.paused = false;
        if node.disk.crash(crash) {
            self.marks.reach(Mark::WriteInterrupted);
        }
        node.engine = node.engine.crash(kept);
        if crash == Crash::PowerLoss {
            node.clock = NodeClock::new(now, reading, rate, 0);
        }
        self.deferred[slot].clear();
        for other in 0..self.nodes.len() {
            if other != slot {
                self.break_connection(slot, other);
                self.network.learn_closed(slot, other);
            }
        }
        self.lose_watchers(slot);
        self.abandon_clients(slot);
        self.abandon_workers(slot);
        self.watchdog.forgets(slot);
    }

    pub(crate) fn restart_later(&mut self, slot: Slot) {
        let delay = faults::downtime(&mut self.fault_rng).min(self.swarm.downtime_max);
        let life = self.nodes[slot].life;
        self.heap.after(delay, Event::Start { slot, life });
    }

    fn resume(&mut self, slot: Slot) {
        self.nodes[slot].paused = false;
        self.observe(|| TraceEvent::Resume { node: slot });
        for event in std::mem::take(&mut self.deferred[slot]) {
            self.heap.after(0, event);
        }
    }

    fn on_fault(&mut self, kind: FaultKind) {
        if self.phase != Phase::Safety {
            return;
        }
        self.inject(kind);
        let next = self.fault_rng.exponential(self.swarm.faults[&kind]);
        self.heap.after(next, Event::Fault(kind));
    }

    fn repeat_fault(&mut self, number: usize) {
        let faults = self.repeated.as_ref().expect("an earlier run's faults are repeated");
        let ScheduledFault { kind, draws, .. } = faults[number].clone();
        if self.phase == Phase::Safety {
            self.fault_rng = draws;
            self.inject(kind);
        }
    }

    fn inject(&mut self, kind: FaultKind) {
        *self.faults.entry(kind).or_default() += 1;
        let (at, draws) = (self.heap.now(), self.fault_rng.clone());
        let number = self.schedule.len();
        self.schedule.push(ScheduledFault { at, kind, draws });
        self.observe(|| TraceEvent::Fault { number, fault: kind });
        let slot = self.fault_rng.index(self.nodes.len());
        let now = self.heap.now();
        match kind {
            FaultKind::Kill => self.crash_somewhere(slot, Crash::Kill),
            FaultKind::PowerLoss => self.crash_somewhere(slot, Crash::PowerLoss),
            FaultKind::PowerLossOfAll => {
                for slot in 0..self.nodes.len() {
                    self.crash_and_restart(slot, Crash::PowerLoss);
                }
            }
            FaultKind::Partition => {
                let links = faults::partition(&mut self.fault_rng, self.nodes.len());
                let length = faults::partition_length(&mut self.fault_rng);
                let number = self.begin_partition(links);
                self.heap.after(length, Event::EndPartition(number));
            }
            FaultKind::Pause => {
                if self.nodes[slot].is_up() && !self.nodes[slot].paused {
                    self.nodes[slot].paused = true;
                    self.observe(|| TraceEvent::Pause { node: slot });
                    let length = faults::pause_length(&mut self.fault_rng);
                    let life = self.nodes[slot].life;
                    self.heap.after(length, Event::Resume { slot, life });
                }
            }
            FaultKind::ClockRate => {
                let max = self.swarm.timing.rate_error_max;
                let rate = faults::rate_error(&mut self.fault_rng, max);
                self.change_clock_rate(slot, now, rate);
            }
            FaultKind::WallStep => {
                let step = faults::wall_step(&mut self.fault_rng);
                self.nodes[slot].clock.step_wall(step);
            }
            FaultKind::ConnectionReset => {
                let other =
                    (slot + 1 + self.fault_rng.index(self.nodes.len() - 1)) % self.nodes.len();
                self.break_connection(slot, other);
            }
            FaultKind::DiskError => {
                if self.nodes[slot].is_up() {
                    self.nodes[slot].disk.break_down();
                }
            }
            FaultKind::DiskFull => {
                self.set_disk_full(slot, true);
                let length = faults::full_length(&mut self.fault_rng);
                self.heap.after(length, Event::SpaceReturns(slot));
            }
            FaultKind::Upgrade => self.upgrade_somebody(),
            FaultKind::Replacement => self.replace_member(),
            FaultKind::Corruption => self.corrupt(slot),
            FaultKind::Tangle => self.tangle(),
            FaultKind::Ambush => self.lay_ambush(slot),
        }
    }

    /// Between two steps, or in the middle of one.
    fn crash_somewhere(&mut self, slot: Slot, crash: Crash) {
        if self.fault_rng.flip() {
            return self.crash_and_restart(slot, crash);
        }
        let effects = faults::last_effects(&mut self.fault_rng);
        if let Some(process) = &mut self.nodes[slot].process {
            process.doom = Some((effects, crash));
        }
    }

    fn set_disk_full(&mut self, slot: Slot, full: bool) {
        self.nodes[slot].disk.set_full(full);
        if self.nodes[slot].is_up() {
            self.tell(slot, replica::LogEvent::ShortOfSpace(full));
        }
    }

    pub(crate) fn crash_and_restart(&mut self, slot: Slot, crash: Crash) {
        if !self.nodes[slot].is_up() {
            return;
        }
        self.crash(slot, crash);
        if crash == Crash::PowerLoss && self.fault_rng.chance(Chance::percent(30)) {
            let operations = u32::try_from(self.fault_rng.between(1, 6)).expect("small");
            self.nodes[slot].disk.set_fuse(Some(operations));
        }
        self.restart_later(slot);
    }

    fn change_clock_rate(&mut self, slot: Slot, now: Instant, rate: i64) {
        self.nodes[slot].clock.change_rate(now, rate);
        if let Some(process) = &mut self.nodes[slot].process {
            process.wake_at = None;
        }
        self.arm_deadline(slot);
    }

    /// Heals a core that can form a quorum; leaves the rest dead, paused or cut off for good.
    fn heal_core(&mut self) {
        self.phase = Phase::Liveness;
        self.observe(|| TraceEvent::Phase { phase: "liveness" });
        self.network.heal_losses();
        self.end_partitions();
        let count = self.nodes.len();
        let quorum = count / 2 + 1;
        let mut first = self.fault_rng.index(count);
        if let Some(slot) = self.nemesis.slot() {
            // Whoever is being replaced is no part of the quorum.
            first = (slot + 1) % count;
        }
        // Whoever may be part of a quorum is healed, where that changes.
        let needs_all = self.swarm.spares > 0 || self.is_anybody_afflicted();
        let quorum = if needs_all { count } else { quorum };
        let broken: Vec<Slot> = (quorum..count).map(|offset| (first + offset) % count).collect();
        for slot in 0..count {
            if !broken.contains(&slot) {
                self.heal(slot);
            }
        }
        for slot in broken {
            self.nodes[slot].abandoned = true;
            if self.fault_rng.flip() {
                if self.nodes[slot].is_up() {
                    self.crash(slot, Crash::Kill);
                }
                // An old start must not wake it.
                self.nodes[slot].life += 1;
            } else {
                let others = (0..count).filter(|other| *other != slot);
                let links = others.flat_map(|other| [(slot, other), (other, slot)]).collect();
                self.begin_partition(links);
            }
        }
        self.progress.clear();
        self.judges.tenants.moved.clear();
        self.release_watchdog();
        self.heap.after(self.plan.liveness, Event::Progress);
    }

    fn heal(&mut self, slot: Slot) {
        if self.nodes[slot].vacant {
            return;
        }
        self.nodes[slot].abandoned = false;
        if let Some(process) = &mut self.nodes[slot].process {
            process.doom = None;
            process.ambush = None;
        }
        self.nodes[slot].disk.set_fuse(None);
        self.set_disk_full(slot, false);
        if self.nodes[slot].disk.is_broken() && self.nodes[slot].is_up() {
            self.crash(slot, Crash::Kill);
        }
        if !self.nodes[slot].is_up() {
            self.start(slot);
        } else if self.nodes[slot].paused {
            self.resume(slot);
        }
    }

    /// Every member of the core must have answered writes and reads of every keyspace.
    fn require_progress(&mut self) {
        for slot in 0..self.swarm.nodes {
            if self.nodes[slot].abandoned || self.is_newcomer(slot) {
                continue;
            }
            for group in self.keyspaces.clone() {
                let progress = self.progress.get(&(slot, group)).copied().unwrap_or_default();
                if progress.writes == 0 || progress.reads == 0 {
                    let seconds = self.plan.liveness / SECOND;
                    let detail = format!(
                        "{seconds} s after a quorum was healed, node {slot} had answered \
                         {progress:?} of {group}; {}",
                        self.describe()
                    );
                    return self.violate("a healed quorum makes progress", detail);
                }
            }
        }
        self.heap.after(0, Event::Settle);
    }

    fn settle(&mut self) {
        self.phase = Phase::Settle;
        self.observe(|| TraceEvent::Phase { phase: "settle" });
        self.call_off_groups();
        self.end_partitions();
        self.finish_upgrade();
        (0..self.nodes.len()).for_each(|slot| self.heal(slot));
        self.plan.settle += self.heap.now().0;
        self.heap.after(100 * MILLISECOND, Event::Converged);
    }
}

fn new_node(seed: Seed, swarm: &Swarm, options: &Options, slot: Slot) -> Node {
    let rng = &mut seed.stream("machine", slot as u64);
    let rate = faults::rate_error(rng, swarm.timing.rate_error_max);
    let clock = NodeClock::new(Instant::default(), rng.below(1 << 40), rate, 0);
    let mut config = swarm.core_config(slot);
    if swarm.old_builds.contains(&slot) {
        config.feature_level = OLD_LEVEL;
        if options.mutant != Some(Mutant::OldBuildLies) {
            config.member.feature_level = OLD_LEVEL;
        }
    }
    Node {
        slot,
        id: NodeId(slot as u64 + 1),
        clock,
        disk: SimDisk::new(swarm.disk.clone(), seed.stream("disk", slot as u64)),
        engine: MemEngine::new(),
        config,
        watch_limits: swarm.watch_limits(),
        process: None,
        life: 0,
        paused: false,
        vacant: slot >= swarm.nodes,
        rolled_back: false,
        abandoned: false,
    }
}

fn new_clients(seed: Seed, swarm: &Swarm, keyspaces: &[GroupId]) -> Vec<Client> {
    let count = swarm.nodes * swarm.workload.clients_per_node;
    let client = |number: usize| {
        let group = keyspaces[number / swarm.nodes % keyspaces.len()];
        let rng = seed.stream("client", number as u64);
        Client::new(number % swarm.nodes, ClientMind::new(number as u64, group, rng))
    };
    (0..count).map(client).collect()
}
