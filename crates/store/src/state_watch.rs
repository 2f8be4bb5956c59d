//! State Watch: clients are told what changes, as soon as it is applied, from any revision on.
//!
//! Used by etcd (whose semantics these are), ZooKeeper, Consul and Kubernetes. The hub is sans-IO:
//! it is told what was applied, is lent a reader to catch up from history, and hands out responses
//! one by one.
//!
//! Invariants: the responses of a watcher carry its events in order of revision, each once, all of
//! a revision together; the revision of a response is never ahead of what its watcher was sent.
//! A watcher is *synced* (sent everything up to the hub's revision) or holds nothing but the
//! revision at which it goes on, so that a slow stream costs bounded memory and slows only itself.
//!
//! Not here: encoding (`wire`), when to tick (`node`), reading history (`reader`).

mod catch_up;
mod stream;
mod watcher_index;

use crate::event::{Event, EventKind, RevisionEvents};
use crate::limits::WatchLimits;
use crate::range::{KeyRange, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use stream::Stream;
use watcher_index::{WatcherIndex, WatcherKey};

/// Names a stream of watches; chosen by the caller, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// The watch id of responses that are about no watcher, or about all of the stream.
pub const NO_WATCH: i64 = -1;

/// What to watch (etcd `WatchCreateRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// Chosen by the client; `None`: by the hub.
    pub watch_id: Option<i64>,
    /// Which keys.
    pub keys: KeyRange,
    /// First revision of interest; 0: whatever comes after now.
    pub start_revision: Revision,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// Send the versions replaced along.
    pub prev_kv: bool,
    /// Tell the revision now and then while there are no events.
    pub progress_notify: bool,
    /// Large responses may be split.
    pub fragment: bool,
}

/// What a stream is to be sent (etcd `WatchResponse`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchResponse {
    /// Which watcher, or [`NO_WATCH`].
    pub watch_id: i64,
    /// Revision of the header: everything up to it has been sent to this watcher.
    pub revision: Revision,
    /// The events. Shared by all watchers that are sent the same, so that their encoding can be
    /// shared as well: it depends only on this and `with_previous`.
    pub events: Arc<[Event]>,
    /// Whether the watcher asked for the versions replaced.
    pub with_previous: bool,
    /// Answers a creation.
    pub created: bool,
    /// The watcher is gone, or was never made.
    pub canceled: bool,
    /// The first revision still there, if that is why; else 0.
    pub compact_revision: Revision,
    /// Why, in etcd's words; empty if the client asked for it.
    pub cancel_reason: String,
    /// More events of the same revision follow in the next response.
    pub fragment: bool,
    /// Only tells the revision.
    pub progress: bool,
    /// What to give to `consumed` once it is sent.
    pub weight: usize,
}

/// How things stand, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Open streams.
    pub streams: usize,
    /// Watchers.
    pub watchers: usize,
    /// Of them, those that have been sent everything.
    pub synced: usize,
    /// Of the rest, those that wait for their stream to consume.
    pub blocked: usize,
    /// Bytes queued or handed out and not consumed.
    pub outstanding_bytes: usize,
}

/// The watchers of one keyspace on one node.
pub struct WatchHub {
    limits: WatchLimits,
    /// Everything up to here has been fanned out.
    revision: Revision,
    streams: BTreeMap<StreamId, Stream>,
    watchers: BTreeMap<WatcherKey, Watcher>,
    next_key: WatcherKey,
    /// The synced ones.
    synced: WatcherIndex,
    /// Those that can go on from history, in the order in which it is their turn.
    turns: BTreeMap<u64, WatcherKey>,
    next_turn: u64,
    /// The same, by the revision at which they go on.
    waiting: BTreeSet<(Revision, WatcherKey)>,
    /// Streams with responses queued.
    ready: BTreeSet<StreamId>,
    /// The stream that was polled last.
    polled: StreamId,
    /// Watchers that asked for progress.
    progress: BTreeSet<WatcherKey>,
}

struct Watcher {
    stream: StreamId,
    id: i64,
    request: WatchRequest,
    /// While unsynced: the first revision that it has not been sent. While synced: it takes
    /// nothing below.
    next: Revision,
    pace: Pace,
    /// No event since the last tick.
    idle: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Sent everything.
    Synced,
    /// Goes on from history when its turn comes.
    Waiting { turn: u64 },
    /// Goes on from history once its stream has consumed.
    Blocked,
}

/// etcd's words (`api/v3rpc/rpctypes/error.go`, `server/storage/mvcc/watcher.go`).
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
/// Ours.
const TOO_MANY: &str = "quorate: too many watches on this stream";

