//! Golden scripts: stories of a pattern, told in commands.
//!
//! A prefix names the member (`n1:` if none). `refused` means that the command was answered with an
//! error. Keys and values are texts; an end of `onward` means every key from the first on.

use crate::support::{Group, envelope};
use bytes::Bytes;
use clocks::NodeId;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use store::command::{
    Command, Compare, CompareResult, CompareTarget, DeleteRange, ListedMember, Member,
    MembershipCommand, MembershipRefusal, Put, SessionId, Txn, TxnOp,
};
use store::range::{KeyRange, KeyValue, Projection, Range, SortOrder, SortTarget};
use store::reply::{Outcome, RangeReply, StoreError, TxnOpReply, TxnReply};
use store::{
    EventKind, MachineKind, Previous, SnapshotReader, StreamId, WatchHub, WatchLimits,
    WatchRequest, WatchResponse,
};

type Answer = Result<String, Box<dyn Error>>;

fn run_all(pattern: &str) {
    let directory = format!("{}/testscripts/{pattern}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .expect("the pattern has scripts")
        .map(|entry| entry.expect("the directory is readable").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        goldenscript::run(&mut World::default(), &path).expect("the script is readable");
    }
}

#[test]
fn member_table() {
    run_all("member_table");
}

#[test]
fn versioned_value() {
    run_all("versioned_value");
}

#[test]
fn state_watch() {
    run_all("state_watch");
}

#[test]
fn idempotent_receiver() {
    run_all("idempotent_receiver");
}

#[test]
fn consistent_core() {
    run_all("consistent_core");
}

#[test]
fn snapshot() {
    run_all("snapshot");
}

#[test]
fn lease() {
    run_all("lease");
}

#[derive(Default)]
struct World {
    members: BTreeMap<String, Actor>,
    /// The snapshot being sent.
    snapshot: Option<SnapshotReader>,
}

struct Actor {
    group: Group,
    hub: WatchHub,
    told: usize,
    handed_out: BTreeMap<StreamId, usize>,
}

impl Actor {
    fn new(group: Group) -> Actor {
        let limits = WatchLimits {
            stream_bytes_max: 300,
            response_bytes_max: 200,
            ..WatchLimits::default()
        };
        let hub = WatchHub::new(limits, group.machine.revision());
        let told = group.events.len();
        Actor { group, hub, told, handed_out: BTreeMap::new() }
    }

    fn tell(&mut self) {
        let changes = self.group.events[self.told..].to_vec();
        self.told = self.group.events.len();
        self.hub.handle_applied(self.group.machine.revision(), &changes);
    }
}

impl goldenscript::Runner for World {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &Self::Command, context: &goldenscript::Context) -> Answer {
        let name = context.prefix.clone().unwrap_or_else(|| "n1".to_owned());
        let mut words = Words(command.consume_args());
        if command.name == "send" {
            return self.send(&name, words);
        }
        if command.name == "core" {
            let group = Group::new(MachineKind::ClusterMetadata);
            self.members.insert(name, Actor::new(group));
            return Ok(String::new());
        }
        let actor = self.members.entry(name).or_insert_with(|| Actor::new(Group::keyspace()));
        let answer = match command.name.as_str() {
            "put" => actor.enter(Command::Put(words.put()?)),
            "del" => actor.enter(Command::DeleteRange(words.delete()?)),
            "txn" => actor.enter(Command::Txn(words.txn()?)),
            "compact" => actor.enter(Command::Compact { revision: words.number("")? }),
            "grant" => actor
                .enter(Command::LeaseGrant { id: words.number("")?, ttl_s: words.number("ttl")? }),
            "revoke" => actor.enter(Command::LeaseRevoke { id: words.number("")? }),
            "renew" => {
                let ids = words.flags().iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
                actor.enter(Command::LeaseRenew { ids })
            }
            "tick" => {
                let revoke_max = words.number_or("max", 100)?;
                actor.lease_tick(words.number("")?, revoke_max)
            }
            "leases" => actor.leases()?,
            "member" => actor.enter(Command::RegisterMember(words.member()?)),
            "found" | "add" | "promote" | "remove" | "update" => {
                let change = words.membership(&command.name)?;
                actor.enter(Command::Membership(change))
            }
            "object" => {
                let refusal = MembershipRefusal::Unhealthy;
                actor.enter(Command::Membership(MembershipCommand::Refuse { refusal }))
            }
            "table" => actor.table()?,
            "raise" => actor.enter(Command::RaiseFeatureLevel { level: words.number("")? }),
            "get" => show_range(&actor.group.range(&words.range()?)),
            "open" | "request" => actor.request(&mut words)?,
            "applied" => {
                let (session, sequence) = (words.session()?, words.number("")?);
                format!("{:?}\n", actor.group.machine.session_applied(session, sequence))
            }
            "sweep" => {
                let more = actor.group.machine.compact_step(words.number_or("", usize::MAX)?)?;
                format!("more={more}\n")
            }
            "history" => actor.history(&mut words)?,
            "crash" => {
                let kept = words.number_or("kept", usize::MAX)?;
                *actor = Actor::new(actor.group.crashed(kept));
                String::new()
            }
            "flush" => {
                store::Engine::flush(&actor.group.engine)?;
                String::new()
            }
            "status" => actor.status()?,
            _ => actor.watching(&command.name, &mut words)?,
        };
        actor.tell();
        words.0.reject_next()?;
        Ok(answer)
    }
}

