//! Shrinking: from a seed that breaks a promise to the fewest faults that still do.
//!
//! Tries a shorter safety phase, fewer features and clients, then delta debugging over the fault
//! schedule (Zeller and Hildebrandt 2002): whatever still breaks the same promise is kept. Every
//! try is a whole run, so the number of tries is bounded. The outcome is *a* small schedule, not
//! the smallest. Not here: repeating a schedule (`fault_schedule`).

use crate::event_heap::SECOND;
use crate::fault_schedule::FaultSchedule;
use crate::report::SeedReport;
use crate::run::{Options, run_seed};

/// Seconds of faults that are tried, shortest first.
const SAFETY_SECONDS: [u64; 6] = [2, 4, 8, 16, 24, 32];

/// Clients of each member that are tried.
const CLIENTS: [usize; 3] = [1, 2, 4];

/// What shrinking came to.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// How to run the seed so that it breaks the promise the short way.
    pub options: Options,
    /// What such a run reports.
    pub report: SeedReport,
    /// Runs that it took to find.
    pub tries: u32,
}

/// Looks for a shorter way in which `seed` breaks the promise that it broke in `report`, which came
/// of `options`, in at most `tries` runs.
///
/// # Panics
/// If `report` has no violation.
#[must_use]
pub fn shrink(options: &Options, report: &SeedReport, tries: u32) -> Shrunk {
    assert!(report.violation.is_some(), "nothing to shrink");
    let best = Shrunk { options: options.clone(), report: report.clone(), tries: 0 };
    let mut search = Search { best, left: tries };
    search.shorten();
    search.thin_out();
    search.repeat_faults();
    search.leave_out_faults();
    search.best.tries = tries - search.left;
    search.best
}

struct Search {
    best: Shrunk,
    left: u32,
}

impl Search {
    /// Whether a run so breaks the same promise; if so, it is the best so far.
    fn holds(&mut self, options: Options) -> bool {
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        let report = run_seed(self.best.report.seed, &options);
        let broken = |report: &SeedReport| {
            report.violation.as_ref().map(|violation| violation.invariant.clone())
        };
        if broken(&report) != broken(&self.best.report) {
            return false;
        }
        self.best = Shrunk { options, report, tries: 0 };
        true
    }

    /// Fewer seconds of faults.
    fn shorten(&mut self) {
        for seconds in SAFETY_SECONDS {
            let mut options = self.best.options.clone();
            if seconds * SECOND >= options.plan.safety {
                return;
            }
            options.plan.safety = seconds * SECOND;
            if self.holds(options) {
                return;
            }
        }
    }

    /// Fewer features and clients.
    fn thin_out(&mut self) {
        for feature in self.best.report.features.clone() {
            let mut options = self.best.options.clone();
            let mut features = self.best.report.features.clone();
            features.remove(&feature);
            options.features = Some(features);
            self.holds(options);
        }
        for clients in CLIENTS {
            let options = Options { clients: Some(clients), ..self.best.options.clone() };
            if self.holds(options) {
                return;
            }
        }
    }

    /// From faults that are drawn to a schedule of the same ones.
    fn repeat_faults(&mut self) {
        let faults = Some(self.best.report.schedule.clone());
        self.holds(Options { faults, ..self.best.options.clone() });
    }

    /// Delta debugging: leaves out ever smaller parts of the schedule.
    fn leave_out_faults(&mut self) {
        let Some(schedule) = self.best.options.faults.clone() else { return };
        if self.holds(self.with(FaultSchedule::new())) {
            return;
        }
        let mut kept = schedule;
        let mut parts = 2;
        while kept.len() >= 2 && self.left > 0 {
            let part = kept.len().div_ceil(parts);
            let without = |start: usize| {
                let end = (start + part).min(kept.len());
                [&kept[..start], &kept[end..]].concat()
            };
            let shorter = (0..kept.len()).step_by(part).map(without).collect::<Vec<_>>();
            match shorter.into_iter().find(|faults| self.holds(self.with(faults.clone()))) {
                Some(faults) => {
                    kept = faults;
                    parts = (parts - 1).max(2);
                }
                None if part == 1 => return,
                None => parts = (2 * parts).min(kept.len()),
            }
        }
    }

    fn with(&self, faults: FaultSchedule) -> Options {
        Options { faults: Some(faults), ..self.best.options.clone() }
    }
}
