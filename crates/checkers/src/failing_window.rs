//! Failing window: the few operations out of thousands that contradict each other.
//!
//! Cuts an impossible history down while it stays impossible: after the reply that first made it
//! so, then before the latest point from which no value of the key saves it, then operation by
//! operation. What is cut is weakened to "may have happened", never assumed away, so that the rest
//! is a violation by itself.
//!
//! Not here: finding out that the history is impossible (`wing_gong`).

use std::collections::BTreeSet;

use crate::history::Time;
use crate::linearizability::Budget;
use crate::wing_gong::{ABSENT, Event, Finding, Value, search};

/// A try that costs more is not worth a shorter message.
const TRY_BUDGET: Budget = Budget { configurations: 50_000, memory_bytes: 16 << 20 };

/// Longer windows are not tried from any value; the history is then shown from its start.
const LENGTH_MAX: usize = 512;

/// Windows of more operations are not cut one by one.
const SINGLE_CUTS_MAX: usize = 64;

/// Indexes into the events given.
pub(crate) struct FailingWindow {
    /// Contradict each other.
    pub(crate) certain: Vec<usize>,
    /// How many writes may have happened beside them, which does not help.
    pub(crate) uncertain: usize,
    /// Whether they do so whatever the key held before.
    pub(crate) from_any_value: bool,
}

/// Part of a history: events taken as they are, and events that may have happened.
#[derive(Clone)]
struct Part {
    certain: Vec<usize>,
    uncertain: Vec<usize>,
    from_any_value: bool,
}

/// `events` are impossible from `initial`.
pub(crate) fn find(events: &[Event], initial: Value) -> FailingWindow {
    let whole = Part {
        certain: (0..events.len()).filter(|index| events[*index].returned.is_some()).collect(),
        uncertain: (0..events.len()).filter(|index| events[*index].returned.is_none()).collect(),
        from_any_value: false,
    };
    let part = cut_after(events, initial, whole);
    let part = cut_before(events, initial, part);
    let part = cut_single(events, initial, part);
    FailingWindow {
        uncertain: part.uncertain.len(),
        certain: part.certain,
        from_any_value: part.from_any_value,
    }
}

/// Keeps what was called by the earliest return at which the history is impossible.
fn cut_after(events: &[Event], initial: Value, whole: Part) -> Part {
    let until = |end: Time| {
        let called = |indexes: &[usize]| {
            let called = indexes.iter().copied().filter(|index| events[*index].call <= end);
            called.collect::<Vec<_>>()
        };
        let (certain, open): (Vec<_>, Vec<_>) = called(&whole.certain)
            .into_iter()
            .partition(|index| events[*index].returned.is_some_and(|returned| returned <= end));
        let mut uncertain = called(&whole.uncertain);
        uncertain
            .extend(open.into_iter().filter(|index| events[*index].step.uncertain().is_some()));
        Part { certain, uncertain, from_any_value: false }
    };
    // The whole is impossible, so the last end always is.
    let ends = returns(events, &whole);
    let shortest =
        partition(ends.len() - 1, |index| !is_impossible(events, initial, &until(ends[index])));
    until(ends[shortest])
}

/// Drops what returned before the latest time from which the rest is impossible from any value.
fn cut_before(events: &[Event], initial: Value, part: Part) -> Part {
    let since = |start: Time| {
        let returned = |index: &usize| events[*index].returned.unwrap_or(Time::MAX);
        let (certain, before): (Vec<_>, Vec<_>) =
            part.certain.iter().copied().partition(|index| returned(index) >= start);
        let first_call = certain.iter().map(|index| events[*index].call).min().unwrap_or(start);
        // What overlaps with the rest may come between; what ended before it is in "any value".
        let overlapping = before.into_iter().filter(|index| {
            returned(index) >= first_call && events[*index].step.uncertain().is_some()
        });
        let uncertain = part.uncertain.iter().copied().chain(overlapping).collect();
        Part { certain, uncertain, from_any_value: true }
    };
    let starts = returns(events, &part);
    let impossible_since = |index: usize| is_impossible(events, initial, &since(starts[index]));
    // Short windows are cheap to try and mostly enough.
    let lengths = std::iter::successors(Some(1), |length| Some(length * 2));
    let mut lengths = lengths.take_while(|length| *length <= starts.len().min(LENGTH_MAX));
    let Some(enough) = lengths.find(|length| impossible_since(starts.len() - length)) else {
        return part;
    };
    let from = starts.len() - enough;
    // The longest of them is known to be impossible, whatever the others cost to try.
    let longest_cut = partition(enough, |index| index == 0 || impossible_since(from + index));
    let first_possible = from + longest_cut;
    since(starts[first_possible - 1])
}

/// Drops operation by operation what is not needed.
fn cut_single(events: &[Event], initial: Value, mut part: Part) -> Part {
    if part.certain.len() > SINGLE_CUTS_MAX {
        return part;
    }
    for index in part.certain.clone() {
        let mut without = part.clone();
        without.certain.retain(|other| *other != index);
        if events[index].step.uncertain().is_some() {
            without.uncertain.push(index);
        }
        if is_impossible(events, initial, &without) {
            part = without;
        }
    }
    part
}

fn returns(events: &[Event], part: &Part) -> Vec<Time> {
    let mut times = part.certain.iter().filter_map(|index| events[*index].returned);
    let times: BTreeSet<Time> = times.by_ref().collect();
    times.into_iter().collect()
}

/// The first index below `count` for which `holds` is false, given that it is true up to some
/// index and false from there on.
fn partition(count: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// False also if it costs too much to tell.
fn is_impossible(events: &[Event], initial: Value, part: &Part) -> bool {
    let certain = part.certain.iter().map(|index| events[*index]);
    let uncertain = part.uncertain.iter().filter_map(|index| {
        let event = events[*index];
        Some(Event { step: event.step.uncertain()?, returned: None, ..event })
    });
    let events = certain.chain(uncertain).collect::<Vec<_>>();
    let values = events.iter().flat_map(|event| [event.step.required(), event.step.written()]);
    let mut values: BTreeSet<Value> = values.flatten().chain([ABSENT]).collect();
    // Stands for everything that these operations do not know.
    values.insert(values.last().map_or(0, |last| last + 1));
    if !part.from_any_value {
        values = BTreeSet::from([initial]);
    }
    values.into_iter().all(|value| search(&events, value, TRY_BUDGET) == Finding::Impossible)
}
