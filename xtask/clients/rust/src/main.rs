//! The stock Rust client `etcd-client` against a running cluster.
//!
//! Usage: `etcd-client-checks ENDPOINT…`, with `ETCDCTL_CACERT` and `ETCDCTL_USER` (name:password)
//! in the environment where the cluster wants them. Prints `ok <name>` or `FAIL <name>: <why>` per
//! check and fails if one did. Passes against stock etcd too, which keeps it honest.

mod cluster;
mod elections;
mod keyspace;
mod leases;
mod locks;
mod operations;
mod users;
mod watches;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use cluster::{Checked, Cluster};

/// How long one check may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Whether every check so far held.
struct Verdict {
    failed: bool,
}

impl Verdict {
    async fn check(&mut self, name: &str, check: impl Future<Output = Checked>) {
        let name = name.rsplit("::").next().unwrap_or(name).trim().replace('_', " ");
        let outcome = match tokio::time::timeout(TIMEOUT, check).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("not done within {TIMEOUT:?}").into()),
        };
        match outcome {
            Ok(()) => println!("ok {name}"),
            Err(why) => {
                self.failed = true;
                println!("FAIL {name}: {}", why.to_string().replace('\n', " "));
            }
        }
    }
}

macro_rules! check {
    ($verdict:expr, $cluster:expr, $($check:path),* $(,)?) => {$(
        $verdict.check(stringify!($check), $check($cluster)).await;
    )*};
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cluster = match Cluster::of_this_process() {
        Ok(cluster) => cluster,
        Err(why) => {
            eprintln!("the environment cannot be used: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut verdict = Verdict { failed: false };
    anybody(&mut verdict, &cluster).await;
    if cluster.has_users() {
        users(&mut verdict, &cluster).await;
        check!(verdict, &cluster, users::a_token_is_good_at_every_member);
    } else {
        check!(verdict, &cluster, users::authentication_is_switched_on);
        // Stock members that lag do not know a token yet.
        let secured = cluster.seen_by("root", users::ROOT_PASSWORD).first();
        users(&mut verdict, &secured).await;
        check!(verdict, &secured, users::authentication_is_switched_off);
    }
    if verdict.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What holds with and without users.
async fn anybody(verdict: &mut Verdict, cluster: &Cluster) {
    check!(
        verdict,
        cluster,
        keyspace::put_get_and_delete,
        keyspace::every_member_serves_what_another_took,
        keyspace::ranges_sorted_and_limited,
        keyspace::transactions_compare_and_nest,
        keyspace::many_clients_write_at_once,
        keyspace::errors_have_etcd_texts,
        watches::a_watch_tells_history_and_what_follows,
        watches::a_watch_reports_its_progress,
        watches::a_watch_of_compacted_history_is_cancelled,
        leases::a_lease_takes_its_keys_with_it,
        leases::a_lease_lives_while_it_is_kept_alive,
        locks::a_lock_is_held_by_one_at_a_time,
        locks::a_lock_passes_on_when_its_lease_ends,
        locks::a_waiter_that_gives_up_leaves_the_line,
        locks::what_is_done_under_a_lock_is_not_lost,
        elections::an_election_changes_hands_and_is_observed,
        elections::who_does_not_lead_cannot_proclaim,
        operations::members_and_status,
        operations::hashes_agree,
        operations::compaction_forgets,
        operations::alarms_are_listed_and_a_member_defragmented,
        operations::a_snapshot_is_streamed,
        operations::a_learner_comes_and_goes,
        operations::the_leader_hands_over,
        users::users_and_roles_are_kept,
    );
}

/// What holds for users, asked by root.
async fn users(verdict: &mut Verdict, root: &Cluster) {
    check!(
        verdict,
        root,
        users::a_user_does_what_its_roles_allow,
        users::a_token_outlives_a_change_of_roles,
        users::a_new_password_ends_tokens,
        users::who_is_not_known_is_refused,
    );
}
