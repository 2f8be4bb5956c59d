//! Runs the machines of a process, one step at a time and in any order, and routes their effects.
//!
//! The log machine is interrupted now and then between taking its events, sampling the clock and
//! handing out effects, as a thread may be. Not here: what the machines do (`replica`, `store`).

use crate::ambush;
use crate::cluster::{Event, World};
use crate::coverage;
use crate::disk::Crash;
use crate::event_heap::{Instant, MICROSECOND, MILLISECOND};
use crate::front_end::FrontWork;
use crate::mark::Mark;
use crate::mutant::Mutant;
use crate::network::Slot;
use crate::process::{Machine, Stage};
use crate::rng::Chance;
use crate::trace_stream::{TraceEvent, role_name};
use crate::watchers::HubWork;
use crate::witness::Keyspace;
use clocks::GroupId;
use consensus::{Payload, Role};
use replica::{ApplierEffect, ApplierEvent, LogEffect, LogEvent, Reply};
use store::Engine;

/// Events that the applier takes in one step, at most.
const APPLIER_BATCH: usize = 64;

impl World {
    /// Schedules a step of the machine unless one is.
    pub(crate) fn wake(&mut self, slot: Slot, machine: Machine) {
        let scheduling = &self.swarm.scheduling;
        let node = &mut self.nodes[slot];
        let Some(process) = &mut node.process else { return };
        if std::mem::replace(&mut process.scheduled[machine as usize], true) {
            return;
        }
        if machine == Machine::Log {
            process.woken = self.heap.now();
        }
        let mut delay = self.rng.exponential(scheduling.mean_delay);
        if self.rng.chance(scheduling.stall) {
            delay += self.rng.exponential(scheduling.mean_stall);
        }
        self.heap.after(delay, Event::Step { slot, life: node.life, machine });
    }

    pub(crate) fn on_step(&mut self, slot: Slot, machine: Machine) {
        self.detail(|| format!("node {slot} steps {machine:?}"));
        self.process(slot).scheduled[machine as usize] = false;
        match machine {
            Machine::Log => self.step_log(slot),
            Machine::Applier => self.step_applier(slot),
            Machine::Hub => self.step_hub(slot),
            Machine::Front => self.step_front(slot),
        }
    }

    pub(crate) fn on_wake(&mut self, slot: Slot, at: Instant) {
        let process = self.nodes[slot].process.as_mut().expect("events of a past life are dropped");
        if process.wake_at == Some(at) {
            process.wake_at = None;
            self.detail(|| format!("node {slot} has a deadline"));
            self.wake(slot, Machine::Log);
        }
    }

    fn step_log(&mut self, slot: Slot) {
        let split = self.swarm.scheduling.split;
        let mut now = self.heap.now();
        if self.mutant == Some(Mutant::SampledBeforeDrain) {
            now = self.process(slot).woken.max(self.nodes[slot].clock.since());
        }
        loop {
            let node = &mut self.nodes[slot];
            let process = node.process.as_mut().expect("it steps");
            match process.stage {
                Stage::Drain => {
                    let mut taken = process.log_queue.len();
                    if taken > 1 && self.rng.chance(self.swarm.scheduling.partial) {
                        taken = 1 + self.rng.index(taken);
                    }
                    for event in process.log_queue.drain(..taken) {
                        process.log.handle(event, node.clock.monotonic(now), &mut node.disk);
                    }
                    process.stage = Stage::Flush;
                }
                Stage::Flush => {
                    let monotonic = node.clock.monotonic(now);
                    process.log.flush(monotonic, node.clock.wall(now), &mut node.disk);
                    process.stage = Stage::Emit;
                }
                Stage::Emit => break,
            }
            self.schedule_disk(slot);
            if self.rng.chance(split) {
                return self.wake(slot, Machine::Log);
            }
        }
        self.emit_log(slot);
    }

    fn emit_log(&mut self, slot: Slot) {
        self.process(slot).stage = Stage::Drain;
        while let Some(effect) = self.process(slot).log.poll() {
            let step = ambush::of_log(&effect);
            self.on_log_effect(slot, effect);
            self.spring_ambush(slot, step);
            if self.must_stop(slot) {
                return;
            }
        }
        if !self.process(slot).log_queue.is_empty() {
            self.wake(slot, Machine::Log);
        }
        self.arm_deadline(slot);
    }

    /// Whether the process may not go on: the run is over, or it crashes in the middle of a step.
    fn must_stop(&mut self, slot: Slot) -> bool {
        let Some(process) = &mut self.nodes[slot].process else { return true };
        if let Some((left, crash)) = &mut process.doom {
            let crash = *crash;
            *left -= 1;
            if *left == 0 {
                self.crash_and_restart(slot, crash);
                return true;
            }
        }
        self.is_over()
    }

