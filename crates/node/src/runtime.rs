//! A running node: its threads, how they are joined, and how they end.
//!
//! ```text
//! front ends (N) ──▶ log ──▶ applier ──▶ watch hub ──▶ front ends
//!      peers (1) ◀─▶  │         └──▶ flusher
//!                  log-sync, log-background
//! ```
//! One machine of the core per thread; front ends and peers are single-threaded runtimes. Nothing
//! here decides anything: it moves events and effects. A node that must stop says why in one
//! sentence; whoever waits for it gets that sentence.

mod core_threads;
mod first_start;
mod member_directory;
mod round_trips;
#[cfg(test)]
mod tests;

use crate::admin::AdminEndpoint;
use crate::auto_compaction::compact_while_leading;
use crate::config::{ClusterState, Listen, NodeConfig, Transport};
use crate::correlation_identifier::PendingReplies;
use crate::data_directory::{DataDirectory, random_bytes};
use crate::directory_identity::DirectoryIdentity;
use crate::disaster_recovery::force_new_cluster;
use crate::etcd::{Authentication, BLOCKING_THREADS, EtcdFrontEnd};
use crate::free_space::{FreeSpace, StateSize};
use crate::handle::{Identity, NodeHandle, Progress, Shared, Timings};
use crate::log_disk::{LogDisk, OnCompletion};
use crate::log_structured_merge_tree::LsmEngine;
use crate::peers::{Expelled, LocalPeer, PeerNetwork};
use crate::readiness;
use crate::state_quota::StateQuota;
use crate::tls::{CertificateRotation, Entrance, TlsEntrance, TlsPort, make_self_signed};
use crate::update_queue::{QueueLimits, UpdateQueue};
use crate::watch_streams::WatchStreams;
use crate::{injected_faults, monotonic_now};
use clocks::{ClockBound, GroupId, NodeId};
use core_threads::{ApplierThread, Ending, LogThread, flush_engine};
use first_start::Standing;
use member_directory::ConsistentCoreDirectory;
use replica::{
    Applier, ApplierEvent, CoreConfig, LogEvent, LogMachine, ReplicaLimits, ReplicationWindow,
};
use round_trips::RoundTrips;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use store::command::Member;
use store::{Engine, MachineKind, StoreLimits, WatchLimits};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wal::{DiskError, WalConfig};

/// The groups of every node, and what each one's state machine is.
const GROUPS: [(GroupId, MachineKind); 2] = [
    (GroupId::CONSISTENT_CORE, MachineKind::ClusterMetadata),
    (GroupId::KEYSPACE, MachineKind::Keyspace),
];
/// How far apart the rates of two monotonic clocks may be; crystals show a tenth of it.
const CLOCK_BOUND: ClockBound = ClockBound { drift_ppm: 500 };
/// Requests of front ends that wait for the log machine, and their bytes.
const REQUESTS: QueueLimits = QueueLimits { items: 16 << 10, bytes: 64 << 20 };
/// The log machine bounds what it hands to the applier.
const APPLIER: QueueLimits = QueueLimits { items: 1, bytes: 1 };
/// A peer that acknowledges nothing for so many election timeouts is gone.
const USER_TIMEOUT_ELECTIONS: u32 = 2;

/// How long clients' connections may take to end when the node stops.
const GOODBYE: Duration = Duration::from_secs(2);
const GOODBYE_INTERVAL: Duration = Duration::from_millis(5);

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For etcd clients.
    pub etcd: SocketAddr,
    /// For other members.
    pub peer: SocketAddr,
    /// For status and metrics.
    pub admin: SocketAddr,
}

/// A node that runs until it is stopped, or must stop.
pub struct Node {
    handle: NodeHandle,
    addresses: Addresses,
    ending: Ending,
    applier: UpdateQueue<ApplierEvent>,
    /// Those that feed the core.
    outer: Vec<JoinHandle<()>>,
    log: Option<JoinHandle<()>>,
    /// Applier, watch hub, flusher.
    behind_log: Vec<JoinHandle<()>>,
    /// Released last.
    _directory: DataDirectory,
}

