//! `quorate chaos`: the chaos run of `harness`, against a cluster of this very binary, of stock
//! etcd servers, or one that runs already.

use harness::chaos_plan::{ChaosPlan, FAULTS, Fault, Target};
use harness::chaos_run;
use harness::member_process::on_path;
use harness::port_plan;
use std::path::{Path, PathBuf};

use crate::Failure;
use crate::arguments::ChaosOptions;

/// Where reports go unless something else is said; numbered if that is taken.
const REPORT: &str = "chaos-report";

/// Runs it; broken promises are a failure.
pub(crate) fn run(options: &ChaosOptions) -> Result<(), Failure> {
    let target = target(options)?;
    let plan = ChaosPlan {
        faults: faults(options, &target),
        target,
        duration: options.duration,
        workload: options.workload,
        seed: options.seed,
        offset: options.offset,
        directory: options.report.clone().unwrap_or_else(free_directory),
        command: command(std::env::args().skip(1)),
    };
    plan.validate().map_err(Failure::Usage)?;
    chaos_run::refuse_directory(&plan.directory).map_err(Failure::Usage)?;
    let outcome =
        crate::on_one_thread(chaos_run::run(&plan, &|line| crate::say(format_args!("{line}"))))?;
    crate::say(&outcome.summary);
    crate::say(format_args!("the report is {}", outcome.report.display()));
    match outcome.green {
        true => Ok(()),
        false => Err(Failure::Failed("promises were broken; the report names them".to_owned())),
    }
}

fn target(options: &ChaosOptions) -> Result<Target, Failure> {
    if !options.endpoints.is_empty() {
        let access = options.access.access()?;
        let (endpoints, admin) = (options.endpoints.clone(), options.admin.clone());
        return Ok(Target::Attached { endpoints, admin, access });
    }
    let nodes = options.nodes;
    port_plan::plan(nodes, options.offset).map_err(Failure::Usage)?;
    if let Some(name) = &options.external {
        let binary = external(name).map_err(Failure::Usage)?;
        return Ok(Target::Etcd { binary, nodes });
    }
    let binary = std::env::current_exe();
    let binary = binary.map_err(|error| Failure::Failed(format!("where am I? {error}")))?;
    let lies = options.no_sync.then(|| "--test-no-sync".to_owned());
    Ok(Target::Quorate { binary, nodes, options: lies.into_iter().collect() })
}

/// The binary of the only other server that is understood.
fn external(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    if path.file_name().is_none_or(|file| file != "etcd") {
        return Err(format!("--external {name}: only etcd can be run instead, by name or path"));
    }
    match path.components().count() {
        1 => on_path(name).ok_or_else(|| {
            "there is no etcd on PATH: say where, as in --external \
                                          /usr/local/bin/etcd"
                .to_owned()
        }),
        _ if path.is_file() => Ok(path.to_path_buf()),
        _ => Err(format!("there is no file {name}")),
    }
}

/// Whatever is possible, unless something else is said.
fn faults(options: &ChaosOptions, target: &Target) -> Vec<Fault> {
    match (&options.faults, target) {
        (Some(faults), _) => {
            let mut once = Vec::new();
            faults.iter().for_each(|fault| {
                if !once.contains(fault) {
                    once.push(*fault);
                }
            });
            once
        }
        (None, Target::Quorate { .. }) => FAULTS.to_vec(),
        (None, Target::Etcd { .. }) => {
            vec![Fault::Kill, Fault::Pause, Fault::Partition, Fault::SlowNet, Fault::RollingRestart]
        }
        (None, Target::Attached { .. }) => Vec::new(),
    }
}

fn free_directory() -> PathBuf {
    let numbered = (2_u32..).map(|number| PathBuf::from(format!("{REPORT}-{number}")));
    let mut names = std::iter::once(PathBuf::from(REPORT)).chain(numbered);
    names.find(|path| !path.exists()).expect("numbers do not end before names do")
}

/// As it was typed, for the report, which is passed on: without the password.
fn command(words: impl Iterator<Item = String>) -> String {
    const SECRET: [&str; 2] = ["--user", "--password"];
    let mut shown = vec!["quorate".to_owned()];
    let mut is_secret = false;
    for word in words {
        let option = word.split('=').next().unwrap_or_default().to_owned();
        shown.push(match () {
            () if is_secret => "…".to_owned(),
            () if SECRET.contains(&option.as_str()) && option != word => format!("{option}=…"),
            () => word.clone(),
        });
        is_secret = SECRET.contains(&word.as_str());
    }
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::command;

    #[test]
    fn a_report_holds_no_password() {
        let words = "chaos --user root:s3cret --password=s3cret --seed 7 --user=root:s3cret";
        let shown = command(words.split(' ').map(str::to_owned));
        assert_eq!(shown, "quorate chaos --user … --password=… --seed 7 --user=…");
    }
}
