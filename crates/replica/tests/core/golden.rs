//! Runs the golden scripts of the node core: stories told to a small cluster.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p replica` writes what happens now; read it before committing.

use crate::cluster::{Cluster, TestNode, address};
use bytes::Bytes;
use clocks::{GroupId, NodeId};
use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use replica::{Ask, LogEvent, ReplicaLimits, Reply, RequestError, RequestId};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use store::command::{Command as Change, ListedMember, MembershipCommand, Put};
use store::reply::Outcome;

#[derive(Default)]
struct Story {
    cluster: Option<Cluster>,
    size: u64,
    stopped: BTreeMap<NodeId, TestNode>,
    asked: Vec<(NodeId, RequestId)>,
}

impl Story {
    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("the story begins with `cluster`")
    }

    /// What was sent since the last look, in order.
    fn said(&mut self) -> String {
        let sent = std::mem::take(&mut self.cluster().sent);
        let line = |(from, to, kind)| format!("n{from} -> n{to}: {kind}\n");
        sent.into_iter().map(line).collect()
    }
}

type Told = Result<String, Box<dyn Error>>;

/// The arguments of one line.
struct Args<'a>(ArgumentConsumer<'a>);

impl Args<'_> {
    fn word(&mut self) -> Result<String, Box<dyn Error>> {
        Ok(self.0.next_pos().ok_or("an argument is missing")?.to_owned())
    }

    fn number(&mut self) -> Result<u64, Box<dyn Error>> {
        Ok(self.word()?.parse()?)
    }

    fn member(&mut self) -> Result<NodeId, Box<dyn Error>> {
        let word = self.word()?;
        Ok(NodeId(word.strip_prefix('n').ok_or("members are called n1, n2, ...")?.parse()?))
    }
}

impl Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Told {
        let mut args = Args(command.consume_args());
        let told = match command.name.as_str() {
            "cluster" => self.begin(&mut args)?,
            "run" | "settle" | "watch" => self.pass_time(&command.name, &mut args)?,
            "put" | "ask" | "read" | "get" => self.request(&command.name, &mut args)?,
            "grant" | "renew" | "revoke" | "attach" => {
                self.change_lease(&command.name, &mut args)?
            }
            "leases" => self.leases(&mut args)?,
            "cut" | "heal" | "stop" | "restart" | "short-of-space" => {
                self.fault(&command.name, &mut args)?
            }
            "add" | "learner" | "promote" | "remove" => {
                self.change_membership(&command.name, &mut args)?
            }
            "join" => {
                let member = args.member()?;
                self.cluster().join(member);
                String::new()
            }
            "hand-over" => self.hand_over(&mut args)?,
            "members" => self.members(),
            "answers" => self.answers(),
            "status" => self.status(),
            name => return Err(format!("unknown command {name}").into()),
        };
        args.0.reject_next()?;
        Ok(told)
    }
}

impl Story {
    fn begin(&mut self, args: &mut Args<'_>) -> Told {
        self.size = args.number()?;
        let mut limits = ReplicaLimits { retained_entries: 10, ..Default::default() };
        if let Some(waiting) = args.0.take_key("waiting") {
            limits.waiting_requests = waiting.parse()?;
        }
        self.cluster = Some(Cluster::with(self.size, limits));
        self.cluster().run(3_000);
        self.cluster().sent.clear();
        Ok(format!("n{} leads\n", self.cluster().leader()))
    }

    fn pass_time(&mut self, how: &str, args: &mut Args<'_>) -> Told {
        self.cluster().sent.clear();
        match how {
            "settle" => self.cluster().settle(),
            _ => {
                let millis = args.number()?;
                self.cluster().run(millis);
            }
        }
        Ok(if how == "run" { String::new() } else { self.said() })
    }

    fn request(&mut self, what: &str, args: &mut Args<'_>) -> Told {
        let at = args.member()?;
        let ask = match what {
            "read" => Ask::ReadBarrier,
            "get" => {
                let found = self.cluster().get(at, &args.word()?);
                return Ok(found.unwrap_or("nothing".into()) + "\n");
            }
            _ => {
                let (key, value) = (Bytes::from(args.word()?), Bytes::from(args.word()?));
                Ask::Write(Change::Put(Put { key, value, ..Put::default() }))
            }
        };
        if what != "put" {
            let id = self.cluster().ask(at, ask);
            self.asked.push((at, id));
            return Ok(String::new());
        }
        let began = self.cluster().now;
        let reply = self.cluster().answer(at, ask);
        let millis = self.cluster().now.since(began).as_millis();
        Ok(format!("{} after {millis} ms\n", words(&reply)))
    }

    /// `grant MEMBER LEASE SECONDS`, `renew MEMBER LEASE...`, `revoke MEMBER LEASE`,
    /// `attach MEMBER LEASE KEY`.
    fn change_lease(&mut self, what: &str, args: &mut Args<'_>) -> Told {
        let at = args.member()?;
        let first = i64::try_from(args.number()?)?;
        let command = match what {
            "grant" => Change::LeaseGrant { id: first, ttl_s: args.number()? },
            "revoke" => Change::LeaseRevoke { id: first },
            "attach" => {
                let (key, value) = (Bytes::from(args.word()?), Bytes::from_static(b"held"));
                Change::Put(Put { key, value, lease: first, ..Put::default() })
            }
            _ => {
                let mut ids = vec![first];
                while let Some(id) = args.0.next_pos() {
                    ids.push(id.parse()?);
                }
                Change::LeaseRenew { ids }
            }
        };
        let reply = self.cluster().answer(at, Ask::Write(command));
        Ok(words(&reply) + "\n")
    }

