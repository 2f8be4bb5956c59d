//! What a client of the KV service sees of validation, translation and replies.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;
use store::command::{Command, CompareTarget, Envelope, SessionId, TxnOp};
use store::range::{KeyRange, KeyValue, Projection, SortOrder, SortTarget};
use store::reply::{Outcome, RangeReply, TxnOpReply, TxnReply};
use wire::etcd::errors::{
    DUPLICATE_KEY, EMPTY_KEY, INVALID_SORT_OPTION, KEY_NOT_FOUND, LEASE_PROVIDED,
    REQUEST_TOO_LARGE, TOO_MANY_OPS, VALUE_PROVIDED,
};
use wire::etcd::keyspace_reply::Answerer;
use wire::etcd::keyspace_request::{self as request, Consistency, TxnPlan};
use wire::etcd::limits::{REQUEST_BYTES_MAX, TRANSACTION_DEPTH_MAX, TRANSACTION_OPERATIONS_MAX};
use wire::etcd::{Code, pb};

fn key(text: &'static str) -> Bytes {
    Bytes::from(text)
}

fn range_of(key: &'static str, range_end: &'static str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::from(key),
        range_end: Bytes::from(range_end),
        ..pb::RangeRequest::default()
    }
}

fn put_of(key: &'static str, value: &'static str) -> pb::PutRequest {
    pb::PutRequest { key: Bytes::from(key), value: Bytes::from(value), ..pb::PutRequest::default() }
}

fn operation(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn put_operation(key: impl Into<Bytes>) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.into(), ..pb::PutRequest::default() };
    operation(pb::request_op::Request::RequestPut(put))
}

fn range_operation(serializable: bool) -> pb::RequestOp {
    let range = pb::RangeRequest { serializable, ..range_of("a", "") };
    operation(pb::request_op::Request::RequestRange(range))
}

fn nested_operation(txn: pb::TxnRequest) -> pb::RequestOp {
    operation(pb::request_op::Request::RequestTxn(txn))
}

fn txn_of(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..pb::TxnRequest::default() }
}

fn many_puts(count: usize) -> Vec<pb::RequestOp> {
    (0..count).map(|number| put_operation(format!("{number}"))).collect()
}

#[test]
fn a_range_end_is_absent_or_open_or_a_key() {
    let keys = |range_end| request::range(range_of("k", range_end)).unwrap().0.keys;
    assert_eq!(keys(""), KeyRange::Key(key("k")));
    assert_eq!(keys("\0"), KeyRange::From(key("k")));
    assert_eq!(keys("l"), KeyRange::Span { start: key("k"), end: key("l") });
    assert_eq!(keys("\0\0"), KeyRange::Span { start: key("k"), end: key("\0\0") });
}

#[test]
fn an_empty_key_is_refused_everywhere() {
    assert_eq!(request::range(range_of("", "x")), Err(EMPTY_KEY));
    assert_eq!(request::put(put_of("", "x")), Err(EMPTY_KEY));
    assert_eq!(request::delete_range(pb::DeleteRangeRequest::default()), Err(EMPTY_KEY));
    assert_eq!(request::txn(txn_of(vec![put_operation("")])), Err(EMPTY_KEY));
    let compare = vec![pb::Compare::default()];
    assert_eq!(
        request::txn(pb::TxnRequest { compare, ..pb::TxnRequest::default() }),
        Err(EMPTY_KEY)
    );
}

#[test]
fn every_range_option_arrives() {
    let (range, consistency) = request::range(pb::RangeRequest {
        limit: 3,
        revision: 7,
        sort_order: pb::range_request::SortOrder::Descend as i32,
        sort_target: pb::range_request::SortTarget::Mod as i32,
        serializable: true,
        keys_only: true,
        min_mod_revision: 1,
        max_mod_revision: 2,
        min_create_revision: 3,
        max_create_revision: 4,
        ..range_of("a", "b")
    })
    .unwrap();
    assert_eq!(consistency, Consistency::Serializable);
    assert_eq!((range.limit, range.revision), (3, 7));
    assert_eq!((range.sort_order, range.sort_target), (SortOrder::Descend, SortTarget::Mod));
    assert_eq!(range.projection, Projection::KeysOnly);
    assert_eq!((range.min_mod_revision, range.max_mod_revision), (1, 2));
    assert_eq!((range.min_create_revision, range.max_create_revision), (3, 4));
}

