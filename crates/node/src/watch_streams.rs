//! State Watch, the thread: joins front ends' watch streams to `store::WatchHub`.
//!
//! A stream is a sender of requests and a receiver of responses. Invariants: what a stream has
//! queued, handed out or asked for is bounded (the hub counts bytes, requests hold a place until
//! they are answered for), so a slow client holds up only itself; if the hub falls behind the
//! applier, events are dropped here and its watchers go on from history. Users and roles come in
//! the same order as events, before those they were applied with, so that nothing written after a
//! permission was lost is handed to a watcher that lived by it; what a stream was handed earlier
//! may still be on its way. Not here: who gets which event (`store`), gRPC (`etcd`).

#[cfg(test)]
mod tests;

use crate::update_queue::{QueueLimits, Refused, UpdateQueue};
use clocks::GroupId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::command::Caller;
use store::range::{KeyRange, Revision};
use store::{
    Accounts, Engine, Event, Reader, RevisionEvents, StoreFailure, StreamId, WatchHub, WatchLimits,
    WatchRequest, WatchResponse, WatchStats,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Batches of events that wait for the hub, and their bytes.
const EVENTS: QueueLimits = QueueLimits { items: 8192, bytes: 64 << 20 };
/// About what a user takes in memory, for those limits.
const ACCOUNT_BYTES: usize = 64;
/// Requests of one stream that are not answered for yet.
const REQUESTS_PER_STREAM: usize = 128;
/// Events of history looked at before the queue is looked at again.
const CATCH_UP_BUDGET: usize = 4096;
/// Between progress notifications to watchers without events (as in etcd).
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);

/// The hub's door; clones share it.
#[derive(Clone)]
pub(crate) struct WatchStreams {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: UpdateQueue<Input>,
    next_stream: AtomicU64,
    lag: Mutex<Lag>,
    stats: Mutex<WatchStats>,
}

/// How the applier tells the hub of what did not fit.
#[derive(Default)]
struct Lag {
    /// A `Input::Skip` is on its way.
    told: bool,
    /// Everything up to here was applied.
    revision: Revision,
    /// Newer than any that went through the queue before.
    accounts: Option<Arc<Accounts>>,
}

enum Input {
    Open(StreamId, mpsc::UnboundedSender<WatchResponse>),
    Request(StreamId, StreamRequest, OwnedSemaphorePermit),
    Consumed(StreamId, usize),
    Close(StreamId),
    Applied(Revision, Arc<[RevisionEvents]>),
    Accounts(Arc<Accounts>),
    /// Events were dropped up to the revision in `Lag`.
    Skip,
}

enum StreamRequest {
    Create(Option<Caller>, WatchRequest),
    Refuse(String),
    Cancel(i64),
    Progress,
}

/// Asks on behalf of one stream.
pub struct WatchSender {
    stream: StreamId,
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
}

/// Receives one stream's responses; the stream closes when it is dropped.
pub struct WatchReceiver {
    stream: StreamId,
    shared: Arc<Shared>,
    responses: mpsc::UnboundedReceiver<WatchResponse>,
}

/// A response on its way to the client; its room is given back when it is dropped.
pub struct WatchDelivery {
    /// What to send.
    pub response: WatchResponse,
    stream: StreamId,
    shared: Arc<Shared>,
}

impl WatchStreams {
    pub(crate) fn new() -> WatchStreams {
        let shared = Shared {
            inbox: UpdateQueue::new(EVENTS),
            next_stream: AtomicU64::new(1),
            lag: Mutex::default(),
            stats: Mutex::default(),
        };
        WatchStreams { shared: Arc::new(shared) }
    }

    pub(crate) fn open(&self) -> (WatchSender, WatchReceiver) {
        let stream = StreamId(self.shared.next_stream.fetch_add(1, Ordering::Relaxed));
        // Bounded by the hub, which counts what is not consumed.
        let (sender, responses) = mpsc::unbounded_channel();
        self.shared.inbox.push(Input::Open(stream, sender));
        let shared = || Arc::clone(&self.shared);
        let places = Arc::new(Semaphore::new(REQUESTS_PER_STREAM));
        (
            WatchSender { stream, shared: shared(), places },
            WatchReceiver { stream, shared: shared(), responses },
        )
    }

    /// From the applier: the keyspace moved.
    pub(crate) fn applied(&self, revision: Revision, events: Arc<[RevisionEvents]>) {
        let weight = events.iter().map(weight).sum();
        let refused = self.shared.inbox.offer(Input::Applied(revision, events), weight);
        if let Err(Refused::Full(_)) = refused {
            self.skip(revision);
        }
    }