/// A node's place, taken but not used yet: its directory is locked and its ports are bound.
///
/// Whatever may refuse a first start comes before its identity is written, so that a start that
/// was refused can be tried again with other settings.
pub struct NodeSeat {
    directory: DataDirectory,
    listeners: Listeners,
    ports: TlsPorts,
    authentication: Authentication,
}

impl NodeSeat {
    /// Takes the place that `config` describes.
    ///
    /// # Errors
    /// One plain sentence: what is wrong and what to do.
    pub fn take(config: &NodeConfig) -> Result<NodeSeat, String> {
        config.validate()?;
        config.notes.iter().for_each(|note| tracing::info!("{note}"));
        let mut directory = DataDirectory::open(&config.data_dir)?;
        match NodeSeat::prepare(config, &mut directory) {
            Ok((listeners, ports, authentication)) => {
                Ok(NodeSeat { directory, listeners, ports, authentication })
            }
            Err(refusal) => {
                directory.give_back();
                Err(refusal)
            }
        }
    }

    fn prepare(
        config: &NodeConfig,
        directory: &mut DataDirectory,
    ) -> Result<(Listeners, TlsPorts, Authentication), String> {
        // Whatever may refuse the start comes before a new cluster is forced.
        let authentication = Authentication::new(&config.auth)?;
        let listeners = Listeners::bind(config)?;
        let ports = TlsPorts::load(config, &directory.fixtures())?;
        if config.force_new_cluster {
            force_new_cluster(directory, config.own_peer_address())?;
        } else {
            directory.force_is_not_wanted()?;
        }
        directory.check_finished()?;
        directory.check_log()?;
        Ok((listeners, ports, authentication))
    }

    /// Leaves the place unused; a new directory, as it was found.
    pub fn give_up(self) {
        self.directory.give_back();
    }

    /// Whether the directory is nobody's yet: the next start is the member's first.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.directory.identity().is_none()
    }

    /// Starts the node there; `config` may say more about the cluster than when it was taken.
    ///
    /// # Errors
    /// See [`Node::start`].
    pub fn start(mut self, config: &NodeConfig) -> Result<Node, String> {
        config.validate()?;
        let members = self.ports.members.as_deref();
        match first_start::identify(config, members, &mut self.directory) {
            Ok((identity, standing)) => Node::run(config, &identity, standing, self),
            Err(refusal) => {
                self.give_up();
                Err(refusal)
            }
        }
    }
}

/// Asks a node to stop, from any thread.
#[derive(Clone)]
pub struct Stopper {
    ending: Ending,
}

impl Stopper {
    /// The node hands over what it leads and stops in good order.
    pub fn stop(&self) {
        self.ending.hand_over();
        self.ending.stop();
    }
}

impl Node {
    /// Starts a node: returns once it listens and its state is recovered. Whether a leader is
    /// known shows in the handle.
    ///
    /// # Errors
    /// One plain sentence: what is wrong and what to do.
    pub fn start(config: &NodeConfig) -> Result<Node, String> {
        NodeSeat::take(config)?.start(config)
    }

