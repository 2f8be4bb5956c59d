//! Single-Socket Channel, the sockets: one TCP connection with every other member, on one thread.
//!
//! Of two members the one with the smaller id dials. Invariants: at most one connection per pair
//! is in use, and the log machine hears of its end before it hears of the next one's begin; what
//! is queued, in either direction, is bounded in bytes; a heartbeat never waits behind a snapshot.
//! Not here: frames and handshake (`wire::peer`), what messages mean (`replica`).

mod connection;
mod discovery;
mod doorstep;
mod handshake;
mod outgoing_queue;
mod secure_call;
#[cfg(test)]
mod tests;

use crate::LogInput;
use crate::injected_faults::injected;
use crate::meters::{Meters, PeerMeters};
use crate::tls::{CertificateRotation, Entrance, NotLetIn, SecureStream, TlsEntrance};
use crate::update_queue::UpdateQueue;
use clocks::NodeId;
use connection::Connection;
pub(crate) use discovery::ask;
use doorstep::Doorstep;
use handshake::HandshakeError;
use outgoing_queue::OutgoingQueue;
use replica::PeerMessage;
use socket2::{SockRef, TcpKeepalive};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wire::peer::{DiscoveredMember, Refusal, RefusalReason};

/// Shortest and longest pause between two calls; half of it is random.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a member that should call is called instead, to hear why it does not.
const KNOCK_INTERVAL: Duration = Duration::from_secs(3);
/// Bytes that the kernel holds unsent: what is queued beyond it can still be overtaken.
const UNSENT_BYTES: u32 = 256 << 10;
/// An idle connection is probed after this time, three times in this interval.
const PROBE_AFTER: Duration = Duration::from_secs(3);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// A future whose type does not matter.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the consistent core, or the initial cluster, knows of other members.
pub(crate) trait MemberDirectory: Send + Sync {
    /// Where the member's peers reach it (`host:port` each).
    fn addresses(&self, member: NodeId) -> Vec<String>;
    /// Identity of its data directory; 0 if unknown.
    fn directory_id(&self, member: NodeId) -> u128;
    /// What the cluster has raised the feature level to.
    fn feature_level(&self) -> u32;
    /// Whether the member was removed from the cluster.
    fn is_removed(&self, member: NodeId) -> bool;
    /// Every member, for one who asks before it is one.
    fn members(&self) -> Vec<DiscoveredMember>;
    /// Returns once the above is everything that any member acknowledged before the call, or with
    /// the reason why nobody can say.
    fn settle(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// What this member says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalPeer {
    pub(crate) cluster: u64,
    pub(crate) id: NodeId,
    pub(crate) directory_id: u128,
    pub(crate) feature_level: u32,
    /// Unacknowledged bytes end a connection after this time.
    pub(crate) user_timeout: Duration,
}

/// The other members, as the log thread sees them; clones share them.
#[derive(Clone)]
pub(crate) struct PeerNetwork {
    shared: Arc<Network>,
}

struct Network {
    local: LocalPeer,
    directory: Box<dyn MemberDirectory>,
    log: UpdateQueue<LogInput>,
    meters: Arc<Meters>,
    /// With it, every connection is under TLS.
    tls: Option<Arc<CertificateRotation>>,
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
    wanted: watch::Sender<BTreeSet<NodeId>>,
    /// Whether whoever else was removed is told so: no group may need it any more.
    tells_removed: AtomicBool,
    /// Moves on when the directory may say something else.
    news: watch::Sender<u64>,
    on_expelled: Box<dyn Fn(Expelled) + Send + Sync>,
}

/// Why another member wants nothing of this one any more: the node must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expelled {
    /// It knows this member by another data directory.
    OtherDirectory {
        /// Who says so.
        by: NodeId,
    },
    /// This member was removed from the cluster.
    Removed {
        /// Who says so.
        by: NodeId,
    },
}

struct Peer {
    id: NodeId,
    outgoing: OutgoingQueue,
    meters: Arc<PeerMeters>,
    /// Moves on when a newer connection wants to take over.
    newest: watch::Sender<u64>,
    /// Held by the connection in use.
    in_use: tokio::sync::Mutex<()>,
    /// The last complaint, so that one that repeats is told once.
    complaint: Mutex<String>,
}

