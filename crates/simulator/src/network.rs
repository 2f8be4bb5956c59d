//! The network between the machines: links with delay and loss, connections that break.
//!
//! One connection per pair of nodes, as in production (single-socket channel). A *stream* network
//! keeps order and loses nothing while a connection lives, as TCP does; a *datagram* network
//! loses, repeats and reorders messages too, which the protocol must withstand as well. A blocked
//! link holds (stream) or loses (datagram) what is sent over it, in one direction only.
//!
//! Invariant: a message is delivered on the connection that it was sent on, or never.

use crate::event_heap::Instant;
use crate::rng::{Chance, Rng};
use bytes::Bytes;

/// A machine, by its place in the cluster, from 0.
pub(crate) type Slot = usize;

/// How the links behave.
#[derive(Clone, Debug)]
pub(crate) struct NetworkProfile {
    /// Whether connections keep order and lose nothing.
    pub(crate) kind: NetworkKind,
    /// Shortest one-way delay in nanoseconds.
    pub(crate) min_delay: u64,
    /// Mean of what comes on top, exponentially distributed.
    pub(crate) mean_jitter: u64,
    /// Datagram: how often a message is lost.
    pub(crate) loss: Chance,
    /// Datagram: how often a message arrives twice.
    pub(crate) duplication: Chance,
    /// Messages under way per link at most; more are dropped, as by a full send queue.
    pub(crate) capacity: usize,
    /// Nanoseconds of silence after which a blocked connection is given up: at least, at most.
    pub(crate) keep_alive: (u64, u64),
    /// The region of each machine; empty: all are in one.
    pub(crate) regions: Vec<usize>,
    /// Nanoseconds from region to region, on top.
    pub(crate) distances: [[u64; 3]; 3],
}

impl NetworkProfile {
    fn distance(&self, from: Slot, to: Slot) -> u64 {
        let region = |slot: Slot| self.regions.get(slot).copied();
        match (region(from), region(to)) {
            (Some(from), Some(to)) => self.distances[from][to],
            _ => 0,
        }
    }
}

/// What a connection promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkKind {
    /// Order and no loss while it lives.
    Stream,
    /// Nothing.
    Datagram,
}

/// A message under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// The sender.
    pub(crate) from: Slot,
    /// The receiver.
    pub(crate) to: Slot,
    /// Tells messages apart; copies share it.
    pub(crate) number: u64,
    /// Number of the connection between the two.
    pub(crate) connection: u64,
    /// The encoded message.
    pub(crate) frame: Bytes,
}

#[derive(Clone, Default)]
struct Link {
    /// Number of partitions that block this direction now.
    blocks: u32,
    /// Delivery time of the last message on a stream.
    last_delivery: Instant,
    under_way: usize,
    /// Stream: what waits for the block to end, in order.
    held: Vec<Packet>,
    /// Nanoseconds on top of every delay, while it is clogged.
    clogged: u64,
}

#[derive(Clone, Default)]
struct Connection {
    number: u64,
    up: bool,
    /// Sides that believe in a connection: the lower slot's and the higher's.
    believed: [bool; 2],
}

/// Links and connections of a cluster.
pub(crate) struct Network {
    profile: NetworkProfile,
    rng: Rng,
    nodes: usize,
    links: Vec<Link>,
    connections: Vec<Connection>,
    messages: u64,
}

impl Network {
    /// A network without connections.
    #[must_use]
    pub(crate) fn new(nodes: usize, profile: NetworkProfile, rng: Rng) -> Network {
        let links = vec![Link::default(); nodes * nodes];
        let connections = vec![Connection::default(); nodes * nodes];
        Network { profile, rng, nodes, links, connections, messages: 0 }
    }

