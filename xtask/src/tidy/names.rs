//! Names: what may not be called, and what the core may not call.
//!
//! Core crates take time, entropy and I/O as arguments and iterate in order; these rules keep them
//! honest where the compiler does not. Not here: paths through re-exports, which clippy sees.

use super::Violation;
use super::source_tree::SourceTree;

/// Crates without clocks, threads, entropy, sockets, files or unordered iteration.
const CORE_CRATES: [&str; 7] =
    ["clocks", "consensus", "wal", "store", "replica", "wire", "simulator"];

/// Crates that must build without std.
const NO_STD_CRATES: [&str; 2] = ["clocks", "consensus"];

/// File names that say nothing about what is inside.
const BANNED_FILES: [&str; 9] =
    ["util", "utils", "common", "helper", "helpers", "types", "impl", "impls", "misc"];

/// Code that no core crate may contain outside its `tests` directory, and what to use instead.
const BANNED_IN_CORE: [(&str, &str); 22] = [
    ("HashMap", "use BTreeMap: iteration must have an order"),
    ("HashSet", "use BTreeSet: iteration must have an order"),
    ("RandomState", "entropy enters through seeds"),
    ("Instant::now", "time enters as clocks::Monotonic"),
    ("std::time::Instant", "time enters as clocks::Monotonic"),
    ("SystemTime", "time enters as clocks::WallTime"),
    ("thread::", "the core is single-threaded; hosts own threads"),
    ("thread_local", "no hidden state"),
    ("rand::", "entropy enters through seeds"),
    ("getrandom", "entropy enters through seeds"),
    ("tokio", "the core knows no runtime"),
    ("async", "the core is synchronous"),
    (".await", "the core is synchronous"),
    ("std::fs", "files belong to node"),
    ("std::net", "sockets belong to node"),
    ("std::env", "settings arrive as arguments"),
    ("std::process", "the host owns the process"),
    ("std::io::stdin", "the host owns the terminal"),
    ("println", "the core emits typed events"),
    ("eprintln", "the core emits typed events"),
    ("static mut", "no hidden state"),
    ("unsafe", "no unsafe code in the core"),
];

/// Code that the checkers may not contain: they judge histories and do no I/O.
const BANNED_IN_CHECKERS: [(&str, &str); 7] = [
    ("std::fs", "checkers do no I/O"),
    ("std::net", "checkers do no I/O"),
    ("std::process", "checkers do no I/O"),
    ("std::env", "settings arrive as arguments"),
    ("thread::", "a verdict may not depend on scheduling"),
    ("Instant", "a budget is counted in steps, not in seconds"),
    ("SystemTime", "a budget is counted in steps, not in seconds"),
];

/// Code that nobody may contain.
const BANNED_EVERYWHERE: [(&str, &str); 7] = [
    ("#[allow", "fix the cause"),
    ("#![allow", "fix the cause"),
    ("#[expect", "fix the cause"),
    ("#[ignore", "a test runs or does not exist"),
    ("todo!", "finish it or leave it out"),
    ("unimplemented!", "finish it or leave it out"),
    ("dbg!", "leave debugging out"),
];

/// File names, module docs, `no_std` and banned words.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, file) in tree.rust_files() {
        violations.extend(file_name(path));
        violations.extend(module_doc(path, &file.text));
        violations.extend(banned("banned-everywhere", path, &file.masked, &BANNED_EVERYWHERE));
        let Some((name, inside)) = crate_of(path) else { continue };
        if !inside.starts_with("src/") {
            continue;
        }
        if CORE_CRATES.contains(&name) {
            violations.extend(banned("banned-in-core", path, &file.masked, &BANNED_IN_CORE));
        }
        if name == "checkers" {
            violations.extend(banned("banned-in-core", path, &file.masked, &BANNED_IN_CHECKERS));
        }
        if inside == "src/lib.rs" && NO_STD_CRATES.contains(&name) {
            violations.extend(no_std(path, &file.masked));
        }
    }
    violations
}

/// `crates/<name>/<inside>`.
fn crate_of(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("crates/")?.split_once('/')
}

fn file_name(path: &str) -> Option<Violation> {
    let stem = path.trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let stem = stem.rsplit('/').next().unwrap_or(stem);
    BANNED_FILES.contains(&stem).then(|| Violation {
        rule: "file-name",
        path: path.to_owned(),
        line: 0,
        subject: stem.to_owned(),
        measure: 0,
        message: format!("a file called {stem} collects anything: name the pattern it holds"),
    })
}

fn module_doc(path: &str, text: &str) -> Option<Violation> {
    let documented =
        text.lines().next().is_some_and(|line| line.len() > 4 && line.starts_with("//! "));
    (!documented).then(|| Violation {
        rule: "module-doc",
        path: path.to_owned(),
        line: 1,
        subject: "-".to_owned(),
        measure: 0,
        message: "open with `//!`: what it is, its invariant, what lives elsewhere".to_owned(),
    })
}

fn no_std(path: &str, masked: &str) -> Option<Violation> {
    let declared = masked.lines().any(|line| {
        let line = line.trim();
        line == "#![no_std]" || line == "#![cfg_attr(not(test), no_std)]"
    });
    (!declared).then(|| Violation {
        rule: "no-std",
        path: path.to_owned(),
        line: 1,
        subject: "-".to_owned(),
        measure: 0,
        message: "this crate opens with #![no_std]".to_owned(),
    })
}

fn banned(
    rule: &'static str,
    path: &str,
    masked: &str,
    words: &[(&'static str, &'static str)],
) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (at, line) in masked.lines().enumerate() {
        for (word, instead) in words {
            if contains_path(line, word) {
                violations.push(Violation {
                    rule,
                    path: path.to_owned(),
                    line: at + 1,
                    subject: (*word).to_owned(),
                    measure: 0,
                    message: format!("{word} may not be used here: {instead}"),
                });
            }
        }
    }
    violations
}

/// Whether `word` occurs in `line`, spelled out or in the braces of an import.
fn contains_path(line: &str, word: &str) -> bool {
    if contains_word(line, word) {
        return true;
    }
    let Some((parent, name)) = word.rsplit_once("::") else { return false };
    let imports = line.split_once(&format!("{parent}::{{"));
    imports.is_some_and(|(_, names)| contains_word(names, name))
}

/// Whether `word` occurs in `line` with no identifier character touching either end.
fn contains_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let starts = !word.starts_with(is_name) || !before.is_some_and(is_name);
        let ends = !word.ends_with(is_name) || !after.is_some_and(is_name);
        starts && ends
    })
}
