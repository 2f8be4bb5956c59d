//! Who works in a seed: the workers of every feature that it exercises.

use crate::account_worker::{AuthUser, Superuser};
use crate::churn_worker::{ChurnWorker, Compacting};
use crate::counter_worker::CounterWorker;
use crate::feature::Feature;
use crate::handover_worker::HandoverWorker;
use crate::lease_holder::LeaseHolder;
use crate::lease_storm::LeaseStorm;
use crate::lock_contender::LockContender;
use crate::membership_operator::Operator;
use crate::rng::Seed;
use crate::swarm::Swarm;
use crate::worker::{Behaviour, Worker};
use clocks::GroupId;

/// Lease holders, and contenders for the lock, of each keyspace.
const LEASE_HOLDERS: usize = 4;
const LOCK_CONTENDERS: usize = 3;
/// Users of each keyspace.
const AUTH_USERS: usize = 4;
/// Clients of counters, of churning ranges, and of leases that come together.
const COUNTER_WORKERS: usize = 4;
const CHURN_WORKERS: usize = 3;
const LEASE_STORM: usize = 16;

/// All workers of a seed.
pub(crate) fn hire(seed: Seed, swarm: &Swarm, keyspaces: &[GroupId]) -> Vec<Worker> {
    let mut workers = Vec::new();
    let mut add =
        |feature: Feature, count: usize, behaviour: &dyn Fn(u64) -> Box<dyn Behaviour>| {
            for _ in 0..if swarm.features.contains(&feature) { count } else { 0 } {
                let number = workers.len();
                let rng = seed.stream("worker", number as u64);
                workers.push(Worker::new(number % swarm.nodes, behaviour(number as u64), rng));
            }
        };
    for &group in keyspaces {
        let rng = |number| seed.stream("behaviour", number);
        add(Feature::Leases, LEASE_HOLDERS, &|number| {
            Box::new(LeaseHolder::new(number, group, rng(number)))
        });
        add(Feature::Locks, LOCK_CONTENDERS, &|number| {
            Box::new(LockContender::new(number, group, rng(number)))
        });
    }
    for &group in keyspaces {
        let rng = |number| seed.stream("behaviour", number);
        add(Feature::Accounts, 1, &|number| Box::new(Superuser::new(group, rng(number))));
        add(Feature::Accounts, AUTH_USERS, &|number| {
            Box::new(AuthUser::new(number, group, rng(number)))
        });
    }
    add(Feature::Operator, 1, &|number| Box::new(Operator::new(seed.stream("behaviour", number))));
    for &group in keyspaces {
        let rng = |number| seed.stream("behaviour", number);
        add(Feature::Counters, COUNTER_WORKERS, &|number| {
            Box::new(CounterWorker::new(number, group, rng(number)))
        });
        let churn = |compacting| {
            move |number| -> Box<dyn Behaviour> {
                Box::new(ChurnWorker::new(number, group, compacting, rng(number)))
            }
        };
        add(Feature::Churn, CHURN_WORKERS, &churn(Compacting::Never));
        add(Feature::CompactionRaces, CHURN_WORKERS, &churn(Compacting::AtTheEdge));
        add(Feature::LeaseStorms, LEASE_STORM, &|number| {
            Box::new(LeaseStorm::new(number, group, rng(number)))
        });
    }
    for &group in keyspaces {
        add(Feature::Handovers, 1, &|number| {
            Box::new(HandoverWorker::new(group, seed.stream("behaviour", number)))
        });
    }
    workers
}
