//! Forward zones: contradictions that are seen without searching for an order.
//!
//! If only one step writes a value, the register holds it without a break from the first reply that
//! tells of it to the last call that still needs it: its forward zone (Gibbons & Korach, 1997).
//! Two such zones that overlap, a step wholly inside one that does not fit its value, and a value
//! that is needed but never written refute the history in O(n log n). Most stale reads are of this
//! form, and it is the form on which a search takes longest.
//!
//! Finding nothing proves nothing: `wing_gong` is the judge.

use std::collections::BTreeMap;

use crate::history::Time;
use crate::wing_gong::{Event, Step, Value};

/// The time in which the register certainly holds a value.
#[derive(Clone, Copy)]
struct Zone {
    value: Value,
    /// When it was there at the latest; `None`: from the start.
    from: Option<Time>,
    /// When it was still there at the earliest.
    until: Time,
}

/// All that is known of one value.
#[derive(Clone, Copy, Default)]
struct Cluster {
    writers: usize,
    /// First return of a step that writes or needs it; `None`: none returned.
    first_return: Option<Time>,
    /// Last call of a step that certainly needs it (or writes it).
    last_call: Option<Time>,
}

/// Whether no order explains these events, as far as zones can tell.
pub(crate) fn refute(events: &[Event], initial: Value) -> bool {
    let clusters = clusters(events, initial);
    if clusters.values().any(|cluster| cluster.writers == 0) {
        return true;
    }
    let zones = zones(clusters, initial);
    let overlap = zones.windows(2).any(|pair| pair[1].from < Some(pair[0].until));
    overlap || events.iter().any(|event| is_intruder(event, &zones))
}

/// What is known of each value that was written, needed, or there from the start.
fn clusters(events: &[Event], initial: Value) -> BTreeMap<Value, Cluster> {
    let mut clusters: BTreeMap<Value, Cluster> = BTreeMap::new();
    clusters.entry(initial).or_default().writers += 1;
    for event in events {
        if let Some(value) = event.step.written() {
            clusters.entry(value).or_default().writers += 1;
        }
        // A step of unknown outcome tells nothing of when a value was there.
        let Some(returned) = event.returned else { continue };
        for value in event.step.written().into_iter().chain(event.step.required()) {
            let cluster = clusters.entry(value).or_default();
            let first = cluster.first_return.get_or_insert(returned);
            *first = returned.min(*first);
            cluster.last_call = cluster.last_call.max(Some(event.call));
        }
    }
    clusters
}

/// By their start; only those of values with one writer.
fn zones(clusters: BTreeMap<Value, Cluster>, initial: Value) -> Vec<Zone> {
    let unique = clusters.into_iter().filter(|(_, cluster)| cluster.writers == 1);
    let zone = |(value, cluster): (Value, Cluster)| {
        let from = if value == initial { None } else { Some(cluster.first_return?) };
        let until = cluster.last_call?;
        (from < Some(until)).then_some(Zone { value, from, until })
    };
    let mut zones = unique.filter_map(zone).collect::<Vec<_>>();
    zones.sort_by_key(|zone| (zone.from, zone.until));
    zones
}

/// Whether a step lies wholly inside a zone under whose value it does not fit, or whose value it
/// ends for good.
fn is_intruder(event: &Event, zones: &[Zone]) -> bool {
    let Some(returned) = event.returned else { return false };
    // Zones do not overlap, so only the last that began before the call can hold it.
    let index = zones.partition_point(|zone| zone.from < Some(event.call));
    let Some(zone) = index.checked_sub(1).map(|index| zones[index]) else { return false };
    if returned >= zone.until {
        return false;
    }
    match event.step {
        Step::Write(value) | Step::Read(value) => value != zone.value,
        Step::ReadOther(value) => value == zone.value,
        // It would end what is still needed.
        Step::Swap { expect, set } => expect != zone.value || set != zone.value,
        Step::Remove => true,
    }
}
