//! Member Table: who is to be a member of every group, decided in the consistent core's log.
//!
//! Used by Kafka (KRaft's voter set), CockroachDB (range descriptors) and etcd (its membership
//! store). The groups follow the table (`replica`, membership reconciler). Every check is made when
//! a command is applied, on the state at its position, so that commands that were proposed together
//! cannot both pass a check that only one of them may. Invariants: an id is never used again once
//! it was removed; no two members have a peer address in common; somebody votes.
//! Not here: what only a leader knows, who is active and who is in sync; a leader that objects
//! proposes [`MembershipCommand::Refuse`] under the request's own number instead.

use crate::EngineSnapshot;
use crate::chain_hash::ChainHash;
use crate::command::Member;
use crate::consistent_core::{members, read_member};
use crate::envelope::{
    DecodeError, get_addresses, get_flags, get_member, get_u8, get_u32, get_u64, put_addresses,
    put_count, put_member,
};
use crate::failure::StoreFailure;
use crate::key_layout::{Layout, META_CLUSTER, PREFIX_LENGTH, Space, as_slices};
use crate::limits::{LEARNERS_MAX, MEMBERS_MAX};
use crate::overlay::Overlay;
use crate::reply::{Outcome, StoreError};
use crate::versioned_value::Stop;
use bytes::{BufMut, Bytes, BytesMut};
use clocks::NodeId;
use std::collections::BTreeSet;

/// A change of the member table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipCommand {
    /// Somebody new, with an id that was never used.
    Add {
        /// Its id.
        id: NodeId,
        /// Where its peers will reach it (`host:port`), at least one.
        peer_addresses: Vec<String>,
        /// Whether it only receives the log.
        learner: bool,
    },
    /// A learner votes from now on.
    Promote {
        /// Which.
        id: NodeId,
    },
    /// A member leaves, for ever.
    Remove {
        /// Which.
        id: NodeId,
    },
    /// A member's peers reach it elsewhere; nothing else about it changes.
    Update {
        /// Which.
        id: NodeId,
        /// All of its addresses.
        peer_addresses: Vec<String>,
    },
    /// The founders as settings tell, all voters: completes the table before its first change.
    Found {
        /// With id and peer addresses; who has registered is known already.
        founders: Vec<Member>,
    },
    /// The leader objects to the change asked for under this number.
    Refuse {
        /// Why.
        refusal: MembershipRefusal,
    },
}

/// Why a change of the member table was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MembershipRefusal {
    /// The id is a member's.
    MemberExists = 1,
    /// A peer address is another member's.
    PeerUrlExists = 2,
    /// The id is nobody's.
    MemberNotFound = 3,
    /// The id was a member's, and is never used again.
    MemberRemoved = 4,
    /// Only a learner can be promoted.
    MemberNotLearner = 5,
    /// There are as many learners as may be.
    TooManyLearners = 6,
    /// There are as many members as may be.
    TooManyMembers = 7,
    /// Those of the resulting voters that have ever started would be no majority.
    NotEnoughStarted = 8,
    /// By the leader: the learner lacks too much of some group's log.
    LearnerNotReady = 9,
    /// By the leader: the active ones among the remaining voters would be no majority.
    Unhealthy = 10,
    /// The table has not been founded yet.
    NotFounded = 11,
}

impl MembershipRefusal {
    const ALL: [MembershipRefusal; 11] = [
        MembershipRefusal::MemberExists,
        MembershipRefusal::PeerUrlExists,
        MembershipRefusal::MemberNotFound,
        MembershipRefusal::MemberRemoved,
        MembershipRefusal::MemberNotLearner,
        MembershipRefusal::TooManyLearners,
        MembershipRefusal::TooManyMembers,
        MembershipRefusal::NotEnoughStarted,
        MembershipRefusal::LearnerNotReady,
        MembershipRefusal::Unhealthy,
        MembershipRefusal::NotFounded,
    ];

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Result<MembershipRefusal, DecodeError> {
        let known = MembershipRefusal::ALL.into_iter().find(|refusal| refusal.code() == code);
        known.ok_or(DecodeError("a refusal of a membership change is unknown"))
    }
}

/// A member, and what it is to the groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMember {
    /// Who it is; without name, client URLs and directory id until it has started once.
    pub member: Member,
    /// Whether it only receives the log.
    pub learner: bool,
}

/// Who is to be a member of every group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberTable {
    /// Index of the last change.
    pub changed_at: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who only receives the log.
    pub learners: BTreeSet<NodeId>,
    /// Those of both that have ever started.
    pub started: BTreeSet<NodeId>,
    /// Who was a member and is none any more.
    pub removed: BTreeSet<NodeId>,
}