impl PeerNetwork {
    pub(crate) fn new(
        local: LocalPeer,
        directory: Box<dyn MemberDirectory>,
        log: UpdateQueue<LogInput>,
        meters: Arc<Meters>,
        tls: Option<Arc<CertificateRotation>>,
        on_expelled: Box<dyn Fn(Expelled) + Send + Sync>,
    ) -> PeerNetwork {
        let (peers, wanted, news) =
            (Mutex::default(), watch::Sender::default(), watch::Sender::default());
        let tells_removed = AtomicBool::new(false);
        let shared = Network {
            local,
            directory,
            log,
            meters,
            tls,
            peers,
            wanted,
            tells_removed,
            news,
            on_expelled,
        };
        PeerNetwork { shared: Arc::new(shared) }
    }

    /// Queues a message; dropped if the peer is not connected or its queue is full.
    pub(crate) fn send(&self, to: NodeId, message: PeerMessage) {
        if injected().is_some_and(|faults| faults.drops_to(to)) {
            return;
        }
        let peer = self.shared.peers().get(&to).map(Arc::clone);
        match peer {
            Some(peer) if peer.outgoing.push(message) => {}
            Some(peer) => peer.meters.dropped.increment(),
            None => {}
        }
    }

    /// Connects to exactly these members (itself left out) from now on.
    pub(crate) fn connect_to(&self, members: impl IntoIterator<Item = NodeId>) {
        let own = self.shared.local.id;
        let members: BTreeSet<NodeId> = members.into_iter().filter(|id| *id != own).collect();
        let mut peers = self.shared.peers();
        peers.retain(|id, peer| {
            let stays = members.contains(id);
            if !stays {
                peer.end_connection();
            }
            stays
        });
        for id in &members {
            peers.entry(*id).or_insert_with(|| {
                let meters = self.shared.meters.peer(&id.to_string());
                Arc::new(Peer::new(*id, meters))
            });
        }
        drop(peers);
        self.shared.wanted.send_replace(members);
    }

    /// Whether callers that were removed, and that are not to be connected to, may be told so.
    /// Until this is said they may not.
    pub(crate) fn tell_removed(&self, may: bool) {
        self.shared.tells_removed.store(may, Ordering::Release);
    }

    /// The directory may say something else now.
    pub(crate) fn directory_changed(&self) {
        self.shared.news.send_modify(|number| *number += 1);
    }

    /// Serves until `stopping` turns true.
    pub(crate) async fn run(
        self,
        listeners: Vec<TcpListener>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let network = self.shared;
        let mut tasks = JoinSet::new();
        let entrance = match &network.tls {
            None => Entrance::Plain,
            Some(tls) => Entrance::Tls(Arc::new(TlsEntrance::new(Arc::clone(tls)))),
        };
        let doorstep = Doorstep::default();
        for listener in listeners {
            let (doorstep, entrance) = (doorstep.clone(), entrance.clone());
            tasks.spawn(accept(Arc::clone(&network), listener, doorstep, entrance));
        }
        let mut wanted = network.wanted.subscribe();
        let mut dialed = BTreeSet::new();
        loop {
            let members = wanted.borrow_and_update().clone();
            dialed.retain(|id| members.contains(id));
            for id in members {
                match id > network.local.id {
                    _ if !dialed.insert(id) => {}
                    true => drop(tasks.spawn(dial(Arc::clone(&network), id))),
                    false => drop(tasks.spawn(knock(Arc::clone(&network), id))),
                }
            }
            tokio::select! {
                // The sender lives in `network`.
                _ = wanted.changed() => {}
                _ = stopping.wait_for(|stopping| *stopping) => break,
            }
        }
        // Dropping the tasks closes their connections.
        tasks.shutdown().await;
    }
}

