//! The journal of a chaos run: everything that its report shows, as one JSON document.
//!
//! docs/chaos.md describes the schema; a change that a reader would notice raises [`SCHEMA`]. Times
//! are milliseconds since the start of the run unless their name says otherwise.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::chaos_plan::Fault;
use crate::cluster_observer::{Sighting, View};
use crate::fault_effect::{self, Availability, Latency, Phases};
use crate::open_loop::{Level, Sample};
use crate::verdict::{Outcome, Verdict};

/// Version of the document's form.
pub(crate) const SCHEMA: u32 = 1;

/// Width of a bucket of the time line.
pub(crate) const BUCKET_MS: u64 = 250;

const NANOS_PER_MS: u64 = 1_000_000;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Journal {
    pub(crate) schema: u32,
    /// Of this program.
    pub(crate) version: &'static str,
    /// What runs it again.
    pub(crate) command: String,
    /// What was tried: `quorate`, `etcd` or `attached`.
    pub(crate) target: &'static str,
    /// What the members say their version is.
    pub(crate) server_version: String,
    /// Names of the members, by number.
    pub(crate) members: Vec<String>,
    pub(crate) workload: &'static str,
    pub(crate) seed: u64,
    /// Since 1970.
    pub(crate) started_unix_ms: u64,
    pub(crate) duration_ms: u64,
    /// Whether every promise held.
    pub(crate) green: bool,
    pub(crate) totals: Totals,
    pub(crate) faults: Vec<FaultRecord>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) timeline: Vec<Bucket>,
    pub(crate) leaders: Vec<LeaderRecord>,
}

/// Over the whole run.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Totals {
    /// Operations that were answered.
    pub(crate) completed: usize,
    /// Writes among them that took effect.
    pub(crate) acknowledged_writes: usize,
    /// Operations of which nobody knows whether they took effect.
    pub(crate) unknown: usize,
    /// Acknowledged writes that some member does not have.
    pub(crate) rpo_acked_lost: usize,
    /// How often watchers resumed.
    pub(crate) watch_resumptions: u32,
    /// How often each refusal was heard.
    pub(crate) refusals: BTreeMap<String, u64>,
}

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FaultRecord {
    pub(crate) fault: Fault,
    /// What was done, in plain words.
    pub(crate) description: String,
    /// Names of the members that it hit.
    pub(crate) hit: Vec<String>,
    pub(crate) began_ms: u64,
    pub(crate) ended_ms: u64,
    /// Every member served again.
    pub(crate) recovered_ms: u64,
    /// From its begin until a member that was not hit named another leader or term; null: none did.
    pub(crate) detection_ms: Option<u64>,
    /// From the last successful write to the next one; null: none succeeded any more.
    pub(crate) rto_ms: Option<u64>,
    /// Acknowledged writes of this time that some member does not have.
    pub(crate) rpo_acked_lost: usize,
    pub(crate) availability: Availability,
    pub(crate) latency: BTreeMap<Level, Phases>,
}

/// What happened in a quarter of a second, by level.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bucket {
    pub(crate) from_ms: u64,
    pub(crate) levels: BTreeMap<Level, Latency>,
}

/// From when on a member said so.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LeaderRecord {
    pub(crate) at_ms: u64,
    pub(crate) member: String,
    /// `leader`, `follower`, `no leader` or `silent`.
    pub(crate) role: &'static str,
    pub(crate) term: u64,
}

impl Journal {
    /// The document.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers, strings and maps by name are JSON")
    }

    /// What a terminal shows of it.
    pub(crate) fn summary(&self) -> String {
        let mut lines = vec![format!(
            "{} operations completed, {} of unknown outcome; {} acknowledged writes, {} of them \
             lost; watchers resumed {} times",
            self.totals.completed,
            self.totals.unknown,
            self.totals.acknowledged_writes,
            self.totals.rpo_acked_lost,
            self.totals.watch_resumptions
        )];
        let milliseconds = |time: Option<u64>| time.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        for fault in &self.faults {
            lines.push(format!(
                "{:15}  detected {:>8}  no write for {:>8}  lost {}  available {:3.0} %",
                fault.fault.name(),
                milliseconds(fault.detection_ms),
                milliseconds(fault.rto_ms),
                fault.rpo_acked_lost,
                fault.availability.elsewhere.unwrap_or(fault.availability.all) * 100.0
            ));
        }
        for verdict in &self.verdicts {
            let outcome = match verdict.outcome {
                Outcome::Held => "held",
                Outcome::Broken => "BROKEN",
                Outcome::Undecided => "UNDECIDED",
            };
            lines.push(format!("{outcome:9}  {}: {}", verdict.checker, verdict.promise));
            lines.extend(verdict.complaints.iter().map(|complaint| format!("  {complaint}")));
        }
        lines.join("\n")
    }
}

pub(crate) fn milliseconds(nanos: u64) -> u64 {
    nanos / NANOS_PER_MS
}

/// All samples, by quarters of a second and levels.
pub(crate) fn timeline(samples: &[Sample]) -> Vec<Bucket> {
    let mut buckets: BTreeMap<u64, BTreeMap<Level, Vec<&Sample>>> = BTreeMap::new();
    for sample in samples {
        let bucket = milliseconds(sample.due) / BUCKET_MS;
        buckets.entry(bucket).or_default().entry(sample.level).or_default().push(sample);
    }
    let latency = |(level, samples): (Level, Vec<&Sample>)| {
        (level, fault_effect::latency(samples.into_iter()))
    };
    let bucket = |(number, levels): (u64, BTreeMap<Level, Vec<&Sample>>)| Bucket {
        from_ms: number * BUCKET_MS,
        levels: levels.into_iter().map(latency).collect(),
    };
    buckets.into_iter().map(bucket).collect()
}

