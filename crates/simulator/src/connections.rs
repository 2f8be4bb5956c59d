//! Connections between processes: made, broken and noticed.
//!
//! Invariant: a process hears Connected and Disconnected of one peer in turns.

use crate::cluster::{Event, World};
use crate::coverage;
use crate::event_heap::MILLISECOND;
use crate::network::{Packet, Slot};
use crate::process::Machine;
use crate::trace_stream::{self, TraceEvent};
use bytes::BytesMut;
use replica::{LogEvent, PeerMessage};

impl World {
    /// Tries to connect the pair, again and again until it succeeds.
    pub(crate) fn on_connect(&mut self, a: Slot, b: Slot) {
        if self.network.is_up(a, b) {
            return;
        }
        let reachable =
            [(a, b), (b, a)].into_iter().all(|(from, to)| self.network.is_open(from, to));
        let running = [a, b].into_iter().all(|side| {
            let node = &self.nodes[side];
            node.is_up() && !node.paused
        });
        if !reachable || !running || !self.shake_hands(a, b) {
            let retry = self.rng.between(5, 100) * MILLISECOND;
            self.heap.after(retry, Event::Connect { a, b });
            return;
        }
        for (side, other) in [(a, b), (b, a)] {
            if self.network.learn_closed(side, other) {
                self.tell(side, LogEvent::Disconnected(self.nodes[other].id));
            }
        }
        self.network.connect(a, b);
        for (side, other) in [(a, b), (b, a)] {
            self.tell(side, LogEvent::Connected(self.nodes[other].id));
        }
    }

    /// Breaks the connection of the pair; each side notices when it can.
    pub(crate) fn break_connection(&mut self, a: Slot, b: Slot) {
        if !self.network.is_up(a, b) {
            return;
        }
        self.network.disconnect(a, b);
        for (side, other) in [(a, b), (b, a)] {
            let notice = if self.network.is_open(other, side) {
                self.rng.between(0, 2 * MILLISECOND)
            } else {
                // Nothing comes through: only the keep-alive tells.
                self.rng.between(500, 4_000) * MILLISECOND
            };
            self.heap.after(notice, Event::Closed { side, other });
        }
        let retry = self.rng.between(1, 50) * MILLISECOND;
        self.heap.after(retry, Event::Connect { a, b });
    }

    pub(crate) fn on_closed(&mut self, side: Slot, other: Slot) {
        if self.network.learn_closed(side, other) {
            self.tell(side, LogEvent::Disconnected(self.nodes[other].id));
        }
    }

    /// A blocked connection is given up after its keep-alive.
    pub(crate) fn on_keep_alive(&mut self, a: Slot, b: Slot, connection: u64) {
        let blocked = !self.network.is_open(a, b) || !self.network.is_open(b, a);
        if blocked && self.network.connection_number(a, b) == Some(connection) {
            self.break_connection(a, b);
        }
    }

    pub(crate) fn block_link(&mut self, from: Slot, to: Slot) {
        self.network.block(from, to);
        if let Some(connection) = self.network.connection_number(from, to) {
            let (shortest, longest) = self.swarm.network.keep_alive;
            let keep_alive = self.rng.between(shortest, longest);
            self.heap.after(keep_alive, Event::KeepAlive { a: from, b: to, connection });
        }
    }

    pub(crate) fn unblock_link(&mut self, from: Slot, to: Slot) {
        for packet in self.network.unblock(from, to) {
            self.deliver(packet);
        }
    }

    /// Encodes and sends, as the peers' thread does.
    pub(crate) fn send(&mut self, from: Slot, to: Slot, message: &PeerMessage) {
        let kind = coverage::of_message(message);
        if self.filters.contains(&((from, to), kind)) {
            return;
        }
        let mut frame = BytesMut::new();
        wire::peer::encode_message(&mut frame, message);
        let now = self.heap.now();
        let number = self.network.next_message();
        self.observe(|| {
            let (name, group, term) = trace_stream::describe(message);
            TraceEvent::Send { message: number, from, to, name, group, term }
        });
        for (at, packet) in self.network.send(now, from, to, frame.freeze()) {
            self.heap.at(at, Event::Arrive(packet));
        }
    }

    pub(crate) fn on_arrive(&mut self, packet: Packet) {
        if let Some(packet) = self.network.arrive(packet) {
            self.deliver(packet);
        }
    }

    fn deliver(&mut self, packet: Packet) {
        self.trace.bytes(&packet.frame);
        if !self.nodes[packet.to].is_up() {
            return;
        }
        self.observe(|| TraceEvent::Deliver { message: packet.number });
        let mut buffer = BytesMut::from(&packet.frame[..]);
        let message = match wire::peer::decode_frame(&mut buffer) {
            Ok(Some(frame)) if buffer.is_empty() => wire::peer::decode_message(frame),
            other => {
                let detail = format!("a frame came back as {other:?}");
                return self.violate("messages survive their encoding", detail);
            }
        };
        match message {
            Ok(message) => {
                let Packet { from, to, .. } = packet;
                self.detail(|| format!("{from} -> {to}: {message:?}"));
                self.marks.reach(coverage::of_message(&message));
                let from = self.nodes[packet.from].id;
                self.tell(packet.to, LogEvent::Peer { from, message });
            }
            Err(error) => {
                let detail = format!("a message did not decode: {error}");
                self.violate("messages survive their encoding", detail);
            }
        }
    }

    pub(crate) fn tell(&mut self, slot: Slot, event: LogEvent) {
        self.nodes[slot].push_log(event);
        self.wake(slot, Machine::Log);
    }
}
