//! Swarm testing: every seed draws its own world, since a run that mixes every fault at every rate
//! reaches less than many runs that leave some out (Groce et al. 2012; used by FoundationDB and
//! TigerBeetle).
//!
//! Sizes are small on purpose, so that segments roll, windows fill and snapshots are needed within
//! a minute. Not here: what a fault does (`faults`), what clients do (`workload`).

use crate::disk::{DirectoryEntries, DiskProfile, SyncPromise};
use crate::event_heap::{MICROSECOND, MILLISECOND, SECOND};
use crate::faults::FaultKind;
use crate::feature::Feature;
use crate::membership_operator::SPARES;
use crate::network::{NetworkKind, NetworkProfile, Slot};
use crate::rng::{Chance, Rng, Seed};
use crate::rolling_upgrade::LEVEL;
use clocks::{ClockBound, GroupId, NodeId};
use replica::{CoreConfig, ReplicaLimits, ReplicationWindow};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::command::Member;
use store::{MachineKind, StoreLimits, WatchLimits};
use wal::WalConfig;

/// Everything that a seed decides before the world starts.
#[derive(Clone, Debug)]
pub(crate) struct Swarm {
    /// Members, from 3 to 5.
    pub(crate) nodes: usize,
    /// The links.
    pub(crate) network: NetworkProfile,
    /// Every machine's disk.
    pub(crate) disk: DiskProfile,
    /// Elections, leases and clocks.
    pub(crate) timing: Timing,
    /// Bounds of the core, small on purpose.
    pub(crate) sizes: Sizes,
    /// How threads are scheduled.
    pub(crate) scheduling: Scheduling,
    /// What clients do.
    pub(crate) workload: WorkloadProfile,
    /// What is exercised beside keys and watches.
    pub(crate) features: BTreeSet<Feature>,
    /// Machines without a member at first.
    pub(crate) spares: usize,
    /// Members that begin with an old build.
    pub(crate) old_builds: BTreeSet<Slot>,
    /// Nanoseconds for which a crashed process stays down, at most.
    pub(crate) downtime_max: u64,
    /// Faults that are on, and the mean nanoseconds between two of a kind.
    pub(crate) faults: BTreeMap<FaultKind, u64>,
}

/// Elections, leases and clocks.
#[derive(Clone, Debug)]
pub(crate) struct Timing {
    /// Nanoseconds between heartbeats.
    pub(crate) heartbeat_interval: u64,
    /// Nanoseconds of silence before an election.
    pub(crate) election_timeout: u64,
    /// Nanoseconds of leader lease, or 0.
    pub(crate) lease: u64,
    /// The bound on the rate error that the core is told, in parts per million.
    pub(crate) drift_ppm: u32,
    /// The rate error that clocks really have, at most.
    pub(crate) rate_error_max: u32,
}

/// Bounds of the core.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Bytes of a log segment.
    pub(crate) segment_bytes: u64,
    /// Bytes of a batch of the log.
    pub(crate) log_batch_bytes: usize,
    /// Batches being written at once.
    pub(crate) log_writes_in_flight: usize,
    /// Segments kept for their blocks.
    pub(crate) recycled_segments: usize,
    /// Bytes of the newest entries that recovery hands over.
    pub(crate) recovered_tail_bytes: usize,
    /// Entries that a log keeps for lagging members.
    pub(crate) retained_entries: u64,
    /// Applied bytes after which the engine is flushed.
    pub(crate) flush_bytes: u64,
    /// Entries in one append message.
    pub(crate) append_entries: usize,
    /// Bytes in one append message.
    pub(crate) append_bytes: usize,
    /// Unanswered append messages.
    pub(crate) inflight_messages: usize,
    /// Bytes of entries cached per group.
    pub(crate) cache_bytes: usize,
    /// Requests that may wait per group.
    pub(crate) waiting_requests: usize,
    /// Bytes of entries handed over at a time.
    pub(crate) apply_batch_bytes: usize,
    /// Bytes of entries handed over and not yet applied.
    pub(crate) unapplied_bytes: usize,
    /// Open snapshots per group.
    pub(crate) open_snapshots: usize,
    /// Bytes of a chunk of a snapshot.
    pub(crate) snapshot_chunk_bytes: usize,
    /// Open sessions per state machine.
    pub(crate) sessions_max: usize,
    /// Bytes that a stream of watches may have outstanding.
    pub(crate) watch_stream_bytes: usize,
}

