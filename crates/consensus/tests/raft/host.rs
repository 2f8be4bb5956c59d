//! A host for one member: journal, state machine and snapshots in memory. A crash forgets what was
//! not durable: writes under way, and applied state that was not flushed.

use bytes::Bytes;
use clocks::{LogIndex, LogPosition, Monotonic, NodeId};
use consensus::{
    Applied, Committed, Config, Effect, Entry, HardState, Membership, Message, Payload, Persist,
    Raft, Recovered, Recovery, SnapshotRead,
};
use std::collections::{BTreeMap, VecDeque};

/// Chunks of every snapshot.
pub(crate) const CHUNKS: u64 = 3;

#[derive(Clone, Debug)]
enum Record {
    State(HardState),
    Entry(Entry),
    Reset(LogIndex),
}

pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) raft: Raft,
    initial: HardState,
    journal: Vec<Record>,
    /// State that survives a crash.
    pub(crate) flushed: Applied,
    pub(crate) applied: Applied,
    /// Writes emitted and not yet durable.
    pub(crate) writing: VecDeque<Persist>,
    /// Snapshots open for peers.
    open: BTreeMap<NodeId, Applied>,
}

impl Host {
    pub(crate) fn new(config: Config, founders: Membership, now: Monotonic, seed: u64) -> Host {
        let initial = HardState { membership: founders.clone(), ..HardState::default() };
        let recovered = Recovered::first_start(initial.clone());
        let applied = Applied { position: LogPosition::ZERO, membership: founders };
        Host {
            raft: Raft::recover(config.clone(), recovered, now, seed),
            config,
            initial,
            journal: Vec::new(),
            flushed: applied.clone(),
            applied,
            writing: VecDeque::new(),
            open: BTreeMap::new(),
        }
    }

    /// Loses everything volatile; of the write under way, the first `survivors` records made it.
    pub(crate) fn restart(&mut self, now: Monotonic, seed: u64, survivors: usize) {
        if let Some(torn) = self.writing.front().cloned() {
            self.journal.extend(records(torn).into_iter().take(survivors));
        }
        self.writing.clear();
        self.open.clear();
        self.applied = self.flushed.clone();
        let mut recovery = Recovery::new(self.initial.clone(), self.config.cache_bytes);
        for record in &self.journal {
            match record.clone() {
                Record::State(state) => recovery.replay_hard_state(state),
                Record::Entry(entry) => recovery.replay_entry(entry).expect("no gap"),
                Record::Reset(start) => recovery.replay_reset(start),
            }
        }
        let recovered = recovery.finish(self.flushed.clone()).expect("state and log meet");
        self.raft = Raft::recover(self.config.clone(), recovered, now, seed);
    }

    /// The disk lost every entry after `index`, and the host noticed.
    pub(crate) fn lose_log_after(&mut self, index: LogIndex) {
        self.writing.clear();
        self.journal.retain(|record| match record {
            Record::Entry(entry) => entry.position.index <= index,
            _ => true,
        });
        let mut state = self.last_state();
        state.damaged = true;
        self.journal.push(Record::State(state));
    }

    /// Whether the member, up or down, is not in full standing.
    pub(crate) fn is_damaged(&self) -> bool {
        self.last_state().damaged
    }

    fn last_state(&self) -> HardState {
        let states = self.journal.iter().rev();
        states
            .filter_map(|record| match record {
                Record::State(state) => Some(state.clone()),
                _ => None,
            })
            .next()
            .unwrap_or_else(|| self.initial.clone())
    }

    /// The oldest write is durable.
    pub(crate) fn complete_write(&mut self, now: Monotonic) -> bool {
        let Some(persist) = self.writing.pop_front() else { return false };
        let token = persist.token;
        self.journal.extend(records(persist));
        self.raft.handle_persisted(now, token);
        true
    }

