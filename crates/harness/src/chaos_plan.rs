//! The plan of a chaos run: which faults, against what, and a schedule drawn from a seed.
//!
//! Everything that cannot be done is refused here in one sentence, before anything is started.
//! Not here: how a fault is injected (`fault_injector`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::client_access::ClientAccess;
use crate::client_load::Mix;
use crate::port_plan;
use crate::seeded_choice::SeededChoice;

/// Least time for one fault, with the calm before and after it.
const SLOT_MIN: Duration = Duration::from_secs(6);

/// With more time than this per fault, faults are repeated.
const SLOT_MAX: Duration = Duration::from_secs(10);

/// Shares of a slot, in percent; the calm after the fault gets the rest.
const BEFORE_PERCENT: u32 = 25;
const DURING_PERCENT: u32 = 45;

/// The stream of the seed that orders the faults.
const ORDER_STREAM: u64 = 0x0c4a_0501;

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL of one node.
    Kill,
    /// What was not synced is gone, at all nodes at once or at one.
    PowerLoss,
    /// SIGSTOP, later SIGCONT.
    Pause,
    /// Links between nodes are cut, in both directions or in one.
    Partition,
    /// Links between nodes delay, lose and reset.
    SlowNet,
    /// Every synced write of one node's log takes long.
    SlowDisk,
    /// One node has no space left.
    FullDisk,
    /// Bits of one node's log flip while it is down.
    Corrupt,
    /// Wall clocks step by hours, monotonic ones run apart within their bound.
    Clock,
    /// Every node is stopped in order and started again, one after the other.
    RollingRestart,
}

/// Every fault, in the order in which they are documented.
pub const FAULTS: [Fault; 10] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::Pause,
    Fault::Partition,
    Fault::SlowNet,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::Corrupt,
    Fault::Clock,
    Fault::RollingRestart,
];

impl Fault {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "kill",
            Fault::PowerLoss => "power-loss",
            Fault::Pause => "pause",
            Fault::Partition => "partition",
            Fault::SlowNet => "slow-net",
            Fault::SlowDisk => "slow-disk",
            Fault::FullDisk => "full-disk",
            Fault::Corrupt => "corrupt",
            Fault::Clock => "clock",
            Fault::RollingRestart => "rolling-restart",
        }
    }

    /// What is done, in plain words.
    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Fault::Kill => "a node is killed (SIGKILL) and started again",
            Fault::PowerLoss => {
                "power is lost: what a node had not synced to its log is gone; at all nodes at \
                 once every other time"
            }
            Fault::Pause => "a node is frozen (SIGSTOP) and later goes on where it was",
            Fault::Partition => "connections between nodes are cut, both ways or one way",
            Fault::SlowNet => "connections between nodes are reset, then delay and lose data",
            Fault::SlowDisk => "every synced write of one node's log takes long",
            Fault::FullDisk => "one node has no disk space left: writes are refused meanwhile",
            Fault::Corrupt => "bits flip in a node's log while it is down; it must say so",
            Fault::Clock => {
                "wall clocks step by hours; monotonic clocks run apart within the stated bound"
            }
            Fault::RollingRestart => "every node is stopped in order and started again, in turn",
        }
    }

    /// Whether only a node of ours knows how, by its fault endpoint.
    pub(crate) fn needs_endpoint(self) -> bool {
        matches!(self, Fault::SlowDisk | Fault::FullDisk | Fault::Clock)
    }

    /// Fewest nodes of which the others can be expected to go on, or to help.
    fn nodes_min(self) -> usize {
        match self {
            Fault::Corrupt => 3,
            Fault::Partition | Fault::SlowNet => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        FAULTS.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            format!("{text:?} is no fault; the faults are {}", FAULTS.map(Fault::name).join(", "))
        })
    }
}

/// What clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Half blind writes, a third reads, the rest compare-and-set.
    Mixed,
    /// Mostly reads.
    Reads,
    /// Mostly blind writes.
    Writes,
    /// Mostly compare-and-set.
    Transactions,
}

/// Every workload by its name.
const WORKLOADS: [(&str, Workload); 4] = [
    ("mixed", Workload::Mixed),
    ("reads", Workload::Reads),
    ("writes", Workload::Writes),
    ("transactions", Workload::Transactions),
];

impl Workload {
    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        let of = WORKLOADS.iter().find(|(_, workload)| *workload == self);
        of.expect("every workload has a name").0
    }

    pub(crate) fn mix(self) -> Mix {
        let (put_percent, get_percent) = match self {
            Workload::Mixed => return Mix::BALANCED,
            Workload::Reads => (5, 90),
            Workload::Writes => (90, 5),
            Workload::Transactions => (10, 10),
        };
        Mix { put_percent, get_percent }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Workload, String> {
        let found = WORKLOADS.iter().find(|(name, _)| *name == text);
        let names = WORKLOADS.map(|(name, _)| name).join(", ");
        let unknown = || format!("{text:?} is no workload; the workloads are {names}");
        found.map(|(_, workload)| *workload).ok_or_else(unknown)
    }
}

