//! Lengths: files, functions and lines stay small enough to be read.
//!
//! Functions are found by their layout: under rustfmt the brace that closes an item stands alone
//! at the item's own indentation.

use super::Violation;
use super::source_tree::SourceTree;

/// Lines of a Rust file.
const FILE_LINES: usize = 800;
/// Lines of a function, from `fn` to the closing brace.
const FUNCTION_LINES: usize = 70;
/// Characters of a line of Rust.
const LINE_COLUMNS: usize = 100;

/// All three limits over every Rust file.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, file) in tree.rust_files() {
        let lines = file.text.lines().count();
        if lines > FILE_LINES {
            violations.push(Violation {
                rule: "file-length",
                path: path.to_owned(),
                line: 0,
                subject: "-".to_owned(),
                measure: lines,
                message: format!("{lines} lines, at most {FILE_LINES}: split it by pattern"),
            });
        }
        violations.extend(long_lines(path, &file.text));
        violations.extend(long_functions(path, &file.masked));
    }
    violations
}

fn long_lines(path: &str, text: &str) -> impl Iterator<Item = Violation> {
    let prose = text.lines().enumerate().filter(|(_, line)| !is_table_row(line));
    let long = prose.map(|(at, line)| (at + 1, line.chars().count()));
    long.filter(|(_, columns)| *columns > LINE_COLUMNS).map(move |(line, columns)| Violation {
        rule: "line-length",
        path: path.to_owned(),
        line,
        subject: "-".to_owned(),
        measure: columns,
        message: format!("{columns} columns, at most {LINE_COLUMNS}"),
    })
}

/// A row of a table in documentation cannot be broken.
fn is_table_row(line: &str) -> bool {
    let line = line.trim();
    (line.starts_with("//! |") || line.starts_with("/// |")) && line.ends_with('|')
}

fn long_functions(path: &str, masked: &str) -> Vec<Violation> {
    let lines: Vec<&str> = masked.lines().collect();
    let mut violations = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let Some(length) = function_lines(&lines[at..], indent) else { continue };
        if length > FUNCTION_LINES {
            violations.push(Violation {
                rule: "function-length",
                path: path.to_owned(),
                line: at + 1,
                subject: name.to_owned(),
                measure: length,
                message: format!("fn {name} has {length} lines, at most {FUNCTION_LINES}"),
            });
        }
    }
    violations
}

/// The name, if a function starts on this line.
fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    for word in words.by_ref() {
        match word {
            "fn" => break,
            "const" | "async" | "unsafe" | "extern" | "default" => {}
            word if word.starts_with("pub") || word.ends_with(')') => {}
            _ => return None,
        }
    }
    let name = words.next()?.split(['(', '<']).next()?;
    (!name.is_empty()).then_some(name)
}

/// Lines up to the closing brace; none for a declaration without a body.
fn function_lines(lines: &[&str], indent: usize) -> Option<usize> {
    for (at, line) in lines.iter().enumerate() {
        let own_indent = line.len() - line.trim_start().len();
        let code = line.trim();
        if at == 0 && (code.ends_with('}') || code.ends_with(';')) {
            return Some(1);
        }
        if at > 0 && own_indent == indent && code == "}" {
            return Some(at + 1);
        }
        if at > 0 && own_indent == indent && code.ends_with(';') {
            return None;
        }
    }
    None
}
