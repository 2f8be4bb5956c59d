//! The chaos run with every fault, the same load and faults on stock etcd if it is there, and the
//! proof that a broken build makes it red.

use std::path::Path;
use std::process::Command;

use super::Context;
use super::shell::{Said, listen};
use super::tally::Tally;

/// Away from a cluster that a developer keeps, and from the failover run.
const OFFSET: &str = "6000";

/// What the page of a run in which every promise held says.
const GREEN: &str = "every promise held";

pub(super) fn run(context: &Context, tally: &mut Tally) {
    tally.check("chaos: every fault, and every promise held", || {
        let said = chaos(context, "green", &["--for", "60s"])?;
        print!("{}", said.stdout);
        if !said.success {
            return Err(said.stderr);
        }
        page_says(context, "green", GREEN)
    });
    tally.check("chaos: without syncs, a power loss makes the report red", || {
        let options = ["--for", "6s", "--faults", "power-loss", "--no-sync"];
        let said = chaos(context, "no-sync", &options)?;
        match (said.success, said.stdout.contains("BROKEN     durability")) {
            (false, true) => page_says(context, "no-sync", "promises were broken"),
            (true, _) => Err("the run is green: it would miss a lost sync".to_owned()),
            (false, false) => Err(format!("no lost write is named: {}", said.stderr)),
        }
    });
    let Some(etcd) = &context.etcd_binary else { return };
    tally.check("chaos: stock etcd keeps the same promises", || {
        let etcd = etcd.display().to_string();
        let said = chaos(context, "etcd", &["--for", "30s", "--external", &etcd])?;
        print!("{}", said.stdout);
        if said.success { Ok(()) } else { Err(said.stderr) }
    });
}

fn report(context: &Context, name: &str) -> std::path::PathBuf {
    context.target.join("ci").join("chaos").join(name)
}

fn chaos(context: &Context, name: &str, options: &[&str]) -> Result<Said, String> {
    let report = report(context, name);
    if report.exists() {
        let removed = std::fs::remove_dir_all(&report);
        removed.map_err(|error| format!("{}: {error}", report.display()))?;
    }
    let mut command = Command::new(context.binary("release"));
    command.args(["chaos", "--offset", OFFSET]).arg("--report").arg(report).args(options);
    listen(&mut command, "")
}

fn page_says(context: &Context, name: &str, words: &str) -> Result<(), String> {
    let path: &Path = &report(context, name).join("report.html");
    let page = std::fs::read_to_string(path);
    let page = page.map_err(|error| format!("{}: {error}", path.display()))?;
    if page.contains(words) { Ok(()) } else { Err(format!("{} is not so", path.display())) }
}
