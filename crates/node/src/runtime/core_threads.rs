//! The loops of the core's threads: drain, let the machine work, route what it wants done.

use super::round_trips::RoundTrips;
use crate::data_directory::DataDirectory;
use crate::handle::{NodeHandle, Shared};
use crate::log_disk::LogDisk;
use crate::peers::PeerNetwork;
use crate::update_queue::UpdateQueue;
use crate::{LogInput, monotonic_now, wall_now};
use clocks::{GroupId, LogIndex};
use replica::{Applier, ApplierEffect, ApplierEvent, LogEffect, LogEvent, LogMachine, PeerMessage};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};
use store::Engine;

/// Longest sleep of the log thread: the clock that sleeps are measured on stops while the machine
/// is suspended, the one of the deadlines does not.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// Applying a batch for longer counts as slow (etcd's `--warning-apply-duration`).
const SLOW_APPLY: Duration = Duration::from_millis(100);
/// How often figures for reports are refreshed.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// How the node ends: told to, or because it must. Clones share it.
#[derive(Clone)]
pub(super) struct Ending {
    handle: NodeHandle,
    data_dir: Arc<Path>,
    state: Arc<(Mutex<EndState>, Condvar)>,
}

#[derive(Default)]
struct EndState {
    ended: bool,
    failure: Option<String>,
}

impl Ending {
    pub(super) fn new(handle: NodeHandle, data_dir: &Path) -> Ending {
        Ending { handle, data_dir: data_dir.into(), state: Arc::default() }
    }

    /// Gives others the lead before the node stops, if they take it soon; an election timeout later
    /// they would take it by themselves.
    pub(super) fn hand_over(&self) {
        let handle = self.handle.clone();
        // On a thread of its own: whoever stops the node may be a task of some runtime.
        let hand_over = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            if let Ok(runtime) = runtime {
                let timeout = handle.timings().election_timeout;
                runtime.block_on(handle.hand_over(timeout));
            }
        };
        if let Ok(thread) = std::thread::Builder::new().name("hand-over".into()).spawn(hand_over) {
            // A panic there has said so; stopping goes on.
            let _ = thread.join();
        }
    }

    /// The node stops in good order.
    pub(super) fn stop(&self) {
        self.end(None);
    }

    /// The node must stop; the first reason given is the one that counts.
    pub(super) fn fail(&self, sentence: String) {
        tracing::error!("{sentence}");
        self.end(Some(sentence));
    }

    /// The member was removed from its cluster: the node must stop, and its directory remembers.
    pub(super) fn removed(&self, sentence: String) {
        if let Err(error) = DataDirectory::member_is_removed(&self.data_dir) {
            tracing::error!("{error}");
        }
        self.fail(sentence);
    }

    fn end(&self, failure: Option<String>) {
        let mut state = self.lock();
        state.ended = true;
        if state.failure.is_none() {
            state.failure = failure;
        }
        drop(state);
        self.handle.shared.stopping.send_replace(true);
        self.state.1.notify_all();
    }

    /// Waits for the end to be called for.
    pub(super) fn wait(&self) {
        let ended = self.state.1.wait_while(self.lock(), |state| !state.ended);
        drop(ended);
    }

    /// Why the node had to stop, if it had to.
    pub(super) fn failure(&self) -> Option<String> {
        self.lock().failure.clone()
    }

    /// Stops the node if the thread that holds the guard panics: an assertion failed.
    pub(super) fn guard(&self, thread: &'static str) -> PanicGuard {
        PanicGuard { ending: self.clone(), thread }
    }

    fn lock(&self) -> MutexGuard<'_, EndState> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct PanicGuard {
    ending: Ending,
    thread: &'static str,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.ending.fail(format!(
                "an invariant is broken (thread {:?}, see the message above): please report it; \
                 nothing acknowledged is lost, start the node again",
                self.thread
            ));
        }
    }
}

/// Consensus and log.
pub(super) struct LogThread {
    pub(super) machine: LogMachine,
    pub(super) disk: LogDisk,
    pub(super) applier: UpdateQueue<ApplierEvent>,
    pub(super) network: PeerNetwork,
    pub(super) shared: Arc<Shared>,
    pub(super) ending: Ending,
    pub(super) round_trips: RoundTrips,
}