    /// Sends over the connection, if there is one. Returns when and what will arrive: nothing, one
    /// packet or two.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        from: Slot,
        to: Slot,
        frame: Bytes,
    ) -> Vec<(Instant, Packet)> {
        assert!(from != to, "a node sent to itself");
        self.messages += 1;
        let connection = self.connection(from, to).number;
        if !self.is_up(from, to) || self.link(from, to).under_way >= self.profile.capacity {
            return Vec::new();
        }
        let packet = Packet { from, to, number: self.messages, connection, frame };
        let copies = match self.profile.kind {
            NetworkKind::Stream => 1,
            NetworkKind::Datagram if self.rng.chance(self.profile.loss) => 0,
            NetworkKind::Datagram => 1 + usize::from(self.rng.chance(self.profile.duplication)),
        };
        (0..copies).map(|_| (self.delivery_time(now, from, to), packet.clone())).collect()
    }

    /// Number of the message that is sent next.
    pub(crate) fn next_message(&self) -> u64 {
        self.messages + 1
    }

    /// A packet reached its receiver: returns it unless its connection is gone or the link blocked.
    pub(crate) fn arrive(&mut self, packet: Packet) -> Option<Packet> {
        let current = self.is_current(&packet);
        let kind = self.profile.kind;
        let link = self.link(packet.from, packet.to);
        link.under_way = link.under_way.saturating_sub(1);
        if !current {
            return None;
        }
        match kind {
            NetworkKind::Datagram if link.blocks > 0 => None,
            NetworkKind::Stream if link.blocks > 0 => {
                link.held.push(packet);
                None
            }
            _ => Some(packet),
        }
    }

    /// From now on no message is lost but by a broken connection or a blocked link.
    pub(crate) fn heal_losses(&mut self) {
        self.profile.loss = Chance(0);
    }

    /// Whether a message sent now would have a connection to go over.
    #[must_use]
    pub(crate) fn is_up(&mut self, a: Slot, b: Slot) -> bool {
        self.connection(a, b).up
    }

    /// Whether nothing blocks the link.
    pub(crate) fn is_open(&mut self, from: Slot, to: Slot) -> bool {
        self.link(from, to).blocks == 0
    }

    /// Blocks one direction once more.
    pub(crate) fn block(&mut self, from: Slot, to: Slot) {
        self.link(from, to).blocks += 1;
    }

    /// Lets everything on the link take longer; 0 ends it.
    pub(crate) fn clog(&mut self, from: Slot, to: Slot, nanos: u64) {
        self.link(from, to).clogged = nanos;
    }

    /// Takes one block away; returns what was held up and arrives now, in order.
    pub(crate) fn unblock(&mut self, from: Slot, to: Slot) -> Vec<Packet> {
        let link = self.link(from, to);
        link.blocks = link.blocks.checked_sub(1).expect("unblocked a link that was open");
        if link.blocks > 0 {
            return Vec::new();
        }
        std::mem::take(&mut link.held)
    }

    /// Number of the connection between the two, and whether it is up.
    pub(crate) fn connection_number(&mut self, a: Slot, b: Slot) -> Option<u64> {
        let connection = self.connection(a, b);
        connection.up.then_some(connection.number)
    }

    /// Ends the connection; what was under way is lost.
    pub(crate) fn disconnect(&mut self, a: Slot, b: Slot) {
        self.connection(a, b).up = false;
        for (from, to) in [(a, b), (b, a)] {
            let link = self.link(from, to);
            link.held.clear();
            link.last_delivery = Instant::default();
        }
    }

    /// Makes a new connection.
    pub(crate) fn connect(&mut self, a: Slot, b: Slot) {
        let connection = self.connection(a, b);
        assert!(!connection.up, "connected twice");
        connection.up = true;
        connection.number += 1;
        connection.believed = [true; 2];
    }

    /// `side` learns that its connection is closed; false if it knew, or has a new one.
    pub(crate) fn learn_closed(&mut self, side: Slot, other: Slot) -> bool {
        let connection = self.connection(side, other);
        !connection.up && std::mem::take(&mut connection.believed[usize::from(side > other)])
    }

    fn is_current(&mut self, packet: &Packet) -> bool {
        // What was sent before the other side died may still come in, until its end is noticed.
        let side = usize::from(packet.to > packet.from);
        let connection = self.connection(packet.from, packet.to);
        let is_open = connection.up || connection.believed[side];
        is_open && connection.number == packet.connection
    }

    fn delivery_time(&mut self, now: Instant, from: Slot, to: Slot) -> Instant {
        let jitter = self.rng.exponential(self.profile.mean_jitter);
        let distance = self.profile.distance(from, to) + self.link(from, to).clogged;
        let at = now.after(self.profile.min_delay + distance + jitter);
        let kind = self.profile.kind;
        let link = self.link(from, to);
        link.under_way += 1;
        if kind == NetworkKind::Datagram {
            return at;
        }
        link.last_delivery = at.max(link.last_delivery);
        link.last_delivery
    }

    fn link(&mut self, from: Slot, to: Slot) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    fn connection(&mut self, a: Slot, b: Slot) -> &mut Connection {
        &mut self.connections[a.min(b) * self.nodes + a.max(b)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    fn network(kind: NetworkKind) -> Network {
        let profile = NetworkProfile {
            kind,
            min_delay: 100,
            mean_jitter: 1_000,
            loss: Chance::percent(30),
            duplication: Chance::percent(20),
            capacity: 100_000,
            keep_alive: (1, 2),
            regions: Vec::new(),
            distances: [[0; 3]; 3],
        };
        let mut network = Network::new(3, profile, Seed(5).stream("network", 0));
        network.connect(0, 1);
        network
    }

    fn frame(number: u64) -> Bytes {
        Bytes::copy_from_slice(&number.to_le_bytes())
    }

    #[test]
    fn a_stream_keeps_order_and_loses_nothing() {
        let mut network = network(NetworkKind::Stream);
        let mut arrivals = Vec::new();
        for number in 0..500 {
            arrivals.extend(network.send(Instant(number * 10), 0, 1, frame(number)));
        }
        assert_eq!(arrivals.len(), 500);
        assert!(arrivals.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn a_datagram_network_loses_repeats_and_reorders() {
        let mut network = network(NetworkKind::Datagram);
        let mut arrivals = Vec::new();
        for number in 0..1_000 {
            arrivals.extend(network.send(Instant(number * 10), 0, 1, frame(number)));
        }
        let distinct: std::collections::BTreeSet<&Bytes> =
            arrivals.iter().map(|(_, packet)| &packet.frame).collect();
        assert!((600..800).contains(&distinct.len()), "{}", distinct.len());
        assert!(arrivals.len() > distinct.len() + 50);
        assert!(!arrivals.is_sorted_by_key(|(at, _)| *at));
    }

    #[test]
    fn a_blocked_link_holds_a_stream_in_one_direction_only() {
        let mut network = network(NetworkKind::Stream);
        network.block(0, 1);
        let sent = network.send(Instant(0), 0, 1, frame(1)).remove(0).1;
        let back = network.send(Instant(0), 1, 0, frame(2)).remove(0).1;
        assert!(network.arrive(sent.clone()).is_none());
        assert!(network.arrive(back).is_some());
        assert_eq!(network.unblock(0, 1), [sent]);
    }

    #[test]
    fn what_was_sent_before_the_end_arrives_until_the_end_is_noticed() {
        let mut network = network(NetworkKind::Stream);
        let sent = network.send(Instant(0), 0, 1, frame(1)).remove(0).1;
        network.disconnect(0, 1);
        assert!(network.arrive(sent.clone()).is_some());
        assert!(network.learn_closed(1, 0));
        assert!(network.arrive(sent).is_none());
    }

    #[test]
    fn nothing_arrives_on_another_connection_than_it_was_sent_on() {
        let mut network = network(NetworkKind::Stream);
        let sent = network.send(Instant(0), 0, 1, frame(1)).remove(0).1;
        network.disconnect(0, 1);
        assert!(network.send(Instant(0), 0, 1, frame(2)).is_empty());
        network.connect(0, 1);
        assert!(network.arrive(sent).is_none());
    }

    #[test]
    fn distance_and_clogging_are_per_direction() {
        let mut network = network(NetworkKind::Datagram);
        network.profile.loss = Chance(0);
        network.profile.regions = vec![0, 1, 1];
        network.profile.distances[0][1] = 1_000_000;
        let delay = |network: &mut Network, from, to| {
            network.send(Instant(0), from, to, frame(1)).remove(0).0.0
        };
        assert!(delay(&mut network, 0, 1) > 1_000_000);
        assert!(delay(&mut network, 1, 0) < 1_000_000);
        network.clog(1, 0, 5_000_000);
        assert!(delay(&mut network, 1, 0) > 5_000_000);
        network.clog(1, 0, 0);
        assert!(delay(&mut network, 1, 0) < 1_000_000);
    }

    #[test]
    fn a_full_link_drops() {
        let mut network = network(NetworkKind::Stream);
        network.profile.capacity = 2;
        let sent: Vec<usize> =
            (0..4).map(|number| network.send(Instant(0), 0, 1, frame(number)).len()).collect();
        assert_eq!(sent, [1, 1, 0, 0]);
    }

    #[test]
    fn each_side_learns_once_that_its_connection_closed() {
        let mut network = network(NetworkKind::Stream);
        network.disconnect(0, 1);
        assert!(network.learn_closed(1, 0));
        assert!(!network.learn_closed(1, 0));
        assert!(network.learn_closed(0, 1));
    }
}
