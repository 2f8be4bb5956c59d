//! Fault Injector: each fault's begin and end, on real processes.
//!
//! Used by Jepsen (its nemesis) and FoundationDB's tests. Invariants: one fault at a time, so that
//! a minority is broken at most (power loss aside, which breaks nothing that was synced); whatever
//! began can be ended. Not here: when which one is due (`chaos_plan`), what came of it
//! (`fault_effect`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::chaos_plan::{Fault, Slot};
use crate::fault_endpoint::{self, PretendedFaults};
use crate::link_proxy::{LinkProxies, LinkRule};
use crate::local_cluster::LocalCluster;
use crate::log_rot;
use crate::seeded_choice::SeededChoice;

/// Power comes back after this.
const POWER_BACK_AFTER: Duration = Duration::from_millis(500);

/// How long a member may take to come back in a rolling restart.
const RESTART_TIMEOUT: Duration = Duration::from_secs(60);

/// The stream of the seed that chooses whom faults hit, and how.
const CHOICE_STREAM: u64 = 0x0c4a_0502;

/// What a member says of a log that rotted.
const SAID_OF_ROT: &str = "is corrupt";

/// Whom faults can hit.
#[derive(Debug)]
pub(crate) enum Subject {
    /// Processes of our own, and the links between them.
    Own { cluster: Box<LocalCluster>, links: LinkProxies },
    /// Members that were started with fault endpoints (if any), by id.
    Attached { admin: Vec<String>, ids: Vec<u64> },
}

/// A fault that was injected.
#[derive(Debug, Clone)]
pub(crate) struct Injection {
    pub(crate) fault: Fault,
    /// Whom it hits: what they do not serve meanwhile is not held against the others.
    pub(crate) hit: Vec<usize>,
    /// What was done, in plain words.
    pub(crate) description: String,
    /// How long it is to last; nothing: as planned.
    pub(crate) lasts: Option<Duration>,
}

/// Injects faults that follow from a seed.
#[derive(Debug)]
pub(crate) struct FaultInjector {
    pub(crate) subject: Subject,
    names: Vec<String>,
    choice: SeededChoice,
}

impl FaultInjector {
    pub(crate) fn new(subject: Subject, names: Vec<String>, seed: u64) -> FaultInjector {
        FaultInjector { subject, names, choice: SeededChoice::new(seed, CHOICE_STREAM) }
    }

    /// Starts the slot's fault; `leader` is who leads now, if anybody does.
    ///
    /// # Errors
    /// It could not be injected, which says nothing about the cluster.
    pub(crate) async fn begin(
        &mut self,
        slot: &Slot,
        leader: Option<usize>,
    ) -> Result<Injection, String> {
        let victim = self.victim(slot, leader);
        let mut injection = Injection {
            fault: slot.fault,
            hit: vec![victim],
            description: String::new(),
            lasts: None,
        };
        let name = self.name(victim, leader);
        injection.description = match slot.fault {
            Fault::Kill => {
                self.cluster()?.kill(&[victim]).await?;
                format!("{name} was killed")
            }
            Fault::PowerLoss => {
                if slot.repetition.is_multiple_of(2) {
                    injection.hit = (0..self.names.len()).collect();
                }
                injection.lasts = Some(POWER_BACK_AFTER);
                self.cluster()?.kill(&injection.hit).await?;
                if injection.hit.len() > 1 { "all nodes" } else { &name }.to_owned() + " lost power"
            }
            Fault::Pause => {
                self.cluster()?.signal(victim, Signal::STOP)?;
                format!("{name} was frozen")
            }
            Fault::Partition => self.partition(slot, victim, &name).await?,
            Fault::SlowNet => {
                injection.hit = Vec::new();
                self.slow_links()?
            }
            Fault::SlowDisk => {
                let disk_delay_ms = 50 + self.choice.below(100);
                let faults = PretendedFaults { disk_delay_ms, ..PretendedFaults::default() };
                injection.hit = Vec::new();
                self.pretend(victim, &faults).await?;
                format!("every synced write of {name} took {disk_delay_ms} ms more")
            }
            Fault::FullDisk => {
                let faults = PretendedFaults { free_bytes: Some(0), ..PretendedFaults::default() };
                injection.hit = Vec::new();
                self.pretend(victim, &faults).await?;
                format!("{name} had no disk space left")
            }
            Fault::Corrupt => {
                self.cluster()?.kill(&[victim]).await?;
                let log = self.cluster()?.spec(victim).data_dir.join("log");
                // Elsewhere: the load goes on.
                let flipped = tokio::task::spawn_blocking(move || log_rot::flip(&log)).await;
                let rot = flipped.map_err(|error| error.to_string())??;
                let file = rot.file.file_name().unwrap_or_default().display().to_string();
                format!("{name} was down while a bit of {file} flipped at offset {}", rot.offset)
            }
            Fault::Clock => {
                injection.hit = Vec::new();
                self.skew_clocks().await?
            }
            Fault::RollingRestart => {
                injection.hit = (0..self.names.len()).collect();
                injection.lasts = Some(Duration::ZERO);
                self.restart_all().await?
            }
        };
        Ok(injection)
    }

