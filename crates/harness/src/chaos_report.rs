//! The report of a chaos run: one page without anything from elsewhere, for somebody who has never
//! seen one.

use std::fmt::Write;

use crate::chaos_plan::Fault;
use crate::journal::{FaultRecord, Journal};
use crate::latency_chart;
use crate::open_loop::Level;
use crate::timeline_chart::{self, escape};
use crate::verdict::{Outcome, Verdict};

const STYLE: &str = include_str!("chaos_report.css");

/// The whole page.
pub(crate) fn page(journal: &Journal) -> String {
    let title = match journal.green {
        true => "Chaos report: every promise held",
        false => "Chaos report: promises were broken",
    };
    let sections = [
        headline(journal, title),
        numbers(journal),
        verdicts(&journal.verdicts),
        timeline(journal),
        faults(journal),
        latencies(journal),
        reading(journal),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
        sections.concat()
    )
}

fn headline(journal: &Journal, title: &str) -> String {
    let class = if journal.green { "held" } else { "broken" };
    let subject = match journal.target {
        "quorate" => "Quorate, started for this run",
        "etcd" => "stock etcd, started for this run for comparison",
        _ => "a cluster that was running already",
    };
    let broken = journal.verdicts.iter().filter(|verdict| verdict.outcome != Outcome::Held);
    let sentence = match broken.count() {
        0 => format!(
            "{} faults were injected under load; afterwards every acknowledged write was there, \
             every answer could be explained, and every member told the same story.",
            journal.faults.len()
        ),
        broken => format!(
            "{broken} of {} checks did not pass. What they found is below, in red.",
            journal.verdicts.len()
        ),
    };
    format!(
        "<header class=\"{class}\"><h1>{title}</h1><p>{sentence}</p>\n\
         <p class=\"small\">{} nodes of {subject} (they say version {}); workload {}, seed {}, \
         {} seconds; by quorate {}.</p></header>\n",
        journal.members.len(),
        escape(&journal.server_version),
        journal.workload,
        journal.seed,
        journal.duration_ms / 1000,
        journal.version
    )
}

fn numbers(journal: &Journal) -> String {
    let totals = &journal.totals;
    let longest = journal.faults.iter().filter_map(|fault| fault.rto_ms).max();
    let tiles = [
        (totals.completed.to_string(), "operations answered"),
        (totals.acknowledged_writes.to_string(), "writes acknowledged"),
        (totals.rpo_acked_lost.to_string(), "of them lost (RPO)"),
        (journal.faults.len().to_string(), "faults injected"),
        (milliseconds(longest), "longest time without a write"),
        (totals.unknown.to_string(), "operations of unknown outcome"),
    ];
    let tile = |(number, words): &(String, &str)| {
        format!("<div><b>{number}</b><span>{words}</span></div>\n")
    };
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.iter().map(tile).collect::<String>())
}

fn verdicts(verdicts: &[Verdict]) -> String {
    let mut rows = String::new();
    for verdict in verdicts {
        let (class, word) = match verdict.outcome {
            Outcome::Held => ("held", "held"),
            Outcome::Broken => ("broken", "BROKEN"),
            Outcome::Undecided => ("broken", "undecided"),
        };
        let complaints = verdict.complaints.iter();
        let complaints = complaints.map(|text| format!("<pre>{}</pre>", escape(text)));
        put(
            &mut rows,
            format_args!(
                "<tr class=\"{class}\"><td>{}</td><td>{}{}</td><td class=\"number\">{}</td>\
             <td>{word}</td></tr>",
                escape(verdict.checker),
                escape(verdict.promise),
                complaints.collect::<String>(),
                verdict.checked
            ),
        );
    }
    format!(
        "<h2>What was promised, and whether it held</h2>\n<p>Each checker looks only at what \
         clients were told and what members tell afterwards. One that cannot decide counts as a \
         failure.</p>\n<table><tr><th>Checker</th><th>Promise</th><th>Looked at</th><th>Verdict\
         </th></tr>\n{rows}</table>\n"
    )
}

fn timeline(journal: &Journal) -> String {
    format!(
        "<h2>What happened when</h2>\n<p>Shaded: a fault, from when it began until every member \
         served again. Above: of the requests that were due at all members, those \
         <i class=\"key good\"></i> served within a second and those <i class=\"key bad\"></i> \
         that were not. In the middle: how long writes took, \
         <i class=\"key line50\"></i> half of them and <i class=\"key line99\"></i> 99 of 100. \
         Below: what each member said it was: <i class=\"key leader\"></i> leader, \
         <i class=\"key follower\"></i> follower, <i class=\"key no-leader\"></i> without a \
         leader, <i class=\"key silent\"></i> silent.</p>\n<figure>{}</figure>\n",
        timeline_chart::draw(journal)
    )
}

fn faults(journal: &Journal) -> String {
    if journal.faults.is_empty() {
        return "<h2>Faults</h2>\n<p>None was injected.</p>\n".to_owned();
    }
    let rows: String = journal.faults.iter().map(fault_row).collect();
    let mut kinds: Vec<Fault> = journal.faults.iter().map(|fault| fault.fault).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let kind = |fault: &Fault| format!("<li><b>{fault}</b>: {}</li>\n", fault.explanation());
    format!(
        "<h2>Faults</h2>\n<table><tr><th>At</th><th>Fault</th><th>What was done</th>\
         <th>Noticed after</th><th>No write for (RTO)</th><th>Lost (RPO)</th>\
         <th>Served by the others</th><th>Served by all</th><th>Well again after</th></tr>\n{rows}\
         </table>\n<ul>\n{}</ul>\n",
        kinds.iter().map(kind).collect::<String>()
    )
}