/// Against what.
#[derive(Debug, Clone)]
pub enum Target {
    /// A cluster of our own.
    Quorate {
        /// Path of the binary.
        binary: PathBuf,
        /// Number of nodes.
        nodes: usize,
        /// For tests: options that every node gets besides.
        options: Vec<String>,
    },
    /// A cluster of stock etcd servers.
    Etcd {
        /// Path of the binary.
        binary: PathBuf,
        /// Number of nodes.
        nodes: usize,
    },
    /// One that runs already.
    Attached {
        /// Where clients reach its nodes (`host:port`).
        endpoints: Vec<String>,
        /// Their fault endpoints (`host:port`), in the same order; may be empty.
        admin: Vec<String>,
        /// How clients are let in.
        access: ClientAccess,
    },
}

impl Target {
    /// How many nodes are used.
    pub(crate) fn nodes(&self) -> usize {
        match self {
            Target::Quorate { nodes, .. } | Target::Etcd { nodes, .. } => *nodes,
            Target::Attached { endpoints, .. } => endpoints.len(),
        }
    }
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct ChaosPlan {
    /// Against what.
    pub target: Target,
    /// For how long, recovery from the last fault not counted.
    pub duration: Duration,
    /// Which faults; each happens at least once.
    pub faults: Vec<Fault>,
    /// What clients ask for.
    pub workload: Workload,
    /// Of the schedule, of whom faults hit, and of the load's mix.
    pub seed: u64,
    /// Added to every port.
    pub offset: u16,
    /// Where reports, logs and data go; must not exist, or be empty.
    pub directory: PathBuf,
    /// The command that runs this again, for the report.
    pub command: String,
}

/// One fault, with calm before and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) fault: Fault,
    /// How often the same fault came before.
    pub(crate) repetition: usize,
    pub(crate) before: Duration,
    pub(crate) during: Duration,
    pub(crate) after: Duration,
}

impl ChaosPlan {
    /// Refuses what cannot be done.
    ///
    /// # Errors
    /// One plain sentence.
    pub fn validate(&self) -> Result<(), String> {
        let nodes = self.target.nodes();
        match &self.target {
            Target::Attached { endpoints, admin, .. } => {
                if !admin.is_empty() && admin.len() != endpoints.len() {
                    return Err(format!(
                        "--admin names {} fault endpoints for {nodes} --endpoints: one each, in \
                         the same order",
                        admin.len()
                    ));
                }
            }
            Target::Quorate { .. } | Target::Etcd { .. } => {
                port_plan::plan(nodes, self.offset)?;
                port_plan::links(nodes, self.offset)?;
            }
        }
        for fault in &self.faults {
            self.refuse(*fault)?;
        }
        let count = u32::try_from(self.faults.len()).unwrap_or(u32::MAX);
        let needed = SLOT_MIN.saturating_mul(count.max(1));
        if self.duration < needed {
            return Err(format!(
                "{count} faults need --for {}s at least, not {}s: {} seconds each",
                needed.as_secs(),
                self.duration.as_secs(),
                SLOT_MIN.as_secs()
            ));
        }
        Ok(())
    }

    fn refuse(&self, fault: Fault) -> Result<(), String> {
        let nodes = self.target.nodes();
        if nodes < fault.nodes_min() {
            let least = fault.nodes_min();
            return Err(format!("{fault} needs at least {least} nodes, not {nodes}"));
        }
        match &self.target {
            Target::Quorate { .. } => Ok(()),
            Target::Etcd { .. } => match fault {
                Fault::Kill
                | Fault::Pause
                | Fault::Partition
                | Fault::SlowNet
                | Fault::RollingRestart => Ok(()),
                _ => Err(format!(
                    "{fault} cannot be injected into etcd, which has no switch for it: say \
                     --faults kill,pause,partition,slow-net,rolling-restart"
                )),
            },
            Target::Attached { admin, .. } => match fault {
                _ if !fault.needs_endpoint() && fault != Fault::Partition => Err(format!(
                    "{fault} cannot be injected into a cluster that was not started here: leave \
                     --endpoints out"
                )),
                _ if admin.is_empty() => Err(format!(
                    "{fault} needs --admin, the operators' addresses of nodes that were started \
                     with --enable-faults"
                )),
                _ => Ok(()),
            },
        }
    }