/// How the threads of a process take turns.
#[derive(Clone, Debug)]
pub(crate) struct Scheduling {
    /// Mean nanoseconds until a machine that was woken runs.
    pub(crate) mean_delay: u64,
    /// How often a machine is interrupted between draining, flushing and emitting.
    pub(crate) split: Chance,
    /// How often it takes only some of its queue.
    pub(crate) partial: Chance,
    /// How often it is descheduled for long.
    pub(crate) stall: Chance,
    /// Mean nanoseconds of that.
    pub(crate) mean_stall: u64,
}

/// What clients do.
#[derive(Clone, Debug)]
pub(crate) struct WorkloadProfile {
    /// Clients of each member.
    pub(crate) clients_per_node: usize,
    /// Keys in use at a time, per group.
    pub(crate) keys: u64,
    /// Nanoseconds after which clients move to fresh keys, so that unknown outcomes do not pile up.
    pub(crate) key_lifetime: u64,
    /// Mean nanoseconds between a reply and the client's next operation.
    pub(crate) mean_think: u64,
    /// Nanoseconds after which a client gives up.
    pub(crate) timeout: u64,
    /// Largest value in bytes.
    pub(crate) value_bytes: usize,
    /// How often a value is a big one, and of how many bytes at most.
    pub(crate) big_value: (Chance, usize),
    /// Relative frequency of each kind of operation, in the order of `workload::Kind`.
    pub(crate) mix: [u32; 10],
}

impl Swarm {
    /// Draws a configuration.
    #[must_use]
    pub(crate) fn draw(seed: Seed) -> Swarm {
        let rng = &mut seed.stream("swarm", 0);
        let nodes = rng.pick(&[3, 3, 3, 4, 5]);
        let network = draw_network(rng);
        let very_lossy =
            network.kind == NetworkKind::Datagram && network.loss >= Chance::percent(10);
        Swarm {
            nodes,
            network,
            disk: draw_disk(rng),
            timing: draw_timing(rng),
            sizes: draw_sizes(rng),
            scheduling: draw_scheduling(rng),
            workload: draw_workload(rng, nodes, very_lossy),
            features: BTreeSet::new(),
            spares: 0,
            old_builds: BTreeSet::new(),
            downtime_max: 10 * SECOND,
            faults: draw_faults(rng),
        }
    }