    /// Ends a drain; writes are queued, the other effects returned.
    pub(crate) fn flush(&mut self, now: Monotonic) -> Vec<Effect> {
        self.raft.flush(now);
        self.raft.check_invariants();
        let mut effects = Vec::new();
        while let Some(effect) = self.raft.poll_effect() {
            match effect {
                Effect::Persist(persist) => self.writing.push_back(persist),
                effect => effects.push(effect),
            }
        }
        effects
    }

    /// Applies committed entries, and returns them.
    pub(crate) fn apply(&mut self, max_bytes: usize) -> Vec<Entry> {
        let mut all = Vec::new();
        loop {
            let entries = match self.raft.next_committed(max_bytes) {
                Committed::Nothing => return all,
                Committed::Entries(entries) => entries,
                Committed::OnDisk { from, to } => {
                    let entries = self.read_log(from, usize::MAX);
                    entries.into_iter().take_while(|entry| entry.position.index <= to).collect()
                }
            };
            for entry in entries {
                assert_eq!(entry.position.index, self.applied.position.index + 1, "no gap");
                self.raft.handed_over(entry.position.index);
                self.applied.position = entry.position;
                if let Payload::Membership(membership) = &entry.payload {
                    self.applied.membership = membership.clone();
                }
                all.push(entry);
            }
        }
    }

    /// Entries of the journal from `from` on, written or being written.
    pub(crate) fn read_log(&self, from: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let mut log: BTreeMap<LogIndex, Entry> = BTreeMap::new();
        let pending = self.writing.iter().cloned().flat_map(records);
        for record in self.journal.iter().cloned().chain(pending) {
            match record {
                Record::State(_) => {}
                Record::Entry(entry) => {
                    log.split_off(&entry.position.index);
                    log.insert(entry.position.index, entry);
                }
                Record::Reset(_) => log.clear(),
            }
        }
        let first = self.raft.first_index();
        let mut bytes = 0;
        let wanted = log.range(from..).filter(|_| from >= first).zip(from..);
        wanted
            .take_while(|((index, entry), expected)| {
                bytes += entry.weight();
                *index == expected && (*expected == from || bytes <= max_bytes)
            })
            .map(|((_, entry), _)| entry.clone())
            .collect()
    }

    /// Answers `Effect::ReadSnapshot`.
    pub(crate) fn read_snapshot(
        &mut self,
        peer: NodeId,
        position: Option<LogPosition>,
        chunk: u64,
    ) -> SnapshotRead {
        let open = self.open.get(&peer).filter(|open| Some(open.position) == position);
        let (state, chunk) = match open {
            Some(open) if chunk < CHUNKS => (open.clone(), chunk),
            _ => (self.applied.clone(), 0),
        };
        self.open.insert(peer, state.clone());
        SnapshotRead {
            position: state.position,
            membership: state.membership,
            chunk,
            data: Bytes::from(vec![chunk as u8]),
            done: chunk + 1 == CHUNKS,
        }
    }

    /// Carries out `Effect::WriteSnapshot`; the answer is the caller's to give.
    pub(crate) fn write_snapshot(
        &mut self,
        position: LogPosition,
        membership: Membership,
        done: bool,
    ) {
        if done {
            assert!(position.index > self.applied.position.index, "never over newer state");
            self.applied = Applied { position, membership };
            self.flushed = self.applied.clone();
        }
    }
}

fn records(persist: Persist) -> Vec<Record> {
    let reset = persist.reset.map(|start| Record::Reset(start.index));
    let state = persist.hard_state.map(Record::State);
    let entries = persist.entries.into_iter().map(Record::Entry);
    reset.into_iter().chain(state).chain(entries).collect()
}

/// The messages among `effects`.
pub(crate) fn messages(effects: Vec<Effect>) -> (Vec<Message>, Vec<Effect>) {
    let (mut messages, mut others) = (Vec::new(), Vec::new());
    for effect in effects {
        match effect {
            Effect::Send(message) => messages.push(message),
            other => others.push(other),
        }
    }
    (messages, others)
}
