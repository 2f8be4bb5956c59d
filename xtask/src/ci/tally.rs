//! What passed and what failed, said as it happens and once more at the end.

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: u64,
    failures: Vec<String>,
}

impl Tally {
    /// Runs one check and notes how it ended.
    pub(crate) fn check(&mut self, name: &str, check: impl FnOnce() -> Result<(), String>) {
        match check() {
            Ok(()) => self.pass(name),
            Err(why) => self.fail(name, &why),
        }
    }

    /// Notes a check that held.
    pub(crate) fn pass(&mut self, name: &str) {
        println!("ok    {name}");
        self.passed += 1;
    }

    /// Notes a check that did not hold, or could not be made.
    pub(crate) fn fail(&mut self, name: &str, why: &str) {
        println!("FAIL  {name}: {why}");
        self.failures.push(name.to_owned());
    }

    /// Checks that held.
    pub(crate) fn passed(&self) -> u64 {
        self.passed
    }

    /// Checks that did not.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.len() as u64
    }

    /// The names of what failed.
    pub(crate) fn print_failures(&self) {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
    }
}
