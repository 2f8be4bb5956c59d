//! Runs the stories of `testscripts/<pattern>/<story>`: members 1, 2, ... whose messages, writes
//! and clocks move only when the script says so, and what they say to each other.
//!
//! Commands (members by number, times in milliseconds):
//! - `cluster voters=1-2-3 [learners=4] [lease=off|200] [cache=BYTES] [window=MESSAGES]
//!   [window_bytes=BYTES] [append=ENTRIES]` founds a group
//! - `join 4` adds a member that knows nobody
//! - `next 1` moves time to 1's next deadline and wakes only 1; `campaign 1` does so until 1
//!   becomes a candidate of either kind
//! - `tick 100` moves time and wakes everybody who is due; `pause 100` moves time only
//! - `wake 1` wakes one member if it is due
//! - `propose 1 a b`, `read 1 7 8`, `change 1 voters=1-2 [learners=3]`, `transfer 1 2`
//! - `stabilize [among=1-2]` completes writes and delivers messages (between those members; the
//!   others' stay on the way) until nothing moves; `run 100` ticks and stabilizes every millisecond
//! - `deliver [from=1] [to=2] [kind=Append] [count=1]` delivers those, in order; `drop` loses them;
//!   `copy` delivers them and leaves a copy on the way; `last` takes the latest first
//! - `stall 1` keeps 1's writes from completing until `sync 1 [count=1]` or `unstall 1`
//! - `crash 1`, `restart 1`, `connect 1 2`, `disconnect 1 2` (1 notices), `rot 1 after=3`
//! - `flush_state 1`, `compact 1 [through=3]` (else all that is flushed), `answer 1` reads and
//!   writes of logs and snapshots that wait (kept back after `slow 1`)
//! - `cut 3` loses everything from and to 3, until `heal 3`
//! - `status` and `peers 1` print where they stand, `way` what is on the way

use crate::host::{Host, messages};
use bytes::Bytes;
use clocks::{GroupId, Monotonic, NodeId};
use consensus::{
    Body, Config, Effect, Entry, LeaseMode, Membership, MembershipChange, Message, Payload,
    ReadToken, Role,
};
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Outcome = Result<String, Box<dyn Error>>;

struct Member {
    host: Host,
    up: bool,
    stalled: bool,
    slow: bool,
    /// Reads and writes of logs and snapshots to be answered.
    unanswered: Vec<Effect>,
}

#[derive(Default)]
struct Story {
    now: u64,
    seed: u64,
    template: Option<Config>,
    members: BTreeMap<NodeId, Member>,
    on_the_way: Vec<Message>,
    cut: BTreeSet<NodeId>,
    output: String,
}

/// Which messages a command is about.
struct Selection {
    from: Option<NodeId>,
    to: Option<NodeId>,
    kind: Option<String>,
    count: usize,
    latest_first: bool,
}

fn node(text: &str) -> Result<NodeId, Box<dyn Error>> {
    Ok(NodeId(text.parse()?))
}

fn nodes(text: Option<&str>) -> Result<BTreeSet<NodeId>, Box<dyn Error>> {
    text.unwrap_or_default().split('-').filter(|part| !part.is_empty()).map(node).collect()
}

