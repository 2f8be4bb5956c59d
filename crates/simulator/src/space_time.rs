//! Space-time diagram: the end of a run that broke a promise, as a page for people (Lamport 1978).
//!
//! One lane per machine, time downwards; messages are lines from sender to receiver, and stop
//! short if they never arrived. The page stands alone: no script, nothing to load. Not here: what
//! happened (`trace_stream`), finding a short way to the violation (`shrink`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::event_heap::{Instant, MILLISECOND, SECOND};
use crate::network::Slot;
use crate::report::SeedReport;
use crate::shrink::Shrunk;
use crate::trace_stream::TraceEvent;

/// Shown before the violation, at most.
const WINDOW: u64 = 4 * SECOND;

/// Messages that a picture holds; the window is cut to the last of them.
const MESSAGES_MAX: usize = 1_500;

/// Client operations that the page lists.
const OPERATIONS_MAX: usize = 60;

const LANE_WIDTH: u64 = 220;
const LANES_LEFT: u64 = 150;
const TOP: u64 = 40;
/// Nanoseconds to a pixel; quiet stretches are shortened to `GAP_MAX` pixels.
const PIXEL: u64 = MILLISECOND / 4;
const GAP_MAX: u64 = 16;
/// Pixels between two lines of the margin.
const LABEL_HEIGHT: u64 = 13;

/// Colours of the groups' leaders.
const GROUP_COLOURS: [&str; 4] = ["#b45309", "#1d4ed8", "#047857", "#7e22ce"];

/// The page about a seed that broke a promise; `events` are those of the run in `shrunk`.
#[must_use]
pub fn page(first: &SeedReport, shrunk: &Shrunk, events: &[(Instant, TraceEvent)]) -> String {
    let mut page = String::from(HEAD);
    let seed = first.seed;
    let write = |page: &mut String, text: std::fmt::Arguments| {
        page.write_fmt(text).expect("a string takes any text");
    };
    write(&mut page, format_args!("<h1>Seed {seed} breaks a promise</h1>"));
    if let Some(violation) = &shrunk.report.violation {
        let at = seconds(violation.at);
        write(
            &mut page,
            format_args!("<p class=broken>Not true: {}", escape(&violation.invariant)),
        );
        write(&mut page, format_args!(" (found {at} into the run)</p>"));
        write(&mut page, format_args!("<pre>{}</pre>", escape(&violation.detail)));
    }
    schedule(&mut page, first, shrunk);
    write(&mut page, format_args!("<h2>What happened last</h2>{LEGEND}"));
    let window = Window::of(events);
    picture(&mut page, &window, shrunk.report.nodes);
    operations(&mut page, &window);
    let report = escape(&first.to_string());
    write(&mut page, format_args!("<h2>The whole run</h2><pre>{report}</pre></body></html>"));
    page
}

fn schedule(page: &mut String, first: &SeedReport, shrunk: &Shrunk) {
    let faults = &shrunk.report.schedule;
    let (before, after) = (first.schedule.len(), faults.len());
    let safety = shrunk.options.plan.safety / SECOND;
    let features: Vec<String> =
        shrunk.report.features.iter().map(|feature| format!("{feature:?}")).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let clients = shrunk.options.clients.map_or("as drawn".to_owned(), |count| count.to_string());
    let _infallible = write!(
        page,
        "<h2>The shortest way found</h2><p>{after} of {before} faults are needed; {safety} s of \
         faults; clients of each member: {clients}; features: {features}. Found in {} runs.</p>",
        shrunk.tries
    );
    if faults.is_empty() {
        page.push_str("<p>No fault is needed at all.</p>");
        return;
    }
    page.push_str("<table><tr><th>#<th>at<th>fault</tr>");
    for (number, fault) in faults.iter().enumerate() {
        let (at, kind) = (seconds(fault.at), fault.kind);
        let _infallible = write!(page, "<tr><td>{number}<td>{at}<td>{kind:?}</tr>");
    }
    page.push_str("</table>");
}

