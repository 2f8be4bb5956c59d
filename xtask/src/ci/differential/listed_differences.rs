//! The differences that are meant, and what is wrong with a run in their light.
//!
//! A block of `differences.txt` reads
//! ```text
//! [3.4 3.6, kv] Title of the difference in docs/etcd.md
//! $ etcdctl command
//! - what etcd said
//! + what Quorate says
//! ```
//! with an empty line after it. Lines that begin with `#` are prose.

use std::fmt::Write as _;
use std::path::Path;

/// Where the list is.
const LIST: &str = "xtask/clients/differential/differences.txt";

/// Where every difference is explained.
const DOCUMENT: &str = "docs/etcd.md";

/// A command that does not say what it says against etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) release: String,
    pub(super) script: String,
    /// The command, then the lines that part.
    pub(super) words: Vec<String>,
}

/// What is listed, one for each release.
#[derive(Debug)]
pub(super) struct ListedDifferences(Vec<Difference>);

impl ListedDifferences {
    pub(super) fn load(root: &Path) -> Result<ListedDifferences, String> {
        let read = |path: &str| {
            std::fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"))
        };
        ListedDifferences::parse(&read(LIST)?, &read(DOCUMENT)?)
    }

    fn parse(list: &str, document: &str) -> Result<ListedDifferences, String> {
        let mut differences = Vec::new();
        let lines: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
        for block in lines.split(|line| line.is_empty()).filter(|block| !block.is_empty()) {
            let malformed = || format!("{LIST}: no block begins with {:?}", block[0]);
            let (place, title) = block[0].split_once("] ").ok_or_else(malformed)?;
            let place = place.strip_prefix('[').ok_or_else(malformed)?;
            let (releases, script) = place.split_once(", ").ok_or_else(malformed)?;
            if !document.contains(&format!("**{title}**")) {
                return Err(format!("{DOCUMENT} does not explain **{title}**"));
            }
            let words: Vec<String> = block[1..].iter().map(|line| (*line).to_owned()).collect();
            differences.extend(releases.split(' ').map(|release| Difference {
                release: release.to_owned(),
                script: script.to_owned(),
                words: words.clone(),
            }));
        }
        Ok(ListedDifferences(differences))
    }

    /// What was found and is not listed, and what is listed and was not found; empty if all is as
    /// it should be.
    pub(super) fn complaints(&self, release: &str, script: &str, found: &[Difference]) -> String {
        let mut complaints = String::new();
        let mut complain = |what: &str, difference: &Difference| {
            let words = difference.words.join("\n");
            write!(complaints, "\n{what}:\n[{release}, {script}]\n{words}\n")
                .expect("a string grows");
        };
        for difference in found.iter().filter(|difference| !self.0.contains(difference)) {
            complain("not listed", difference);
        }
        let here = |listed: &&Difference| listed.release == release && listed.script == script;
        for gone in self.0.iter().filter(here).filter(|listed| !found.contains(listed)) {
            complain("listed, but no longer so", gone);
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "# prose\n\n[3.4 3.6, kv] Larger\n$ get a\n- 1\n+ 2\n\n";

    fn found(release: &str, last: &str) -> Difference {
        let words = ["$ get a", "- 1", last].map(str::to_owned).to_vec();
        Difference { release: release.to_owned(), script: "kv".to_owned(), words }
    }

    #[test]
    fn a_listed_difference_is_no_complaint() {
        let listed = ListedDifferences::parse(LISTED, "- **Larger**: so").expect("well formed");
        assert_eq!(listed.complaints("3.6", "kv", &[found("3.6", "+ 2")]), "");
        assert_eq!(listed.complaints("3.6", "txn", &[]), "");
    }

    #[test]
    fn another_answer_and_a_difference_that_is_gone_are_complaints() {
        let listed = ListedDifferences::parse(LISTED, "- **Larger**: so").expect("well formed");
        let complaints = listed.complaints("3.4", "kv", &[found("3.4", "+ 3")]);
        assert!(complaints.contains("not listed:\n[3.4, kv]\n$ get a\n- 1\n+ 3"), "{complaints}");
        assert!(complaints.contains("no longer so:\n[3.4, kv]\n$ get a\n- 1\n+ 2"), "{complaints}");
    }

    #[test]
    fn every_difference_is_explained_in_the_document() {
        let refusal = ListedDifferences::parse(LISTED, "nothing").expect_err("not explained");
        assert!(refusal.contains("does not explain **Larger**"), "{refusal}");
        assert!(ListedDifferences::parse("$ get a\n", "").is_err(), "no place");
    }
}
