//! Small clusters under random faults: messages lost, repeated and reordered, members crashed,
//! paused and cut off, clocks drifting within the bound, memberships changing. From outside it is
//! checked that a term has one leader, that logs match, that a leader holds everything committed,
//! that nothing committed is ever lost, and that no read misses a write acknowledged before it.

use crate::host::{Host, messages};
use bytes::Bytes;
use clocks::{GroupId, LogIndex, LogPosition, Monotonic, NodeId, Term};
use consensus::{
    Config, Effect, Entry, LeaseMode, Membership, MembershipChange, Message, ReadToken, Role,
    SnapshotRead,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const MILLI: u64 = 1_000_000;
const NODES: u64 = 5;

struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = self.0 ^ (self.0 >> 33);
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) ^ (x >> 29)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

enum Event {
    Deliver(Message),
    Written {
        node: NodeId,
        start: u64,
    },
    LogRead {
        node: NodeId,
        start: u64,
        peer: NodeId,
        from: LogIndex,
        max_bytes: usize,
    },
    SnapshotRead {
        node: NodeId,
        start: u64,
        peer: NodeId,
        read: SnapshotRead,
    },
    SnapshotWritten {
        node: NodeId,
        start: u64,
        position: LogPosition,
        membership: Membership,
        chunk: u64,
        done: bool,
    },
    Resume(NodeId),
    Restart(NodeId),
}

struct Member {
    host: Host,
    /// Counts starts; events of an earlier one are dropped.
    start: u64,
    up: bool,
    paused: bool,
    /// Events that arrived while paused.
    missed: Vec<Event>,
    /// Rate of its clock, in parts per million from true time.
    drift_ppm: i64,
    /// Part of its log was lost at some time (looked at first, as it is cheap).
    damaged: bool,
}

