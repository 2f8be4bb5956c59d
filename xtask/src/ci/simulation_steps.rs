//! The simulator through the built binary: 200 seeds that no commit shares with the next, and the
//! same traces from debug and release builds.

use std::process::Command;

use super::Context;
use super::shell::{listen, output};
use super::tally::Tally;

/// Seeds per run.
const SEEDS: u64 = 200;

/// Seeds whose traces are compared between builds.
const TRACED_SEEDS: u64 = 3;

/// Commits draw their seeds from so many.
const SEED_SPACE: u64 = 1 << 32;

pub(super) fn run(context: &Context, tally: &mut Tally) {
    let base = match base_seed(context) {
        Ok(base) => base,
        Err(why) => return tally.fail("the commit names its seeds", &why),
    };
    let name = format!("seeds {base}..{} keep every promise", base + SEEDS);
    tally.check(&name, || {
        let seeds = format!("{base}..{}", base + SEEDS);
        let said =
            listen(Command::new(context.binary("release")).args(["sim", "--seeds", &seeds]), "")?;
        print!("{}", said.stdout);
        if said.success { Ok(()) } else { Err(said.stderr) }
    });
    for seed in base..base + TRACED_SEEDS {
        let name = format!("seed {seed} takes the same course in debug and release builds");
        tally.check(&name, || same_course(context, seed));
    }
}

/// Derived from the commit, so that a red run can be repeated and the next commit tries others.
fn base_seed(context: &Context) -> Result<u64, String> {
    let mut command = Command::new("git");
    let hash = output(command.args(["rev-parse", "HEAD"]).current_dir(&context.root))?;
    let start = hash.get(..8).ok_or_else(|| format!("{hash:?} is not a commit hash"))?;
    let number = u64::from_str_radix(start, 16).map_err(|error| format!("{start}: {error}"))?;
    Ok(number % SEED_SPACE)
}

fn same_course(context: &Context, seed: u64) -> Result<(), String> {
    let report = |profile: &str| {
        let mut command = Command::new(context.binary(profile));
        output(command.args(["sim", "--seed", &seed.to_string()]))
    };
    let (debug, release) = (report("debug")?, report("release")?);
    if !debug.contains("trace ") {
        return Err(format!("the report names no trace: {debug}"));
    }
    if debug == release { Ok(()) } else { Err(format!("debug: {debug}release: {release}")) }
}
