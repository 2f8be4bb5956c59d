//! What front ends hold of the node: they ask the core through it, and read beside it.
//!
//! Cheap to clone, usable from any runtime. Writes and read barriers queue for the log machine
//! (bounded; full means overloaded, at once); reads run where they are called, on snapshots of the
//! engine. Nothing here waits for a lock that the core's threads hold while they work.

use crate::applied_lease_clock::AppliedLeaseClock;
use crate::correlation_identifier::PendingReplies;
use crate::meters::{Gauge, Meters, resident_memory_bytes};
use crate::state_quota::StateQuota;
use crate::update_queue::{Refused, UpdateQueue};
use crate::watch_streams::{WatchReceiver, WatchSender, WatchStreams};
use crate::{LogInput, monotonic_now};
use clocks::{GroupId, LogIndex, NodeId, Term};
use replica::{Ask, LogEvent, NodeStatus, Reply, Request, RequestError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use store::command::{Caller, Command};
use store::range::Revision;
use store::reply::Outcome;
use store::{Accounts, Engine, MemberTable, Reader, StoreFailure};
use tokio::sync::watch;

/// The core answers by the deadline; a caller waits a little longer for that answer.
const ANSWER_GRACE: Duration = Duration::from_millis(250);

/// Access to a running node; clones share it.
#[derive(Clone)]
pub struct NodeHandle {
    pub(crate) shared: Arc<Shared>,
}

/// Who this node is; fixed while it runs.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// The cluster's.
    pub cluster: u64,
    /// Its name, for people.
    pub name: String,
    /// Where clients reach it (URLs).
    pub client_urls: Vec<String>,
    /// Where peers reach it (`host:port`).
    pub peer_address: String,
    /// How members are spoken to: `http` or `https`.
    pub peer_scheme: &'static str,
    /// The members that the cluster was founded with, as far as settings tell: id and peer address.
    pub founders: Vec<(NodeId, String)>,
}

/// The durations that front ends derive theirs from.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// Between heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which a follower doubts its leader.
    pub election_timeout: Duration,
}

/// What the handles share with the threads of the node.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) timings: Timings,
    pub(crate) log: UpdateQueue<LogInput>,
    pub(crate) replies: PendingReplies,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) progress: BTreeMap<GroupId, Progress>,
    pub(crate) watches: WatchStreams,
    pub(crate) meters: Arc<Meters>,
    /// Bytes that the log takes on disk, as of about a second ago.
    pub(crate) log_bytes: AtomicU64,
    /// What the state may take.
    pub(crate) quota: Arc<StateQuota>,
    /// Users and roles of the keyspace, as of the last batch applied.
    pub(crate) accounts: watch::Sender<Arc<Accounts>>,
    /// The keyspace holds nothing that was superseded at or before this revision.
    pub(crate) compacted: watch::Sender<Revision>,
    /// Turns true once the node stops.
    pub(crate) stopping: watch::Sender<bool>,
    /// See [`NodeHandle::is_learner`].
    pub(crate) learner: AtomicBool,
}

/// Where one group stands, published by the log and applier threads.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Zero: none.
    pub(crate) leader: AtomicU64,
    pub(crate) term: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) lease_clock: AppliedLeaseClock,
}

impl NodeHandle {
    /// Has `command` applied by `group`; once it returns, a read of this member sees it.
    ///
    /// # Errors
    /// See [`RequestError`]; after `TimedOut`, `OutcomeUnknown` and `Stopping` it may have been
    /// applied.
    pub async fn write(
        &self,
        group: GroupId,
        command: Command,
        timeout: Duration,
    ) -> Result<Outcome, RequestError> {
        self.write_as(None, group, command, timeout).await
    }

    /// As [`NodeHandle::write`], on behalf of `caller`. While authentication is on, the keyspace
    /// refuses whatever comes on nobody's behalf.
    ///
    /// # Errors
    /// As there.
    pub async fn write_as(
        &self,
        caller: Option<Caller>,
        group: GroupId,
        command: Command,
        timeout: Duration,
    ) -> Result<Outcome, RequestError> {
        let weight = command.weight() + caller.as_ref().map_or(0, Caller::weight);
        match self.ask(caller, group, Ask::Write(command), weight, timeout).await? {
            Reply::Written(outcome) => Ok(outcome),
            _ => unreachable!("a write is answered as one"),
        }
    }