impl Network {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self, id: NodeId) -> Option<Arc<Peer>> {
        self.peers().get(&id).map(Arc::clone)
    }

    /// Where to try the member next.
    fn address(&self, id: NodeId, attempt: usize) -> Option<String> {
        let mut addresses = self.directory.addresses(id);
        let at = attempt.checked_rem(addresses.len())?;
        Some(addresses.swap_remove(at))
    }

    /// Returns once the member is not to be reached at `address` any more.
    async fn moved(&self, id: NodeId, address: &str) {
        let mut news = self.news.subscribe();
        while self.directory.addresses(id).iter().any(|known| known == address) {
            // The sender lives in `self`.
            let _ = news.changed().await;
        }
    }
}

impl Peer {
    fn new(id: NodeId, meters: Arc<PeerMeters>) -> Peer {
        Peer {
            id,
            outgoing: OutgoingQueue::default(),
            meters,
            newest: watch::Sender::default(),
            in_use: tokio::sync::Mutex::default(),
            complaint: Mutex::default(),
        }
    }

    /// Runs a connection that has been introduced, in place of the one in use, to its end.
    async fn run(self: &Arc<Peer>, network: &Arc<Network>, connection: Connection) {
        let mut newest = self.newest.subscribe();
        let own = self.end_connection();
        // The member may have left while it was introduced; if it leaves later, that ends `own`.
        if !network.peer(self.id).is_some_and(|wanted| Arc::ptr_eq(&wanted, self)) {
            return;
        }
        let superseded = async {
            // The sender lives in `self`.
            let _ = newest.wait_for(|number| *number != own).await;
        };
        tokio::pin!(superseded);
        let in_use = tokio::select! {
            in_use = self.in_use.lock() => in_use,
            () = &mut superseded => return,
        };
        self.complain("");
        self.meters.connections.increment();
        let announced = connection::Announced::new(self, &network.log);
        let end = tokio::select! {
            end = connection.run(self, network) => end,
            () = &mut superseded => "another took its place, or the member left".to_owned(),
        };
        drop(announced);
        drop(in_use);
        tracing::info!(peer = %self.id, "the connection ended: {end}");
    }

    /// Ends the connection in use, for one that comes or because it is wanted no more.
    fn end_connection(&self) -> u64 {
        let mut own = 0;
        self.newest.send_modify(|number| {
            *number += 1;
            own = *number;
        });
        own
    }

    /// Logs a complaint that is not the last one again.
    fn complain(&self, complaint: &str) {
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == complaint {
            return;
        }
        complaint.clone_into(&mut last);
        if !complaint.is_empty() {
            tracing::warn!(peer = %self.id, "{complaint}");
        }
    }
}

