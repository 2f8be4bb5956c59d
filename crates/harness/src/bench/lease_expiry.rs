//! Many leases with a key each that end at the same second, and writes of others meanwhile.
//!
//! Phases: writes before, writes from shortly before that second until the last key is gone.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use crate::client_access::Transport;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest};

use super::operations::said;
use super::report::Latencies;
use super::{BenchPlan, BenchReport, Meter, ServerUsage, Workload, spawn_clients};

/// Requests that grant at a time.
const GRANTERS: usize = 128;

/// Leases that a cluster grants a second, at least, and what comes on top until they end.
const GRANTED_PER_SECOND: usize = 1_000;
const HEAD_START: Duration = Duration::from_secs(9);

/// When leases that do not end are given up.
const PATIENCE: Duration = Duration::from_secs(300);

const PREFIX: &[u8] = b"bench-lease/";

pub(super) async fn run(
    plan: &BenchPlan,
    channels: Vec<Transport>,
    leases: usize,
) -> Result<BenchReport, String> {
    let granting = Duration::from_secs((leases / GRANTED_PER_SECOND) as u64);
    let ending = Instant::now() + granting + HEAD_START;
    grant(&channels, leases, ending).await?;
    let Some(quiet) = ending.checked_duration_since(Instant::now() + Duration::from_secs(5)) else {
        return Err("granting took longer than the leases live: ask for fewer".to_owned());
    };
    let before = ServerUsage::of(&plan.pids)?;
    let start = Instant::now();
    let calm = Meter::new(start);
    let puts = BenchPlan { workload: Workload::Put, ..plan.clone() };
    for client in spawn_clients(&puts, &channels, &calm, (start, start + quiet)) {
        client.await.map_err(|error| format!("a client failed: {error}"))?;
    }
    let busy = Meter::new(Instant::now());
    let from = Instant::now();
    let give_up = ending + PATIENCE;
    let clients = spawn_clients(&puts, &channels, &busy, (from, give_up));
    let mut left = leases as i64;
    let mut client = KvClient::new(channels[0].clone());
    let mut last_of = Duration::ZERO;
    while left > 0 && Instant::now() < give_up {
        tokio::time::sleep(Duration::from_millis(200)).await;
        left = count(&mut client).await?;
        last_of = Instant::now().saturating_duration_since(ending);
    }
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    let usage = ServerUsage::of(&plan.pids)?.since(&before);
    if left > 0 {
        return Err(format!("{left} leases have not ended within {PATIENCE:?}"));
    }
    let mut report = BenchReport::new(plan, &busy, from.elapsed(), usage);
    let ended = format!(
        "from 5 s before the end of {leases} leases until all were gone, {last_of:.1?} after it"
    );
    report.phases = vec![
        ("before".to_owned(), Latencies::of(&calm.latencies.borrow())),
        (ended, report.latency),
    ];
    Ok(report)
}

/// Grants leases that all end at `ending`, as far as whole seconds allow, with a key each.
async fn grant(channels: &[Transport], leases: usize, ending: Instant) -> Result<(), String> {
    let next = Rc::new(Cell::new(0));
    let granter = |channel: &Transport| {
        let (channel, next) = (channel.clone(), Rc::clone(&next));
        spawn_local(async move {
            let (mut granting, mut writing) =
                (LeaseClient::new(channel.clone()), KvClient::new(channel));
            while next.get() < leases {
                let number = next.replace(next.get() + 1);
                let left = ending.saturating_duration_since(Instant::now()).as_secs();
                let ttl = i64::try_from(left).unwrap_or(i64::MAX).max(1);
                let request = LeaseGrantRequest { ttl, id: 0 };
                let lease = granting.lease_grant(request).await.map_err(said)?.into_inner().id;
                let key = [PREFIX, number.to_string().as_bytes()].concat();
                let request = PutRequest { key, value: vec![b'v'], lease, ..PutRequest::default() };
                writing.put(request).await.map_err(said)?;
            }
            Ok::<(), String>(())
        })
    };
    let granters: Vec<_> = channels.iter().cycle().take(GRANTERS).map(granter).collect();
    for granter in granters {
        granter.await.map_err(|error| format!("a client failed: {error}"))??;
    }
    Ok(())
}

async fn count(client: &mut KvClient<Transport>) -> Result<i64, String> {
    let range_end = crate::member_client::prefix_end(PREFIX);
    let request = RangeRequest {
        key: PREFIX.to_vec(),
        range_end,
        count_only: true,
        serializable: true,
        ..RangeRequest::default()
    };
    Ok(client.range(request).await.map_err(said)?.into_inner().count)
}
