//! Disaster recovery: a new cluster from a backup, or from the directory of a lone survivor.
//!
//! As etcdutl's `snapshot restore` and etcd's `--force-new-cluster`. Both leave a data directory in
//! the same form: the keyspace in the engine, as of some position, without sessions and membership
//! of the old cluster; no log; nothing of the consistent core, which founds itself anew; and an
//! identity with a cluster id that never was, so that members of the old cluster (zombies) are
//! refused by everybody who shakes hands with them. Every member that is restored from the same
//! file in the same way begins with the same state at the same position.
//!
//! Invariant: while the work is under way the directory carries a mark, and with it no node starts.

use crate::BackupFile;
use crate::config::{ClusterIdentity, FEATURE_LEVEL, NodeConfig};
use crate::data_directory::{DataDirectory, Unfinished, random_bytes};
use crate::directory_identity::KnownMember;
use crate::log_disk::{LogDisk, OnCompletion};
use crate::log_structured_merge_tree::{EngineLimits, LsmEngine};
use crate::meters::Meters;
use clocks::{GroupId, NodeId};
use replica::{LogContents, check_whole_log};
use ring::hmac;
use std::path::Path;
use std::sync::Arc;
use store::command::TokenSecret;
use store::range::Revision;
use store::{
    Engine, MachineKind, Reader, Refounding, SnapshotWrite, StateMachine, StoreFailure,
    StoreLimits, refound_core,
};

/// What a restore or a forced new cluster made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refounded {
    /// The new cluster.
    pub cluster: u64,
    /// This member of it.
    pub member: NodeId,
    /// The keyspace's revision.
    pub revision: Revision,
    /// Keys that live; zero if they were not counted.
    pub keys: u64,
}

/// Makes this member's data directory of a new cluster from the backup in `file`; `config` says who
/// the members are. Everything about the file is checked before anything is written.
///
/// # Errors
/// One plain sentence.
pub fn restore(
    file: &Path,
    config: &NodeConfig,
    refounding: Refounding,
) -> Result<Refounded, String> {
    let backup = BackupFile::check(file)?;
    let (description, summary) = (backup.description(), backup.summary());
    if description.feature_level > FEATURE_LEVEL {
        return Err(format!(
            "the backup {} needs feature level {}, and this version of quorate speaks up to \
             {FEATURE_LEVEL}: restore it with a newer one",
            file.display(),
            description.feature_level
        ));
    }
    let revision = refounding.revision_after(summary.revision).ok_or_else(|| {
        format!("bump-revision is too large: the backup's revision is {}", summary.revision)
    })?;
    // Whoever restores the same in the same way gets the same ids, and nobody else does.
    let digest = backup.digest();
    let salt = format!("{digest} {} {}", refounding.bump_revision, refounding.mark_compacted);
    let cluster = config.cluster.salted(&config.name, &salt)?;
    DataDirectory::refuse_if_not_empty(&config.data_dir)?;
    let mut directory = DataDirectory::open(&config.data_dir)?;
    directory.begin(Unfinished::Restore)?;
    {
        let engine = engine(&directory)?;
        let mut machine = keyspace(&engine)?;
        let (mut number, mut installed) = (0, false);
        backup.chunks(|chunk, done| {
            let written = machine.write_snapshot_chunk(description.position, number, chunk, done);
            number += 1;
            match written.map_err(sentence)? {
                SnapshotWrite::Written => Ok(()),
                SnapshotWrite::Installed => {
                    installed = true;
                    Ok(())
                }
                SnapshotWrite::Refused(refusal) => Err(format!("{refusal:?}")),
            }
        })?;
        assert!(installed, "the last chunk installs a snapshot");
        let secret = token_secret(machine.accounts().secret(), digest, cluster.id);
        machine.refound(refounding, secret).map_err(sentence)?;
        refound_core(&*engine, description.feature_level).map_err(sentence)?;
    }
    directory.record(cluster.id, cluster.node, founders(&cluster))?;
    directory.finish()?;
    Ok(Refounded { cluster: cluster.id, member: cluster.node, revision, keys: summary.keys })
}

/// Makes a cluster of its own of the member whose directory this is: its state, with everything
/// that its log holds, under ids that never were. `None` if it is alone already, or if that was
/// done at an earlier start and every one since asked for it again: an option that is left in the
/// settings forks no cluster that has grown meanwhile.
///
/// What was acknowledged and is in this member's log is kept; what only the lost members had is
/// lost with them.
///
/// # Errors
/// One plain sentence.
pub(crate) fn force_new_cluster(
    directory: &mut DataDirectory,
    own_address: &str,
) -> Result<Option<Refounded>, String> {
    let interrupted = match directory.unfinished()? {
        None => false,
        Some(Unfinished::ForceNewCluster) => true,
        Some(Unfinished::Restore) => return directory.check_finished().map(|()| None),
    };
    let Some(old) = directory.identity().cloned() else {
        return Err(format!(
            "force-new-cluster needs the data directory of a member, and {} is new",
            directory.path().display()
        ));
    };
    if directory.was_forced() && !interrupted {
        tracing::warn!(
            "force-new-cluster has had its effect at an earlier start, and is ignored: it must not \
             stay in the settings; to force once more, start without it before"
        );
        return Ok(None);
    }
    let revision = {
        let engine = engine(directory)?;
        // Whatever may fail comes before the mark: a member whose log cannot be read stays what it
        // is. A log that was put aside already holds nothing.
        directory.check_log()?;
        let logged = check_log(directory, &engine, interrupted)?;
        let reader = Reader::open(&engine, GroupId::KEYSPACE).map_err(sentence)?;
        let core = Reader::open(&engine, GroupId::CONSISTENT_CORE).map_err(sentence)?;
        // Whoever registers has the state flushed.
        let is_alone = old.founders().len() == 1
            && reader.membership().map_err(sentence)?.is_none()
            && core.members().map_err(sentence)?.len() <= 1
            && logged.members.iter().all(|member| *member == old.node);
        if is_alone && !interrupted {
            tracing::info!("force-new-cluster: this member is alone in its cluster already");
            // It may have company when it is started with these settings again.
            directory.force_is_done()?;
            return Ok(None);
        }
        let level = core.feature_level().max(logged.feature_level);
        drop((reader, core));
        directory.begin(Unfinished::ForceNewCluster)?;
        let mut machine = keyspace(&engine)?;
        apply_log(directory, &mut machine)?;
        machine.refound(Refounding::default(), TokenSecret(drawn()?)).map_err(sentence)?;
        refound_core(&*engine, level).map_err(sentence)?;
        machine.revision()
    };
    directory.discard_log()?;
    let cluster = u64::from_be_bytes(drawn()?).max(1);
    let member = NodeId(u64::from_be_bytes(drawn()?).max(1));
    let address = own_address.to_owned();
    let known = vec![KnownMember { id: member, address, is_founder: true }];
    directory.become_another(cluster, member, known)?;
    directory.force_is_done()?;
    directory.finish()?;
    let (old_cluster, old_member) = (old.cluster, old.node);
    tracing::warn!(
        "forced a new cluster {cluster:x} in place of {old_cluster:x}: member {member}, which was \
         {old_member}, is the only one in it; members of the old cluster are refused, and join the \
         new one with empty data directories"
    );
    Ok(Some(Refounded { cluster, member, revision, keys: 0 }))
}