/// What the state keeps besides the members themselves; there once the table is founded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClusterRecord {
    changed_at: u64,
    learners: BTreeSet<NodeId>,
}

impl ClusterRecord {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(12 + 8 * self.learners.len());
        out.put_u64(self.changed_at);
        put_count(&mut out, self.learners.len());
        self.learners.iter().for_each(|learner| out.put_u64(learner.0));
        out.freeze()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<ClusterRecord, DecodeError> {
        let input = &mut bytes;
        let changed_at = get_u64(input)?;
        let count = get_u32(input)? as usize;
        if count > MEMBERS_MAX {
            return Err(DecodeError("a cluster has too many learners"));
        }
        let learners =
            (0..count).map(|_| Ok(NodeId(get_u64(input)?))).collect::<Result<_, DecodeError>>()?;
        if !bytes.is_empty() {
            return Err(DecodeError("bytes follow the end of the cluster's record"));
        }
        Ok(ClusterRecord { changed_at, learners })
    }
}

/// The table as it stands at one position of the log.
pub(crate) struct Table<'a> {
    overlay: &'a mut Overlay,
    layout: Layout,
    /// `None` before it is founded.
    record: Option<ClusterRecord>,
}

impl Table<'_> {
    pub(crate) fn at(overlay: &mut Overlay, layout: Layout) -> Result<Table<'_>, StoreFailure> {
        let record = read_record(overlay, layout)?;
        Ok(Table { overlay, layout, record })
    }

    pub(crate) fn is_founded(&self) -> bool {
        self.record.is_some()
    }

    /// Runs a command that is applied at `index`.
    pub(crate) fn run(
        &mut self,
        hash: &mut ChainHash,
        index: u64,
        command: &MembershipCommand,
    ) -> Result<Outcome, Stop> {
        match command {
            MembershipCommand::Refuse { refusal } => return Err(refuse(*refusal)),
            MembershipCommand::Found { founders } => {
                if self.record.is_none() {
                    self.found(hash, founders)?;
                }
            }
            _ if self.record.is_none() => return Err(refuse(MembershipRefusal::NotFounded)),
            MembershipCommand::Add { id, peer_addresses, learner } => {
                self.add(hash, *id, peer_addresses, *learner)?;
            }
            MembershipCommand::Promote { id } => self.promote(*id)?,
            MembershipCommand::Remove { id } => self.remove(hash, *id)?,
            MembershipCommand::Update { id, peer_addresses } => {
                self.update(hash, *id, peer_addresses)?;
            }
        }
        let record = self.record.as_mut().expect("whoever got here has founded it");
        record.changed_at = index;
        let record = record.encode();
        hash.note("cluster", &record);
        self.overlay.put(self.layout.meta(META_CLUSTER), record);
        Ok(Outcome::Members(listed(self.overlay, self.layout)?))
    }

    fn found(&mut self, hash: &mut ChainHash, founders: &[Member]) -> Result<(), StoreFailure> {
        for founder in founders {
            if read_member(self.overlay, self.layout, founder.id)?.is_none() {
                self.put(hash, founder);
            }
        }
        self.record = Some(ClusterRecord::default());
        Ok(())
    }

    fn add(
        &mut self,
        hash: &mut ChainHash,
        id: NodeId,
        peer_addresses: &[String],
        learner: bool,
    ) -> Result<(), Stop> {
        if id == NodeId(0) || read_member(self.overlay, self.layout, id)?.is_some() {
            return Err(refuse(MembershipRefusal::MemberExists));
        }
        if is_removed(self.overlay, self.layout, id)? {
            return Err(refuse(MembershipRefusal::MemberRemoved));
        }
        self.check_addresses(id, peer_addresses)?;
        let learners = self.record().learners.len();
        if learner && learners >= LEARNERS_MAX {
            return Err(refuse(MembershipRefusal::TooManyLearners));
        }
        if members(self.overlay, self.layout)?.len() >= MEMBERS_MAX {
            return Err(refuse(MembershipRefusal::TooManyMembers));
        }
        if !learner {
            let (voters, started) = self.count_voters(None)?;
            // With one voter there is no other way than to pass through two.
            let first_of_many = voters == 1 && started == 1;
            self.check_started(voters + 1, started, first_of_many)?;
        }
        let peer_addresses = peer_addresses.to_vec();
        self.put(hash, &Member { id, peer_addresses, ..Member::default() });
        if learner {
            self.record().learners.insert(id);
        }
        Ok(())
    }

    fn promote(&mut self, id: NodeId) -> Result<(), Stop> {
        self.known(id)?;
        if !self.record().learners.contains(&id) {
            return Err(refuse(MembershipRefusal::MemberNotLearner));
        }
        let (voters, started) = self.count_voters(None)?;
        // The leader has found it in sync, so it has started.
        self.check_started(voters + 1, started + 1, false)?;
        self.record().learners.remove(&id);
        Ok(())
    }

    fn remove(&mut self, hash: &mut ChainHash, id: NodeId) -> Result<(), Stop> {
        self.known(id)?;
        if !self.record().learners.contains(&id) {
            let (voters, started) = self.count_voters(Some(id))?;
            self.check_started(voters, started, false)?;
        }
        self.record().learners.remove(&id);
        self.overlay.delete(self.layout.member(id.0));
        self.overlay.put(self.layout.removed_member(id.0), Bytes::new());
        hash.note("removed member", &id.0.to_be_bytes());
        Ok(())
    }

    fn update(
        &mut self,
        hash: &mut ChainHash,
        id: NodeId,
        peer_addresses: &[String],
    ) -> Result<(), Stop> {
        let member = self.known(id)?;
        self.check_addresses(id, peer_addresses)?;
        self.put(hash, &Member { peer_addresses: peer_addresses.to_vec(), ..member });
        Ok(())
    }

    fn record(&mut self) -> &mut ClusterRecord {
        self.record.as_mut().expect("only a founded table changes")
    }

    fn put(&mut self, hash: &mut ChainHash, member: &Member) {
        let mut record = BytesMut::new();
        put_member(&mut record, member);
        let record = record.freeze();
        hash.note("member", &record);
        self.overlay.put(self.layout.member(member.id.0), record);
    }

    /// The member of that id.
    pub(crate) fn known(&self, id: NodeId) -> Result<Member, Stop> {
        if let Some(member) = read_member(self.overlay, self.layout, id)? {
            return Ok(member);
        }
        let removed = is_removed(self.overlay, self.layout, id)?;
        Err(refuse(match removed {
            true => MembershipRefusal::MemberRemoved,
            false => MembershipRefusal::MemberNotFound,
        }))
    }

    fn check_addresses(&self, id: NodeId, peer_addresses: &[String]) -> Result<(), Stop> {
        let others = members(self.overlay, self.layout)?;
        let taken = others.iter().any(|other| {
            other.id != id && other.peer_addresses.iter().any(|used| peer_addresses.contains(used))
        });
        if taken { Err(refuse(MembershipRefusal::PeerUrlExists)) } else { Ok(()) }
    }

    /// How many voters there are besides `without`, and how many of them have ever started.
    fn count_voters(&self, without: Option<NodeId>) -> Result<(usize, usize), StoreFailure> {
        let learners = self.record.as_ref().map(|record| &record.learners);
        let is_voter = |member: &&Member| {
            Some(member.id) != without && learners.is_none_or(|set| !set.contains(&member.id))
        };
        let members = members(self.overlay, self.layout)?;
        let voters: Vec<&Member> = members.iter().filter(is_voter).collect();
        let started = voters.iter().filter(|voter| voter.directory_id != 0).count();
        Ok((voters.len(), started))
    }

    fn check_started(&self, voters: usize, started: usize, excused: bool) -> Result<(), Stop> {
        if excused || started > voters / 2 {
            return Ok(());
        }
        Err(refuse(MembershipRefusal::NotEnoughStarted))
    }
}