    /// Returns once a snapshot of the engine taken afterwards holds everything that any member
    /// acknowledged for `group` before the call.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn read_barrier(
        &self,
        group: GroupId,
        timeout: Duration,
    ) -> Result<(), RequestError> {
        self.ask(None, group, Ask::ReadBarrier, 0, timeout).await.map(|_| ())
    }

    /// Returns once this member stores nothing of the keyspace that was superseded at or before
    /// `revision`, which must have been compacted.
    ///
    /// # Errors
    /// `TimedOut`, or `Stopping`.
    pub async fn physically_compacted(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Result<(), RequestError> {
        let mut compacted = self.shared.compacted.subscribe();
        let done = compacted.wait_for(|&compacted| compacted >= revision);
        match tokio::time::timeout(timeout, done).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Stopping),
            Err(_) => Err(RequestError::TimedOut),
        }
    }

    /// Where every group of this node stands.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn status(&self, timeout: Duration) -> Result<NodeStatus, RequestError> {
        match self.ask(None, GroupId::CONSISTENT_CORE, Ask::Status, 0, timeout).await? {
            Reply::Status(status) => Ok(status),
            _ => unreachable!("a status is answered as one"),
        }
    }

    /// Hands the leadership of every group that this member leads to `to`, or to whom each group's
    /// log is nearest to complete at; it must lead the keyspace.
    ///
    /// # Errors
    /// `NotLeader`, `BadLeaderTransferee`, or `TimedOut`.
    pub async fn transfer_leadership(
        &self,
        to: Option<NodeId>,
        timeout: Duration,
    ) -> Result<(), RequestError> {
        let ask = Ask::TransferLeadership { to };
        self.ask(None, GroupId::KEYSPACE, ask, 0, timeout).await.map(|_| ())
    }

    /// Hands over whatever this member leads, to whom it suits best: before it stops, so that
    /// clients need not wait for an election. That nobody takes over is no error.
    pub(crate) async fn hand_over(&self, timeout: Duration) {
        for group in [GroupId::KEYSPACE, GroupId::CONSISTENT_CORE] {
            if self.leader(group) != Some(self.member_id()) {
                continue;
            }
            let ask = Ask::TransferLeadership { to: None };
            match self.ask(None, group, ask, 0, timeout).await {
                Ok(_) => tracing::info!(%group, "leadership handed over"),
                Err(error) => tracing::info!(%group, "leadership not handed over: {error}"),
            }
        }
    }

    async fn ask(
        &self,
        caller: Option<Caller>,
        group: GroupId,
        ask: Ask,
        weight: usize,
        timeout: Duration,
    ) -> Result<Reply, RequestError> {
        let shared = &*self.shared;
        shared.meters.requests.increment();
        let mut pending = shared.replies.register();
        let deadline = monotonic_now().after(timeout);
        let request = Request { id: pending.request(), group, deadline, caller, ask };
        let result = match shared.log.offer(LogEvent::Request(request).into(), weight) {
            Ok(()) => tokio::time::timeout(timeout.saturating_add(ANSWER_GRACE), pending.answer())
                .await
                .unwrap_or(Err(RequestError::TimedOut)),
            Err(Refused::Full(_)) => {
                shared.meters.overloaded.increment();
                Err(RequestError::Overloaded)
            }
            Err(Refused::Closed(_)) => Err(RequestError::Stopping),
        };
        if result.is_err() {
            shared.meters.failed_requests.increment();
        }
        result
    }

    /// Opens a stream of watches on the keyspace. Requests go in through the sender (which waits
    /// while too many are unanswered); responses come out of the receiver, and each gives back its
    /// room when it is dropped: drop it once it is sent. Dropping the receiver closes the stream.
    #[must_use]
    pub fn open_watch_stream(&self) -> (WatchSender, WatchReceiver) {
        self.shared.watches.open()
    }

    /// This member's id.
    #[must_use]
    pub fn member_id(&self) -> NodeId {
        self.shared.identity.node
    }

    /// The cluster's id.
    #[must_use]
    pub fn cluster_id(&self) -> u64 {
        self.shared.identity.cluster
    }

    /// Who this node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// Whether this member only receives the log: it serves what needs no other member.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.shared.learner.load(Ordering::Acquire)
    }

    /// The durations that front ends derive theirs from.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.shared.timings
    }

    /// The leader that this node follows in `group`, itself included.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leader = self.progress(group).leader.load(Ordering::Acquire);
        (leader != 0).then_some(NodeId(leader))
    }

    /// The term of `group` at this node.
    #[must_use]
    pub fn term(&self, group: GroupId) -> Term {
        Term(self.progress(group).term.load(Ordering::Acquire))
    }

    /// The last entry of `group` that this node applied.
    #[must_use]
    pub fn applied(&self, group: GroupId) -> LogIndex {
        self.progress(group).applied.load(Ordering::Acquire)
    }

    /// The high-water mark of `group` as far as its entries were handed to the applier.
    #[must_use]
    pub fn committed(&self, group: GroupId) -> LogIndex {
        self.progress(group).committed.load(Ordering::Acquire)
    }

    /// What the lease clock of the keyspace probably shows now, in milliseconds.
    #[must_use]
    pub fn lease_clock_ms(&self) -> u64 {
        self.progress(GroupId::KEYSPACE).lease_clock.estimate_ms()
    }

    /// Bytes that the engine takes on disk.
    #[must_use]
    pub fn engine_bytes(&self) -> u64 {
        self.shared.engine.disk_bytes()
    }

    /// The quota set for them; zero if none was.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        self.shared.quota.bytes()
    }

    /// The engine under every group's state.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.shared.engine
    }

    /// The state of `group` as of now, to read from on this thread: serializable by itself,
    /// linearizable after a [`NodeHandle::read_barrier`]. It pins a snapshot of the engine.
    ///
    /// # Errors
    /// If the engine fails; the node is stopping then.
    pub fn reader(&self, group: GroupId) -> Result<Reader, StoreFailure> {
        Reader::open(&self.shared.engine, group)
    }

    /// Users and roles as this member has them now. What is read is decided by those of its own
    /// reader ([`Reader::accounts`]), what is written where it is applied.
    #[must_use]
    pub fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(&self.shared.accounts.borrow())
    }

    /// What is counted; front ends count their traffic here.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.shared.meters
    }

    /// Everything counted, as Prometheus text (version 0.0.4).
    #[must_use]
    pub fn metrics_text(&self) -> String {
        let keyspace = GroupId::KEYSPACE;
        let engine_bytes = self.engine_bytes();
        let ceiling = self.shared.quota.ceiling(engine_bytes) as f64;
        let engine_bytes = engine_bytes as f64;
        let leader = self.leader(keyspace);
        let watch = self.shared.watches.stats();
        let gauge = |name, help, value| Gauge { name, help, value };
        self.shared.meters.render(&[
            gauge(
                "etcd_server_has_leader",
                "Whether a leader is known.",
                f64::from(u8::from(leader.is_some())),
            ),
            gauge(
                "etcd_server_is_leader",
                "Whether this member leads.",
                f64::from(u8::from(leader == Some(self.member_id()))),
            ),
            gauge(
                "etcd_server_proposals_committed_total",
                "Index of the last entry committed.",
                self.committed(keyspace) as f64,
            ),
            gauge(
                "etcd_server_proposals_applied_total",
                "Index of the last entry applied.",
                self.applied(keyspace) as f64,
            ),
            gauge(
                "etcd_server_proposals_pending",
                "Requests that wait for their outcome.",
                self.shared.replies.len() as f64,
            ),
            gauge(
                "quorate_log_bytes",
                "Bytes of the log on disk.",
                self.shared.log_bytes.load(Ordering::Relaxed) as f64,
            ),
            gauge("etcd_debugging_mvcc_watcher_total", "Watchers.", watch.watchers as f64),
            gauge("etcd_debugging_mvcc_watch_stream_total", "Watch streams.", watch.streams as f64),
            gauge(
                "etcd_debugging_mvcc_slow_watcher_total",
                "Watchers that have not been sent everything.",
                (watch.watchers - watch.synced) as f64,
            ),
            gauge("etcd_mvcc_db_total_size_in_bytes", "Bytes of the engine.", engine_bytes),
            gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the engine.", engine_bytes),
            gauge(
                "etcd_server_quota_backend_bytes",
                "What the engine may take: the quota, or else what the disk has above the reserve.",
                ceiling,
            ),
            gauge(
                "process_resident_memory_bytes",
                "Resident memory.",
                resident_memory_bytes() as f64,
            ),
        ])
    }

    /// Returns once the node stops; long-lived streams then end.
    pub async fn stopping(&self) {
        let mut stopping = self.shared.stopping.subscribe();
        // The sender lives in `shared`, which we hold.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }

    /// Whether the node is stopping.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.shared.stopping.borrow()
    }

    fn progress(&self, group: GroupId) -> &Progress {
        self.shared.progress_of(group)
    }
}

