//! Dependency edges: which crate may import which, and nothing else.
//!
//! The table is the architecture (design: "each is a sentence that begins *may not*"). A crate may
//! depend on what its row lists, whether it is ours or from outside; a new dependency is a new
//! entry here and therefore a decision. A dependency that no file of the crate names is dead.

use std::collections::BTreeSet;

use toml::Table;

use super::Violation;
use super::source_tree::SourceTree;

/// What one crate may depend on.
struct Row {
    name: &'static str,
    /// Crates of this workspace.
    ours: &'static [&'static str],
    /// Crates from outside, in code that ships.
    external: &'static [&'static str],
    /// Either kind, in tests and build scripts only.
    development: &'static [&'static str],
}

const ROWS: [Row; 13] = [
    Row { name: "clocks", ours: &[], external: &[], development: &["goldenscript", "proptest"] },
    Row { name: "mutants", ours: &[], external: &[], development: &[] },
    Row {
        name: "consensus",
        ours: &["clocks", "mutants"],
        external: &["bytes"],
        development: &["goldenscript", "proptest", "raft"],
    },
    Row {
        name: "wal",
        ours: &["clocks"],
        external: &["bytes", "crc32c"],
        development: &["goldenscript", "proptest"],
    },
    Row {
        name: "store",
        ours: &["clocks", "mutants"],
        external: &["bytes", "crc32c"],
        development: &["goldenscript", "proptest"],
    },
    Row {
        name: "replica",
        ours: &["clocks", "mutants", "consensus", "wal", "store"],
        external: &["bytes", "crc32c"],
        development: &["goldenscript", "proptest"],
    },
    Row {
        name: "wire",
        ours: &["clocks", "consensus", "store", "replica"],
        external: &["bytes", "crc32c", "prost"],
        development: &["goldenscript", "proptest", "prost-build", "protox"],
    },
    Row {
        name: "node",
        ours: &["clocks", "consensus", "wal", "store", "replica", "wire"],
        external: &[
            "axum",
            "base64",
            "bcrypt",
            "bytes",
            "crc32c",
            "http",
            "http-body",
            "http-body-util",
            "hyper",
            "hyper-util",
            "lsm-tree",
            "prost",
            "rcgen",
            "ring",
            "rustix",
            "serde",
            "serde_json",
            "sha2",
            "socket2",
            "tokio",
            "tokio-rustls",
            "tokio-stream",
            "toml",
            "tonic",
            "tonic-prost",
            "tonic-reflection",
            "tower",
            "tracing",
        ],
        development: &["goldenscript", "proptest", "protox", "tempfile", "tonic-prost-build"],
    },
    Row {
        name: "checkers",
        ours: &[],
        external: &[],
        development: &["goldenscript", "porcupine-rs", "proptest"],
    },
    Row {
        name: "simulator",
        ours: &["clocks", "mutants", "consensus", "wal", "store", "replica", "wire", "checkers"],
        external: &["bytes", "crc32c", "serde", "serde_json"],
        development: &["goldenscript", "proptest"],
    },
    Row {
        name: "harness",
        ours: &["checkers"],
        external: &[
            "hdrhistogram",
            "prost",
            "rcgen",
            "rustix",
            "serde",
            "serde_json",
            "tokio",
            "tokio-rustls",
            "tokio-stream",
            "tonic",
            "tonic-prost",
        ],
        development: &["protox", "tonic-prost-build"],
    },
    Row {
        name: "quorate",
        ours: &["node", "simulator", "harness"],
        external: &["clap", "tokio", "tracing-subscriber"],
        development: &[],
    },
    Row { name: "xtask", ours: &[], external: &["toml"], development: &[] },
];

/// Compares every manifest with its row.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, file) in tree.files() {
        let Some(directory) = path.strip_suffix("Cargo.toml") else { continue };
        if !(directory.starts_with("crates/") || directory == "xtask/") {
            continue;
        }
        match file.text.parse::<Table>() {
            Ok(manifest) => check_manifest(tree, path, directory, &manifest, &mut violations),
            Err(error) => violations.push(edge(path, "-", format!("not TOML: {error}"))),
        }
    }
    violations
}

fn check_manifest(
    tree: &SourceTree,
    path: &str,
    directory: &str,
    manifest: &Table,
    violations: &mut Vec<Violation>,
) {
    let name = directory.trim_end_matches('/').rsplit('/').next().unwrap_or(directory);
    let Some(row) = ROWS.iter().find(|row| row.name == name) else {
        let message = format!("crate {name} has no row in the table of dependency edges");
        violations.push(edge(path, name, message));
        return;
    };
    let ours: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
    for dependency in dependencies(manifest, &["dependencies"]) {
        let allowed = if ours.contains(dependency.as_str()) { row.ours } else { row.external };
        if !allowed.contains(&dependency.as_str()) {
            let message = format!("{name} may not depend on {dependency}");
            violations.push(edge(path, &dependency, message));
        }
    }
    for dependency in dependencies(manifest, &["dev-dependencies", "build-dependencies"]) {
        let known = [row.ours, row.external, row.development];
        if !known.iter().any(|allowed| allowed.contains(&dependency.as_str())) {
            let message = format!("{name} may not depend on {dependency}, in tests neither");
            violations.push(edge(path, &dependency, message));
        }
    }
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    for dependency in dependencies(manifest, &tables) {
        if !is_named(tree, directory, &dependency) {
            violations.push(Violation {
                rule: "dead-dependency",
                ..edge(path, &dependency, format!("no file of {name} names {dependency}"))
            });
        }
    }
    if !inherits_lints(manifest) {
        violations.push(edge(path, "lints", "[lints] workspace = true is missing".to_owned()));
    }
}

/// Names in these tables, those under `target.….` included.
fn dependencies(manifest: &Table, tables: &[&str]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let targets = manifest.get("target").and_then(|value| value.as_table());
    let nested = targets.into_iter().flat_map(|targets| targets.values());
    let nested = nested.filter_map(|value| value.as_table());
    for scope in std::iter::once(manifest).chain(nested) {
        for table in tables {
            if let Some(table) = scope.get(*table).and_then(|value| value.as_table()) {
                for (name, value) in table {
                    // A renamed dependency is what it is, not what it is called.
                    let real = value.get("package").and_then(|value| value.as_str());
                    names.insert(real.unwrap_or(name).to_owned());
                }
            }
        }
    }
    names
}

/// Generated messages name `prost` without any file of ours doing so.
fn is_named(tree: &SourceTree, directory: &str, dependency: &str) -> bool {
    let word = dependency.replace('-', "_");
    let generated = matches!(word.as_str(), "prost" | "tonic_prost" | "tonic");
    tree.rust_files().filter(|(path, _)| path.starts_with(directory)).any(|(_, file)| {
        file.masked.contains(&word) || (generated && file.masked.contains("include!"))
    })
}

fn inherits_lints(manifest: &Table) -> bool {
    let lints = manifest.get("lints").and_then(|value| value.get("workspace"));
    lints.and_then(|value| value.as_bool()) == Some(true)
}

fn edge(path: &str, subject: &str, message: String) -> Violation {
    Violation {
        rule: "dependency-edge",
        path: path.to_owned(),
        line: 0,
        subject: subject.to_owned(),
        measure: 0,
        message,
    }
}
