//! What a benchmark found, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{BenchPlan, Meter, ServerUsage};

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Latencies {
    /// Measured values.
    pub count: u64,
    /// Median.
    pub p50: u64,
    /// Of ten, nine are below.
    pub p90: u64,
    /// Of a hundred, ninety-nine are.
    pub p99: u64,
    /// Of a thousand.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Latencies {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Latencies {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Latencies {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |micros: u64| format!("{}.{:03}", micros / 1_000, micros % 1_000);
        write!(
            f,
            "p50 {} ms, p90 {}, p99 {}, p99.9 {}, longest {}",
            ms(self.p50),
            ms(self.p90),
            ms(self.p99),
            ms(self.p999),
            ms(self.max)
        )
    }
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// What clients asked for.
    pub workload: String,
    /// Requests under way at a time.
    pub clients: usize,
    /// Connections they shared.
    pub connections: usize,
    /// Seconds measured.
    pub seconds: f64,
    /// Requests answered a second.
    pub per_second: f64,
    /// Of requests, or of events for watches.
    pub latency: Latencies,
    /// Of writes in several phases, for workloads that have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<(String, Latencies)>,
    /// Requests that failed, by what was said.
    pub failures: BTreeMap<String, u64>,
    /// Of the processes named.
    pub servers: Option<ServerUsage>,
    /// Requests answered per processor second of the servers.
    pub per_cpu_second: Option<f64>,
}

impl BenchReport {
    pub(crate) fn new(
        plan: &BenchPlan,
        meter: &Meter,
        elapsed: Duration,
        usage: ServerUsage,
    ) -> BenchReport {
        let latency = Latencies::of(&meter.latencies.borrow());
        let seconds = elapsed.as_secs_f64();
        let servers = (!plan.pids.is_empty()).then_some(usage);
        let per_cpu = |usage: ServerUsage| latency.count as f64 / usage.cpu_seconds.max(0.01);
        BenchReport {
            workload: format!("{:?}", plan.workload),
            clients: plan.clients,
            connections: plan.connections,
            seconds,
            per_second: latency.count as f64 / seconds,
            latency,
            phases: Vec::new(),
            failures: meter.failures.borrow().clone(),
            servers,
            per_cpu_second: servers.map(per_cpu),
        }
    }
}

impl BenchReport {
    /// One object, with the same names.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings are always JSON")
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} clients over {} connections: {:.0} a second for {:.1} s",
            self.workload, self.clients, self.connections, self.per_second, self.seconds
        )?;
        write!(f, "{}", self.latency)?;
        for (phase, latency) in &self.phases {
            write!(f, "\n{phase}: {} writes, {latency}", latency.count)?;
        }
        if let (Some(servers), Some(rate)) = (&self.servers, self.per_cpu_second) {
            write!(
                f,
                "\nservers: {:.1} processor seconds ({rate:.0} requests each), {} MiB resident in \
                 the largest, {} at most",
                servers.cpu_seconds,
                servers.resident_bytes >> 20,
                servers.peak_bytes >> 20
            )?;
        }
        for (why, count) in &self.failures {
            write!(f, "\nfailed {count} times: {why}")?;
        }
        Ok(())
    }
}