    /// Ends the fault; returns what went otherwise than it must.
    ///
    /// # Errors
    /// It could not be ended.
    pub(crate) async fn end(&mut self, injection: &Injection) -> Result<Vec<String>, String> {
        match injection.fault {
            Fault::Kill | Fault::PowerLoss => self.start(&injection.hit)?,
            Fault::Corrupt => {
                let victim = injection.hit[0];
                let before = self.said_of_rot(victim)?;
                self.start(&injection.hit)?;
                let ready = self.cluster()?.await_ready(victim, RESTART_TIMEOUT).await;
                let mut complaints: Vec<String> = ready.err().into_iter().collect();
                if self.said_of_rot(victim)? == before {
                    let name = &self.names[victim];
                    complaints.push(format!("{name} said nothing of the rot in its log"));
                }
                return Ok(complaints);
            }
            Fault::Pause => {
                for member in &injection.hit {
                    self.cluster()?.signal(*member, Signal::CONT)?;
                }
            }
            Fault::Partition => match &self.subject {
                Subject::Own { links, .. } => links.heal(),
                Subject::Attached { .. } => self.pretend_nothing().await?,
            },
            Fault::SlowNet => self.links()?.heal(),
            Fault::SlowDisk | Fault::FullDisk | Fault::Clock => self.pretend_nothing().await?,
            Fault::RollingRestart => {}
        }
        Ok(Vec::new())
    }

    /// The leader at first, later also others; a log rots where others hold what is lost.
    fn victim(&mut self, slot: &Slot, leader: Option<usize>) -> usize {
        let members = self.names.len();
        let any = usize::try_from(self.choice.below(members as u64)).expect("an index");
        let Some(leader) = leader else { return any };
        let follower = if any == leader { (any + 1) % members } else { any };
        match slot.fault {
            Fault::Corrupt => follower,
            _ if slot.repetition == 0 || self.choice.below(3) > 0 => leader,
            _ => follower,
        }
    }

    fn name(&self, member: usize, leader: Option<usize>) -> String {
        let role = if leader == Some(member) { "leader" } else { "follower" };
        format!("{} ({role})", self.names[member])
    }

    fn cluster(&mut self) -> Result<&mut LocalCluster, String> {
        match &mut self.subject {
            Subject::Own { cluster, .. } => Ok(cluster),
            Subject::Attached { .. } => Err("these processes are not ours".to_owned()),
        }
    }

    fn links(&self) -> Result<&LinkProxies, String> {
        match &self.subject {
            Subject::Own { links, .. } => Ok(links),
            Subject::Attached { .. } => Err("these links are not ours".to_owned()),
        }
    }

    fn start(&mut self, members: &[usize]) -> Result<(), String> {
        for member in members {
            self.cluster()?.start(*member)?;
        }
        let processes = self.cluster()?.process_ids();
        self.links()?.set_processes(processes);
        Ok(())
    }

    async fn restart_all(&mut self) -> Result<String, String> {
        for member in 0..self.names.len() {
            self.cluster()?.stop_one(member).await?;
            self.start(&[member])?;
            self.cluster()?.await_ready(member, RESTART_TIMEOUT).await?;
        }
        Ok("every node was restarted, one after the other".to_owned())
    }

