//! The watch hub under random schedules, against what its watchers must see; and etcd's watch
//! traps by name.

use crate::support::{Group, bytes, key, span};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use store::command::{Command, DeleteRange, Put, Txn, TxnOp};
use store::range::{KeyRange, Revision};
use store::{
    Event, EventKind, Reader, RevisionEvents, StreamId, WatchHub, WatchLimits, WatchRequest,
    WatchResponse,
};

const STREAM: StreamId = StreamId(1);
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

fn small() -> WatchLimits {
    WatchLimits {
        stream_bytes_max: 1000,
        response_bytes_max: 300,
        stream_watchers_max: 5,
        catch_up_watchers_max: 2,
        catch_up_bytes_max: 600,
    }
}

fn watch(keys: KeyRange, start_revision: Revision) -> WatchRequest {
    WatchRequest {
        watch_id: None,
        keys,
        start_revision,
        no_put: false,
        no_delete: false,
        prev_kv: false,
        progress_notify: false,
        fragment: false,
    }
}

/// A keyspace and a hub, told what is applied when the test says so.
struct World {
    group: Group,
    hub: WatchHub,
    /// How many of the group's revisions the hub was told.
    told: usize,
}

impl World {
    fn new(limits: WatchLimits) -> World {
        let group = Group::keyspace();
        let mut hub = WatchHub::new(limits, group.machine.revision());
        hub.open_stream(STREAM);
        World { group, hub, told: 0 }
    }

    fn tell(&mut self) {
        let changes = self.group.events[self.told..].to_vec();
        self.told = self.group.events.len();
        self.hub.handle_applied(self.group.machine.revision(), &changes);
    }

    fn put(&mut self, key: &str, value: &str) {
        self.group.put(key, value);
        self.tell();
    }

    fn catch_up(&mut self) {
        let reader = self.group.machine.reader();
        while self.hub.catch_up(&reader, 3).expect("memory does not fail") {}
    }

    /// Everything that can be sent now, consumed at once.
    fn drain(&mut self) -> Vec<WatchResponse> {
        let mut all = Vec::new();
        while let Some((stream, response)) = self.hub.poll() {
            self.hub.consumed(stream, response.weight);
            all.push(response);
        }
        all
    }

    fn settle(&mut self) -> Vec<WatchResponse> {
        let mut all = self.drain();
        while self.hub.wants_catch_up() {
            self.catch_up();
            all.extend(self.drain());
        }
        all
    }
}

fn revisions(responses: &[WatchResponse]) -> Vec<Revision> {
    let events = responses.iter().flat_map(|response| response.events.iter());
    events.map(|event| event.pair.mod_revision).collect()
}

#[test]
fn progress_is_never_ahead_of_events() {
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(key("a"), 0));
    world.drain();
    world.group.put("a", "1");
    // Applied, but the hub was not told: progress reports the hub's revision.
    world.hub.request_progress(STREAM);
    let progress = world.drain();
    assert_eq!((progress[0].watch_id, progress[0].revision), (-1, 1));
    world.tell();
    world.hub.request_progress(STREAM);
    let (event, progress) = (world.hub.poll().unwrap().1, world.hub.poll().unwrap().1);
    assert_eq!((event.revision, event.events.len()), (2, 1));
    assert_eq!((progress.progress, progress.revision), (true, 2));
}

#[test]
fn progress_waits_until_every_watcher_of_the_stream_is_synced() {
    let mut world = World::new(small());
    world.put("a", "1");
    world.hub.create(STREAM, watch(key("b"), 0));
    world.hub.create(STREAM, watch(key("a"), 1));
    world.hub.request_progress(STREAM);
    assert!(world.drain().iter().all(|response| !response.progress));
    let responses = world.settle();
    assert_eq!(responses.len(), 2);
    assert_eq!(revisions(&responses[..1]), [2]);
    assert!(responses[1].progress && responses[1].watch_id == -1);
}

