//! Documents: what the prose points at exists.
//!
//! In every Markdown file, a relative link and a back-quoted `crates/…` path must exist; after
//! `path::name`, that Rust file must contain `fn name`. A guarantee can so never outlive its test.

use super::Violation;
use super::source_tree::SourceTree;

/// Directories whose back-quoted paths are checked.
const CHECKED_PREFIXES: [&str; 4] = ["crates/", "docs/", "xtask/", ".ci/"];

/// All references of all Markdown files.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, file) in tree.files() {
        if !path.ends_with(".md") {
            continue;
        }
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let mut fenced = false;
        for (at, line) in file.text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            for reference in back_quoted(line) {
                if let Some(message) = missing_reference(tree, reference) {
                    violations.push(violation(path, at + 1, reference, message));
                }
            }
            for link in links(line) {
                if !tree.exists(&resolve(directory, link)) {
                    let message = format!("the link to {link} leads nowhere");
                    violations.push(violation(path, at + 1, link, message));
                }
            }
        }
    }
    violations
}

/// Why a back-quoted token that looks like one of our paths is wrong, if it is.
pub(crate) fn missing_reference(tree: &SourceTree, token: &str) -> Option<String> {
    let is_path = CHECKED_PREFIXES.iter().any(|prefix| token.starts_with(prefix));
    if !is_path || token.contains(['*', '<', '{', ' ', '…']) {
        return None;
    }
    let (path, name) = match token.split_once("::") {
        Some((path, name)) => (path, Some(name)),
        None => (token, None),
    };
    if !tree.exists(path) {
        return Some(format!("{path} does not exist"));
    }
    let name = name?;
    let found = tree.get(path).is_some_and(|file| file.text.contains(&format!("fn {name}(")));
    (!found).then(|| format!("{path} has no fn {name}"))
}

/// Text between back-quotes on one line.
pub(crate) fn back_quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Targets of relative Markdown links on one line, without their anchors.
fn links(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets
        .map(|(target, _)| target.split('#').next().unwrap_or(target))
        .filter(|target| !target.is_empty() && !target.contains("://"))
        .filter(|target| !target.starts_with("mailto:"))
        .collect()
}

fn resolve(directory: &str, link: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn violation(path: &str, line: usize, subject: &str, message: String) -> Violation {
    Violation {
        rule: "document-reference",
        path: path.to_owned(),
        line,
        subject: subject.to_owned(),
        measure: 0,
        message,
    }
}
