//! Planted bugs stay in tests: the feature that compiles them in is asked for by development
//! dependencies of the simulator alone, which cargo does not build into anything that ships.

use toml::{Table, Value};

use super::Violation;
use super::source_tree::SourceTree;

/// The feature of crate `mutants`.
const FEATURE: &str = "planted";

/// The one manifest that may ask for it, and where in it.
const ALLOWED: (&str, &str) = ("crates/simulator/Cargo.toml", "dev-dependencies");

/// Looks for the feature in every manifest.
pub(crate) fn check(tree: &SourceTree) -> Vec<Violation> {
    let manifests = tree.files().filter(|(path, _)| path.ends_with("Cargo.toml"));
    let parsed =
        manifests.filter_map(|(path, file)| Some((path, file.text.parse::<Table>().ok()?)));
    parsed.flat_map(|(path, manifest)| check_manifest(path, &manifest)).collect()
}

fn check_manifest(path: &str, manifest: &Table) -> Vec<Violation> {
    let own = path == "crates/mutants/Cargo.toml";
    let mut violations = Vec::new();
    for (section, value) in manifest {
        // The crate itself declares it, and must not make it a default.
        let declares = own && section == "features" && value.get("default").is_none();
        let allowed = declares || (path, section.as_str()) == ALLOWED;
        if !allowed && names_feature(value) {
            violations.push(Violation {
                rule: "planted-bugs",
                path: path.to_owned(),
                line: 0,
                subject: section.clone(),
                measure: 0,
                message: format!("[{section}] would compile planted bugs into what ships"),
            });
        }
    }
    violations
}

fn names_feature(value: &Value) -> bool {
    match value {
        Value::String(text) => text.rsplit('/').next() == Some(FEATURE),
        Value::Array(values) => values.iter().any(names_feature),
        Value::Table(table) => {
            table.iter().any(|(key, value)| key == FEATURE || names_feature(value))
        }
        _ => false,
    }
}