    /// Adds what a feature needs, drawn from a stream of its own.
    pub(crate) fn exercise(&mut self, seed: Seed, feature: Feature) {
        let rng = &mut seed.stream("exercise", feature as u64);
        self.features.insert(feature);
        if feature.asks_for_much() {
            // What it asks for, others leave to it: a seed takes no longer for it.
            self.workload.mean_think += self.workload.mean_think / 4;
        }
        match feature {
            Feature::RollingUpgrade => {
                let upgraded = rng.index(self.nodes);
                self.old_builds = (upgraded..self.nodes).collect();
                let mean = FaultKind::Upgrade.mean_interval() * rng.pick(&[1, 2]);
                self.faults.insert(FaultKind::Upgrade, mean);
            }
            Feature::Membership => {
                let mean = FaultKind::Replacement.mean_interval() * rng.pick(&[1, 2]);
                self.faults.insert(FaultKind::Replacement, mean);
            }
            Feature::Operator => self.spares = SPARES,
            // Which request came first must not hang on which session was given up.
            Feature::Accounts => self.sizes.sessions_max = 1_024,
            Feature::Rot => {
                self.disk.entries = DirectoryEntries::Undurable;
                let mean = FaultKind::Corruption.mean_interval() * rng.pick(&[1, 2]);
                self.faults.insert(FaultKind::Corruption, mean);
            }
            Feature::Wan => self.go_far_apart(rng),
            Feature::Tangles => {
                self.faults.insert(FaultKind::Tangle, FaultKind::Tangle.mean_interval());
            }
            Feature::Ambushes => {
                self.faults.insert(FaultKind::Ambush, FaultKind::Ambush.mean_interval());
            }
            Feature::HotKeys => {
                self.workload.keys = rng.between(2, 4);
                self.workload.key_lifetime = 2 * SECOND;
            }
            Feature::BigValues => {
                self.workload.big_value = (Chance::percent(2), 64 << 10);
            }
            Feature::Leases
            | Feature::Locks
            | Feature::Handovers
            | Feature::Counters
            | Feature::Churn
            | Feature::CompactionRaces
            | Feature::LeaseStorms => {}
        }
    }
}

impl Swarm {
    /// Puts every machine into one of three regions; those who wait for answers wait longer.
    fn go_far_apart(&mut self, rng: &mut Rng) {
        let machines = self.nodes + SPARES;
        self.network.regions = (0..machines).map(|_| rng.index(3)).collect();
        let mut distance = || rng.pick(&[2, 10, 35]) * MILLISECOND;
        let (a, b, c) = (distance(), distance(), distance());
        self.network.distances = [[0, a, b], [a, 0, c], [b, c, 0]];
        self.timing.heartbeat_interval = 100 * MILLISECOND;
        self.timing.election_timeout = 1_000 * MILLISECOND;
        self.timing.lease = self.timing.lease.min(400 * MILLISECOND);
        self.workload.timeout = 1_500 * MILLISECOND;
        self.workload.clients_per_node = 12;
        // Distance costs time, and with small windows all throughput.
        self.sizes.append_entries = self.sizes.append_entries.max(64);
        self.sizes.append_bytes = self.sizes.append_bytes.max(16 << 10);
        self.sizes.inflight_messages = self.sizes.inflight_messages.max(16);
        self.network.capacity = self.network.capacity.max(1_024);
        self.sizes.snapshot_chunk_bytes = self.sizes.snapshot_chunk_bytes.max(8 << 10);
    }
}

impl Swarm {
    /// Bounds of every watch hub.
    pub(crate) fn watch_limits(&self) -> WatchLimits {
        WatchLimits {
            stream_bytes_max: self.sizes.watch_stream_bytes,
            response_bytes_max: self.sizes.watch_stream_bytes / 4,
            catch_up_watchers_max: 2,
            ..WatchLimits::default()
        }
    }