impl LogThread {
    /// Runs until the queue is closed.
    pub(super) fn run(mut self) {
        let _guard = self.ending.guard("log");
        let queue: UpdateQueue<LogInput> = self.shared.log.clone();
        let mut batch = VecDeque::new();
        let mut next_report = Instant::now();
        // What recovery wants done.
        self.turn(&mut batch);
        loop {
            let deadline = self.machine.deadline();
            let patience = deadline.map_or(SLEEP_MAX, |at| at.since(monotonic_now()));
            if !queue.take(&mut batch, Some(patience.min(SLEEP_MAX))) {
                return;
            }
            let begun = Instant::now();
            let idle = batch.is_empty();
            self.turn(&mut batch);
            if !idle {
                self.shared.meters.log_turn.record(begun.elapsed());
            }
            if begun >= next_report {
                let bytes = self.machine.status().log_bytes;
                self.shared.log_bytes.store(bytes, Ordering::Relaxed);
                next_report = begun + REPORT_INTERVAL;
            }
        }
    }

    fn turn(&mut self, batch: &mut VecDeque<LogInput>) {
        let drained = monotonic_now();
        for LogInput { event, room } in batch.drain(..) {
            self.time_answer(&event);
            self.machine.handle(event, drained, &mut self.disk);
            // Its connection may send more.
            drop(room);
        }
        self.machine.flush(monotonic_now(), wall_now(), &mut self.disk);
        while let Some(effect) = self.machine.poll() {
            self.route(effect);
        }
    }

    fn time_answer(&mut self, event: &LogEvent) {
        if let LogEvent::Peer { from, message: PeerMessage::Heartbeats(heartbeats) } = event
            && let Some(took) = self.round_trips.answered(*from, heartbeats, Instant::now())
        {
            self.shared.meters.peer(&from.to_string()).round_trip.record(took);
        }
    }

    fn route(&mut self, effect: LogEffect) {
        match effect {
            LogEffect::Send { to, message } => {
                if let PeerMessage::Heartbeats(heartbeats) = &message {
                    self.round_trips.sent(heartbeats, Instant::now());
                }
                self.network.send(to, message);
            }
            LogEffect::Applier(event) => {
                if let ApplierEvent::Apply { group, entries } = &event
                    && let Some(last) = entries.last()
                {
                    let progress = self.shared.progress_of(*group);
                    progress.committed.store(last.position.index, Ordering::Release);
                }
                self.applier.push(event);
            }
            LogEffect::Reply { request, result } => self.shared.replies.resolve(request, result),
            LogEffect::RoleChanged { group, role, term, leader } => {
                let progress = self.shared.progress_of(group);
                progress.term.store(term.0, Ordering::Release);
                let leader = leader.map_or(0, |leader| leader.0);
                let before = progress.leader.swap(leader, Ordering::AcqRel);
                if group == GroupId::KEYSPACE && leader != 0 && leader != before {
                    self.shared.meters.leader_changes.increment();
                }
                tracing::info!(%group, ?role, %term, leader = format!("{leader:x}"), "role");
            }
            LogEffect::Peers { members, settled } => {
                self.network.connect_to(members);
                self.network.tell_removed(settled);
            }
            LogEffect::Removed(sentence) => self.ending.removed(sentence),
            LogEffect::Fatal(sentence) => self.ending.fail(sentence),
        }
    }
}

/// State machines.
pub(super) struct ApplierThread {
    pub(super) applier: Applier,
    pub(super) queue: UpdateQueue<ApplierEvent>,
    pub(super) flushes: mpsc::Sender<()>,
    pub(super) network: PeerNetwork,
    pub(super) shared: Arc<Shared>,
    pub(super) ending: Ending,
}

impl ApplierThread {
    /// Runs until the queue is closed.
    pub(super) fn run(mut self) {
        let _guard = self.ending.guard("applier");
        let (mut batch, mut effects) = (VecDeque::new(), Vec::new());
        let mut wants_idle = self.drain(&mut effects);
        loop {
            let patience = wants_idle.then_some(Duration::ZERO);
            if !self.queue.take(&mut batch, patience) {
                return;
            }
            if batch.is_empty() {
                batch.push_back(ApplierEvent::Idle);
                wants_idle = false;
            }
            while let Some(event) = batch.pop_front() {
                let event = merge(event, &mut batch);
                let (applies, begun) =
                    (matches!(event, ApplierEvent::Apply { .. }), Instant::now());
                self.applier.handle(event);
                if applies && begun.elapsed() > SLOW_APPLY {
                    self.shared.meters.slow_applies.increment();
                }
                wants_idle |= self.drain(&mut effects);
            }
        }
    }