/// Keeps calling one member for as long as it is wanted, at its addresses in turn.
async fn dial(network: Arc<Network>, id: NodeId) {
    let mut backoff = Backoff::new(id.0 ^ network.local.id.0);
    let mut attempt = 0;
    while let Some(peer) = network.peer(id) {
        let address = network.address(id, attempt);
        match call(&network, id, address.as_deref()).await {
            Ok(connection) => {
                backoff.reset();
                let address = address.expect("it was called there");
                tokio::select! {
                    () = peer.run(&network, connection) => {}
                    () = network.moved(id, &address) => {
                        tracing::info!(peer = %id, "it is not to be reached at {address} any more");
                    }
                }
            }
            Err(error) => {
                attempt += 1;
                report(&network, &peer, &error);
            }
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// Members with smaller ids call this one. One that has not for a while may have a reason, which it
/// tells when it is called in spite of that: it may know that this member was removed.
async fn knock(network: Arc<Network>, id: NodeId) {
    let mut attempt = 0;
    loop {
        tokio::time::sleep(KNOCK_INTERVAL).await;
        let Some(peer) = network.peer(id) else { return };
        if peer.in_use.try_lock().is_err() {
            continue;
        }
        let address = network.address(id, attempt);
        attempt += 1;
        match call(&network, id, address.as_deref()).await {
            // The rule, kept: it is there and will call.
            Err(HandshakeError::Refused(Refusal {
                reason: RefusalReason::ImpossibleSender,
                ..
            })) => {}
            Err(error) => report(&network, &peer, &error),
            Ok(_) => report(&network, &peer, &handshake::failed("it answered out of turn")),
        }
    }
}

async fn call(
    network: &Arc<Network>,
    id: NodeId,
    address: Option<&str>,
) -> Result<Connection, HandshakeError> {
    let unknown = || HandshakeError::Failed("its address is not known".to_owned());
    let address = address.ok_or_else(unknown)?;
    let calling = |error: &dyn std::fmt::Display| {
        HandshakeError::Failed(format!("cannot connect to {address}: {error}"))
    };
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let stream =
        connecting.await.map_err(|error| calling(&error))?.map_err(|error| calling(&error))?;
    configure(&stream, network.local.user_timeout).map_err(|error| calling(&error))?;
    let stream = match &network.tls {
        None => SecureStream::Plain(stream),
        Some(tls) => secure_call::secure(tls, address, stream).await?,
    };
    handshake::introduce(network, id, stream).await
}

async fn accept(
    network: Arc<Network>,
    listener: TcpListener,
    doorstep: Doorstep,
    entrance: Entrance,
) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Of the connection, or out of files: neither ends the listener.
                tracing::warn!("cannot accept a peer's connection: {error}");
                tokio::time::sleep(BACKOFF_MIN).await;
                continue;
            }
        };
        let mut stranger = doorstep.enter();
        let (network, entrance) = (Arc::clone(&network), entrance.clone());
        tasks.spawn(async move {
            let introduced = tokio::select! {
                introduced = introduced(&network, &entrance, stream, from) => introduced,
                () = stranger.sent_off() => {
                    tracing::debug!(%from, "a silent caller on the peer port made room");
                    None
                }
            };
            drop(stranger);
            if let Some((peer, connection)) = introduced {
                peer.run(&network, connection).await;
            }
        });
    }
}

/// The member that a caller says and proves to be.
async fn introduced(
    network: &Arc<Network>,
    entrance: &Entrance,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(Arc<Peer>, Connection)> {
    if let Err(error) = configure(&stream, network.local.user_timeout) {
        tracing::debug!(%from, "{error}");
        return None;
    }
    let admitted = tokio::time::timeout(handshake::TIMEOUT, entrance.admit(stream)).await;
    let stream = match admitted.unwrap_or(Err(NotLetIn::Silent)) {
        Ok(stream) => stream,
        // Somebody looks whether the port is open.
        Err(NotLetIn::Silent) => return None,
        Err(NotLetIn::Because(reason)) => {
            tracing::info!(%from, "a caller on the peer port was sent off: {reason}");
            return None;
        }
    };
    match handshake::receive(network, stream).await {
        Ok(introduced) => Some(introduced),
        Err((peer, error)) => {
            match peer.and_then(|id| network.peer(id)) {
                Some(peer) => report(network, &peer, &error),
                None => tracing::info!(%from, "a caller on the peer port was sent off: {error}"),
            }
            None
        }
    }
}

fn report(network: &Network, peer: &Peer, error: &HandshakeError) {
    let by = peer.id;
    match error {
        HandshakeError::OwnDirectoryRefused => {
            (network.on_expelled)(Expelled::OtherDirectory { by })
        }
        HandshakeError::OwnRemoval => (network.on_expelled)(Expelled::Removed { by }),
        _ => {}
    }
    peer.complain(&error.to_string());
}

fn configure(stream: &TcpStream, user_timeout: Duration) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)
}

/// Pauses that double up to a bound; a random half keeps callers apart.
struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    fn new(seed: u64) -> Backoff {
        let random = seed ^ crate::monotonic_now().0;
        Backoff { next: BACKOFF_MIN, random: random.max(1) }
    }

    fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }

    fn next(&mut self) -> Duration {
        // Xorshift (Marsaglia 2003): only spreads callers.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let half = self.next / 2;
        let nanos = u64::try_from(half.as_nanos()).expect("bounded by a second").max(1);
        self.next = (self.next * 2).min(BACKOFF_MAX);
        half + Duration::from_nanos(self.random % nanos)
    }
}