#[test]
fn no_time_travel_and_no_loss_after_a_snapshot_install() {
    let mut leader = Group::keyspace();
    let mut world = World::new(small());
    for group in [&mut leader, &mut world.group] {
        group.put("a", "1");
    }
    world.tell();
    world.hub.create(STREAM, watch(key("a"), 0));
    world.hub.create(STREAM, watch(key("b"), 0));
    for number in 0..5 {
        leader.put("a", &number.to_string());
    }
    leader.put("b", "1");
    world.group.install(&leader);
    world.hub.reset_after_snapshot(world.group.machine.revision());
    assert_eq!(revisions(&world.settle()), [3, 4, 5, 6, 7, 8]);
    world.group.follow(leader.sequence());
    world.told = world.group.events.len();
    world.group.put("a", "later");
    world.tell();
    assert_eq!(revisions(&world.settle()), [9]);
}

#[test]
fn a_snapshot_without_the_history_that_a_watcher_lacks_cancels_it() {
    let mut leader = Group::keyspace();
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(key("a"), 0));
    world.drain();
    for number in 0..5 {
        leader.put("a", &number.to_string());
    }
    leader.compact(5);
    world.group.install(&leader);
    world.hub.reset_after_snapshot(6);
    let responses = world.settle();
    assert_eq!((responses[0].canceled, responses[0].compact_revision), (true, 5));
    assert_eq!(responses[0].cancel_reason, COMPACTED);
    assert_eq!(world.hub.stats().watchers, 0);
}

#[test]
fn no_event_is_lost_under_starvation() {
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(key("a"), 0));
    for number in 0..100 {
        // Nothing is consumed meanwhile.
        world.put("a", &format!("{number:050}"));
    }
    assert!(world.hub.stats().outstanding_bytes <= 1000 + 114, "memory is bounded");
    assert_eq!(world.hub.stats().blocked, 1);
    assert_eq!(revisions(&world.settle()), (2..102).collect::<Vec<_>>());
}

#[test]
fn an_event_larger_than_all_room_gets_through() {
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(key("a"), 0));
    world.drain();
    let large = "x".repeat(5_000);
    world.put("a", &large);
    world.put("a", &large);
    world.put("a", "small");
    assert_eq!(revisions(&world.settle()), [2, 3, 4]);
}

#[test]
fn a_quiet_watcher_on_a_slow_stream_is_not_canceled_for_what_it_was_spared() {
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(key("quiet"), 0));
    world.hub.create(STREAM, watch(key("loud"), 0));
    world.drain();
    for number in 0..20 {
        world.put("loud", &format!("{number:050}"));
    }
    // What the quiet watcher has not been sent was not for it.
    world.group.compact(15);
    world.put("quiet", "1");
    assert_eq!(world.hub.stats().blocked, 2);
    let responses = world.settle();
    let quiet: Vec<_> = responses.iter().filter(|response| response.watch_id == 0).collect();
    assert_eq!((quiet.len(), quiet[0].canceled, quiet[0].revision), (1, false, 22));
}

#[test]
fn a_slow_stream_does_not_delay_another() {
    let mut world = World::new(small());
    let other = StreamId(2);
    world.hub.open_stream(other);
    world.hub.create(STREAM, watch(key("a"), 0));
    world.hub.create(other, watch(key("a"), 0));
    for number in 0..100 {
        world.put("a", &format!("{number:050}"));
        while let Some((stream, response)) = world.hub.poll() {
            if stream == other {
                world.hub.consumed(stream, response.weight);
                assert!(response.created || revisions(&[response]) == [number + 2]);
            }
        }
    }
    assert_eq!(world.hub.stats().synced, 1);
}

#[test]
fn events_lost_to_compaction_cancel_the_watcher_that_lacks_them() {
    let mut world = World::new(small());
    for number in 0..4 {
        world.put("a", &number.to_string());
    }
    world.group.compact(4);
    world.hub.create(STREAM, watch(key("a"), 3));
    let responses = world.settle();
    assert!(responses[0].created && !responses[0].canceled);
    assert_eq!((responses[1].canceled, responses[1].compact_revision), (true, 4));
    assert_eq!(responses[1].cancel_reason, COMPACTED);
}

