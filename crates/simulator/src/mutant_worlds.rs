//! Worlds in which a planted bug of the core shows soon, if the checks are worth anything: the
//! timing that it needs, and the faults that bring it about.
//!
//! Invariant: without the bug such a world breaks nothing (`Options::control`). Not here: the bugs
//! (`mutants`).

use crate::event_heap::{MILLISECOND, SECOND};
use crate::faults::FaultKind;
use crate::network::NetworkKind;
use crate::rng::Chance;
use crate::swarm::Swarm;
use mutants::Bug;

/// A world that shows a bug of the core, if anything can.
pub(crate) fn shape_for(bug: Bug, swarm: &mut Swarm) {
    match bug {
        Bug::VoteBeforeSync => {
            elections(swarm);
            // A vote takes long to write, and nobody promises anything at a restart.
            swarm.disk.mean_latency = 30 * MILLISECOND;
            swarm.timing.lease = 0;
            swarm.nodes = 3;
            often(swarm, &[(FaultKind::Ambush, 150), (FaultKind::Tangle, 800)]);
        }
        Bug::OlderTermCounts => {
            elections(swarm);
            swarm.nodes = 5;
            swarm.disk.mean_latency = 10 * MILLISECOND;
            swarm.sizes.append_entries = 1;
            swarm.sizes.inflight_messages = 1;
            often(swarm, &[(FaultKind::Ambush, 200), (FaultKind::Partition, 900)]);
        }
        Bug::StaleWriteCounts => {
            elections(swarm);
            swarm.disk.mean_latency = 60 * MILLISECOND;
            often(swarm, &[(FaultKind::Ambush, 300), (FaultKind::Partition, 1_500)]);
        }
        Bug::LeaseFromReply => {
            long_leases(swarm, &[(FaultKind::Partition, 1_500)]);
            impatient(swarm);
            apart(swarm);
        }
        Bug::LeaseTooLong => {
            long_leases(swarm, &[(FaultKind::Partition, 1_000)]);
            impatient(swarm);
        }
        Bug::PromiseForgotten => {
            long_leases(swarm, &[(FaultKind::Partition, 900), (FaultKind::Kill, 900)]);
            impatient(swarm);
            apart(swarm);
        }
        Bug::LeaseKeptInTransfer => {
            long_leases(swarm, &[(FaultKind::Partition, 4_000)]);
            apart(swarm);
        }
        Bug::VoteKeepsTimer => {
            swarm.nodes = 5;
            swarm.timing.heartbeat_interval = 50 * MILLISECOND;
            swarm.timing.election_timeout = 200 * MILLISECOND;
            swarm.timing.lease = 0;
            swarm.network.kind = NetworkKind::Stream;
            swarm.network.min_delay = 80 * MILLISECOND;
            swarm.network.mean_jitter = 5 * MILLISECOND;
            swarm.workload.timeout = 3 * SECOND;
            wide_windows(swarm);
        }
        Bug::ReadBeforeOwnTerm => {
            elections(swarm);
            swarm.disk.mean_latency = 10 * MILLISECOND;
            swarm.workload.mix = READS;
        }
        other => shape_for_state(other, swarm),
    }
}

/// The same for bugs of the state machines and of whoever drives them.
fn shape_for_state(bug: Bug, swarm: &mut Swarm) {
    match bug {
        Bug::DeposedTick => {
            elections(swarm);
            swarm.faults.insert(FaultKind::Kill, 8 * SECOND);
            swarm.faults.insert(FaultKind::Partition, SECOND);
        }
        Bug::LeasesNotInSnapshot => {
            elections(swarm);
            swarm.sizes.retained_entries = 5;
            swarm.sizes.flush_bytes = 4 << 10;
        }
        Bug::AppliedApart => {
            swarm.faults.insert(FaultKind::Kill, 2 * SECOND);
            swarm.sizes.flush_bytes = 256 << 10;
        }
        Bug::DuplicatesForgotten => {
            elections(swarm);
            swarm.network.kind = NetworkKind::Datagram;
            swarm.network.duplication = Chance::percent(50);
            swarm.faults.insert(FaultKind::ConnectionReset, 500 * MILLISECOND);
        }
        Bug::DamageUnmarked => {
            elections(swarm);
            swarm.nodes = 3;
            swarm.sizes.flush_bytes = 256 << 10;
            often(swarm, &[(FaultKind::Corruption, 700), (FaultKind::Partition, 1_500)]);
        }
        _ => {
            swarm.faults.insert(FaultKind::Kill, 5 * SECOND);
        }
    }
}

