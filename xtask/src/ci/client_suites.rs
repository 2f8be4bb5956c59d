//! Stock client libraries against a local cluster: Rust, Go and Python.
//!
//! Each is a program in `xtask/clients` with versions of its own, outside the workspace (the build
//! of `etcd-client` wants `protoc`). It is given the endpoints and prints a line per check, `ok
//! <name>` or `FAIL <name>: <why>`; against stock servers too (`--etcd-binary`).

use std::path::PathBuf;
use std::process::Command;

use super::Context;
use super::client_cluster::ClientCluster;
use super::shell::{ensure_installed, is_installed, listen, output, packages, run_to_end};
use super::stock_etcd;
use super::tally::Tally;

/// The crate `etcd-client`.
pub(super) fn rust(context: &Context, tally: &mut Tally) {
    run(context, tally, "etcd-client", rust_checks(context));
    run_secured(context, tally, "etcd-client", rust_checks(context));
}

fn rust_checks(context: &Context) -> Result<Command, String> {
    ensure_installed("protoc", "protobuf-compiler")?;
    // The messages that every schema may import come apart from the compiler.
    let known = ["--descriptor_set_out=/dev/null", "google/protobuf/descriptor.proto"];
    if output(Command::new("protoc").args(known)).is_err() {
        packages(&["install", "--no-install-recommends", "libprotobuf-dev"])?;
    }
    let target = context.target.join("ci").join("rust-client");
    let mut build = context.cargo(&["build", "--quiet", "--locked"]);
    build.current_dir(context.root.join("xtask/clients/rust"));
    run_to_end(build.arg("--target-dir").arg(&target))?;
    Ok(Command::new(target.join("debug").join("etcd-client-checks")))
}

/// The Go package `clientv3`, with its `concurrency`.
pub(super) fn go(context: &Context, tally: &mut Tally) {
    if !is_installed("go") {
        return println!("skip  clientv3: there is no Go to build it with");
    }
    let binary = context.target.join("ci").join("clientv3-checks");
    let built = stock_etcd::build(context, &binary, "./clientv3");
    run(context, tally, "clientv3", built.clone().map(|()| Command::new(&binary)));
    run_secured(context, tally, "clientv3", built.map(|()| Command::new(binary)));
}

/// The Python package `etcd3`.
pub(super) fn python(context: &Context, tally: &mut Tally) {
    run(context, tally, "python etcd3", python_checks(context));
    run_secured(context, tally, "python etcd3", python_checks(context));
}

fn python_checks(context: &Context) -> Result<Command, String> {
    ensure_installed("python3", "python3")?;
    if output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_err() {
        packages(&["install", "--no-install-recommends", "python3-venv"])?;
    }
    let directory = context.target.join("ci").join("python-client");
    let python = directory.join("bin/python3");
    if !python.exists() {
        output(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
    }
    let sources: PathBuf = context.root.join("xtask/clients/python");
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--requirement"]);
    output(install.arg(sources.join("requirements.txt")))?;
    let mut checks = Command::new(python);
    checks.arg(sources.join("checks.py"));
    Ok(checks)
}

fn run(context: &Context, tally: &mut Tally, client: &str, checks: Result<Command, String>) {
    let cluster = || ClientCluster::start(context, &format!("{}-data", client.replace(' ', "-")));
    let run = checks.and_then(|mut checks| suite(tally, client, cluster()?, &mut checks));
    if let Err(why) = run {
        tally.fail(&format!("{client}: the suite runs to its end"), &why);
    }
}

/// The same checks, and those of users, under TLS with authentication on.
fn run_secured(
    context: &Context,
    tally: &mut Tally,
    client: &str,
    checks: Result<Command, String>,
) {
    if context.etcd_binary.is_some() {
        return println!("skip  {client} with TLS and users: stock servers are started plain");
    }
    let title = format!("{client}, TLS and users");
    let run = checks.and_then(|mut checks| {
        let name = format!("{}-secured", client.replace(' ', "-"));
        let cluster = ClientCluster::start_secured(context, &name)?;
        let directory = context.target.join("ci").join(name);
        let password = std::fs::read_to_string(directory.join("root-password"));
        let password = password.map_err(|error| format!("the root user's password: {error}"))?;
        checks.env("ETCDCTL_CACERT", directory.join("tls/ca.pem"));
        checks.env("ETCDCTL_USER", format!("root:{}", password.trim()));
        suite(tally, &title, cluster, &mut checks)
    });
    if let Err(why) = run {
        tally.fail(&format!("{title}: the suite runs to its end"), &why);
    }
}

fn suite(
    tally: &mut Tally,
    client: &str,
    cluster: ClientCluster,
    checks: &mut Command,
) -> Result<(), String> {
    let said = listen(checks.args(cluster.endpoints()), "")?;
    let mut failed = false;
    for line in said.stdout.lines() {
        match (line.strip_prefix("ok "), line.strip_prefix("FAIL ")) {
            (Some(name), _) => tally.pass(&format!("{client}: {name}")),
            (_, Some(failure)) => {
                let (name, why) = failure.split_once(": ").unwrap_or((failure, ""));
                tally.fail(&format!("{client}: {name}"), why);
                failed = true;
            }
            _ => println!("{line}"),
        }
    }
    if !said.success && !failed {
        return Err(format!("it ended early: {}", said.stderr));
    }
    cluster.stop()
}
