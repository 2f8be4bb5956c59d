//! Every rule finds its planted violation, and only that one.
//!
//! Each test builds a small tree on disk and runs the whole of tidy over it, so that a rule that
//! is written but not called fails too.

use std::path::PathBuf;

use super::source_tree::SourceTree;
use super::{check, exceptions};

const PATTERN_FILE: &str = "crates/clocks/src/pattern.rs";
const MANIFEST: &str = "[dependencies]\n[lints]\nworkspace = true\n";

/// A directory that goes away with the test.
struct Fixture {
    root: PathBuf,
}

impl Fixture {
    /// A tree that breaks no rule.
    fn new(name: &str) -> Fixture {
        let root = std::env::temp_dir().join(format!("quorate-tidy-{}-{name}", std::process::id()));
        let fixture = Fixture { root };
        fixture.write("crates/clocks/Cargo.toml", MANIFEST);
        fixture.write(
            "crates/clocks/src/lib.rs",
            "//! Clocks.\n#![no_std]\nmod pattern;\npub mod public;\n",
        );
        fixture.write("crates/clocks/src/public.rs", "//! Public.\n");
        fixture.write("crates/store/Cargo.toml", MANIFEST);
        fixture.write("crates/store/src/lib.rs", "//! Store: HashMap is only named here.\n");
        fixture.write("crates/checkers/Cargo.toml", MANIFEST);
        fixture
            .write("crates/checkers/src/lib.rs", "//! Checkers.\nuse std::collections::HashMap;\n");
        fixture.write_pattern_index();
        fixture
    }

    fn write_pattern_index(&self) {
        let mut first_line = "//! ".to_owned();
        let mut rows = "| Pattern | File | Test |\n|---|---|---|\n".to_owned();
        for pattern in super::pattern_index::REQUIRED {
            first_line.push_str(&format!("{pattern}, "));
            let (file, test) = (PATTERN_FILE, "shown");
            rows.push_str(&format!("| {pattern} | `{file}` | `{file}::{test}` |\n"));
        }
        // One line that names them all is longer than a line may be: the fixture lists it.
        self.write(PATTERN_FILE, &format!("{first_line}\nfn shown() {{}}\n"));
        self.write("docs/patterns.md", &rows);
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("mkdir");
        std::fs::write(path, text).expect("write");
    }

    fn remove(&self, path: &str) {
        std::fs::remove_file(self.root.join(path)).expect("remove");
    }

    /// `rule path` of everything found, the fixture's own long line left out.
    fn violations(&self) -> Vec<String> {
        let tree = SourceTree::load(&self.root).expect("the fixture is readable");
        let found = check(&tree).into_iter();
        let found = found.filter(|v| (v.rule, v.path.as_str()) != OWN_LONG_LINE);
        found.map(|v| format!("{} {}", v.rule, v.path)).collect()
    }

    fn expect(&self, expected: &[&str]) {
        assert_eq!(self.violations(), expected);
    }
}

const OWN_LONG_LINE: (&str, &str) = ("line-length", PATTERN_FILE);

impl Drop for Fixture {
    fn drop(&mut self) {
        // A leftover in the temporary directory is not worth failing for.
        drop(std::fs::remove_dir_all(&self.root));
    }
}

#[test]
fn a_tree_that_breaks_no_rule_passes() {
    Fixture::new("clean").expect(&[]);
}

#[test]
fn a_forbidden_edge_is_found() {
    let fixture = Fixture::new("edge");
    fixture.write("crates/store/src/lib.rs", "//! Store.\nuse consensus::Core;\n");
    let manifest = "[dependencies]\nconsensus.workspace = true\n[lints]\nworkspace = true\n";
    fixture.write("crates/store/Cargo.toml", manifest);
    fixture.expect(&["dependency-edge crates/store/Cargo.toml"]);
}