    /// Routes what the applier wants done; returns whether it has background work.
    fn drain(&mut self, effects: &mut Vec<ApplierEffect>) -> bool {
        while let Some(effect) = self.applier.poll() {
            effects.push(effect);
        }
        // Watchers first: whoever hears of a write by its reply and then begins to watch must not
        // be told of it again.
        for effect in &*effects {
            match effect {
                ApplierEffect::Watch { group: GroupId::KEYSPACE, revision, events } => {
                    self.shared.watches.applied(*revision, Arc::clone(events));
                }
                ApplierEffect::WatchReset { group: GroupId::KEYSPACE, revision } => {
                    self.shared.watches.skip(*revision);
                }
                ApplierEffect::Accounts { group: GroupId::KEYSPACE, accounts } => {
                    self.shared.accounts_changed(Arc::clone(accounts));
                }
                ApplierEffect::Log(event) => self.publish(event),
                _ => {}
            }
        }
        let (mut wants_idle, mut log_events) = (false, Vec::new());
        for effect in effects.drain(..) {
            match effect {
                ApplierEffect::Log(event) => log_events.push(event.into()),
                ApplierEffect::Reply { request, result } => {
                    self.shared.replies.resolve(request, result);
                }
                ApplierEffect::Watch { .. }
                | ApplierEffect::WatchReset { .. }
                | ApplierEffect::Accounts { .. } => {}
                ApplierEffect::Compacted { group: GroupId::KEYSPACE, revision } => {
                    self.shared.compacted.send_replace(revision);
                }
                ApplierEffect::Compacted { .. } => {}
                // The flusher ends only after this thread.
                ApplierEffect::Flush => drop(self.flushes.send(())),
                ApplierEffect::WantsIdle => wants_idle = true,
                ApplierEffect::Fatal(sentence) => self.ending.fail(sentence),
            }
        }
        self.shared.log.push_all(log_events);
        wants_idle
    }

    fn publish(&self, event: &LogEvent) {
        let (group, index): (GroupId, LogIndex) = match event {
            LogEvent::Applied { group, index, leases, .. } => {
                self.shared.progress_of(*group).lease_clock.applied(leases.clock_ms);
                (*group, *index)
            }
            LogEvent::SnapshotWritten { group, position, done: true, .. } => {
                (*group, position.index)
            }
            _ => return,
        };
        self.shared.progress_of(group).applied.fetch_max(index, Ordering::AcqRel);
        if group == GroupId::CONSISTENT_CORE {
            self.shared.note_standing();
            self.network.directory_changed();
        }
    }
}

/// Entries of one group that wait one behind the other are applied as one batch.
fn merge(event: ApplierEvent, waiting: &mut VecDeque<ApplierEvent>) -> ApplierEvent {
    let ApplierEvent::Apply { group, mut entries } = event else { return event };
    while let Some(ApplierEvent::Apply { group: next, .. }) = waiting.front()
        && *next == group
    {
        if let Some(ApplierEvent::Apply { entries: more, .. }) = waiting.pop_front() {
            entries.extend(more);
        }
    }
    ApplierEvent::Apply { group, entries }
}

/// The flusher: flushes the engine whenever it is asked to, until the applier is gone.
pub(super) fn flush_engine(
    requests: &mpsc::Receiver<()>,
    engine: &dyn Engine,
    queue: &UpdateQueue<ApplierEvent>,
    shared: &Shared,
    ending: &Ending,
) {
    let _guard = ending.guard("flusher");
    while requests.recv().is_ok() {
        let begun = Instant::now();
        match engine.flush() {
            Ok(()) => queue.push(ApplierEvent::Flushed),
            Err(error) => return ending.fail(error.to_string()),
        }
        shared.meters.engine_flush.record(begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::{LogPosition, Term};
    use consensus::{Entry, Payload};

    fn apply(group: GroupId, index: LogIndex) -> ApplierEvent {
        let position = LogPosition::new(Term(1), index);
        ApplierEvent::Apply { group, entries: vec![Entry { position, payload: Payload::Barrier }] }
    }

    #[test]
    fn neighbouring_entries_of_one_group_become_one_batch() {
        let (first, second) = (GroupId(1), GroupId(2));
        let mut waiting: VecDeque<_> =
            [apply(first, 2), apply(first, 3), apply(second, 1), apply(first, 4)].into();
        let ApplierEvent::Apply { entries, group } = merge(apply(first, 1), &mut waiting) else {
            panic!("entries stay entries");
        };
        let indexes: Vec<_> = entries.iter().map(|entry| entry.position.index).collect();
        assert_eq!((group, indexes), (first, vec![1, 2, 3]));
        assert_eq!(waiting.len(), 2, "what is not next to it stays in its order");
    }
}
