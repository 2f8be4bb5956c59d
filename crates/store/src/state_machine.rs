//! The state machine of one group: what every machine shares (applied position, sessions, chain
//! hash, generations) around what each does with its commands.
//!
//! Invariant: one batch of the engine carries everything that a batch of entries changes, the
//! applied position included. So a crash leaves the state as of some applied position, never a
//! half of it, and applying goes on behind exactly that one.

mod refounding;

pub use refounding::{Refounding, refound_core};

use crate::auth::{self, Accounts};
use crate::chain_hash::{ChainHash, Effect};
use crate::command::{Command, Envelope, SessionId};
use crate::envelope::DecodeError;
use crate::event::RevisionEvents;
use crate::failure::StoreFailure;
use crate::idempotent_receiver::{Admission, IdempotentReceiver};
use crate::key_layout::{
    GenerationRecord, Layout, META_MEMBERSHIP, META_STATE, StateRecord, as_slices,
    generation_bounds, generation_of,
};
use crate::lease::{self, LeaseStatus, Leases};
use crate::limits::{HASH_INTERVAL, STATE_FORMAT, StoreLimits};
use crate::member_table::Table;
use crate::overlay::Overlay;
use crate::range::Revision;
use crate::reader::{Reader, live_layout, read_state};
use crate::reply::{Outcome, StoreError};
use crate::snapshot::{SnapshotReader, SnapshotRefusal, SnapshotWrite, Staged, Staging};
use crate::txn::{Resolved, run_delete, run_put};
use crate::versioned_value::write::RevisionWriter;
use crate::versioned_value::{Stop, compaction, settle};
use crate::{Engine, WriteBatch, consistent_core};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition};
use mutants::{Bug, planted};
use std::sync::Arc;

/// Which machine a group runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// The consistent core: members and feature level.
    ClusterMetadata,
    /// Versioned values with etcd's semantics.
    Keyspace,
}

impl MachineKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            MachineKind::ClusterMetadata => 1,
            MachineKind::Keyspace => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Result<MachineKind, DecodeError> {
        match code {
            1 => Ok(MachineKind::ClusterMetadata),
            2 => Ok(MachineKind::Keyspace),
            _ => Err(DecodeError("a kind of state machine is unknown")),
        }
    }
}

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToApply {
    /// Its place: directly behind the entry applied before.
    pub position: LogPosition,
    /// What it carries.
    pub content: Content,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Barrier,
    /// An encoded [`Envelope`].
    Command(Bytes),
    /// A membership; opaque, kept, and part of snapshots.
    Membership(Bytes),
}

/// What applying a batch of entries did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The answers, in the order of the entries; none for a repetition.
    pub outcomes: Vec<(SessionId, u64, Result<Outcome, StoreError>)>,
    /// The changes of the keyspace, ascending by revision.
    pub events: Vec<RevisionEvents>,
    /// The chain hash at every multiple of [`HASH_INTERVAL`] passed.
    pub hashes: Vec<(LogIndex, u64)>,
    /// The keyspace's revision after the batch.
    pub revision: Revision,
}

/// One group's state. The only writer of its keys.
pub struct StateMachine {
    engine: Arc<dyn Engine>,
    layout: Layout,
    kind: MachineKind,
    limits: StoreLimits,
    state: StateRecord,
    membership: Option<Bytes>,
    receiver: IdempotentReceiver,
    leases: Leases,
    accounts: Arc<Accounts>,
    staging: Option<Staging>,
    /// Whether keys of another generation may be left.
    garbage: bool,
    /// After a failure memory and engine may differ.
    failed: bool,
}