#[test]
fn a_watch_may_start_at_the_compacted_revision() {
    a_watch_starts_at_the_compacted_revision(Group::sweep);
    a_watch_starts_at_the_compacted_revision(|_| ());
}

fn a_watch_starts_at_the_compacted_revision(sweep: fn(&mut Group)) {
    let mut world = World::new(small());
    for number in 0..4 {
        world.put("a", &number.to_string());
    }
    world.group.compact(4);
    sweep(&mut world.group);
    world.hub.create(STREAM, WatchRequest { prev_kv: true, ..watch(key("a"), 4) });
    let responses = world.settle();
    assert_eq!(revisions(&responses), [4, 5]);
    // What came before the compacted revision is gone, even if it is still stored.
    assert_eq!(responses[1].events[0].previous, None);
    assert_eq!(responses[1].events[1].previous.as_ref().unwrap().mod_revision, 4);
}

#[test]
fn a_delete_is_not_lost_when_compacting_on_its_revision() {
    let mut world = World::new(small());
    world.put("a", "1");
    let deleted = world.group.delete(key("a"));
    world.tell();
    world.put("b", "1");
    world.group.compact(deleted);
    world.group.sweep();
    world.hub.create(STREAM, watch(key("a"), deleted));
    let responses = world.settle();
    assert_eq!(revisions(&responses), [deleted]);
    assert_eq!(responses[1].events[0].kind, EventKind::Delete);
}

#[test]
fn a_future_watch_gets_no_older_events() {
    let mut world = World::new(small());
    world.hub.create(STREAM, WatchRequest { progress_notify: true, ..watch(key("a"), 4) });
    world.hub.handle_tick();
    world.hub.request_progress(STREAM);
    world.put("a", "1");
    world.put("a", "2");
    let responses = world.settle();
    assert_eq!(responses.len(), 1, "neither events nor progress: {responses:?}");
    world.put("a", "3");
    world.put("a", "4");
    assert_eq!(revisions(&world.settle()), [4, 5]);
}

#[test]
fn a_future_watch_gets_no_older_events_after_a_snapshot_install() {
    let mut leader = Group::keyspace();
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(key("a"), 4));
    for number in 0..4 {
        leader.put("a", &number.to_string());
    }
    world.group.install(&leader);
    world.hub.reset_after_snapshot(5);
    assert_eq!(revisions(&world.settle()), [4, 5]);
}

#[test]
fn a_negative_start_revision_is_refused_as_compacted() {
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(key("a"), -1));
    let response = &world.drain()[0];
    assert!(response.created && response.canceled);
    assert_eq!((response.watch_id, response.compact_revision), (-1, 0));
    assert_eq!(response.cancel_reason, COMPACTED);
}

#[test]
fn a_rejected_create_answers_created_and_canceled_with_id_minus_one() {
    let mut world = World::new(small());
    let chosen = WatchRequest { watch_id: Some(7), ..watch(key("a"), 0) };
    world.hub.create(STREAM, chosen.clone());
    world.hub.create(STREAM, chosen);
    world.hub.create(STREAM, watch(span("b", "a"), 0));
    for number in 0..5 {
        world.hub.create(STREAM, watch(key(&number.to_string()), 0));
    }
    let answers: Vec<_> = world
        .drain()
        .into_iter()
        .map(|response| (response.watch_id, response.canceled, response.cancel_reason))
        .collect();
    let refused = |reason: &str| (-1, true, reason.to_owned());
    assert_eq!(answers[0], (7, false, String::new()));
    assert_eq!(answers[1], refused("mvcc: duplicate watch ID provided on the WatchStream"));
    assert_eq!(answers[2], refused("mvcc: watcher range is empty"));
    assert_eq!(answers[3].0, 0, "ids are assigned from 0");
    assert_eq!(answers[7], refused("quorate: too many watches on this stream"));
}

