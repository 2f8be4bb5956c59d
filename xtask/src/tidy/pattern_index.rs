//! The pattern index: `docs/patterns.md` maps each pattern to its file and its test.
//!
//! A row is `| Pattern | `file` | `script or test`, … |`. Files must exist, the first line of each
//! pattern file must name the pattern, and no pattern that must be there may be missing.

use super::Violation;
use super::documents::{back_quoted, missing_reference};
use super::source_tree::SourceTree;

const INDEX: &str = "docs/patterns.md";

/// The patterns that the core is made of; rows for more are welcome.
pub(crate) const REQUIRED: [&str; 23] = [
    "write-ahead log",
    "segmented log",
    "low-water mark",
    "leader and followers",
    "heartbeat",
    "generation clock",
    "majority quorum",
    "replicated log",
    "high-water mark",
    "leader lease",
    "read index",
    "singular update queue",
    "request waiting list",
    "request batch",
    "request pipeline",
    "single-socket channel",
    "idempotent receiver",
    "versioned value",
    "state watch",
    "consistent core",
    "hybrid clock",
    "lamport clock",
    "follower reads",
];

/// Every row, and every required pattern.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let Some(index) = tree.get(INDEX) else {
        return vec![violation(0, "-", "the pattern index is missing".to_owned())];
    };
    let mut violations = Vec::new();
    let mut seen = Vec::new();
    for (at, line) in index.text.lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", pattern, file, tests, ""] = cells.as_slice() else { continue };
        if *pattern == "Pattern" || pattern.starts_with("---") {
            continue;
        }
        let pattern = pattern.to_lowercase();
        violations.extend(check_row(tree, at + 1, &pattern, file, tests));
        seen.push(pattern);
    }
    for required in REQUIRED {
        if !seen.iter().any(|pattern| pattern == required) {
            violations.push(violation(0, required, format!("no row for {required}")));
        }
    }
    violations
}

fn check_row(
    tree: &SourceTree,
    line: usize,
    pattern: &str,
    file: &str,
    tests: &str,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut complain = |message: String| violations.push(violation(line, pattern, message));
    match back_quoted(file).next() {
        None => complain("names no file".to_owned()),
        Some(path) => match tree.get(path) {
            None => complain(format!("{path} does not exist")),
            Some(source) => {
                let first = source.text.lines().next().unwrap_or("").to_lowercase();
                if !first.starts_with("//!") || !first.contains(pattern) {
                    complain(format!("the first line of {path} does not name {pattern}"));
                }
            }
        },
    }
    let mut count = 0;
    for test in back_quoted(tests) {
        count += 1;
        if !test.contains('/') {
            complain(format!("{test} is not a path from the root"));
        } else if let Some(message) = missing_reference(tree, test) {
            complain(message);
        }
    }
    if count == 0 {
        complain("names no test".to_owned());
    }
    violations
}

fn violation(line: usize, subject: &str, message: String) -> Violation {
    Violation {
        rule: "pattern-index",
        path: INDEX.to_owned(),
        line,
        subject: subject.to_owned(),
        measure: 0,
        message,
    }
}