impl StateMachine {
    /// Opens the group's state, or creates it.
    ///
    /// # Errors
    /// If the engine fails or holds what this version does not understand.
    pub fn open(
        engine: Arc<dyn Engine>,
        group: GroupId,
        kind: MachineKind,
        limits: StoreLimits,
    ) -> Result<StateMachine, StoreFailure> {
        let snapshot = engine.snapshot();
        let layout = match live_layout(&*snapshot, group)? {
            Some(layout) => layout,
            None => create(&*engine, group)?,
        };
        // Again, since the state may just have been created.
        let snapshot = engine.snapshot();
        let state = read_state(&*snapshot, layout)?;
        let membership = snapshot.get(&layout.meta(META_MEMBERSHIP))?;
        let receiver = IdempotentReceiver::load(&*snapshot, layout, limits)?;
        let leases = Leases::load(&*snapshot, layout)?;
        let accounts = Arc::new(Accounts::load(&*snapshot, layout)?);
        Ok(StateMachine {
            engine,
            layout,
            kind,
            limits,
            state,
            membership,
            receiver,
            leases,
            accounts,
            staging: None,
            garbage: true,
            failed: false,
        })
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> LogPosition {
        self.state.applied
    }

    /// The membership last applied.
    #[must_use]
    pub fn membership(&self) -> Option<Bytes> {
        self.membership.clone()
    }

    /// The hash of every logical change so far.
    #[must_use]
    pub fn chain_hash(&self) -> u64 {
        self.state.chain_hash
    }

    /// The keyspace's revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    /// The revision below which nothing superseded is stored any more.
    #[must_use]
    pub fn physically_compacted(&self) -> Option<Revision> {
        self.state.compaction_done().then_some(self.state.compacted)
    }

    /// Where the leases stand.
    #[must_use]
    pub fn lease_status(&self) -> LeaseStatus {
        self.leases.status()
    }

    /// Formats up to this level may be written.
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        self.state.feature_level
    }

    /// Users and roles.
    #[must_use]
    pub fn accounts(&self) -> &Arc<Accounts> {
        &self.accounts
    }

    /// Whether the request was applied; `None` if its session is not open (see
    /// `session_has_ended`).
    #[must_use]
    pub fn session_applied(&self, session: SessionId, sequence: u64) -> Option<bool> {
        self.receiver.was_applied(session, sequence)
    }

    /// Whether the session was open once and has given way since: its requests may have been
    /// applied before that.
    #[must_use]
    pub fn session_has_ended(&self, session: SessionId) -> bool {
        self.receiver.has_ended(session)
    }