#[test]
fn absurd_ranges_mean_what_etcd_makes_of_them() {
    let absurd = pb::RangeRequest { limit: -5, revision: -9, ..range_of("a", "") };
    let (range, consistency) = request::range(absurd).unwrap();
    assert_eq!((range.limit, range.revision), (0, 0));
    assert_eq!(consistency, Consistency::Linearizable);
    let both = pb::RangeRequest { count_only: true, keys_only: true, ..range_of("a", "") };
    assert_eq!(request::range(both).unwrap().0.projection, Projection::CountOnly);
}

#[test]
fn an_unknown_sort_option_is_refused() {
    let order = pb::RangeRequest { sort_order: 3, ..range_of("a", "") };
    assert_eq!(request::range(order), Err(INVALID_SORT_OPTION));
    let target = pb::RangeRequest { sort_target: -1, ..range_of("a", "") };
    assert_eq!(request::range(target), Err(INVALID_SORT_OPTION));
}

#[test]
fn what_a_put_ignores_must_not_be_provided() {
    let value = pb::PutRequest { ignore_value: true, ..put_of("a", "x") };
    assert_eq!(request::put(value), Err(VALUE_PROVIDED));
    let lease = pb::PutRequest { ignore_lease: true, lease: 1, ..put_of("a", "") };
    assert_eq!(request::put(lease.clone()), Err(LEASE_PROVIDED));
    assert_eq!(
        request::txn(txn_of(vec![operation(pb::request_op::Request::RequestPut(lease))])),
        Err(LEASE_PROVIDED)
    );
}

#[test]
fn a_request_above_a_mebibyte_and_a_half_is_too_large() {
    let overhead = put_of("k", "").encoded_len() + 4;
    let put_sized = |bytes: usize| pb::PutRequest {
        key: key("k"),
        value: Bytes::from(vec![0; bytes]),
        ..pb::PutRequest::default()
    };
    let largest = put_sized(REQUEST_BYTES_MAX - overhead);
    assert_eq!(largest.encoded_len(), REQUEST_BYTES_MAX);
    assert!(request::put(largest).is_ok());
    let too_large = put_sized(REQUEST_BYTES_MAX - overhead + 1);
    assert_eq!(request::put(too_large.clone()), Err(REQUEST_TOO_LARGE));
    let operations = vec![operation(pb::request_op::Request::RequestPut(too_large))];
    assert_eq!(request::txn(txn_of(operations)), Err(REQUEST_TOO_LARGE));
}

#[test]
fn a_transaction_has_128_operations_and_no_more() {
    assert!(request::txn(txn_of(many_puts(TRANSACTION_OPERATIONS_MAX))).is_ok());
    let over = many_puts(TRANSACTION_OPERATIONS_MAX + 1);
    assert_eq!(request::txn(txn_of(over.clone())), Err(TOO_MANY_OPS));
    let failure = pb::TxnRequest { failure: over, ..pb::TxnRequest::default() };
    assert_eq!(request::txn(failure), Err(TOO_MANY_OPS));
    let compare = vec![pb::Compare { key: key("a"), ..Default::default() }; 129];
    assert_eq!(
        request::txn(pb::TxnRequest { compare, ..pb::TxnRequest::default() }),
        Err(TOO_MANY_OPS)
    );
}

#[test]
fn a_nested_level_gets_what_its_parent_left() {
    let parent = |nested: usize| {
        let mut operations = vec![nested_operation(txn_of(many_puts(nested)))];
        operations.extend((0..99).map(|_| range_operation(false)));
        txn_of(operations)
    };
    assert!(request::txn(parent(28)).is_ok());
    assert_eq!(request::txn(parent(29)), Err(TOO_MANY_OPS));
}

#[test]
fn a_transaction_nests_to_a_named_depth() {
    let nest = |depth: usize| {
        (1..depth).fold(txn_of(vec![]), |inner, _| txn_of(vec![nested_operation(inner)]))
    };
    assert!(request::txn(nest(TRANSACTION_DEPTH_MAX)).is_ok());
    assert_eq!(request::txn(nest(TRANSACTION_DEPTH_MAX + 1)), Err(TOO_MANY_OPS));
    // The decoder follows that far, so that the refusal is the protocol's.
    let encoded = nest(TRANSACTION_DEPTH_MAX + 1).encode_to_vec();
    assert!(pb::TxnRequest::decode(&encoded[..]).is_ok());
}

