//! Marks: every "sometimes reached" mark of the simulator is set somewhere, or no run would reach
//! it and nobody would know why.
//!
//! That every message, role and error of the core has one is the compiler's business: they are
//! matched without a wildcard. That runs reach them is for the simulation step of `cargo xtask ci`.

use super::Violation;
use super::source_tree::SourceTree;

/// Where they are listed.
const LIST: &str = "crates/simulator/src/mark.rs";

/// Code that sets them.
const SETTERS: &str = "crates/simulator/src/";

/// Looks for a use of every mark.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let Some(list) = tree.get(LIST) else { return Vec::new() };
    let is_set = |name: &str| {
        let word = format!("Mark::{name}");
        let names_it = |text: &str| {
            text.match_indices(&word).any(|(at, _)| {
                let next = text[at + word.len()..].chars().next();
                !next.is_some_and(|next| next.is_alphanumeric() || next == '_')
            })
        };
        let setters = tree.rust_files().filter(|(path, _)| path.starts_with(SETTERS));
        setters.filter(|(path, _)| *path != LIST).any(|(_, file)| names_it(&file.masked))
    };
    let marks = declared(&list.masked);
    let unset = marks.into_iter().filter(|(_, name)| !is_set(name));
    unset.map(|(line, name)| violation(line, &name)).collect()
}

/// The names in `marks! { … }`, and their lines.
fn declared(masked: &str) -> Vec<(usize, String)> {
    let lines = masked.lines().enumerate().skip_while(|(_, line)| !line.starts_with("marks! {"));
    let body = lines.skip(1).take_while(|(_, line)| !line.starts_with('}'));
    body.filter_map(|(at, line)| {
        let name = line.trim().strip_suffix(',')?;
        let is_name = name.starts_with(|first: char| first.is_ascii_uppercase())
            && name.chars().all(char::is_alphanumeric);
        is_name.then(|| (at + 1, name.to_owned()))
    })
    .collect()
}

fn violation(line: usize, name: &str) -> Violation {
    Violation {
        rule: "unset-mark",
        path: LIST.to_owned(),
        line,
        subject: name.to_owned(),
        measure: 0,
        message: format!("nothing sets Mark::{name}"),
    }
}
