//! Real nodes in one process: real files, sockets and threads.

mod secure;

use super::*;
use crate::Settings;
use bytes::Bytes;
use clocks::NodeId;
use std::time::Instant;
use store::command::{Command, Put};
use store::range::KeyRange;
use store::reply::Outcome;

const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST: Duration = Duration::from_secs(5);

/// Names and peer ports of a cluster whose directories lie under `root`.
struct Plan {
    root: tempfile::TempDir,
    peer_ports: Vec<u16>,
    lines: String,
}

impl Plan {
    fn new(peer_ports: impl IntoIterator<Item = u16>) -> Plan {
        let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a directory");
        Plan { root, peer_ports: peer_ports.into_iter().collect(), lines: String::new() }
    }

    fn with(mut self, lines: &str) -> Plan {
        self.lines = lines.to_owned();
        self
    }

    fn config(&self, member: usize) -> NodeConfig {
        let list: Vec<_> = self
            .peer_ports
            .iter()
            .enumerate()
            .map(|(at, port)| format!("n{at}=127.0.0.1:{port}"))
            .collect();
        let text = format!(
            "name = 'n{member}'\ninitial-cluster = '{}'\ndata-dir = '{}'\netcd = '127.0.0.1:0'\n\
             admin = '127.0.0.1:0'\nfront-ends = 1\nreserve-mib = 0\ncache-mib = 8\n{}",
            list.join(","),
            self.directory(member).display(),
            self.lines,
        );
        Settings::from_toml(&text, "test").expect("sound").resolve().expect("consistent")
    }

    fn directory(&self, member: usize) -> std::path::PathBuf {
        self.root.path().join(format!("n{member}"))
    }

    fn start(&self, member: usize) -> Node {
        Node::start(&self.config(member)).expect("the node starts")
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(future)
}

fn put(key: &str, value: &str) -> Command {
    Command::Put(Put {
        key: Bytes::from(key.to_owned()),
        value: Bytes::from(value.to_owned()),
        ..Put::default()
    })
}

/// Writes through `node`, trying again while the outcome is known to be nothing.
fn write(node: &Node, key: &str, value: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        let command = put(key, value);
        match block_on(node.handle().write(GroupId::KEYSPACE, command, REQUEST)) {
            Ok(Outcome::Put { .. }) => return,
            outcome => assert!(Instant::now() < until, "{outcome:?}"),
        }
    }
}

/// A linearizable read.
fn read(node: &Node, key: &str) -> Option<String> {
    let until = Instant::now() + PATIENCE;
    while let Err(error) = block_on(node.handle().read_barrier(GroupId::KEYSPACE, REQUEST)) {
        assert!(Instant::now() < until, "{error}");
    }
    let reader = node.handle().reader(GroupId::KEYSPACE).expect("the engine reads");
    let found = reader.get(&Bytes::from(key.to_owned())).expect("the engine reads")?;
    Some(String::from_utf8(found.value.to_vec()).expect("text"))
}

