//! Evidence of a run: what clients were told, what watchers saw, and in the end every member's own
//! account of its history and its keys.
//!
//! What cannot be collected is a complaint, never silently left out. Not here: judging it
//! (`verdict`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use checkers::history::Operation;
use tokio::task::JoinHandle;

use crate::client_access::ClientAccess;
use crate::member_client::{MemberClient, Versioned};
use crate::watch_recorder::{WatchRecord, WatchScope, WatchedChange, record};

/// How long a member may take to tell its history, and a watcher to see the last change.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one member holds at the end.
#[derive(Debug, Clone)]
pub(crate) struct MemberEvidence {
    pub(crate) name: String,
    /// Every change since the run began, as the member tells a new watcher.
    pub(crate) log: Vec<WatchedChange>,
    /// Every key as the member has it.
    pub(crate) keys: Vec<Versioned>,
}

/// A read that a member answered without asking anybody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalRead {
    pub(crate) member: String,
    pub(crate) key: Vec<u8>,
    /// The revision as of which it answered.
    pub(crate) at: u64,
    /// The value, and the revision that wrote it.
    pub(crate) found: Option<(Vec<u8>, u64)>,
}

/// Everything that a run collected.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    pub(crate) operations: Vec<Operation>,
    pub(crate) members: Vec<MemberEvidence>,
    /// With the name of whoever watched.
    pub(crate) watchers: Vec<(String, WatchRecord)>,
    pub(crate) local_reads: Vec<LocalRead>,
}

/// Waits until every watcher has seen revision `last`; complains of those that do not.
pub(crate) async fn end_of_watches(
    watchers: Vec<(String, JoinHandle<WatchRecord>)>,
    last: u64,
) -> (Vec<(String, WatchRecord)>, Vec<String>) {
    let (mut records, mut complaints) = (Vec::new(), Vec::new());
    for (name, mut watcher) in watchers {
        match tokio::time::timeout(PATIENCE, &mut watcher).await {
            Ok(Ok(watched)) => records.push((name, watched)),
            Ok(Err(error)) => complaints.push(format!("the watcher of {name} failed: {error}")),
            Err(_) => {
                watcher.abort();
                complaints.push(format!("the watcher of {name} never saw revision {last}"));
            }
        }
    }
    (records, complaints)
}

/// Asks every member, given by name and address, for its history and keys up to revision `last`.
pub(crate) async fn of_members(
    access: &ClientAccess,
    members: &[(String, String)],
    scope: &WatchScope,
    last: u64,
) -> (Vec<MemberEvidence>, Vec<String>) {
    let (mut evidence, mut complaints) = (Vec::new(), Vec::new());
    for (name, address) in members {
        match of_member(access, name, address, scope, last).await {
            Ok(of_member) => evidence.push(of_member),
            Err(complaint) => complaints.push(complaint),
        }
    }
    (evidence, complaints)
}

async fn of_member(
    access: &ClientAccess,
    name: &str,
    address: &str,
    scope: &WatchScope,
    last: u64,
) -> Result<MemberEvidence, String> {
    let until = Rc::new(Cell::new(last));
    let log = record(access.clone(), address.to_owned(), scope.clone(), until);
    let log = tokio::time::timeout(PATIENCE, log).await;
    let log = log.map_err(|_| format!("{name} does not tell its history"))?;
    if let Some(complaint) = log.complaint {
        return Err(format!("collecting the history of {name} was {complaint}"));
    }
    let client = MemberClient::connect_by(access, address, PATIENCE).await?;
    let keys = client.local_range(&scope.prefix).await;
    let (_, keys) = keys.map_err(|error| format!("{name}: {error}"))?;
    Ok(MemberEvidence { name: name.to_owned(), log: log.changes, keys })
}
