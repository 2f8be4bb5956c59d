//! The watch checker: recordings of a correct service pass, however batched, filtered and resumed;
//! each way of breaking them is found under the name of the promise it breaks.

use std::collections::BTreeMap;

use checkers::history::{History, Input, Operation, Outcome, Output, Revision};
use checkers::watch::{Property, Received, Recording, Reference, Selector, WatchEvent, check};
use proptest::prelude::*;

type Changes = Vec<Vec<(u8, Option<u8>)>>;

/// Every revision changes one to three different keys.
fn any_changes() -> impl Strategy<Value = Changes> {
    let revision = prop::collection::btree_map(0..4_u8, prop::option::of(any::<u8>()), 1..4);
    prop::collection::vec(revision.prop_map(|keys| keys.into_iter().collect()), 1..30)
}

/// How one watcher is served: what it asks for, and what happens after each revision.
#[derive(Clone, Debug)]
struct Plan {
    first_key: u8,
    end_key: u8,
    puts: bool,
    deletes: bool,
    previous_values: bool,
    /// 0: respond; 1: respond, then progress; 2: respond, then resume; others: wait.
    rhythm: Vec<u8>,
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let rhythm = prop::collection::vec(0..6_u8, 30);
    (0..3_u8, 1..5_u8, 0..4_u8, any::<bool>(), rhythm).prop_map(
        |(first_key, keys, kinds, previous_values, rhythm)| Plan {
            first_key,
            end_key: first_key + keys,
            puts: kinds != 0,
            deletes: kinds != 1,
            previous_values,
            rhythm,
        },
    )
}

fn key(number: u8) -> Vec<u8> {
    vec![b'k', number]
}

fn value(number: u8) -> Vec<u8> {
    vec![b'v', number]
}

/// All events by revision, from 2 on. A deletion of what is absent is no change.
fn events(changes: &Changes) -> Vec<Vec<WatchEvent>> {
    let mut live: BTreeMap<Vec<u8>, (Vec<u8>, Revision, Revision)> = BTreeMap::new();
    let mut all = Vec::new();
    for keys in changes {
        let revision = 2 + all.len() as Revision;
        let mut events = Vec::new();
        for (number, new) in keys {
            let key = key(*number);
            let before = live.get(&key).cloned();
            let previous = before.clone().map(|(value, _, modified)| (value, modified));
            let create_revision = match (new, before) {
                (None, None) => continue,
                (None, Some(_)) => 0,
                (Some(_), Some((_, created, _))) => created,
                (Some(_), None) => revision,
            };
            match new {
                Some(new) => live.insert(key.clone(), (value(*new), create_revision, revision)),
                None => live.remove(&key),
            };
            let value = new.map(value);
            events.push(WatchEvent { revision, key, value, create_revision, previous });
        }
        if !events.is_empty() {
            all.push(events);
        }
    }
    all
}

fn reference(all: &[Vec<WatchEvent>]) -> Reference {
    let mut reference = Reference::new();
    for event in all.iter().flatten() {
        reference.record(event.revision, &event.key, event.value.as_deref());
    }
    reference
}

/// What a correct service sends.
fn serve(all: &[Vec<WatchEvent>], plan: &Plan, name: &str) -> Recording {
    let selector = Selector { key: key(plan.first_key), range_end: key(plan.end_key) };
    let mut received = vec![Received::Opened { start: 2 }];
    let mut waiting = Vec::new();
    let mut revision = 1;
    for (events, rhythm) in all.iter().zip(&plan.rhythm) {
        revision += 1;
        let wanted = events.iter().filter(|event| {
            let kind = if event.value.is_some() { plan.puts } else { plan.deletes };
            kind && selector.selects(&event.key)
        });
        waiting.extend(wanted.cloned().map(|mut event| {
            event.previous = event.previous.filter(|_| plan.previous_values);
            event
        }));
        if *rhythm > 2 {
            continue;
        }
        if !waiting.is_empty() {
            received.push(Received::Events(std::mem::take(&mut waiting)));
        }
        match rhythm {
            1 => received.push(Received::Progress(revision)),
            2 => received.push(Received::Opened { start: 0 }),
            _ => {}
        }
    }
    resume_after_the_last(&mut received);
    Recording {
        watcher: name.to_owned(),
        selector,
        puts: plan.puts,
        deletes: plan.deletes,
        previous_values: plan.previous_values,
        received,
        caught_up: None,
    }
}