    /// A node stops by itself: right if its disk failed.
    fn on_fatal(&mut self, slot: Slot, sentence: &str) {
        if self.nodes[slot].disk.is_broken() {
            self.crash_and_restart(slot, Crash::Kill);
        } else if !self.excuse_removed(slot)
            && !self.excuse_old_build(slot, Mark::OldBuildStopped)
            && !self.excuse_departed(slot)
            && !self.excuse_rotten(slot, Mark::RottenReadStopped)
        {
            self.violate("no node stops by itself", format!("node {slot}: {sentence}"));
        }
    }

    /// Wakes the log machine when its clock reads its deadline.
    pub(crate) fn arm_deadline(&mut self, slot: Slot) {
        let now = self.heap.now();
        let node = &mut self.nodes[slot];
        let Some(process) = &mut node.process else { return };
        let Some(deadline) = process.log.deadline() else { return };
        let at = node.clock.when(now, deadline);
        if process.wake_at.is_none_or(|armed| at < armed) {
            process.wake_at = Some(at);
            self.heap.at(at, Event::Wake { slot, life: node.life, at });
        }
    }

    fn schedule_disk(&mut self, slot: Slot) {
        for started in self.nodes[slot].disk.take_started() {
            let event = Event::DiskDone { slot, ticket: started.ticket };
            self.heap.after(started.latency, event);
        }
    }

    fn on_log_effect(&mut self, slot: Slot, effect: LogEffect) {
        self.detail(|| format!("node {slot} log: {effect:?}"));
        match effect {
            LogEffect::Send { to, message } => {
                // Nobody is connected to a member that has been replaced.
                if let Some(to) = self.slot_of(to).filter(|to| *to != slot) {
                    self.send(slot, to, &message);
                }
            }
            LogEffect::Applier(event) => {
                self.marks.reach_some(coverage::of_applier_event(&event));
                if let Some(event) = self.witness_applier_event(slot, event) {
                    self.process(slot).applier_queue.push_back(event);
                    self.wake(slot, Machine::Applier);
                }
            }
            LogEffect::Reply { request, result } => {
                self.marks.reach_some(coverage::of_ending(&result));
                self.process(slot).front_queue.push_back(FrontWork::Reply(request, result));
                self.wake(slot, Machine::Front);
            }
            LogEffect::RoleChanged { group, role, term, .. } => {
                self.trace.number(term.0);
                self.mark_role(slot, group, role);
                let (node, term_number, role_name) = (slot, term.0, role_name(role));
                let group_number = group.0;
                self.observe(|| TraceEvent::Role {
                    node,
                    group: group_number,
                    role: role_name,
                    term: term_number,
                });
                if role == Role::Leader {
                    let checked = self.judges.led_anew(group, self.nodes[slot].id);
                    self.check(checked);
                    let status = self.process(slot).log.status();
                    let of_group = status.groups.iter().find(|other| other.group == group);
                    let last = of_group.map_or(0, |found| found.last_index);
                    let checked = self.witness.leader(slot, group, term, last);
                    self.check(checked);
                }
            }
            LogEffect::Peers { .. } => {}
            LogEffect::Fatal(sentence) | LogEffect::Removed(sentence) => {
                self.on_fatal(slot, &sentence);
            }
        }
    }

