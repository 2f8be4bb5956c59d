//! `quorate sim`: seeds through the simulator, several at a time.
//!
//! Each seed is a world of its own, so threads share nothing but the next seed's number.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use simulator::{Options, SeedReport, Totals, run_seed};

use crate::Failure;
use crate::arguments::SimOptions;

/// Seeds between two lines of progress.
const PROGRESS_EVERY: u64 = 25;

/// Seeds after which every rare branch should have been taken.
const ENOUGH_SEEDS: u64 = 200;

/// One seed in so many is run twice: its trace must be the same.
const REPEAT_EVERY: u64 = 50;

/// Runs the seeds; any violation is a failure.
pub(crate) fn run(options: &SimOptions) -> Result<(), Failure> {
    let seeds = match (&options.seeds, options.seed) {
        (Some(seeds), _) => seeds.clone(),
        (None, Some(seed)) => seed..seed + 1,
        (None, None) => return Err(Failure::Usage("which seeds? say --seeds A..B".to_owned())),
    };
    let jobs = options
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    if jobs == 0 {
        return Err(Failure::Usage("--jobs must be at least 1".to_owned()));
    }
    let mut totals = Totals::default();
    let single = seeds.end - seeds.start == 1;
    let mut differing = Vec::new();
    each_report(seeds, jobs, |report, repeated| {
        totals.add(report);
        if single || report.violation.is_some() {
            crate::say(report);
        }
        if repeated.is_some_and(|trace| trace != report.trace_hash) {
            crate::say(format_args!("seed {}: a second run took another course", report.seed));
            differing.push(report.seed);
        }
        if totals.seeds.is_multiple_of(PROGRESS_EVERY) {
            eprintln!("{} seeds done, {} failed", totals.seeds, totals.failed.len());
        }
    });
    totals.failed.sort_unstable();
    crate::say(&totals);
    if totals.seeds >= ENOUGH_SEEDS {
        for mark in totals.marks.never() {
            crate::say(format_args!("no seed reached {mark:?}"));
        }
    }
    if let Some(first) = totals.failed.first().or(differing.first()) {
        return Err(Failure::Failed(format!("to see it again: quorate sim --seed {first}")));
    }
    Ok(())
}

/// Calls `each` with every report, and the trace of a second run if there was one.
fn each_report(seeds: Range<u64>, jobs: usize, mut each: impl FnMut(&SeedReport, Option<u64>)) {
    let next = AtomicU64::new(seeds.start);
    let (sender, reports) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (next, sender, end) = (&next, sender.clone(), seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let report = run_seed(seed, &Options::default());
                    let repeat = seed.is_multiple_of(REPEAT_EVERY);
                    let trace = repeat.then(|| run_seed(seed, &Options::default()).trace_hash);
                    if sender.send((report, trace)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (report, repeated) in reports {
            each(&report, repeated);
        }
    });
}
