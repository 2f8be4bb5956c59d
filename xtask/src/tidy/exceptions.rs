//! Exceptions: the one place that lists what breaks a rule, and may only shrink.
//!
//! Each line is `rule path subject measure # reason`. An exception that covers nothing, or allows
//! more than is there, is itself a violation; so is a longer list than `LONGEST_LIST`, which is
//! lowered with every line removed and never raised.

use super::Violation;
use super::source_tree::SourceTree;

const PATH: &str = "xtask/tidy-exceptions.txt";

/// How many exceptions there may be. Never raise it.
const LONGEST_LIST: usize = 0;

struct Exception {
    line: usize,
    rule: String,
    path: String,
    subject: String,
    measure: usize,
}

/// Removes what the exceptions cover; adds what is wrong with the exceptions.
pub(crate) fn apply(tree: &SourceTree, violations: Vec<Violation>) -> Vec<Violation> {
    apply_list(tree.get(PATH).map_or("", |file| &file.text), LONGEST_LIST, violations)
}

pub(crate) fn apply_list(
    text: &str,
    longest: usize,
    mut violations: Vec<Violation>,
) -> Vec<Violation> {
    let mut complaints = Vec::new();
    let mut entries = 0;
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        entries += 1;
        let Some(exception) = parse(at + 1, line) else {
            complaints.push(complaint(at + 1, "expected: rule path subject measure # reason"));
            continue;
        };
        let covers = |violation: &Violation| {
            violation.rule == exception.rule
                && violation.path == exception.path
                && violation.subject == exception.subject
        };
        let largest = violations.iter().filter(|v| covers(v)).map(|v| v.measure).max();
        match largest {
            None => {
                complaints.push(complaint(exception.line, "covers nothing any more: delete it"))
            }
            Some(measure) if measure < exception.measure => {
                complaints.push(complaint(exception.line, "allows more than is there: lower it"));
            }
            Some(_) => {}
        }
        violations.retain(|v| !covers(v) || v.measure > exception.measure);
    }
    if entries > longest {
        complaints.push(complaint(0, "the list may only shrink"));
    }
    violations.extend(complaints);
    violations
}

fn parse(line: usize, text: &str) -> Option<Exception> {
    let (entry, reason) = text.split_once('#')?;
    if reason.trim().is_empty() {
        return None;
    }
    let mut words = entry.split_whitespace().map(str::to_owned);
    let exception = Exception {
        line,
        rule: words.next()?,
        path: words.next()?,
        subject: words.next()?,
        measure: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(exception)
}

fn complaint(line: usize, message: &str) -> Violation {
    Violation {
        rule: "exceptions",
        path: PATH.to_owned(),
        line,
        subject: "-".to_owned(),
        measure: 0,
        message: message.to_owned(),
    }
}
