//! Running programs and reading what they say; installing those that are missing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) success: bool,
}

/// Runs a program whose output goes to ours.
pub(crate) fn run_to_end(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| cannot_run(command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", named(command))) }
}

/// Runs a program and returns what it said, whatever its exit code.
pub(crate) fn listen(command: &mut Command, input: &str) -> Result<Said, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_run(command, &error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input closes it: no error of ours.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output().map_err(|error| cannot_run(command, &error))?;
    Ok(Said {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        success: output.status.success(),
    })
}

/// What a program that must succeed wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let said = listen(command, "")?;
    if said.success {
        return Ok(said.stdout);
    }
    Err(format!("{} failed: {}{}", named(command), said.stdout, said.stderr))
}

/// Makes sure that `program` can be run, by installing Debian's `package` if need be.
pub(crate) fn ensure_installed(program: &str, package: &str) -> Result<(), String> {
    if is_installed(program) {
        return Ok(());
    }
    // An index that cannot be refreshed may still be good enough.
    if let Err(error) = packages(&["update"]) {
        println!("{error}");
    }
    packages(&["install", "--no-install-recommends", package])?;
    if is_installed(program) {
        return Ok(());
    }
    Err(format!("{program} is missing, and package {package} does not bring it"))
}

/// Runs Debian's `apt-get`, as root.
pub(crate) fn packages(arguments: &[&str]) -> Result<String, String> {
    let root = output(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        command.args(["-n", "apt-get"]);
    }
    command.args(["-q", "-y"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    output(&mut command)
}

/// Whether `program` is on the path.
pub(crate) fn is_installed(program: &str) -> bool {
    installed(program).is_some()
}

/// Where on the path `program` is.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&paths).map(|directory| directory.join(program));
    candidates.find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn named(command: &Command) -> String {
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    let program = command.get_program().to_string_lossy().into_owned();
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn cannot_run(command: &Command, error: &std::io::Error) -> String {
    format!("cannot run {}: {error}", named(command))
}