    /// The faults in their order, each as often as there is time for.
    pub(crate) fn schedule(&self) -> Vec<Slot> {
        let count = u32::try_from(self.faults.len()).expect("there are ten faults");
        if count == 0 {
            return Vec::new();
        }
        let millis = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let round = millis(SLOT_MAX).saturating_mul(count);
        let passes = (millis(self.duration) / round).max(1);
        let slot = (self.duration / (count * passes)).clamp(SLOT_MIN, SLOT_MAX);
        let (before, during) = (slot * BEFORE_PERCENT / 100, slot * DURING_PERCENT / 100);
        let mut choice = SeededChoice::new(self.seed, ORDER_STREAM);
        let mut slots = Vec::new();
        for repetition in 0..passes as usize {
            let mut faults = self.faults.clone();
            while !faults.is_empty() {
                let next = usize::try_from(choice.below(faults.len() as u64));
                let fault = faults.remove(next.expect("an index"));
                let after = slot - before - during;
                slots.push(Slot { fault, repetition, before, during, after });
            }
        }
        slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(target: Target, faults: &[Fault], seconds: u64) -> ChaosPlan {
        ChaosPlan {
            target,
            duration: Duration::from_secs(seconds),
            faults: faults.to_vec(),
            workload: Workload::Mixed,
            seed: 1,
            offset: 0,
            directory: PathBuf::from("x"),
            command: String::new(),
        }
    }

    fn ours(nodes: usize) -> Target {
        Target::Quorate { binary: PathBuf::from("quorate"), nodes, options: Vec::new() }
    }

    fn attached(admin: &[&str]) -> Target {
        Target::Attached {
            endpoints: vec!["a:1".to_owned(), "b:1".to_owned()],
            admin: admin.iter().map(|address| (*address).to_owned()).collect(),
            access: ClientAccess::default(),
        }
    }

    fn refusal(plan: &ChaosPlan) -> String {
        plan.validate().expect_err("it cannot be done")
    }

    #[test]
    fn names_are_read_back_and_unknown_ones_refused() {
        for fault in FAULTS {
            assert_eq!(fault.name().parse(), Ok(fault));
            let json = serde_json::to_string(&fault).expect("a word");
            assert_eq!(json, format!("\"{fault}\""), "the journal speaks the same words");
        }
        let unknown = "meteor".parse::<Fault>().expect_err("no such fault");
        assert!(unknown.contains("\"meteor\"") && unknown.contains("rolling-restart"), "{unknown}");
        assert_eq!("reads".parse(), Ok(Workload::Reads));
        assert!("x".parse::<Workload>().expect_err("no such workload").contains("transactions"));
    }

    #[test]
    fn every_fault_fits_a_cluster_of_our_own() {
        assert_eq!(plan(ours(3), &FAULTS, 60).validate(), Ok(()));
        assert!(refusal(&plan(ours(3), &FAULTS, 59)).contains("--for 60s at least"));
        assert!(refusal(&plan(ours(6), &[], 60)).contains("1 to 5 nodes"));
        assert!(refusal(&plan(ours(2), &[Fault::Corrupt], 60)).contains("at least 3 nodes"));
        assert!(refusal(&plan(ours(1), &[Fault::Partition], 60)).contains("at least 2 nodes"));
    }

    #[test]
    fn what_etcd_has_no_switch_for_is_refused() {
        let etcd = || Target::Etcd { binary: PathBuf::from("etcd"), nodes: 3 };
        let possible = [Fault::Kill, Fault::Pause, Fault::Partition, Fault::SlowNet];
        assert_eq!(plan(etcd(), &possible, 60).validate(), Ok(()));
        assert!(refusal(&plan(etcd(), &[Fault::PowerLoss], 60)).contains("etcd"));
    }

    #[test]
    fn a_running_cluster_gets_only_what_its_nodes_agreed_to() {
        assert_eq!(plan(attached(&[]), &[], 60).validate(), Ok(()));
        assert!(refusal(&plan(attached(&[]), &[Fault::Kill], 60)).contains("--endpoints"));
        assert!(refusal(&plan(attached(&[]), &[Fault::Clock], 60)).contains("--enable-faults"));
        let admin = ["a:3", "b:3"];
        assert_eq!(
            plan(attached(&admin), &[Fault::Clock, Fault::Partition], 60).validate(),
            Ok(())
        );
        assert!(refusal(&plan(attached(&admin), &[Fault::Corrupt], 60)).contains("3 nodes"));
        assert!(refusal(&plan(attached(&admin[..1]), &[], 60)).contains("one each"));
    }

    #[test]
    fn a_schedule_has_every_fault_and_follows_from_its_seed() {
        let plan_of = |seed| ChaosPlan { seed, ..plan(ours(3), &FAULTS, 60) };
        let schedule = plan_of(1).schedule();
        let mut faults: Vec<Fault> = schedule.iter().map(|slot| slot.fault).collect();
        assert_eq!(schedule, plan_of(1).schedule());
        assert_ne!(schedule, plan_of(2).schedule());
        faults.sort();
        assert_eq!(faults, FAULTS);
        let whole: Duration =
            schedule.iter().map(|slot| slot.before + slot.during + slot.after).sum();
        assert_eq!(whole, Duration::from_secs(60));
    }

    #[test]
    fn with_more_time_faults_are_repeated() {
        let six = &FAULTS[..6];
        let schedule = plan(ours(3), six, 120).schedule();
        assert_eq!(schedule.len(), 12);
        assert_eq!(schedule.iter().filter(|slot| slot.repetition == 1).count(), 6);
        let slot = schedule[0];
        assert_eq!(slot.before + slot.during + slot.after, Duration::from_secs(10));
        assert!(plan(ours(3), &[], 60).schedule().is_empty());
    }
}