#[test]
fn ids_are_assigned_around_chosen_ones_and_free_after_a_cancel() {
    let mut world = World::new(small());
    for watch_id in [Some(1), None, None] {
        world.hub.create(STREAM, WatchRequest { watch_id, ..watch(key("a"), 0) });
    }
    world.hub.cancel(STREAM, 1);
    world.hub.cancel(STREAM, 99);
    world.hub.create(STREAM, WatchRequest { watch_id: Some(1), ..watch(key("a"), 0) });
    let ids: Vec<_> =
        world.drain().iter().map(|response| (response.watch_id, response.canceled)).collect();
    assert_eq!(ids, [(1, false), (0, false), (2, false), (1, true), (1, false)]);
}

#[test]
fn filters_leave_out_events_and_the_responses_that_would_be_empty() {
    let mut world = World::new(small());
    let all = span("a", "z");
    world.hub.create(STREAM, WatchRequest { no_put: true, ..watch(all.clone(), 0) });
    world.hub.create(STREAM, WatchRequest { no_delete: true, ..watch(all.clone(), 0) });
    world.drain();
    world.put("a", "1");
    world.group.delete(all);
    world.tell();
    let seen: Vec<_> = world
        .settle()
        .iter()
        .map(|response| (response.watch_id, response.events[0].kind, response.revision))
        .collect();
    assert_eq!(seen, [(1, EventKind::Put, 2), (0, EventKind::Delete, 3)]);
}

#[test]
fn previous_versions_and_creations_are_told_right() {
    for start in [0, 2] {
        let mut world = World::new(small());
        if start == 0 {
            world.hub.create(STREAM, WatchRequest { prev_kv: true, ..watch(key("a"), start) });
        }
        world.put("a", "1");
        world.put("a", "2");
        world.group.delete(key("a"));
        world.tell();
        world.put("a", "3");
        if start == 2 {
            world.hub.create(STREAM, WatchRequest { prev_kv: true, ..watch(key("a"), start) });
        }
        let responses = world.settle();
        let events: Vec<_> = responses.iter().flat_map(|response| response.events.iter()).collect();
        let previous = |event: &&Event| event.previous.as_ref().map(|pair| pair.value.clone());
        let seen: Vec<_> =
            events.iter().map(|event| (event.is_create(), previous(event))).collect();
        let expected =
            [(true, None), (false, Some(bytes("1"))), (false, Some(bytes("2"))), (true, None)];
        assert_eq!(seen, expected, "start {start}");
        assert!(responses.iter().all(|response| response.created || response.with_previous));
        assert_eq!(events[2].pair.mod_revision, 4, "a deletion has its revision");
        assert_eq!((events[2].pair.version, &events[2].pair.value), (0, &Bytes::new()));
    }
}

#[test]
fn periodic_progress_is_left_out_after_events() {
    let mut world = World::new(small());
    world.hub.create(STREAM, WatchRequest { progress_notify: true, ..watch(key("a"), 0) });
    world.put("a", "1");
    world.drain();
    world.hub.handle_tick();
    assert_eq!(world.drain(), []);
    world.put("b", "1");
    world.hub.handle_tick();
    let progress = world.drain();
    assert_eq!((progress.len(), progress[0].watch_id, progress[0].revision), (1, 0, 3));
}

#[test]
fn large_revisions_are_whole_unless_fragments_are_asked_for() {
    let mut world = World::new(small());
    world.hub.create(STREAM, watch(span("a", "z"), 0));
    world.hub.create(STREAM, WatchRequest { fragment: true, ..watch(span("a", "z"), 0) });
    world.drain();
    let put = |number: u8| {
        let key = Bytes::copy_from_slice(&[b'a' + number]);
        TxnOp::Put(Put { key, value: Bytes::from(vec![0; 50]), ..Put::default() })
    };
    let txn = Txn { success: (0..6).map(put).collect(), ..Txn::default() };
    world.group.enter(Command::Txn(txn)).unwrap();
    world.tell();
    let responses = world.settle();
    let of = |id| responses.iter().filter(move |response| response.watch_id == id);
    assert_eq!(of(0).map(|response| response.events.len()).collect::<Vec<_>>(), [6]);
    let parts: Vec<_> = of(1).map(|part| (part.events.len(), part.fragment)).collect();
    assert_eq!(parts, [(2, true), (2, true), (2, false)]);
    assert!(of(1).all(|part| part.revision == 2));
}