impl Shared {
    /// Publishes users and roles. The watch hub has them first: whatever a front end asks of it by
    /// these is judged by these, or by later ones.
    pub(crate) fn accounts_changed(&self, accounts: Arc<Accounts>) {
        self.watches.accounts_changed(Arc::clone(&accounts));
        self.accounts.send_replace(accounts);
    }

    /// Takes over from the consistent core whether this member votes. States from before it was
    /// added do not name it, and leave it what it was added as.
    pub(crate) fn note_standing(&self) {
        let table = Reader::open(&self.engine, GroupId::CONSISTENT_CORE)
            .and_then(|reader| reader.member_table());
        // An engine that fails stops the node through the applier.
        if let Ok(Some(table)) = table
            && let Some(learner) = learns_in(&table, self.identity.node)
        {
            self.learner.store(learner, Ordering::Release);
        }
    }

    /// # Panics
    /// If the group is not one of this node's.
    pub(crate) fn progress_of(&self, group: GroupId) -> &Progress {
        self.progress.get(&group).expect("the group is one of this node's")
    }
}

/// Whether `member` only receives the log, if the table names it.
fn learns_in(table: &MemberTable, member: NodeId) -> Option<bool> {
    let learns = table.learners.contains(&member);
    (learns || table.voters.contains(&member)).then_some(learns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trap: a learner that catches up passes states from before it was added.
    #[test]
    fn a_table_without_a_member_says_nothing_about_it() {
        let table = MemberTable {
            voters: [NodeId(1)].into(),
            learners: [NodeId(2)].into(),
            ..MemberTable::default()
        };
        assert_eq!(learns_in(&table, NodeId(1)), Some(false));
        assert_eq!(learns_in(&table, NodeId(2)), Some(true));
        assert_eq!(learns_in(&table, NodeId(3)), None);
    }
}