impl World {
    /// `send from=NAME [chunk=N] [flip=BYTE]`: the next chunk, or all, of another member's state.
    fn send(&mut self, to: &str, mut words: Words<'_>) -> Answer {
        let from = words.0.take_key("from").ok_or("from=?")?.to_owned();
        let chunk = words.0.take_key("chunk").map(str::parse::<u64>).transpose()?;
        let flip = words.0.take_key("flip").map(str::parse::<usize>).transpose()?;
        words.0.reject_next()?;
        if chunk.is_none_or(|chunk| chunk == 0) {
            self.snapshot = Some(self.members[&from].group.machine.open_snapshot()?);
        }
        let sequence = self.members[&from].group.sequence();
        let target = self.members.entry(to.to_owned()).or_insert_with(|| {
            Actor::new(Group::unopened(MachineKind::Keyspace, Default::default()))
        });
        let reader = self.snapshot.as_mut().ok_or("chunk 0 first")?;
        let mut out = String::new();
        for number in chunk.map_or(0..u64::MAX, |chunk| chunk..chunk + 1) {
            let Some(chunk) = reader.chunk(number)? else {
                writeln!(out, "chunk {number} cannot be read")?;
                break;
            };
            let mut data = chunk.data.to_vec();
            if let Some(place) = flip {
                data[place] ^= 1;
            }
            let position = reader.position();
            let machine = &mut target.group.machine;
            let written = machine.write_snapshot_chunk(position, number, &data, chunk.done)?;
            writeln!(out, "chunk {number}, {} bytes: {written:?}", data.len())?;
            if written == store::SnapshotWrite::Installed {
                target.group.follow(sequence);
                target.hub.reset_after_snapshot(target.group.machine.revision());
                break;
            }
        }
        Ok(out)
    }
}

impl Actor {
    fn enter(&mut self, command: Command) -> String {
        show_outcome(&self.group.enter(command))
    }

    /// `open MEMBER.INCARNATION`, `request MEMBER.INCARNATION SEQUENCE [below=N] [do="put a 1"]`
    fn request(&mut self, words: &mut Words<'_>) -> Answer {
        let session = words.session()?;
        let sequence = words.number_or("", 0)?;
        let below = words.number_or("below", 0)?;
        let command = match words.0.take_key("do").map(operation).transpose()? {
            None => Command::OpenSession,
            Some(TxnOp::Put(put)) => Command::Put(put),
            Some(TxnOp::DeleteRange(delete)) => Command::DeleteRange(delete),
            Some(_) => return Err("only puts and deletes".into()),
        };
        let applied = self.group.apply(vec![envelope(session, sequence, below, command)]);
        Ok(match applied.outcomes.first() {
            Some((_, _, outcome)) => show_outcome(outcome),
            None => "skipped\n".to_owned(),
        })
    }

    fn lease_tick(&mut self, clock_ms: u64, revoke_max: u32) -> String {
        let command = Command::LeaseTick { clock_ms, revoke_max };
        let applied = self.group.apply(vec![envelope(SessionId::default(), 0, 0, command)]);
        assert!(applied.outcomes.is_empty(), "nobody waits for a tick");
        format!("revision {}, {} changes\n", applied.revision, applied.events.len())
    }

