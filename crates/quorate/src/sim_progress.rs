//! How far a simulation is: one line that is written over on a terminal, and a line now and then
//! elsewhere.

use std::io::{IsTerminal, Write};
use std::ops::Range;
use std::time::{Duration, Instant};

use simulator::{Mark, SeedReport, Totals};

/// Between two lines that stay.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Between two looks of a line that is written over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The line.
pub(crate) struct Progress {
    seeds: Range<u64>,
    /// The end, if time decides.
    give_up: Option<Instant>,
    started: Instant,
    shown: Instant,
    events: u64,
    is_terminal: bool,
    is_open: bool,
}

impl Progress {
    pub(crate) fn new(seeds: Range<u64>, give_up: Option<Instant>) -> Progress {
        let now = Instant::now();
        let is_terminal = std::io::stderr().is_terminal();
        Progress {
            seeds,
            give_up,
            started: now,
            shown: now,
            events: 0,
            is_terminal,
            is_open: false,
        }
    }

    /// Another seed is done.
    pub(crate) fn show(&mut self, totals: &Totals, report: &SeedReport) {
        self.events += report.events;
        let every = if self.is_terminal { LOOK_EVERY } else { LINE_EVERY };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let line = self.line(totals);
        let mut stderr = std::io::stderr();
        // Nobody looks: no failure.
        let _gone = if self.is_terminal {
            self.is_open = true;
            write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{line}")
        };
    }

    fn line(&self, totals: &Totals) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(0.001);
        let faults: u64 = totals.faults.values().sum();
        let reached = Mark::ALL.len() - totals.marks.never().count();
        let left = match self.give_up {
            Some(at) => {
                format!("{} min left", at.saturating_duration_since(Instant::now()).as_secs() / 60)
            }
            None => format!("of {}", self.seeds.end - self.seeds.start),
        };
        format!(
            "{} seeds {left}, {:.1} M events/s, {} s simulated ({:.0} a second), {faults} faults, \
             {reached} of {} marks, {} failed",
            totals.seeds,
            self.events as f64 / seconds / 1e6,
            totals.simulated_seconds,
            totals.simulated_seconds as f64 / seconds,
            Mark::ALL.len(),
            totals.failed.len(),
        )
    }

    /// Ends the line that is written over, before something else is printed.
    pub(crate) fn make_way(&mut self) {
        if std::mem::take(&mut self.is_open) {
            eprintln!();
        }
    }
}
