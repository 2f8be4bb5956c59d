//! Link Proxy: members reach each other through here, so that each direction of each pair can be
//! cut, delayed, narrowed or reset by itself, whatever program the members run.
//!
//! One listener per member, under the only address that the others know of it; who calls there is
//! told by who holds the socket (`socket_owner`). On a thread of its own: what is measured by
//! clients does not wait for it. Invariants: bytes of one direction keep their order and none is
//! lost (a cut holds them back, as a network does that TCP repeats itself over); what is held is
//! bounded, then the sender waits. Not here: when which fault is due (`chaos_plan`).

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::port_plan;
use crate::seeded_choice::SeededChoice;
use crate::socket_owner;

/// Read at a time.
const CHUNK_BYTES: usize = 16 << 10;

/// Chunks on the way in one direction of one connection.
const CHUNKS_ON_THE_WAY: usize = 64;

/// A segment that was lost is sent again after this: the least that Linux waits.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// What happens to bytes from one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkRule {
    /// Nothing arrives.
    pub(crate) is_cut: bool,
    /// Everything arrives this much later …
    pub(crate) delay: Duration,
    /// … and up to this much later still.
    pub(crate) jitter: Duration,
    /// One chunk in so many is lost and sent again; 0: none.
    pub(crate) lost_one_in: u64,
    /// 0: as fast as it goes.
    pub(crate) bytes_per_second: u64,
}

impl LinkRule {
    /// Nothing arrives.
    pub(crate) const CUT: LinkRule = LinkRule {
        is_cut: true,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        lost_one_in: 0,
        bytes_per_second: 0,
    };
}

/// From whom to whom.
type Direction = (usize, usize);

#[derive(Debug, Clone, Default)]
struct Rules {
    /// Directions that are not listed do nothing to what passes.
    links: BTreeMap<Direction, LinkRule>,
    /// Connections that began before the last one are closed.
    resets: u64,
    /// Of each member, while it runs.
    processes: Vec<Option<u32>>,
}

impl Rules {
    fn of(&self, direction: Direction) -> LinkRule {
        self.links.get(&direction).copied().unwrap_or_default()
    }
}