fn leader(nodes: &[&Node]) -> NodeId {
    let until = Instant::now() + PATIENCE;
    loop {
        let leaders: Vec<_> =
            nodes.iter().map(|node| node.handle().leader(GroupId::KEYSPACE)).collect();
        if let Some(leader) = leaders[0]
            && leaders.iter().all(|other| *other == Some(leader))
        {
            return leader;
        }
        assert!(Instant::now() < until, "no leader: {leaders:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn http_get(address: SocketAddr, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}

#[test]
fn a_single_node_serves_at_once_and_remembers() {
    let plan = Plan::new([24_000]);
    let begun = Instant::now();
    let node = plan.start(0);
    write(&node, "key", "first");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?} to the first write", begun.elapsed());
    assert_eq!(read(&node, "key").as_deref(), Some("first"));
    assert_eq!(read(&node, "other"), None);
    node.stop().expect("stops in good order");

    let node = plan.start(0);
    assert_eq!(read(&node, "key").as_deref(), Some("first"));
    write(&node, "key", "second");
    assert_eq!(read(&node, "key").as_deref(), Some("second"));
    node.stop().expect("stops");
}

/// However a member hears of it: from its own log, or from a peer.
#[test]
fn a_removed_member_remembers_it() {
    let plan = Plan::new([24_005]);
    let node = plan.start(0);
    write(&node, "key", "value");
    node.handle().shared.log.push(LogEvent::Removed.into());
    let why = node.wait().expect_err("it must stop");
    assert!(why.contains("was removed from the cluster and stops"), "{why}");
    let Err(refusal) = Node::start(&plan.config(0)) else { panic!("it should be refused") };
    assert!(refusal.contains("is of a member that was removed"), "{refusal}");
}

#[test]
fn a_second_start_and_taken_ports_are_refused_in_plain_sentences() {
    let plan = Plan::new([24_010]);
    let node = plan.start(0);
    let refused = |config: &NodeConfig| match Node::start(config) {
        Ok(_) => panic!("it should be refused"),
        Err(sentence) => sentence,
    };
    let sentence = refused(&plan.config(0));
    assert!(sentence.contains("is in use by another process (pid"), "{sentence}");

    let elsewhere = Plan::new([24_010]);
    let sentence = refused(&elsewhere.config(0));
    assert_eq!(sentence, "peer address 127.0.0.1:24010 is in use by another process");
    node.stop().expect("stops");
}

/// Other settings may found another cluster there, or restore one.
#[test]
fn a_first_start_that_is_refused_leaves_the_directory_nobodys() {
    let lines = [
        ("auth-token = 'jwt,sign-method=RS256,priv-key=/no/such/file'", "/no/such/file"),
        ("auto-tls = true\npeer-auto-tls = true\ninitial-cluster-state = 'existing'", "to join"),
    ];
    for (lines, named) in lines {
        let plan = Plan::new([24_015]).with(lines);
        let Err(sentence) = Node::start(&plan.config(0)) else { panic!("it should be refused") };
        assert!(sentence.contains(named), "{sentence}");
        let directory = plan.directory(0);
        DataDirectory::refuse_if_not_empty(&directory).expect("a restore may begin");
        assert_eq!(DataDirectory::open(&directory).expect("as new").identity(), None);
    }
}

#[test]
fn the_admin_endpoint_tells_where_the_node_stands() {
    let plan = Plan::new([24_020]);
    let node = plan.start(0);
    write(&node, "key", "value");
    let status = http_get(node.addresses().admin, "/status");
    let body = status.split("\r\n\r\n").nth(1).expect("a body");
    let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(json["name"], "n0");
    assert_eq!(json["leader"], json["member_id"]);
    assert!(json["applied"].as_u64() > Some(0) && json["log_bytes"].as_u64() > Some(0), "{json}");
    assert!(json["sync_p50_microseconds"].as_u64() > Some(0), "{json}");
    assert_eq!(json["groups"].as_array().map(Vec::len), Some(2));
    let metrics = http_get(node.addresses().admin, "/metrics");
    assert!(metrics.contains("etcd_server_has_leader 1\n"), "{metrics}");
    assert!(http_get(node.addresses().admin, "/health").contains("\"true\""));
    node.stop().expect("stops");
}

#[test]
fn three_nodes_serve_on_every_member_and_survive_the_end_of_one() {
    let plan = Plan::new(24_030..24_033);
    let mut nodes: Vec<Option<Node>> = (0..3).map(|member| Some(plan.start(member))).collect();
    for (at, node) in nodes.iter().flatten().enumerate() {
        write(node, &format!("key {at}"), "value");
    }
    for node in nodes.iter().flatten() {
        for at in 0..3 {
            assert_eq!(read(node, &format!("key {at}")).as_deref(), Some("value"));
        }
    }
    let first = leader(&nodes.iter().flatten().collect::<Vec<_>>());
    let leads = nodes.iter().flatten().position(|node| node.handle().member_id() == first);
    let leads = leads.expect("the leader is one of them");
    nodes[leads].take().expect("it runs").stop().expect("stops");
    let stopped = Instant::now();
    let survivors: Vec<&Node> = nodes.iter().flatten().collect();
    write(survivors[0], "after", "failover");
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(5), "the first write took {took:?}");
    assert_ne!(leader(&survivors), first);
    assert_eq!(read(survivors[1], "after").as_deref(), Some("failover"));

    let returned = plan.start(leads);
    assert_eq!(read(&returned, "after").as_deref(), Some("failover"), "it catches up");
    write(&returned, "returned", "value");
    assert_eq!(read(survivors[0], "returned").as_deref(), Some("value"));
}

#[test]
fn an_emptied_data_directory_is_noticed_by_the_others() {
    let plan = Plan::new(24_040..24_043);
    let mut nodes: Vec<Node> = (0..3).map(|member| plan.start(member)).collect();
    for node in &nodes {
        write(node, "key", "value");
    }
    // Every member has registered once its own writes pass, group 0 before group 1 or not.
    let until = Instant::now() + PATIENCE;
    let registered = |node: &Node| {
        let reader = node.handle().reader(GroupId::CONSISTENT_CORE).expect("reads");
        let members = reader.members().expect("reads");
        members.iter().filter(|member| member.directory_id != 0).count() == 3
    };
    while !nodes.iter().all(registered) {
        assert!(Instant::now() < until, "the members do not register");
        std::thread::sleep(Duration::from_millis(10));
    }
    nodes.pop().expect("three").stop().expect("stops");
    std::fs::remove_dir_all(plan.directory(2)).expect("emptied");
    let emptied = plan.start(2);
    let sentence = emptied.wait().expect_err("it has to stop");
    assert!(sentence.contains("emptied or replaced"), "{sentence}");
    write(&nodes[0], "key", "without it");
}

#[test]
fn writes_are_refused_while_space_is_short_and_taken_again_after() {
    let plan = Plan::new([24_050]);
    let file = plan.root.path().join("free");
    let lines = format!("test-free-space-file = '{}'\n", file.display());
    let plan = plan.with(&lines);
    let mut config = plan.config(0);
    config.reserve_bytes = 1 << 20;
    let node = Node::start(&config).expect("starts");
    write(&node, "key", "before");
    std::fs::write(&file, "1000").expect("write");
    let until = Instant::now() + PATIENCE;
    let try_put =
        || block_on(node.handle().write(GroupId::KEYSPACE, put("key", "during"), REQUEST));
    while try_put() != Err(replica::RequestError::NoSpace) {
        assert!(Instant::now() < until, "writes are still taken");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(read(&node, "key").is_some(), "reads go on");
    std::fs::write(&file, "100000000").expect("write");
    write(&node, "key", "after");
    assert_eq!(read(&node, "key").as_deref(), Some("after"));
    node.stop().expect("stops");
}

#[test]
fn watches_hear_of_writes_and_only_of_later_ones() {
    let plan = Plan::new([24_060]);
    let node = plan.start(0);
    write(&node, "key", "before");
    block_on(async {
        let (sender, mut receiver) = node.handle().open_watch_stream();
        let request = store::WatchRequest {
            watch_id: None,
            keys: KeyRange::Key(Bytes::from_static(b"key")),
            start_revision: 0,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            progress_notify: false,
            fragment: false,
        };
        sender.create(None, request).await;
        let created = receiver.next().await.expect("an answer").response.clone();
        assert!(created.created, "{created:?}");
        let command = put("key", "after");
        node.handle().write(GroupId::KEYSPACE, command, REQUEST).await.expect("written");
        let heard = receiver.next().await.expect("an event");
        assert_eq!(heard.response.events[0].pair.value, "after");
    });
    node.stop().expect("stops");
}

#[test]
fn a_failing_disk_stops_the_node_with_a_sentence() {
    let plan = Plan::new([24_070]);
    let node = plan.start(0);
    write(&node, "key", "value");
    node.ending.fail("the disk is on fire".to_owned());
    assert_eq!(node.wait(), Err("the disk is on fire".to_owned()));
    assert!(Path::new(&plan.directory(0)).exists());
}

/// The clock, the log and the applier together: the time to live is kept, and not much more.
#[test]
fn a_lease_ends_by_itself_and_its_keys_with_it() {
    let plan = Plan::new([24_090]);
    let node = plan.start(0);
    let until = Instant::now() + PATIENCE;
    let ask = |command| block_on(node.handle().write(GroupId::KEYSPACE, command, REQUEST));
    let grant = Command::LeaseGrant { id: 7, ttl_s: 1 };
    let granted = loop {
        // Not before the cluster writes the level that knows leases.
        let asked = Instant::now();
        match ask(grant.clone()) {
            Ok(Outcome::LeaseGranted { .. }) => break asked,
            other => assert!(Instant::now() < until, "{other:?}"),
        }
    };
    let attached = Put { key: "held".into(), lease: 7, ..Put::default() };
    ask(Command::Put(attached)).expect("the lease lives");
    while read(&node, "held").is_some() {
        assert!(Instant::now() < until, "it never ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(granted.elapsed() >= Duration::from_secs(1), "it ended early");
    let renewed = ask(Command::LeaseRenew { ids: vec![7] });
    assert!(matches!(renewed, Ok(Outcome::LeasesRenewed { ttls_s, .. }) if ttls_s == [0]));
    node.stop().expect("it stops");
}
