//! Tidy: the style and the architecture as a test.
//!
//! Each rule is a function from the tree to its violations and knows nothing of the others; the
//! exceptions are applied last. Not here: what rustfmt and clippy already enforce.

mod dead_files;
mod dependency_edges;
mod documents;
mod exceptions;
mod lengths;
mod marks;
mod masked_source;
mod names;
mod pattern_index;
mod planted_bugs;
mod source_tree;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use source_tree::SourceTree;

/// One breach of one rule at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// The rule's name, as the exceptions file spells it.
    rule: &'static str,
    /// Path relative to the workspace, with `/`.
    path: String,
    /// Line, counted from 1; 0 for the file as a whole.
    line: usize,
    /// What the exceptions file calls the offender: a function, a word, or the file itself (`-`).
    subject: String,
    /// The measure that an exception caps (lines, columns); 0 for rules that measure nothing.
    measure: usize,
    /// One plain sentence.
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

/// Checks the tree under `root` and prints every violation.
pub(crate) fn run(root: &Path) -> ExitCode {
    match complain(root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("tidy: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prints every violation; an error says how many there are.
pub(crate) fn complain(root: &Path) -> Result<(), String> {
    let tree = SourceTree::load(root).map_err(|error| format!("cannot read the tree: {error}"))?;
    let violations = check(&tree);
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => {
            println!("tidy: {} files, no violations", tree.len());
            Ok(())
        }
        found => Err(format!("{found} violations")),
    }
}

/// Every violation that no exception covers, and every exception that covers nothing.
fn check(tree: &SourceTree) -> Vec<Violation> {
    let mut violations = Vec::new();
    violations.extend(dependency_edges::check(tree));
    violations.extend(names::check(tree));
    violations.extend(lengths::check(tree));
    violations.extend(dead_files::check(tree));
    violations.extend(documents::check(tree));
    violations.extend(pattern_index::check(tree));
    violations.extend(planted_bugs::check(tree));
    violations.extend(marks::check(tree));
    exceptions::apply(tree, violations)
}
