//! How the promises to watchers are checked: one pass over each recording, then a look for what it
//! left out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Property, Received, Recording, Reference, VIOLATIONS_MAX, Violation, WatchEvent};
use crate::history::{Bytes, MaybeBytes, Revision};

/// A key's versions by revision.
pub(super) type Versions = BTreeMap<Vec<u8>, BTreeMap<Revision, Version>>;

pub(super) struct Version {
    value: Option<Vec<u8>>,
    /// 0 for a deletion.
    create_revision: Revision,
}

/// What happened by anybody's account, as changes and as versions of each key.
pub(super) fn everything_seen(
    reference: &Reference,
    recordings: &[Recording],
    violations: &mut Vec<Violation>,
) -> (Reference, Versions) {
    let mut union = reference.clone();
    for recording in recordings {
        let batches = recording.received.iter().filter_map(|received| match received {
            Received::Events(events) => Some(events),
            Received::Opened { .. } | Received::Progress(_) => None,
        });
        for event in batches.flatten() {
            if let Some(why) = falsehood(reference, &union, event) {
                let watcher = recording.watcher.clone();
                violations.push(Violation { watcher, property: Property::Genuine, why });
            } else {
                union.record(event.revision, &event.key, event.value.as_deref());
            }
        }
    }
    let mut versions = Versions::new();
    for (revision, changes) in &union.changes {
        for (key, value) in changes {
            let of_key = versions.entry(key.clone()).or_default();
            let previous = of_key.last_key_value().map_or(0, |(_, last)| last.create_revision);
            let create_revision = match (value, previous) {
                (None, _) => 0,
                (Some(_), 0) => *revision,
                (Some(_), created) => created,
            };
            of_key.insert(*revision, Version { value: value.clone(), create_revision });
        }
    }
    (union, versions)
}

fn falsehood(reference: &Reference, union: &Reference, event: &WatchEvent) -> Option<String> {
    match union.change(event.revision, &event.key) {
        Some(value) if *value == event.value => None,
        Some(value) => {
            let value = MaybeBytes(value.as_deref());
            Some(format!("{event}, but by other accounts it was {value} then"))
        }
        None => {
            let maybe = reference.uncertain.get(&event.key);
            let explained = maybe.is_some_and(|values| values.contains(&event.value));
            (!explained).then(|| format!("{event}, but nobody wrote that"))
        }
    }
}

/// Goes through one recording.
pub(super) struct Judge<'a> {
    recording: &'a Recording,
    union: &'a Reference,
    versions: &'a Versions,
    session: Session<'a>,
    found: Vec<Violation>,
}

/// What came since the watch was last opened.
#[derive(Default)]
struct Session<'a> {
    /// `None`: not opened yet.
    start: Option<Revision>,
    resumed: bool,
    seen: BTreeMap<Revision, BTreeSet<&'a [u8]>>,
    /// Highest revision of any event so far.
    last: Revision,
    progress: Revision,
}

impl<'a> Judge<'a> {
    pub(super) fn new(
        recording: &'a Recording,
        union: &'a Reference,
        versions: &'a Versions,
    ) -> Self {
        Judge { recording, union, versions, session: Session::default(), found: Vec::new() }
    }

    pub(super) fn run(mut self, violations: &mut Vec<Violation>) {
        for received in &self.recording.received {
            match received {
                Received::Opened { start } => {
                    self.look_for_gaps(0);
                    let resumed = self.session.start.is_some();
                    self.session = Session { start: Some(*start), resumed, ..Session::default() };
                }
                Received::Events(events) => self.on_events(events),
                Received::Progress(revision) => self.on_progress(*revision),
            }
        }
        self.look_for_gaps(self.recording.caught_up.unwrap_or(0));
        violations.append(&mut self.found);
    }

    fn on_events(&mut self, events: &'a [WatchEvent]) {
        let last_of_earlier_responses = self.session.last;
        for event in events {
            self.check_place(event, last_of_earlier_responses);
            self.check_content(event);
            self.session.last = self.session.last.max(event.revision);
            self.session.seen.entry(event.revision).or_default().insert(&event.key);
        }
    }

    /// Whether it may come now.
    fn check_place(&mut self, event: &WatchEvent, last_of_earlier_responses: Revision) {
        let Session { start, last, progress, .. } = self.session;
        let revision = event.revision;
        let again = self
            .session
            .seen
            .get(&revision)
            .is_some_and(|keys| keys.contains(event.key.as_slice()));
        if start.is_none() {
            self.report(Property::Resumable, format!("{event}, before any watch was created"));
        }
        if let Some(start) = start.filter(|start| revision < *start) {
            self.report(Property::Resumable, format!("{event}, although it starts at {start}"));
        }
        if revision <= progress {
            let why = format!("{event}, after progress up to {progress}");
            self.report(Property::Bookmarkable, why);
        }
        if again {
            self.report(Property::Unique, format!("{event}, for the second time"));
        } else if revision < last {
            self.report(Property::Ordered, format!("{event}, after one of revision {last}"));
        } else if revision == last_of_earlier_responses {
            let why = format!("{event}, after another response with that revision");
            self.report(Property::Atomic, why);
        }
    }

