//! What the node counts and times, and its rendering as Prometheus text.
//!
//! Plain atomics that any thread may move. Names are those that etcd's dashboards query; what
//! Quorate adds begins with `quorate_`. Not here: what the core knows about itself
//! (`replica::NodeStatus`), which the caller of [`Meters::render`] passes in as gauges.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds grow by two from 2^LOWEST nanoseconds (33 µs) …
const LOWEST: u32 = 15;
/// … over so many buckets (to 8.6 s); what is longer counts in a last one.
const BUCKETS: usize = 19;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Some more.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, by powers of two.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS + 1],
    total_nanos: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Smallest n with nanos <= 2^n.
        let power = u64::BITS - nanos.saturating_sub(1).leading_zeros();
        let bucket = (power.saturating_sub(LOWEST) as usize).min(BUCKETS);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.total_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// An upper bound of what `percent` of all took, within a factor of two; zero if none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Duration {
        assert!(percent <= 100, "a percentage");
        let wanted = (self.count() * percent).div_ceil(100);
        let mut counted = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            counted += count.load(Ordering::Relaxed);
            if counted >= wanted && counted > 0 {
                return upper_bound(bucket);
            }
        }
        Duration::ZERO
    }

    fn render(&self, name: &str, help: &str, text: &mut String) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        self.render_series(name, "", text);
    }

    /// One series of a family; `labels` end with a comma, or are empty.
    pub(crate) fn render_series(&self, name: &str, labels: &str, text: &mut String) {
        let mut counted = 0;
        for (bucket, count) in self.buckets[..BUCKETS].iter().enumerate() {
            counted += count.load(Ordering::Relaxed);
            let bound = upper_bound(bucket).as_secs_f64();
            let _ = writeln!(text, "{name}_bucket{{{labels}le=\"{bound}\"}} {counted}");
        }
        counted += self.buckets[BUCKETS].load(Ordering::Relaxed);
        let seconds = self.total_nanos.load(Ordering::Relaxed) as f64 / 1e9;
        let _ = writeln!(text, "{name}_bucket{{{labels}le=\"+Inf\"}} {counted}");
        let labels = labels.trim_end_matches(',');
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_sum{labels} {seconds}\n{name}_count{labels} {counted}");
    }
}

fn upper_bound(bucket: usize) -> Duration {
    Duration::from_nanos(1 << (LOWEST + bucket as u32))
}

/// Traffic with one peer.
#[derive(Debug, Default)]
pub struct PeerMeters {
    /// Bytes sent.
    pub sent_bytes: Counter,
    /// Bytes received.
    pub received_bytes: Counter,
    /// Messages dropped because the queue was full or there was no connection.
    pub dropped: Counter,
    /// Connections that came up.
    pub connections: Counter,
    /// From a heartbeat to its answer, while this member leads.
    pub round_trip: Histogram,
}

/// Everything counted.
#[derive(Debug, Default)]
pub struct Meters {
    /// Synced writes of the log: one group commit each.
    pub log_sync: Histogram,
    /// Flushes of the engine.
    pub engine_flush: Histogram,
    /// Requests that front ends handed in.
    pub requests: Counter,
    /// Requests that ended with an error.
    pub failed_requests: Counter,
    /// Requests refused because a queue was full.
    pub overloaded: Counter,
    /// Batches of entries that took long to apply.
    pub slow_applies: Counter,
    /// Changes of the keyspace's leader that this node saw.
    pub leader_changes: Counter,
    /// Bytes received from clients.
    pub client_received_bytes: Counter,
    /// Bytes sent to clients.
    pub client_sent_bytes: Counter,
    /// Times that a turn of the log machine took.
    pub log_turn: Histogram,
    peers: Mutex<BTreeMap<String, Arc<PeerMeters>>>,
}

/// A gauge to render besides the counters.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    /// Name in full.
    pub name: &'static str,
    /// One line.
    pub help: &'static str,
    /// Its value.
    pub value: f64,
}

