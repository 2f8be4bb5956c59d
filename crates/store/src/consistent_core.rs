//! Consistent Core: the small group that knows who the members are and what all of them speak.
//!
//! Used by Kafka (KRaft controller), CockroachDB (liveness and gossip of node descriptors), and
//! HDFS and Kubernetes by way of ZooKeeper and etcd. Invariant: the feature level never falls, and
//! is never above what every registered member speaks when it rises; a member's directory id, once
//! known, never changes, so that an empty directory under a known id is noticed.

use crate::EngineSnapshot;
use crate::chain_hash::ChainHash;
use crate::command::Member;
use crate::envelope::{get_member, put_member};
use crate::failure::StoreFailure;
use crate::key_layout::{Layout, Space, StateRecord, as_slices};
use crate::member_table::Table;
use crate::overlay::Overlay;
use crate::reply::StoreError;
use crate::versioned_value::Stop;
use bytes::{Bytes, BytesMut};
use clocks::NodeId;

/// Takes note of what a member says of itself.
pub(crate) fn register(
    overlay: &mut Overlay,
    layout: Layout,
    hash: &mut ChainHash,
    member: &Member,
) -> Result<(), Stop> {
    let known = read_member(overlay, layout, member.id)?;
    if let Some(known) = &known
        && known.directory_id != 0
        && known.directory_id != member.directory_id
    {
        return Err(StoreError::ForeignDirectory.into());
    }
    let mut member = member.clone();
    let table = Table::at(overlay, layout)?;
    if table.is_founded() {
        // Who is a member, and where its peers find it, is the table's to say.
        member.peer_addresses = table.known(member.id)?.peer_addresses;
    }
    let mut record = BytesMut::new();
    put_member(&mut record, &member);
    let record = record.freeze();
    hash.note("member", &record);
    overlay.put(layout.member(member.id.0), record);
    Ok(())
}

/// Raises the feature level as far as every member speaks it that has started; whoever starts later
/// and does not is refused.
pub(crate) fn raise_feature_level(
    overlay: &Overlay,
    layout: Layout,
    hash: &mut ChainHash,
    state: &mut StateRecord,
    level: u32,
) -> Result<(), StoreFailure> {
    let members = members(overlay, layout)?;
    let spoken = members
        .iter()
        .map(|member| member.feature_level)
        .filter(|&level| level > 0)
        .min()
        .unwrap_or(0);
    state.feature_level = state.feature_level.max(level.min(spoken));
    hash.note("feature level", &state.feature_level.to_be_bytes());
    Ok(())
}

/// Every member, ascending by id.
pub(crate) fn members(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
) -> Result<Vec<Member>, StoreFailure> {
    let bounds = layout.space_bounds(Space::Members);
    let (from, to) = as_slices(&bounds);
    snapshot.scan(from, to).map(|pair| decode(layout, pair?.1)).collect()
}

pub(crate) fn read_member(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
    id: NodeId,
) -> Result<Option<Member>, StoreFailure> {
    snapshot.get(&layout.member(id.0))?.map(|record| decode(layout, record)).transpose()
}

fn decode(layout: Layout, mut record: Bytes) -> Result<Member, StoreFailure> {
    get_member(&mut record)
        .map_err(|_| StoreFailure::CorruptState { group: layout.group, record: "a member" })
}