    fn leases(&self) -> Answer {
        let status = self.group.machine.lease_status();
        let reader = self.group.machine.reader();
        assert_eq!(status.clock_ms, reader.lease_clock_ms()?);
        let mut out = format!("clock={} next_due={:?}\n", status.clock_ms, status.next_due_ms);
        for lease in reader.leases() {
            let lease = lease?;
            let (id, ttl_s, at) = (lease.id, lease.ttl_s, lease.expires_at_ms);
            writeln!(out, "lease {id} ttl={ttl_s} ends={at} keys={:?}", reader.lease_keys(id)?)?;
        }
        Ok(out)
    }

    fn history(&self, words: &mut Words<'_>) -> Answer {
        let from = words.number_or("from", 0)?;
        let reader = self.group.machine.reader();
        let mut out = String::new();
        for change in reader.history(from, Previous::Read) {
            let change = change?;
            for event in change.events.iter() {
                let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
                let previous = event.previous.as_ref().map(|pair| format!(", was {}", show(pair)));
                let previous = previous.unwrap_or_default();
                writeln!(out, "{}: {kind} {}{previous}", change.revision, show(&event.pair))?;
            }
        }
        Ok(out)
    }

    fn status(&self) -> Answer {
        let reader = self.group.machine.reader();
        let mut out = format!(
            "applied={} revision={} compacted={} feature_level={} chain_hash={:016x}\n",
            reader.applied().index,
            reader.revision(),
            reader.compacted(),
            reader.feature_level(),
            reader.chain_hash(),
        );
        if let Ok(hash) = reader.hash_kv(0)? {
            writeln!(out, "hash={:08x}", hash.hash)?;
        }
        for session in reader.sessions()? {
            writeln!(out, "session {}.{}", session.member, session.incarnation)?;
        }
        for member in reader.members()? {
            let Member { id, name, directory_id, feature_level, .. } = member;
            writeln!(out, "member {id} {name} directory={directory_id} speaks={feature_level}")?;
        }
        Ok(out)
    }

    fn table(&self) -> Answer {
        let reader = self.group.machine.reader();
        let Some(table) = reader.member_table()? else { return Ok("not founded\n".to_owned()) };
        let mut out = format!("changed at {}\n", table.changed_at);
        for ListedMember { member, learner } in reader.listed_members()? {
            let Member { id, name, peer_addresses, .. } = member;
            let role = if learner { "learner" } else { "voter" };
            let started = if table.started.contains(&id) { "started" } else { "never started" };
            writeln!(out, "{id} {name:?} {role} at {peer_addresses:?}, {started}")?;
        }
        for id in table.removed {
            assert!(reader.is_removed_member(id)?);
            writeln!(out, "{id} was removed")?;
        }
        Ok(out)
    }

    fn watching(&mut self, name: &str, words: &mut Words<'_>) -> Answer {
        let stream = StreamId(words.number_or("stream", 1)?);
        match name {
            "stream" => self.hub.open_stream(stream),
            "close" => self.hub.close_stream(stream),
            "watch" => self.hub.create(stream, words.watch()?),
            "cancel" => self.hub.cancel(stream, words.number("")?),
            "progress" => self.hub.request_progress(stream),
            "tick" => self.hub.handle_tick(),
            "catch_up" => {
                let budget = words.number_or("", 1000)?;
                let reader = self.group.machine.reader();
                return Ok(format!("more={}\n", self.hub.catch_up(&reader, budget)?));
            }
            "poll" => return Ok(self.poll()),
            "drain" => {
                let polled = self.poll();
                for (stream, weight) in std::mem::take(&mut self.handed_out) {
                    self.hub.consumed(stream, weight);
                }
                return Ok(polled);
            }
            "consume" => {
                let weight = self.handed_out.remove(&stream).unwrap_or_default();
                self.hub.consumed(stream, weight);
            }
            "stats" => return Ok(format!("{:?}\n", self.hub.stats())),
            other => return Err(format!("no command {other}").into()),
        }
        Ok(String::new())
    }

