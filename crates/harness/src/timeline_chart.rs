//! The time line of a chaos run as inline SVG: what was served, how fast writes were, who led, and
//! when which fault was.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::journal::{BUCKET_MS, Bucket, Journal, LeaderRecord};
use crate::latency_chart::{height_of, label_of};
use crate::open_loop::Level;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 58.0;
const SERVED_TOP: f64 = 44.0;
const SERVED_HEIGHT: f64 = 90.0;
const SPEED_TOP: f64 = 160.0;
const SPEED_HEIGHT: f64 = 90.0;
const LANES_TOP: f64 = 274.0;
const LANE_HEIGHT: f64 = 18.0;

/// Latencies on the scale of the second panel, in microseconds.
const SPEED_TICKS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// The whole drawing.
pub(crate) fn draw(journal: &Journal) -> String {
    let bottom = LANES_TOP + LANE_HEIGHT * journal.members.len() as f64;
    let height = bottom + 24.0;
    let end_ms = journal.duration_ms.max(1);
    let x = |ms: u64| LEFT + (WIDTH - LEFT) * ms.min(end_ms) as f64 / end_ms as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"time line of the run\">\n"
    );
    faults(&mut svg, journal, &x, bottom);
    for bucket in &journal.timeline {
        served(&mut svg, bucket, &x);
    }
    speed(&mut svg, &journal.timeline, &x);
    lanes(&mut svg, journal, &x);
    axes(&mut svg, &x, end_ms, bottom);
    svg.push_str("</svg>\n");
    svg
}

/// Text and boxes that are written without an error, as to any string.
fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    svg.write_fmt(element).expect("writing to a string does not fail");
    svg.push('\n');
}

fn faults(svg: &mut String, journal: &Journal, x: &dyn Fn(u64) -> f64, bottom: f64) {
    for (nth, fault) in journal.faults.iter().enumerate() {
        let (from, until) = (x(fault.began_ms), x(fault.recovered_ms));
        let width = (until - from).max(1.5);
        let height = bottom - SERVED_TOP + 4.0;
        let top = SERVED_TOP - 4.0;
        put(
            svg,
            format_args!(
                "<rect class=\"fault\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" \
                 height=\"{height}\"><title>{}</title></rect>",
                escape(&fault.description)
            ),
        );
        // Neighbours stand on two lines.
        let line = if nth % 2 == 0 { 16.0 } else { 32.0 };
        let text = fault.fault.name();
        put(svg, format_args!("<text class=\"name\" x=\"{from:.1}\" y=\"{line}\">{text}</text>"));
    }
}

/// Green: served within a second; red: not.
fn served(svg: &mut String, bucket: &Bucket, x: &dyn Fn(u64) -> f64) {
    let asked = bucket.levels.iter().filter(|(level, _)| **level != Level::Watch);
    let (mut requests, mut served) = (0_usize, 0_usize);
    for (_, latency) in asked {
        requests += latency.requests;
        served += latency.served;
    }
    if requests == 0 {
        return;
    }
    let (from, until) = (x(bucket.from_ms), x(bucket.from_ms + BUCKET_MS));
    let width = (until - from).max(0.3);
    let good = SERVED_HEIGHT * served as f64 / requests as f64;
    let bad = SERVED_HEIGHT - good;
    if bad > 0.0 {
        put(
            svg,
            format_args!(
                "<rect class=\"bad\" x=\"{from:.1}\" y=\"{SERVED_TOP}\" width=\"{width:.2}\" \
                 height=\"{bad:.1}\"/>"
            ),
        );
    }
    let top = SERVED_TOP + bad;
    put(
        svg,
        format_args!(
            "<rect class=\"good\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.2}\" \
             height=\"{good:.1}\"/>"
        ),
    );
}