/// As clients do: each watch after the first starts after what came last.
fn resume_after_the_last(received: &mut [Received]) {
    let mut next = 2;
    for received in received {
        match received {
            Received::Opened { start } => *start = next,
            Received::Events(events) => {
                next = events.last().map_or(next, |event| event.revision + 1);
            }
            Received::Progress(revision) => next = *revision + 1,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn a_correct_service_passes(
        changes in any_changes(),
        first in any_plan(),
        second in any_plan(),
    ) {
        let all = events(&changes);
        let recordings = [serve(&all, &first, "w1"), serve(&all, &second, "w2")];
        prop_assert_eq!(check(&reference(&all), &recordings), vec![]);
    }

    #[test]
    fn any_event_left_out_is_found(
        changes in any_changes(),
        plan in any_plan(),
        chosen in any::<prop::sample::Index>(),
    ) {
        let all = events(&changes);
        let mut recording = serve(&all, &plan, "w1");
        let batches = recording.received.iter_mut().filter_map(|received| match received {
            Received::Events(events) => Some(events),
            _ => None,
        });
        let mut batches = batches.collect::<Vec<_>>();
        prop_assume!(!batches.is_empty());
        let batch = chosen.index(batches.len());
        let event = chosen.index(batches[batch].len());
        batches[batch].remove(event);
        resume_after_the_last(&mut recording.received);
        recording.caught_up = Some(1 + all.len() as Revision);
        prop_assert!(!check(&reference(&all), &[recording]).is_empty());
    }

    #[test]
    fn any_event_changed_is_found(
        changes in any_changes(),
        plan in any_plan(),
        chosen in any::<prop::sample::Index>(),
        how in 0..5,
    ) {
        let all = events(&changes);
        let mut recording = serve(&all, &plan, "w1");
        let mut told = recording.received.iter_mut().filter_map(|received| match received {
            Received::Events(events) => Some(events),
            _ => None,
        }).flatten().collect::<Vec<_>>();
        prop_assume!(!told.is_empty());
        let event = chosen.index(told.len());
        let event = &mut told[event];
        match how {
            0 => event.value = Some(b"other".to_vec()),
            1 => event.create_revision += 1,
            2 => event.previous = Some((b"other".to_vec(), 1)),
            3 => event.revision += 100,
            _ => event.key.push(b'x'),
        }
        prop_assert!(!check(&reference(&all), &[recording]).is_empty());
    }
}

fn event(revision: Revision, key: &str, value: Option<&str>) -> WatchEvent {
    let create_revision = if value.is_some() { revision } else { 0 };
    let value = value.map(|value| value.as_bytes().to_vec());
    WatchEvent { revision, key: key.into(), value, create_revision, previous: None }
}

fn watcher(received: Vec<Received>) -> Recording {
    Recording {
        watcher: "w1".to_owned(),
        selector: Selector { key: b"a".to_vec(), range_end: b"e".to_vec() },
        puts: true,
        deletes: true,
        previous_values: false,
        received,
        caught_up: None,
    }
}

/// Revision 2 makes "a", 3 makes "b" and "c", 4 makes "d", 5 makes "z".
fn story() -> (Reference, [WatchEvent; 5]) {
    let events = [
        event(2, "a", Some("1")),
        event(3, "b", Some("2")),
        event(3, "c", Some("3")),
        event(4, "d", Some("4")),
        event(5, "z", Some("5")),
    ];
    (reference(&events.clone().map(|event| vec![event])), events)
}

/// The promises broken by these receipts, after a watch was opened at revision 2.
fn broken(received: Vec<Received>) -> Vec<Property> {
    let opened = [Received::Opened { start: 2 }];
    broken_by(watcher(opened.into_iter().chain(received).collect()))
}

fn broken_by(recording: Recording) -> Vec<Property> {
    let violations = check(&story().0, &[recording]);
    violations.into_iter().map(|violation| violation.property).collect()
}

fn together(events: &[&WatchEvent]) -> Received {
    Received::Events(events.iter().map(|event| (*event).clone()).collect())
}

#[test]
fn the_story_itself_breaks_nothing() {
    let (_, [a, b, c, d, _]) = story();
    assert_eq!(broken(vec![together(&[&a, &b, &c]), together(&[&d]), Received::Progress(5)]), []);
    assert_eq!(broken(vec![together(&[&a]), Received::Progress(2), together(&[&b, &c])]), []);
}

#[test]
fn ordered() {
    let (_, [a, b, c, d, _]) = story();
    assert_eq!(broken(vec![together(&[&a, &d]), together(&[&b, &c])]), [Property::Ordered; 2]);
}

#[test]
fn unique() {
    let (_, [a, b, c, ..]) = story();
    let again = vec![together(&[&a, &b, &c]), together(&[&b])];
    assert_eq!(broken(again), [Property::Unique]);
    assert_eq!(broken(vec![together(&[&a, &a])]), [Property::Unique]);
}

#[test]
fn atomic() {
    let (_, [a, b, c, ..]) = story();
    assert_eq!(broken(vec![together(&[&a, &b]), together(&[&c])]), [Property::Atomic]);
    assert_eq!(broken(vec![together(&[&a, &b])]), [Property::Atomic]);
}

#[test]
fn reliable() {
    let (_, [a, b, c, d, _]) = story();
    assert_eq!(broken(vec![together(&[&a, &d])]), [Property::Reliable; 2]);
    assert_eq!(broken(vec![together(&[&a, &b, &c]), Received::Progress(4)]), [Property::Reliable]);
    let mut waiting = watcher(vec![Received::Opened { start: 2 }, together(&[&a, &b, &c])]);
    assert_eq!(broken_by(waiting.clone()), []);
    waiting.caught_up = Some(4);
    assert_eq!(broken_by(waiting), [Property::Reliable]);
}

#[test]
fn resumable() {
    let (_, [a, b, c, d, _]) = story();
    let resumed = |start| vec![together(&[&a]), Received::Opened { start }];
    let with = |start, event| [resumed(start), vec![event]].concat();
    assert_eq!(broken(with(3, together(&[&b, &c]))), []);
    // One revision late.
    assert_eq!(broken(with(3, together(&[&d]))), [Property::Resumable; 2]);
    // One revision early.
    assert_eq!(broken(with(4, together(&[&b, &c]))), [Property::Resumable; 2]);
    // A start revision in the future shows nothing from before.
    assert_eq!(broken(with(100, together(&[&d]))), [Property::Resumable]);
    // What was sent before the watch was created belongs to no watch.
    assert_eq!(broken_by(watcher(vec![together(&[&a])])), [Property::Resumable]);
}

#[test]
fn bookmarkable() {
    let (_, [a, b, c, ..]) = story();
    let early = vec![together(&[&a]), Received::Progress(3), together(&[&b, &c])];
    assert_eq!(broken(early), [Property::Bookmarkable; 2]);
    let behind = vec![together(&[&a, &b, &c]), Received::Progress(2)];
    assert_eq!(broken(behind), [Property::Bookmarkable]);
}

#[test]
fn filtered() {
    let (_, [a, b, c, d, z]) = story();
    let foreign = vec![together(&[&a, &b, &c, &d]), together(&[&z])];
    assert_eq!(broken(foreign), [Property::Filtered]);
    let mut no_puts = watcher(vec![Received::Opened { start: 2 }, together(&[&a])]);
    no_puts.puts = false;
    assert_eq!(broken_by(no_puts), [Property::Filtered]);
}

#[test]
fn genuine() {
    let invented = vec![together(&[&event(2, "a", Some("1")), &event(2, "b", Some("9"))])];
    assert_eq!(broken(invented), [Property::Genuine]);
    let altered = vec![together(&[&event(2, "a", Some("9"))])];
    assert_eq!(broken(altered), [Property::Genuine]);
}

/// "a" is made at 2, changed at 3, deleted at 4, made again at 5.
fn life(change: impl Fn(&mut [WatchEvent; 4])) -> Vec<Property> {
    let mut told = [
        event(2, "a", Some("1")),
        WatchEvent { create_revision: 2, ..event(3, "a", Some("2")) },
        event(4, "a", None),
        event(5, "a", Some("3")),
    ];
    told[1].previous = Some((b"1".to_vec(), 2));
    told[2].previous = Some((b"2".to_vec(), 3));
    let reference = reference(&told.clone().map(|event| vec![event]));
    change(&mut told);
    let received = vec![Received::Opened { start: 2 }, Received::Events(told.to_vec())];
    let recording = Recording { previous_values: true, ..watcher(received) };
    check(&reference, &[recording]).into_iter().map(|violation| violation.property).collect()
}

#[test]
fn previous_value() {
    assert_eq!(life(|_| {}), []);
    assert_eq!(life(|told| told[1].previous = None), [Property::PreviousValue]);
    assert_eq!(life(|told| told[2].previous = None), [Property::PreviousValue]);
    let outdated = |told: &mut [WatchEvent; 4]| told[2].previous = Some((b"1".to_vec(), 2));
    assert_eq!(life(outdated), [Property::PreviousValue]);
    let from_the_dead = |told: &mut [WatchEvent; 4]| told[3].previous = Some((b"2".to_vec(), 3));
    assert_eq!(life(from_the_dead), [Property::PreviousValue]);
}

#[test]
fn is_create() {
    assert_eq!(life(|told| told[0].create_revision = 1), [Property::IsCreate]);
    assert_eq!(life(|told| told[1].create_revision = 3), [Property::IsCreate]);
    assert_eq!(life(|told| told[2].create_revision = 2), [Property::IsCreate]);
    assert_eq!(life(|told| told[3].create_revision = 2), [Property::IsCreate]);
}

#[test]
fn compaction_excuses_a_missing_previous_value() {
    let previous = event(2, "a", Some("1"));
    let change = WatchEvent { create_revision: 2, ..event(3, "a", Some("2")) };
    let mut reference = reference(&[vec![previous], vec![change.clone()]]);
    let received = vec![Received::Opened { start: 3 }, together(&[&change])];
    let recording = [Recording { previous_values: true, ..watcher(received) }];
    assert_eq!(check(&reference, &recording).len(), 1);
    reference.compacted(3);
    assert_eq!(check(&reference, &recording), []);
}

fn put(value: &str, outcome: Outcome) -> Operation {
    let input = Input::Put { value: value.into() };
    Operation { client: 1, key: b"a".to_vec(), input, call: 1, outcome }
}

#[test]
fn a_write_of_unknown_outcome_may_be_seen_but_then_by_all() {
    let known = Outcome::Ok { at: 2, revision: Some(2), output: Output::Put };
    let history: History = [put("1", known), put("2", Outcome::Unknown)].into_iter().collect();
    let reference = Reference::from_history(&history);
    let (first, second) = (event(2, "a", Some("1")), event(3, "a", Some("2")));
    let second = WatchEvent { create_revision: 2, ..second };
    let opened = Received::Opened { start: 2 };
    let saw = watcher(vec![opened.clone(), together(&[&first, &second])]);
    let mut missed = watcher(vec![opened.clone(), together(&[&first]), Received::Progress(3)]);
    missed.watcher = "w2".to_owned();
    assert_eq!(check(&reference, std::slice::from_ref(&saw)), []);
    assert_eq!(check(&reference, std::slice::from_ref(&missed)), []);

    let violations = check(&reference, &[saw, missed]);
    let [violation] = violations.as_slice() else { panic!("one expected: {violations:?}") };
    assert_eq!(
        violation.to_string(),
        "watcher w2: broken promise that no event is left out: revision 3 left \"a\" \"2\", which \
         never came, although the watch starts at 2 and has got as far as 3"
    );

    let invented = watcher(vec![opened, together(&[&first, &event(3, "a", Some("3"))])]);
    assert_eq!(check(&reference, &[invented])[0].property, Property::Genuine);
}

#[test]
fn selectors_are_those_of_etcd() {
    let selector = |key: &str, end: &[u8]| Selector { key: key.into(), range_end: end.to_vec() };
    assert!(selector("b", b"").selects(b"b") && !selector("b", b"").selects(b"ba"));
    assert!(selector("b", b"d").selects(b"cz") && !selector("b", b"d").selects(b"d"));
    assert!(selector("b", b"\0").selects(b"zz") && !selector("b", b"\0").selects(b"a"));
    assert!(Selector::everything().selects(b"\0") && Selector::everything().selects(b"z"));
}

#[test]
fn the_report_is_bounded() {
    let reference = Reference::new();
    let events = (2..2_000).map(|revision| event(revision, "a", Some("x")));
    let received = vec![Received::Opened { start: 2 }, Received::Events(events.collect())];
    assert!(check(&reference, &[watcher(received)]).len() <= 64);
}