fn refuse(refusal: MembershipRefusal) -> Stop {
    StoreError::Membership(refusal).into()
}

fn read_record(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
) -> Result<Option<ClusterRecord>, StoreFailure> {
    let found = snapshot.get(&layout.meta(META_CLUSTER))?;
    let decoded = found.map(ClusterRecord::decode).transpose();
    decoded.map_err(|_| StoreFailure::CorruptState { group: layout.group, record: "the cluster" })
}

/// Whether the id was a member's and is none any more.
pub(crate) fn is_removed(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
    id: NodeId,
) -> Result<bool, StoreFailure> {
    Ok(snapshot.get(&layout.removed_member(id.0))?.is_some())
}

/// Every member and its role, ascending by id.
pub(crate) fn listed(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
) -> Result<Vec<ListedMember>, StoreFailure> {
    let record = read_record(snapshot, layout)?.unwrap_or_default();
    let listed =
        |member: Member| ListedMember { learner: record.learners.contains(&member.id), member };
    Ok(members(snapshot, layout)?.into_iter().map(listed).collect())
}

/// The table; `None` before it is founded, when the founders are the members.
pub(crate) fn read_table(
    snapshot: &dyn EngineSnapshot,
    layout: Layout,
) -> Result<Option<MemberTable>, StoreFailure> {
    let Some(record) = read_record(snapshot, layout)? else { return Ok(None) };
    let members = members(snapshot, layout)?;
    let started = members.iter().filter(|member| member.directory_id != 0);
    let started = started.map(|member| member.id).collect();
    let ids = members.iter().map(|member| member.id);
    let (learners, voters) = ids.partition(|id| record.learners.contains(id));
    let bounds = layout.space_bounds(Space::RemovedMembers);
    let (from, to) = as_slices(&bounds);
    let corrupt = StoreFailure::CorruptState { group: layout.group, record: "a removed member" };
    let mut removed = BTreeSet::new();
    for pair in snapshot.scan(from, to) {
        let id = parse_removed_key(&pair?.0[PREFIX_LENGTH..]).ok_or(corrupt.clone())?;
        removed.insert(id);
    }
    Ok(Some(MemberTable { changed_at: record.changed_at, voters, learners, started, removed }))
}

