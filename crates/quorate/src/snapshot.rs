//! `quorate snapshot status`: what a backup file holds, after checking all of it.

use node::BackupFile;

use crate::Failure;
use crate::arguments::{SnapshotOptions, SnapshotTask};

/// Prints the figures or the JSON.
pub(crate) fn run(options: SnapshotOptions) -> Result<(), Failure> {
    match options.task {
        SnapshotTask::Status { file, json } => {
            let backup = BackupFile::check(&file).map_err(Failure::Failed)?;
            let (summary, of) = (backup.summary(), backup.description());
            let (hash, revision, keys) = (summary.hash, summary.revision, summary.keys);
            let (bytes, cluster, member) = (of.bytes, of.cluster, of.member);
            if json {
                // The names are etcdutl's, then our own.
                crate::say(format!(
                    "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\
                     \"totalSize\":{bytes},\"compactRevision\":{},\"cluster\":\"{cluster:x}\",\
                     \"member\":\"{member}\",\"featureLevel\":{}}}",
                    summary.compacted, of.feature_level
                ));
            } else {
                crate::say(format!("hash      {hash} ({hash:08x})"));
                crate::say(format!("revision  {revision}"));
                crate::say(format!("keys      {keys}"));
                crate::say(format!("bytes     {bytes}"));
                crate::say(format!("taken of  member {member} of cluster {cluster:x}"));
            }
            Ok(())
        }
    }
}