    /// From the applier: users or roles changed. Told before the events that they were applied
    /// with, and before any front end knows them, so that the hub never lags behind one.
    pub(crate) fn accounts_changed(&self, accounts: Arc<Accounts>) {
        let weight = ACCOUNT_BYTES * accounts.user_names().count();
        let refused = self.shared.inbox.offer(Input::Accounts(Arc::clone(&accounts)), weight);
        if let Err(Refused::Full(_)) = refused {
            lock(&self.shared.lag).accounts = Some(accounts);
            self.skip(0);
        }
    }

    /// From the applier: a snapshot replaced the keyspace, or the hub is too far behind.
    pub(crate) fn skip(&self, revision: Revision) {
        let mut lag = lock(&self.shared.lag);
        lag.revision = lag.revision.max(revision);
        if !std::mem::replace(&mut lag.told, true) {
            self.shared.inbox.push(Input::Skip);
        }
    }

    /// How things stood lately.
    pub(crate) fn stats(&self) -> WatchStats {
        *lock(&self.shared.stats)
    }

    /// Ends [`WatchStreams::run`].
    pub(crate) fn close(&self) {
        self.shared.inbox.close();
    }

    /// The hub's thread; returns when closed.
    ///
    /// # Errors
    /// If the engine fails.
    pub(crate) fn run(
        &self,
        engine: &Arc<dyn Engine>,
        group: GroupId,
        limits: WatchLimits,
    ) -> Result<(), StoreFailure> {
        let revision = Reader::open(engine, group)?.revision();
        let mut thread = HubThread {
            hub: WatchHub::new(limits, revision),
            streams: BTreeMap::new(),
            accounts: Arc::default(),
            shared: Arc::clone(&self.shared),
        };
        let (mut batch, mut next_tick) = (VecDeque::new(), Instant::now() + PROGRESS_INTERVAL);
        let mut more_history = false;
        loop {
            let until_tick = next_tick.saturating_duration_since(Instant::now());
            let patience = if more_history { Duration::ZERO } else { until_tick };
            if !self.shared.inbox.take(&mut batch, Some(patience)) {
                return Ok(());
            }
            for input in batch.drain(..) {
                thread.handle(input);
            }
            if Instant::now() >= next_tick {
                thread.hub.handle_tick();
                next_tick = Instant::now() + PROGRESS_INTERVAL;
            }
            more_history = thread.hub.wants_catch_up()
                && thread.hub.catch_up(&Reader::open(engine, group)?, CATCH_UP_BUDGET)?;
            thread.deliver();
        }
    }
}

/// The hub, and where its responses go.
struct HubThread {
    hub: WatchHub,
    streams: BTreeMap<StreamId, OpenStream>,
    /// As of the events that the hub has heard of, or later.
    accounts: Arc<Accounts>,
    shared: Arc<Shared>,
}

struct OpenStream {
    responses: mpsc::UnboundedSender<WatchResponse>,
    /// Places of requests whose answers found no room; given back when there is some.
    owed: Vec<OwnedSemaphorePermit>,
    /// Who had the watchers made; proven anew with each, and then for all.
    owner: Option<Caller>,
}

impl HubThread {
    fn handle(&mut self, input: Input) {
        match input {
            Input::Open(stream, responses) => {
                self.hub.open_stream(stream);
                let open = OpenStream { responses, owed: Vec::new(), owner: None };
                self.streams.insert(stream, open);
            }
            Input::Close(stream) => {
                self.hub.close_stream(stream);
                self.streams.remove(&stream);
            }
            Input::Request(stream, request, place) => self.request(stream, request, place),
            Input::Consumed(stream, weight) => {
                self.hub.consumed(stream, weight);
                if self.hub.accepts_requests(stream)
                    && let Some(open) = self.streams.get_mut(&stream)
                {
                    open.owed.clear();
                }
            }
            // What came before a skip, or before the hub began, may be overtaken by it.
            Input::Applied(revision, _) if revision <= self.hub.revision() => {}
            Input::Applied(revision, events) => {
                let known = self.hub.revision();
                let new = events.partition_point(|change| change.revision <= known);
                self.hub.handle_applied(revision, &events[new..]);
            }
            Input::Accounts(accounts) => self.accounts_changed(accounts),
            Input::Skip => {
                let (revision, accounts) = {
                    let mut lag = lock(&self.shared.lag);
                    lag.told = false;
                    (lag.revision, lag.accounts.take())
                };
                if let Some(accounts) = accounts {
                    self.accounts_changed(accounts);
                }
                self.hub.reset_after_snapshot(revision.max(self.hub.revision()));
            }
        }
    }