    /// The state as of now, for reading on any thread.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader { snapshot: self.engine.snapshot(), layout: self.layout, state: self.state }
    }

    /// Applies entries; all of it reaches the engine in one batch.
    ///
    /// # Errors
    /// If the engine fails or an entry cannot be decoded. The machine is not to be used after it.
    ///
    /// # Panics
    /// If the entries are not those that follow `applied`.
    pub fn apply(&mut self, entries: Vec<ToApply>) -> Result<Applied, StoreFailure> {
        if entries.is_empty() {
            return Ok(Applied { revision: self.state.revision, ..Applied::default() });
        }
        self.writing(|machine| machine.apply_entries(entries))
    }

    fn apply_entries(&mut self, entries: Vec<ToApply>) -> Result<Applied, StoreFailure> {
        let mut overlay = Overlay::new(self.engine.snapshot());
        let mut applied = Applied::default();
        for entry in entries {
            let position = entry.position;
            assert_eq!(position.index, self.state.applied.index + 1, "entries apply in log order");
            assert!(position.term >= self.state.applied.term, "terms do not regress in a log");
            self.state.applied = position;
            self.apply_entry(&mut overlay, entry, &mut applied)?;
            if position.index.is_multiple_of(HASH_INTERVAL) {
                applied.hashes.push((position.index, self.state.chain_hash));
            }
        }
        applied.revision = self.state.revision;
        self.receiver.write_changes(self.layout, &mut overlay);
        overlay.put(self.layout.meta(META_STATE), self.state.encode());
        if planted(Bug::AppliedApart) {
            let mut batch = WriteBatch::default();
            batch.put(self.layout.meta(META_STATE), self.state.encode());
            self.engine.write(batch)?;
        }
        self.engine.write(overlay.into_batch())?;
        Ok(applied)
    }

    fn apply_entry(
        &mut self,
        overlay: &mut Overlay,
        entry: ToApply,
        applied: &mut Applied,
    ) -> Result<(), StoreFailure> {
        let index = entry.position.index;
        let envelope = match entry.content {
            Content::Barrier => {
                if planted(Bug::DuplicatesForgotten) {
                    self.receiver.forget_requests();
                }
                self.close_entry(index, Effect::Done);
                return Ok(());
            }
            Content::Membership(membership) => {
                self.close_entry(index, Effect::Membership(&membership));
                overlay.put(self.layout.meta(META_MEMBERSHIP), membership.clone());
                self.membership = Some(membership);
                return Ok(());
            }
            Content::Command(bytes) => Envelope::decode(bytes).map_err(|error| {
                StoreFailure::UndecodableEntry { position: entry.position, reason: error.0 }
            })?,
        };
        if let Command::LeaseTick { clock_ms, revoke_max } = envelope.command {
            // Nobody waits for it, and a repetition would change nothing.
            let ticked = self.tick_leases(overlay, applied, clock_ms, revoke_max);
            let effect = settle(ticked)?;
            self.close_entry(
                index,
                effect.as_ref().map_or_else(Effect::Refused, |()| Effect::Done),
            );
            return Ok(());
        }
        let (session, sequence) = (envelope.session, envelope.sequence);
        let admission = match envelope.command {
            Command::OpenSession => self.receiver.open(session, index),
            _ => self.receiver.admit(session, sequence, envelope.answered_below, index),
        };
        let outcome = match admission {
            Admission::Fresh => settle(self.run(overlay, &envelope, applied))?,
            Admission::Refused(error) => Err(error),
            Admission::Duplicate => {
                self.close_entry(index, Effect::Duplicate);
                return Ok(());
            }
        };
        match &outcome {
            Ok(_) => self.close_entry(index, Effect::Done),
            Err(error) => self.close_entry(index, Effect::Refused(error)),
        }
        applied.outcomes.push((session, sequence, outcome));
        Ok(())
    }

    fn close_entry(&mut self, index: LogIndex, effect: Effect<'_>) {
        let mut hash = ChainHash(self.state.chain_hash);
        hash.entry(index, effect);
        self.state.chain_hash = hash.0;
    }

    fn run(
        &mut self,
        overlay: &mut Overlay,
        envelope: &Envelope,
        applied: &mut Applied,
    ) -> Result<Outcome, Stop> {
        let command = &envelope.command;
        let lease_keys = |id: i64| lease::keys(&*overlay, self.layout, id);
        auth::check_command(&self.accounts, envelope.caller.as_ref(), command, &lease_keys)?;
        match (self.kind, command) {
            (_, Command::OpenSession) => Ok(Outcome::SessionOpened),
            (MachineKind::Keyspace, Command::Compact { revision }) => {
                self.state.compact(*revision)?;
                self.note("compact", &revision.to_be_bytes());
                Ok(Outcome::Compacted { revision: self.state.revision })
            }
            (
                MachineKind::Keyspace,
                Command::Put(_) | Command::DeleteRange(_) | Command::Txn(_),
            ) => self.change_keyspace(overlay, command, applied),
            (
                MachineKind::Keyspace,
                Command::LeaseGrant { .. }
                | Command::LeaseRevoke { .. }
                | Command::LeaseRenew { .. },
            ) => self.change_leases(overlay, command, applied),
            (MachineKind::Keyspace, Command::Auth(command)) => {
                let mut hash = ChainHash(self.state.chain_hash);
                auth::change(&mut self.accounts, command, self.layout, overlay, &mut hash)?;
                self.state.chain_hash = hash.0;
                Ok(Outcome::AuthChanged { revision: self.state.revision })
            }
            (MachineKind::ClusterMetadata, Command::RegisterMember(member)) => {
                let mut hash = ChainHash(self.state.chain_hash);
                consistent_core::register(overlay, self.layout, &mut hash, member)?;
                self.state.chain_hash = hash.0;
                Ok(Outcome::Registered)
            }
            (MachineKind::ClusterMetadata, Command::RaiseFeatureLevel { level }) => {
                let mut hash = ChainHash(self.state.chain_hash);
                consistent_core::raise_feature_level(
                    overlay,
                    self.layout,
                    &mut hash,
                    &mut self.state,
                    *level,
                )?;
                self.state.chain_hash = hash.0;
                Ok(Outcome::Registered)
            }
            (MachineKind::ClusterMetadata, Command::Membership(command)) => {
                let mut hash = ChainHash(self.state.chain_hash);
                let index = self.state.applied.index;
                let outcome = Table::at(overlay, self.layout)?.run(&mut hash, index, command)?;
                self.state.chain_hash = hash.0;
                Ok(outcome)
            }
            _ => Err(StoreError::WrongGroup.into()),
        }
    }

    fn note(&mut self, kind: &'static str, content: &[u8]) {
        let mut hash = ChainHash(self.state.chain_hash);
        hash.note(kind, content);
        self.state.chain_hash = hash.0;
    }

    fn change_keyspace(
        &mut self,
        overlay: &mut Overlay,
        command: &Command,
        applied: &mut Applied,
    ) -> Result<Outcome, Stop> {
        let ran = self.transact(overlay, applied, |writer| run_in(writer, command))?;
        Ok(ran.outcome(self.state.revision))
    }

    /// Runs one transaction: all of it, or nothing.
    fn transact<T>(
        &mut self,
        overlay: &mut Overlay,
        applied: &mut Applied,
        run: impl FnOnce(&mut RevisionWriter<'_>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        overlay.begin();
        let mut writer = RevisionWriter::new(overlay, self.layout, &self.state);
        match run(&mut writer) {
            Ok(ran) => {
                let written = writer.finish();
                overlay.commit();
                self.state.revision = written.revision;
                self.state.chain_hash = written.hash.0;
                applied.events.extend(written.events);
                Ok(ran)
            }
            Err(stop) => {
                overlay.roll_back();
                Err(stop)
            }
        }
    }

    fn tick_leases(
        &mut self,
        overlay: &mut Overlay,
        applied: &mut Applied,
        clock_ms: u64,
        revoke_max: u32,
    ) -> Result<(), Stop> {
        if self.kind != MachineKind::Keyspace {
            return Err(StoreError::WrongGroup.into());
        }
        let mut hash = ChainHash(self.state.chain_hash);
        self.leases.tick(overlay, self.layout, &mut hash, clock_ms);
        self.state.chain_hash = hash.0;
        let mut room = revoke_max as usize;
        while room > 0
            && let Some(id) = self.leases.due()
        {
            let keys = self.revoke_lease(overlay, applied, id)?;
            room = room.saturating_sub(1 + keys);
        }
        Ok(())
    }

    /// Returns how many keys went with it.
    fn revoke_lease(
        &mut self,
        overlay: &mut Overlay,
        applied: &mut Applied,
        id: i64,
    ) -> Result<usize, Stop> {
        let revoke = |writer: &mut RevisionWriter<'_>| lease::revoke(writer, id);
        let (lease, keys) = self.transact(overlay, applied, revoke)?;
        self.leases.forget(&lease);
        Ok(keys)
    }

    fn change_leases(
        &mut self,
        overlay: &mut Overlay,
        command: &Command,
        applied: &mut Applied,
    ) -> Result<Outcome, Stop> {
        let revision = self.state.revision;
        let mut hash = ChainHash(self.state.chain_hash);
        let outcome = match command {
            Command::LeaseRevoke { id } => {
                self.revoke_lease(overlay, applied, *id)?;
                return Ok(Outcome::LeaseRevoked { revision: self.state.revision });
            }
            &Command::LeaseGrant { id, ttl_s } => {
                self.leases.grant(overlay, self.layout, &mut hash, (id, ttl_s))?;
                Outcome::LeaseGranted { revision, id, ttl_s }
            }
            Command::LeaseRenew { ids } => {
                let renew = |&id: &i64| self.leases.renew(overlay, self.layout, &mut hash, id);
                let ttls_s = ids.iter().map(renew).collect::<Result<_, _>>()?;
                Outcome::LeasesRenewed { revision, ttls_s }
            }
            _ => return Err(StoreError::WrongGroup.into()),
        };
        self.state.chain_hash = hash.0;
        Ok(outcome)
    }

    /// Physical compaction: looks at up to `budget` events. True if there is more to do. Changes
    /// nothing that can be read.
    ///
    /// # Errors
    /// If the engine fails. The machine is not to be used after it.
    pub fn compact_step(&mut self, budget: usize) -> Result<bool, StoreFailure> {
        if self.state.compaction_done() {
            return Ok(false);
        }
        self.writing(|machine| {
            let reader = machine.reader();
            let mut state = machine.state;
            let mut batch = compaction::step(&reader.view(), &mut state, budget)?;
            batch.put(machine.layout.meta(META_STATE), state.encode());
            machine.engine.write(batch)?;
            machine.state = state;
            Ok(!state.compaction_done())
        })
    }

    /// A snapshot of the state as of now.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn open_snapshot(&self) -> Result<SnapshotReader, StoreFailure> {
        SnapshotReader::of(self.reader(), self.kind, self.limits)
    }

    /// Stores a chunk of another member's snapshot beside the live state. Chunk 0 discards every
    /// unfinished snapshot. With the last one the snapshot is the live state, durably, on return.
    ///
    /// # Errors
    /// If the engine fails. The machine is not to be used after it.
    pub fn write_snapshot_chunk(
        &mut self,
        position: LogPosition,
        chunk: u64,
        data: &[u8],
        done: bool,
    ) -> Result<SnapshotWrite, StoreFailure> {
        let applied = self.state.applied;
        if position.index <= applied.index {
            return Ok(SnapshotWrite::Refused(SnapshotRefusal::Stale { applied }));
        }
        self.writing(|machine| machine.take_chunk(position, chunk, data, done))
    }

    fn take_chunk(
        &mut self,
        position: LogPosition,
        chunk: u64,
        data: &[u8],
        done: bool,
    ) -> Result<SnapshotWrite, StoreFailure> {
        if chunk == 0 {
            let generation = self.unused_generation()?;
            let layout = Layout { generation, ..self.layout };
            // What an unfinished snapshot wrote is deleted in the background.
            self.garbage |= self.staging.replace(Staging::new(position, layout)).is_some();
        }
        let staging = match &mut self.staging {
            Some(staging) if staging.position() == position => staging,
            _ => return Ok(SnapshotWrite::Refused(SnapshotRefusal::Unexpected { next: 0 })),
        };
        match staging.take(self.kind, chunk, data, done) {
            Staged::Answer(answer) => Ok(answer),
            Staged::Store(batch) => {
                self.engine.write(batch)?;
                Ok(SnapshotWrite::Written)
            }
            Staged::Switch(batch) => {
                self.engine.write(batch)?;
                self.engine.flush()?;
                self.reload()?;
                Ok(SnapshotWrite::Installed)
            }
        }
    }

    fn reload(&mut self) -> Result<(), StoreFailure> {
        let engine = Arc::clone(&self.engine);
        *self = StateMachine::open(engine, self.layout.group, self.kind, self.limits)?;
        Ok(())
    }

    /// A generation greater than every one that any key has.
    fn unused_generation(&self) -> Result<u32, StoreFailure> {
        let bounds = generation_bounds(self.layout.group, 0, u32::MAX);
        let (from, to) = as_slices(&bounds);
        let last = self.engine.snapshot().scan_back(from, to).next().transpose()?;
        let last = last.and_then(|(key, _)| generation_of(&key)).unwrap_or(0);
        let used = last.max(self.layout.generation);
        Ok(used.checked_add(1).expect("generations are never exhausted"))
    }

    /// Deletes up to `budget` keys that earlier generations left. True if there may be more.
    ///
    /// # Errors
    /// If the engine fails. The machine is not to be used after it.
    pub fn delete_step(&mut self, budget: usize) -> Result<bool, StoreFailure> {
        if !self.garbage {
            return Ok(false);
        }
        self.writing(|machine| machine.delete_garbage(budget.max(1)))
    }

    fn delete_garbage(&mut self, budget: usize) -> Result<bool, StoreFailure> {
        let live = self.layout.generation;
        let staged = self.staging.as_ref().map_or(u32::MAX, Staging::generation);
        // Generation 0 holds the record of which is live.
        let spans = [(1, live - 1), (live + 1, staged - 1)];
        let mut batch = WriteBatch::default();
        let snapshot = self.engine.snapshot();
        for (from, to) in spans.into_iter().filter(|(from, to)| from <= to) {
            let bounds = generation_bounds(self.layout.group, from, to);
            let (from, to) = as_slices(&bounds);
            for pair in snapshot.scan(from, to).take(budget - batch.changes.len()) {
                batch.delete(pair?.0);
            }
        }
        self.garbage = batch.changes.len() == budget;
        if !batch.changes.is_empty() {
            self.engine.write(batch)?;
        }
        Ok(self.garbage)
    }

    fn writing<T>(
        &mut self,
        write: impl FnOnce(&mut StateMachine) -> Result<T, StoreFailure>,
    ) -> Result<T, StoreFailure> {
        assert!(!self.failed, "a state machine is not used after a failure");
        let result = write(self);
        self.failed = result.is_err();
        result
    }
}

