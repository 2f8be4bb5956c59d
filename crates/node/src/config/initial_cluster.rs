//! The members that a cluster begins with, and the ids that every member derives from them alike.

use super::{INITIAL_MEMBERS_MAX, MEMBERS_MAX, address, check_name};
use clocks::NodeId;
use std::collections::BTreeSet;

/// A member of the initial cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InitialMember {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where its peers reach it (`host:port`), unique in the cluster.
    pub address: String,
}

/// What a first start does with the initial cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Nothing was said: the member founds a cluster alone.
    Unsaid,
    /// It founds the cluster together with the others.
    New,
    /// It joins a cluster that exists and has added it, by asking the others.
    Existing,
}

impl ClusterState {
    pub(super) fn of(is_listed: bool, state: Option<&str>) -> Result<ClusterState, String> {
        match state {
            None | Some("new") if is_listed => Ok(ClusterState::New),
            None | Some("new") => Ok(ClusterState::Unsaid),
            Some("existing") if is_listed => Ok(ClusterState::Existing),
            Some("existing") => {
                Err("initial-cluster-state is \"existing\", but initial-cluster is not set: it \
                     says whom to ask"
                    .to_owned())
            }
            Some(other) => {
                Err(format!("initial-cluster-state is {other:?}; it should be new or existing"))
            }
        }
    }
}

/// Who is who: a function of the initial cluster and its token alone, so that members which were
/// given the same settings agree, and those which were not refuse each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// The cluster.
    pub id: u64,
    /// This member.
    pub node: NodeId,
    /// All members, ascending by name.
    pub members: Vec<InitialMember>,
    /// Their ids, in the same order.
    pub ids: Vec<NodeId>,
}

impl ClusterIdentity {
    /// Every member's id and peer address.
    #[must_use]
    pub fn founders(&self) -> Vec<(NodeId, String)> {
        let addresses = self.members.iter().map(|member| member.address.clone());
        self.ids.iter().copied().zip(addresses).collect()
    }

    /// The identity of another cluster with the same members, who all say the same salt.
    pub(crate) fn salted(&self, name: &str, salt: &str) -> Result<ClusterIdentity, String> {
        let salted = |kind, id: u64| stable_hash(&[kind, &format!("{id:016x}"), salt]);
        let ids: Vec<_> =
            self.ids.iter().map(|id| NodeId(salted("restored member", id.0))).collect();
        let own = self.members.iter().position(|member| member.name == name);
        let own = own.ok_or_else(|| format!("initial-cluster does not list {name:?}"))?;
        let distinct: BTreeSet<NodeId> = ids.iter().copied().collect();
        if distinct.len() < ids.len() {
            return Err("two members get the same id; say another token".to_owned());
        }
        let (id, members) = (salted("restored cluster", self.id), self.members.clone());
        Ok(ClusterIdentity { id, node: ids[own], members, ids })
    }

    pub(super) fn derive(
        name: &str,
        mut members: Vec<InitialMember>,
        token: &str,
    ) -> Result<ClusterIdentity, String> {
        members.sort();
        let ids: Vec<NodeId> = members
            .iter()
            .map(|member| NodeId(stable_hash(&["member", token, &member.name, &member.address])))
            .collect();
        let mut parts = vec!["cluster", token];
        for member in &members {
            parts.extend([member.name.as_str(), member.address.as_str()]);
        }
        let distinct: BTreeSet<NodeId> = ids.iter().copied().collect();
        if distinct.len() < ids.len() {
            return Err("two members get the same id; give one another name".to_owned());
        }
        let own = members.iter().position(|member| member.name == name);
        let own = own.ok_or_else(|| format!("initial-cluster does not list {name:?}"))?;
        Ok(ClusterIdentity { id: stable_hash(&parts), node: ids[own], members, ids })
    }
}

/// The members, and where the others reach the one called `name`.
///
/// If there is no list, the member is alone, at the address that it advertises, or listens on.
pub(super) fn members(
    name: &str,
    (list, state): (Option<&str>, ClusterState),
    advertised: Option<&str>,
    listened: Option<&str>,
) -> Result<(Vec<InitialMember>, String), String> {
    let setting = "initial-advertise-peer-urls";
    let advertised = advertised.map(|text| address(setting, text)).transpose()?;
    let Some(list) = list else {
        let own = match (advertised, listened) {
            (Some(advertised), _) => advertised,
            (None, None) => "127.0.0.1:2380".to_owned(),
            (None, Some(listened)) => address("peer", listened.split(',').next().unwrap_or(""))?,
        };
        let member = InitialMember { name: name.to_owned(), address: own.clone() };
        return Ok((vec![member], own));
    };
    let members = parse(list, state)?;
    let own = members.iter().find(|member| member.name == name).ok_or_else(|| {
        format!("initial-cluster does not list this member, {name:?} (set by name)")
    })?;
    let own = own.address.clone();
    match advertised {
        Some(advertised) if advertised != own => Err(format!(
            "initial-cluster has this member, {name:?}, at {own}, but {setting} is {advertised}"
        )),
        _ => Ok((members, own)),
    }
}

/// Reads `name=host:port,…`.
fn parse(list: &str, state: ClusterState) -> Result<Vec<InitialMember>, String> {
    let mut members: Vec<InitialMember> = Vec::new();
    for part in list.split(',') {
        let (name, place) = part.trim().split_once('=').ok_or_else(|| {
            format!("initial-cluster has {part:?}; it should look like name=host:port,…")
        })?;
        check_name(name)?;
        let address = address("initial-cluster", place)?;
        if members.iter().any(|member| member.name == name) {
            return Err(format!("initial-cluster lists {name:?} twice"));
        }
        if members.iter().any(|member| member.address == address) {
            return Err(format!("initial-cluster lists the address {address} twice"));
        }
        members.push(InitialMember { name: name.to_owned(), address });
    }
    let most = match state {
        ClusterState::Existing => MEMBERS_MAX,
        ClusterState::Unsaid | ClusterState::New => INITIAL_MEMBERS_MAX,
    };
    if members.len() > most {
        let listed = members.len();
        return Err(format!("initial-cluster lists {listed} members; at most {most} are possible"));
    }
    Ok(members)
}

/// FNV-1a over the parts and their lengths, then the finalizer of SplitMix64; never zero. Written
/// into data directories through the ids: it must not change.
fn stable_hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        let length = (part.len() as u64).to_be_bytes();
        for byte in length.iter().chain(part.as_bytes()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)).max(1)
}
