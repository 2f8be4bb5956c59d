//! The Watch service's messages, to and from `store`'s words.

use super::errors::ProtocolError;
use super::keyspace_reply::{Answerer, key_value};
use super::keyspace_request::key_range;
use super::{mvccpb, pb};
use bytes::Bytes;
use clocks::Term;
use pb::watch_create_request::FilterType;
use store::{Event, EventKind, WatchRequest, WatchResponse};

/// What a client asks of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchAsk {
    /// A new watcher. Whether it can be made is for the hub to say, in a response.
    Create(WatchRequest),
    /// The end of one.
    Cancel {
        /// Its id.
        watch_id: i64,
    },
    /// The revision, once everything up to it has been sent.
    Progress,
}

/// What the client asks; none for a message without content, which etcd ignores.
#[must_use]
pub fn ask(request: pb::WatchRequest) -> Option<WatchAsk> {
    use pb::watch_request::RequestUnion;
    Some(match request.request_union? {
        RequestUnion::CreateRequest(create) => WatchAsk::Create(watch_request(create)),
        RequestUnion::CancelRequest(cancel) => WatchAsk::Cancel { watch_id: cancel.watch_id },
        RequestUnion::ProgressRequest(_) => WatchAsk::Progress,
    })
}

fn watch_request(create: pb::WatchCreateRequest) -> WatchRequest {
    // An empty key means the smallest one, so that with an open end it means all of them.
    let key = if create.key.is_empty() { Bytes::from_static(b"\0") } else { create.key };
    let leaves_out = |kind: FilterType| create.filters.contains(&(kind as i32));
    WatchRequest {
        watch_id: (create.watch_id != 0).then_some(create.watch_id),
        keys: key_range(key, create.range_end),
        start_revision: create.start_revision,
        no_put: leaves_out(FilterType::Noput),
        no_delete: leaves_out(FilterType::Nodelete),
        prev_kv: create.prev_kv,
        progress_notify: create.progress_notify,
        fragment: create.fragment,
    }
}

/// Why a watch ends that its owner may not have, as etcd writes a refusal there: by gRPC's name of
/// the code, too. Clients compare it to learn whether a new token would help.
#[must_use]
pub fn cancel_reason(refusal: &ProtocolError) -> String {
    format!("rpc error: code = {:?} desc = {}", refusal.code, refusal.message)
}

impl Answerer {
    /// A response of the hub, as the client sees it.
    #[must_use]
    pub fn watch(&self, term: Term, response: &WatchResponse) -> pb::WatchResponse {
        let with_previous = response.with_previous;
        pb::WatchResponse {
            header: Some(self.header(response.revision, term)),
            watch_id: response.watch_id,
            created: response.created,
            canceled: response.canceled,
            compact_revision: response.compact_revision,
            cancel_reason: response.cancel_reason.clone(),
            fragment: response.fragment,
            events: response.events.iter().map(|event| watch_event(event, with_previous)).collect(),
        }
    }
}

fn watch_event(event: &Event, with_previous: bool) -> mvccpb::Event {
    let kind = match event.kind {
        EventKind::Put => mvccpb::event::EventType::Put,
        EventKind::Delete => mvccpb::event::EventType::Delete,
    };
    let previous = event.previous.as_ref().filter(|_| with_previous);
    mvccpb::Event {
        r#type: kind as i32,
        kv: Some(key_value(event.pair.clone())),
        prev_kv: previous.cloned().map(key_value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clocks::NodeId;
    use pb::watch_request::RequestUnion;
    use store::range::{KeyRange, KeyValue};

    fn created(create: pb::WatchCreateRequest) -> WatchRequest {
        let request_union = Some(RequestUnion::CreateRequest(create));
        match ask(pb::WatchRequest { request_union }) {
            Some(WatchAsk::Create(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_empty_key_is_the_smallest_one() {
        let smallest = Bytes::from_static(b"\0");
        let one = created(pb::WatchCreateRequest::default());
        assert_eq!(one.keys, KeyRange::Key(smallest.clone()));
        let open = pb::WatchCreateRequest { range_end: smallest.clone(), ..Default::default() };
        assert_eq!(created(open).keys, KeyRange::From(smallest));
    }

    #[test]
    fn every_option_arrives_and_unknown_filters_are_ignored() {
        let request = created(pb::WatchCreateRequest {
            key: Bytes::from("a"),
            range_end: Bytes::from("b"),
            start_revision: -7,
            progress_notify: true,
            filters: vec![FilterType::Nodelete as i32, 9],
            prev_kv: true,
            watch_id: 5,
            fragment: true,
        });
        assert_eq!((request.watch_id, request.start_revision), (Some(5), -7));
        assert!(request.progress_notify && request.prev_kv && request.fragment);
        assert!(request.no_delete && !request.no_put);
        assert_eq!(created(pb::WatchCreateRequest::default()).watch_id, None);
    }

    #[test]
    fn a_message_without_content_asks_nothing() {
        assert_eq!(ask(pb::WatchRequest { request_union: None }), None);
    }

    #[test]
    fn the_version_replaced_comes_only_when_asked_for() {
        let pair = KeyValue { key: Bytes::from("k"), mod_revision: 4, ..KeyValue::default() };
        let event =
            Event { kind: EventKind::Delete, pair: pair.clone(), previous: Some(pair.clone()) };
        let response = |with_previous| WatchResponse {
            watch_id: 1,
            revision: 4,
            events: vec![event.clone()].into(),
            with_previous,
            created: false,
            canceled: false,
            compact_revision: 0,
            cancel_reason: String::new(),
            fragment: true,
            progress: false,
            weight: 0,
        };
        let answerer = Answerer { cluster_id: 1, member: NodeId(2) };
        let plain = answerer.watch(Term(3), &response(false));
        assert_eq!(plain.header.unwrap().revision, 4);
        assert!(plain.fragment && plain.events[0].prev_kv.is_none());
        assert_eq!(plain.events[0].r#type, mvccpb::event::EventType::Delete as i32);
        let full = answerer.watch(Term(3), &response(true));
        assert_eq!(full.events[0].prev_kv, Some(key_value(pair)));
    }
}