fn next_node(args: &mut ArgumentConsumer<'_>) -> Result<NodeId, Box<dyn Error>> {
    node(args.next_pos().ok_or("a member is missing")?)
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> Result<Option<T>, Box<dyn Error>>
where
    T::Err: Error + 'static,
{
    Ok(text.map(str::parse).transpose()?)
}

fn selection(args: &mut ArgumentConsumer<'_>) -> Result<Selection, Box<dyn Error>> {
    Ok(Selection {
        from: args.take_key("from").map(node).transpose()?,
        to: args.take_key("to").map(node).transpose()?,
        kind: args.take_key("kind").map(String::from),
        count: number(args.take_key("count"))?.unwrap_or(usize::MAX),
        latest_first: args.next_pos() == Some("last"),
    })
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join("-")
}

fn membership(membership: &Membership) -> String {
    let mut text = format!("voters={}", list(&membership.voters));
    if membership.is_joint() {
        write!(text, " outgoing={}", list(&membership.outgoing)).unwrap();
    }
    if !membership.learners.is_empty() {
        write!(text, " learners={}", list(&membership.learners)).unwrap();
    }
    text
}

fn entry(entry: &Entry) -> String {
    let payload = match &entry.payload {
        Payload::Barrier => String::from("barrier"),
        Payload::Command(command) => String::from_utf8_lossy(command).into_owned(),
        Payload::Membership(changed) => format!("({})", membership(changed)),
    };
    format!("{}={payload}", entry.position)
}

fn entries(entries: &[Entry]) -> String {
    entries.iter().map(entry).collect::<Vec<_>>().join(" ")
}

fn kind(body: &Body) -> String {
    let text = format!("{body:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

fn say(message: &Message) -> String {
    let Message { from, to, term, body, .. } = message;
    let said = match body {
        Body::PreVote { last } => format!("last={last}"),
        Body::Vote { last, transfer: false } => format!("last={last}"),
        Body::Vote { last, transfer: true } => format!("last={last} transfer"),
        Body::PreVoteReply { granted } | Body::VoteReply { granted } => {
            String::from(if *granted { "granted" } else { "refused" })
        }
        Body::Append { previous, entries: sent, committed } => {
            format!("after={previous} [{}] committed={committed}", entries(sent))
        }
        Body::AppendOk { matched } | Body::AppendHeld { matched } => format!("matched={matched}"),
        Body::AppendConflict { refused, hint } => format!("refused={refused} hint={hint}"),
        Body::Heartbeat { round, committed, lease } => {
            format!("round={round} committed={committed} lease={}", lease.as_millis())
        }
        Body::HeartbeatReply { round } => format!("round={round}"),
        Body::Returned { .. } | Body::TimeoutNow => String::new(),
        Body::ReturnHeard { position, .. } => format!("position={position}"),
        Body::SnapshotChunk { position, membership: members, chunk, done, .. } => {
            let done = if *done { " done" } else { "" };
            format!("{position} chunk={chunk}{done} {}", membership(members))
        }
        Body::SnapshotAck { position, next } => format!("{position} next={next}"),
    };
    format!("{from}->{to} term={term} {} {said}", kind(body)).trim_end().to_owned()
}

impl Story {
    fn clock(&self) -> Monotonic {
        Monotonic(self.now * 1_000_000)
    }

    fn next_seed(&mut self) -> u64 {
        self.seed += 1;
        self.seed
    }

    fn note(&mut self, line: &str) {
        writeln!(self.output, "{line}").unwrap();
    }

    fn member(&mut self, node: NodeId) -> Result<&mut Member, Box<dyn Error>> {
        let member = self.members.get_mut(&node).ok_or("no such member")?;
        if member.up { Ok(member) } else { Err("it is down".into()) }
    }

    fn found(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<(), Box<dyn Error>> {
        let mut config = Config::new(NodeId(1), GroupId(1));
        config.lease = match args.take_key("lease") {
            None | Some("off") => LeaseMode::Off,
            Some(length) => LeaseMode::For(Duration::from_millis(length.parse()?)),
        };
        if let Some(bytes) = number(args.take_key("cache"))? {
            config.cache_bytes = bytes;
        }
        if let Some(messages) = number(args.take_key("window"))? {
            config.max_inflight_messages = messages;
        }
        if let Some(bytes) = number(args.take_key("window_bytes"))? {
            config.max_append_bytes = bytes;
            config.max_inflight_bytes = bytes;
        }
        if let Some(entries) = number(args.take_key("append"))? {
            config.max_append_entries = entries;
        }
        let founders = Membership {
            voters: nodes(args.take_key("voters"))?,
            outgoing: BTreeSet::new(),
            learners: nodes(args.take_key("learners"))?,
        };
        self.template = Some(config);
        for node in founders.members() {
            self.start(node, founders.clone());
        }
        Ok(())
    }

    fn start(&mut self, node: NodeId, founders: Membership) {
        let config = Config { node, ..self.template.clone().expect("the cluster is founded") };
        let (now, seed) = (self.clock(), self.next_seed());
        let host = Host::new(config, founders, now, seed);
        let unanswered = Vec::new();
        self.members
            .insert(node, Member { host, up: true, stalled: false, slow: false, unanswered });
    }

    /// Ends a drain of `node`'s queue, and tells what came of it.
    fn drain(&mut self, node: NodeId) {
        let now = self.clock();
        let member = self.members.get_mut(&node).expect("it exists");
        let (sent, others) = messages(member.host.flush(now));
        let applied = member.host.apply(usize::MAX);
        let cut = &self.cut;
        let travels =
            |message: &Message| !cut.contains(&message.from) && !cut.contains(&message.to);
        self.on_the_way.extend(sent.into_iter().filter(travels));
        for effect in others {
            match effect {
                Effect::Send(_) | Effect::Persist(_) | Effect::Committed(_) => {}
                Effect::ReadReady { token, index } => {
                    self.note(&format!("{node} read {} ready at {index}", token.0));
                }
                Effect::ReadRefused { token } => {
                    self.note(&format!("{node} read {} refused", token.0));
                }
                Effect::RoleChanged { role, term, leader } => {
                    let leader = leader.map_or(String::from("nobody"), |node| node.to_string());
                    let role = match role {
                        Role::Leader => String::from("leads"),
                        Role::Follower => format!("follows {leader}"),
                        other => format!("is {other:?}"),
                    };
                    self.note(&format!("{node} {role} in term {term}"));
                }
                Effect::MembershipChanged(members) => {
                    self.note(&format!("{node} has {}", membership(&members)));
                }
                Effect::Contradicted { index } => {
                    self.note(&format!("{node} is contradicted at {index}"));
                }
                waiting => self.members.get_mut(&node).unwrap().unanswered.push(waiting),
            }
        }
        if !applied.is_empty() {
            self.note(&format!("{node} applies {}", entries(&applied)));
        }
    }

    /// Answers what waits for `node`'s disk besides log writes.
    fn answer(&mut self, node: NodeId) -> bool {
        let now = self.clock();
        let member = self.members.get_mut(&node).expect("it exists");
        let effects = std::mem::take(&mut member.unanswered);
        let any = !effects.is_empty();
        for effect in effects {
            let host = &mut self.members.get_mut(&node).unwrap().host;
            let line = match effect {
                Effect::ReadLog { peer, from, max_bytes } => {
                    let read = host.read_log(from, max_bytes);
                    let line = format!("{node} reads its log for {peer}: {}", entries(&read));
                    host.raft.handle_log_read(now, peer, read);
                    line
                }
                Effect::ReadSnapshot { peer, position, chunk } => {
                    let read = host.read_snapshot(peer, position, chunk);
                    let line = format!(
                        "{node} reads chunk {} of {} for {peer}",
                        read.chunk, read.position
                    );
                    host.raft.handle_snapshot_read(now, peer, read);
                    line
                }
                Effect::WriteSnapshot { position, membership, chunk, done, .. } => {
                    host.write_snapshot(position, membership.clone(), done);
                    host.raft.handle_snapshot_written(now, position, membership, chunk, done);
                    let verb = if done { "installs" } else { "writes" };
                    format!("{node} {verb} chunk {chunk} of {position}")
                }
                _ => unreachable!("nothing else waits"),
            };
            self.note(&line);
            self.drain(node);
        }
        any
    }

    fn sync(&mut self, node: NodeId, count: usize) -> bool {
        let now = self.clock();
        let mut any = false;
        for _ in 0..count {
            let member = self.members.get_mut(&node).expect("it exists");
            if !member.host.complete_write(now) {
                break;
            }
            any = true;
            self.drain(node);
        }
        any
    }

    /// Completes what the disks do by themselves.
    fn settle(&mut self) -> bool {
        let members: Vec<NodeId> = self.members.keys().copied().collect();
        let mut any = false;
        for node in members {
            let member = &self.members[&node];
            if member.up && !member.stalled {
                any |= self.sync(node, usize::MAX);
            }
            let member = &self.members[&node];
            if member.up && !member.slow {
                any |= self.answer(node);
            }
        }
        any
    }

    fn matching(&self, selection: &Selection) -> Option<usize> {
        let fits = |message: &Message| {
            selection.from.is_none_or(|from| from == message.from)
                && selection.to.is_none_or(|to| to == message.to)
                && selection.kind.as_ref().is_none_or(|wanted| *wanted == kind(&message.body))
        };
        if selection.latest_first {
            self.on_the_way.iter().rposition(fits)
        } else {
            self.on_the_way.iter().position(fits)
        }
    }

    fn receive(&mut self, message: Message) {
        let now = self.clock();
        let to = message.to;
        let up = self.members.get(&to).is_some_and(|member| member.up);
        let line = say(&message);
        if !up {
            return self.note(&format!("{line} (nobody there)"));
        }
        self.note(&line);
        let member = self.members.get_mut(&to).expect("it is up");
        member.host.raft.handle_message(now, message);
        self.drain(to);
    }

    fn deliver(&mut self, selection: &Selection, copies: bool) {
        // Only what is on the way already: answers are for the next command.
        let mut chosen = Vec::new();
        while chosen.len() < selection.count
            && let Some(place) = self.matching(selection)
        {
            chosen.push(self.on_the_way.remove(place));
        }
        let kept = if copies { chosen.clone() } else { Vec::new() };
        for message in chosen {
            self.receive(message);
        }
        self.on_the_way.extend(kept);
    }

    fn lose(&mut self, selection: &Selection) {
        for _ in 0..selection.count {
            let Some(place) = self.matching(selection) else { return };
            let lost = self.on_the_way.remove(place);
            self.note(&format!("lost: {}", say(&lost)));
        }
    }

    fn stabilize(&mut self, among: &BTreeSet<NodeId>) {
        let may = |message: &Message| {
            among.is_empty() || (among.contains(&message.from) && among.contains(&message.to))
        };
        for _ in 0..10_000 {
            let moved = self.settle();
            let (moving, staying): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.on_the_way).into_iter().partition(may);
            self.on_the_way = staying;
            if moving.is_empty() && !moved {
                return;
            }
            for message in moving {
                self.receive(message);
            }
        }
        panic!("it never comes to rest");
    }

    fn wake(&mut self, node: NodeId) {
        let now = self.clock();
        let member = self.members.get_mut(&node).expect("it exists");
        if member.up && member.host.raft.deadline().is_some_and(|deadline| deadline <= now) {
            member.host.raft.handle_deadline(now);
            self.drain(node);
        }
    }

    fn next(&mut self, node: NodeId) -> Result<(), Box<dyn Error>> {
        let deadline = self.member(node)?.host.raft.deadline().unwrap_or_default();
        self.now = self.now.max(deadline.0.div_ceil(1_000_000));
        self.wake(node);
        Ok(())
    }

    fn tick(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.now += 1;
            for node in self.members.keys().copied().collect::<Vec<_>>() {
                self.wake(node);
            }
        }
    }

    fn status(&mut self) {
        let lines: Vec<String> = self
            .members
            .values()
            .map(|member| {
                let raft = &member.host.raft;
                let down = if member.up { "" } else { " (down)" };
                format!(
                    "{}{down} {:?} term={} log={}..{} durable={} committed={} applied={}",
                    raft.node(),
                    raft.role(),
                    raft.term(),
                    raft.first_index(),
                    raft.last_position(),
                    raft.durable(),
                    raft.committed(),
                    member.host.applied.position.index,
                )
            })
            .collect();
        self.note(&lines.join("\n"));
    }

    fn peers(&mut self, node: NodeId) -> Result<(), Box<dyn Error>> {
        let progress = self.member(node)?.host.raft.progress();
        for peer in progress {
            self.note(&format!(
                "{} {:?} matched={} next={} inflight={}",
                peer.node, peer.state, peer.matched, peer.next, peer.inflight_messages
            ));
        }
        Ok(())
    }

    /// Commands about one member.
    fn about(
        &mut self,
        name: &str,
        node: NodeId,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<(), Box<dyn Error>> {
        match name {
            "join" => self.start(node, Membership::default()),
            "next" => self.next(node)?,
            "campaign" => {
                for _ in 0..100 {
                    if self.output.contains("Candidate in") {
                        break;
                    }
                    self.next(node)?;
                }
                if !self.output.contains("Candidate in") {
                    return Err("it does not campaign".into());
                }
            }
            "wake" => self.wake(node),
            "cut" => {
                self.cut.insert(node);
            }
            "heal" => {
                self.cut.remove(&node);
            }
            "sync" => {
                self.sync(node, number(args.take_key("count"))?.unwrap_or(usize::MAX));
            }
            "answer" => {
                self.answer(node);
            }
            "peers" => self.peers(node)?,
            "propose" | "read" | "change" | "transfer" => {
                self.command(name, node, args)?;
            }
            _ => self.fate(name, node, args)?,
        }
        Ok(())
    }

    /// Commands that clients and operators give to a member.
    fn command(
        &mut self,
        name: &str,
        node: NodeId,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<(), Box<dyn Error>> {
        let now = self.clock();
        let raft = &mut self.member(node)?.host.raft;
        let result = match name {
            "propose" => {
                let mut commands = Vec::new();
                while let Some(text) = args.next_pos() {
                    commands.push(Bytes::copy_from_slice(text.as_bytes()));
                }
                raft.propose(now, commands).map(drop).map_err(|e| format!("{e:?}"))
            }
            "read" => {
                let mut result = Ok(());
                while let Some(token) = args.next_pos() {
                    result = result.and(raft.read_index(now, ReadToken(token.parse()?)));
                }
                result.map_err(|e| format!("{e:?}"))
            }
            "change" => {
                let voters = nodes(args.take_key("voters"))?;
                let learners = nodes(args.take_key("learners"))?;
                let change = MembershipChange { voters, learners };
                raft.propose_membership(now, change).map(drop).map_err(|e| format!("{e:?}"))
            }
            "transfer" => {
                raft.transfer_leadership(now, next_node(args)?).map_err(|e| format!("{e:?}"))
            }
            _ => Err(String::from("unknown command")),
        };
        self.drain(node);
        result.map_err(Into::into)
    }

    /// What happens to a member and its disk.
    fn fate(
        &mut self,
        name: &str,
        node: NodeId,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<(), Box<dyn Error>> {
        let (now, seed) = (self.clock(), self.seed);
        if name == "restart" {
            self.seed += 1;
            let member = self.members.get_mut(&node).ok_or("no such member")?;
            member.host.restart(now, seed + 1, 0);
            (member.up, member.stalled, member.slow) = (true, false, false);
            self.drain(node);
            return Ok(());
        }
        let member = self.members.get_mut(&node).ok_or("no such member")?;
        match name {
            "crash" => {
                member.up = false;
                member.unanswered.clear();
            }
            "rot" => {
                let after = number(args.take_key("after"))?.ok_or("after which entry?")?;
                member.host.lose_log_after(after);
            }
            "stall" => member.stalled = true,
            "slow" => member.slow = true,
            "unstall" => {
                (member.stalled, member.slow) = (false, false);
            }
            "flush_state" => member.host.flushed = member.host.applied.clone(),
            "compact" => {
                let flushed = member.host.flushed.position;
                let through = number(args.take_key("through"))?.unwrap_or(flushed.index);
                let through = member.host.raft.position_at(through).ok_or("not in the log")?;
                member.host.raft.compact_log(through);
                self.drain(node);
            }
            "connect" => {
                member.host.raft.handle_peer_connected(now, next_node(args)?);
                self.drain(node);
            }
            "disconnect" => {
                member.host.raft.handle_peer_disconnected(now, next_node(args)?);
                self.drain(node);
            }
            _ => return Err(format!("unknown command {name}").into()),
        }
        Ok(())
    }
}

impl Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Outcome {
        let mut args = command.consume_args();
        let name = command.name.as_str();
        self.output.clear();
        match name {
            "cluster" => self.found(&mut args)?,
            "stabilize" => {
                let among = nodes(args.take_key("among"))?;
                self.stabilize(&among);
            }
            "run" => {
                for _ in 0..args.next_pos().ok_or("how long?")?.parse::<u64>()? {
                    self.tick(1);
                    self.stabilize(&BTreeSet::new());
                }
            }
            "way" => {
                let lines: Vec<String> = self.on_the_way.iter().map(say).collect();
                let lines = lines.join("\n");
                self.note(if lines.is_empty() { "nothing" } else { &lines });
            }
            "status" => self.status(),
            "deliver" | "copy" => {
                let selection = selection(&mut args)?;
                self.deliver(&selection, name == "copy");
            }
            "drop" => {
                let selection = selection(&mut args)?;
                self.lose(&selection);
            }
            "tick" | "pause" => {
                let millis = args.next_pos().ok_or("how long?")?.parse()?;
                if name == "tick" { self.tick(millis) } else { self.now += millis }
            }
            _ => {
                let node = next_node(&mut args)?;
                self.about(name, node, &mut args)?;
            }
        }
        args.reject_next()?;
        Ok(std::mem::take(&mut self.output))
    }
}

fn stories(under: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(under).expect("the folder of stories");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
        .into_iter()
        .flat_map(|path| if path.is_dir() { stories(&path) } else { vec![path] })
        .collect()
}

#[test]
fn every_story_goes_as_told() {
    let stories = stories(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts"));
    assert!(stories.len() > 30, "there are stories to tell");
    let failed: Vec<&PathBuf> = stories
        .iter()
        .filter(|path| {
            let told = || goldenscript::run(&mut Story::default(), path);
            let told = std::panic::catch_unwind(told);
            if let Ok(Err(error)) = &told {
                println!("{}: {error}", path.display());
            }
            !matches!(told, Ok(Ok(())))
        })
        .collect();
    assert!(failed.is_empty(), "not as told: {failed:?}");
}
