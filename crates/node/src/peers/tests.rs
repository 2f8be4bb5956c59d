//! Two networks, and strangers of all kinds, over loopback.

use super::*;
use crate::update_queue::QueueLimits;
use bytes::{Bytes, BytesMut};
use clocks::{GroupId, LogPosition, Term};
use consensus::{Body, Membership, Message};
use replica::LogEvent;
use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::peer::{Hello, PREAMBLE, PROTOCOL_VERSION, Question, decode_frame, encode_welcome};

const CLUSTER: u64 = 0xc1;
const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// What a test lets the consistent core know.
#[derive(Clone, Default)]
struct Known {
    addresses: Arc<Mutex<BTreeMap<NodeId, String>>>,
    removed: BTreeSet<NodeId>,
    directories: BTreeMap<NodeId, u128>,
    is_cut_off: bool,
}

impl MemberDirectory for Known {
    fn addresses(&self, member: NodeId) -> Vec<String> {
        self.addresses.lock().expect("no panic").get(&member).cloned().into_iter().collect()
    }

    fn directory_id(&self, member: NodeId) -> u128 {
        self.directories.get(&member).copied().unwrap_or(0)
    }

    fn feature_level(&self) -> u32 {
        1
    }

    fn is_removed(&self, member: NodeId) -> bool {
        self.removed.contains(&member)
    }

    fn members(&self) -> Vec<DiscoveredMember> {
        let added = DiscoveredMember {
            id: NodeId(7),
            addresses: vec!["10.0.0.7:2380".to_owned()],
            ..DiscoveredMember::default()
        };
        vec![added]
    }

    fn settle(&self) -> BoxFuture<'_, Result<(), String>> {
        let settled = if self.is_cut_off { Err("nobody leads".to_owned()) } else { Ok(()) };
        Box::pin(async { settled })
    }
}

struct Node {
    network: PeerNetwork,
    log: UpdateQueue<LogInput>,
    meters: Arc<Meters>,
    expelled: mpsc::Receiver<Expelled>,
    stopping: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
    seen: VecDeque<LogEvent>,
}

fn listener() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

fn start(id: NodeId, known: Known, listener: std::net::TcpListener) -> Node {
    let local = LocalPeer {
        cluster: CLUSTER,
        id,
        directory_id: u128::from(id.0),
        feature_level: 1,
        user_timeout: Duration::from_secs(2),
    };
    let log = UpdateQueue::new(QueueLimits { items: 1 << 20, bytes: 1 << 30 });
    let meters = Arc::new(Meters::default());
    let (sender, expelled) = mpsc::channel();
    let on_expelled = Box::new(move |why| {
        // The test may have ended.
        let _ = sender.send(why);
    });
    let (directory, held) = (Box::new(known), Arc::clone(&meters));
    let network = PeerNetwork::new(local, directory, log.clone(), held, None, on_expelled);
    network.connect_to([FIRST, SECOND]);
    let (stopping, stopped) = watch::channel(false);
    let running = network.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("runtime").block_on(async {
            let listener = TcpListener::from_std(listener).expect("listener");
            running.run(vec![listener], stopped).await;
        });
    });
    let (thread, seen) = (Some(thread), VecDeque::new());
    Node { network, log, meters, expelled, stopping, thread, seen }
}

impl Node {
    /// The next event, releasing the room that it took.
    fn next(&mut self) -> LogEvent {
        if self.seen.is_empty() {
            let mut batch = VecDeque::new();
            self.log.take(&mut batch, Some(PATIENCE));
            self.seen.extend(batch.into_iter().map(|input| input.event));
        }
        self.seen.pop_front().expect("an event within the test's patience")
    }

    fn expect_connected(&mut self, peer: NodeId) {
        let event = self.next();
        assert!(matches!(&event, LogEvent::Connected(id) if *id == peer), "{event:?}");
    }