    /// What is handed to an applier is committed: all members must agree on it.
    /// None if the process ends at it.
    fn witness_applier_event(&mut self, slot: Slot, event: ApplierEvent) -> Option<ApplierEvent> {
        let ApplierEvent::Apply { group, mut entries } = event else { return Some(event) };
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let (first, last) = (first.position.index, last.position.index);
            self.observe(|| TraceEvent::Commit { node: slot, group: group.0, first, last });
        }
        let checked = self.witness.committed(slot, group, &entries);
        self.check(checked);
        let checked = self.judges.decided(group, &entries, self.heap.now());
        self.check(checked);
        if !self.check_spoken(slot, group, &entries) {
            return None;
        }
        if self.mutant == Some(Mutant::DivergingMember) && slot == 0 {
            for entry in &mut entries {
                let is_command = matches!(entry.payload, Payload::Command(_));
                if is_command && self.rng.chance(Chance(3_000)) {
                    entry.payload = Payload::Barrier;
                }
            }
        }
        Some(ApplierEvent::Apply { group, entries })
    }

    fn step_applier(&mut self, slot: Slot) {
        let taken = 1 + self.rng.index(APPLIER_BATCH);
        for _ in 0..taken {
            let process = self.process(slot);
            let Some(event) = process.applier_queue.pop_front() else { break };
            process.applier.handle(event);
            self.drain_applier(slot);
            if self.is_over() || !self.nodes[slot].is_up() {
                return;
            }
        }
        let process = self.process(slot);
        if !process.applier_queue.is_empty() {
            self.wake(slot, Machine::Applier);
        } else if std::mem::take(&mut process.wants_idle) {
            process.applier_queue.push_back(ApplierEvent::Idle);
            self.marks.reach(Mark::BackgroundWork);
            self.wake(slot, Machine::Applier);
        }
        self.witness_state(slot);
    }

    fn drain_applier(&mut self, slot: Slot) {
        while let Some(effect) = self.process(slot).applier.poll() {
            let step = ambush::of_applier(&effect);
            self.marks.reach_some(coverage::of_applier_effect(&effect));
            self.on_applier_effect(slot, effect);
            self.spring_ambush(slot, step);
            if self.must_stop(slot) {
                return;
            }
        }
    }

    fn on_applier_effect(&mut self, slot: Slot, effect: ApplierEffect) {
        self.detail(|| format!("node {slot} applier: {effect:?}"));
        match effect {
            ApplierEffect::Log(mut event) => {
                self.plant_lease_clock(slot, &mut event);
                self.plant_early_answer(slot, &event);
                if let LogEvent::SnapshotWritten { group, position, done: true, .. } = &event {
                    self.snapshots += 1;
                    let (node, group_number, index) = (slot, group.0, position.index);
                    self.observe(|| TraceEvent::Snapshot { node, group: group_number, index });
                    self.witness.snapshot_installed(slot, *group, position.index);
                }
                let event = self.forget_changes(slot, event);
                self.tell(slot, event);
            }
            ApplierEffect::Reply { request, result } => {
                self.process(slot).front_queue.push_back(FrontWork::Reply(request, result));
                self.wake(slot, Machine::Front);
            }
            ApplierEffect::Watch { group, revision, events } => {
                let known = self.witness.keyspace(group).map_or(0, Keyspace::revision);
                for change in events.iter().filter(|change| change.revision > known) {
                    let checked = self.judges.changed(group, change, self.heap.now());
                    self.check(checked);
                }
                let checked = self.witness.events(slot, group, revision, &events);
                self.check(checked);
                self.push_hub(slot, HubWork::Applied(group, revision, events));
            }
            ApplierEffect::WatchReset { group, revision } => {
                self.push_hub(slot, HubWork::Reset(group, revision));
            }
            ApplierEffect::Accounts { .. } | ApplierEffect::Compacted { .. } => {}
            ApplierEffect::Flush => self.begin_flush(slot),
            ApplierEffect::WantsIdle => self.process(slot).wants_idle = true,
            ApplierEffect::Fatal(sentence) => self.on_fatal(slot, &sentence),
        }
    }

    /// The engine is flushed at the beginning or at the end of the time that it takes.
    fn begin_flush(&mut self, slot: Slot) {
        let at_once = self.rng.flip();
        if at_once {
            self.nodes[slot].engine.flush().expect("memory does not fail");
        }
        let latency = self.rng.exponential(5 * MILLISECOND) + 100 * MICROSECOND;
        let life = self.nodes[slot].life;
        self.heap.after(latency, Event::FlushDone { slot, life, at_once });
    }

    pub(crate) fn on_flush_done(&mut self, slot: Slot, at_once: bool) {
        if !at_once {
            self.nodes[slot].engine.flush().expect("memory does not fail");
        }
        self.marks.reach(Mark::EngineFlushed);
        self.process(slot).applier_queue.push_back(ApplierEvent::Flushed);
        self.wake(slot, Machine::Applier);
    }

    /// The planted bug: a change of membership is answered as soon as it is in the table.
    fn plant_early_answer(&mut self, slot: Slot, event: &LogEvent) {
        let LogEvent::MembershipApplied { request, outcome, .. } = event else { return };
        if self.mutant == Some(Mutant::AnsweredBeforeAdoption) {
            let reply = Ok(Reply::Written(outcome.clone()));
            self.process(slot).front_queue.push_back(FrontWork::Reply(*request, reply));
            self.wake(slot, Machine::Front);
        }
    }

    /// The planted bugs: what the leader is told of the lease clock is not what was logged.
    fn plant_lease_clock(&mut self, slot: Slot, event: &mut LogEvent) {
        let LogEvent::Applied { leases, .. } = event else { return };
        match self.mutant {
            Some(Mutant::LeaseClockFromZero) => leases.clock_ms = 0,
            Some(Mutant::LeaseClockFromOwn) => {
                let own = self.nodes[slot].clock.monotonic(self.heap.now());
                leases.clock_ms = own.0 / MILLISECOND;
            }
            _ => {}
        }
    }

    /// Members at the same index must have the same state.
    fn witness_state(&mut self, slot: Slot) {
        for number in 0..self.groups.len() {
            let group = self.groups[number];
            let process = self.nodes[slot].process.as_mut().expect("it steps");
            let Some((position, hash)) = process.applier.chain_hash(group) else { continue };
            if process.witnessed.insert(group, position.index) == Some(position.index) {
                continue;
            }
            self.trace.number(hash);
            if group == GroupId::CONSISTENT_CORE {
                self.witness_level(slot);
            }
            let checked = self.witness.state(slot, group, position.index, hash);
            self.check(checked);
        }
    }
}