/// The part of a run that is shown.
struct Window<'a> {
    from: Instant,
    to: Instant,
    /// All up to the end: what holds at the beginning of the window was decided before it.
    events: &'a [(Instant, TraceEvent)],
    /// First delivery of each message.
    delivered: BTreeMap<u64, Instant>,
    /// Where each moment at which something happens is drawn.
    rows: BTreeMap<Instant, u64>,
    /// Where each line of the margin stands, and what it says.
    labels: Vec<(u64, String)>,
}

impl Window<'_> {
    fn of(events: &[(Instant, TraceEvent)]) -> Window<'_> {
        let to = events.last().map_or(Instant::default(), |(at, _)| *at);
        let mut delivered = BTreeMap::new();
        let mut sent = Vec::new();
        for (at, event) in events {
            match event {
                TraceEvent::Send { .. } => sent.push(*at),
                TraceEvent::Deliver { message } => {
                    delivered.entry(*message).or_insert(*at);
                }
                _ => {}
            }
        }
        let oldest = sent.len().checked_sub(MESSAGES_MAX).map_or(Instant::default(), |n| sent[n]);
        let from = Instant(to.0.saturating_sub(WINDOW)).max(oldest);
        let (rows, labels) = rows(events, from);
        Window { from, to, events, delivered, rows, labels }
    }

    fn y(&self, at: Instant) -> u64 {
        self.rows.range(..=at).next_back().map_or(TOP, |(_, y)| *y)
    }

    fn shows(&self, at: Instant) -> bool {
        at >= self.from
    }
}

/// Later moments are never above earlier ones, and every line of the margin has room.
fn rows(
    events: &[(Instant, TraceEvent)],
    from: Instant,
) -> (BTreeMap<Instant, u64>, Vec<(u64, String)>) {
    let (mut rows, mut labels) = (BTreeMap::new(), Vec::new());
    let (mut last, mut y) = (from, TOP);
    for (at, event) in events.iter().filter(|(at, _)| *at >= from) {
        let label = label(event);
        if label.is_none() && !matches!(event, TraceEvent::Send { .. } | TraceEvent::Deliver { .. })
        {
            continue;
        }
        y += ((at.0 - last.0) / PIXEL).min(GAP_MAX);
        if let Some(label) = label {
            y += LABEL_HEIGHT;
            labels.push((y, format!("{} {label}", seconds(*at))));
        }
        last = *at;
        rows.insert(*at, y);
    }
    (rows, labels)
}

const fn x(node: Slot) -> u64 {
    LANES_LEFT + LANE_WIDTH * node as u64 + LANE_WIDTH / 2
}

fn picture(page: &mut String, window: &Window, nodes: usize) {
    let (width, bottom) = (x(nodes) + LANE_WIDTH, window.y(window.to));
    let height = bottom + 30;
    let _infallible = write!(page, "<svg width={width} height={height}>");
    for node in 0..nodes {
        let x = x(node);
        let _infallible = write!(page, "<text class=name x={x} y=20>node {node}</text>");
    }
    lanes(page, window, nodes);
    for (y, label) in &window.labels {
        let _infallible = write!(
            page,
            "<line class=mark x1=0 x2={width} y1={y} y2={y} /><text class=label x=2 y={y}>{label}\
             </text>"
        );
    }
    for (at, event) in window.events {
        if let TraceEvent::Send { message, from, to, name, group, term } = event {
            let of = group.map_or(String::new(), |group| format!(" of group {group}"));
            let term = term.map_or(String::new(), |term| format!(" in term {term}"));
            let title = format!("{} {name}{of}{term}", seconds(*at));
            draw_message(page, window, (*message, *at), (*from, *to), name, &title);
        }
    }
    page.push_str("</svg>");
}