#[test]
fn a_dependency_outside_the_allowlist_is_found_however_it_is_written() {
    let fixture = Fixture::new("allowlist");
    fixture.write("crates/store/src/lib.rs", "//! Store.\nuse {serde, regex, log, random};\n");
    fixture.write(
        "crates/store/Cargo.toml",
        "[dependencies]\nserde = \"1\"\nrandom = { package = \"rand\", version = \"0\" }\n\
         [dev-dependencies]\nregex = \"1\"\n[target.'cfg(unix)'.dependencies]\nlog = \"1\"\n\
         [lints]\nworkspace = true\n",
    );
    let found = fixture.violations();
    let edges = found.iter().filter(|v| v.starts_with("dependency-edge")).count();
    assert_eq!(edges, 4, "{found:?}");
}

#[test]
fn a_crate_without_a_row_and_a_manifest_without_lints_are_found() {
    let fixture = Fixture::new("row");
    fixture.write("crates/extra/Cargo.toml", MANIFEST);
    fixture.write("crates/store/Cargo.toml", "[dependencies]\n");
    fixture.expect(&[
        "dependency-edge crates/extra/Cargo.toml",
        "dependency-edge crates/store/Cargo.toml",
    ]);
}

#[test]
fn a_dependency_that_nobody_names_is_found() {
    let fixture = Fixture::new("dead-dependency");
    let manifest = "[dependencies]\nbytes = \"1\"\n[lints]\nworkspace = true\n";
    fixture.write("crates/store/Cargo.toml", manifest);
    fixture.expect(&["dead-dependency crates/store/Cargo.toml"]);
}

#[test]
fn banned_file_names_are_found() {
    let fixture = Fixture::new("file-name");
    for name in ["utils", "common", "helpers", "types", "impls"] {
        let path = format!("crates/store/tests/{name}.rs");
        fixture.write(&path, "//! Things.\n");
        fixture.expect(&[&format!("file-name {path}")]);
        fixture.remove(&path);
        let path = format!("crates/store/tests/{name}/mod.rs");
        fixture.write(&path, "//! Things.\n");
        fixture.expect(&[&format!("file-name {path}")]);
        fixture.remove(&path);
    }
}

#[test]
fn what_the_core_may_not_use_is_found() {
    let fixture = Fixture::new("core");
    let planted = [
        "use std::collections::HashMap;",
        "use std::collections::HashSet;",
        "let now = Instant::now();",
        "let now = SystemTime::now();",
        "std::thread::spawn(|| ());",
        "let x = rand::random();",
        "use tokio::sync;",
        "async fn f() {}",
        "let x = f().await;",
        "use std::fs;",
        "use std::{collections::BTreeMap, fs};",
        "use std::time::{Duration, Instant};",
        "use std::net::TcpStream;",
        "unsafe { f() }",
        "println!();",
    ];
    for code in planted {
        fixture.write("crates/store/src/lib.rs", &format!("//! Store.\n{code}\n"));
        let found = fixture.violations();
        assert!(!found.is_empty(), "{code}");
        assert!(found.iter().all(|v| v == "banned-in-core crates/store/src/lib.rs"), "{found:?}");
    }
}

#[test]
fn words_that_only_contain_a_banned_one_pass() {
    let fixture = Fixture::new("words");
    let code =
        "//! Store.\nstruct MyHashMapLike;\nfn asynchronous() { \"HashMap\" }\n// SystemTime\n";
    fixture.write("crates/store/src/lib.rs", code);
    fixture.expect(&[]);
}

#[test]
fn checkers_that_do_io_are_found() {
    let fixture = Fixture::new("checkers");
    fixture.write("crates/checkers/src/lib.rs", "//! Checkers.\nuse std::fs::File;\n");
    fixture.expect(&["banned-in-core crates/checkers/src/lib.rs"]);
}

#[test]
fn silenced_lints_skipped_tests_and_unfinished_code_are_found() {
    let fixture = Fixture::new("everywhere");
    let planted =
        ["#[allow(dead_code)]", "#![allow(x)]", "#[expect(x)]", "#[ignore]", "todo!()", "dbg!(1)"];
    for code in planted {
        fixture.write("crates/store/src/lib.rs", &format!("//! Store.\n{code}\n"));
        fixture.expect(&["banned-everywhere crates/store/src/lib.rs"]);
    }
}

