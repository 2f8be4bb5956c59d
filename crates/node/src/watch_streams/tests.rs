//! Streams against a hub on its thread: bounds, isolation, and falling behind.

use super::*;
use bytes::Bytes;
use store::MemEngine;
use store::range::{KeyRange, KeyValue};
use store::{EventKind, NO_WATCH};

struct Hub {
    streams: WatchStreams,
    thread: Option<std::thread::JoinHandle<Result<(), StoreFailure>>>,
}

const LIMITS: WatchLimits = WatchLimits {
    stream_bytes_max: 10_000,
    response_bytes_max: 5_000,
    stream_watchers_max: 1000,
    catch_up_watchers_max: 16,
    catch_up_bytes_max: 100_000,
};

fn hub() -> Hub {
    let streams = WatchStreams::new();
    let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
    let running = streams.clone();
    let thread = std::thread::spawn(move || running.run(&engine, GroupId::KEYSPACE, LIMITS));
    Hub { streams, thread: Some(thread) }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.streams.close();
        let ended = self.thread.take().map(|thread| thread.join().is_ok_and(|end| end.is_ok()));
        assert!(std::thread::panicking() || ended == Some(true), "the hub ended badly");
    }
}

fn changes(revision: Revision, bytes: usize) -> Arc<[RevisionEvents]> {
    let pair = KeyValue {
        key: Bytes::from_static(b"key"),
        value: Bytes::from(vec![0; bytes]),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    };
    let event = Event { kind: EventKind::Put, pair, previous: None };
    [RevisionEvents { revision, events: [event].into() }].into()
}

fn watch_key() -> WatchRequest {
    WatchRequest {
        watch_id: None,
        keys: KeyRange::Key(Bytes::from_static(b"key")),
        start_revision: 0,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        progress_notify: false,
        fragment: false,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let patience = Duration::from_secs(20);
    runtime.expect("runtime").block_on(async {
        tokio::time::timeout(patience, future).await.expect("within the test's patience")
    })
}

async fn next(receiver: &mut WatchReceiver) -> WatchResponse {
    receiver.next().await.expect("the hub runs").response.clone()
}

#[test]
fn a_watcher_hears_what_is_applied_after_it_was_created() {
    let hub = hub();
    hub.streams.applied(2, changes(2, 1));
    let (sender, mut receiver) = hub.streams.open();
    block_on(async {
        sender.create(None, watch_key()).await;
        let created = next(&mut receiver).await;
        assert!(created.created && created.revision == 2, "{created:?}");
        hub.streams.applied(3, changes(3, 1));
        let heard = next(&mut receiver).await;
        assert_eq!((heard.revision, heard.events[0].pair.mod_revision), (3, 3));
        sender.request_progress().await;
        let progress = next(&mut receiver).await;
        assert_eq!((progress.watch_id, progress.revision), (NO_WATCH, 3));
        sender.cancel(created.watch_id).await;
        assert!(next(&mut receiver).await.canceled);
    });
}

#[test]
fn a_stream_that_is_not_read_takes_no_more_requests_and_others_go_on() {
    let hub = hub();
    let (slow, mut unread) = hub.streams.open();
    let (sender, mut receiver) = hub.streams.open();
    block_on(async {
        let mut accepted = 0;
        // The requests that the stream would take if nobody held it back.
        for _ in 0..5_000 {
            let create = slow.create(None, watch_key());
            if tokio::time::timeout(Duration::from_millis(200), create).await.is_err() {
                break;
            }
            accepted += 1;
        }
        assert!(accepted < 2_000, "{accepted} requests were taken");
        sender.create(None, watch_key()).await;
        assert!(next(&mut receiver).await.created, "another stream is served");
        // Reading makes room again.
        for _ in 0..accepted / 2 {
            next(&mut unread).await;
        }
        slow.create(None, watch_key()).await;
    });
}

#[test]
fn a_closed_stream_leaves_nothing_behind() {
    let hub = hub();
    let (sender, mut receiver) = hub.streams.open();
    let (other, mut heard) = hub.streams.open();
    block_on(async {
        sender.create(None, watch_key()).await;
        assert!(next(&mut receiver).await.created);
        drop(receiver);
        other.create(None, watch_key()).await;
        assert!(next(&mut heard).await.created);
        hub.streams.applied(2, changes(2, 1));
        next(&mut heard).await;
    });
    let stats = hub.streams.stats();
    assert_eq!((stats.streams, stats.watchers), (1, 1));
}

#[test]
fn a_hub_that_fell_behind_skips_and_goes_on() {
    let streams = WatchStreams::new();
    // Nobody takes these yet: more than the queue holds.
    let last = 200;
    for revision in 2..=last {
        streams.applied(revision, changes(revision, 1 << 20));
    }
    assert!(streams.shared.inbox.len() < 100, "dropped instead of queued");
    let engine: Arc<dyn Engine> = Arc::new(MemEngine::new());
    let running = streams.clone();
    let thread = std::thread::spawn(move || running.run(&engine, GroupId::KEYSPACE, LIMITS));
    let hub = Hub { streams, thread: Some(thread) };
    let (sender, mut receiver) = hub.streams.open();
    block_on(async {
        sender.create(None, watch_key()).await;
        assert_eq!(next(&mut receiver).await.revision, last);
        hub.streams.applied(last + 1, changes(last + 1, 1));
        assert_eq!(next(&mut receiver).await.revision, last + 1);
    });
}
