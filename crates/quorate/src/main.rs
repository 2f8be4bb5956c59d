//! The `quorate` binary: words on the command line to calls of the crates that do the work.
//!
//! Exit codes: 0 done, 1 it did not work, 2 it was asked wrongly (one plain sentence says how).

mod arguments;
mod failover;

use std::process::ExitCode;

use arguments::{Arguments, Task};
use clap::Parser;

/// Why a task ended without success.
enum Failure {
    /// The settings make no sense; nothing was done.
    Usage(String),
    /// It was tried and did not work.
    Failed(String),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return arguments::refuse(&error),
    };
    let result = match arguments.task {
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