#[test]
fn a_crate_that_must_be_no_std_and_is_not_is_found() {
    let fixture = Fixture::new("no-std");
    fixture.write("crates/clocks/src/lib.rs", "//! #![no_std]\nmod pattern;\nmod public;\n");
    fixture.expect(&["no-std crates/clocks/src/lib.rs"]);
}

#[test]
fn a_mark_that_nothing_sets_is_found() {
    let fixture = Fixture::new("marks");
    let list = "//! Marks.\nmarks! {\n    /// One.\n    Set,\n    /// Other.\n    SetNot,\n}\n";
    fixture.write("crates/simulator/src/mark.rs", list);
    fixture.write(
        "crates/simulator/src/lib.rs",
        "//! Simulator.\nmod mark;\nfn reach() { Mark::Set; Mark::SetNotAtAll; }\n",
    );
    fixture.expect(&["unset-mark crates/simulator/src/mark.rs"]);
}

#[test]
fn a_planted_bug_in_what_ships_is_found() {
    let fixture = Fixture::new("planted");
    let manifest = |text: &str| format!("{text}\n[lints]\nworkspace = true\n");
    fixture.write("crates/mutants/src/lib.rs", "//! Mutants.\n");
    let by_default = manifest("[features]\nplanted = []\ndefault = [\"planted\"]");
    fixture.write("crates/mutants/Cargo.toml", &by_default);
    fixture.write("crates/store/src/lib.rs", "//! Store.\nuse mutants::planted;\n");
    let asked_for = manifest("[dependencies]\nmutants = { features = [\"planted\"] }");
    fixture.write("crates/store/Cargo.toml", &asked_for);
    fixture.expect(&[
        "planted-bugs crates/mutants/Cargo.toml",
        "planted-bugs crates/store/Cargo.toml",
    ]);
}

#[test]
fn a_file_without_a_module_doc_is_found() {
    let fixture = Fixture::new("module-doc");
    fixture.write("crates/store/src/lib.rs", "use clocks::Term;\n");
    fixture.expect(&["module-doc crates/store/src/lib.rs"]);
}

#[test]
fn a_dead_file_is_found() {
    let fixture = Fixture::new("dead-file");
    fixture.write("crates/store/src/lib.rs", "//! Store.\nmod live;\n// mod dead;\n");
    fixture.write("crates/store/src/live.rs", "//! Live.\npub(crate) mod inner;\n");
    fixture.write("crates/store/src/live/inner.rs", "//! Inner.\n");
    fixture.write("crates/store/src/dead.rs", "//! Dead.\n");
    fixture.expect(&["dead-file crates/store/src/dead.rs"]);
}

#[test]
fn lengths_are_limits_not_targets() {
    let fixture = Fixture::new("lengths");
    let path = "crates/store/src/lib.rs";
    let file = |lines: usize| format!("//! Store.\n{}", "// line\n".repeat(lines - 1));
    let function = |lines: usize| {
        format!(
            "//! Store.\nimpl S {{\n    pub(crate) const fn f<T>(\n    ) {{\n{}    }}\n}}\n",
            "        x();\n".repeat(lines - 3)
        )
    };
    let line = |columns: usize| format!("//! Store.\n//{}\n", "é".repeat(columns - 2));
    let cases = [
        (file(800), vec![]),
        (file(801), vec!["file-length crates/store/src/lib.rs"]),
        (function(70), vec![]),
        (function(71), vec!["function-length crates/store/src/lib.rs"]),
        (line(100), vec![]),
        (line(101), vec!["line-length crates/store/src/lib.rs"]),
        (format!("//! |{}|\n", "x".repeat(100)), vec![]),
    ];
    for (text, expected) in cases {
        fixture.write(path, &text);
        fixture.expect(&expected);
    }
}

#[test]
fn a_declaration_without_a_body_is_not_a_long_function() {
    let fixture = Fixture::new("declaration");
    let body = "    // reason\n".repeat(80);
    let text = format!("//! Store.\ntrait T {{\n    fn f(\n        &self,\n    );\n{body}}}\n");
    fixture.write("crates/store/src/lib.rs", &text);
    fixture.expect(&[]);
}

