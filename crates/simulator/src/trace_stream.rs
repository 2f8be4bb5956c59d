//! Trace: what happens in a run, as a stream of events that people and programs can read.
//!
//! Invariant: listening changes nothing in the run. The JSON form of every event is documented in
//! docs/trace.md and carries a version. Not here: the rolling hash (`trace_hash`), pictures
//! (`space_time`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use consensus::{Body, Role};
use replica::PeerMessage;
use serde::Serialize;

use crate::cluster::World;
use crate::event_heap::Instant;
use crate::faults::FaultKind;
use crate::network::Slot;

/// Of the JSON form. Readers refuse others.
pub const TRACE_VERSION: u32 = 1;

/// Something that happened. Nodes are numbered from 0 by machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TraceEvent {
    /// The first of every trace.
    Run {
        /// [`TRACE_VERSION`].
        version: u32,
        /// The seed.
        seed: u64,
        /// Machines.
        nodes: usize,
        /// Replication groups; 0 is the consistent core.
        groups: Vec<u32>,
    },
    /// What the world does to the cluster from now on.
    Phase {
        /// `liveness`, `settle` or `over`; a run begins with `safety`.
        phase: &'static str,
    },
    /// A process starts.
    Start {
        /// Where.
        node: Slot,
    },
    /// A process ends.
    Crash {
        /// Where.
        node: Slot,
        /// Its machine lost power: what was not synced is gone.
        power_loss: bool,
    },
    /// A process stands still.
    Pause {
        /// Where.
        node: Slot,
    },
    /// It goes on.
    Resume {
        /// Where.
        node: Slot,
    },
    /// A fault of the schedule.
    Fault {
        /// Its place in the schedule, from 0.
        number: usize,
        /// What it is.
        fault: FaultKind,
    },
    /// Links are blocked.
    Partition {
        /// Tells partitions apart.
        number: u64,
        /// (from, to).
        links: Vec<(Slot, Slot)>,
    },
    /// They are open again, unless another partition blocks them.
    PartitionEnd {
        /// Which.
        number: u64,
    },
    /// A message is handed to the network.
    Send {
        /// Tells messages apart.
        message: u64,
        /// The sender.
        from: Slot,
        /// The receiver.
        to: Slot,
        /// The kind of message.
        name: &'static str,
        /// Of the group, if of one.
        group: Option<u32>,
        /// Its sender's term, if it carries one.
        term: Option<u64>,
    },
    /// It reaches a running process; one that is lost never does, one repeated does so twice.
    Deliver {
        /// Which.
        message: u64,
    },
    /// A member changes its role in a group.
    Role {
        /// Which machine's.
        node: Slot,
        /// In which group.
        group: u32,
        /// `follower`, `candidate`, …
        role: &'static str,
        /// In which term.
        term: u64,
    },
    /// Committed entries reach a member's state machine.
    Commit {
        /// Which machine's.
        node: Slot,
        /// Of which group.
        group: u32,
        /// Index of the first.
        first: u64,
        /// Index of the last.
        last: u64,
    },
    /// A snapshot was installed.
    Snapshot {
        /// On which machine.
        node: Slot,
        /// Of which group.
        group: u32,
        /// Index of the last entry that it covers.
        index: u64,
    },
    /// A client asks.
    Call {
        /// Who.
        client: usize,
        /// At which machine.
        node: Slot,
        /// Of which group.
        group: u32,
        /// What.
        operation: String,
    },
    /// A client's operation ends.
    Reply {
        /// Whose.
        client: usize,
        /// `answered`, `failed` or `unknown`.
        outcome: &'static str,
        /// Of the keyspace, if answered.
        revision: Option<i64>,
    },
    /// A promise is broken: the last event.
    Violation {
        /// Which.
        invariant: String,
        /// How.
        detail: String,
    },
    /// What a machine of a node does, in its own words; only if asked for.
    Detail {
        /// For people; its form is no promise.
        text: String,
    },
}

/// An event and its true time in nanoseconds, as one line of the JSON form.
#[derive(Serialize)]
struct Line<'a> {
    t: u64,
    #[serde(flatten)]
    event: &'a TraceEvent,
}

/// One line of JSON.
#[must_use]
pub fn to_json(at: Instant, event: &TraceEvent) -> String {
    serde_json::to_string(&Line { t: at.0, event }).expect("events hold strings and numbers only")
}