    /// What the core of the machine in this slot is told.
    #[must_use]
    pub(crate) fn core_config(&self, slot: Slot) -> CoreConfig {
        let node = NodeId(slot as u64 + 1);
        let (timing, sizes) = (&self.timing, &self.sizes);
        let keyspace = |group| (GroupId(group), MachineKind::Keyspace);
        let member = Member {
            id: node,
            name: format!("n{slot}"),
            peer_addresses: vec![format!("n{node}:2380")],
            client_urls: vec![format!("http://n{slot}:2379")],
            directory_id: 1 + slot as u128,
            feature_level: LEVEL,
        };
        CoreConfig {
            node,
            groups: vec![
                (GroupId::CONSISTENT_CORE, MachineKind::ClusterMetadata),
                keyspace(1),
                keyspace(2),
            ],
            initial_voters: (1..=self.nodes as u64).map(NodeId).collect(),
            founders: (0..self.nodes).map(founder).collect(),
            contacts: Vec::new(),
            member,
            heartbeat_interval: Duration::from_nanos(timing.heartbeat_interval),
            election_timeout: Duration::from_nanos(timing.election_timeout),
            lease: Duration::from_nanos(timing.lease),
            longest_lease: Duration::from_nanos(timing.lease),
            clock_bound: ClockBound { drift_ppm: timing.drift_ppm },
            window: ReplicationWindow {
                append_bytes: sizes.append_bytes,
                append_entries: sizes.append_entries,
                inflight_messages: sizes.inflight_messages,
                inflight_bytes: sizes.append_bytes * sizes.inflight_messages,
                cache_bytes: sizes.cache_bytes,
                ..ReplicationWindow::default()
            },
            wal: WalConfig {
                segment_bytes: sizes.segment_bytes,
                max_batch_bytes: sizes.log_batch_bytes,
                writes_in_flight: sizes.log_writes_in_flight,
                recycled_segments: sizes.recycled_segments,
                recovered_tail_bytes: sizes.recovered_tail_bytes,
            },
            store: StoreLimits {
                snapshot_chunk_bytes: sizes.snapshot_chunk_bytes,
                sessions_max: sizes.sessions_max,
                ..StoreLimits::default()
            },
            limits: ReplicaLimits {
                waiting_requests: sizes.waiting_requests,
                retained_entries: sizes.retained_entries,
                flush_bytes: sizes.flush_bytes,
                apply_batch_bytes: sizes.apply_batch_bytes,
                unapplied_bytes: sizes.unapplied_bytes,
                open_snapshots: sizes.open_snapshots,
                ..ReplicaLimits::default()
            },
            feature_level: LEVEL,
        }
    }
}

/// What settings say of the first member of a slot.
fn founder(slot: Slot) -> Member {
    let peer_addresses = vec![format!("n{}:2380", slot + 1)];
    Member { id: NodeId(slot as u64 + 1), peer_addresses, ..Member::default() }
}

fn draw_network(rng: &mut Rng) -> NetworkProfile {
    let kind = rng.pick(&[NetworkKind::Stream, NetworkKind::Stream, NetworkKind::Datagram]);
    NetworkProfile {
        kind,
        min_delay: rng.pick(&[20, 100, 1_000]) * MICROSECOND,
        mean_jitter: rng.pick(&[20, 200, 1_000, 4_000]) * MICROSECOND,
        loss: Chance::percent(rng.pick(&[0, 1, 5, 10])),
        duplication: Chance::percent(rng.pick(&[0, 1, 10, 50])),
        capacity: rng.pick(&[64, 1_024, 16_384]),
        keep_alive: (SECOND, 4 * SECOND),
        regions: Vec::new(),
        distances: [[0; 3]; 3],
    }
}

fn draw_disk(rng: &mut Rng) -> DiskProfile {
    DiskProfile {
        mean_latency: rng.pick(&[80, 200, 1_000]) * MICROSECOND,
        stall: Chance(rng.pick(&[0, 100, 3_000])),
        mean_stall: rng.pick(&[20, 100]) * MILLISECOND,
        sync: SyncPromise::Kept,
        entries: DirectoryEntries::Durable,
    }
}

fn draw_timing(rng: &mut Rng) -> Timing {
    let heartbeat_interval = rng.pick(&[50, 100, 100]) * MILLISECOND;
    let election_timeout = heartbeat_interval * rng.pick(&[6, 10, 10]);
    let drift_ppm = rng.pick(&[200, 500, 10_000]);
    Timing {
        heartbeat_interval,
        election_timeout,
        lease: rng.pick(&[0, 2, 2, 4]) * heartbeat_interval,
        drift_ppm,
        rate_error_max: drift_ppm,
    }
}