impl WatchHub {
    /// A hub that begins at the applied revision.
    #[must_use]
    pub fn new(limits: WatchLimits, revision: Revision) -> WatchHub {
        WatchHub {
            limits,
            revision,
            streams: BTreeMap::new(),
            watchers: BTreeMap::new(),
            next_key: 0,
            synced: WatcherIndex::default(),
            turns: BTreeMap::new(),
            next_turn: 0,
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            polled: StreamId(0),
            progress: BTreeSet::new(),
        }
    }

    /// Everything up to here has been fanned out.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Whether `catch_up` has something to do.
    #[must_use]
    pub fn wants_catch_up(&self) -> bool {
        !self.turns.is_empty()
    }

    /// How things stand.
    #[must_use]
    pub fn stats(&self) -> WatchStats {
        WatchStats {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            synced: self.synced.len(),
            blocked: self.streams.values().map(|stream| stream.blocked.len()).sum(),
            outstanding_bytes: self.streams.values().map(Stream::outstanding).sum(),
        }
    }

    /// Opens a stream.
    pub fn open_stream(&mut self, stream: StreamId) {
        let known = self.streams.insert(stream, Stream::default());
        assert!(known.is_none(), "stream ids are not reused");
    }

    /// Closes a stream with all its watchers. Unknown ones are ignored.
    pub fn close_stream(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        for key in stream.watchers.values().copied().collect::<Vec<_>>() {
            self.remove(key);
        }
        self.streams.remove(&id);
        self.ready.remove(&id);
    }

    /// Whether the stream has room for the answer to another request. Read no more of its requests
    /// while it has not.
    #[must_use]
    pub fn accepts_requests(&self, stream: StreamId) -> bool {
        let limit = self.limits.stream_bytes_max;
        self.streams.get(&stream).is_some_and(|stream| stream.outstanding() < limit)
    }

