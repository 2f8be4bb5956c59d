//! The `quorate` binary: words on the command line to calls of the crates that do the work.
//!
//! Exit codes: 0 done, 1 it did not work, 2 it was asked wrongly (one plain sentence says how).

mod arguments;
mod bench;
mod chaos;
mod dev;
mod etcd_words;
mod failover;
mod join;
mod restore;
mod sequence;
mod sim;
mod sim_progress;
mod snapshot;
mod start;
mod status;

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use arguments::{Arguments, Task};
use clap::Parser;
use harness::member_process::Server;

/// Why a task ended without success.
enum Failure {
    /// The settings make no sense; nothing was done.
    Usage(String),
    /// It was tried and did not work.
    Failed(String),
}

/// Prints a line. A reader that has gone away wants no more of them, and that is no failure.
fn say(line: impl Display) {
    let _gone = writeln!(std::io::stdout(), "{line}");
}

fn main() -> ExitCode {
    let (arguments, notes) = match etcd_words::understand(std::env::args_os()) {
        Ok(understood) => understood,
        Err(sentence) => {
            eprintln!("quorate: {sentence}");
            return ExitCode::from(2);
        }
    };
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return arguments::refuse(&error),
    };
    let result = match arguments.task {
        Task::Start(options) => start::run(*options, notes),
        Task::Join(options) => join::run(*options),
        Task::Dev(options) => dev::run(options),
        Task::Status(options) => status::run(&options),
        Task::Snapshot(options) => snapshot::run(options),
        Task::Restore(options) => restore::run(options),
        Task::Sequence(options) => sequence::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Sim(options) => sim::run(&options),
        Task::Chaos(options) => chaos::run(&options),
        Task::Failover(options) => failover::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(sentence)) => {
            eprintln!("quorate: {sentence}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(sentence)) => {
            eprintln!("quorate: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a task of the harness on a runtime of its own.
fn on_one_thread<T>(task: impl Future<Output = Result<T, String>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(error.to_string()))?;
    runtime.block_on(task).map_err(Failure::Failed)
}

/// The program that local clusters run: this one, or a stock etcd.
fn server(etcd_binary: Option<&Path>, options: Vec<String>) -> Result<Server, Failure> {
    if let Some(binary) = etcd_binary {
        return Ok(Server::Etcd { binary: binary.to_path_buf() });
    }
    let binary = std::env::current_exe();
    let binary = binary.map_err(|error| Failure::Failed(format!("where am I? {error}")))?;
    Ok(Server::Quorate { binary, options })
}