#[test]
fn the_largest_transaction_fits_a_log_entry() {
    // Three levels of 42 operations, two branches each, are within what the protocol allows.
    let both = |operations: Vec<pb::RequestOp>| {
        nested_operation(pb::TxnRequest {
            success: operations.clone(),
            failure: operations,
            ..pb::TxnRequest::default()
        })
    };
    let leaves = vec![range_operation(false); 42];
    let middle = vec![both(leaves); 42];
    let top = vec![both(middle.clone()); 42];
    assert_eq!(request::txn(txn_of(top)), Err(TOO_MANY_OPS));

    // One such level stays below the bound on items; fill up to the bound on bytes.
    let mut operations = vec![both(middle)];
    let bytes = txn_of(operations.clone()).encoded_len() + 32;
    let put = pb::PutRequest {
        key: key("k"),
        value: Bytes::from(vec![0; REQUEST_BYTES_MAX - bytes]),
        ..pb::PutRequest::default()
    };
    operations.push(operation(pb::request_op::Request::RequestPut(put)));
    let Ok(TxnPlan::Write(command)) = request::txn(txn_of(operations)) else { panic!("refused") };
    assert!(command.weight() <= replica::COMMAND_BYTES);
    let envelope = Envelope {
        session: SessionId::default(),
        sequence: 0,
        answered_below: 0,
        advisory_time_ms: 0,
        caller: None,
        command,
    };
    let entry = envelope.encode();
    assert!(entry.len() <= replica::COMMAND_BYTES);
    assert_eq!(Envelope::decode(entry), Ok(envelope));
}

#[test]
fn a_transaction_that_puts_a_key_twice_is_refused() {
    let twice = txn_of(vec![put_operation("a"), put_operation("a")]);
    assert_eq!(request::txn(twice), Err(DUPLICATE_KEY));
}

#[test]
fn an_operation_without_content_is_key_not_found() {
    let empty = txn_of(vec![pb::RequestOp { request: None }]);
    assert_eq!(request::txn(empty), Err(KEY_NOT_FOUND));
}

#[test]
fn a_transaction_is_proposed_only_if_it_can_write() {
    let plan = |operations| request::txn(txn_of(operations)).unwrap();
    let consistency = |operations| match plan(operations) {
        TxnPlan::Read(_, consistency) => consistency,
        TxnPlan::Write(command) => panic!("proposed {command:?}"),
    };
    assert_eq!(consistency(vec![]), Consistency::Linearizable);
    assert_eq!(consistency(vec![range_operation(true)]), Consistency::Serializable);
    let mixed = vec![range_operation(true), range_operation(false)];
    assert_eq!(consistency(mixed), Consistency::Linearizable);
    let writes = vec![nested_operation(txn_of(vec![put_operation("a")]))];
    let TxnPlan::Write(Command::Txn(txn)) = plan(writes) else { panic!("not proposed") };
    assert!(matches!(&txn.success[..], [TxnOp::Txn(nested)] if nested.success.len() == 1));
}

#[test]
fn an_absent_operand_counts_as_zero_as_json_clients_expect() {
    let compare = |target, target_union| {
        let compare =
            vec![pb::Compare { key: key("a"), target, target_union, ..Default::default() }];
        let request = pb::TxnRequest { compare, ..pb::TxnRequest::default() };
        let TxnPlan::Read(txn, _) = request::txn(request).unwrap() else { panic!("no writes") };
        txn.compare[0].target.clone()
    };
    assert_eq!(compare(1, None), CompareTarget::Create(0));
    assert_eq!(compare(3, None), CompareTarget::Value(Bytes::new()));
    let version = Some(pb::compare::TargetUnion::Version(5));
    assert_eq!(compare(0, version.clone()), CompareTarget::Version(5));
    assert_eq!(compare(2, version), CompareTarget::Mod(0));
}