    /// Answers a request for a watcher that is not to be made.
    pub fn refuse(&mut self, stream: StreamId, reason: String) {
        if !self.streams.contains_key(&stream) {
            return;
        }
        let response = WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: reason,
            ..WatchResponse::of(NO_WATCH, self.revision)
        };
        self.queue(stream, response);
    }

    /// Ends the watchers of a stream that may no longer be, each with a reason.
    pub fn revoke(&mut self, stream_id: StreamId, refusal: &dyn Fn(&KeyRange) -> Option<String>) {
        let Some(stream) = self.streams.get(&stream_id) else { return };
        let watchers: Vec<(i64, WatcherKey)> =
            stream.watchers.iter().map(|(&id, &key)| (id, key)).collect();
        for (id, key) in watchers {
            let Some(reason) = refusal(&self.watchers[&key].request.keys) else { continue };
            self.remove(key);
            let response = WatchResponse {
                canceled: true,
                cancel_reason: reason,
                ..WatchResponse::of(id, self.revision)
            };
            self.queue(stream_id, response);
        }
        self.settle_progress(stream_id);
    }

    /// Creates a watcher, or says why not.
    pub fn create(&mut self, stream_id: StreamId, request: WatchRequest) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        let id = match stream.choose_id(&request, self.limits.stream_watchers_max) {
            Ok(id) => id,
            Err(reason) => return self.refuse(stream_id, reason.to_owned()),
        };
        let key = self.next_key;
        self.next_key += 1;
        stream.watchers.insert(id, key);
        let next =
            if request.start_revision == 0 { self.revision + 1 } else { request.start_revision };
        if request.progress_notify {
            self.progress.insert(key);
        }
        let pace = Pace::Blocked;
        let watcher = Watcher { stream: stream_id, id, request, next, pace, idle: true };
        self.watchers.insert(key, watcher);
        self.enter_pace(key, pace);
        let response = WatchResponse { created: true, ..WatchResponse::of(id, self.revision) };
        self.queue(stream_id, response);
        self.set_pace_of(key);
    }

    /// Cancels a watcher. Unknown ones are ignored.
    pub fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        let known = self.streams.get(&stream);
        let Some(key) = known.and_then(|stream| stream.watchers.get(&watch_id)).copied() else {
            return;
        };
        self.remove(key);
        let response =
            WatchResponse { canceled: true, ..WatchResponse::of(watch_id, self.revision) };
        self.queue(stream, response);
        self.settle_progress(stream);
    }

    /// Tells the stream the revision as soon as all its watchers have been sent everything.
    /// Forgotten if one of them waits for a future revision, or there is none (as in etcd).
    pub fn request_progress(&mut self, stream: StreamId) {
        if let Some(known) = self.streams.get_mut(&stream) {
            known.progress_wanted = true;
            self.settle_progress(stream);
        }
    }

    /// The stream has sent responses of this total weight.
    pub fn consumed(&mut self, id: StreamId, weight: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.consume(weight);
        if stream.outstanding() <= self.limits.stream_bytes_max / 2 {
            for key in stream.blocked.iter().copied().collect::<Vec<_>>() {
                self.set_pace_of(key);
            }
        }
        self.settle_progress(id);
    }

    /// The keyspace moved to `revision` through these changes.
    ///
    /// # Panics
    /// If they do not follow what was fanned out.
    pub fn handle_applied(&mut self, revision: Revision, changes: &[RevisionEvents]) {
        for change in changes {
            assert_eq!(change.revision, self.revision + 1, "revisions are dense and in order");
            self.revision = change.revision;
            self.fan_out(change);
        }
        assert_eq!(revision, self.revision, "every revision has its events");
    }

    fn fan_out(&mut self, change: &RevisionEvents) {
        let mut wanted: BTreeMap<WatcherKey, Vec<usize>> = BTreeMap::new();
        for (place, event) in change.events.iter().enumerate() {
            self.synced.visit(&event.pair.key, |key| {
                let watcher = &self.watchers[&key];
                if watcher.next <= change.revision && watcher.wants(event) {
                    wanted.entry(key).or_default().push(place);
                }
            });
        }
        let mut shared: BTreeMap<Vec<usize>, Arc<[Event]>> = BTreeMap::new();
        for (key, places) in wanted {
            let events = if places.len() == change.events.len() {
                Arc::clone(&change.events)
            } else {
                let pick = |places: &Vec<usize>| {
                    places.iter().map(|place| change.events[*place].clone()).collect()
                };
                Arc::clone(shared.entry(places).or_insert_with_key(pick))
            };
            if !self.offer(key, events, change.revision) {
                let watcher = self.watchers.get_mut(&key).expect("it was found by key");
                watcher.next = change.revision;
                self.block(key);
            }
        }
    }

    /// A snapshot replaced the keyspace, which is now at `revision`: every watcher that lacks what
    /// came in between goes on from history.
    pub fn reset_after_snapshot(&mut self, revision: Revision) {
        assert!(revision >= self.revision, "a snapshot is newer than what it replaces");
        let sent = std::mem::replace(&mut self.revision, revision);
        for key in self.watchers.keys().copied().collect::<Vec<_>>() {
            let watcher = self.watchers.get_mut(&key).expect("just listed");
            if watcher.pace == Pace::Synced {
                watcher.next = watcher.next.max(sent + 1);
                self.set_pace_of(key);
            }
        }
    }

    /// Time for periodic progress: tells every watcher that asked for it, is synced and has had no
    /// event since the last tick.
    pub fn handle_tick(&mut self) {
        for key in self.progress.iter().copied().collect::<Vec<_>>() {
            let watcher = self.watchers.get_mut(&key).expect("listed watchers exist");
            let due = std::mem::replace(&mut watcher.idle, true)
                && watcher.pace == Pace::Synced
                && self.revision >= watcher.request.start_revision;
            let (stream, id) = (watcher.stream, watcher.id);
            if due && self.accepts_requests(stream) {
                let progress =
                    WatchResponse { progress: true, ..WatchResponse::of(id, self.revision) };
                self.queue(stream, progress);
            }
        }
    }

    /// The next response to send, fairly among streams.
    pub fn poll(&mut self) -> Option<(StreamId, WatchResponse)> {
        let behind = (std::ops::Bound::Excluded(self.polled), std::ops::Bound::Unbounded);
        let id = *self.ready.range(behind).next().or_else(|| self.ready.first())?;
        self.polled = id;
        let stream = self.streams.get_mut(&id).expect("ready streams are open");
        let response = stream.queue.pop_front().expect("ready streams have responses");
        if stream.queue.is_empty() {
            self.ready.remove(&id);
        }
        Some((id, response))
    }

    /// Queues events for a watcher; false if its stream has no room, and then nothing was queued.
    fn offer(&mut self, key: WatcherKey, events: Arc<[Event]>, revision: Revision) -> bool {
        let watcher = self.watchers.get_mut(&key).expect("events are offered to watchers");
        let stream = self.streams.get_mut(&watcher.stream).expect("watchers have a stream");
        let with_previous = watcher.request.prev_kv;
        let response =
            WatchResponse { events, with_previous, ..WatchResponse::of(watcher.id, revision) };
        let parts = if watcher.request.fragment {
            stream::split(response, self.limits.response_bytes_max)
        } else {
            vec![response.weighed()]
        };
        if !stream.push(parts, self.limits.stream_bytes_max) {
            return false;
        }
        watcher.idle = false;
        watcher.next = revision + 1;
        self.ready.insert(watcher.stream);
        true
    }

    /// Queues an answer, for which there is always room (see `accepts_requests`).
    fn queue(&mut self, stream: StreamId, response: WatchResponse) {
        let known = self.streams.get_mut(&stream).expect("answers go to open streams");
        let pushed = known.push(vec![response.weighed()], usize::MAX);
        assert!(pushed, "answers are always queued");
        self.ready.insert(stream);
    }

    fn settle_progress(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let room = stream.outstanding() < self.limits.stream_bytes_max;
        if !stream.progress_wanted || stream.unsynced > 0 || !room {
            return;
        }
        stream.progress_wanted = false;
        let mut watchers = stream.watchers.values().map(|key| &self.watchers[key]);
        let begun = |watcher: &Watcher| watcher.request.start_revision <= self.revision;
        if watchers.len() > 0 && watchers.all(begun) {
            let progress =
                WatchResponse { progress: true, ..WatchResponse::of(NO_WATCH, self.revision) };
            self.queue(id, progress);
        }
    }

    fn remove(&mut self, key: WatcherKey) {
        self.leave_pace(key);
        let watcher = self.watchers.remove(&key).expect("only watchers are removed");
        let stream = self.streams.get_mut(&watcher.stream).expect("watchers have a stream");
        stream.watchers.remove(&watcher.id);
        self.progress.remove(&key);
    }

    /// Gives a watcher the pace that its next revision and its stream allow.
    fn set_pace_of(&mut self, key: WatcherKey) {
        let watcher = &self.watchers[&key];
        let stream = &self.streams[&watcher.stream];
        let pace = if watcher.next > self.revision {
            Pace::Synced
        } else if stream.outstanding() < self.limits.stream_bytes_max {
            self.next_turn += 1;
            Pace::Waiting { turn: self.next_turn }
        } else {
            Pace::Blocked
        };
        self.leave_pace(key);
        self.enter_pace(key, pace);
    }

    fn block(&mut self, key: WatcherKey) {
        self.leave_pace(key);
        self.enter_pace(key, Pace::Blocked);
    }

    fn leave_pace(&mut self, key: WatcherKey) {
        let watcher = self.watchers.get_mut(&key).expect("only watchers have a pace");
        let stream = self.streams.get_mut(&watcher.stream).expect("watchers have a stream");
        match watcher.pace {
            Pace::Synced => self.synced.remove(&watcher.request.keys, key),
            Pace::Waiting { turn } => {
                self.turns.remove(&turn);
                let found = self.waiting.remove(&(watcher.next, key));
                assert!(found, "the next revision of a waiting watcher changes only in its turn");
                stream.unsynced -= 1;
            }
            Pace::Blocked => {
                stream.blocked.remove(&key);
                stream.unsynced -= 1;
            }
        }
    }

    fn enter_pace(&mut self, key: WatcherKey, pace: Pace) {
        let watcher = self.watchers.get_mut(&key).expect("only watchers have a pace");
        let stream = self.streams.get_mut(&watcher.stream).expect("watchers have a stream");
        watcher.pace = pace;
        match pace {
            Pace::Synced => self.synced.insert(&watcher.request.keys, key),
            Pace::Waiting { turn } => {
                self.turns.insert(turn, key);
                self.waiting.insert((watcher.next, key));
                stream.unsynced += 1;
            }
            Pace::Blocked => {
                stream.blocked.insert(key);
                stream.unsynced += 1;
            }
        }
    }
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        match event.kind {
            EventKind::Put => !self.request.no_put,
            EventKind::Delete => !self.request.no_delete,
        }
    }
}

impl WatchResponse {
    /// A response without content.
    fn of(watch_id: i64, revision: Revision) -> WatchResponse {
        WatchResponse {
            watch_id,
            revision,
            events: Arc::new([]),
            with_previous: false,
            created: false,
            canceled: false,
            compact_revision: 0,
            cancel_reason: String::new(),
            fragment: false,
            progress: false,
            weight: 0,
        }
    }

    fn weighed(mut self) -> WatchResponse {
        let weigh = |event: &Event| stream::weigh(event, self.with_previous);
        self.weight = stream::RESPONSE_OVERHEAD + self.events.iter().map(weigh).sum::<usize>();
        self
    }
}
