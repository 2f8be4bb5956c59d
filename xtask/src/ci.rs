//! Everything that must hold before a commit counts, beyond what `cargo test` shows.
//!
//! A step counts what it checked; the last line of a run is `N passed, N failed` and nothing else.
//! A step that could not run has failed. Not here: what `cargo test --workspace` runs, which
//! `.ci/run` does first.

mod chaos_steps;
mod client_cluster;
mod client_suites;
mod differential;
mod etcdctl_suite;
mod failover_steps;
mod readme_session;
mod shell;
mod simulation_steps;
mod stock_etcd;
mod tally;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use shell::run_to_end;
use tally::Tally;

/// What a step gets to know.
pub(crate) struct Context {
    /// The workspace.
    root: PathBuf,
    /// Where Cargo builds.
    target: PathBuf,
    /// Run client suites against stock etcd servers instead, to check the suites.
    etcd_binary: Option<PathBuf>,
}

impl Context {
    pub(crate) fn new(root: &Path, etcd_binary: Option<PathBuf>) -> Context {
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or_else(|| root.join("target"), PathBuf::from);
        Context { root: root.to_path_buf(), target, etcd_binary }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(&self.root);
        command
    }

    fn binary(&self, profile: &str) -> PathBuf {
        self.target.join(profile).join("quorate")
    }

    /// A fresh directory for what a step leaves behind.
    fn scratch(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.target.join("ci").join(name);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|error| format!("{error}"))?;
        }
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }
}

/// A step's name on the command line, and what it does.
type Step = (&'static str, fn(&Context, &mut Tally));

const STEPS: [Step; 13] = [
    ("format", format),
    ("clippy", clippy),
    ("tidy", tidy),
    ("build", build),
    ("simulation", simulation_steps::run),
    ("failover", failover_steps::run),
    ("chaos", chaos_steps::run),
    ("etcdctl", etcdctl_suite::run),
    ("etcdctl-differential", differential::run),
    ("readme", readme_session::run),
    ("rust-client", client_suites::rust),
    ("go-client", client_suites::go),
    ("python-client", client_suites::python),
];

/// Names of all steps, in order.
pub(crate) fn step_names() -> Vec<&'static str> {
    STEPS.iter().map(|(name, _)| *name).collect()
}

/// Runs the named steps, or all of them if none is named.
pub(crate) fn run(context: &Context, wanted: &[&str]) -> ExitCode {
    let mut tally = Tally::default();
    let started = Instant::now();
    for (name, step) in STEPS {
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        println!("== {name}");
        let (step_started, before) = (Instant::now(), tally.failed());
        step(context, &mut tally);
        let verdict = if tally.failed() == before { "ok" } else { "FAILED" };
        println!("== {name}: {verdict} after {} s", step_started.elapsed().as_secs());
    }
    println!("== all steps took {} s", started.elapsed().as_secs());
    tally.print_failures();
    println!("{} passed, {} failed", tally.passed(), tally.failed());
    if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn format(context: &Context, tally: &mut Tally) {
    let mut command = context.cargo(&["fmt", "--all", "--check"]);
    tally.check("rustfmt has nothing to change", || run_to_end(&mut command));
}

fn clippy(context: &Context, tally: &mut Tally) {
    let arguments = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    let mut command = context.cargo(&arguments);
    tally.check("clippy has nothing to say", || run_to_end(&mut command));
}

fn tidy(context: &Context, tally: &mut Tally) {
    tally.check("tidy finds no violation", || crate::tidy::complain(&context.root));
}

fn build(context: &Context, tally: &mut Tally) {
    let mut release = context.cargo(&["build", "--release", "--quiet", "--package", "quorate"]);
    tally.check("the release binary builds", || run_to_end(&mut release));
    let mut debug = context.cargo(&["build", "--quiet", "--package", "quorate"]);
    tally.check("the debug binary builds", || run_to_end(&mut debug));
}
