//! What is known of other members: first by the consistent core, else by the data directory, which
//! remembers whom this member knew when it was made.

use crate::NodeHandle;
use crate::directory_identity::KnownMember;
use crate::peers::{BoxFuture, MemberDirectory};
use clocks::{GroupId, NodeId};
use std::time::Duration;
use store::command::Member;
use store::{ListedMember, Reader};
use wire::peer::DiscoveredMember;

/// How long a leader may take to say what was acknowledged: less than a handshake takes.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct ConsistentCoreDirectory {
    pub(super) handle: NodeHandle,
    pub(super) known: Vec<KnownMember>,
}

impl ConsistentCoreDirectory {
    fn reader(&self) -> Option<Reader> {
        // An engine that fails stops the node through the applier.
        self.handle.reader(GroupId::CONSISTENT_CORE).ok()
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

    fn settle(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let barrier = self.handle.read_barrier(GroupId::CONSISTENT_CORE, SETTLE_TIMEOUT).await;
            barrier.map_err(|error| format!("it cannot say who the members are: {error}"))
        })
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
