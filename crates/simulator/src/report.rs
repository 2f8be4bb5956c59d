//! What a run tells: totals, and the violation if there was one, in plain words.

use crate::event_heap::{Instant, SECOND};
use crate::fault_schedule::FaultSchedule;
use crate::faults::FaultKind;
use crate::feature::Feature;
use crate::mark::Marks;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant, in a few words.
    pub invariant: String,
    /// What was seen, in plain words.
    pub detail: String,
    /// True time of the world, in nanoseconds.
    pub at: Instant,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.at.0 * 1_000 / SECOND;
        write!(f, "{} after {millis} ms: {}", self.invariant, self.detail)
    }
}

/// What one seed did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedReport {
    /// The seed.
    pub seed: u64,
    /// Rolling hash of every event.
    pub trace_hash: u64,
    /// Simulated seconds.
    pub simulated_seconds: u64,
    /// Events of the world.
    pub events: u64,
    /// Members.
    pub nodes: usize,
    /// Operations that clients began.
    pub operations: u64,
    /// Operations that were answered.
    pub acknowledged: u64,
    /// Events that watchers received.
    pub watched: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Times that a node became leader of a group.
    pub elections: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Rare branches reached.
    pub marks: Marks,
    /// What was exercised beside keys and watches.
    pub features: BTreeSet<Feature>,
    /// The faults in their order, to be repeated.
    pub schedule: FaultSchedule,
    /// The first promise broken, if any.
    pub violation: Option<Violation>,
}

impl fmt::Display for SeedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {} ({} nodes): {} s simulated, {} operations, {} acknowledged, {} watched, \
             {} elections, {} snapshots, faults:",
            self.seed,
            self.nodes,
            self.simulated_seconds,
            self.operations,
            self.acknowledged,
            self.watched,
            self.elections,
            self.snapshots,
        )?;
        for (kind, count) in &self.faults {
            write!(f, " {kind:?} {count}")?;
        }
        write!(f, ", marks:{}, trace {:016x}", self.marks, self.trace_hash)?;
        match &self.violation {
            Some(violation) => write!(f, "\nseed {} VIOLATES {violation}", self.seed),
            None => Ok(()),
        }
    }
}

/// Totals over many seeds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Seeds run.
    pub seeds: u64,
    /// Simulated seconds.
    pub simulated_seconds: u64,
    /// Operations begun.
    pub operations: u64,
    /// Operations answered.
    pub acknowledged: u64,
    /// Events that watchers received.
    pub watched: u64,
    /// Elections won.
    pub elections: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Rare branches reached.
    pub marks: Marks,
    /// The seeds that broke a promise.
    pub failed: Vec<u64>,
}

impl Totals {
    /// Adds one seed.
    pub fn add(&mut self, report: &SeedReport) {
        self.seeds += 1;
        self.simulated_seconds += report.simulated_seconds;
        self.operations += report.operations;
        self.acknowledged += report.acknowledged;
        self.watched += report.watched;
        self.elections += report.elections;
        self.snapshots += report.snapshots;
        for (kind, count) in &report.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        self.marks.add(&report.marks);
        if report.violation.is_some() {
            self.failed.push(report.seed);
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} seeds, {} s simulated, {} operations, {} acknowledged, {} watched, {} elections, \
             {} snapshots, faults:",
            self.seeds,
            self.simulated_seconds,
            self.operations,
            self.acknowledged,
            self.watched,
            self.elections,
            self.snapshots,
        )?;
        for (kind, count) in &self.faults {
            write!(f, " {kind:?} {count}")?;
        }
        write!(f, "; marks:{}", self.marks)?;
        match self.failed.len() {
            0 => f.write_str("; no violation"),
            failed => write!(f, "; {failed} seeds violate: {:?}", self.failed),
        }
    }
}