/// What a command did, before its revision is known.
enum Ran {
    Put(Option<crate::range::KeyValue>),
    DeleteRange(i64, Vec<crate::range::KeyValue>),
    Txn(crate::reply::TxnReply),
}

impl Ran {
    fn outcome(self, revision: Revision) -> Outcome {
        match self {
            Ran::Put(previous) => Outcome::Put { revision, previous },
            Ran::DeleteRange(deleted, previous) => {
                Outcome::DeleteRange { revision, deleted, previous }
            }
            Ran::Txn(reply) => Outcome::Txn { revision, reply },
        }
    }
}

fn run_in(writer: &mut RevisionWriter<'_>, command: &Command) -> Result<Ran, Stop> {
    match command {
        Command::Put(put) => Ok(Ran::Put(run_put(writer, put)?)),
        Command::DeleteRange(delete) => {
            let (deleted, previous) = run_delete(writer, delete)?;
            Ok(Ran::DeleteRange(deleted, previous))
        }
        Command::Txn(txn) => {
            let resolved = Resolved::of(&writer.view(), txn)?;
            resolved.check(&writer.view())?;
            Ok(Ran::Txn(resolved.execute(writer)?))
        }
        _ => Err(StoreError::WrongGroup.into()),
    }
}

/// Writes the state of a group that has applied nothing.
fn create(engine: &dyn Engine, group: GroupId) -> Result<Layout, StoreFailure> {
    let layout = Layout { group, generation: 1 };
    let mut batch = WriteBatch::default();
    let live = GenerationRecord { format: STATE_FORMAT, live: layout.generation };
    batch.put(GenerationRecord::key(group), live.encode());
    batch.put(layout.meta(META_STATE), StateRecord::initial().encode());
    engine.write(batch)?;
    Ok(layout)
}