fn speed(svg: &mut String, timeline: &[Bucket], x: &dyn Fn(u64) -> f64) {
    let y = |us: u64| SPEED_TOP + SPEED_HEIGHT - height_of(us, SPEED_HEIGHT);
    for tick in SPEED_TICKS {
        let (at, label) = (y(tick), label_of(tick));
        put(
            svg,
            format_args!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            ),
        );
        let (left, line) = (LEFT - 6.0, at + 3.0);
        put(svg, format_args!("<text class=\"tick\" x=\"{left}\" y=\"{line:.1}\">{label}</text>"));
    }
    for (class, of) in [("p99", 99), ("p50", 50)] {
        let mut path = String::new();
        let mut pen_down = false;
        for bucket in timeline {
            let latency = bucket.levels.get(&Level::Put).filter(|latency| latency.served > 0);
            let Some(latency) = latency else {
                pen_down = false;
                continue;
            };
            let us = if of == 50 { latency.p50_us } else { latency.p99_us };
            let verb = if pen_down { 'L' } else { 'M' };
            let at = x(bucket.from_ms + BUCKET_MS / 2);
            write!(path, "{verb}{at:.1} {:.1}", y(us)).expect("writing to a string does not fail");
            pen_down = true;
        }
        put(svg, format_args!("<path class=\"{class}\" d=\"{path}\"/>"));
    }
}

/// What every member said of its role.
fn lanes(svg: &mut String, journal: &Journal, x: &dyn Fn(u64) -> f64) {
    let mut by_member: BTreeMap<&str, Vec<&LeaderRecord>> = BTreeMap::new();
    for record in &journal.leaders {
        by_member.entry(&record.member).or_default().push(record);
    }
    for (nth, member) in journal.members.iter().enumerate() {
        let top = LANES_TOP + LANE_HEIGHT * nth as f64;
        let records = by_member.get(member.as_str()).map_or(&[][..], Vec::as_slice);
        for (at, record) in records.iter().enumerate() {
            let until = records.get(at + 1).map_or(journal.duration_ms, |next| next.at_ms);
            let (from, until) = (x(record.at_ms), x(until));
            let width = (until - from).max(0.5);
            let (height, class) = (LANE_HEIGHT - 4.0, record.role.replace(' ', "-"));
            put(
                svg,
                format_args!(
                    "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top}\" width=\"{width:.1}\" \
                     height=\"{height}\"><title>{}, {}, term {}</title></rect>",
                    escape(member),
                    record.role,
                    record.term
                ),
            );
        }
        let (left, line) = (LEFT - 6.0, top + 11.0);
        let shown = escape(member);
        put(svg, format_args!("<text class=\"tick\" x=\"{left}\" y=\"{line}\">{shown}</text>"));
    }
}

fn axes(svg: &mut String, x: &dyn Fn(u64) -> f64, end_ms: u64, bottom: f64) {
    let left = LEFT - 6.0;
    for (percent, at) in [("100 %", SERVED_TOP + 6.0), ("0 %", SERVED_TOP + SERVED_HEIGHT)] {
        put(svg, format_args!("<text class=\"tick\" x=\"{left}\" y=\"{at}\">{percent}</text>"));
    }
    let step = (end_ms / 10_000 / 10).max(1) * 10_000;
    let marks = (0..=end_ms / step).map(|nth| nth * step);
    for mark in marks {
        let (at, line, seconds) = (x(mark), bottom + 14.0, mark / 1000);
        put(
            svg,
            format_args!("<text class=\"second\" x=\"{at:.1}\" y=\"{line}\">{seconds} s</text>"),
        );
    }
}

/// Text as a page takes it for text.
pub(crate) fn escape(text: &str) -> String {
    let entities = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;")];
    entities.iter().fold(text.to_owned(), |text, (plain, entity)| text.replace(*plain, entity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal;

    #[test]
    fn everything_that_happened_is_drawn() {
        let svg = draw(&journal::tests::example());
        assert_eq!(svg.matches("class=\"fault\"").count(), 1);
        assert!(svg.contains("<title>n1 (leader) was killed</title>"), "{svg}");
        assert_eq!(svg.matches("class=\"good\"").count(), 3, "one column per bucket");
        assert_eq!(svg.matches("class=\"silent\"").count(), 1);
        assert!(svg.contains("class=\"p99\" d=\"M"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(svg.matches("<rect").count(), svg.matches("</rect>").count() + 6);
    }

    #[test]
    fn a_run_without_anything_is_drawn_too() {
        let mut empty = journal::tests::example();
        empty.duration_ms = 0;
        (empty.timeline, empty.faults, empty.leaders) = (Vec::new(), Vec::new(), Vec::new());
        assert!(!draw(&empty).contains("NaN"));
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(escape("<a href=\"x\">&"), "&lt;a href=&quot;x&quot;&gt;&amp;");
    }
}