    fn poll(&mut self) -> String {
        let mut out = String::new();
        while let Some((stream, response)) = self.hub.poll() {
            *self.handed_out.entry(stream).or_default() += response.weight;
            out += &format!("stream {}: {}\n", stream.0, show_response(&response));
        }
        out
    }
}

/// The arguments of a command.
struct Words<'a>(goldenscript::ArgumentConsumer<'a>);

impl Words<'_> {
    /// The number of a key, or the next one without (`""`).
    fn number<N: std::str::FromStr<Err: Error + 'static>>(
        &mut self,
        key: &str,
    ) -> Result<N, Box<dyn Error>> {
        let word = if key.is_empty() { self.0.next_pos() } else { self.0.take_key(key) };
        Ok(word.ok_or("a number is missing")?.parse()?)
    }

    fn number_or<N: std::str::FromStr<Err: Error + 'static>>(
        &mut self,
        key: &str,
        default: N,
    ) -> Result<N, Box<dyn Error>> {
        let word = if key.is_empty() { self.0.next_pos() } else { self.0.take_key(key) };
        word.map_or(Ok(default), |word| Ok(word.parse()?))
    }

    /// What is left of the words without a key: flags.
    fn flags(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.0.next_pos().map(str::to_owned)).collect()
    }

    fn session(&mut self) -> Result<SessionId, Box<dyn Error>> {
        let word = self.0.next_pos().ok_or("a session is missing")?;
        let (member, incarnation) = word.split_once('.').ok_or("MEMBER.INCARNATION")?;
        Ok(SessionId { member: NodeId(member.parse()?), incarnation: incarnation.parse()? })
    }

    fn put(&mut self) -> Result<Put, Box<dyn Error>> {
        let lease = self.number_or("lease", 0)?;
        let flags = self.flags();
        let (key, value) = self.0.next_key().ok_or("KEY=VALUE")?;
        let has = |flag: &str| flags.iter().any(|word| word == flag);
        Ok(Put {
            key: text(key),
            value: text(value),
            lease,
            prev_kv: has("prev"),
            ignore_value: has("ignore_value"),
            ignore_lease: has("ignore_lease"),
        })
    }

    fn keys(&mut self) -> Result<(KeyRange, Vec<String>), Box<dyn Error>> {
        let mut words = self.flags();
        let start = text(&words.remove(0));
        let known =
            ["prev", "keys_only", "count_only", "progress", "fragment", "no_put", "no_delete"];
        let keys = match words.first().map(String::as_str) {
            Some("onward") => KeyRange::From(start),
            Some(end) if !known.contains(&end) => KeyRange::Span { start, end: text(end) },
            _ => return Ok((KeyRange::Key(start), words)),
        };
        words.remove(0);
        Ok((keys, words))
    }

    fn delete(&mut self) -> Result<DeleteRange, Box<dyn Error>> {
        let (keys, flags) = self.keys()?;
        Ok(DeleteRange { keys, prev_kv: flags == ["prev"] })
    }

    fn range(&mut self) -> Result<Range, Box<dyn Error>> {
        let (keys, flags) = self.keys()?;
        let (sort_target, sort_order) =
            self.0.take_key("sort").map_or(Ok(Default::default()), sort)?;
        Ok(Range {
            keys,
            revision: self.number_or("rev", 0)?,
            limit: self.number_or("limit", 0)?,
            sort_target,
            sort_order,
            projection: match flags.first().map(String::as_str) {
                None => Projection::Full,
                Some("keys_only") => Projection::KeysOnly,
                Some("count_only") => Projection::CountOnly,
                Some(other) => return Err(format!("no flag {other}").into()),
            },
            min_mod_revision: self.number_or("min_mod", 0)?,
            max_mod_revision: self.number_or("max_mod", 0)?,
            min_create_revision: self.number_or("min_create", 0)?,
            max_create_revision: self.number_or("max_create", 0)?,
        })
    }

    /// `txn [if="mod a = 2"]... [then="put a 1"]... [else="get a"]...`
    fn txn(&mut self) -> Result<Txn, Box<dyn Error>> {
        let mut txn = Txn::default();
        while let Some((key, value)) = self.0.next_key() {
            match key {
                "if" => txn.compare.push(condition(value)?),
                "then" => txn.success.push(operation(value)?),
                "else" => txn.failure.push(operation(value)?),
                other => return Err(format!("no part {other}").into()),
            }
        }
        Ok(txn)
    }

    fn member(&mut self) -> Result<Member, Box<dyn Error>> {
        Ok(Member {
            id: NodeId(self.number("")?),
            name: self.0.take_key("name").unwrap_or_default().to_owned(),
            directory_id: self.number_or("directory", 0)?,
            feature_level: self.number_or("speaks", 0)?,
            ..Member::default()
        })
    }

    /// `found ID...`, `add ID at=ADDRESS [learner]`, `promote ID`, `remove ID`, `update ID at=...`
    fn membership(&mut self, what: &str) -> Result<MembershipCommand, Box<dyn Error>> {
        let at = self.0.take_key("at").unwrap_or("nowhere").to_owned();
        let id = NodeId(self.number("")?);
        let peer_addresses = vec![at];
        Ok(match what {
            "found" => {
                let rest: Result<Vec<u64>, _> = self.flags().iter().map(|id| id.parse()).collect();
                let founder = |id: u64| {
                    let peer_addresses = vec![format!("founder{id}")];
                    Member { id: NodeId(id), peer_addresses, ..Member::default() }
                };
                let founders = [id.0].into_iter().chain(rest?).map(founder).collect();
                MembershipCommand::Found { founders }
            }
            "add" => {
                let learner = self.flags().iter().any(|flag| flag == "learner");
                MembershipCommand::Add { id, peer_addresses, learner }
            }
            "promote" => MembershipCommand::Promote { id },
            "remove" => MembershipCommand::Remove { id },
            _ => MembershipCommand::Update { id, peer_addresses },
        })
    }

    fn watch(&mut self) -> Result<WatchRequest, Box<dyn Error>> {
        let watch_id = self.0.take_key("id").map(str::parse).transpose()?;
        let start_revision = self.number_or("start", 0)?;
        let (keys, flags) = self.keys()?;
        let has = |flag: &str| flags.iter().any(|word| word == flag);
        Ok(WatchRequest {
            watch_id,
            keys,
            start_revision,
            no_put: has("no_put"),
            no_delete: has("no_delete"),
            prev_kv: has("prev"),
            progress_notify: has("progress"),
            fragment: has("fragment"),
        })
    }
}