#[test]
fn watchers_of_the_same_events_share_them() {
    let mut world = World::new(WatchLimits::default());
    for _ in 0..3 {
        world.hub.create(STREAM, watch(key("a"), 0));
    }
    world.drain();
    world.put("a", "1");
    let responses = world.drain();
    assert!(responses.windows(2).all(|two| std::sync::Arc::ptr_eq(&two[0].events, &two[1].events)));
}

#[test]
fn ten_thousand_watches_on_one_stream() {
    const WATCHES: usize = 10_000;
    let mut world = World::new(WatchLimits::default());
    let name = |number: usize| format!("k{:05}", number % WATCHES);
    for number in 0..WATCHES {
        // Single keys, nested ranges and the past, in turn.
        let start = if number % 3 == 2 { 1 } else { 0 };
        let keys = match number % 2 {
            0 => key(&name(number)),
            _ => span(&name(number / 2), &name(WATCHES - 1 - number / 2)),
        };
        world.hub.create(STREAM, watch(keys, start));
    }
    assert_eq!(world.drain().len(), WATCHES);
    world.settle();
    assert_eq!(world.hub.stats().synced, WATCHES);
    for number in (0..WATCHES).step_by(1_000) {
        world.put(&name(number), "1");
        let (single, nested) = (1, 1 + number.min(WATCHES - 2 - number));
        let events = world.settle().iter().map(|response| response.events.len()).sum::<usize>();
        assert_eq!(events, single + nested, "{number}");
    }
}

#[test]
fn a_closed_stream_leaves_nothing() {
    let mut world = World::new(small());
    world.put("a", "1");
    world.hub.create(STREAM, WatchRequest { progress_notify: true, ..watch(key("a"), 1) });
    world.hub.create(STREAM, watch(span("a", "b"), 0));
    world.hub.close_stream(STREAM);
    world.hub.handle_tick();
    world.put("a", "2");
    assert_eq!(world.settle(), []);
    assert_eq!(world.hub.stats(), store::WatchStats::default());
}

/// A step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8, u8),
    Tell,
    Compact(u8),
    Sweep,
    Create {
        stream: u64,
        keys: u8,
        start: Revision,
        filters: (bool, bool),
        fragment: bool,
    },
    Cancel {
        stream: u64,
        id: i64,
    },
    CatchUp,
    /// With a reader opened before.
    CatchUpStale,
    KeepReader,
    Poll,
    Consume,
    Progress(u64),
    Tick,
    Install(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let stream = || 1..3u64;
    prop_oneof![
        8 => (0..4u8).prop_map(Step::Put),
        2 => (0..4u8, 0..5u8).prop_map(|(from, to)| Step::Delete(from, to)),
        6 => Just(Step::Tell),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Sweep),
        4 => (stream(), 0..7u8, -1..20i64, any::<(bool, bool)>(), any::<bool>()).prop_map(
            |(stream, keys, start, filters, fragment)| {
                let filters = (filters.0 && keys % 2 == 0, filters.1 && keys % 3 == 0);
                Step::Create { stream, keys, start, filters, fragment }
            }
        ),
        1 => (stream(), 0..5i64).prop_map(|(stream, id)| Step::Cancel { stream, id }),
        4 => Just(Step::CatchUp),
        2 => Just(Step::CatchUpStale),
        1 => Just(Step::KeepReader),
        6 => Just(Step::Poll),
        3 => Just(Step::Consume),
        2 => stream().prop_map(Step::Progress),
        1 => Just(Step::Tick),
        1 => any::<u8>().prop_map(Step::Install),
    ]
}

fn name(number: u8) -> String {
    char::from(b'a' + number).to_string()
}