    /// Both ways, from it, to it, or between it and one other.
    async fn partition(
        &mut self,
        slot: &Slot,
        victim: usize,
        name: &str,
    ) -> Result<String, String> {
        let others: Vec<usize> = (0..self.names.len()).filter(|other| *other != victim).collect();
        let shape = if slot.repetition == 0 { 0 } else { self.choice.below(4) };
        let one = others[usize::try_from(self.choice.below(others.len() as u64)).expect("index")];
        let from = |others: &[usize]| others.iter().map(|other| (victim, *other)).collect();
        let to = |others: &[usize]| others.iter().map(|other| (*other, victim)).collect::<Vec<_>>();
        let both = |others: &[usize]| [from(others), to(others)].concat();
        let (cut, description): (Vec<(usize, usize)>, String) = match shape {
            0 => (both(&others), format!("{name} was cut off from all others")),
            1 => (from(&others), format!("nothing that {name} sent arrived")),
            2 => (to(&others), format!("nothing arrived at {name}")),
            _ => {
                let other = &self.names[one];
                (both(&[one]), format!("{name} and {other} were cut off from each other"))
            }
        };
        match &self.subject {
            Subject::Own { links, .. } => {
                links.set(cut.into_iter().map(|direction| (direction, LinkRule::CUT)).collect());
            }
            Subject::Attached { admin, ids } => {
                for (member, address) in admin.iter().enumerate() {
                    let id = |other: &usize| format!("{:x}", ids[*other]);
                    let to = cut.iter().filter(|(from, _)| *from == member).map(|(_, to)| id(to));
                    let from = cut.iter().filter(|(_, to)| *to == member).map(|(from, _)| id(from));
                    let faults = PretendedFaults {
                        drop_to: to.collect(),
                        drop_from: from.collect(),
                        ..PretendedFaults::default()
                    };
                    fault_endpoint::pretend(address, &faults).await?;
                }
            }
        }
        Ok(description)
    }

    fn slow_links(&mut self) -> Result<String, String> {
        let delay_ms = 20 + self.choice.below(40);
        let rule = LinkRule {
            delay: Duration::from_millis(delay_ms),
            jitter: Duration::from_millis(20),
            lost_one_in: 50,
            bytes_per_second: 4 << 20,
            ..LinkRule::default()
        };
        let members = 0..self.names.len();
        let pairs = members.clone().flat_map(|from| members.clone().map(move |to| (from, to)));
        let links = self.links()?;
        links.set(pairs.map(|pair| (pair, rule)).collect::<BTreeMap<_, _>>());
        links.reset();
        Ok(format!(
            "all connections between nodes were reset, then took {delay_ms} to {} ms each way and \
             lost one segment in 50",
            delay_ms + 20
        ))
    }

    /// The monotonic rates stay within 400 of the 500 parts per million that are promised to do.
    async fn skew_clocks(&mut self) -> Result<String, String> {
        let mut words = Vec::new();
        for member in 0..self.names.len() {
            let minutes = 60 + i64::try_from(self.choice.below(11 * 60)).expect("half a day");
            let ahead = self.choice.below(2) == 0;
            let wall_offset_ms = if ahead { minutes } else { -minutes } * 60_000;
            let monotonic_rate_ppm = [200, -200, 0][member % 3];
            let faults = PretendedFaults {
                wall_offset_ms,
                monotonic_rate_ppm,
                ..PretendedFaults::default()
            };
            self.pretend(member, &faults).await?;
            let name = &self.names[member];
            let sign = if ahead { "ahead" } else { "back" };
            let rate = match monotonic_rate_ppm {
                0 => "right".to_owned(),
                200 => "200 ppm fast".to_owned(),
                _ => "200 ppm slow".to_owned(),
            };
            words.push(format!(
                "{name}'s wall clock {} h {} min {sign}, its monotonic clock {rate}",
                minutes / 60,
                minutes % 60
            ));
        }
        Ok(words.join("; "))
    }

    fn fault_endpoint(&self, member: usize) -> String {
        match &self.subject {
            Subject::Own { cluster, .. } => cluster.spec(member).addresses.admin.clone(),
            Subject::Attached { admin, .. } => admin[member].clone(),
        }
    }

    async fn pretend(&self, member: usize, faults: &PretendedFaults) -> Result<(), String> {
        fault_endpoint::pretend(&self.fault_endpoint(member), faults).await
    }

    async fn pretend_nothing(&self) -> Result<(), String> {
        for member in 0..self.names.len() {
            self.pretend(member, &PretendedFaults::default()).await?;
        }
        Ok(())
    }

    /// How often the member's log speaks of rot.
    fn said_of_rot(&mut self, member: usize) -> Result<usize, String> {
        let path = self.cluster()?.spec(member).data_dir.with_extension("log");
        Ok(mentions(&path, SAID_OF_ROT))
    }
}

fn mentions(path: &Path, words: &str) -> usize {
    std::fs::read(path).map_or(0, |log| String::from_utf8_lossy(&log).matches(words).count())
}
