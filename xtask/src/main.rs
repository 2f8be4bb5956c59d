//! Development tasks, run as `cargo xtask <task>`.
//!
//! Nothing here ships. Not here: what `cargo test --workspace` already runs.

mod ci;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ci::Context;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = workspace_root();
    let etcd_binary = take_option(&mut words, "--etcd-binary").map(PathBuf::from);
    match words.as_slice() {
        ["tidy"] => tidy::run(&root),
        ["ci", steps @ ..] if steps.iter().all(|step| ci::step_names().contains(step)) => {
            ci::run(&Context::new(&root, etcd_binary), steps)
        }
        _ => {
            eprintln!("usage: cargo xtask tidy");
            eprintln!("       cargo xtask ci [step…] [--etcd-binary PATH]");
            eprintln!("steps: {}", ci::step_names().join(", "));
            ExitCode::from(2)
        }
    }
}

/// Takes `name value` out of `words`.
fn take_option<'a>(words: &mut Vec<&'a str>, name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == name)?;
    let value = *words.get(at + 1)?;
    words.drain(at..=at + 1);
    Some(value)
}

/// The workspace this binary was built from.
fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("xtask lies one level below the workspace").to_path_buf()
}