fn drawn<const N: usize>() -> Result<[u8; N], String> {
    random_bytes().map_err(|error| format!("cannot read /dev/urandom: {error}"))
}

/// What members of a restored cluster seal tokens with: nobody can tell who does not know the old
/// secret, and all that are restored from the same file in the same way agree.
fn token_secret(old: &TokenSecret, digest: &str, cluster: u64) -> TokenSecret {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &old.0);
    let tag = hmac::sign(&key, format!("restored {digest} {cluster:016x}").as_bytes());
    TokenSecret(tag.as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

fn engine(directory: &DataDirectory) -> Result<Arc<dyn Engine>, String> {
    let engine = LsmEngine::open(&directory.state(), EngineLimits::default());
    Ok(Arc::new(engine.map_err(|error| error.to_string())?))
}

fn keyspace(engine: &Arc<dyn Engine>) -> Result<StateMachine, String> {
    let (group, kind) = (GroupId::KEYSPACE, MachineKind::Keyspace);
    StateMachine::open(Arc::clone(engine), group, kind, StoreLimits::default()).map_err(sentence)
}

/// The groups of a member that hold anything; the keyspace is the one that is kept.
const GROUPS: [(GroupId, MachineKind); 2] = [
    (GroupId::KEYSPACE, MachineKind::Keyspace),
    (GroupId::CONSISTENT_CORE, MachineKind::ClusterMetadata),
];

/// Makes sure that what the log holds beyond the state can be applied, and says what that is.
fn check_log(
    directory: &DataDirectory,
    engine: &Arc<dyn Engine>,
    interrupted: bool,
) -> Result<LogContents, String> {
    let mut contents = LogContents::default();
    let Some(mut disk) = open_log(directory)? else { return Ok(contents) };
    // Of the consistent core nothing is left once the work is under way.
    let groups = if interrupted { &GROUPS[..1] } else { &GROUPS[..] };
    for &(group, kind) in groups {
        let limits = StoreLimits::default();
        let machine = StateMachine::open(Arc::clone(engine), group, kind, limits);
        let applied = machine.map_err(sentence)?.applied();
        let found = match check_whole_log(group, &mut disk, applied) {
            Ok(found) => found,
            Err(why) if group == GroupId::KEYSPACE => {
                return Err(format!(
                    "no new cluster is made of {}, and nothing was changed, because of its log: \
                     {why}; if a start without --force-new-cluster goes on with what comes before \
                     that, try again afterwards, and otherwise restore a backup",
                    directory.path().display()
                ));
            }
            // Of this one nothing is kept.
            Err(_) => LogContents::default(),
        };
        contents.was_damaged |= found.was_damaged;
        contents.feature_level = contents.feature_level.max(found.feature_level);
        contents.members.extend(found.members);
    }
    if contents.was_damaged {
        tracing::warn!(
            "force-new-cluster: the log was damaged at an earlier start; what this member had \
             acknowledged and lost then is not in the new cluster"
        );
    }
    Ok(contents)
}

/// Applies what the log holds beyond the state.
fn apply_log(directory: &DataDirectory, machine: &mut StateMachine) -> Result<(), String> {
    let Some(mut disk) = open_log(directory)? else { return Ok(()) };
    replica::apply_whole_log(GroupId::KEYSPACE, &mut disk, machine)
}

/// The log, unless it was put aside already.
fn open_log(directory: &DataDirectory) -> Result<Option<LogDisk>, String> {
    if !directory.log().exists() {
        return Ok(None);
    }
    let ignored: OnCompletion = Arc::new(|_| {});
    let meters = Arc::new(Meters::default());
    let sync = crate::SyncForm::Real;
    let disk = LogDisk::open(&directory.log(), sync, &meters, &ignored);
    disk.map(Some).map_err(|error| format!("cannot read the log: {error:?}"))
}

fn founders(cluster: &ClusterIdentity) -> Vec<KnownMember> {
    let founders = cluster.founders().into_iter();
    founders.map(|(id, address)| KnownMember { id, address, is_founder: true }).collect()
}

fn sentence(failure: StoreFailure) -> String {
    failure.to_string()
}

#[cfg(test)]
mod tests;