    /// The lease clock as applied at a member, in seconds, and what holders may count on.
    fn leases(&mut self, args: &mut Args<'_>) -> Told {
        let at = args.member()?;
        let reader = self.cluster().nodes[&at].applier.reader(GroupId::KEYSPACE);
        let clock_ms = reader.lease_clock_ms()?;
        let mut told = format!("clock {:.1}s\n", clock_ms as f64 / 1000.0);
        for lease in reader.leases() {
            let lease = lease?;
            let left = lease.remaining_ms(clock_ms) as f64 / 1000.0;
            told += &format!("lease {} of {}s has {left:.1}s left\n", lease.id, lease.ttl_s);
        }
        Ok(told)
    }

    /// `add|learner|promote|remove MEMBER AT`
    fn change_membership(&mut self, what: &str, args: &mut Args<'_>) -> Told {
        let (id, at) = (args.member()?, args.member()?);
        let peer_addresses = vec![address(id)];
        let change = match what {
            "add" => MembershipCommand::Add { id, peer_addresses, learner: false },
            "learner" => MembershipCommand::Add { id, peer_addresses, learner: true },
            "promote" => MembershipCommand::Promote { id },
            _ => MembershipCommand::Remove { id },
        };
        let began = self.cluster().now;
        let end = self.cluster().change(at, change);
        let millis = self.cluster().now.since(began).as_millis();
        let end = match end {
            Ok(members) => {
                let role = |listed: &ListedMember| if listed.learner { " learner" } else { "" };
                let names = members.iter().map(|m| format!("n{}{}", m.member.id, role(m)));
                names.collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        };
        Ok(format!("{end} after {millis} ms\n"))
    }

    fn hand_over(&mut self, args: &mut Args<'_>) -> Told {
        let (at, to) = (args.member()?, args.member()?);
        let reply = self.cluster().answer(at, Ask::TransferLeadership { to: Some(to) });
        Ok(format!("{}\n", words(&reply)))
    }

    /// The membership of every group as each member sees it, and who stopped by itself.
    fn members(&mut self) -> String {
        let cluster = self.cluster();
        let ids =
            |set: &BTreeSet<NodeId>| set.iter().map(|id| format!(" n{id}")).collect::<String>();
        let mut told = String::new();
        for id in cluster.nodes.keys() {
            for (group, membership) in cluster.memberships(*id).iter().enumerate() {
                let (voters, learners) = (ids(&membership.voters), ids(&membership.learners));
                told += &format!("n{id}, group {group}: voters{voters}; learners{learners}\n");
            }
        }
        for (id, why) in &cluster.fatal {
            let sentence = why.split(';').next().unwrap_or_default();
            told += &format!("n{id} stopped: {sentence}\n");
        }
        told
    }

    fn answers(&mut self) -> String {
        let mut told = String::new();
        for (at, id) in std::mem::take(&mut self.asked) {
            let reply = self.cluster().nodes.get_mut(&at).and_then(|n| n.replies.remove(&id));
            let words = reply.as_ref().map_or("waits".into(), words);
            told += &format!("request {} at n{at}: {words}\n", id.0);
            if reply.is_none() {
                self.asked.push((at, id));
            }
        }
        told
    }

    fn fault(&mut self, what: &str, args: &mut Args<'_>) -> Told {
        if what == "heal" {
            self.cluster().cut.clear();
            return Ok(String::new());
        }
        let member = args.member()?;
        match what {
            "cut" => {
                let other = args.member()?;
                self.cluster().cut.push((member, other));
            }
            "stop" => {
                let stopped = self.cluster().stop(member);
                self.stopped.insert(member, stopped);
            }
            "restart" => {
                let stopped = self.stopped.remove(&member).ok_or("it was not stopped")?;
                let size = self.size;
                self.cluster().restart(member, stopped.disk, stopped.engine, size);
            }
            _ => {
                let short = args.word()? == "yes";
                let now = self.cluster().now;
                let node = self.cluster().nodes.get_mut(&member).ok_or("no such member")?;
                node.log.handle(LogEvent::ShortOfSpace(short), now, &mut node.disk);
                self.cluster().run(1_500);
            }
        }
        Ok(String::new())
    }

    fn status(&mut self) -> String {
        let line = |(id, node): (&NodeId, &TestNode)| {
            let group = &node.log.status().groups[1];
            let leader = group.leader.map_or("nobody".into(), |leader| format!("n{leader}"));
            format!(
                "n{id}: {:?} follows={leader} log={}..{} committed={} applied={} waiting={}\n",
                group.role,
                group.first_index,
                group.last_index,
                group.committed,
                group.applied,
                group.waiting,
            )
        };
        self.cluster().nodes.iter().map(line).collect()
    }
}

fn words(reply: &Result<Reply, RequestError>) -> String {
    match reply {
        Ok(Reply::Written(Outcome::Put { revision, .. })) => format!("revision {revision}"),
        Ok(Reply::Written(Outcome::LeaseGranted { id, ttl_s, .. })) => {
            format!("lease {id} lives {ttl_s}s")
        }
        Ok(Reply::Written(Outcome::LeaseRevoked { revision })) => format!("revision {revision}"),
        Ok(Reply::Written(Outcome::LeasesRenewed { ttls_s, .. })) => format!("renewed {ttls_s:?}"),
        Ok(Reply::ReadReady) => "may read".into(),
        Ok(Reply::LeadershipTransferred) => "handed over".into(),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn scripts() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/testscripts");
    let mut count = 0;
    for pattern in std::fs::read_dir(root).unwrap() {
        for script in std::fs::read_dir(pattern.unwrap().path()).unwrap() {
            let path = script.unwrap().path();
            goldenscript::run(&mut Story::default(), &path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            count += 1;
        }
    }
    assert!(count >= 8, "{count} scripts ran");
}