    fn expect_disconnected(&mut self, peer: NodeId) {
        loop {
            match self.next() {
                LogEvent::Disconnected(id) if id == peer => return,
                LogEvent::Peer { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }

    fn expect_round(&mut self, peer: NodeId, expected: u64) {
        let event = self.next();
        let LogEvent::Peer { from, message: PeerMessage::ReadIndex { round, .. } } = event else {
            panic!("{event:?}");
        };
        assert_eq!((from, round), (peer, expected));
    }

    fn stop(&mut self) {
        self.stopping.send_replace(true);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the network stops");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
    }
}

fn round(number: u64) -> PeerMessage {
    PeerMessage::ReadIndex { group: GroupId(1), round: number }
}

fn snapshot_chunk(bytes: usize) -> PeerMessage {
    PeerMessage::Consensus(Message {
        group: GroupId(1),
        from: SECOND,
        to: FIRST,
        term: Term(1),
        body: Body::SnapshotChunk {
            position: LogPosition::new(Term(1), 1),
            membership: Membership::of_voters([FIRST, SECOND]),
            chunk: 0,
            data: Bytes::from(vec![0; bytes]),
            done: false,
        },
    })
}

fn hello(directory_id: u128) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: CLUSTER,
        sender: FIRST,
        receiver: SECOND,
        feature_level: 1,
        directory_id,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("runtime").block_on(future)
}

/// Calls `address` as the first member would, and hears the answer.
async fn introduce_as_first(address: &str, hello: Hello) -> (TcpStream, wire::peer::Frame) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let mut words = BytesMut::from(&PREAMBLE[..]);
    hello.encode(&mut words);
    stream.write_all(&words).await.expect("hello");
    let mut received = BytesMut::new();
    loop {
        assert_ne!(stream.read_buf(&mut received).await.expect("an answer"), 0, "closed");
        if received.len() < PREAMBLE.len() {
            continue;
        }
        let mut frames = received.clone().split_off(PREAMBLE.len());
        if let Some(frame) = decode_frame(&mut frames).expect("a frame") {
            return (stream, frame);
        }
    }
}

async fn join_as_first(address: &str) -> TcpStream {
    let (mut stream, answer) = introduce_as_first(address, hello(1)).await;
    Hello::decode(answer).expect("decodes").expect("not refused");
    let mut words = BytesMut::new();
    encode_welcome(&mut words);
    stream.write_all(&words).await.expect("welcome");
    stream
}

fn both(first: String, second: String) -> Arc<Mutex<BTreeMap<NodeId, String>>> {
    Arc::new(Mutex::new([(FIRST, first), (SECOND, second)].into_iter().collect()))
}

fn pair() -> (Node, Node, Known) {
    let ((first_listener, first), (second_listener, second)) = (listener(), listener());
    let addresses = both(first, second);
    let known = Known { addresses, ..Known::default() };
    let first = start(FIRST, known.clone(), first_listener);
    let second = start(SECOND, known.clone(), second_listener);
    (first, second, known)
}

#[test]
fn messages_flow_both_ways_and_a_stop_is_heard_at_once() {
    let (mut first, mut second, known) = pair();
    first.expect_connected(SECOND);
    second.expect_connected(FIRST);
    for number in 0..1000 {
        first.network.send(SECOND, round(number));
        second.network.send(FIRST, round(number));
    }
    for number in 0..1000 {
        first.expect_round(SECOND, number);
        second.expect_round(FIRST, number);
    }
    let address = known.addresses(SECOND).remove(0);
    let stopped_at = Instant::now();
    second.stop();
    first.expect_disconnected(SECOND);
    assert!(stopped_at.elapsed() < Duration::from_millis(500), "{:?}", stopped_at.elapsed());
    first.network.send(SECOND, round(9));
    assert!(first.meters.peer("2").dropped.get() >= 1, "nothing is kept for the absent");

    let listener = std::net::TcpListener::bind(&address).expect("the port again");
    listener.set_nonblocking(true).expect("nonblocking");
    let mut second = start(SECOND, known, listener);
    first.expect_connected(SECOND);
    second.expect_connected(FIRST);
    first.network.send(SECOND, round(10));
    second.expect_round(FIRST, 10);
}

#[test]
fn garbage_is_sent_off_and_harms_nobody() {
    let (mut first, mut second, known) = pair();
    first.expect_connected(SECOND);
    second.expect_connected(FIRST);
    let address = &known.addresses(SECOND)[0];
    let mut long = BytesMut::from(&PREAMBLE[..]);
    long.extend_from_slice(&(8_u32 << 20).to_be_bytes());
    long.extend_from_slice(&[0; 64 << 10]);
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 100_000],
        b"quorate\x01\xff\xff\xff\xff\0\0\0\0\0",
        &long,
    ];
    for bytes in garbage {
        block_on(async {
            let mut stranger = TcpStream::connect(address).await.expect("connects");
            // It may be closed before everything is written.
            let _ = stranger.write_all(bytes).await;
            let mut answer = Vec::new();
            let closed = tokio::time::timeout(PATIENCE, stranger.read_to_end(&mut answer)).await;
            assert!(closed.is_ok(), "the stranger is not kept");
        });
    }
    first.network.send(SECOND, round(1));
    second.expect_round(FIRST, 1);
}