/// Mostly reads, of few keys.
const READS: [u32; 10] = [25, 60, 5, 2, 2, 2, 2, 0, 1, 1];

/// Leases as long as they may be, and clients that go on reading at a leader which cannot write.
pub(crate) fn long_leases(swarm: &mut Swarm, faults: &[(FaultKind, u64)]) {
    swarm.timing.heartbeat_interval = 100 * MILLISECOND;
    swarm.timing.election_timeout = 600 * MILLISECOND;
    swarm.timing.lease = 500 * MILLISECOND;
    swarm.timing.drift_ppm = 200;
    swarm.timing.rate_error_max = 200;
    swarm.nodes = 3;
    swarm.faults = faults.iter().map(|(kind, ms)| (*kind, ms * MILLISECOND)).collect();
    swarm.workload.timeout = 150 * MILLISECOND;
    swarm.workload.clients_per_node = 10;
    swarm.workload.keys = 10;
    swarm.workload.mix = READS;
    swarm.network.kind = NetworkKind::Stream;
}

/// Connections whose end is noticed at once, so that elections wait for promises alone.
fn impatient(swarm: &mut Swarm) {
    swarm.timing.election_timeout = 1_500 * MILLISECOND;
    swarm.network.keep_alive = (5 * MILLISECOND, 40 * MILLISECOND);
    swarm.downtime_max = 30 * MILLISECOND;
    swarm.workload.timeout = 400 * MILLISECOND;
}

/// The first machine is far from the others, which are close to each other.
fn apart(swarm: &mut Swarm) {
    swarm.network.regions = vec![0, 1, 1, 1, 1];
    let far = 100 * MILLISECOND;
    swarm.network.distances = [[0, far, 0], [far, 0, 0], [0; 3]];
    swarm.workload.timeout = 1_200 * MILLISECOND;
    swarm.network.min_delay = MILLISECOND;
    swarm.network.mean_jitter = MILLISECOND;
    wide_windows(swarm);
}

/// Much may be on its way at once, so that distance costs time and no throughput.
fn wide_windows(swarm: &mut Swarm) {
    swarm.sizes.append_entries = 1_024;
    swarm.sizes.append_bytes = 1 << 20;
    swarm.sizes.inflight_messages = 256;
    swarm.network.capacity = 16_384;
    swarm.sizes.snapshot_chunk_bytes = 64 << 10;
    swarm.sizes.retained_entries = 500;
}

fn often(swarm: &mut Swarm, faults: &[(FaultKind, u64)]) {
    swarm.faults.extend(faults.iter().map(|(kind, ms)| (*kind, ms * MILLISECOND)));
}

/// Leaders that come and go.
fn elections(swarm: &mut Swarm) {
    swarm.timing.heartbeat_interval = 50 * MILLISECOND;
    swarm.timing.election_timeout = 300 * MILLISECOND;
    swarm.timing.lease = swarm.timing.lease.min(200 * MILLISECOND);
    swarm.downtime_max = 300 * MILLISECOND;
    let crashes = [(FaultKind::Kill, 1_000), (FaultKind::PowerLoss, 2_000)];
    swarm.faults = crashes.into_iter().map(|(kind, ms)| (kind, ms * MILLISECOND)).collect();
}
