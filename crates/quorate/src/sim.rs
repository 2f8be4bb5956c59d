//! `quorate sim`: seeds through the simulator, several at a time.
//!
//! Each seed is a world of its own, so threads share nothing but the next seed's number; memory
//! does not grow with the number of seeds. Not here: what a run does (`simulator`).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use simulator::{
    Listener, Options, Recording, SeedReport, Totals, run_seed, run_seed_heard, shrink,
    space_time_page, to_json,
};

use crate::Failure;
use crate::arguments::SimOptions;
use crate::sim_progress::Progress;

/// What is run if nothing is said.
const SEEDS: Range<u64> = 0..50;

/// Seeds after which every rare branch should have been taken.
const ENOUGH_SEEDS: u64 = 200;

/// One seed in so many is run twice: its trace must be the same.
const REPEAT_EVERY: u64 = 50;

/// Runs that shrinking the first failure may take, and if that was asked for.
const TRIES: (u32, u32) = (60, 1_000);

/// Runs the seeds; any violation is a failure, and the lack of one if it was to be expected.
pub(crate) fn run(options: &SimOptions) -> Result<(), Failure> {
    let seeds = match (&options.seeds, options.seed) {
        (Some(seeds), _) => seeds.clone(),
        (None, Some(seed)) => seed..seed.saturating_add(1),
        (None, None) if options.hours.is_some() => 0..u64::MAX,
        (None, None) => SEEDS,
    };
    let how = Options { profile: options.profile, nodes: options.nodes, ..Options::default() };
    if let Some(path) = &options.trace {
        if seeds.end - seeds.start != 1 {
            return Err(Failure::Usage("--trace needs one seed: say --seed N".to_owned()));
        }
        return traced(seeds.start, &how, path, options);
    }
    let found = run_all(seeds, &how, options)?;
    conclude(found, &how, options)
}

/// What many seeds came to.
struct Found {
    totals: Totals,
    /// With the smallest seed.
    first_failure: Option<SeedReport>,
    /// Seeds whose second run took another course.
    differing: Vec<u64>,
}

fn run_all(seeds: Range<u64>, how: &Options, options: &SimOptions) -> Result<Found, Failure> {
    let jobs = options
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    if jobs == 0 {
        return Err(Failure::Usage("--jobs must be at least 1".to_owned()));
    }
    let single = seeds.end - seeds.start == 1;
    let give_up =
        options.hours.map(|hours| Instant::now() + Duration::from_secs_f64(3600.0 * hours));
    let mut found = Found { totals: Totals::default(), first_failure: None, differing: Vec::new() };
    let mut progress = Progress::new(seeds.clone(), give_up);
    each_report(seeds, jobs, how, give_up, |report, repeated| {
        found.totals.add(report);
        if single || (report.violation.is_some() && !how.profile.is_beyond_promises()) {
            progress.make_way();
            crate::say(report);
        }
        if repeated.is_some_and(|trace| trace != report.trace_hash) {
            progress.make_way();
            crate::say(format_args!("seed {}: a second run took another course", report.seed));
            found.differing.push(report.seed);
        }
        let earliest = found.first_failure.as_ref().is_none_or(|first| report.seed < first.seed);
        if report.violation.is_some() && earliest {
            found.first_failure = Some(report.clone());
        }
        progress.show(&found.totals, report);
    });
    progress.make_way();
    found.totals.failed.sort_unstable();
    Ok(found)
}

/// Calls `each` with every report, and the trace of a second run if there was one.
fn each_report(
    seeds: Range<u64>,
    jobs: usize,
    how: &Options,
    give_up: Option<Instant>,
    mut each: impl FnMut(&SeedReport, Option<u64>),
) {
    let next = AtomicU64::new(seeds.start);
    let (sender, reports) = mpsc::sync_channel(jobs);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (next, sender, end) = (&next, sender.clone(), seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || give_up.is_some_and(|at| Instant::now() >= at) {
                        return;
                    }
                    let report = run_seed(seed, how);
                    let repeat = seed.is_multiple_of(REPEAT_EVERY);
                    let trace = repeat.then(|| run_seed(seed, how).trace_hash);
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

fn conclude(found: Found, how: &Options, options: &SimOptions) -> Result<(), Failure> {
    crate::say(&found.totals);
    if found.totals.seeds >= ENOUGH_SEEDS && how.profile == simulator::Profile::Swarm {
        for mark in found.totals.marks.never() {
            crate::say(format_args!("no seed reached {mark:?}"));
        }
    }
    if let Some(seed) = found.differing.first() {
        return Err(Failure::Failed(format!("seed {seed} does not decide its run alone")));
    }
    match found.first_failure {
        None if how.profile.is_beyond_promises() => Err(Failure::Failed(
            "no violation was found, although the profile goes beyond what is promised: the checks \
             are too weak, or the seeds too few"
                .to_owned(),
        )),
        None => Ok(()),
        Some(first) => {
            explain(&first, how, options)?;
            if how.profile.is_beyond_promises() {
                crate::say("caught, as it must be: this profile goes beyond what is promised");
                return Ok(());
            }
            Err(Failure::Failed(format!("to see it again: quorate sim --seed {}", first.seed)))
        }
    }
}

/// Shrinks a failure and writes a page about it.
fn explain(first: &SeedReport, how: &Options, options: &SimOptions) -> Result<(), Failure> {
    let tries = if options.shrink { TRIES.1 } else { TRIES.0 };
    let shrunk = shrink(how, first, tries);
    crate::say(format_args!(
        "the shortest way found, in {} runs, needs {} of {} faults:",
        shrunk.tries,
        shrunk.report.schedule.len(),
        first.schedule.len()
    ));
    for fault in &shrunk.report.schedule {
        let millis = fault.at.0 / 1_000_000;
        crate::say(format_args!("  at {millis} ms: {:?}", fault.kind));
    }
    if let Some(violation) = &shrunk.report.violation {
        crate::say(format_args!("  {violation}"));
    }
    let recording = Recording::default();
    let _same = run_seed_heard(first.seed, &shrunk.options, recording.listener());
    let path = options.report.join(format!("quorate-sim-seed-{}.html", first.seed));
    let page = space_time_page(first, &shrunk, &recording.into_events());
    let written =
        std::fs::create_dir_all(&options.report).and_then(|()| std::fs::write(&path, page));
    written
        .map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
    crate::say(format_args!("the story is in {}", path.display()));
    Ok(())
}

/// Runs one seed and writes what happens, one line of JSON an event.
fn traced(seed: u64, how: &Options, path: &Path, options: &SimOptions) -> Result<(), Failure> {
    let failed = |error| Failure::Failed(format!("cannot write {}: {error}", path.display()));
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    let (sender, lines) = mpsc::sync_channel::<String>(1_024);
    let (report, written) = std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            lines.into_iter().try_for_each(|line| writeln!(file, "{line}"))?;
            file.flush()
        });
        let listener = Listener::new(options.details, move |at, event| {
            // A writer that failed says why itself.
            let _gone = sender.send(to_json(at, event));
        });
        let report = run_seed_heard(seed, how, listener);
        (report, writer.join())
    });
    written.unwrap_or_else(|_| Err(std::io::Error::other("its thread failed"))).map_err(failed)?;
    crate::say(&report);
    let mut found = Found { totals: Totals::default(), first_failure: None, differing: Vec::new() };
    found.totals.add(&report);
    found.first_failure = report.violation.is_some().then_some(report);
    conclude(found, how, options)
}