impl Meters {
    /// The meters of the peer called `name` (its id in hexadecimal).
    #[must_use]
    pub fn peer(&self, name: &str) -> Arc<PeerMeters> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(peers.entry(name.to_owned()).or_default())
    }

    /// Prometheus text, version 0.0.4.
    #[must_use]
    pub fn render(&self, gauges: &[Gauge]) -> String {
        let mut text = String::with_capacity(16 << 10);
        for gauge in gauges {
            let Gauge { name, help, value } = gauge;
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
        }
        for (name, help, counter) in self.counters() {
            let value = counter.get();
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}");
        }
        self.render_peers(&mut text);
        for (name, help, histogram) in self.histograms() {
            histogram.render(name, help, &mut text);
        }
        text
    }

    fn counters(&self) -> [(&'static str, &'static str, &Counter); 7] {
        [
            ("etcd_server_leader_changes_seen_total", "Leader changes seen.", &self.leader_changes),
            ("etcd_server_slow_apply_total", "Applied slowly.", &self.slow_applies),
            (
                "etcd_server_proposals_failed_total",
                "Requests that ended with an error.",
                &self.failed_requests,
            ),
            (
                "etcd_network_client_grpc_received_bytes_total",
                "Bytes received from clients.",
                &self.client_received_bytes,
            ),
            (
                "etcd_network_client_grpc_sent_bytes_total",
                "Bytes sent to clients.",
                &self.client_sent_bytes,
            ),
            ("quorate_requests_total", "Requests handed to the core.", &self.requests),
            (
                "quorate_requests_overloaded_total",
                "Requests refused because a queue was full.",
                &self.overloaded,
            ),
        ]
    }

    fn histograms(&self) -> [(&'static str, &'static str, &Histogram); 3] {
        [
            (
                "etcd_disk_wal_fsync_duration_seconds",
                "Durations of the log's synced writes.",
                &self.log_sync,
            ),
            (
                "etcd_disk_backend_commit_duration_seconds",
                "Durations of the engine's flushes.",
                &self.engine_flush,
            ),
            (
                "quorate_log_turn_duration_seconds",
                "Durations of one turn of the log machine.",
                &self.log_turn,
            ),
        ]
    }

    fn render_peers(&self, text: &mut String) {
        type Pick = fn(&PeerMeters) -> &Counter;
        // The labels are etcd's.
        let rows: [(&str, &str, &str, Pick); 4] = [
            ("etcd_network_peer_sent_bytes_total", "Bytes sent to the peer.", "To", |peer| {
                &peer.sent_bytes
            }),
            (
                "etcd_network_peer_received_bytes_total",
                "Bytes received from the peer.",
                "From",
                |peer| &peer.received_bytes,
            ),
            (
                "etcd_network_peer_sent_failures_total",
                "Messages to the peer dropped.",
                "To",
                |peer| &peer.dropped,
            ),
            (
                "quorate_peer_connections_total",
                "Connections with the peer that came up.",
                "To",
                |peer| &peer.connections,
            ),
        ];
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, help, label, pick) in rows {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for (peer, meters) in &*peers {
                let _ = writeln!(text, "{name}{{{label}=\"{peer}\"}} {}", pick(meters).get());
            }
        }
        let name = "etcd_network_peer_round_trip_time_seconds";
        let help = "From a heartbeat to its answer, while this member leads.";
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (peer, meters) in &*peers {
            meters.round_trip.render_series(name, &format!("To=\"{peer}\","), text);
        }
    }
}

/// Resident memory of this process in bytes; zero where `/proc` does not say.
#[must_use]
pub(crate) fn resident_memory_bytes() -> u64 {
    let Ok(statm) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages: Option<u64> = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_bound_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.percentile(99), Duration::ZERO);
        for micros in 1..=100 {
            histogram.record(Duration::from_micros(micros * 10));
        }
        let median = histogram.percentile(50);
        assert!((500..1000).contains(&median.as_micros()), "{median:?}");
        assert!(histogram.percentile(100) >= Duration::from_millis(1));
        histogram.record(Duration::MAX);
        assert_eq!(histogram.count(), 101);
    }

    #[test]
    fn buckets_hold_their_upper_bound() {
        let histogram = Histogram::default();
        histogram.record(upper_bound(3));
        assert_eq!(histogram.percentile(100), upper_bound(3));
        histogram.record(upper_bound(3) + Duration::from_nanos(1));
        assert_eq!(histogram.percentile(100), upper_bound(4));
    }

    #[test]
    fn renders_cumulative_buckets_and_labels() {
        let meters = Meters::default();
        meters.log_sync.record(Duration::from_micros(40));
        meters.log_sync.record(Duration::from_secs(60));
        meters.peer("a1").sent_bytes.add(7);
        let gauge = Gauge { name: "etcd_server_has_leader", help: "Has it?", value: 1.0 };
        let text = meters.render(&[gauge]);
        assert!(text.contains("etcd_server_has_leader 1\n"));
        assert!(text.contains("etcd_network_peer_sent_bytes_total{To=\"a1\"} 7\n"));
        assert!(text.contains("etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 2\n"));
        assert!(text.contains("etcd_disk_wal_fsync_duration_seconds_count 2\n"));
        assert!(text.contains("_bucket{le=\"0.000065536\"} 1\n"), "{text}");
        assert!(resident_memory_bytes() > 1 << 20);
    }
}
