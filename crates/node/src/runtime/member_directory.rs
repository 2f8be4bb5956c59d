//! What is known of other members: first by the consistent core, else by the data directory, which
//! remembers whom this member knew when it was made.

use crate::directory_identity::KnownMember;
use crate::peers::MemberDirectory;
use clocks::{GroupId, NodeId};
use std::sync::Arc;
use store::command::Member;
use store::{Engine, ListedMember, Reader};
use wire::peer::DiscoveredMember;

pub(super) struct ConsistentCoreDirectory {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) known: Vec<KnownMember>,
}

impl ConsistentCoreDirectory {
    fn reader(&self) -> Option<Reader> {
        // An engine that fails stops the node through the applier.
        Reader::open(&self.engine, GroupId::CONSISTENT_CORE).ok()
    }

    fn recorded(&self) -> Vec<Member> {
        self.reader().and_then(|reader| reader.members().ok()).unwrap_or_default()
    }

    fn recorded_member(&self, member: NodeId) -> Option<Member> {
        self.recorded().into_iter().find(|known| known.id == member)
    }
}

impl MemberDirectory for ConsistentCoreDirectory {
    fn addresses(&self, member: NodeId) -> Vec<String> {
        match self.recorded_member(member) {
            Some(known) if !known.peer_addresses.is_empty() => bare(known.peer_addresses),
            _ => {
                let known = self.known.iter().filter(|known| known.id == member);
                known.map(|known| known.address.clone()).collect()
            }
        }
    }

    fn directory_id(&self, member: NodeId) -> u128 {
        self.recorded_member(member).map_or(0, |known| known.directory_id)
    }

    fn feature_level(&self) -> u32 {
        self.reader().map_or(0, |reader| reader.feature_level())
    }

    fn is_removed(&self, member: NodeId) -> bool {
        self.reader().and_then(|reader| reader.is_removed_member(member).ok()).unwrap_or(false)
    }

    fn members(&self) -> Vec<DiscoveredMember> {
        let listed = self.reader().and_then(|reader| reader.listed_members().ok());
        let discovered = |ListedMember { member, learner }| DiscoveredMember {
            id: member.id,
            has_started: member.directory_id != 0,
            is_learner: learner,
            name: member.name,
            addresses: bare(member.peer_addresses),
        };
        listed.unwrap_or_default().into_iter().map(discovered).collect()
    }
}

/// Addresses without the scheme under which they are listed.
fn bare(addresses: Vec<String>) -> Vec<String> {
    let bare = |address: String| match address.split_once("://") {
        Some((_, bare)) => bare.to_owned(),
        None => address,
    };
    addresses.into_iter().map(bare).collect()
}
