//! What is known of other members: first by the consistent core, else by the initial cluster.

use crate::config::ClusterIdentity;
use crate::peers::MemberDirectory;
use clocks::{GroupId, NodeId};
use std::sync::Arc;
use store::command::Member;
use store::{Engine, Reader};

pub(super) struct ConsistentCoreDirectory {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) initial: ClusterIdentity,
}

impl ConsistentCoreDirectory {
    fn reader(&self) -> Option<Reader> {
        // An engine that fails stops the node through the applier.
        Reader::open(&self.engine, GroupId::CONSISTENT_CORE).ok()
    }

    fn known(&self, member: NodeId) -> Option<Member> {
        self.reader()?.members().ok()?.into_iter().find(|known| known.id == member)
    }
}

impl MemberDirectory for ConsistentCoreDirectory {
    fn address(&self, member: NodeId) -> Option<String> {
        let known = self.known(member).and_then(|known| known.peer_addresses.first().cloned());
        known.or_else(|| {
            let at = self.initial.ids.iter().position(|id| *id == member)?;
            Some(self.initial.members[at].address.clone())
        })
    }

    fn directory_id(&self, member: NodeId) -> u128 {
        self.known(member).map_or(0, |known| known.directory_id)
    }

    fn feature_level(&self) -> u32 {
        self.reader().map_or(0, |reader| reader.feature_level())
    }
}
