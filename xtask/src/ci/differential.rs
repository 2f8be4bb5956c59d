//! The differential: the same etcdctl commands against etcd and against Quorate, side by side.
//!
//! The scripts in `xtask/clients/differential` run on a fresh cluster of three of each kind; what
//! etcdctl says must be equal once ids, times and addresses are masked. What is not equal is listed
//! in `differences.txt` there, word by word, under its title in docs/etcd.md; a listed difference
//! that no longer occurs is a failure too. Not here: the commands (scripts) and the masks.

mod listed_differences;
mod transcript;

use std::path::{Path, PathBuf};
use std::process::Command;

use self::listed_differences::{Difference, ListedDifferences};
use super::Context;
use super::client_cluster::{ClientCluster, OFFSET, SECOND_OFFSET};
use super::shell::{listen, output};
use super::stock_etcd::{self, StockEtcd};
use super::tally::Tally;

/// One after the other, each by itself.
const SCRIPTS: [&str; 13] = [
    "kv",
    "txn",
    "watch",
    "lease",
    "lock",
    "compaction",
    "endpoint",
    "operations",
    "members",
    "snapshot",
    "mirror",
    "auth",
    "check",
];

/// How long one script may take.
const SCRIPT_TIMEOUT_SECONDS: &str = "150";

pub(super) fn run(context: &Context, tally: &mut Tally) {
    let listed = match ListedDifferences::load(&context.root) {
        Ok(listed) => listed,
        Err(why) => return tally.fail("etcdctl differential: the list of differences", &why),
    };
    run_release(context, tally, "3.4", stock_etcd::debian(context), &listed);
    match stock_etcd::newest(context) {
        Some(newest) => run_release(context, tally, "3.6", newest, &listed),
        None => println!("skip  etcdctl differential with etcd 3.6: there is no Go to build it"),
    }
}

fn run_release(
    context: &Context,
    tally: &mut Tally,
    release: &str,
    etcd: Result<StockEtcd, String>,
    listed: &ListedDifferences,
) {
    let etcd = match etcd {
        Ok(etcd) => etcd,
        Err(why) => return tally.fail(&format!("etcdctl differential: etcd {release}"), &why),
    };
    for script in SCRIPTS {
        let name = format!("etcdctl {release}: {script} as against etcd");
        match compare(context, &etcd, script, listed) {
            Ok((commands, known)) => {
                tally.pass(&format!("{name}: {commands} commands, {known} listed differences"));
            }
            Err(why) => tally.fail(&name, &why),
        }
    }
}

/// How many commands were compared, and how many differ as listed.
fn compare(
    context: &Context,
    etcd: &StockEtcd,
    script: &str,
    listed: &ListedDifferences,
) -> Result<(usize, usize), String> {
    let run = |server| Run { context, etcd, script, server }.transcript();
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| run(Peer::Etcd));
        let ours = run(Peer::Quorate);
        (theirs.join().expect("a run returns its errors"), ours)
    });
    let (theirs, ours) = (transcript::parse(&theirs?)?, transcript::parse(&ours?)?);
    let found = transcript::differences(&theirs, &ours)?;
    let found: Vec<Difference> = found
        .into_iter()
        .map(|words| Difference { release: etcd.release.into(), script: script.into(), words })
        .collect();
    let complaints = listed.complaints(etcd.release, script, &found);
    if complaints.is_empty() { Ok((ours.len(), found.len())) } else { Err(complaints) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Etcd,
    Quorate,
}

/// One script against one cluster.
struct Run<'a> {
    context: &'a Context,
    etcd: &'a StockEtcd,
    script: &'a str,
    server: Peer,
}

impl Run<'_> {
    /// What it printed, masked; kept beside the cluster's data.
    fn transcript(&self) -> Result<String, String> {
        let (kind, offset, binary) = match self.server {
            Peer::Etcd => ("etcd", SECOND_OFFSET, Some(self.etcd.etcd.as_path())),
            // Or stock servers twice, which shows that scripts and masks ask nothing of chance.
            Peer::Quorate => ("quorate", OFFSET, self.context.etcd_binary.as_deref()),
        };
        let name = format!("differential-{}-{}-{kind}", self.etcd.release, self.script);
        let cluster = ClientCluster::start_at(self.context, &name, binary, offset)?;
        let directory = self.context.target.join("ci").join(&name);
        let scratch = directory.join("scratch");
        std::fs::create_dir(&scratch).map_err(|error| error.to_string())?;
        let server = binary.map_or_else(|| self.context.binary("release"), Path::to_path_buf);
        let mut script = self.command(&cluster, kind, &server, &scratch);
        let said = listen(&mut script, "")?;
        if !said.success || !said.stderr.is_empty() {
            return Err(format!(
                "the script against {kind} failed: {}{}",
                said.stdout, said.stderr
            ));
        }
        let raw = directory.join("raw.txt");
        std::fs::write(&raw, said.stdout).map_err(|error| error.to_string())?;
        let mut mask = Command::new("sed");
        mask.args(["-E", "-f"]).arg(scratch.join("names.sed"));
        let masked = output(mask.arg("-f").arg(self.scripts().join("mask.sed")).arg(&raw))?;
        let path = directory.join("transcript.txt");
        std::fs::write(&path, &masked).map_err(|error| error.to_string())?;
        cluster.stop()?;
        Ok(masked)
    }

    fn command(
        &self,
        cluster: &ClientCluster,
        kind: &str,
        server: &Path,
        scratch: &Path,
    ) -> Command {
        let mut command = Command::new("timeout");
        command.args([
            SCRIPT_TIMEOUT_SECONDS,
            "bash",
            "-c",
            "exec </dev/null; source \"$0\"; source \"$1\"; exit 0",
        ]);
        command.arg(self.scripts().join("prelude.sh"));
        command.arg(self.scripts().join(format!("{}.sh", self.script)));
        command.env("RELEASE", self.etcd.release).env("SERVER", kind);
        command.env("ETCDCTL", &self.etcd.etcdctl).env("ETCDUTL", &self.etcd.etcdutl);
        command.env("SERVER_BINARY", server).env("SCRATCH", scratch);
        for (number, member) in (1..).zip(&cluster.members) {
            command.env(format!("N{number}"), &member.name);
            command.env(format!("M{number}"), &member.etcd);
            command.env(format!("P{number}"), &member.peer);
        }
        command
    }

    fn scripts(&self) -> PathBuf {
        self.context.root.join("xtask/clients/differential")
    }
}