fn sort(word: &str) -> Result<(SortTarget, SortOrder), Box<dyn Error>> {
    let (target, order) = word.split_once(':').unwrap_or((word, ""));
    let target = match target {
        "key" => SortTarget::Key,
        "version" => SortTarget::Version,
        "create" => SortTarget::Create,
        "mod" => SortTarget::Mod,
        "value" => SortTarget::Value,
        other => return Err(format!("no target {other}").into()),
    };
    let order = match order {
        "" => SortOrder::None,
        "up" => SortOrder::Ascend,
        "down" => SortOrder::Descend,
        other => return Err(format!("no order {other}").into()),
    };
    Ok((target, order))
}

/// `mod a = 2`
fn condition(words: &str) -> Result<Compare, Box<dyn Error>> {
    let words: Vec<_> = words.split(' ').collect();
    let [target, key, result, operand] = words[..] else {
        return Err("TARGET KEY OP OPERAND".into());
    };
    let target = match target {
        "version" => CompareTarget::Version(operand.parse()?),
        "create" => CompareTarget::Create(operand.parse()?),
        "mod" => CompareTarget::Mod(operand.parse()?),
        "lease" => CompareTarget::Lease(operand.parse()?),
        "value" => CompareTarget::Value(text(operand)),
        other => return Err(format!("no target {other}").into()),
    };
    let result = match result {
        "=" => CompareResult::Equal,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        "!=" => CompareResult::NotEqual,
        other => return Err(format!("no comparison {other}").into()),
    };
    Ok(Compare { keys: KeyRange::Key(text(key)), result, target })
}