fn fault_row(fault: &FaultRecord) -> String {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let cells = [
        format!("{}.{} s", fault.began_ms / 1000, fault.began_ms % 1000 / 100),
        fault.fault.to_string(),
        escape(&fault.description),
        milliseconds(fault.detection_ms),
        milliseconds(fault.rto_ms),
        fault.rpo_acked_lost.to_string(),
        fault.availability.elsewhere.map_or("-".to_owned(), percent),
        percent(fault.availability.all),
        milliseconds(Some(fault.recovered_ms - fault.ended_ms)),
    ];
    let cell = |(nth, text): (usize, &String)| match nth {
        1 | 2 => format!("<td>{text}</td>"),
        _ => format!("<td class=\"number\">{text}</td>"),
    };
    format!("<tr>{}</tr>\n", cells.iter().enumerate().map(cell).collect::<String>())
}

fn latencies(journal: &Journal) -> String {
    let levels =
        [Level::Put, Level::Txn, Level::LinearizableGet, Level::SerializableGet, Level::Watch];
    let mut charts = String::new();
    for level in levels {
        if let Some(svg) = latency_chart::draw(level, &journal.faults) {
            put(&mut charts, format_args!("<h3>{}</h3>\n<figure>{svg}</figure>", level.name()));
        }
    }
    if charts.is_empty() {
        return String::new();
    }
    format!(
        "<h2>How long requests took</h2>\n<p>Per level of consistency: \
         <i class=\"key before\"></i> before, <i class=\"key during\"></i> during and \
         <i class=\"key after\"></i> after each fault, at all members together. Dark: half of the \
         requests; light: 99 of 100; the scale is logarithmic. Counted from when a request was \
         due, and only if it was served within a second. Where a fault came more than once, \
         its slowest time is shown.</p>\n{charts}"
    )
}

fn reading(journal: &Journal) -> String {
    format!(
        "<h2>What the words mean</h2>\n<dl>\n\
         <dt>RPO</dt><dd>Acknowledged writes that some member does not have in the end. It must be \
         0.</dd>\n\
         <dt>RTO</dt><dd>The longest time between two successful writes, by any client at any \
         member, that overlaps with the fault: from the last good one to the first good one. In \
         calm times it is some milliseconds. A full disk refuses writes for as long as it is full, \
         which is meant to be so.</dd>\n\
         <dt>Noticed after</dt><dd>From the fault's begin until a member that it did not hit named \
         another leader or another term. Members were asked every 20 ms; a dash means that nobody \
         changed its mind, as when a follower fails.</dd>\n\
         <dt>Served</dt><dd>The share of requests that got the right kind of answer within a \
         second of when they were due, from the fault's begin until every member served \
         again: by all members, and by the others, which the fault did not hit.</dd>\n\
         <dt>Linearizable, serializable</dt><dd>A linearizable read sees every write that was \
         acknowledged before it began. A serializable one shows what the member asked has, which \
         may be late.</dd>\n</dl>\n\
         <h2>Doing it again</h2>\n<p>Real processes never do the same thing twice; the seed \
         repeats the order of faults, the choice of whom they hit beside leaders, and the \
         load's mix. All numbers of this page are in <code>journal.json</code> beside \
         it.</p>\n<pre>{}</pre>\n",
        escape(&journal.command)
    )
}

fn milliseconds(time: Option<u64>) -> String {
    time.map_or("-".to_owned(), |ms| format!("{ms} ms"))
}

fn put(text: &mut String, row: std::fmt::Arguments<'_>) {
    writeln!(text, "{row}").expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal;

    #[test]
    fn a_red_report_names_what_was_broken_as_text() {
        let page = page(&journal::tests::example());
        assert!(page.contains("<title>Chaos report: promises were broken</title>"));
        assert!(page.contains("2 of 3 checks did not pass"));
        assert!(page.contains("<pre>&lt;lost&gt; &amp; gone</pre>"), "what was found is escaped");
        assert!(page.contains("undecided"));
    }

    #[test]
    fn a_green_report_says_so() {
        let mut journal = journal::tests::example();
        journal.verdicts.truncate(1);
        journal.green = true;
        let page = page(&journal);
        assert!(page.contains("every promise held") && !page.contains("BROKEN"));
    }

    #[test]
    fn every_number_of_a_fault_is_in_its_row() {
        let page = page(&journal::tests::example());
        for cell in ["1.5 s", "kill", "40 ms", "187 ms", "97.0 %", "66.0 %", "300 ms"] {
            assert!(page.contains(&format!(">{cell}</td>")), "{cell} is missing");
        }
        assert!(page.contains("<h3>put</h3>") && !page.contains("<h3>transaction</h3>"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page(&journal::tests::example());
        for outside in ["http://", "https://", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside} is not ours");
        }
        for element in ["table", "tr", "td", "figure", "svg", "ul", "dl", "header", "div"] {
            let opened = page.matches(&format!("<{element}>")).count()
                + page.matches(&format!("<{element} ")).count();
            let closed = page.matches(&format!("</{element}>")).count();
            assert_eq!(opened, closed, "{element}");
        }
    }
}