fn watched(keys: u8) -> KeyRange {
    match keys {
        0..4 => key(&name(keys)),
        4 => span("b", "d"),
        5 => span("a", "b"),
        _ => KeyRange::From(bytes("b")),
    }
}

/// What a watcher was sent, checked as it comes.
struct Seen {
    request: WatchRequest,
    /// It must have been sent everything up to here.
    told: Revision,
    last: Revision,
    within_fragment: bool,
}

/// What all watchers must see.
struct Observer {
    history: Vec<RevisionEvents>,
    seen: BTreeMap<(StreamId, i64), Seen>,
    requested: BTreeMap<StreamId, Vec<WatchRequest>>,
}

impl Observer {
    fn expected(&self, seen: &Seen, revision: Revision) -> Vec<Event> {
        let change = self.history.iter().find(|change| change.revision == revision);
        let wants = |event: &&Event| {
            seen.request.keys.contains(&event.pair.key)
                && match event.kind {
                    EventKind::Put => !seen.request.no_put,
                    EventKind::Delete => !seen.request.no_delete,
                }
        };
        change.map_or(Vec::new(), |change| change.events.iter().filter(wants).cloned().collect())
    }

    fn observe(&mut self, stream: StreamId, response: &WatchResponse, hub: Revision) {
        assert!(response.revision <= hub);
        if response.created {
            let request = self.requested.get_mut(&stream).unwrap().remove(0);
            if response.watch_id >= 0 {
                let told = if request.start_revision == 0 {
                    response.revision
                } else {
                    request.start_revision - 1
                };
                let seen = Seen { request, told, last: 0, within_fragment: false };
                let fresh = self.seen.insert((stream, response.watch_id), seen).is_none();
                assert!(fresh, "an id is of one watcher at a time");
            }
            return;
        }
        if response.canceled {
            let seen = self.seen.remove(&(stream, response.watch_id)).expect("it was created");
            if response.compact_revision > 0 {
                assert!(seen.told + 1 < response.compact_revision, "it lacked nothing lost");
            }
            return;
        }
        if response.progress {
            let ids: Vec<_> = self.seen.keys().copied().collect();
            for id in ids.into_iter().filter(|id| {
                id.0 == stream && (response.watch_id == -1 || id.1 == response.watch_id)
            }) {
                self.nothing_between(id, response.revision);
            }
            return;
        }
        self.observe_events((stream, response.watch_id), response);
    }

    fn observe_events(&mut self, id: (StreamId, i64), response: &WatchResponse) {
        let first = response.events[0].pair.mod_revision;
        let last = response.events.last().unwrap().pair.mod_revision;
        assert_eq!(response.revision, last, "no progress beyond what is carried");
        let mut carried = response.events.iter().cloned().peekable();
        if self.seen[&id].within_fragment || response.fragment {
            assert!(self.seen[&id].request.fragment && first == last);
        } else {
            for revision in self.seen[&id].told + 1..=last {
                let mut expected = self.expected(&self.seen[&id], revision);
                for event in &mut expected {
                    let carried = carried.next().expect("an event is missing");
                    assert_eq!((&carried.pair, carried.kind), (&event.pair, event.kind));
                }
            }
            assert_eq!(carried.next(), None, "events twice or out of order");
        }
        let seen = self.seen.get_mut(&id).unwrap();
        assert!(first > seen.told, "an event twice, or older than asked for");
        seen.within_fragment = response.fragment;
        seen.last = last;
        if !response.fragment {
            seen.told = last;
        }
    }

    /// The watcher was told of nothing up to `revision`, rightly.
    fn nothing_between(&mut self, id: (StreamId, i64), revision: Revision) {
        let seen = &self.seen[&id];
        for skipped in seen.told + 1..=revision {
            assert_eq!(self.expected(seen, skipped), [], "progress ahead of events");
        }
        let seen = self.seen.get_mut(&id).unwrap();
        seen.told = seen.told.max(revision);
    }
}

