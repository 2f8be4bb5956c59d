//! The effect of a fault, computed from what was measured: how soon it was noticed, how long no
//! write succeeded, what was served meanwhile and how fast, before, during and after.
//!
//! Times are nanoseconds since the start of the run. Not here: measuring (`open_loop`,
//! `cluster_observer`), showing (`chaos_report`).

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cluster_observer::{Sighting, View};
use crate::open_loop::{Level, Sample};

/// When a fault was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// The calm before it starts here.
    pub(crate) calm_from: u64,
    /// It began.
    pub(crate) began: u64,
    /// It was over.
    pub(crate) ended: u64,
    /// Every member served again.
    pub(crate) recovered: u64,
    /// The calm after it ends here.
    pub(crate) calm_until: u64,
}

/// How requests of one level fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Latency {
    /// How many were due.
    pub(crate) requests: usize,
    /// How many were served within a second.
    pub(crate) served: usize,
    /// Half of those that were served took at most this long, in microseconds.
    pub(crate) p50_us: u64,
    /// 99 of 100 did.
    pub(crate) p99_us: u64,
    /// All of them did.
    pub(crate) max_us: u64,
}

/// The same level before, during and after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Phases {
    pub(crate) before: Latency,
    /// From its begin until every member served again.
    pub(crate) during: Latency,
    pub(crate) after: Latency,
}

/// What share of the requests due during a fault was served within a second, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Availability {
    /// At all members.
    pub(crate) all: f64,
    /// At those that the fault did not hit; nothing if it hit all.
    pub(crate) elsewhere: Option<f64>,
}

/// Of every level that was asked for, and of watch events.
pub(crate) fn phases(samples: &[Sample], window: Window) -> BTreeMap<Level, Phases> {
    let mut phases: BTreeMap<Level, Phases> = BTreeMap::new();
    let mut levels: Vec<Level> = samples.iter().map(|sample| sample.level).collect();
    levels.sort_unstable();
    levels.dedup();
    for level in levels {
        let within = |from: u64, until: u64| {
            let due = samples
                .iter()
                .filter(|sample| sample.level == level && (from..until).contains(&sample.due));
            latency(due)
        };
        let of_level = Phases {
            before: within(window.calm_from, window.began),
            during: within(window.began, window.recovered),
            after: within(window.recovered, window.calm_until),
        };
        phases.insert(level, of_level);
    }
    phases
}

/// Of any samples.
pub(crate) fn latency<'a>(samples: impl Iterator<Item = &'a Sample>) -> Latency {
    let (mut requests, mut took) = (0, Vec::new());
    for sample in samples {
        requests += 1;
        took.extend(sample.took);
    }
    took.sort_unstable();
    let percentile = |percent: usize| match took.len() {
        0 => 0,
        count => took[(count * percent / 100).min(count - 1)] / 1000,
    };
    Latency {
        requests,
        served: took.len(),
        p50_us: percentile(50),
        p99_us: percentile(99),
        max_us: percentile(100),
    }
}

/// `hit` are the members that the fault hit.
pub(crate) fn availability(samples: &[Sample], window: Window, hit: &[usize]) -> Availability {
    let asked = |sample: &&Sample| {
        sample.level != Level::Watch && (window.began..window.recovered).contains(&sample.due)
    };
    let share = |samples: &mut dyn Iterator<Item = &Sample>| {
        let (mut due, mut served) = (0_u32, 0_u32);
        for sample in samples {
            due += 1;
            served += u32::from(sample.took.is_some());
        }
        (due > 0).then(|| f64::from(served) / f64::from(due))
    };
    let elsewhere = |sample: &&Sample| !hit.contains(&sample.member);
    Availability {
        all: share(&mut samples.iter().filter(asked)).unwrap_or(1.0),
        elsewhere: share(&mut samples.iter().filter(asked).filter(elsewhere)),
    }
}

/// The longest time without a successful write that overlaps with the fault: from the last good one
/// to the first good one. `good` are the moments of successful writes anywhere, ascending; nothing
/// if none succeeded afterwards.
pub(crate) fn recovery_time(good: &[u64], window: Window) -> Option<u64> {
    let gaps = good.windows(2).map(|pair| (pair[0], pair[1]));
    let overlapping = gaps.filter(|(last, first)| {
        *first > window.began && *last < window.recovered.max(window.began + 1)
    });
    let longest = overlapping.map(|(last, first)| first - last).max();
    let ends_well = good.last().is_some_and(|last| *last >= window.recovered);
    longest.filter(|_| ends_well)
}

