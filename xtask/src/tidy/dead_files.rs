//! Dead files: a Rust file that no `mod` names is compiled by nobody.

use super::Violation;
use super::source_tree::SourceTree;

/// File names that Cargo finds by itself.
const ROOTS: [&str; 3] = ["lib.rs", "main.rs", "build.rs"];

/// Every file below a `src` directory must be declared by its parent module.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (path, _) in tree.rust_files() {
        let Some((package, inside)) = path.split_once("src/") else { continue };
        let name = inside.rsplit('/').next().unwrap_or(inside);
        if ROOTS.contains(&name) || inside.starts_with("bin/") {
            continue;
        }
        let parents = parents(package, inside);
        let module = module_name(inside);
        let declared = parents.iter().filter_map(|parent| tree.get(parent)).any(|parent| {
            parent.masked.lines().any(|line| {
                let line = line.trim();
                line == format!("mod {module};") || line.ends_with(&format!(" mod {module};"))
            })
        });
        if !declared {
            violations.push(Violation {
                rule: "dead-file",
                path: path.to_owned(),
                line: 0,
                subject: "-".to_owned(),
                measure: 0,
                message: format!("no parent module says `mod {module};`"),
            });
        }
    }
    violations
}

/// `a/b.rs` and `a/b/mod.rs` are both module `b`.
fn module_name(inside: &str) -> &str {
    let path = inside.strip_suffix("/mod.rs").or_else(|| inside.strip_suffix(".rs"));
    let path = path.unwrap_or(inside);
    path.rsplit('/').next().unwrap_or(path)
}

/// The files that may declare the module at `inside`.
fn parents(package: &str, inside: &str) -> Vec<String> {
    let directory = inside.strip_suffix("/mod.rs").unwrap_or(inside);
    match directory.rsplit_once('/') {
        None => vec![format!("{package}src/lib.rs"), format!("{package}src/main.rs")],
        Some((parent, _)) => {
            vec![format!("{package}src/{parent}.rs"), format!("{package}src/{parent}/mod.rs")]
        }
    }
}