/// A world, who observes it, and what is handed out and not consumed.
struct Run {
    world: World,
    observer: Observer,
    handed_out: BTreeMap<StreamId, usize>,
    kept: Reader,
}

impl Run {
    fn new() -> Run {
        let mut world = World::new(small());
        world.hub.open_stream(StreamId(2));
        let (history, seen, requested) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let observer = Observer { history, seen, requested };
        let kept = world.group.machine.reader();
        Run { world, observer, handed_out: BTreeMap::new(), kept }
    }

    fn take(&mut self, step: Step) {
        let (group, hub) = (&mut self.world.group, &mut self.world.hub);
        match step {
            Step::Put(key) => drop(group.put(&name(key), "0123456789")),
            Step::Delete(from, to) => drop(group.delete(span(&name(from), &name(to)))),
            Step::Tell => self.world.tell(),
            Step::Compact(part) => {
                let revision = group.machine.revision() * i64::from(part) / 255;
                drop(group.enter(Command::Compact { revision }));
            }
            Step::Sweep => group.sweep(),
            Step::Create { stream, keys, start, filters, fragment } => {
                let request = WatchRequest {
                    no_put: filters.0,
                    no_delete: filters.1,
                    fragment,
                    progress_notify: fragment,
                    ..watch(watched(keys), start)
                };
                let stream = StreamId(stream);
                self.observer.requested.entry(stream).or_default().push(request.clone());
                hub.create(stream, request);
            }
            Step::Cancel { stream, id } => hub.cancel(StreamId(stream), id),
            Step::CatchUp => drop(hub.catch_up(&group.machine.reader(), 2).unwrap()),
            Step::CatchUpStale => drop(hub.catch_up(&self.kept, 2).unwrap()),
            Step::KeepReader => self.kept = group.machine.reader(),
            Step::Poll => drop(self.poll()),
            Step::Consume => self.consume(),
            Step::Progress(stream) => hub.request_progress(StreamId(stream)),
            Step::Tick => hub.handle_tick(),
            Step::Install(puts) => {
                let events = install_newer(group, puts % 5);
                group.events.extend(events);
                self.world.told = group.events.len();
                hub.reset_after_snapshot(group.machine.revision());
            }
        }
    }

    fn poll(&mut self) -> Option<()> {
        let (stream, response) = self.world.hub.poll()?;
        self.observer.history = self.world.group.events.clone();
        self.observer.observe(stream, &response, self.world.hub.revision());
        *self.handed_out.entry(stream).or_default() += response.weight;
        Some(())
    }

    fn consume(&mut self) {
        for (stream, weight) in std::mem::take(&mut self.handed_out) {
            self.world.hub.consumed(stream, weight);
        }
    }

    /// Everybody reads on until there is nothing more to say.
    fn finish(mut self) {
        self.world.tell();
        self.consume();
        while self.poll().is_some() || self.world.hub.wants_catch_up() {
            self.consume();
            self.world.catch_up();
        }
        let stats = self.world.hub.stats();
        assert_eq!((stats.synced, stats.outstanding_bytes), (stats.watchers, 0));
        self.observer.history = self.world.group.events.clone();
        for id in self.observer.seen.keys().copied().collect::<Vec<_>>() {
            self.observer.nothing_between(id, self.world.hub.revision());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Ordered, unique, atomic per revision, reliable, resumable, bookmarkable, filtered.
    #[test]
    fn every_watcher_sees_exactly_its_events_under_any_schedule(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut run = Run::new();
        steps.into_iter().for_each(|step| run.take(step));
        run.finish();
    }
}

/// Replaces the group's state by that of a member that is `puts` revisions ahead.
fn install_newer(group: &mut Group, puts: u8) -> Vec<RevisionEvents> {
    let mut leader = group.crashed(usize::MAX);
    leader.enter(Command::DeleteRange(DeleteRange { keys: key("none"), prev_kv: false })).unwrap();
    for number in 0..puts {
        leader.put(&name(number % 4), "snapshot");
    }
    group.install(&leader);
    group.follow(leader.sequence());
    leader.events
}