/// Reads the id from what follows the prefix of a key of the removed members.
pub(crate) fn parse_removed_key(name: &[u8]) -> Option<NodeId> {
    Some(NodeId(u64::from_be_bytes(name.try_into().ok()?)))
}

const ADD: u8 = 40;
const PROMOTE: u8 = 41;
const REMOVE: u8 = 42;
const UPDATE: u8 = 43;
const FOUND: u8 = 44;
const REFUSE: u8 = 45;

/// The kinds of these commands in an envelope; 46 and 47 are kept for later ones.
pub(crate) const KINDS: std::ops::RangeInclusive<u8> = ADD..=REFUSE;

impl MembershipCommand {
    pub(crate) fn weight(&self) -> usize {
        let addresses = |addresses: &[String]| -> usize {
            addresses.iter().map(|address| 4 + address.len()).sum()
        };
        match self {
            MembershipCommand::Add { peer_addresses, .. }
            | MembershipCommand::Update { peer_addresses, .. } => addresses(peer_addresses),
            MembershipCommand::Found { founders } => {
                founders.iter().map(|founder| 64 + addresses(&founder.peer_addresses)).sum()
            }
            MembershipCommand::Promote { .. }
            | MembershipCommand::Remove { .. }
            | MembershipCommand::Refuse { .. } => 0,
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        match self {
            MembershipCommand::Add { id, peer_addresses, learner } => {
                out.put_u8(ADD);
                out.put_u64(id.0);
                out.put_u8(u8::from(*learner));
                put_addresses(out, peer_addresses);
            }
            MembershipCommand::Promote { id } => {
                out.put_u8(PROMOTE);
                out.put_u64(id.0);
            }
            MembershipCommand::Remove { id } => {
                out.put_u8(REMOVE);
                out.put_u64(id.0);
            }
            MembershipCommand::Update { id, peer_addresses } => {
                out.put_u8(UPDATE);
                out.put_u64(id.0);
                put_addresses(out, peer_addresses);
            }
            MembershipCommand::Found { founders } => {
                out.put_u8(FOUND);
                put_count(out, founders.len());
                founders.iter().for_each(|founder| put_member(out, founder));
            }
            MembershipCommand::Refuse { refusal } => {
                out.put_u8(REFUSE);
                out.put_u8(refusal.code());
            }
        }
    }

    /// Reads what follows a kind of [`KINDS`].
    pub(crate) fn decode(kind: u8, input: &mut Bytes) -> Result<MembershipCommand, DecodeError> {
        let mut id = || Ok(NodeId(get_u64(input)?));
        Ok(match kind {
            ADD => {
                let id = id()?;
                let learner = get_flags(input, 0b1)? != 0;
                MembershipCommand::Add { id, peer_addresses: get_addresses(input)?, learner }
            }
            PROMOTE => MembershipCommand::Promote { id: id()? },
            REMOVE => MembershipCommand::Remove { id: id()? },
            UPDATE => {
                let id = id()?;
                MembershipCommand::Update { id, peer_addresses: get_addresses(input)? }
            }
            FOUND => {
                let count = get_u32(input)? as usize;
                if count > MEMBERS_MAX {
                    return Err(DecodeError("a cluster has too many founders"));
                }
                let founders = (0..count).map(|_| get_member(input)).collect::<Result<_, _>>()?;
                MembershipCommand::Found { founders }
            }
            REFUSE => {
                MembershipCommand::Refuse { refusal: MembershipRefusal::from_code(get_u8(input)?)? }
            }
            _ => return Err(DecodeError("its command is unknown")),
        })
    }
}