/// What every member said of its leader, as it changed.
pub(crate) fn leaders(sightings: &[Sighting], members: &[String]) -> Vec<LeaderRecord> {
    let record = |sighting: &Sighting| {
        let (role, term) = match sighting.view {
            View::Silent => ("silent", 0),
            View::Following { leader: 0, term, .. } => ("no leader", term),
            View::Following { leader, term, own } if leader == own => ("leader", term),
            View::Following { term, .. } => ("follower", term),
        };
        let member = members[sighting.member].clone();
        LeaderRecord { at_ms: milliseconds(sighting.at), member, role, term }
    };
    sightings.iter().map(record).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small run: one fault, one verdict of each kind.
    pub(crate) fn example() -> Journal {
        let latency = |p50_us| Latency {
            requests: 10,
            served: 9,
            p50_us,
            p99_us: 4 * p50_us,
            max_us: 5 * p50_us,
        };
        let phases = Phases { before: latency(900), during: latency(40_000), after: latency(1000) };
        let bucket = |from_ms| Bucket {
            from_ms,
            levels: BTreeMap::from([(Level::Put, latency(900)), (Level::Watch, latency(1500))]),
        };
        let verdict = |outcome, complaints: &[&str]| Verdict {
            checker: "durability",
            promise: "every acknowledged write is there",
            checked: 7,
            outcome,
            complaints: complaints.iter().map(|text| (*text).to_owned()).collect(),
        };
        Journal {
            schema: SCHEMA,
            version: "0.0.0",
            command: "quorate chaos --for 6s".to_owned(),
            target: "quorate",
            server_version: "3.6.0".to_owned(),
            members: vec!["n1".to_owned(), "n2".to_owned()],
            workload: "mixed",
            seed: 1,
            started_unix_ms: 1_700_000_000_000,
            duration_ms: 6_000,
            green: false,
            totals: Totals { completed: 70, acknowledged_writes: 7, ..Totals::default() },
            faults: vec![FaultRecord {
                fault: Fault::Kill,
                description: "n1 (leader) was killed".to_owned(),
                hit: vec!["n1".to_owned()],
                began_ms: 1500,
                ended_ms: 4000,
                recovered_ms: 4300,
                detection_ms: Some(40),
                rto_ms: Some(187),
                rpo_acked_lost: 0,
                availability: Availability { all: 0.66, elsewhere: Some(0.97) },
                latency: BTreeMap::from([(Level::Put, phases)]),
            }],
            verdicts: vec![
                verdict(Outcome::Held, &[]),
                verdict(Outcome::Broken, &["<lost> & gone"]),
                verdict(Outcome::Undecided, &["gave up"]),
            ],
            timeline: vec![bucket(0), bucket(250), bucket(5750)],
            leaders: vec![
                LeaderRecord { at_ms: 1, member: "n1".to_owned(), role: "leader", term: 1 },
                LeaderRecord { at_ms: 1510, member: "n1".to_owned(), role: "silent", term: 0 },
                LeaderRecord { at_ms: 2, member: "n2".to_owned(), role: "follower", term: 1 },
            ],
        }
    }

    #[test]
    fn the_document_has_the_names_that_are_documented() {
        let json: serde_json::Value = serde_json::from_str(&example().to_json()).expect("JSON");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["faults"][0]["fault"], "kill");
        assert_eq!(json["faults"][0]["rto_ms"], 187);
        assert_eq!(json["faults"][0]["latency"]["put"]["during"]["p50_us"], 40_000);
        assert_eq!(json["verdicts"][1]["outcome"], "broken");
        assert_eq!(json["timeline"][0]["levels"]["watch"]["served"], 9);
    }

    #[test]
    fn the_summary_names_what_was_broken() {
        let summary = example().summary();
        assert!(summary.contains("kill"), "{summary}");
        assert!(summary.contains("BROKEN     durability"), "{summary}");
        assert!(summary.contains("  <lost> & gone"), "{summary}");
    }

    #[test]
    fn samples_fall_into_quarters_of_a_second() {
        let sample = |due_ms: u64, took| Sample {
            level: Level::Put,
            member: 0,
            due: due_ms * NANOS_PER_MS,
            took,
            revision: None,
        };
        let samples = [sample(10, Some(5000)), sample(249, None), sample(600, Some(1000))];
        let buckets = timeline(&samples);
        let starts: Vec<u64> = buckets.iter().map(|bucket| bucket.from_ms).collect();
        assert_eq!(starts, [0, 500]);
        let first = buckets[0].levels[&Level::Put];
        assert_eq!((first.requests, first.served, first.p50_us), (2, 1, 5));
    }

    #[test]
    fn roles_are_what_members_said() {
        let view = |leader, own| View::Following { leader, term: 3, own };
        let views = [view(0, 1), view(1, 1), view(2, 1), View::Silent];
        let sightings = views.map(|view| Sighting { at: 2 * NANOS_PER_MS, member: 0, view });
        let roles: Vec<&str> =
            leaders(&sightings, &["n1".to_owned()]).iter().map(|record| record.role).collect();
        assert_eq!(roles, ["no leader", "leader", "follower", "silent"]);
    }
}