    fn run(
        config: &NodeConfig,
        identity: &DirectoryIdentity,
        standing: Standing,
        NodeSeat { directory, listeners, ports, authentication }: NodeSeat,
    ) -> Result<Node, String> {
        let engine: Arc<dyn Engine> = Arc::new(
            LsmEngine::open(&directory.state(), config.engine).map_err(|e| e.to_string())?,
        );
        let shared = Arc::new(shared(config, identity, &listeners.addresses, Arc::clone(&engine)));
        shared.learner.store(standing == Standing::Learner, std::sync::atomic::Ordering::Release);
        shared.note_standing();
        let handle = NodeHandle { shared: Arc::clone(&shared) };
        let ending = Ending::new(handle.clone(), directory.path());
        let core = core_config(config, identity, &shared.identity);

        let applier = Applier::open(&core, Arc::clone(&engine))?;
        let applied = applier.applied()?;
        for (group, applied) in &applied.groups {
            let progress = shared.progress_of(*group);
            progress.applied.store(applied.position.index, std::sync::atomic::Ordering::Release);
        }
        shared.accounts_changed(applier.accounts(GroupId::KEYSPACE));
        let log = shared.log.clone();
        let on_completion: OnCompletion =
            Arc::new(move |completion| log.push(LogEvent::Disk(completion).into()));
        let mut disk =
            LogDisk::open(&directory.log(), config.sync_form, &shared.meters, &on_completion)
                .map_err(|error| disk_sentence(&error))?;
        let seed = random_bytes().map_err(|error| format!("cannot read /dev/urandom: {error}"))?;
        let seed = u64::from_be_bytes(seed);
        let machine = LogMachine::recover(&core, &mut disk, &applied, monotonic_now(), seed)?;
        if let Some(damage) = machine.damage() {
            tracing::error!(
                "log file {:016x}.log is corrupt at byte {}: this member lost what stood from \
                 there on, does not vote, and learns it anew from the others",
                damage.file.0,
                damage.offset
            );
        }
        directory.log_is_made()?;

        let network = network(config, identity, &shared, ports.members, &ending);
        let applier_queue = UpdateQueue::new(APPLIER);
        let log_thread = LogThread {
            machine,
            disk,
            applier: applier_queue.clone(),
            network: network.clone(),
            shared: Arc::clone(&shared),
            ending: ending.clone(),
            round_trips: RoundTrips::default(),
        };
        let mut node = Node {
            handle,
            addresses: listeners.addresses,
            ending,
            applier: applier_queue,
            outer: Vec::new(),
            log: None,
            behind_log: Vec::new(),
            _directory: directory,
        };
        node.start_core(applier, log_thread, &engine)?;
        let front_end = EtcdFrontEnd::new(node.handle.clone(), authentication);
        node.start_outer(config, listeners, (front_end, ports.clients), network)?;
        Ok(node)
    }

    fn start_core(
        &mut self,
        applier: Applier,
        log_thread: LogThread,
        engine: &Arc<dyn Engine>,
    ) -> Result<(), String> {
        let shared = &self.handle.shared;
        let (flushes, flush_requests) = mpsc::channel();
        let applier_thread = ApplierThread {
            applier,
            queue: self.applier.clone(),
            flushes,
            network: log_thread.network.clone(),
            shared: Arc::clone(shared),
            ending: self.ending.clone(),
        };
        let flusher = {
            let (engine, queue) = (Arc::clone(engine), self.applier.clone());
            let (shared, ending) = (Arc::clone(shared), self.ending.clone());
            move || flush_engine(&flush_requests, &*engine, &queue, &shared, &ending)
        };
        let watches = {
            let (engine, streams) = (Arc::clone(engine), shared.watches.clone());
            let ending = self.ending.clone();
            move || {
                let _guard = ending.guard("watch");
                let ended = streams.run(&engine, GroupId::KEYSPACE, WatchLimits::default());
                if let Err(failure) = ended {
                    ending.fail(failure.to_string());
                }
            }
        };
        self.behind_log.push(spawn("watch", watches)?);
        self.behind_log.push(spawn("flusher", flusher)?);
        self.behind_log.push(spawn("applier", move || applier_thread.run())?);
        self.log = Some(spawn("log", move || log_thread.run())?);
        Ok(())
    }