    fn request(&mut self, stream: StreamId, request: StreamRequest, place: OwnedSemaphorePermit) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        match request {
            StreamRequest::Create(caller, request) => {
                let refusal = refusal(&self.accounts, caller.as_ref(), &request.keys);
                open.owner = caller;
                match refusal {
                    None => self.hub.create(stream, request),
                    Some(reason) => self.hub.refuse(stream, reason),
                }
            }
            StreamRequest::Refuse(reason) => self.hub.refuse(stream, reason),
            StreamRequest::Cancel(watch) => self.hub.cancel(stream, watch),
            StreamRequest::Progress => self.hub.request_progress(stream),
        }
        if !self.hub.accepts_requests(stream) {
            open.owed.push(place);
        }
    }

    /// Ends the watchers that their owners may not have any more. A token may have ended since:
    /// what counts is whom it named.
    fn accounts_changed(&mut self, accounts: Arc<Accounts>) {
        // One that did not fit has overtaken those in the queue.
        if accounts.revision() < self.accounts.revision() {
            return;
        }
        self.accounts = accounts;
        if !self.accounts.is_enabled() {
            return;
        }
        for (stream, open) in &self.streams {
            let refusal = |keys: &KeyRange| refusal(&self.accounts, open.owner.as_ref(), keys);
            self.hub.revoke(*stream, &refusal);
        }
    }

    fn deliver(&mut self) {
        while let Some((stream, response)) = self.hub.poll() {
            let open = self.streams.get(&stream).expect("the hub's streams are ours");
            // A receiver that is gone has sent its close.
            let _ = open.responses.send(response);
        }
        *lock(&self.shared.stats) = self.hub.stats();
    }
}

impl WatchSender {
    /// Creates a watcher, as long as `caller` may read its keys; the answer comes as a response.
    /// From then on all watchers of the stream are the caller's.
    pub async fn create(&self, caller: Option<Caller>, request: WatchRequest) {
        self.ask(StreamRequest::Create(caller, request)).await;
    }

    /// Answers a request for a watcher that is not to be made.
    pub async fn refuse(&self, reason: String) {
        self.ask(StreamRequest::Refuse(reason)).await;
    }

    /// Cancels a watcher; the answer comes as a response, if there is such a watcher.
    pub async fn cancel(&self, watch_id: i64) {
        self.ask(StreamRequest::Cancel(watch_id)).await;
    }

    /// Asks for the revision once every watcher of the stream has been sent everything.
    pub async fn request_progress(&self) {
        self.ask(StreamRequest::Progress).await;
    }

    /// Waits while too many requests of this stream are unanswered: that is the backpressure.
    async fn ask(&self, request: StreamRequest) {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        self.shared.inbox.push(Input::Request(self.stream, request, place));
    }
}

impl WatchReceiver {
    /// The next response; none once the node stops.
    pub async fn next(&mut self) -> Option<WatchDelivery> {
        let response = self.responses.recv().await?;
        Some(self.delivery(response))
    }

    /// As `next`, for callers that poll.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<WatchDelivery>> {
        let polled = self.responses.poll_recv(context);
        polled.map(|response| response.map(|response| self.delivery(response)))
    }

    fn delivery(&self, response: WatchResponse) -> WatchDelivery {
        WatchDelivery { response, stream: self.stream, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for WatchReceiver {
    fn drop(&mut self) {
        self.shared.inbox.push(Input::Close(self.stream));
    }
}

impl Drop for WatchDelivery {
    fn drop(&mut self) {
        self.shared.inbox.push(Input::Consumed(self.stream, self.response.weight));
    }
}

/// Why keys may not be watched; none if they may.
fn refusal(accounts: &Accounts, caller: Option<&Caller>, keys: &KeyRange) -> Option<String> {
    let permitted = accounts.standing(caller).and_then(|standing| standing.may_read(keys));
    permitted.err().map(|error| wire::etcd::watch::cancel_reason(&error.into()))
}

/// About how many bytes the events of a revision take.
fn weight(revision: &RevisionEvents) -> usize {
    const FIXED: usize = 128;
    let of = |event: &Event| {
        let previous = event.previous.as_ref().map_or(0, |pair| pair.value.len());
        FIXED + event.pair.key.len() + event.pair.value.len() + previous
    };
    revision.events.iter().map(of).sum()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
