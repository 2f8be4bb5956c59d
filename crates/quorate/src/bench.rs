//! `quorate bench`: load on a cluster, ours or another's, and how long it takes.

use crate::Failure;
use crate::arguments::BenchOptions;

/// Measures and prints; a run in which nothing succeeded is a failure.
pub(crate) fn run(options: &BenchOptions) -> Result<(), Failure> {
    let plan = options.plan()?;
    let report = crate::on_one_thread(harness::bench::run(&plan, |progress| {
        eprintln!(
            "{:>4.0} s  {} answered, {} failed",
            progress.elapsed.as_secs_f64(),
            progress.completed,
            progress.failed
        );
    }))?;
    if options.json {
        crate::say(report.to_json());
    } else {
        crate::say(&report);
    }
    if report.latency.count == 0 {
        return Err(Failure::Failed("no request was answered".to_owned()));
    }
    Ok(())
}