/// All links of one cluster; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct LinkProxies {
    rules: watch::Sender<Rules>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LinkProxies {
    /// Listens at `proxies[i]` for `members[i]`.
    ///
    /// # Errors
    /// One sentence about an address that cannot be listened on.
    pub(crate) fn start(proxies: &[String], members: &[String]) -> Result<LinkProxies, String> {
        assert_eq!(proxies.len(), members.len(), "one proxy per member");
        let bind = |address: &String| {
            let listener = StdListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let mut doors = Vec::new();
        for (proxy, member) in proxies.iter().zip(members) {
            let listener = bind(proxy).map_err(|error: io::Error| match error.kind() {
                io::ErrorKind::AddrInUse => port_plan::taken(proxy, None),
                _ => format!("cannot listen on {proxy}: {error}"),
            })?;
            doors.push((listener, member.clone()));
        }
        let rules = watch::Sender::new(Rules::default());
        let (stop, stopped) = oneshot::channel();
        let seen = rules.subscribe();
        let thread = std::thread::Builder::new()
            .name("links".to_owned())
            .spawn(move || carry_all(doors, &seen, stopped))
            .map_err(|error| format!("cannot start the links' thread: {error}"))?;
        Ok(LinkProxies { rules, stop: Some(stop), thread: Some(thread) })
    }

    /// Who runs: called after every start of a member.
    pub(crate) fn set_processes(&self, processes: Vec<Option<u32>>) {
        self.rules.send_modify(|rules| rules.processes = processes);
    }

    /// From now on these directions follow their rules, and all others none.
    pub(crate) fn set(&self, links: BTreeMap<(usize, usize), LinkRule>) {
        self.rules.send_modify(|rules| rules.links = links);
    }

    /// Everything arrives again, what was held first.
    pub(crate) fn heal(&self) {
        self.set(BTreeMap::new());
    }

    /// Closes every connection that there is.
    pub(crate) fn reset(&self) {
        self.rules.send_modify(|rules| rules.resets += 1);
    }
}

impl Drop for LinkProxies {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn carry_all(
    doors: Vec<(StdListener, String)>,
    rules: &watch::Receiver<Rules>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime of one thread needs nothing that can be missing");
    runtime.block_on(async {
        let mut accepting = JoinSet::new();
        for (to, (listener, target)) in doors.into_iter().enumerate() {
            let listener = TcpListener::from_std(listener).expect("a listener that was bound");
            accepting.spawn(accept(listener, to, target, rules.clone()));
        }
        // Dropping the tasks closes their connections; an error says that nobody wants more.
        let _ = stopped.await;
    });
}

async fn accept(listener: TcpListener, to: usize, target: String, rules: watch::Receiver<Rules>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(relay(stream, to, target.clone(), rules.clone()));
            }
            // Of that connection, or out of files: the next one may do better.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One connection, to its end.
async fn relay(near: TcpStream, to: usize, target: String, mut rules: watch::Receiver<Rules>) {
    // Whoever cannot be told is sent off, and calls again.
    let Some(from) = caller(&near, &rules) else { return };
    let began = rules.borrow().resets;
    // The sender outlives its receivers, or all of this ends.
    let _ = rules.wait_for(|rules| !rules.of((from, to)).is_cut).await;
    let Ok(far) = TcpStream::connect(&target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    let reset = rules.clone();
    tokio::select! {
        _ = carry(near_reads, far_writes, (from, to), rules.clone()) => {}
        _ = carry(far_reads, near_writes, (to, from), rules.clone()) => {}
        _ = async { { reset }.wait_for(|rules| rules.resets != began).await.map(drop) } => {}
    }
}

fn caller(stream: &TcpStream, rules: &watch::Receiver<Rules>) -> Option<usize> {
    let (caller, called) = (stream.peer_addr().ok()?, stream.local_addr().ok()?);
    let processes = rules.borrow().processes.clone();
    socket_owner::owner(caller, called, &processes)
}

/// One direction: what is read goes onto the way, and arrives when it is due.
async fn carry(
    mut source: impl AsyncRead + Unpin,
    mut sink: impl AsyncWrite + Unpin,
    direction: Direction,
    rules: watch::Receiver<Rules>,
) -> io::Result<()> {
    let (way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_ON_THE_WAY);
    let departure = rules.clone();
    let reading = async move {
        let mut choice = SeededChoice::new(1, (direction.0 * 64 + direction.1) as u64);
        let mut last_due = Instant::now();
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let count = source.read(&mut chunk).await?;
            if count == 0 {
                return Ok::<(), io::Error>(());
            }
            chunk.truncate(count);
            let rule = departure.borrow().of(direction);
            last_due = last_due.max(Instant::now() + delay(&rule, &mut choice));
            if way.send((last_due, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        let mut rules = rules;
        while let Some((due, chunk)) = arriving.recv().await {
            tokio::time::sleep_until(due).await;
            let rule = rules.wait_for(|rules| !rules.of(direction).is_cut).await;
            let rule = rule.map_or_else(|_| LinkRule::default(), |rules| rules.of(direction));
            sink.write_all(&chunk).await?;
            if rule.bytes_per_second > 0 {
                let seconds = chunk.len() as f64 / rule.bytes_per_second as f64;
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            }
        }
        sink.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}

fn delay(rule: &LinkRule, choice: &mut SeededChoice) -> Duration {
    let jitter = u64::try_from(rule.jitter.as_micros()).unwrap_or(u64::MAX - 1);
    let mut delay = rule.delay + Duration::from_micros(choice.below(jitter + 1));
    if rule.lost_one_in > 0 && choice.below(rule.lost_one_in) == 0 {
        delay += RETRANSMISSION;
    }
    delay
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const A_WHILE: Duration = Duration::from_millis(150);

    /// A member that answers with what it hears, and a proxy before it; both "members" are us.
    struct Pair {
        proxies: LinkProxies,
        address: String,
    }

    async fn pair() -> Pair {
        let member = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let target = member.local_addr().expect("its address").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = member.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    tokio::io::copy(&mut reads, &mut writes).await.map(drop)
                });
            }
        });
        let free = StdListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address").to_string();
        drop(free);
        let proxies = LinkProxies::start(std::slice::from_ref(&address), &[target]);
        let proxies = proxies.expect("the port is free");
        // We are nobody but member 1, who calls member 0.
        proxies.set_processes(vec![None, Some(std::process::id())]);
        Pair { proxies, address }
    }

    impl Pair {
        fn rule(&self, direction: (usize, usize), rule: LinkRule) {
            self.proxies.set(BTreeMap::from([(direction, rule)]));
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(&self.address).await.expect("the proxy listens")
        }
    }

    async fn echo(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
        stream.write_all(text).await?;
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).await?;
        assert_eq!(heard, text);
        Ok(())
    }

    #[tokio::test]
    async fn what_passes_a_healthy_link_is_what_was_sent() {
        let pair = pair().await;
        let mut stream = pair.connect().await;
        let text: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        tokio::time::timeout(SOON, echo(&mut stream, b"hello")).await.expect("soon").expect("echo");
        let (mut reads, mut writes) = stream.split();
        let mut heard = vec![0; text.len()];
        let both = async { tokio::join!(writes.write_all(&text), reads.read_exact(&mut heard)) };
        tokio::time::timeout(SOON, both).await.expect("soon").0.expect("sent");
        assert!(heard == text, "order and content are kept");
    }

    #[tokio::test]
    async fn a_cut_holds_one_direction_back_until_it_is_healed() {
        for direction in [(1, 0), (0, 1)] {
            let pair = pair().await;
            let mut stream = pair.connect().await;
            echo(&mut stream, b"before").await.expect("echo");
            pair.rule(direction, LinkRule::CUT);
            let cut = tokio::time::timeout(A_WHILE, echo(&mut stream, b"during")).await;
            cut.expect_err("nothing arrives");
            pair.proxies.heal();
            let mut heard = [0; 6];
            let held = tokio::time::timeout(SOON, stream.read_exact(&mut heard)).await;
            held.expect("soon").expect("it was held, not lost");
            assert_eq!(&heard, b"during");
        }
    }

    #[tokio::test]
    async fn no_connection_comes_about_over_a_cut_link() {
        let pair = pair().await;
        pair.rule((1, 0), LinkRule::CUT);
        let mut stream = pair.connect().await;
        let cut = tokio::time::timeout(A_WHILE, echo(&mut stream, b"x")).await;
        cut.expect_err("nothing arrives");
    }

    #[tokio::test]
    async fn delay_and_bandwidth_take_their_time() {
        let pair = pair().await;
        let mut stream = pair.connect().await;
        echo(&mut stream, b"before").await.expect("echo");
        let slow = LinkRule { delay: Duration::from_millis(80), ..LinkRule::default() };
        pair.rule((0, 1), slow);
        let began = Instant::now();
        echo(&mut stream, b"x").await.expect("echo");
        assert!(began.elapsed() >= slow.delay, "{:?}", began.elapsed());
        pair.rule((1, 0), LinkRule { bytes_per_second: 100, ..LinkRule::default() });
        echo(&mut stream, &[7; 10]).await.expect("echo");
        let began = Instant::now();
        echo(&mut stream, b"x").await.expect("echo");
        assert!(began.elapsed() >= Duration::from_millis(60), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_reset_closes_what_there_is_and_nothing_later() {
        let pair = pair().await;
        let mut stream = pair.connect().await;
        echo(&mut stream, b"before").await.expect("echo");
        pair.proxies.reset();
        let ended = tokio::time::timeout(SOON, stream.read(&mut [0])).await.expect("soon");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        echo(&mut pair.connect().await, b"after").await.expect("echo");
    }

    #[tokio::test]
    async fn strangers_are_sent_off() {
        let pair = pair().await;
        pair.proxies.set_processes(vec![None, Some(1)]);
        let mut stream = pair.connect().await;
        let ended = tokio::time::timeout(SOON, stream.read(&mut [0])).await.expect("soon");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_refused() {
        let taken = StdListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("its address").to_string();
        let refusal = LinkProxies::start(std::slice::from_ref(&address), &["x".to_owned()]);
        let refusal = refusal.expect_err("somebody listens");
        assert!(refusal.starts_with(&format!("{address} is in use")), "{refusal}");
    }
}