type Hear = dyn FnMut(Instant, &TraceEvent);

/// Hears what happens, with the true time.
pub struct Listener {
    hear: Box<Hear>,
    details: bool,
}

impl Listener {
    /// Calls `hear` with every event, [`TraceEvent::Detail`] only if `details`.
    pub fn new(details: bool, hear: impl FnMut(Instant, &TraceEvent) + 'static) -> Listener {
        Listener { hear: Box::new(hear), details }
    }

    pub(crate) fn hear(&mut self, at: Instant, event: &TraceEvent) {
        (self.hear)(at, event);
    }

    pub(crate) fn wants_details(&self) -> bool {
        self.details
    }
}

impl World {
    /// Whoever listens hears of everything from now on.
    pub(crate) fn be_heard_by(&mut self, listener: Listener) {
        self.listener = Some(listener);
    }

    /// Tells whoever listens.
    pub(crate) fn observe(&mut self, event: impl FnOnce() -> TraceEvent) {
        if let Some(listener) = &mut self.listener {
            listener.hear(self.heap.now(), &event());
        }
    }

    /// The same with what a machine does, in its own words.
    pub(crate) fn detail(&mut self, text: impl FnOnce() -> String) {
        if self.listener.as_ref().is_some_and(Listener::wants_details) {
            self.observe(|| TraceEvent::Detail { text: text() });
        }
    }
}

/// Keeps the newest events of a run, bounded.
#[derive(Clone, Default)]
pub struct Recording {
    events: Rc<RefCell<VecDeque<(Instant, TraceEvent)>>>,
}

/// Events that a recording keeps.
const RECORDED_MAX: usize = 200_000;

impl Recording {
    /// What a run is to be given so that it is recorded here.
    #[must_use]
    pub fn listener(&self) -> Listener {
        let events = Rc::clone(&self.events);
        Listener::new(false, move |at, event| {
            let mut events = events.borrow_mut();
            if events.len() == RECORDED_MAX {
                events.pop_front();
            }
            events.push_back((at, event.clone()));
        })
    }

    /// What was recorded, in order.
    #[must_use]
    pub fn into_events(self) -> Vec<(Instant, TraceEvent)> {
        self.events.take().into()
    }
}

/// The kind of a message, its group and its sender's term, as far as it has them.
pub(crate) fn describe(message: &PeerMessage) -> (&'static str, Option<u32>, Option<u64>) {
    let of = |name, group: &clocks::GroupId| (name, Some(group.0), None);
    match message {
        PeerMessage::Consensus(message) => {
            (body_name(&message.body), Some(message.group.0), Some(message.term.0))
        }
        PeerMessage::Heartbeats(_) => ("heartbeats", None, None),
        PeerMessage::Propose { group, .. } => of("propose", group),
        PeerMessage::ProposeRefused { group, term } => {
            ("propose_refused", Some(group.0), Some(term.0))
        }
        PeerMessage::ReadIndex { group, .. } => of("read_index", group),
        PeerMessage::ReadIndexReply { group, .. } => of("read_index_reply", group),
        PeerMessage::StateHashes { group, .. } => of("state_hashes", group),
        PeerMessage::MemberCondition { .. } => ("member_condition", None, None),
        PeerMessage::LearnersInSync { group, term, .. } => {
            ("learners_in_sync", Some(group.0), Some(term.0))
        }
        PeerMessage::Removed => ("removed", None, None),
    }
}

const fn body_name(body: &Body) -> &'static str {
    match body {
        Body::PreVote { .. } => "pre_vote",
        Body::PreVoteReply { .. } => "pre_vote_reply",
        Body::Vote { .. } => "vote",
        Body::VoteReply { .. } => "vote_reply",
        Body::Append { .. } => "append",
        Body::AppendOk { .. } => "append_ok",
        Body::AppendHeld { .. } => "append_held",
        Body::AppendConflict { .. } => "append_conflict",
        Body::Heartbeat { .. } => "heartbeat",
        Body::HeartbeatReply { .. } => "heartbeat_reply",
        Body::Returned { .. } => "returned",
        Body::ReturnHeard { .. } => "return_heard",
        Body::SnapshotChunk { .. } => "snapshot_chunk",
        Body::SnapshotAck { .. } => "snapshot_ack",
        Body::TimeoutNow => "timeout_now",
    }
}

pub(crate) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre_candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}
