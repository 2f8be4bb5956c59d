//! Runs the golden scripts of the node core: stories told to a small cluster.
//!
//! `UPDATE_GOLDENFILES=1 cargo test -p replica` writes what happens now; read it before committing.

use crate::cluster::{Cluster, TestNode};
use bytes::Bytes;
use clocks::NodeId;
use goldenscript::{Command, Context, Runner};
use replica::{Ask, LogEvent, ReplicaLimits, Reply, RequestError, RequestId};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use store::command::Put;
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

impl Runner for Story {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let mut output = String::new();
        let mut number = |name: &str| -> Result<u64, Box<dyn Error>> {
            Ok(args
                .next_pos()
                .ok_or(format!("{name} is missing"))?
                .trim_start_matches('n')
                .parse()?)
        };
        match command.name.as_str() {
            "cluster" => {
                self.size = number("size")?;
                let mut limits = ReplicaLimits { retained_entries: 10, ..Default::default() };
                if let Some((key, value)) = args.next_key() {
                    assert_eq!(key, "waiting");
                    limits.waiting_requests = value.parse()?;
                }
                self.cluster = Some(Cluster::with(self.size, limits));
                self.cluster().run(3_000);
                self.cluster().sent.clear();
                writeln!(output, "n{} leads", self.cluster().leader())?;
            }
            "run" => {
                let millis = number("milliseconds")?;
                self.cluster().run(millis);
                self.cluster().sent.clear();
            }
            "put" | "ask" => {
                let at = NodeId(number("member")?);
                let key = args.next_pos().ok_or("the key is missing")?.to_owned();
                let value = args.next_pos().ok_or("the value is missing")?.to_owned();
                let put =
                    Put { key: Bytes::from(key), value: Bytes::from(value), ..Put::default() };
                let ask = Ask::Write(store::command::Command::Put(put));
                if command.name == "ask" {
                    let id = self.cluster().ask(at, ask);
                    self.asked.push((at, id));
                } else {
                    let began = self.cluster().now;
                    let reply = self.cluster().answer(at, ask);
                    let millis = self.cluster().now.since(began).as_millis();
                    writeln!(output, "{} after {millis} ms", words(&reply))?;
                }
            }
            "read" => {
                let at = NodeId(number("member")?);
                let id = self.cluster().ask(at, Ask::ReadBarrier);
                self.asked.push((at, id));
            }
            "answers" => {
                for (at, id) in std::mem::take(&mut self.asked) {
                    let nodes = &mut self.cluster.as_mut().expect("begun").nodes;
                    match nodes.get_mut(&at).and_then(|node| node.replies.remove(&id)) {
                        Some(reply) => {
                            writeln!(output, "request {} at n{at}: {}", id.0, words(&reply))?
                        }
                        None => {
                            self.asked.push((at, id));
                            writeln!(output, "request {} at n{at}: waits", id.0)?;
                        }
                    }
                }
            }
            "get" => {
                let at = NodeId(number("member")?);
                let key = args.next_pos().ok_or("the key is missing")?.to_owned();
                writeln!(output, "{}", self.cluster().get(at, &key).unwrap_or("nothing".into()))?;
            }
            "settle" => {
                self.cluster().sent.clear();
                self.cluster().settle();
                output = self.said();
            }
            "watch" => {
                self.cluster().sent.clear();
                let millis = number("milliseconds")?;
                self.cluster().run(millis);
                output = self.said();
            }
            "cut" => {
                let pair = (NodeId(number("member")?), NodeId(number("member")?));
                self.cluster().cut.push(pair);
            }
            "heal" => self.cluster().cut.clear(),
            "stop" => {
                let id = NodeId(number("member")?);
                let node = self.cluster().stop(id);
                self.stopped.insert(id, node);
            }
            "restart" => {
                let id = NodeId(number("member")?);
                let TestNode { disk, engine, .. } =
                    self.stopped.remove(&id).ok_or("it was not stopped")?;
                let size = self.size;
                self.cluster().restart(id, disk, engine, size);
            }
            "short-of-space" => {
                let id = NodeId(number("member")?);
                let short = args.next_pos() == Some("yes");
                let now = self.cluster().now;
                let node = self.cluster().nodes.get_mut(&id).ok_or("no such member")?;
                node.log.handle(LogEvent::ShortOfSpace(short), now, &mut node.disk);
                self.cluster().run(1_500);
            }
            "status" => {
                for (id, node) in &self.cluster().nodes {
                    let group = &node.log.status().groups[1];
                    let leader =
                        group.leader.map_or("nobody".into(), |leader| format!("n{leader}"));
                    writeln!(
                        output,
                        "n{id}: {:?} follows={leader} log={}..{} committed={} applied={} waiting={}",
                        group.role,
                        group.first_index,
                        group.last_index,
                        group.committed,
                        group.applied,
                        group.waiting,
                    )?;
                }
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        Ok(output)
    }
}

fn words(reply: &Result<Reply, RequestError>) -> String {
    match reply {
        Ok(Reply::Written(Outcome::Put { revision, .. })) => format!("revision {revision}"),
        Ok(Reply::ReadReady) => "may read".into(),
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