/// What the margin says.
fn label(event: &TraceEvent) -> Option<String> {
    Some(match event {
        TraceEvent::Fault { number, fault } => format!("fault {number}: {fault:?}"),
        TraceEvent::Crash { node, power_loss: true } => format!("node {node} loses power"),
        TraceEvent::Crash { node, power_loss: false } => format!("node {node} ends"),
        TraceEvent::Start { node } => format!("node {node} starts"),
        TraceEvent::Pause { node } => format!("node {node} pauses"),
        TraceEvent::Resume { node } => format!("node {node} goes on"),
        TraceEvent::Partition { number, links } => {
            format!("partition {number} blocks {} links", links.len())
        }
        TraceEvent::PartitionEnd { number } => format!("partition {number} ends"),
        TraceEvent::Role { node, group, role: "leader", term } => {
            format!("node {node} leads group {group}, term {term}")
        }
        TraceEvent::Snapshot { node, group, .. } => format!("node {node}: snapshot of {group}"),
        TraceEvent::Phase { phase } => format!("phase: {phase}"),
        TraceEvent::Violation { .. } => "the violation is found".to_owned(),
        _ => return None,
    })
}

/// Where each machine's process runs, stands still and leads.
fn lanes(page: &mut String, window: &Window, nodes: usize) {
    let mut drawn: Vec<(String, u64, Instant, Option<Instant>)> = Vec::new();
    let mut open: BTreeMap<(Slot, &'static str, u32), usize> = BTreeMap::new();
    for (at, event) in window.events {
        let mut begin = |node: Slot, what: &'static str, group: u32, class: String, x: u64| {
            open.entry((node, what, group)).or_insert_with(|| {
                drawn.push((class, x, *at, None));
                drawn.len() - 1
            });
        };
        let ends: Vec<(Slot, &'static str, u32)> = match event {
            TraceEvent::Start { node } => {
                begin(*node, "up", 0, "class=up".to_owned(), x(*node));
                Vec::new()
            }
            TraceEvent::Pause { node } => {
                begin(*node, "pause", 0, "class=pause".to_owned(), x(*node));
                Vec::new()
            }
            TraceEvent::Resume { node } => vec![(*node, "pause", 0)],
            TraceEvent::Role { node, group, role: "leader", .. } => {
                let colour = GROUP_COLOURS[*group as usize % GROUP_COLOURS.len()];
                let x = x(*node) + 6 + 5 * u64::from(*group);
                begin(*node, "leader", *group, format!("class=leader stroke=\"{colour}\""), x);
                Vec::new()
            }
            TraceEvent::Role { node, group, .. } => vec![(*node, "leader", *group)],
            TraceEvent::Crash { node, .. } => {
                open.keys().copied().filter(|(other, ..)| other == node).collect()
            }
            _ => Vec::new(),
        };
        for end in ends {
            if let Some(index) = open.remove(&end) {
                drawn[index].3 = Some(*at);
            }
        }
    }
    for node in 0..nodes {
        let (x, bottom) = (x(node), window.y(window.to));
        let _infallible = write!(page, "<line class=lane x1={x} x2={x} y1={TOP} y2={bottom} />");
    }
    for (class, x, from, to) in drawn {
        let to = to.unwrap_or(window.to);
        if window.shows(to) {
            let (top, bottom) = (window.y(from), window.y(to));
            let _infallible = write!(page, "<line {class} x1={x} x2={x} y1={top} y2={bottom} />");
        }
    }
}

fn draw_message(
    page: &mut String,
    window: &Window,
    (message, sent): (u64, Instant),
    (from, to): (Slot, Slot),
    name: &str,
    title: &str,
) {
    if !window.shows(sent) {
        return;
    }
    let class = match name {
        "heartbeats" | "heartbeat" | "heartbeat_reply" | "member_condition" => "m beat",
        "append" | "snapshot_chunk" | "propose" => "m data",
        name if name.contains("vote") || name == "timeout_now" => "m vote",
        _ => "m reply",
    };
    let (x1, x2, y1) = (x(from), x(to), window.y(sent));
    let (class, x2, y2) = match window.delivered.get(&message) {
        Some(at) => (class.to_owned(), x2, window.y(*at)),
        // It stops half way.
        None => (format!("{class} lost"), u64::midpoint(x1, x2), y1 + 6),
    };
    let _infallible = write!(
        page,
        "<line class=\"{class}\" x1={x1} y1={y1} x2={x2} y2={y2}><title>{title}</title></line>"
    );
}