    /// Whether it says the truth about its key.
    fn check_content(&mut self, event: &WatchEvent) {
        if !self.recording.wants(&event.key, event.value.as_deref()) {
            self.report(Property::Filtered, format!("{event}, which was not asked for"));
        }
        let before = self.versions.get(&event.key);
        let before = before.and_then(|versions| versions.range(..event.revision).next_back());
        let certain = !self.union.uncertain.contains_key(&event.key);
        self.check_previous(event, before, certain);

        let existed = before.is_some_and(|(_, version)| version.value.is_some());
        let expected = match (&event.value, before) {
            (None, _) => 0,
            (Some(_), Some((_, version))) if existed => version.create_revision,
            (Some(_), _) => event.revision,
        };
        if event.create_revision != expected && (certain || event.value.is_none()) {
            let why = format!(
                "{event}, with create revision {} instead of {expected}",
                event.create_revision
            );
            self.report(Property::IsCreate, why);
        }
    }

    fn check_previous(
        &mut self,
        event: &WatchEvent,
        before: Option<(&Revision, &Version)>,
        certain: bool,
    ) {
        let since = before.map_or(0, |(revision, _)| *revision);
        let known =
            before.and_then(|(revision, version)| Some((version.value.as_ref()?, revision)));
        let told = event.previous.as_ref();
        if !self.recording.previous_values {
            if told.is_some() {
                let why = format!("{event}, with a previous value that was not asked for");
                self.report(Property::PreviousValue, why);
            }
            return;
        }
        let fits = match (told, known) {
            (Some((value, revision)), Some((known, known_revision))) => {
                value == known && revision == known_revision
            }
            (None, None) => true,
            (None, Some(_)) => event.revision <= self.union.compacted || !certain,
            (Some(_), None) => false,
        };
        // A write of unknown outcome that no watcher saw may have come between.
        let explained = |(value, revision): &(Vec<u8>, Revision)| {
            let values = self.union.uncertain.get(&event.key);
            let between = since < *revision && *revision < event.revision;
            between && values.is_some_and(|values| values.contains(&Some(value.clone())))
        };
        if !fits && !told.is_some_and(explained) {
            let (told, known) = (
                MaybeBytes(told.map(|(value, _)| value.as_slice())),
                MaybeBytes(known.map(|(value, _)| value.as_slice())),
            );
            let why = format!("{event}, replacing {told}, but it was {known} before");
            self.report(Property::PreviousValue, why);
        }
    }

    fn on_progress(&mut self, revision: Revision) {
        let last = self.session.last;
        if revision < last {
            let why = format!("progress up to {revision} after an event of revision {last}");
            self.report(Property::Bookmarkable, why);
        }
        self.session.progress = self.session.progress.max(revision);
    }

    /// What should have come by now and did not.
    fn look_for_gaps(&mut self, caught_up: Revision) {
        let Some(start) = self.session.start else { return };
        let through = self.session.last.max(self.session.progress).max(caught_up);
        if through < start {
            return;
        }
        let first = self.session.seen.keys().next().copied().unwrap_or(Revision::MAX);
        for (revision, changes) in self.union.changes.range(start..=through) {
            let seen = self.session.seen.get(revision);
            for (key, value) in changes {
                let missing = seen.is_none_or(|keys| !keys.contains(key.as_slice()));
                if !missing || !self.recording.wants(key, value.as_deref()) {
                    continue;
                }
                let property = match seen {
                    Some(_) => Property::Atomic,
                    None if self.session.resumed && *revision < first => Property::Resumable,
                    None => Property::Reliable,
                };
                let (key, value) = (Bytes(key), MaybeBytes(value.as_deref()));
                let why = format!(
                    "revision {revision} left {key} {value}, which never came, although the watch \
                     starts at {start} and has got as far as {through}"
                );
                report(&mut self.found, self.recording, property, why);
            }
        }
    }

    fn report(&mut self, property: Property, why: String) {
        report(&mut self.found, self.recording, property, why);
    }
}

fn report(found: &mut Vec<Violation>, recording: &Recording, property: Property, why: String) {
    if found.len() < VIOLATIONS_MAX {
        found.push(Violation { watcher: recording.watcher.clone(), property, why });
    }
}