fn draw_sizes(rng: &mut Rng) -> Sizes {
    Sizes {
        segment_bytes: rng.pick(&[32, 128, 1_024]) << 10,
        log_batch_bytes: rng.pick(&[4, 1_024]) << 10,
        log_writes_in_flight: rng.pick(&[1, 1, 4]),
        recycled_segments: rng.pick(&[0, 2]),
        recovered_tail_bytes: rng.pick(&[1, 4_096]) << 10,
        retained_entries: rng.pick(&[5, 50, 500]),
        flush_bytes: rng.pick(&[4, 32, 256]) << 10,
        append_entries: rng.pick(&[4, 64, 1_024]),
        append_bytes: rng.pick(&[1, 16, 1_024]) << 10,
        inflight_messages: rng.pick(&[2, 16, 256]),
        cache_bytes: rng.pick(&[2, 64, 4_096]) << 10,
        waiting_requests: rng.pick(&[4, 1_024]),
        apply_batch_bytes: rng.pick(&[1, 64]) << 10,
        unapplied_bytes: rng.pick(&[4, 16_384]) << 10,
        open_snapshots: rng.pick(&[1, 4]),
        snapshot_chunk_bytes: rng.pick(&[1, 8, 64]) << 10,
        sessions_max: rng.pick(&[6, 1_024]),
        watch_stream_bytes: rng.pick(&[2, 64, 4_096]) << 10,
    }
}

fn draw_scheduling(rng: &mut Rng) -> Scheduling {
    Scheduling {
        mean_delay: rng.pick(&[5, 30, 300]) * MICROSECOND,
        split: Chance::percent(rng.pick(&[1, 10])),
        partial: Chance::percent(rng.pick(&[0, 5, 30])),
        stall: Chance(rng.pick(&[0, 50, 500])),
        mean_stall: rng.pick(&[5, 50]) * MILLISECOND,
    }
}

fn draw_workload(rng: &mut Rng, nodes: usize, very_lossy: bool) -> WorkloadProfile {
    let clients_per_node = rng.pick(&[6, 8, 10]);
    // So many operations a second while all is well that 100 remain under faults. Where messages
    // are lost and nobody below repeats them, clients wait longer and have to think less.
    let rate = if very_lossy { 550 } else { 350 };
    let mean_think = (clients_per_node * nodes) as u64 * SECOND / rate;
    WorkloadProfile {
        clients_per_node,
        keys: rng.between(10, 25),
        key_lifetime: rng.between(3, 8) * SECOND,
        mean_think,
        timeout: rng.pick(&[700, 1_500]) * MILLISECOND,
        value_bytes: rng.pick(&[16, 64, 400]),
        big_value: (Chance(0), 0),
        mix: [30, 25, 15, 5, 6, 8, 5, rng.pick(&[0, 1, 2]), 4, 4],
    }
}

fn draw_faults(rng: &mut Rng) -> BTreeMap<FaultKind, u64> {
    let mut on: Vec<FaultKind> =
        FaultKind::ALL.into_iter().filter(|_| rng.chance(Chance::percent(60))).collect();
    if on.is_empty() {
        on.push(FaultKind::Kill);
    }
    // With many kinds on, each is rarer: a cluster that is always down proves nothing.
    let outages = on.iter().filter(|kind| kind.is_outage()).count() as u64;
    let rarer = 1 + outages / 3;
    on.into_iter().map(|kind| (kind, kind.mean_interval() * rng.pick(&[1, 2, 4]) * rarer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_draws_the_same_world() {
        let text = |seed| format!("{:?}", Swarm::draw(Seed(seed)));
        assert_eq!(text(3), text(3));
        assert_ne!(text(3), text(4));
    }

    #[test]
    fn every_fault_is_on_in_some_seeds_and_off_in_others() {
        let drawn: Vec<Swarm> = (0..50).map(|seed| Swarm::draw(Seed(seed))).collect();
        for kind in FaultKind::ALL {
            let on = drawn.iter().filter(|swarm| swarm.faults.contains_key(&kind)).count();
            assert!((10..45).contains(&on), "{kind:?} is on in {on} of 50");
        }
    }
}