#[test]
fn a_pattern_without_a_file_a_test_or_its_name_is_found() {
    let fixture = Fixture::new("patterns");
    let index = "docs/patterns.md";
    let tree = SourceTree::load(&fixture.root).expect("the fixture is readable");
    let rows = tree.get(index).expect("the index is there").text.clone();
    let row =
        "| heartbeat | `crates/clocks/src/pattern.rs` | `crates/clocks/src/pattern.rs::shown` |";
    assert!(rows.contains(row));
    let planted = [
        // No row.
        ("", 1),
        // No such file.
        ("| heartbeat | `crates/clocks/src/gone.rs` | `crates/clocks/src/lib.rs` |", 2),
        // A file that is about something else.
        ("| heartbeat | `crates/clocks/src/public.rs` | `crates/clocks/src/lib.rs` |", 1),
        // No test.
        ("| heartbeat | `crates/clocks/src/pattern.rs` | by hand |", 1),
        // No such test in that file: both the index and the document are wrong.
        ("| heartbeat | `crates/clocks/src/pattern.rs` | `crates/clocks/src/lib.rs::gone` |", 2),
    ];
    for (replacement, expected) in planted {
        fixture.write(index, &rows.replace(row, replacement));
        let found = fixture.violations();
        assert_eq!(found.len(), expected, "{replacement}: {found:?}");
        assert!(found.contains(&format!("pattern-index {index}")), "{found:?}");
    }
    fixture.remove(index);
    fixture.expect(&["pattern-index docs/patterns.md"]);
}

#[test]
fn a_document_that_points_at_nothing_is_found() {
    let fixture = Fixture::new("documents");
    fixture.write("docs/a.md", "[b](b.md) and [root](../README.md#x), `crates/store/src/lib.rs`\n");
    fixture.write("docs/b.md", "```\n`crates/in/a/fence.rs`\n```\n[web](https://example.org)\n");
    fixture.write("README.md", "[docs](docs/)\n");
    fixture.expect(&[]);
    for text in ["[x](gone.md)", "`crates/gone.rs`", "`crates/store/src/lib.rs::gone`"] {
        fixture.write("docs/b.md", text);
        fixture.expect(&["document-reference docs/b.md"]);
    }
}

#[test]
fn an_exception_covers_what_it_measures_and_nothing_more() {
    let fixture = Fixture::new("exceptions");
    fixture.write("crates/store/src/lib.rs", &format!("//! Store.\n{}", "//\n".repeat(849)));
    let path = "crates/store/src/lib.rs";
    let found = || {
        let tree = SourceTree::load(&fixture.root).expect("the fixture is readable");
        check(&tree).into_iter().filter(|v| v.path == path).collect::<Vec<_>>()
    };
    assert_eq!(found().len(), 1);
    let rules = |list: &str, longest: usize| {
        let left = exceptions::apply_list(list, longest, found());
        left.iter().map(|v| v.rule).collect::<Vec<_>>()
    };
    let exception = "file-length crates/store/src/lib.rs - 850 # because\n";
    assert_eq!(rules(exception, 1), [""; 0]);
    assert_eq!(rules(exception, 0), ["exceptions"], "a longer list than allowed");
    assert_eq!(rules(&exception.replace("850", "849"), 1), ["file-length"], "it grew");
    assert_eq!(rules(&exception.replace("850", "851"), 1), ["exceptions"], "it shrank");
    assert_eq!(rules(&exception.replace("# because", ""), 1), ["file-length", "exceptions"]);
    let stale = "file-length crates/store/src/gone.rs - 850 # because\n";
    assert_eq!(rules(stale, 1), ["file-length", "exceptions"], "it covers nothing");
}

#[test]
fn an_exception_in_the_tree_is_read() {
    let fixture = Fixture::new("exceptions-file");
    fixture.write("xtask/tidy-exceptions.txt", "# comment\nfile-length gone.rs - 850 # stale\n");
    let found = fixture.violations();
    assert_eq!(found, ["exceptions xtask/tidy-exceptions.txt"; 2], "stale, and over the cap of 0");
}
