//! The failover run in both forms, and the proof that it can fail.

use std::process::Command;

use super::Context;
use super::shell::listen;
use super::tally::Tally;

/// How the failover run without syncs must end.
const LOST: &str = "acknowledged write lost";

pub(super) fn run(context: &Context, tally: &mut Tally) {
    tally.check("failover: two minutes of killed leaders", || {
        let said = failover(context, "plain", &["--seconds", "120"])?;
        if said.success { Ok(()) } else { Err(said.stderr) }
    });
    tally.check("failover: two minutes of killed leaders under power loss", || {
        let said = failover(context, "power-loss", &["--seconds", "120", "--power-loss"])?;
        if said.success { Ok(()) } else { Err(said.stderr) }
    });
    tally.check("failover: without syncs, acknowledged writes are lost and found missing", || {
        let options = ["--seconds", "20", "--power-loss", "--no-sync"];
        let said = failover(context, "no-sync", &options)?;
        match (said.success, said.stdout.contains(LOST)) {
            (false, true) => Ok(()),
            (true, _) => Err("the run is green: it would miss a lost sync".to_owned()),
            (false, false) => Err(format!("no lost write is named: {}", said.stderr)),
        }
    });
}

fn failover(context: &Context, name: &str, options: &[&str]) -> Result<super::shell::Said, String> {
    // The run itself creates its directory.
    let directory = context.scratch("failover")?.join(name);
    let mut command = Command::new(context.binary("release"));
    command.arg("failover").arg("--data-dir").arg(directory).args(options);
    let said = listen(&mut command, "")?;
    print!("{}", said.stdout);
    Ok(said)
}