/// Client operations that were under way in the window.
fn operations(page: &mut String, window: &Window) {
    let mut pending: BTreeMap<usize, (Instant, Slot, u32, &str)> = BTreeMap::new();
    let mut rows = Vec::new();
    for (at, event) in window.events {
        match event {
            TraceEvent::Call { client, node, group, operation } => {
                pending.insert(*client, (*at, *node, *group, operation));
            }
            TraceEvent::Reply { client, outcome, revision } => {
                let Some((called, node, group, operation)) = pending.remove(client) else {
                    continue;
                };
                if window.shows(*at) {
                    let revision = revision.map_or(String::new(), |at| format!(" at {at}"));
                    rows.push(format!(
                        "<tr><td>{client}<td>{node}<td>{group}<td>{}<td>{}<td>{}<td>{outcome}\
                         {revision}</tr>",
                        escape(operation),
                        seconds(called),
                        seconds(*at),
                    ));
                }
            }
            _ => {}
        }
    }
    let first = rows.len().saturating_sub(OPERATIONS_MAX);
    let shown = rows.len() - first;
    let _infallible = write!(
        page,
        "<h2>The last {shown} operations of clients</h2><table><tr><th>client<th>node<th>group\
         <th>operation<th>called<th>ended<th>outcome</tr>{}</table>",
        rows[first..].concat()
    );
}

fn seconds(at: Instant) -> String {
    let micros = at.0 / 1_000;
    format!("{}.{:06} s", micros / 1_000_000, micros % 1_000_000)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8>\
<title>A broken promise</title><style>\
body{font:15px/1.5 system-ui,sans-serif;margin:2em;max-width:75em;color:#1f2937}\
pre{background:#f3f4f6;padding:1em;white-space:pre-wrap}\
.broken{font-size:1.2em;color:#b91c1c;font-weight:600}\
table{border-collapse:collapse;font-size:13px}td,th{padding:2px 10px;text-align:left;\
border-bottom:1px solid #e5e7eb;vertical-align:top}\
svg{font:11px system-ui,sans-serif}.name{font-weight:600;text-anchor:middle}\
.label{fill:#374151}.mark{stroke:#e5e7eb}.lane{stroke:#9ca3af;stroke-dasharray:2 4}\
.up{stroke:#111827;stroke-width:2}.pause{stroke:#f59e0b;stroke-width:8;opacity:.6}\
.leader{stroke-width:4}.m{stroke-width:1.2}.beat{stroke:#d1d5db}.data{stroke:#2563eb}\
.vote{stroke:#dc2626}.reply{stroke:#6b7280;opacity:.6}.lost{stroke-dasharray:3 3}\
.m:hover{stroke-width:4}.key line{stroke-width:3}</style></head><body>";

const LEGEND: &str = "<p>Time runs downwards, one lane per machine; quiet stretches are \
shortened. A solid lane is a running \
process, an orange one stands still, a dotted one is down. Coloured bars beside a lane: it leads a \
group (<span style=color:#b45309>0, the consistent core</span>, \
<span style=color:#1d4ed8>1</span>, \
<span style=color:#047857>2</span>). Messages: \
<span style=color:#2563eb>entries and snapshots</span>, \
<span style=color:#dc2626>elections</span>, <span style=color:#6b7280>answers</span>, \
<span style=color:#9ca3af>heartbeats</span>; dashed ones never arrived. Point at a message to read \
it.</p>";
