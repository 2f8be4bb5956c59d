//! The Rust crate `etcd-client` against a local cluster.
//!
//! Its build wants `protoc`, so it stays out of the workspace, in `xtask/clients/rust` with a lock
//! file of its own; the checks themselves are there.

use std::process::Command;

use super::Context;
use super::client_cluster::ClientCluster;
use super::shell::{ensure_installed, listen, run_to_end};
use super::tally::Tally;

pub(super) fn run(context: &Context, tally: &mut Tally) {
    if let Err(why) = suite(context, tally) {
        tally.fail("etcd-client: the suite runs to its end", &why);
    }
}

fn suite(context: &Context, tally: &mut Tally) -> Result<(), String> {
    ensure_installed("protoc", "protobuf-compiler")?;
    let target = context.target.join("ci").join("rust-client");
    let mut build = context.cargo(&["build", "--quiet", "--locked"]);
    build.current_dir(context.root.join("xtask/clients/rust"));
    run_to_end(build.arg("--target-dir").arg(&target))?;
    let cluster = ClientCluster::start(context, "rust-client-data")?;
    let mut checks = Command::new(target.join("debug").join("etcd-client-checks"));
    let said = listen(checks.args(cluster.endpoints()), "")?;
    // Each line is `ok <name>` or `FAIL <name>: <why>`.
    for line in said.stdout.lines() {
        match (line.strip_prefix("ok "), line.strip_prefix("FAIL ")) {
            (Some(name), _) => tally.pass(&format!("etcd-client: {name}")),
            (_, Some(failure)) => {
                let (name, why) = failure.split_once(": ").unwrap_or((failure, ""));
                tally.fail(&format!("etcd-client: {name}"), why);
            }
            _ => println!("{line}"),
        }
    }
    if !said.success && !said.stdout.contains("FAIL ") {
        return Err(format!("it ended early: {}", said.stderr));
    }
    cluster.stop()
}