#[test]
fn garbage_after_the_handshake_ends_the_connection() {
    let (listener, address) = listener();
    let mut second = start(SECOND, Known::default(), listener);
    for bytes in [&[0_u8; 32][..], b"\xff\xff\xff\xff\0\0\0\0\0"] {
        block_on(async {
            let mut stream = join_as_first(&address).await;
            second.expect_connected(FIRST);
            stream.write_all(bytes).await.expect("written");
            let mut rest = Vec::new();
            // Closed or reset: ended either way.
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        });
        second.expect_disconnected(FIRST);
    }
}

#[test]
fn a_member_speaks_only_for_itself() {
    let (listener, address) = listener();
    let mut second = start(SECOND, Known::default(), listener);
    block_on(async {
        let mut stream = join_as_first(&address).await;
        second.expect_connected(FIRST);
        let mut forged = BytesMut::new();
        // From the second member, to the first: not the first's to say.
        wire::peer::encode_message(&mut forged, &snapshot_chunk(10));
        stream.write_all(&forged).await.expect("written");
        second.expect_disconnected(FIRST);
    });
}

#[test]
fn silent_strangers_keep_no_member_out() {
    let (listener, address) = listener();
    let mut second = start(SECOND, Known::default(), listener);
    block_on(async {
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(&address).await.expect("connects"));
        }
        let _stream = join_as_first(&address).await;
        second.expect_connected(FIRST);
    });
}

#[test]
fn strangers_are_refused_with_a_reason() {
    let (listener, address) = listener();
    let directories = [(FIRST, 77)].into_iter().collect();
    let second = start(SECOND, Known { directories, ..Known::default() }, listener);
    let sound = hello(77);
    let cases = [
        (Hello { cluster_id: 9, ..sound }, RefusalReason::OtherCluster),
        (Hello { receiver: NodeId(5), ..sound }, RefusalReason::OtherMember),
        (Hello { sender: NodeId(3), ..sound }, RefusalReason::NotAMember),
        (Hello { feature_level: 0, ..sound }, RefusalReason::FeatureLevel),
        (Hello { directory_id: 78, ..sound }, RefusalReason::OtherDirectory),
    ];
    for (hello, reason) in cases {
        let (_, answer) = block_on(introduce_as_first(&address, hello));
        let refusal = Hello::decode(answer).expect("decodes").expect_err("refused");
        assert_eq!(refusal.reason, reason);
    }
    assert_eq!(second.log.len(), 0, "nobody was let in");
}

/// What it has applied may be of before the one who asks was removed, or added.
#[test]
fn a_member_that_cannot_ask_a_leader_says_nothing_of_the_members() {
    let (listener, address) = listener();
    let _second = start(SECOND, Known { is_cut_off: true, ..Known::default() }, listener);
    let question = Question { feature_level: 1, addresses: vec!["10.0.0.7:2380".to_owned()] };
    let refusal = block_on(async { super::ask(None, &address, &question).await });
    assert!(refusal.expect_err("it may not know").contains("nobody leads"));
}

#[test]
fn an_emptied_directory_stops_its_member_whoever_calls() {
    for knows_better in [FIRST, SECOND] {
        let ((first_listener, first), (second_listener, second)) = (listener(), listener());
        let addresses = both(first, second);
        let ignorant = Known { addresses, ..Known::default() };
        let other = if knows_better == FIRST { SECOND } else { FIRST };
        let directories = [(other, 0xdead)].into_iter().collect();
        let knowing = Known { directories, ..ignorant.clone() };
        let pick = |id| if id == knows_better { knowing.clone() } else { ignorant.clone() };
        let first = start(FIRST, pick(FIRST), first_listener);
        let second = start(SECOND, pick(SECOND), second_listener);
        let emptied = if other == FIRST { &first } else { &second };
        let expelled = emptied.expelled.recv_timeout(PATIENCE).expect("it has to stop");
        assert_eq!(expelled, Expelled::OtherDirectory { by: knows_better });
    }
}

#[test]
fn a_removed_member_is_told_so_whoever_should_call() {
    for knows_better in [FIRST, SECOND] {
        let ((first_listener, first), (second_listener, second)) = (listener(), listener());
        let ignorant = Known { addresses: both(first, second), ..Known::default() };
        let gone = if knows_better == FIRST { SECOND } else { FIRST };
        let knowing = Known { removed: [gone].into_iter().collect(), ..ignorant.clone() };
        let pick = |id| if id == knows_better { knowing.clone() } else { ignorant.clone() };
        let first = start(FIRST, pick(FIRST), first_listener);
        let second = start(SECOND, pick(SECOND), second_listener);
        let (keeper, leaver) = if gone == FIRST { (&second, &first) } else { (&first, &second) };
        // As the log machine does once the removal is in force.
        keeper.network.connect_to([knows_better]);
        let early = leaver.expelled.recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "a group may need it still: {early:?}");
        keeper.network.tell_removed(true);
        let expelled = leaver.expelled.recv_timeout(PATIENCE).expect("it has to stop");
        assert_eq!(expelled, Expelled::Removed { by: knows_better });
    }
}

