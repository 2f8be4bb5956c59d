//! Latency of one level before, during and after each fault as inline SVG, on a logarithmic scale.
//!
//! Where a fault came more than once, its slowest time is shown: what one has to reckon with.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::chaos_plan::Fault;
use crate::fault_effect::{Latency, Phases};
use crate::journal::FaultRecord;
use crate::open_loop::Level;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 14.0;
const HEIGHT: f64 = 110.0;

/// Bottom and top of the scale, in microseconds.
const FLOOR_US: f64 = 100.0;
const CEILING_US: f64 = 2_000_000.0;

const TICKS: [u64; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];

/// How high a latency stands in a panel of `height`.
pub(crate) fn height_of(us: u64, height: f64) -> f64 {
    let share = ((us as f64).max(FLOOR_US) / FLOOR_US).ln() / (CEILING_US / FLOOR_US).ln();
    height * share.min(1.0)
}

/// A latency in words.
pub(crate) fn label_of(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        1..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100).replace(".0 ms", " ms"),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000).replace(".0 s", " s"),
    }
}

/// The drawing of one level; nothing if nobody asked for it.
pub(crate) fn draw(level: Level, faults: &[FaultRecord]) -> Option<String> {
    let slowest = slowest(level, faults);
    if slowest.is_empty() {
        return None;
    }
    let bottom = TOP + HEIGHT;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"latency of a {}\">\n",
        bottom + 22.0,
        level.name()
    );
    let mut put = |element: std::fmt::Arguments<'_>| {
        writeln!(svg, "{element}").expect("writing to a string does not fail");
    };
    for tick in TICKS {
        let (y, label) = (bottom - height_of(tick, HEIGHT), label_of(tick));
        put(format_args!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
        ));
        let (x, y) = (LEFT - 6.0, y + 3.0);
        put(format_args!("<text class=\"tick\" x=\"{x}\" y=\"{y:.1}\">{label}</text>"));
    }
    let group = ((WIDTH - LEFT) / slowest.len() as f64).min(180.0);
    let bar = (group / 5.0).min(26.0);
    for (nth, (fault, phases)) in slowest.iter().enumerate() {
        let left = LEFT + group * nth as f64 + (group - 3.3 * bar) / 2.0;
        let of_phases =
            [("before", phases.before), ("during", phases.during), ("after", phases.after)];
        for (phase, (class, latency)) in of_phases.into_iter().enumerate() {
            let x = left + bar * 1.1 * phase as f64;
            column(&mut put, class, latency, (x, bar, bottom));
        }
        let (x, y) = (LEFT + group * (nth as f64 + 0.5), bottom + 14.0);
        put(format_args!("<text class=\"second\" x=\"{x:.1}\" y=\"{y}\">{fault}</text>"));
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// Half of the requests within the dark part, 99 of 100 within the light one.
fn column(
    put: &mut dyn FnMut(std::fmt::Arguments<'_>),
    class: &str,
    latency: Latency,
    (x, width, bottom): (f64, f64, f64),
) {
    if latency.served == 0 {
        let (x, y) = (x + width / 2.0, bottom - 3.0);
        put(format_args!("<text class=\"none\" x=\"{x:.1}\" y=\"{y}\">none</text>"));
        return;
    }
    for (share, us) in [("p99", latency.p99_us), ("p50", latency.p50_us)] {
        let height = height_of(us, HEIGHT).max(1.0);
        let y = bottom - height;
        put(format_args!(
            "<rect class=\"{class} {share}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\"><title>{class}: half within {}, 99 of 100 within {}, all \
             within {}; {} of {} served</title></rect>",
            label_of(latency.p50_us),
            label_of(latency.p99_us),
            label_of(latency.max_us),
            latency.served,
            latency.requests
        ));
    }
}

/// Of each fault, the time when this level was slowest.
fn slowest(level: Level, faults: &[FaultRecord]) -> BTreeMap<Fault, Phases> {
    let mut slowest: BTreeMap<Fault, Phases> = BTreeMap::new();
    for record in faults {
        let Some(phases) = record.latency.get(&level) else { continue };
        let known = slowest.entry(record.fault).or_insert(*phases);
        if phases.during.p99_us > known.during.p99_us {
            *known = *phases;
        }
    }
    slowest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal;

    #[test]
    fn a_higher_latency_stands_higher_within_the_panel() {
        let heights: Vec<f64> =
            [0, 100, 1_000, 100_000, 9_000_000].map(|us| height_of(us, 100.0)).to_vec();
        assert!(heights.is_sorted(), "{heights:?}");
        assert!(heights[0].abs() < 1e-9 && (heights[4] - 100.0).abs() < 1e-9, "{heights:?}");
    }

    #[test]
    fn latencies_have_the_unit_that_suits_them() {
        let labels = [0, 340, 1_000, 2_560, 43_210, 1_500_000, 2_000_000].map(label_of);
        assert_eq!(labels, ["-", "340 µs", "1 ms", "2.5 ms", "43 ms", "1.5 s", "2 s"]);
    }

    #[test]
    fn three_columns_per_fault_and_the_slowest_repetition_of_it() {
        let mut faults = journal::tests::example().faults;
        let mut again = faults[0].clone();
        let slow = again.latency.get_mut(&Level::Put).expect("puts were asked for");
        slow.during.p99_us = 700_000;
        slow.after = Latency::default();
        faults.push(again);
        let svg = draw(Level::Put, &faults).expect("there is something to draw");
        assert_eq!(svg.matches("<title>").count(), 4, "nothing was served afterwards: {svg}");
        assert!(svg.contains("99 of 100 within 700 ms") && svg.contains(">none<"), "{svg}");
        assert_eq!(draw(Level::Txn, &faults), None);
    }
}