#[test]
fn an_unknown_comparison_is_refused_in_plain_words() {
    let compare = vec![pb::Compare { key: key("a"), target: 9, ..Default::default() }];
    let error = request::txn(pb::TxnRequest { compare, ..pb::TxnRequest::default() }).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(error.message.contains("target has the unknown number 9"), "{error}");
}

const ANSWERER: Answerer = Answerer { cluster_id: 11, member: clocks::NodeId(22) };
const TERM: clocks::Term = clocks::Term(33);

fn version_of(name: &'static str, mod_revision: i64) -> KeyValue {
    KeyValue {
        key: key(name),
        value: key("v"),
        create_revision: 2,
        mod_revision,
        version: 4,
        lease: 5,
    }
}

#[test]
fn a_reply_says_who_answered_and_at_which_revision() {
    let reply = RangeReply { revision: 9, pairs: vec![version_of("a", 3)], more: true, count: 8 };
    let response = ANSWERER.range(TERM, reply);
    let header = response.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id), (11, 22));
    assert_eq!((header.revision, header.raft_term), (9, 33));
    assert_eq!((response.more, response.count), (true, 8));
    let pair = &response.kvs[0];
    assert_eq!((&pair.key[..], &pair.value[..]), (&b"a"[..], &b"v"[..]));
    assert_eq!((pair.create_revision, pair.mod_revision), (2, 3));
    assert_eq!((pair.version, pair.lease), (4, 5));
}

#[test]
fn steps_before_the_first_change_say_the_revision_before_it() {
    let nothing_deleted = TxnOpReply::DeleteRange { deleted: 0, previous: vec![] };
    let replies = vec![
        TxnOpReply::Range(RangeReply::default()),
        nothing_deleted.clone(),
        TxnOpReply::Put { previous: Some(version_of("a", 3)) },
        TxnOpReply::Txn(TxnReply { succeeded: false, replies: vec![nothing_deleted] }),
    ];
    let reply = TxnReply { succeeded: true, replies };
    let response = ANSWERER.txn(TERM, Outcome::Txn { revision: 9, reply }).unwrap();
    assert_eq!(response.header.unwrap().revision, 9);
    let revisions: Vec<_> = response
        .responses
        .iter()
        .map(|step| match step.response.as_ref().unwrap() {
            pb::response_op::Response::ResponseRange(range) => range.header.unwrap().revision,
            pb::response_op::Response::ResponsePut(put) => put.header.unwrap().revision,
            pb::response_op::Response::ResponseDeleteRange(delete) => {
                delete.header.unwrap().revision
            }
            pb::response_op::Response::ResponseTxn(nested) => {
                assert_eq!(nested.header, Some(pb::ResponseHeader::default()));
                -1
            }
        })
        .collect();
    assert_eq!(revisions, [8, 8, 9, -1]);
}

#[test]
fn an_outcome_of_another_command_is_an_error_and_no_panic() {
    let error = ANSWERER.put(TERM, Outcome::Compacted { revision: 3 }).unwrap_err();
    assert_eq!(error.code, Code::Unknown);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(decoded) = pb::TxnRequest::decode(&bytes[..]) {
            let _ = request::txn(decoded);
        }
        if let Ok(decoded) = pb::RangeRequest::decode(&bytes[..]) {
            let _ = request::range(decoded);
        }
        if let Ok(decoded) = pb::PutRequest::decode(&bytes[..]) {
            let _ = request::put(decoded);
        }
        if let Ok(decoded) = pb::DeleteRangeRequest::decode(&bytes[..]) {
            let _ = request::delete_range(decoded);
        }
        let _ = pb::WatchRequest::decode(&bytes[..]);
    }

    #[test]
    fn a_bent_transaction_never_panics(at in 0_usize..80, with in any::<u8>()) {
        let inner = txn_of(vec![put_operation("b"), range_operation(true)]);
        let compare = pb::Compare { key: key("a"), range_end: key("b"), ..Default::default() };
        let compare = vec![compare];
        let sound = pb::TxnRequest { compare, ..txn_of(vec![nested_operation(inner)]) };
        let mut bytes = sound.encode_to_vec();
        let at = at % bytes.len();
        bytes[at] = with;
        if let Ok(decoded) = pb::TxnRequest::decode(&bytes[..]) {
            let _ = request::txn(decoded);
        }
    }
}