/// How soon after its begin a member that the fault did not hit said that its leader, or its term,
/// was another than before; nothing if none did before everything was well again.
pub(crate) fn detection_time(sightings: &[Sighting], window: Window, hit: &[usize]) -> Option<u64> {
    let mut before: BTreeMap<usize, View> = BTreeMap::new();
    for sighting in sightings {
        if sighting.at > window.recovered {
            return None;
        }
        let last = before.insert(sighting.member, sighting.view);
        let changed = match (last, sighting.view) {
            (
                Some(View::Following { leader: old_leader, term: old_term, .. }),
                View::Following { leader, term, .. },
            ) => (old_leader, old_term) != (leader, term),
            _ => false,
        };
        if changed && sighting.at >= window.began && !hit.contains(&sighting.member) {
            return Some(sighting.at - window.began);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window =
        Window { calm_from: 0, began: 100, ended: 150, recovered: 200, calm_until: 300 };

    fn sample(member: usize, due: u64, took_us: Option<u64>) -> Sample {
        let took = took_us.map(|took| took * 1000);
        Sample { level: Level::Put, member, due, took, revision: None }
    }

    #[test]
    fn an_outage_lasts_from_the_last_good_write_to_the_first() {
        assert_eq!(recovery_time(&[10, 90, 180, 210], WINDOW), Some(90));
        assert_eq!(recovery_time(&[10, 95, 105, 195, 250], WINDOW), Some(90));
        assert_eq!(recovery_time(&[10, 90, 120], WINDOW), None, "it never came back");
        assert_eq!(recovery_time(&[], WINDOW), None);
        let calm = [10, 101, 102, 201, 290, 291];
        assert_eq!(
            recovery_time(&calm, WINDOW),
            Some(99),
            "the gap after the fault is not its own"
        );
    }

    #[test]
    fn what_members_that_were_hit_say_is_no_detection() {
        let following = |leader, term| View::Following { leader, term, own: 9 };
        let sighting = |at, member, view| Sighting { at, member, view };
        let mut sightings = vec![
            sighting(1, 0, following(1, 1)),
            sighting(2, 1, following(1, 1)),
            sighting(110, 0, following(0, 1)),
            sighting(130, 1, following(0, 1)),
            sighting(140, 1, following(2, 2)),
        ];
        assert_eq!(detection_time(&sightings, WINDOW, &[0]), Some(30));
        assert_eq!(detection_time(&sightings, WINDOW, &[]), Some(10));
        sightings.truncate(3);
        assert_eq!(detection_time(&sightings, WINDOW, &[0]), None);
        sightings.push(sighting(250, 1, following(2, 2)));
        assert_eq!(detection_time(&sightings, WINDOW, &[0]), None, "that was later");
    }

    #[test]
    fn the_answers_of_members_that_were_hit_are_counted_apart() {
        let samples = [
            sample(0, 110, None),
            sample(1, 120, Some(3)),
            sample(1, 190, None),
            sample(0, 50, None),
        ];
        let availability = availability(&samples, WINDOW, &[0]);
        assert!((availability.all - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(availability.elsewhere, Some(0.5));
        assert_eq!(super::availability(&samples, WINDOW, &[0, 1]).elsewhere, None);
    }

    #[test]
    fn latencies_are_those_of_their_phase() {
        let mut samples: Vec<Sample> = (0..100).map(|due| sample(0, due, Some(due + 1))).collect();
        samples.push(sample(0, 150, Some(900)));
        samples.push(sample(0, 160, None));
        let phases = phases(&samples, WINDOW)[&Level::Put];
        assert_eq!(
            phases.before,
            Latency { requests: 100, served: 100, p50_us: 51, p99_us: 100, max_us: 100 }
        );
        assert_eq!((phases.during.requests, phases.during.served), (2, 1));
        assert_eq!(phases.during.p50_us, 900);
        assert_eq!(phases.after, Latency::default());
    }
}