#[test]
fn a_member_that_moved_is_called_at_its_new_address() {
    let (mut first, mut second, known) = pair();
    first.expect_connected(SECOND);
    second.expect_connected(FIRST);
    let (listener, moved_to) = listener();
    known.addresses.lock().expect("no panic").insert(SECOND, moved_to);
    let mut moved = start(SECOND, known, listener);
    first.network.directory_changed();
    first.expect_disconnected(SECOND);
    first.expect_connected(SECOND);
    moved.expect_connected(FIRST);
    second.expect_disconnected(FIRST);
}

#[test]
fn who_is_no_member_may_ask_who_the_members_are() {
    let (listener, address) = listener();
    let second = start(SECOND, Known::default(), listener);
    let ask = |feature_level| {
        let addresses = vec!["10.0.0.7:2380".to_owned()];
        block_on(async { super::ask(None, &address, &Question { feature_level, addresses }).await })
    };
    let answer = ask(1).expect("answered");
    assert_eq!((answer.cluster_id, answer.members.len()), (CLUSTER, 1));
    let refusal = ask(0).expect_err("too old");
    assert!(refusal.contains("the cluster already uses 1: start a newer"), "{refusal}");
    assert_eq!(second.log.len(), 0, "nobody was let in");
}

#[test]
fn a_returning_member_replaces_its_half_open_connection() {
    let (listener, address) = listener();
    let mut second = start(SECOND, Known::default(), listener);
    block_on(async {
        let _lost_without_a_word = join_as_first(&address).await;
        second.expect_connected(FIRST);
        let mut again = join_as_first(&address).await;
        second.expect_disconnected(FIRST);
        second.expect_connected(FIRST);
        let mut bytes = BytesMut::new();
        wire::peer::encode_message(&mut bytes, &round(7));
        again.write_all(&bytes).await.expect("written");
        second.expect_round(FIRST, 7);
    });
}

#[test]
fn a_slow_reader_costs_bounded_memory_and_urgent_messages_overtake() {
    let (listener, address) = listener();
    let mut second = start(SECOND, Known::default(), listener);
    block_on(async {
        let mut slow = join_as_first(&address).await;
        second.expect_connected(FIRST);
        for _ in 0..200 {
            second.network.send(FIRST, snapshot_chunk(1 << 20));
        }
        let dropped = second.meters.peer("1").dropped.get();
        assert!((100..200).contains(&dropped), "{dropped} of 200 MiB were dropped");
        // Let the socket fill up before something urgent comes.
        tokio::time::sleep(Duration::from_millis(300)).await;
        second.network.send(FIRST, round(1));
        let (mut received, mut before) = (BytesMut::new(), 0);
        'reading: loop {
            assert_ne!(slow.read_buf(&mut received).await.expect("reads"), 0);
            while let Some(frame) = decode_frame(&mut received).expect("frames") {
                match wire::peer::decode_message(frame).expect("messages") {
                    PeerMessage::ReadIndex { .. } => break 'reading,
                    _ => before += 1,
                }
            }
        }
        assert!(before < 16, "{before} MiB went before the urgent message");
    });
}

#[test]
fn what_the_log_machine_does_not_take_is_not_read() {
    let (listener, address) = listener();
    let mut second = start(SECOND, Known::default(), listener);
    block_on(async {
        let mut stream = join_as_first(&address).await;
        second.expect_connected(FIRST);
        let group = GroupId(1);
        let mut bytes = BytesMut::new();
        let propose = PeerMessage::Propose { group, commands: vec![Bytes::from(vec![0; 1 << 20])] };
        wire::peer::encode_message(&mut bytes, &propose);
        let mut written = 0;
        while let Ok(done) =
            tokio::time::timeout(Duration::from_millis(500), stream.write_all(&bytes)).await
        {
            done.expect("written");
            written += 1;
            assert!(written < 64, "the sender is never held back");
        }
        assert!(second.log.len() <= 17, "{} MiB are queued", second.log.len());
        let mut batch = VecDeque::new();
        second.log.take(&mut batch, Some(PATIENCE));
        drop(batch);
        second.log.take(&mut VecDeque::new(), Some(PATIENCE));
    });
}