/// `put a 1`, `put_ignore_value a`, `del a`, `get a [REVISION]`, `txn_put_if_absent a 1`
fn operation(words: &str) -> Result<TxnOp, Box<dyn Error>> {
    let words: Vec<_> = words.split(' ').collect();
    let key = KeyRange::Key(text(words[1]));
    Ok(match words[..] {
        ["put", name, value] => {
            TxnOp::Put(Put { key: text(name), value: text(value), ..Put::default() })
        }
        ["put_ignore_value", name] => {
            TxnOp::Put(Put { key: text(name), ignore_value: true, ..Put::default() })
        }
        ["del", _] => TxnOp::DeleteRange(DeleteRange { keys: key, prev_kv: false }),
        ["get", _] => TxnOp::Range(Range::of(key)),
        ["get", _, revision] => {
            TxnOp::Range(Range { revision: revision.parse()?, ..Range::of(key) })
        }
        ["txn_put_if_absent", name, value] => TxnOp::Txn(Txn {
            compare: vec![condition(&format!("version {name} = 0"))?],
            success: vec![operation(&format!("put {name} {value}"))?],
            failure: Vec::new(),
        }),
        _ => return Err(format!("no operation {words:?}").into()),
    })
}

fn text(word: &str) -> Bytes {
    Bytes::copy_from_slice(word.as_bytes())
}

fn show(pair: &KeyValue) -> String {
    let key = String::from_utf8_lossy(&pair.key);
    let value = String::from_utf8_lossy(&pair.value);
    if pair.version == 0 {
        return format!("{key} mod={}", pair.mod_revision);
    }
    format!(
        "{key}={value} create={} mod={} version={}",
        pair.create_revision, pair.mod_revision, pair.version
    )
}

fn show_range(result: &Result<RangeReply, StoreError>) -> String {
    match result {
        Err(error) => format!("refused: {error:?}\n"),
        Ok(reply) => {
            let more = if reply.more { " more" } else { "" };
            let mut out = format!("revision {}, count {}{more}\n", reply.revision, reply.count);
            for pair in &reply.pairs {
                out += &format!("  {}\n", show(pair));
            }
            out
        }
    }
}

fn show_outcome(result: &Result<Outcome, StoreError>) -> String {
    let outcome = match result {
        Err(error) => return format!("refused: {error:?}\n"),
        Ok(outcome) => outcome,
    };
    let pairs = |pairs: &[KeyValue]| -> String {
        pairs.iter().map(|pair| format!("  was {}\n", show(pair))).collect()
    };
    match outcome {
        Outcome::Members(members) => {
            let ids: Vec<String> =
                members.iter().map(|listed| listed.member.id.to_string()).collect();
            format!("members {}\n", ids.join(" "))
        }
        Outcome::Put { revision, previous } => {
            format!("revision {revision}\n{}", pairs(previous.as_slice()))
        }
        Outcome::DeleteRange { revision, deleted, previous } => {
            format!("revision {revision}, deleted {deleted}\n{}", pairs(previous))
        }
        Outcome::Txn { revision, reply } => {
            format!("revision {revision}, {}", show_txn(reply))
        }
        other => format!("{other:?}\n"),
    }
}

fn show_txn(reply: &TxnReply) -> String {
    let mut out = format!("{}\n", if reply.succeeded { "then" } else { "else" });
    for reply in &reply.replies {
        out += "  ";
        out += &match reply {
            TxnOpReply::Range(reply) => show_range(&Ok(reply.clone())),
            TxnOpReply::Put { .. } => "put\n".to_owned(),
            TxnOpReply::DeleteRange { deleted, .. } => format!("deleted {deleted}\n"),
            TxnOpReply::Txn(reply) => show_txn(reply),
        };
    }
    out
}

fn show_response(response: &WatchResponse) -> String {
    let mut out = format!("watch {} at {}", response.watch_id, response.revision);
    let marks = [
        (response.created, "created"),
        (response.canceled, "canceled"),
        (response.progress, "progress"),
        (response.fragment, "fragment"),
    ];
    for (_, mark) in marks.iter().filter(|(set, _)| *set) {
        out += &format!(" {mark}");
    }
    if response.compact_revision != 0 {
        out += &format!(" compact_revision={}", response.compact_revision);
    }
    if !response.cancel_reason.is_empty() {
        out += &format!(" reason={:?}", response.cancel_reason);
    }
    for event in response.events.iter() {
        let kind = if event.kind == EventKind::Put { "put" } else { "delete" };
        out += &format!("\n  {kind} {}", show(&event.pair));
        if let Some(previous) = event.previous.as_ref().filter(|_| response.with_previous) {
            out += &format!(", was {}", show(previous));
        }
    }
    out
}
