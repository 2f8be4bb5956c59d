//! Records what a watcher is told, across broken connections: it resumes at the last revision seen
//! plus one, as every client of the protocol must.
//!
//! Not here: judging whether something was missed or repeated (`verdict`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio_stream::StreamExt;

use crate::client_access::ClientAccess;
use crate::member_client::{MemberClient, prefix_range, revision};
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::proto::mvccpb::event::EventType;

/// Between two tries to reach a member that is down.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(25);

/// One change, as a watcher was told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedChange {
    /// The revision that made it.
    pub revision: u64,
    /// The key.
    pub key: Vec<u8>,
    /// Its new value; nothing if it was deleted.
    pub value: Option<Vec<u8>>,
}

/// What a watcher watches.
#[derive(Debug, Clone)]
pub(crate) struct WatchScope {
    /// What the keys begin with; empty: all keys.
    pub(crate) prefix: Vec<u8>,
    /// The first revision to be told of.
    pub(crate) first_revision: u64,
}

impl WatchScope {
    /// All keys since the keyspace was made.
    pub(crate) fn everything() -> WatchScope {
        WatchScope { prefix: Vec::new(), first_revision: 1 }
    }
}

/// What one watcher saw.
#[derive(Debug, Clone, Default)]
pub struct WatchRecord {
    /// In the order in which it was told.
    pub changes: Vec<WatchedChange>,
    /// When each of them arrived.
    pub arrivals: Vec<Instant>,
    /// How often the stream broke and was resumed.
    pub resumptions: u32,
    /// What no member may say, if one did.
    pub complaint: Option<String>,
}

/// Watches at one member until it has seen revision `until` (0: not known yet). The caller bounds
/// the time.
pub(crate) async fn record(
    access: ClientAccess,
    endpoint: String,
    scope: WatchScope,
    until: Rc<Cell<u64>>,
) -> WatchRecord {
    let mut record = WatchRecord::default();
    while record.complaint.is_none() && !is_complete(&record, &until) {
        let client = MemberClient::connect_by(&access, &endpoint, Duration::from_secs(5)).await;
        if let Ok(client) = client {
            follow(&client, &scope, &mut record, &until).await;
            record.resumptions += 1;
        }
        if !is_complete(&record, &until) {
            tokio::time::sleep(RECONNECT_INTERVAL).await;
        }
    }
    record
}

fn is_complete(record: &WatchRecord, until: &Cell<u64>) -> bool {
    let seen = record.changes.last().map_or(0, |change| change.revision);
    until.get() != 0 && seen >= until.get()
}

/// Reads one stream to its end.
async fn follow(
    client: &MemberClient,
    scope: &WatchScope,
    record: &mut WatchRecord,
    until: &Cell<u64>,
) {
    let next = record.changes.last().map_or(scope.first_revision, |change| change.revision + 1);
    let (key, range_end) = prefix_range(&scope.prefix);
    let create = WatchCreateRequest {
        key,
        range_end,
        start_revision: i64::try_from(next).expect("revisions are positive"),
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The request stream stays open: its end would cancel the watch.
    let requests = tokio_stream::once(request).chain(tokio_stream::pending());
    let Ok(stream) = client.watch_client().watch(requests).await else { return };
    let mut stream = stream.into_inner();
    while !is_complete(record, until) {
        // Wakes up now and then: `until` may be set after the last event.
        match tokio::time::timeout(Duration::from_millis(200), stream.next()).await {
            Err(_) => {}
            // The token was forgotten; with another one it goes on.
            Ok(Some(Ok(response)))
                if response.canceled && response.cancel_reason.contains("auth token") =>
            {
                return;
            }
            Ok(Some(Ok(response))) => take(record, response),
            Ok(Some(Err(_)) | None) => return,
        }
        if record.complaint.is_some() {
            return;
        }
    }
}

fn take(record: &mut WatchRecord, response: WatchResponse) {
    if response.compact_revision != 0 {
        let compacted = response.compact_revision;
        record.complaint = Some(format!("told that history up to {compacted} is gone"));
        return;
    }
    if response.canceled {
        record.complaint = Some(format!("cancelled: {}", response.cancel_reason));
        return;
    }
    let arrived = Instant::now();
    for event in response.events {
        let deleted = event.r#type() == EventType::Delete;
        let Some(pair) = event.kv else {
            record.complaint = Some("told of an event without a key".to_owned());
            return;
        };
        record.changes.push(WatchedChange {
            revision: revision(Some(pair.mod_revision)),
            key: pair.key,
            value: (!deleted).then_some(pair.value),
        });
        record.arrivals.push(arrived);
    }
}