    fn start_outer(
        &mut self,
        config: &NodeConfig,
        listeners: Listeners,
        (front_end, entrance): (EtcdFrontEnd, Entrance),
        network: PeerNetwork,
    ) -> Result<(), String> {
        let stopping = || self.handle.shared.stopping.subscribe();
        let stopped = stopping();
        self.outer.push(self.runtime("peers", async move {
            let listeners = listeners.peer.into_iter().map(tokio::net::TcpListener::from_std);
            let listeners = listeners.collect::<Result<_, _>>();
            network.run(listeners.map_err(|error| error.to_string())?, stopped).await;
            Ok(())
        })?);
        let free_space = FreeSpace {
            directory: config.data_dir.clone(),
            reserve_bytes: config.reserve_bytes,
            pretended: config.free_space_file.clone(),
        };
        let (log, stopped) = (self.handle.shared.log.clone(), stopping());
        let state = StateSize {
            engine: Arc::clone(&self.handle.shared.engine),
            quota: Arc::clone(&self.handle.shared.quota),
        };
        let retention = config.retention;
        let faults = config.enable_faults.then(injected_faults::enable);
        let admin = AdminEndpoint::new(self.handle.clone(), faults);
        let handle = self.handle.clone();
        self.outer.push(self.runtime("admin", async move {
            tokio::spawn(free_space.watch(state, log, stopped));
            if let Some(retention) = retention {
                tokio::spawn(compact_while_leading(handle.clone(), retention));
            }
            tokio::spawn(readiness::tell(handle));
            all(listeners.admin.into_iter().map(|listener| admin.clone().serve(listener))).await
        })?);
        for _ in 0..config.front_ends {
            let doors = config.etcd.iter().zip(&listeners.etcd).map(|(listen, listener)| {
                let entrance = match listen.transport {
                    Transport::Plain => Entrance::Plain,
                    Transport::Tls => entrance.clone(),
                };
                Ok((listener.try_clone()?, entrance))
            });
            let doors = doors.collect::<std::io::Result<Vec<_>>>();
            let doors = doors.map_err(|error| format!("cannot share a socket: {error}"))?;
            let front_end = front_end.clone();
            self.outer.push(self.runtime("front-end", async move {
                let serve = |(listener, entrance)| {
                    let front_end = front_end.clone();
                    async move { front_end.serve_behind(listener, entrance).await }
                };
                let served = all(doors.into_iter().map(serve)).await;
                connections_end().await;
                served
            })?);
        }
        Ok(())
    }

    /// A thread with a runtime of its own; the node stops if its work fails.
    fn runtime(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> Result<JoinHandle<()>, String> {
        let ending = self.ending.clone();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(BLOCKING_THREADS).build();
        let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
        spawn(name, move || {
            let _guard = ending.guard(name);
            if let Err(error) = runtime.block_on(work) {
                ending.fail(format!("{name}: {error}"));
            }
        })
    }

    /// Access for front ends.
    #[must_use]
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Where the node listens.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// For signal handlers and other threads.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { ending: self.ending.clone() }
    }

    /// Blocks until somebody stops the node or it must stop, and ends it in good order.
    ///
    /// # Errors
    /// The sentence that says why it had to stop.
    pub fn wait(mut self) -> Result<(), String> {
        self.ending.wait();
        self.end();
        self.ending.failure().map_or(Ok(()), Err)
    }

    /// Stops the node in good order.
    ///
    /// # Errors
    /// See [`Node::wait`].
    pub fn stop(self) -> Result<(), String> {
        self.ending.hand_over();
        self.ending.stop();
        self.wait()
    }