struct World {
    seed: u64,
    random: Random,
    now: u64,
    sequence: u64,
    events: BTreeMap<(u64, u64), Event>,
    members: BTreeMap<NodeId, Member>,
    /// Pairs that cannot talk, by direction.
    cut: BTreeSet<(NodeId, NodeId)>,
    faults: bool,
    loss_percent: u64,
    slowest_write: u64,
    /// Logs get lost; then voters do not change, as a quorum might be asked for that is not there.
    rot: bool,
    committed: Vec<Entry>,
    /// A term by which the entry in the same place was committed.
    committed_by: Vec<Term>,
    leaders: BTreeMap<Term, NodeId>,
    reads: BTreeMap<u64, LogIndex>,
    reads_done: u64,
    damages: u64,
    proposals: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        random.draw();
        let rot = random.chance(30);
        let founders = if rot { 3 + random.below(NODES - 2) } else { 1 + random.below(NODES) };
        let founders = Membership::of_voters((1..=founders).map(NodeId));
        let lease = random.chance(70);
        let members = (1..=NODES)
            .map(|id| {
                let node = NodeId(id);
                let mut config = Config::new(node, GroupId(3));
                config.lease =
                    if lease { LeaseMode::For(Duration::from_millis(200)) } else { LeaseMode::Off };
                // Small limits on purpose.
                config.cache_bytes = 200 + random.below(800) as usize;
                config.max_append_bytes = 100 + random.below(400) as usize;
                config.max_append_entries = 1 + random.below(8) as usize;
                config.max_inflight_messages = 1 + random.below(6) as usize;
                config.max_inflight_bytes = config.max_append_bytes * 2;
                config.max_uncommitted_bytes = 4000;
                config.clock_bound.drift_ppm = 1000;
                let known =
                    if founders.is_voter(node) { founders.clone() } else { Membership::default() };
                let host = Host::new(config, known, Monotonic(0), random.draw());
                let drift_ppm = random.below(2001) as i64 - 1000;
                let missed = Vec::new();
                let (start, up, paused, damaged) = (0, true, false, false);
                (node, Member { host, start, up, paused, missed, drift_ppm, damaged })
            })
            .collect();
        let loss_percent = random.below(20);
        let slowest_write = [3 * MILLI, 30 * MILLI, 200 * MILLI][random.below(3) as usize];
        World {
            seed,
            random,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            members,
            cut: BTreeSet::new(),
            faults: true,
            loss_percent,
            slowest_write,
            rot,
            committed: Vec::new(),
            committed_by: Vec::new(),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            reads_done: 0,
            damages: 0,
            proposals: 0,
        }
    }

    fn local(&self, node: NodeId) -> Monotonic {
        let ppm = self.members[&node].drift_ppm;
        Monotonic((i128::from(self.now) * i128::from(1_000_000 + ppm) / 1_000_000) as u64)
    }

    /// True time at which `node`'s clock has reached `local`.
    fn global(&self, node: NodeId, local: Monotonic) -> u64 {
        let ppm = self.members[&node].drift_ppm;
        (i128::from(local.0) * 1_000_000 / i128::from(1_000_000 + ppm)) as u64 + 1
    }

    fn schedule(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    fn run_until(&mut self, end: u64) {
        while self.now < end {
            let woken = self
                .members
                .iter()
                .filter(|(_, member)| member.up && !member.paused)
                .filter_map(|(node, member)| {
                    let deadline = member.host.raft.deadline()?;
                    Some((self.global(*node, deadline).max(self.now), *node))
                })
                .min();
            let event = self.events.first_key_value().map(|(key, _)| key.0);
            let next_event = event.unwrap_or(u64::MAX);
            match woken {
                Some((at, node)) if at <= next_event => {
                    self.now = at;
                    let now = self.local(node);
                    self.members.get_mut(&node).unwrap().host.raft.handle_deadline(now);
                    self.drain(node);
                }
                _ => {
                    let Some((key, event)) = self.events.pop_first() else { return };
                    self.now = key.0;
                    self.handle(event);
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let (node, start) = match &event {
            Event::Restart(node) => {
                let node = *node;
                return self.restart(node);
            }
            Event::Resume(node) => {
                let node = *node;
                return self.resume(node);
            }
            Event::Deliver(message) => (message.to, None),
            Event::Written { node, start }
            | Event::LogRead { node, start, .. }
            | Event::SnapshotRead { node, start, .. }
            | Event::SnapshotWritten { node, start, .. } => (*node, Some(*start)),
        };
        let now = self.local(node);
        let Some(member) = self.members.get_mut(&node) else { return };
        if !member.up || start.is_some_and(|start| start != member.start) {
            return;
        }
        if member.paused {
            return member.missed.push(event);
        }
        match event {
            Event::Deliver(message) => member.host.raft.handle_message(now, message),
            Event::Written { .. } => {
                member.host.complete_write(now);
            }
            Event::LogRead { peer, from, max_bytes, .. } => {
                let entries = member.host.read_log(from, max_bytes);
                member.host.raft.handle_log_read(now, peer, entries);
            }
            Event::SnapshotRead { peer, read, .. } => {
                member.host.raft.handle_snapshot_read(now, peer, read);
            }
            Event::SnapshotWritten { position, membership, chunk, done, .. } => {
                member.host.write_snapshot(position, membership.clone(), done);
                member.host.raft.handle_snapshot_written(now, position, membership, chunk, done);
            }
            Event::Restart(_) | Event::Resume(_) => unreachable!("handled above"),
        }
        self.drain(node);
    }

    fn drain(&mut self, node: NodeId) {
        let now = self.local(node);
        let member = self.members.get_mut(&node).unwrap();
        let start = member.start;
        let writes_before = member.host.writing.len();
        let effects = member.host.flush(now);
        let writes = member.host.writing.len() - writes_before;
        let applied = member.host.apply(64 + node.0 as usize * 40);
        self.check_applied(node, applied);
        for _ in 0..writes {
            // In order, since completions take the oldest.
            let delay = self.random.below(self.slowest_write);
            self.schedule(delay, Event::Written { node, start });
        }
        let (messages, others) = messages(effects);
        for message in messages {
            self.send(message);
        }
        for effect in others {
            self.carry_out(node, start, effect);
        }
    }

    fn send(&mut self, message: Message) {
        let lost = self.cut.contains(&(message.from, message.to))
            || (self.faults && self.random.chance(self.loss_percent));
        let copies = if lost {
            0
        } else if self.faults && self.random.chance(5) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let slow = self.faults && self.random.chance(2);
            let delay = self.random.below(if slow { 900 * MILLI } else { 2 * MILLI });
            self.schedule(delay, Event::Deliver(message.clone()));
        }
    }

    fn carry_out(&mut self, node: NodeId, start: u64, effect: Effect) {
        let delay = self.random.below(5 * MILLI);
        match effect {
            Effect::Send(_) | Effect::Persist(_) => unreachable!("taken before"),
            Effect::Committed(_) | Effect::MembershipChanged(_) => {}
            Effect::ReadReady { token, index } => {
                let at_least = self.reads.remove(&token.0).expect("every read is answered once");
                assert!(index >= at_least, "seed {}: a stale read at {node}", self.seed);
                self.reads_done += 1;
            }
            Effect::ReadRefused { token } => {
                assert!(self.reads.remove(&token.0).is_some(), "every read is answered once");
            }
            Effect::ReadLog { peer, from, max_bytes } => {
                self.schedule(delay, Event::LogRead { node, start, peer, from, max_bytes });
            }
            Effect::ReadSnapshot { peer, position, chunk } => {
                let host = &mut self.members.get_mut(&node).unwrap().host;
                let read = host.read_snapshot(peer, position, chunk);
                self.schedule(delay, Event::SnapshotRead { node, start, peer, read });
            }
            Effect::WriteSnapshot { position, membership, chunk, done, .. } => {
                let event =
                    Event::SnapshotWritten { node, start, position, membership, chunk, done };
                self.schedule(delay, event);
            }
            Effect::Contradicted { index } => {
                panic!("seed {}: {node} was contradicted at {index}", self.seed)
            }
            Effect::RoleChanged { role, term, .. } => {
                if role == Role::Leader {
                    self.check_leader(node, term);
                }
            }
        }
    }

    fn check_leader(&mut self, node: NodeId, term: Term) {
        let earlier = self.leaders.insert(term, node);
        let seed = self.seed;
        assert!(earlier.is_none_or(|other| other == node), "seed {seed}: two leaders in {term}");
        let raft = &self.members[&node].host.raft;
        // A leader elected by votes that were long on their way need not hold what later ones did.
        for (entry, by) in self.committed.iter().zip(&self.committed_by) {
            if *by < term && entry.position.index >= raft.first_index() {
                let held = raft.position_at(entry.position.index);
                let position = entry.position;
                assert_eq!(held, Some(position), "seed {seed}: the leader of {term} lacks it");
            }
        }
    }

    fn check_applied(&mut self, node: NodeId, applied: Vec<Entry>) {
        for entry in applied {
            let place = entry.position.index as usize - 1;
            assert!(place <= self.committed.len(), "a member applies what nobody committed before");
            if place == self.committed.len() {
                self.committed.push(entry);
                self.committed_by.push(self.members[&node].host.raft.term());
            } else {
                let agreed = &self.committed[place];
                assert_eq!(agreed, &entry, "seed {}: {node} applied something else", self.seed);
            }
        }
        let state = &self.members[&node].host.applied;
        if state.position.index > 0 {
            let agreed = &self.committed[state.position.index as usize - 1];
            assert_eq!(agreed.position, state.position, "seed {}: other state", self.seed);
        }
    }

    /// If two logs hold the same entry, everything before is the same (Raft, figure 3).
    fn check_logs_match(&self) {
        let rafts: Vec<_> = self.members.values().map(|member| &member.host.raft).collect();
        for (at, a) in rafts.iter().enumerate() {
            for b in &rafts[at + 1..] {
                let first = a.first_index().max(b.first_index());
                let last = a.last_position().index.min(b.last_position().index);
                let mut meet = false;
                for index in (first..=last).rev() {
                    let equal = a.position_at(index) == b.position_at(index);
                    assert!(equal || !meet, "seed {}: logs differ below {index}", self.seed);
                    meet |= equal;
                }
            }
        }
    }

    fn crash(&mut self, node: NodeId) {
        let member = self.members.get_mut(&node).unwrap();
        if !member.up {
            return;
        }
        member.up = false;
        member.paused = false;
        member.missed.clear();
        let down = self.random.below(3000 * MILLI);
        self.schedule(down, Event::Restart(node));
        self.close_connections(node);
    }

    fn close_connections(&mut self, node: NodeId) {
        let now: Vec<_> = self.members.keys().map(|peer| (*peer, self.local(*peer))).collect();
        for (peer, now) in now {
            let member = self.members.get_mut(&peer).unwrap();
            if member.up && !member.paused && self.random.chance(80) {
                member.host.raft.handle_peer_disconnected(now, node);
                self.drain(peer);
            }
        }
    }

    fn restart(&mut self, node: NodeId) {
        let now = self.local(node);
        let survivors = self.random.below(6) as usize;
        let (seed, lost) = (self.random.draw(), self.random.draw());
        // At most one at a time, in groups that tolerate it.
        let others_whole = self
            .members
            .iter()
            .all(|(other, member)| *other == node || !(member.damaged && member.host.is_damaged()));
        let damage = self.rot && self.faults && others_whole && self.random.chance(15);
        let Some(member) = self.members.get_mut(&node) else { return };
        if member.up {
            return;
        }
        if damage {
            let index = member.host.raft.first_index() + lost % 20;
            member.host.lose_log_after(index.max(member.host.flushed.position.index));
            member.damaged = true;
            self.damages += 1;
        }
        member.up = true;
        member.start += 1;
        member.host.restart(now, seed, survivors);
        self.reads.retain(|token, _| token % 16 != node.0);
        self.drain(node);
        let peers: Vec<_> = self.members.keys().filter(|peer| **peer != node).copied().collect();
        for peer in peers {
            let now = self.local(peer);
            let member = self.members.get_mut(&peer).unwrap();
            if member.up && !member.paused {
                member.host.raft.handle_peer_connected(now, node);
                self.drain(peer);
            }
        }
    }

    fn resume(&mut self, node: NodeId) {
        let Some(member) = self.members.get_mut(&node) else { return };
        if !member.paused {
            return;
        }
        member.paused = false;
        for event in std::mem::take(&mut member.missed) {
            self.handle(event);
        }
    }

    fn client_step(&mut self) {
        let node = NodeId(1 + self.random.below(NODES));
        let (token, draw) = (self.random.draw() / 16 * 16 + node.0, self.random.below(100));
        let now = self.local(node);
        let acknowledged = self.committed.len() as LogIndex;
        let size = 1 + self.random.below(40) as usize;
        let Some(member) = self.members.get_mut(&node) else { return };
        if !member.up || member.paused {
            return;
        }
        let host = &mut member.host;
        if draw < 40 {
            self.proposals += 1;
            let mut command = self.proposals.to_be_bytes().to_vec();
            command.resize(8 + size, 0);
            // Refusals are part of the play.
            let _ = host.raft.propose(now, vec![Bytes::from(command)]);
        } else if draw < 80 {
            if host.raft.read_index(now, ReadToken(token)).is_ok() {
                self.reads.insert(token, acknowledged);
            }
        } else if draw < 86 {
            host.flushed = host.applied.clone();
        } else if draw < 90 {
            host.raft.compact_log(host.flushed.position);
        }
        self.drain(node);
    }

    fn admin_step(&mut self) {
        let voters: BTreeSet<NodeId> =
            (1..=NODES).map(NodeId).filter(|_| self.random.chance(60)).collect();
        let learners: BTreeSet<NodeId> = (1..=NODES)
            .map(NodeId)
            .filter(|node| !voters.contains(node) && self.random.chance(50))
            .collect();
        let target = NodeId(1 + self.random.below(NODES));
        let transfer = self.random.chance(50) || self.rot;
        for node in (1..=NODES).map(NodeId) {
            let now = self.local(node);
            let member = self.members.get_mut(&node).unwrap();
            if !member.up || member.paused || member.host.raft.role() != Role::Leader {
                continue;
            }
            if transfer {
                let _ = member.host.raft.transfer_leadership(now, target);
            } else {
                let change =
                    MembershipChange { voters: voters.clone(), learners: learners.clone() };
                let _ = member.host.raft.propose_membership(now, change);
            }
            self.drain(node);
        }
    }

    fn fault_step(&mut self) {
        let node = NodeId(1 + self.random.below(NODES));
        match self.random.below(16) {
            // Cut off, and everybody's connections to it close.
            12.. => {
                self.cut.clear();
                for peer in (1..=NODES).map(NodeId).filter(|peer| *peer != node) {
                    self.cut.extend([(node, peer), (peer, node)]);
                }
                self.close_connections(node);
            }
            0..3 => self.crash(node),
            // The power fails.
            10 => (1..=NODES).for_each(|node| self.crash(NodeId(node))),
            3..5 => {
                let member = self.members.get_mut(&node).unwrap();
                if member.up && !member.paused {
                    member.paused = true;
                    let pause = self.random.below(2500 * MILLI);
                    self.schedule(pause, Event::Resume(node));
                }
            }
            5..8 => {
                self.cut.clear();
                for a in (1..=NODES).map(NodeId) {
                    for b in (1..=NODES).map(NodeId) {
                        if self.random.chance(20) {
                            self.cut.insert((a, b));
                        }
                    }
                }
            }
            _ => self.cut.clear(),
        }
    }

    fn heal(&mut self) {
        self.faults = false;
        self.cut.clear();
        for node in (1..=NODES).map(NodeId) {
            self.resume(node);
            self.restart(node);
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let leads = |member: &&Member| member.host.raft.role() == Role::Leader;
        let leaders = self.members.values().filter(leads);
        leaders.max_by_key(|member| member.host.raft.term()).map(|m| m.host.raft.node())
    }

    fn describe(&self) -> String {
        let describe = |member: &Member| {
            let raft = &member.host.raft;
            let (role, term, membership) = (raft.role(), raft.term(), raft.membership());
            let (first, committed, last) =
                (raft.first_index(), raft.committed(), raft.last_position());
            let damaged = member.host.is_damaged();
            let damaged = if damaged { " damaged" } else { "" };
            let (node, progress) = (raft.node(), raft.progress());
            let log = format!("{first}..{committed}..{last}");
            format!("{node} {role:?} in {term}{damaged}, log {log}, {membership:?} {progress:?}\n")
        };
        self.members.values().map(describe).collect()
    }

    /// Safety phase, then liveness phase.
    fn play(&mut self) {
        for step in 0..1500 {
            self.client_step();
            if self.random.chance(3) {
                self.fault_step();
            }
            if self.random.chance(2) {
                self.admin_step();
            }
            if step % 20 == 0 {
                self.check_logs_match();
            }
            let pause = self.random.below(30 * MILLI);
            self.run_until(self.now + pause);
        }
        self.heal();
        self.run_until(self.now + 10_000 * MILLI);
        let nobody = || panic!("seed {}: no leader\n{}", self.seed, self.describe());
        let leader = self.leader().unwrap_or_else(nobody);
        let now = self.local(leader);
        let raft = &mut self.members.get_mut(&leader).unwrap().host.raft;
        let proposed = raft.propose(now, vec![Bytes::from_static(b"the end")]);
        let position = proposed.unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        self.drain(leader);
        self.run_until(self.now + 3_000 * MILLI);
        assert_eq!(self.leader(), Some(leader), "seed {}: leadership is not stable", self.seed);
        let membership = self.members[&leader].host.raft.membership().clone();
        for node in membership.members() {
            let applied = self.members[&node].host.applied.position;
            let seed = self.seed;
            assert!(applied >= position, "seed {seed}: {node} is behind\n{}", self.describe());
        }
        self.check_logs_match();
        assert!(self.reads.is_empty(), "seed {}: a read was never answered", self.seed);
    }
}

#[test]
fn random_faults_break_no_promise() {
    // For longer searches: SEED=1000 SEEDS=5000 cargo test ...
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let from = option_env!("SEED").map_or(0, number);
    let count = option_env!("SEEDS").map_or(200, number);
    let (mut committed, mut reads, mut terms, mut damages) = (0, 0, 0, 0);
    for seed in from..from + count {
        let mut world = World::new(seed);
        world.play();
        committed += world.committed.len();
        reads += world.reads_done;
        terms += world.leaders.len();
        damages += world.damages;
    }
    println!(
        "{count} seeds: {committed} entries, {reads} reads, {terms} leaderships, {damages} damages"
    );
    assert!(committed as u64 > count * 50, "a play in which nothing happens checks nothing");
    assert!(reads > count * 50, "reads are answered");
    assert!(terms as u64 > count * 2, "leaders change");
    assert!(damages >= count / 10, "logs get lost");
}

#[test]
fn a_seed_plays_the_same_twice() {
    let play = || {
        let mut world = World::new(7);
        world.play();
        (world.committed, world.leaders, world.sequence)
    };
    assert!(play() == play());
}
