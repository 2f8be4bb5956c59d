//! Partitions and tangles of the world: which links are blocked, slow or lossy, and until when.
//!
//! Not here: which links a fault draws (`faults`), what a blocked link does (`network`).

use crate::cluster::{Event, World};
use crate::faults::{self, Tangle};
use crate::network::Slot;
use crate::trace_stream::TraceEvent;

impl World {
    pub(crate) fn begin_partition(&mut self, links: Vec<(Slot, Slot)>) -> u64 {
        for (from, to) in &links {
            self.block_link(*from, *to);
        }
        let number = self.next_partition;
        self.next_partition += 1;
        self.observe(|| TraceEvent::Partition { number, links: links.clone() });
        self.partitions.insert(number, links);
        number
    }

    pub(crate) fn end_partition(&mut self, number: u64) {
        if self.partitions.contains_key(&number) {
            self.observe(|| TraceEvent::PartitionEnd { number });
        }
        for (from, to) in self.partitions.remove(&number).unwrap_or_default() {
            self.unblock_link(from, to);
        }
    }

    pub(crate) fn tangle(&mut self) {
        let length = faults::partition_length(&mut self.fault_rng);
        match faults::tangle(&mut self.fault_rng, self.nodes.len()) {
            Tangle::Blocked(links) => {
                let number = self.begin_partition(links);
                self.heap.after(length, Event::EndPartition(number));
            }
            Tangle::Clogged(links, nanos) => {
                links.into_iter().for_each(|(from, to)| self.network.clog(from, to, nanos));
                self.heap.after(length, Event::Untangle);
            }
            Tangle::Filtered(links, kind) => {
                self.filters = links.into_iter().map(|link| (link, kind)).collect();
                self.heap.after(length, Event::Untangle);
            }
        }
    }

    pub(crate) fn untangle(&mut self) {
        self.filters.clear();
        for from in 0..self.nodes.len() {
            (0..self.nodes.len()).for_each(|to| self.network.clog(from, to, 0));
        }
    }

    pub(crate) fn end_partitions(&mut self) {
        self.untangle();
        let active: Vec<u64> = self.partitions.keys().copied().collect();
        active.into_iter().for_each(|number| self.end_partition(number));
    }
}