    /// From the outside in: whoever feeds a thread ends before it.
    fn end(&mut self) {
        self.ending.stop();
        let shared = Arc::clone(&self.handle.shared);
        join(self.outer.drain(..));
        shared.log.close();
        join(self.log.take());
        self.applier.close();
        shared.watches.close();
        join(self.behind_log.drain(..));
        shared.replies.resolve_all_stopping();
        // So that the next start has nothing to apply again.
        if self.ending.failure().is_none()
            && let Err(error) = shared.engine.flush()
        {
            self.ending.fail(error.to_string());
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.log.is_some() {
            self.end();
        }
    }
}

/// Serves all listeners of one runtime, until each has ended or one failed.
async fn all(
    serving: impl Iterator<Item = impl Future<Output = std::io::Result<()>> + Send + 'static>,
) -> Result<(), String> {
    let mut serving: JoinSet<_> = serving.collect();
    while let Some(served) = serving.join_next().await {
        served.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Lets connections of this runtime say goodbye and requests under way end, for a while.
async fn connections_end() {
    let tasks = tokio::runtime::Handle::current().metrics();
    let ended = async {
        while tasks.num_alive_tasks() > 0 {
            tokio::time::sleep(GOODBYE_INTERVAL).await;
        }
    };
    // Whoever is not done then is cut off.
    let _ = tokio::time::timeout(GOODBYE, ended).await;
}

/// A thread that panicked has said so, and stopped the node, by itself.
fn join(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        let _ = thread.join();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| format!("cannot start the thread {name:?}: {error}"))
}

/// What TLS there is.
struct TlsPorts {
    clients: Entrance,
    members: Option<Arc<CertificateRotation>>,
}

impl TlsPorts {
    /// Self-signed certificates are kept in the data directory, where etcd keeps its own.
    fn load(config: &NodeConfig, fixtures: &Path) -> Result<TlsPorts, String> {
        let load = |port: &Option<TlsPort>, name: &str| {
            let Some(port) = port.clone() else { return Ok(None) };
            let port = make_self_signed(port, &fixtures.join(name))?;
            CertificateRotation::load(port).map(|rotation| Some(Arc::new(rotation)))
        };
        let clients = match load(&config.tls.clients, "client")? {
            None => Entrance::Plain,
            Some(rotation) => Entrance::Tls(Arc::new(TlsEntrance::new(rotation))),
        };
        Ok::<_, String>(TlsPorts { clients, members: load(&config.tls.members, "peer")? })
    }
}

struct Listeners {
    etcd: Vec<TcpListener>,
    peer: Vec<TcpListener>,
    admin: Vec<TcpListener>,
    addresses: Addresses,
}

impl Listeners {
    fn bind(config: &NodeConfig) -> Result<Listeners, String> {
        let (etcd, etcd_address) = bind_all("etcd", &config.etcd)?;
        let (peer, peer_address) = bind_all("peer", &config.peer)?;
        let (admin, admin_address) = bind_all("admin", &config.admin)?;
        let addresses = Addresses { etcd: etcd_address, peer: peer_address, admin: admin_address };
        Ok(Listeners { etcd, peer, admin, addresses })
    }
}

/// The listeners, and where the first of them listens.
fn bind_all(setting: &str, places: &[Listen]) -> Result<(Vec<TcpListener>, SocketAddr), String> {
    let bound = places.iter().map(|place| bind(setting, &place.address));
    let bound = bound.collect::<Result<Vec<_>, _>>()?;
    let first = bound.first().expect("validated: there is one").1;
    Ok((bound.into_iter().map(|(listener, _)| listener).collect(), first))
}

fn bind(setting: &str, address: &str) -> Result<(TcpListener, SocketAddr), String> {
    let bound = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound().map_err(|error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{setting} address {address} is in use by another process")
        }
        _ => format!("cannot listen on {setting} address {address}: {error}"),
    })
}

fn shared(
    config: &NodeConfig,
    identity: &DirectoryIdentity,
    addresses: &Addresses,
    engine: Arc<dyn Engine>,
) -> Shared {
    let peer_address = match (config.cluster_state, identity.own_address()) {
        (ClusterState::Unsaid, Some(recorded)) => recorded.to_owned(),
        _ => config.own_peer_address().to_owned(),
    };
    let client_urls = match &config.client_urls[..] {
        [] => vec![client_url(addresses.etcd, config.etcd[0].transport, &peer_address)],
        urls => urls.to_vec(),
    };
    Shared {
        identity: Identity {
            node: identity.node,
            cluster: identity.cluster,
            name: config.name.clone(),
            client_urls,
            peer_address,
            peer_scheme: if config.tls.members.is_some() { "https" } else { "http" },
            founders: identity.founders(),
        },
        timings: Timings {
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
        },
        log: UpdateQueue::new(REQUESTS),
        replies: PendingReplies::default(),
        engine,
        progress: GROUPS.iter().map(|(group, _)| (*group, Progress::default())).collect(),
        watches: WatchStreams::new(),
        meters: Arc::default(),
        log_bytes: std::sync::atomic::AtomicU64::new(0),
        quota: Arc::new(StateQuota::new(config.quota_bytes)),
        compacted: tokio::sync::watch::channel(0).0,
        accounts: watch::Sender::default(),
        stopping: watch::Sender::new(false),
        learner: std::sync::atomic::AtomicBool::new(false),
    }
}

/// Where clients are told to come: the address served, or the host that peers use if that is
/// every address.
fn client_url(served: SocketAddr, transport: Transport, peer_address: &str) -> String {
    let scheme = match transport {
        Transport::Plain => "http",
        Transport::Tls => "https",
    };
    match peer_address.rsplit_once(':') {
        Some((host, _)) if served.ip().is_unspecified() => {
            format!("{scheme}://{host}:{}", served.port())
        }
        _ => format!("{scheme}://{served}"),
    }
}

fn core_config(
    config: &NodeConfig,
    recorded: &DirectoryIdentity,
    identity: &Identity,
) -> CoreConfig {
    CoreConfig {
        node: identity.node,
        groups: GROUPS.to_vec(),
        initial_voters: identity.founders.iter().map(|(id, _)| *id).collect(),
        founders: identity.founders.iter().map(|(id, address)| founder(*id, address)).collect(),
        contacts: recorded.known.iter().map(|member| member.id).collect(),
        member: Member {
            id: identity.node,
            name: identity.name.clone(),
            peer_addresses: vec![identity.peer_address.clone()],
            client_urls: identity.client_urls.clone(),
            directory_id: recorded.directory,
            feature_level: config.feature_level,
        },
        heartbeat_interval: config.heartbeat_interval,
        election_timeout: config.election_timeout,
        lease: config.lease,
        longest_lease: config.longest_lease(),
        clock_bound: CLOCK_BOUND,
        window: ReplicationWindow::default(),
        wal: WalConfig::default(),
        store: StoreLimits::default(),
        limits: ReplicaLimits::default(),
        feature_level: config.feature_level,
    }
}

fn founder(id: clocks::NodeId, address: &str) -> Member {
    Member { id, peer_addresses: vec![address.to_owned()], ..Member::default() }
}

fn network(
    config: &NodeConfig,
    identity: &DirectoryIdentity,
    shared: &Arc<Shared>,
    tls: Option<Arc<CertificateRotation>>,
    ending: &Ending,
) -> PeerNetwork {
    let own = identity.node;
    let local = LocalPeer {
        cluster: identity.cluster,
        id: own,
        directory_id: identity.directory,
        feature_level: config.feature_level,
        user_timeout: config.election_timeout * USER_TIMEOUT_ELECTIONS,
    };
    let known = identity.known.clone();
    let contacts: Vec<_> = known.iter().map(|member| member.id).collect();
    let handle = NodeHandle { shared: Arc::clone(shared) };
    let members = ConsistentCoreDirectory { handle, known };
    let (ending, core) = (ending.clone(), shared.log.clone());
    let on_expelled = Box::new(move |why| match why {
        Expelled::OtherDirectory { .. } => ending.fail(expulsion(own, why)),
        // The core answers whoever asked for that here, and then stops.
        Expelled::Removed { .. } if core.offer(LogEvent::Removed.into(), 0).is_ok() => {}
        Expelled::Removed { .. } => ending.removed(expulsion(own, why)),
    });
    let (log, meters) = (shared.log.clone(), Arc::clone(&shared.meters));
    let network = PeerNetwork::new(local, Box::new(members), log, meters, tls, on_expelled);
    network.connect_to(contacts);
    network
}

fn expulsion(own: NodeId, why: Expelled) -> String {
    match why {
        Expelled::OtherDirectory { by } => format!(
            "member {by} knows this member, {own}, by another data directory: this one was emptied \
             or replaced, and what it had promised is lost; replace the member (quorate join \
             --replace {own})"
        ),
        Expelled::Removed { by } => format!(
            "this member, {own}, was removed from the cluster, says member {by}: it stops for \
             good; to join again, as a new member, start with an empty data directory"
        ),
    }
}

fn disk_sentence(error: &DiskError) -> String {
    match error {
        DiskError::Full => "the disk is full".to_owned(),
        DiskError::Failed(sentence) => sentence.clone(),
    }
}
